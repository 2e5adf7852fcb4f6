//! Takes over what earlier releases kept of a model under the lower-case form of its name. Extends
//! [`Store`]; called at start.

use std::{fs, io};

use onnxd_proto::{domain::model_name::ModelName, exit::Failure};

use crate::models::{
    registry::ModelSource,
    store::{
        Store,
        directories::{names, sync_directory},
    },
};

impl Store {
    /// Takes over the generations of each model whose lower-case name is its alias, so that numbers
    /// do not fall for clients that use that name. The old records stay, for a downgrade.
    ///
    /// # Errors
    /// A disk error; the message names the model.
    pub fn adopt_renamed(&self, models: &[ModelSource]) -> Result<(), Failure> {
        for model in models {
            let lower = model.name.as_str().to_ascii_lowercase();
            if lower == model.name.as_str() || !model.is_named(&lower) {
                continue;
            }
            let Ok(before) = lower.parse::<ModelName>() else { continue };
            self.adopt(&before, &model.name).map_err(|error| {
                let name = &model.name;
                let reason = format!("cannot take over the generations of {before} as {name}");
                Failure::configuration(format!("--state-dir: {reason}: {error}"))
            })?;
        }
        Ok(())
    }

    fn adopt(&self, before: &ModelName, now: &ModelName) -> io::Result<()> {
        let last = self.generations(now)?.last().copied().unwrap_or(0);
        let mut newer = self.generations(before)?;
        newer.retain(|generation| *generation > last);
        if newer.is_empty() {
            return Ok(());
        }
        let layout = self.layout();
        let (folder, quarantine) = (layout.generations(now), layout.quarantine(now));
        fs::create_dir_all(&folder)?;
        // In ascending order: after a crash, the next start takes over the rest.
        for &generation in &newer {
            let (from, to) =
                (layout.generation(before, generation), layout.generation(now, generation));
            // Some file systems have no hard links.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
        }
        sync_directory(&folder)?;
        sync_directory(&layout.generations_root())?;
        for version in names(&layout.quarantine(before))? {
            fs::create_dir_all(&quarantine)?;
            fs::write(quarantine.join(version), [])?;
        }
        // Without it, a source is read once more.
        let _ = fs::copy(layout.watched(before), layout.watched(now));
        let (from, to, generations) = (before.as_str(), now.as_str(), newer.len());
        tracing::info!(from, to, generations, "took over the generations of a renamed model");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::models::sources::fake::ByName;

    use super::*;

    fn model(name: &str, alias: &str) -> ModelSource {
        ModelSource {
            name: name.parse().unwrap(),
            aliases: vec![alias.to_owned()],
            uri: "/x".parse().unwrap(),
            preload: true,
            required: false,
            rules: Default::default(),
        }
    }

    #[test]
    fn generations_of_the_lower_case_name_are_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), 1, ByName::sources(), None).unwrap();
        let [before, now]: [ModelName; 2] =
            ["org/mini", "org/Mini"].map(|name| name.parse().unwrap());
        let add = |name: &ModelName, generation| {
            fs::create_dir_all(store.layout().generations(name)).unwrap();
            fs::write(store.layout().generation(name, generation), name.as_str()).unwrap();
        };
        add(&before, 3);
        add(&before, 4);
        store.quarantine(&before, "v1").unwrap();
        // Another model is named like this one.
        store.adopt_renamed(&[model("org/Mini", "other")]).unwrap();
        assert!(store.generations(&now).unwrap().is_empty());
        let models = [model("org/Mini", "org/mini")];
        store.adopt_renamed(&models).unwrap();
        assert_eq!(store.generations(&now).unwrap(), [3, 4]);
        assert!(store.is_quarantined(&now, "v1"));
        // Its own numbers win, and a downgrade may have issued higher ones.
        add(&now, 5);
        add(&before, 5);
        add(&before, 6);
        store.adopt_renamed(&models).unwrap();
        assert_eq!(store.generations(&now).unwrap(), [3, 4, 5, 6]);
        let own = fs::read_to_string(store.layout().generation(&now, 5)).unwrap();
        assert_eq!(own, "org/Mini");
    }
}
