//! Finds earlier versions for rollbacks, and removes versions and records that can no longer serve.
//! Extends [`Store`]; removal runs after each commit.

use std::{collections::HashSet, fs, io, path::Path, sync::PoisonError};

use onnxd_proto::{
    domain::{Facts, Record, Refusal, RefusalKind, model_name::ModelName},
    generation::Generation,
};

use crate::models::{
    disk::io_refusal,
    store::{
        Store, names, records,
        whole::{DISCARDED, remove_all, rename_aside},
    },
};

/// Records kept of each model. A rollback cannot name older generations.
const RECORDS_MAX: usize = 64;

impl Store {
    /// Returns a model's readable records, newest first.
    pub(super) fn records(
        &self,
        model: &ModelName,
    ) -> impl Iterator<Item = (Generation, Record)> + '_ {
        let model = model.clone();
        let numbers = self.generations(&model).unwrap_or_default();
        numbers.into_iter().rev().filter_map(move |number| {
            Some((number, self.layout().read_record(&model, number).ok()?))
        })
    }

    /// Returns the facts that an earlier check of this version found.
    pub fn known_facts(&self, model: &ModelName, version: &str) -> Option<Facts> {
        self.records(model).find(|(_, record)| record.version == version).map(|(_, r)| r.facts)
    }

    /// Returns the version of generation `to`, or the newest version that is not `serving`. Skips
    /// damaged versions. Blocking.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if no such version is kept.
    pub fn earlier(
        &self,
        model: &ModelName,
        to: Option<Generation>,
        serving: Option<&str>,
    ) -> Result<String, Refusal> {
        let matches = |(number, record): &(Generation, Record)| match to {
            Some(to) => *number == to,
            None => {
                Some(record.version.as_str()) != serving
                    && !self.is_quarantined(model, &record.version)
            }
        };
        let is_kept = |(_, record): &(Generation, Record)| self.is_whole(&record.version);
        let found = self.records(model).filter(matches).find(is_kept);
        found.map(|(_, record)| record.version).ok_or_else(|| {
            RefusalKind::NotFound.because(match to {
                Some(number) => format!("generation {number} of {model} is not kept"),
                None => format!("no earlier version of {model} is kept"),
            })
        })
    }

    /// Records that a version failed its probation.
    ///
    /// # Errors
    /// A disk error.
    pub fn quarantine(&self, model: &ModelName, version: &str) -> Result<(), Refusal> {
        let folder = self.layout().quarantine(model);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(version), []))
            .map_err(|error| io_refusal(&folder, &error))
    }

    /// Returns whether a version failed its probation.
    pub fn is_quarantined(&self, model: &ModelName, version: &str) -> bool {
        self.layout().quarantine(model).join(version).exists()
    }

    /// Returns the versions of a model that failed their probation.
    pub fn quarantined(&self, model: &ModelName) -> Vec<String> {
        names(&self.layout().quarantine(model)).unwrap_or_default()
    }

    /// Removes versions that are neither among the last ones of any model nor in `in_use`. Logs errors;
    /// a later call removes what is left.
    pub fn retire(&self, in_use: &HashSet<String>) {
        if let Err(error) = self.try_retire(in_use) {
            tracing::warn!(%error, "failed to remove old versions");
        }
    }

    /// Returns the digests of all versions that are kept: those in the state directory, the pinned ones
    /// and `in_use`. Blocking.
    ///
    /// # Errors
    /// A disk error.
    pub fn kept(&self, in_use: HashSet<String>) -> Result<Vec<String>, Refusal> {
        let folder = self.layout().versions();
        let found = names(&folder).map_err(|error| io_refusal(&folder, &error))?;
        let digest = |name: String| {
            // A damaged version may be repaired, and its vectors are the same then.
            name.strip_suffix(DISCARDED).map(str::to_owned).unwrap_or(name)
        };
        let mut kept = in_use;
        kept.extend(found.into_iter().map(digest));
        kept.extend(self.pinned());
        let mut kept: Vec<String> = kept.into_iter().collect();
        kept.sort_unstable();
        Ok(kept)
    }

    fn try_retire(&self, in_use: &HashSet<String>) -> io::Result<()> {
        let _one = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept: HashSet<String> = in_use.union(&self.pinned()).cloned().collect();
        // Versions that are kept only in case somebody can repair them.
        let mut damaged = HashSet::new();
        // A version that no record names may belong to a model whose records cannot be listed.
        let (mut unlisted, mut named) = (false, HashSet::new());
        // Models that are not configured now keep their versions as well.
        for model in records::models(self.layout())? {
            let numbers = match records::numbers(self.layout(), &model) {
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    let path = self.layout().generations(&model);
                    tracing::warn!(path = %path.display(), "not a directory of records, keeping versions that no record names");
                    unlisted = true;
                    continue;
                }
                numbers => numbers?,
            };
            let mut last = HashSet::new();
            for (index, number) in numbers.into_iter().rev().enumerate() {
                if index >= RECORDS_MAX {
                    remove_all(&self.layout().generation(&model, number))?;
                    self.removed_record(&model, number);
                    continue;
                }
                let record = self.layout().read_record(&model, number);
                named.extend(record.as_ref().ok().map(|record| record.version.clone()));
                if last.len() < self.retention() {
                    match record {
                        Ok(record) if self.has(&record.version) => {
                            last.insert(record.version);
                        }
                        // A damaged version was discarded. The ones before it stay.
                        Ok(record) => {
                            damaged.insert(record.version);
                        }
                        // It can never serve, so it keeps no version.
                        Err(error) if is_damage(&error) => {}
                        // It may be readable again later, so its version must stay.
                        Err(error) => return Err(error),
                    }
                }
            }
            kept.extend(last);
        }
        let is_only_copy = |name: &str| {
            let version = name.strip_suffix(DISCARDED);
            version.is_some_and(|version| damaged.contains(version) && !self.has(version))
        };
        for version in names(&self.layout().versions())? {
            if is_only_copy(&version) || unlisted && !named.contains(&version) {
                continue;
            }
            // Check the pins again: the version may have been pinned since.
            if !kept.contains(&version) && !self.pinned().contains(&version) {
                tracing::info!(version, "removing old version");
                remove(&self.layout().version(&version))?;
            }
        }
        for version in names(&self.layout().compiled_root())? {
            let may_be_used = kept.contains(&version) || self.has(&version);
            if !may_be_used && !self.pinned().contains(&version) {
                remove(&self.layout().compiled(&version))?;
            }
        }
        Ok(())
    }
}

