//! What is kept of the past, and what is removed: versions and records that nobody can serve any
//! more. Extends [`Store`]; called after each commit.

use std::{
    collections::HashSet,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::PoisonError,
};

use onnxd_proto::{
    domain::{Facts, Record, Refusal, RefusalKind, model_name::ModelName},
    generation::Generation,
};

use crate::models::{
    disk::io_refusal,
    store::{Store, names},
};

/// Records of each model. Older generations cannot be named in a rollback any more.
const RECORDS_MAX: usize = 64;

impl Store {
    /// The records of a model, newest first, as far as they can be read.
    fn records(&self, model: &ModelName) -> impl Iterator<Item = (Generation, Record)> + '_ {
        let model = model.clone();
        let numbers = self.generations(&model).unwrap_or_default();
        numbers.into_iter().rev().filter_map(move |number| {
            Some((number, self.layout().read_record(&model, number).ok()?))
        })
    }

    /// What an earlier check of this version of the model found out.
    pub fn known_facts(&self, model: &ModelName, version: &str) -> Option<Facts> {
        self.records(model).find(|(_, record)| record.version == version).map(|(_, r)| r.facts)
    }

    /// The version of an earlier generation, or of the newest one that is not `serving`.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] where none is kept.
    pub fn earlier(
        &self,
        model: &ModelName,
        to: Option<Generation>,
        serving: Option<&str>,
    ) -> Result<String, Refusal> {
        let wanted = |(number, record): &(Generation, Record)| match to {
            Some(to) => *number == to,
            None => {
                Some(record.version.as_str()) != serving
                    && !self.is_quarantined(model, &record.version)
            }
        };
        let is_kept =
            |(_, record): &(Generation, Record)| self.layout().version(&record.version).exists();
        let found = self.records(model).filter(wanted).find(is_kept);
        found.map(|(_, record)| record.version).ok_or_else(|| {
            RefusalKind::NotFound.because(match to {
                Some(number) => format!("generation {number} of {model} is not kept"),
                None => format!("no earlier version of {model} is kept"),
            })
        })
    }

    /// Remembers that a version failed its probation.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn quarantine(&self, model: &ModelName, version: &str) -> Result<(), Refusal> {
        let folder = self.layout().quarantine(model);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(version), []))
            .map_err(|error| io_refusal(&folder, &error))
    }

    /// Whether a version failed its probation.
    pub fn is_quarantined(&self, model: &ModelName, version: &str) -> bool {
        self.layout().quarantine(model).join(version).exists()
    }

    /// The versions of a model that failed their probation.
    pub fn quarantined(&self, model: &ModelName) -> Vec<String> {
        names(&self.layout().quarantine(model)).unwrap_or_default()
    }

    /// Removes what is neither among the last versions of any model nor in `in_use`. Faults are
    /// logged: what stays is removed another time.
    pub fn retire(&self, in_use: &HashSet<String>) {
        if let Err(error) = self.try_retire(in_use) {
            tracing::warn!(%error, "old versions could not be removed");
        }
    }

    fn try_retire(&self, in_use: &HashSet<String>) -> io::Result<()> {
        let _one = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept: HashSet<String> = in_use.union(&self.pinned()).cloned().collect();
        // Also models that are not configured at present keep theirs.
        for model in names(&self.layout().root().join("generations"))? {
            let Ok(model) = model.parse::<ModelName>() else { continue };
            let mut last = HashSet::new();
            for (place, number) in self.generations(&model)?.into_iter().rev().enumerate() {
                if place >= RECORDS_MAX {
                    fs::remove_file(self.layout().generation(&model, number))?;
                } else if last.len() < self.retention() {
                    // What cannot be read may name a version that is needed: then nothing goes.
                    last.insert(self.layout().read_record(&model, number)?.version);
                }
            }
            kept.extend(last);
        }
        for version in names(&self.layout().versions())? {
            // Held meanwhile, perhaps.
            if !kept.contains(&version) && !self.pinned().contains(&version) {
                tracing::info!(version, "removing a version that nobody can serve any more");
                remove(&self.layout().version(&version))?;
            }
        }
        for version in names(&self.layout().root().join("compiled"))? {
            if !kept.contains(&version) && !self.pinned().contains(&version) {
                remove(&self.layout().compiled(&version))?;
            }
        }
        Ok(())
    }
}

