//! Plans the removal of what belongs to models that are not configured.

use std::{
    collections::{BTreeSet, HashSet},
    io,
};

use onnxd_proto::{
    domain::{SourceUri, model_name::ModelName},
    layout::Layout,
};

use super::Change;
use crate::models::{
    sources::download_folder,
    store::{
        names,
        records::{self, Found},
        staged_cache,
    },
};

/// What stays.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The models.
    pub models: BTreeSet<ModelName>,
    /// Their configured sources. Those that their records name stay as well.
    pub sources: Vec<SourceUri>,
}

impl Kept {
    /// Returns whether a model stays: it is configured, or the next start takes it over because its
    /// name has changed only in case.
    fn includes(&self, model: &ModelName) -> bool {
        let is_renamed = |kept: &ModelName| kept.as_str().eq_ignore_ascii_case(model.as_str());
        self.models.iter().any(is_renamed)
    }
}

/// Returns the models with records that do not stay.
///
/// # Errors
/// The state directory cannot be read.
pub fn unconfigured(layout: &Layout, kept: &Kept) -> io::Result<Vec<ModelName>> {
    let mut models = records::models(layout)?;
    models.retain(|model| !kept.includes(model));
    Ok(models)
}

/// Returns the changes, in the order to make them. Records come first: without them, the next start
/// removes the versions that an interrupted removal left.
///
/// # Errors
/// The state directory, or the records of a model that stays, cannot be read or are damaged.
pub fn plan(layout: &Layout, kept: &Kept) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    let is_kept = |name: &str| ModelName::from_folder(name).is_ok_and(|name| kept.includes(&name));
    let reason = "the model is not configured";
    for folder in [layout.generations_root(), layout.quarantine_root(), layout.watched_root()] {
        let others = names(&folder)?.into_iter().filter(|name| !is_kept(name));
        changes.extend(others.map(|name| Change::remove(folder.join(name), reason)));
    }
    let (mut versions, mut sources) = (HashSet::new(), kept.sources.clone());
    let models = records::models(layout)?;
    for model in models.into_iter().filter(|model| kept.includes(model)) {
        for generation in records::numbers(layout, &model)? {
            match records::find(layout, &model, generation) {
                Found::Whole(record) => {
                    versions.insert(record.version);
                    sources.push(record.configured_source);
                }
                Found::SetAside => {}
                // Its version may be the only one of a model that stays.
                Found::Damaged(error) => {
                    let path = layout.generation(&model, generation);
                    let message = format!(
                        "{} is damaged ({error}); run `onnxd state repair` first",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
            }
        }
    }
    for folder in [layout.versions(), layout.compiled_root()] {
        let others = names(&folder)?.into_iter().filter(|name| !versions.contains(name));
        changes.extend(
            others
                .map(|name| Change::remove(folder.join(name), "no generation that stays uses it")),
        );
    }
    let unused = "the source is not configured";
    let others = download_folder::others(layout, &sources);
    changes.extend(others.into_iter().map(|path| Change::remove(path, unused)));
    let others = staged_cache::others(layout, &sources)?;
    changes.extend(others.into_iter().map(|path| Change::remove(path, unused)));
    Ok(changes)
}