/// Returns whether a record has the wrong content, rather than being unreadable for now.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | UnexpectedEof | IsADirectory | NotFound)
}

/// Removes a read-only directory, or a file in its place. Renames it first, so that a version either
/// exists as a whole or not at all.
fn remove(path: &Path) -> io::Result<()> {
    // The removal of another name has removed what an interrupted one left.
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let doomed = path.with_extension("removed");
    rename_aside(path, &doomed)?;
    remove_all(&doomed)
}

#[cfg(test)]
mod tests {
    use onnxd_proto::{domain::Task, layout::MANIFEST};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::models::{disk::hex, sources::fake::ByName};

    /// Opens a store of model `m` whose generation n has version `vn`, each with a compiled form.
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
            facts: Facts::new(Task::Embed),
            drift: None,
        };
        store.record(&"m".parse().unwrap(), number, &record).unwrap();
    }

    /// Serves a version that is whole, and returns its digest.
    fn serve_whole(store: &Store, number: Generation) -> String {
        let manifest = format!("onnxd manifest 1\n{number}\n");
        let version = hex(&Sha256::digest(&manifest));
        serve(store, number, &version);
        fs::write(store.layout().version(&version).join(MANIFEST), manifest).unwrap();
        version
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
    fn indexes_are_kept_of_versions_that_can_serve_or_be_repaired() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 5);
        store.retire(&HashSet::new());
        let discarded = format!("v4{DISCARDED}");
        fs::rename(store.layout().version("v4"), store.layout().version(&discarded)).unwrap();
        let pin = store.pin("pinned");
        let in_use = HashSet::from(["v1".to_owned()]);
        assert_eq!(store.kept(in_use).unwrap(), ["pinned", "v1", "v3", "v4", "v5"]);
        drop(pin);
        assert_eq!(store.kept(HashSet::new()).unwrap(), ["v3", "v4", "v5"]);
    }

    #[test]
    fn last_three_versions_are_kept_across_many_generations() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 5);
        for (number, version) in [(6, "v3"), (7, "v5"), (8, "v3"), (9, "v5")] {
            serve(&store, number, version);
        }
        store.retire(&HashSet::new());
        assert_eq!(versions(&store), ["v3", "v4", "v5"]);
    }

    #[test]
    fn a_damaged_record_does_not_serve_and_stops_no_retirement() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 4);
        let model = "m".parse().unwrap();
        let whole = serve_whole(&store, 5);
        serve(&store, 6, "v6");
        let newest = store.layout().generation(&model, 6);
        fs::remove_file(&newest).unwrap();
        fs::write(&newest, "").unwrap();
        let (generation, record) = store.newest(&model).unwrap().unwrap();
        assert_eq!((generation, &record.version), (5, &whole));
        assert_eq!(store.generations(&model).unwrap().last(), Some(&6), "its number stays used");
        store.retire(&HashSet::new());
        assert_eq!(versions(&store), [&whole, "v3", "v4"]);
    }

    #[test]
    fn a_discarded_version_takes_the_place_of_no_other() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 4);
        fs::write(store.layout().version("v4").join("other"), "").unwrap();
        store.discard("v4").unwrap();
        // Another one is a file, and an earlier removal was interrupted.
        fs::remove_dir(store.layout().version("v1")).unwrap();
        fs::write(store.layout().version("v1"), "").unwrap();
        fs::create_dir_all(store.layout().version("v1.removed").join("x")).unwrap();
        store.try_retire(&HashSet::new()).unwrap();
        let mut found = names(&store.layout().versions()).unwrap();
        found.sort();
        assert_eq!(found, ["v2", "v3", "v4.damaged"], "the only copy may be repaired");
        fs::create_dir(store.layout().version("v4")).unwrap();
        store.try_retire(&HashSet::new()).unwrap();
        assert!(!store.layout().version("v4.damaged").exists(), "it was staged again");
    }

    #[test]
    fn versions_of_records_that_cannot_be_listed_stay() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 5);
        for folder in [store.layout().version("unnamed"), store.layout().compiled("unnamed")] {
            fs::create_dir(folder).unwrap();
        }
        let other = store.layout().generations_root().join("other");
        fs::write(&other, "in place of a directory").unwrap();
        store.try_retire(&HashSet::new()).unwrap();
        assert_eq!(versions(&store), ["unnamed", "v3", "v4", "v5"]);
        fs::remove_file(&other).unwrap();
        std::os::unix::fs::symlink("/nowhere", &other).unwrap();
        assert!(store.try_retire(&HashSet::new()).is_err());
        fs::remove_file(&other).unwrap();
        store.try_retire(&HashSet::new()).unwrap();
        assert_eq!(versions(&store), ["v3", "v4", "v5"]);
    }

    #[test]
    fn versions_in_use_or_pinned_are_never_removed() {
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
    fn concurrent_retirements_do_not_interfere() {
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
    fn rollback_finds_the_requested_or_the_newest_other_version() {
        let root = tempfile::tempdir().unwrap();
        let store = store_of(root.path(), 0);
        let model: ModelName = "m".parse().unwrap();
        let [v1, v2, v3] = &[1, 2, 3].map(|number| serve_whole(&store, number));
        serve(&store, 4, v3);
        let earlier = |to, serving: &String| {
            store.earlier(&model, to, Some(serving)).map_err(|refusal| refusal.kind)
        };
        assert_eq!(earlier(None, v3), Ok(v2.clone()));
        assert_eq!(earlier(Some(1), v3), Ok(v1.clone()));
        assert_eq!(earlier(Some(9), v3), Err(RefusalKind::NotFound));
        store.quarantine(&model, v2).unwrap();
        assert_eq!(earlier(None, v3), Ok(v1.clone()), "quarantined versions are skipped");
        assert_eq!(store.quarantined(&model), [v2.as_str()]);
        fs::write(store.layout().version(v1).join("onnxd.toml"), "").unwrap();
        assert_eq!(earlier(Some(1), v3), Err(RefusalKind::NotFound), "it is damaged");
    }

    #[test]
    fn old_records_are_removed_and_the_newest_stays() {
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
