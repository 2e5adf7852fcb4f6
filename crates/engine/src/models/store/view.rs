//! Shows a version to workers as a committed generation, before it is one. Extends [`Store`].

use std::{fs, io, os::unix::fs::symlink, path};

use onnxd_proto::{
    domain::{Record, Refusal, model_name::ModelName},
    generation::Generation,
    layout::Layout,
};
use tempfile::TempDir;

use crate::models::{disk::io_refusal, store::Store};

/// The only generation of a [`View`].
pub const VIEW_GENERATION: Generation = 1;

/// A state directory with one generation, whose versions are those of the store. Removed when dropped.
#[derive(Debug)]
pub struct View(TempDir);

impl View {
    /// Returns its layout.
    pub fn layout(&self) -> Layout {
        Layout::new(self.0.path())
    }
}

impl Store {
    /// Shows a kept version as generation [`VIEW_GENERATION`] of a model. Blocking.
    ///
    /// # Errors
    /// A disk error.
    pub fn view(&self, model: &ModelName, record: &Record) -> Result<View, Refusal> {
        let staging = self.layout().staging();
        let created = || -> io::Result<View> {
            let folder = tempfile::tempdir_in(path::absolute(&staging)?)?;
            let layout = Layout::new(folder.path());
            let links = [
                (self.layout().versions(), layout.versions()),
                (self.layout().compiled_root(), layout.compiled_root()),
            ];
            for (target, link) in links {
                symlink(path::absolute(target)?, link)?;
            }
            fs::create_dir_all(layout.generations(model))?;
            fs::write(layout.generation(model, VIEW_GENERATION), serde_json::to_vec(record)?)?;
            Ok(View(folder))
        };
        created().map_err(|error| io_refusal(&staging, &error))
    }
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::{Facts, Task};

    use super::*;
    use crate::models::sources::fake::ByName;

    #[test]
    fn view_has_one_generation_and_the_versions_of_the_store() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
        fs::create_dir_all(store.layout().version("v")).unwrap();
        fs::write(store.layout().version("v").join("config.json"), "{}").unwrap();
        let model: ModelName = "org/m".parse().unwrap();
        let record = Record {
            version: "v".into(),
            configured_source: "/x".parse().unwrap(),
            facts: Facts::new(Task::Embed),
            drift: None,
        };
        let view = store.view(&model, &record).unwrap();
        let layout = view.layout();
        assert_eq!(layout.read_record(&model, VIEW_GENERATION).unwrap(), record);
        let shown = fs::read_to_string(layout.version("v").join("config.json")).unwrap();
        assert_eq!(shown, "{}");
        assert!(store.generations(&model).unwrap().is_empty(), "nothing is committed");
        drop(view);
        assert!(!layout.root().exists());
        assert!(store.layout().version("v").join("config.json").exists());
    }
}
