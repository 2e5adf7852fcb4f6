//! All collections: a catalog of names, settings and aliases, and a file for each collection, which is
//! opened when it is first used. Called by [`crate::serving`].

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use onnxd_proto::search::{
    COLLECTIONS_MAX, CatalogEntry, CollectionInfo, IndexError, IndexErrorKind, PayloadChange,
    Selection, Settings,
};

use crate::{
    catalog::{Catalog, Entry, unknown_settings},
    collection::Collection,
};

/// Collections that are open at the same time, unless more are in use. An open one has up to seven
/// descriptors, and the process may have 1,024.
const OPEN_MAX: usize = 100;
/// Files that an error names.
const NAMED_FILES_MAX: usize = 12;

/// An alias, and the name of its collection.
type Alias = (String, String);

/// The collections in one directory.
#[derive(Debug)]
pub(crate) struct Collections {
    folder: PathBuf,
    catalog: Mutex<Catalog>,
    /// By number.
    open: Mutex<HashMap<i64, Arc<Slot>>>,
    /// Counts the uses of collections.
    uses: AtomicU64,
}

/// A collection that is open, or is being opened.
#[derive(Debug, Default)]
struct Slot {
    collection: Mutex<Option<Arc<Collection>>>,
    last_use: AtomicU64,
}

impl Collections {
    /// Opens the catalog, or creates it. Removes files of deleted collections.
    ///
    /// # Errors
    /// The catalog is damaged, lost or too old, or the directory cannot be written.
    pub(crate) fn open(folder: &Path) -> Result<Self, IndexError> {
        let path = folder.join("catalog.db");
        // An empty catalog beside collections would look like one that nothing is missing from.
        if !path.exists() {
            check_none_is_unknown(folder, 0)?;
        }
        let catalog = Catalog::open(&path)?;
        check_none_is_unknown(folder, catalog.last_number()?)?;
        let collections = Self {
            folder: folder.to_owned(),
            catalog: Mutex::new(catalog),
            open: Mutex::default(),
            uses: AtomicU64::new(0),
        };
        collections.remove_strays()?;
        Ok(collections)
    }

