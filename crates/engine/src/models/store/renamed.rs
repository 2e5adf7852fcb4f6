//! Takes over what was kept of a model under a name that differs only in case, as earlier releases or
//! another configuration wrote it. Extends [`Store`]; called at start.

use std::{fs, io, sync::PoisonError};

use onnxd_proto::{domain::model_name::ModelName, exit::Failure};

use crate::models::{
    registry::ModelSource,
    store::{
        Store,
        directories::{names, sync_directory},
        records,
        whole::remove_all,
    },
};

impl Store {
    /// Takes over the generations of each model that were recorded under another case of its name, so
    /// that numbers do not fall for clients that use it. Names of other models are left alone. A model
    /// for which this fails is not served.
    ///
    /// # Errors
    /// The directory of all records cannot be read.
    pub fn adopt_renamed(&self, models: &[ModelSource]) -> Result<(), Failure> {
        let root = self.layout().generations_root();
        let recorded = records::models(self.layout()).map_err(|error| {
            Failure::configuration(format!("--state-dir: {}: {error}", root.display()))
        })?;
        for model in models {
            let name = &model.name;
            let is_other = |before: &ModelName| {
                let mut others = models.iter().filter(|other| other.name != *name);
                before == name || others.any(|other| other.is_named(before.as_str()))
            };
            let is_renamed =
                |before: &&ModelName| before.as_str().eq_ignore_ascii_case(name.as_str());
            let renamed = recorded.iter().filter(is_renamed).filter(|before| !is_other(before));
            for before in renamed.filter(|before| self.had_source(before, model)) {
                let Err(error) = self.adopt(before, name) else { continue };
                let reason = format!(
                    "cannot take over the generations of {before} as {name}: {error}; repair that path or move it away, then restart onnxd"
                );
                tracing::error!(model = %name, reason, "model not served");
                let mut failed = self.not_adopted.lock().unwrap_or_else(PoisonError::into_inner);
                failed.insert(name.clone(), reason);
            }
        }
        Ok(())
    }

    /// Returns whether records are of this model and not of another whose name differs only in case: it
    /// has that name as an alias, or the newest of them has its source. Damaged ones may be.
    fn had_source(&self, before: &ModelName, model: &ModelSource) -> bool {
        let newest = self.records(before).next();
        model.is_named(before.as_str())
            || newest.is_none_or(|(_, record)| record.configured_source == model.uri)
    }

    /// # Errors
    /// The generations under the model's old name were not taken over. A new number could be one that
    /// they have.
    pub(super) fn require_adopted(&self, model: &ModelName) -> io::Result<()> {
        let failed = self.not_adopted.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(model).map_or(Ok(()), |reason| Err(io::Error::other(reason.clone())))
    }

    /// Moves each record whose number is free, and removes the others. After a crash, the next start
    /// takes over the rest.
    fn adopt(&self, before: &ModelName, now: &ModelName) -> io::Result<()> {
        let layout = self.layout();
        let (old, new) = (layout.generations(before), layout.generations(now));
        let numbers_of = |model, folder: &std::path::Path| {
            records::numbers(layout, model).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
            })
        };
        let (numbers, own) = (numbers_of(before, &old)?, numbers_of(now, &new)?);
        fs::create_dir_all(&new)?;
        let taken_over = numbers.iter().filter(|number| !own.contains(number));
        for number in taken_over {
            let (from, to) = (layout.generation(before, *number), layout.generation(now, *number));
            // The predecessor still needs its own; the next start removes them.
            if self.is_successor { fs::hard_link(from, to)? } else { fs::rename(from, to)? }
        }
        // The new names are durable before the old ones go.
        sync_directory(&new)?;
        if self.is_successor {
            return Ok(());
        }
        sync_directory(&old)?;
        for number in numbers.iter().filter(|number| own.contains(number)) {
            remove_all(&layout.generation(before, *number))?;
        }
        for version in names(&layout.quarantine(before))? {
            fs::create_dir_all(layout.quarantine(now))?;
            fs::write(layout.quarantine(now).join(version), [])?;
        }
        // Errors leave files that nothing reads. Without the last one, a source is read once more.
        let _ = fs::remove_dir_all(layout.quarantine(before));
        let _ = fs::rename(layout.watched(before), layout.watched(now));
        // A stray file keeps the directory.
        let _ = fs::remove_dir(&old);
        sync_directory(&layout.generations_root())?;
        let (from, to, generations) = (before.as_str(), now.as_str(), numbers.len());
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
        let add = |name: &ModelName, generation: u64| {
            fs::create_dir_all(store.layout().generations(name)).unwrap();
            fs::write(store.layout().generation(name, generation), name.as_str()).unwrap();
        };
        add(&before, 3);
        add(&before, 4);
        store.quarantine(&before, "v1").unwrap();
        // Another model is named like this one.
        store.adopt_renamed(&[model("org/Mini", "other"), model("x", "org/mini")]).unwrap();
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
        assert!(!store.layout().generations(&before).exists());
        assert!(!store.layout().quarantine(&before).exists());
        // The same in the other direction.
        store.adopt_renamed(&[model("org/mini", "x")]).unwrap();
        assert_eq!(store.generations(&before).unwrap(), [3, 4, 5, 6]);
        assert!(store.generations(&now).unwrap().is_empty() && store.is_quarantined(&before, "v1"));
    }

    #[test]
    fn a_failure_concerns_only_its_model_and_issues_no_number() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), 1, ByName::sources(), None).unwrap();
        let [before, now, other]: [ModelName; 3] =
            ["org/mini", "org/Mini", "n"].map(|name| name.parse().unwrap());
        fs::write(store.layout().generations(&before), "").unwrap();
        store.adopt_renamed(&[model("org/Mini", "org/mini"), model("n", "x")]).unwrap();
        let error = store.newest(&now).unwrap_err().to_string();
        let path = store.layout().generations(&before).display().to_string();
        assert!(error.contains(&path) && error.contains("move it away"), "{error}");
        assert!(store.generations(&now).is_err());
        let configured_source = "/x".parse().unwrap();
        let facts = onnxd_proto::domain::Facts::new(onnxd_proto::domain::Task::Embed);
        let record = onnxd_proto::domain::Record {
            version: "v".into(),
            configured_source,
            facts,
            drift: None,
        };
        assert!(store.record(&now, 1, &record).is_err());
        store.record(&other, 1, &record).unwrap();
    }
}