/// Removes a directory whose own mode forbids it. The name goes first, so that a version is
/// there as a whole or not at all.
fn remove(path: &Path) -> io::Result<()> {
    let doomed = path.with_extension("removed");
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    fs::rename(path, &doomed)?;
    fs::remove_dir_all(doomed)
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::Task;

    use super::*;
    use crate::models::sources::fake::ByName;

    /// A store of model `m` whose generation n has version `vn`, each with a compiled form.
    fn store_of(root: &Path, generations: Generation) -> Store {
        let store = Store::open(root, 3, ByName::sources(), None).unwrap();
        for number in 1..=generations {
            serve(&store, number, &format!("v{number}"));
        }
        store
    }

    fn serve(store: &Store, number: Generation, version: &str) {
        fs::create_dir_all(store.layout().version(version)).unwrap();
        fs::create_dir_all(store.layout().compiled(version).join("key")).unwrap();
        let configured_source = "/x".parse().unwrap();
        let record = Record {
            version: version.into(),
            configured_source,
            facts: Facts::of(Task::Embed),
            drift: None,
        };
        store.record(&"m".parse().unwrap(), number, &record).unwrap();
    }

    fn versions(store: &Store) -> Vec<String> {
        let mut found = names(&store.layout().versions()).unwrap();
        let mut compiled = names(&store.layout().root().join("compiled")).unwrap();
        found.sort();
        compiled.sort();
        assert_eq!(found, compiled, "compiled forms go with their versions");
        found
    }

    #[test]
    fn the_last_three_versions_are_kept_however_many_generations_serve_them() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 5);
        for (number, version) in [(6, "v3"), (7, "v5"), (8, "v3"), (9, "v5")] {
            serve(&store, number, version);
        }
        store.retire(&HashSet::new());
        assert_eq!(versions(&store), ["v3", "v4", "v5"]);
    }

    #[test]
    fn what_is_in_use_or_held_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 6);
        let pin = store.pin("v1");
        store.retire(&HashSet::from(["v2".to_owned()]));
        assert_eq!(versions(&store), ["v1", "v2", "v4", "v5", "v6"]);
        drop(pin);
        drop(store);
        let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
        assert_eq!(versions(&store), ["v4", "v5", "v6"], "after a restart nothing is in use");
    }

    #[test]
    fn updates_that_end_at_once_do_not_remove_old_versions_from_under_each_other() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 60);
        let begin = std::sync::Barrier::new(4);
        let retire = || {
            begin.wait();
            store.try_retire(&HashSet::new())
        };
        std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(retire));
            threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
        });
        assert_eq!(versions(&store), ["v58", "v59", "v60"]);
    }

    #[test]
    fn a_rollback_finds_the_newest_other_version_and_what_it_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 3);
        let model: ModelName = "m".parse().unwrap();
        serve(&store, 4, "v3");
        let earlier = |to, serving| store.earlier(&model, to, serving).map_err(|r| r.kind);
        assert_eq!(earlier(None, Some("v3")), Ok("v2".to_owned()));
        assert_eq!(earlier(Some(1), Some("v3")), Ok("v1".to_owned()));
        assert_eq!(earlier(Some(9), Some("v3")), Err(RefusalKind::NotFound));
        store.quarantine(&model, "v2").unwrap();
        assert_eq!(earlier(None, Some("v3")), Ok("v1".to_owned()), "not to one that failed");
        assert_eq!(store.quarantined(&model), ["v2"]);
    }

    #[test]
    fn records_do_not_pile_up_and_the_newest_number_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 0);
        for number in 1..=200 {
            serve(&store, number, "v");
        }
        store.retire(&HashSet::new());
        let kept = store.generations(&"m".parse().unwrap()).unwrap();
        assert_eq!((kept.len(), kept.last()), (RECORDS_MAX, Some(&200)));
    }
}