    /// Returns all collections, by name. One that is damaged does not hide the others.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<CollectionInfo>, IndexError> {
        let (entries, aliases) = self.entries()?;
        Ok(entries.into_iter().map(|entry| self.describe_entry(entry, &aliases)).collect())
    }

    /// Returns the names, aliases and settings of all collections, by name. Opens none.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<CatalogEntry>, IndexError> {
        let (entries, aliases) = self.entries()?;
        let names = |entry: Entry| CatalogEntry {
            aliases: own_aliases(&entry.name, &aliases),
            settings: entry.settings.unwrap_or_else(|_| unknown_settings()),
            name: entry.name,
        };
        Ok(entries.into_iter().map(names).collect())
    }

    /// Returns the collection with this name or alias.
    ///
    /// # Errors
    /// There is no such collection, or the catalog cannot be read.
    pub(crate) fn describe(&self, name: &str) -> Result<CollectionInfo, IndexError> {
        let (entry, aliases) = (self.entry(name)?, self.catalog().aliases()?);
        Ok(self.describe_entry(entry, &aliases))
    }

    fn entries(&self) -> Result<(Vec<Entry>, Vec<Alias>), IndexError> {
        let catalog = self.catalog();
        Ok((catalog.entries()?, catalog.aliases()?))
    }

    fn describe_entry(&self, entry: Entry, aliases: &[Alias]) -> CollectionInfo {
        let (counts, damaged) = match self.opened(&entry) {
            Ok(collection) => (collection.count_versions(), collection.damage()),
            Err(error) => (Default::default(), Some(error.message)),
        };
        let (documents, versions) = counts;
        let aliases = own_aliases(&entry.name, aliases);
        let settings = entry.settings.unwrap_or_else(|_| unknown_settings());
        CollectionInfo { name: entry.name, settings, aliases, documents, versions, damaged }
    }

    /// Changes the payloads of a collection's documents. Returns how many documents there are.
    ///
    /// # Errors
    /// There is no such collection, or see [`Collection::change_payload`].
    pub(crate) fn change_payload(
        &self,
        name: &str,
        which: &Selection,
        change: &PayloadChange,
    ) -> Result<u64, IndexError> {
        let entry = self.entry(name)?;
        let settings = entry.settings.as_ref().map_err(Clone::clone)?;
        self.opened(&entry)?.change_payload(which, change, settings.text_field.as_deref())
    }

    /// Creates a collection.
    ///
    /// # Errors
    /// The name is in use, or there are too many collections.
    pub(crate) fn create(&self, name: &str, settings: &Settings) -> Result<(), IndexError> {
        let catalog = self.catalog();
        if catalog.find(name)?.is_some() {
            return Err(IndexErrorKind::Exists.because(format!("collection {name} exists already")));
        }
        let count = catalog.entries()?.len();
        if count >= COLLECTIONS_MAX {
            let message = format!("there are {count} collections, which is the limit");
            return Err(IndexErrorKind::Full.because(message));
        }
        // Its file first, under another name until the catalog knows it: a file that is missing later is
        // lost, and one that is there is no stray.
        let number = catalog.last_number()? + 1;
        let new = self.folder.join(format!("{number}.new"));
        remove_unfinished(&new)?;
        Collection::create(&new, (number, name))?;
        catalog.add(number, name, settings)?;
        self.take_over_new(number)
    }

    /// Gives the file of a created collection its name, if it does not have it yet.
    fn take_over_new(&self, number: i64) -> Result<(), IndexError> {
        let failed = |error: io::Error| {
            let message = format!("the file of a new collection cannot be renamed: {error}");
            IndexErrorKind::Storage.because(message)
        };
        let [new, path] = ["new", "db"].map(|end| self.folder.join(format!("{number}.{end}")));
        if path.exists() || !new.exists() {
            return Ok(());
        }
        fs::rename(new, path).map_err(failed)?;
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Replaces the settings of a collection.
    ///
    /// # Errors
    /// There is no such collection, the distance differs, or vectors of its documents would become
    /// others.
    pub(crate) fn configure(&self, name: &str, settings: &Settings) -> Result<(), IndexError> {
        let entry = self.entry(name)?;
        let known = entry.settings.as_ref().map_err(Clone::clone)?;
        // Vectors are stored for one distance.
        if known.distance != settings.distance {
            let message = format!(
                "the distance of collection {name} cannot change; create another collection"
            );
            return Err(IndexErrorKind::Invalid.because(message));
        }
        match known.embedded_as() == settings.embedded_as() {
            true => self.replace(&entry, settings),
            false => self.opened(&entry)?.rebind(settings, || self.replace(&entry, settings)),
        }
    }

    /// Replaces the settings of an entry that has not been changed meanwhile.
    fn replace(&self, entry: &Entry, settings: &Settings) -> Result<(), IndexError> {
        let catalog = self.catalog();
        let now = catalog.find(&entry.name)?.ok_or_else(|| not_found(&entry.name))?;
        if now.number != entry.number || now.settings != entry.settings {
            let message = format!(
                "the settings of collection {} were changed at the same time; repeat the request",
                entry.name
            );
            return Err(IndexErrorKind::Unavailable.because(message));
        }
        catalog.configure(entry, settings)
    }

    /// Removes a collection with its aliases.
    ///
    /// # Errors
    /// There is no such collection.
    pub(crate) fn remove(&self, name: &str) -> Result<(), IndexError> {
        let entry = self.entry(name)?;
        self.catalog().remove(&entry)?;
        // Requests that run still read the removed files.
        lock(&self.open).remove(&entry.number);
        self.remove_strays()
    }

    /// Removes aliases, then adds others; all or none.
    ///
    /// # Errors
    /// An alias is a collection's name, or its collection does not exist.
    pub(crate) fn set_aliases(
        &self,
        removed: &[String],
        added: &[(String, String)],
    ) -> Result<(), IndexError> {
        let catalog = self.catalog();
        let names: Vec<String> = catalog.entries()?.into_iter().map(|entry| entry.name).collect();
        for (alias, name) in added {
            if !names.contains(name) {
                return Err(not_found(name));
            }
            if names.contains(alias) {
                let message = format!("alias {alias} is the name of a collection");
                return Err(IndexErrorKind::Exists.because(message));
            }
        }
        let known = catalog.aliases()?;
        if known.len() + added.len() > COLLECTIONS_MAX {
            let message = format!("at most {COLLECTIONS_MAX} aliases can exist");
            return Err(IndexErrorKind::Full.because(message));
        }
        let is_known = |alias: &String| known.iter().any(|(known, _)| known == alias);
        if let Some(alias) = removed.iter().find(|alias| !is_known(alias)) {
            return Err(IndexErrorKind::NotFound.because(format!("there is no alias {alias}")));
        }
        catalog.set_aliases(removed, added)
    }

    /// Returns the collection with this name, which is no alias.
    ///
    /// # Errors
    /// There is no such collection, or it cannot be opened.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<Collection>, IndexError> {
        let entry = self.entry(name)?;
        match entry.name == name {
            true => self.opened(&entry),
            false => Err(not_found(name)),
        }
    }

    /// Returns the collection with this name or alias.
    ///
    /// # Errors
    /// There is no such collection, or it cannot be opened.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Collection>, IndexError> {
        self.opened(&self.entry(name)?)
    }

    fn opened(&self, entry: &Entry) -> Result<Arc<Collection>, IndexError> {
        let settings = entry.settings.as_ref().map_err(Clone::clone)?;
        let slot = {
            let mut open = lock(&self.open);
            if !open.contains_key(&entry.number) {
                make_room(&mut open);
            }
            Arc::clone(open.entry(entry.number).or_default())
        };
        slot.last_use.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        // Held while the file is read, so that it is read once. Other collections stay available.
        let mut collection = lock(&slot.collection);
        if let Some(collection) = &*collection {
            return Ok(Arc::clone(collection));
        }
        // It may have been deleted meanwhile, or bound to something else.
        let entry = &self.catalog().find(&entry.name)?.ok_or_else(|| not_found(&entry.name))?;
        // A crash may have come between its entry and its file.
        self.take_over_new(entry.number)?;
        let path = self.folder.join(format!("{}.db", entry.number));
        let opened = Arc::new(Collection::open(&path, (entry.number, &entry.name), settings)?);
        *collection = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn entry(&self, name: &str) -> Result<Entry, IndexError> {
        self.catalog().find(name)?.ok_or_else(|| not_found(name))
    }

    /// Removes the files of deleted collections.
    fn remove_strays(&self) -> Result<(), IndexError> {
        let (entries, last) = {
            let catalog = self.catalog();
            (catalog.entries()?, catalog.last_number()?)
        };
        // Numbers are never used again, so a higher one belongs to a collection that is being created.
        let is_deleted =
            |number: i64| number <= last && entries.iter().all(|entry| entry.number != number);
        for (number, name) in
            files(&self.folder).into_iter().filter(|(number, _)| is_deleted(*number))
        {
            if let Err(error) = fs::remove_file(self.folder.join(&name)) {
                tracing::warn!(number, name, %error, "failed to remove the file of a deleted collection");
            }
        }
        Ok(())
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        lock(&self.catalog)
    }
}

/// Returns the files of collections with their numbers, in order.
fn files(folder: &Path) -> Vec<(i64, String)> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let numbered = |file: fs::DirEntry| {
        let name = file.file_name().to_string_lossy().into_owned();
        let number = name.split_once(".db")?.0.parse().ok()?;
        Some((number, name))
    };
    let mut files: Vec<_> = files.flatten().filter_map(numbered).collect();
    files.sort();
    files
}

/// Checks that the catalog has given out the numbers of all files, of which `last` is the highest.
///
/// # Errors
/// There are files that it never knew: it was lost, or is older than they are. Their collections would
/// seem not to exist, and new ones would get their numbers.
fn check_none_is_unknown(folder: &Path, last: i64) -> Result<(), IndexError> {
    let files = files(folder).into_iter().filter(|(number, _)| *number > last);
    let names: Vec<String> = files.map(|(_, name)| name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let more = match names.len().saturating_sub(NAMED_FILES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = names[..names.len().min(NAMED_FILES_MAX)].join(", ");
    Err(IndexErrorKind::Storage.because(format!(
        "catalog.db, which has the names of the collections, is lost or older than their files in {}: {names}{more}; restore catalog.db from a backup; or stop onnxd, move these files away, and import the documents again",
        folder.display()
    )))
}

/// Returns the aliases of a collection, from all of them.
fn own_aliases(name: &str, aliases: &[Alias]) -> Vec<String> {
    let own = aliases.iter().filter(|(_, of)| of == name);
    own.map(|(alias, _)| alias.clone()).collect()
}

/// Closes the collection that was not used for the longest time, if there are many.
fn make_room(open: &mut HashMap<i64, Arc<Slot>>) {
    if open.len() < OPEN_MAX {
        return;
    }
    // With the map locked, a slot without another holder stays so. A collection must never be open
    // twice, so one that is in use stays.
    let is_idle = |slot: &Arc<Slot>| {
        Arc::strong_count(slot) == 1
            && lock(&slot.collection).as_ref().is_none_or(|held| Arc::strong_count(held) == 1)
    };
    let idle = open.iter().filter(|(_, slot)| is_idle(slot));
    let oldest = idle.min_by_key(|(_, slot)| slot.last_use.load(Ordering::Relaxed));
    if let Some(number) = oldest.map(|(number, _)| *number) {
        open.remove(&number);
    }
}

/// Removes what a creation that failed or was killed has left: the file `path` and SQLite's log beside it.
fn remove_unfinished(path: &Path) -> Result<(), IndexError> {
    for file in ["new", "new-wal", "new-shm"].map(|end| path.with_extension(end)) {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let message = format!("{} cannot be removed: {error}", file.display());
                return Err(IndexErrorKind::Storage.because(message));
            }
            _ => {}
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found(name: &str) -> IndexError {
    IndexErrorKind::NotFound.because(format!("there is no collection {name}"))
}
