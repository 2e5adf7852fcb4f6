//! One collection: its durable [`Store`], and in memory the vectors of each version and the columns
//! that filters used. Called by [`crate::collections`].
//!
//! A writer prepares its transaction without hindering readers. It then takes the lock on the memory,
//! commits, and applies the same change to the memory. A reader holds that lock for as long as it
//! reads. So what it finds in memory and on disk is the same, acknowledged state.

mod changes;
mod queries;
mod versions;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use onnxd_proto::search::{
    Distance, EmbeddedAs, IndexError, IndexErrorKind, Settings, VersionInfo, normalize,
};
use roaring::RoaringBitmap;

use crate::{
    payloads::Columns,
    store::{Store, StoredVersion},
    vector::Vector,
    vectors::Searchable,
};

/// Editions of a collection's texts begin at its number shifted by these bits: after 2^40 changes they
/// would reach those of the next one.
const NUMBER_SHIFT: u32 = 40;

/// A collection's documents and vectors.
#[derive(Debug)]
pub(crate) struct Collection {
    name: String,
    path: PathBuf,
    distance: Distance,
    writer: Mutex<Writer>,
    /// What was found damaged since the collection was opened.
    damage: OnceLock<String>,
    /// Idle connections for reading.
    readers: Mutex<Vec<Store>>,
    memory: RwLock<Memory>,
}

/// The only connection that writes.
#[derive(Debug)]
struct Writer {
    store: Store,
    /// How all vectors were embedded.
    embedded_as: EmbeddedAs,
    /// Also if its document is gone.
    last_edition: u64,
    /// All lower keys have a document.
    free_from: u32,
}

/// What searches need besides the store.
#[derive(Debug, Default)]
struct Memory {
    /// Keys of all documents.
    all: RoaringBitmap,
    versions: BTreeMap<String, Loaded>,
    columns: Columns,
}

/// A version and its vectors.
#[derive(Debug)]
struct Loaded {
    stored: StoredVersion,
    vectors: Searchable,
}

impl Loaded {
    fn new(stored: StoredVersion) -> Self {
        let vectors = Searchable::new(stored.dimension);
        Self { stored, vectors }
    }
}

impl Collection {
    /// Creates a collection's database. Editions of its texts are higher than those of collections with
    /// lower numbers: a vector for a text of one that was deleted must not be stored in one that has its
    /// name now.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(crate) fn create(path: &Path, (number, name): (i64, &str)) -> Result<(), IndexError> {
        Store::create(path, name, number.cast_unsigned() << NUMBER_SHIFT)
    }

    /// Opens a collection's database, and reads its vectors.
    ///
    /// # Errors
    /// The database is damaged, lost, of another collection, or cannot be written.
    pub(crate) fn open(
        path: &Path,
        (number, name): (i64, &str),
        settings: &Settings,
    ) -> Result<Self, IndexError> {
        let store = Store::open(path, name)?;
        let last_edition = store.last_edition()?;
        if last_edition >> NUMBER_SHIFT != number.cast_unsigned() {
            return Err(store.of_another_collection(last_edition >> NUMBER_SHIFT));
        }
        let mut memory = Memory { all: store.keys()?, ..Memory::default() };
        for stored in store.versions()? {
            let mut loaded = Loaded::new(stored);
            store.for_each_vector(&loaded.stored, |key, vector| {
                loaded.vectors.insert(key, vector);
            })?;
            memory.versions.insert(loaded.stored.version.clone(), loaded);
        }
        Ok(Self {
            name: name.to_owned(),
            path: path.to_owned(),
            distance: settings.distance,
            writer: Mutex::new(Writer {
                store,
                embedded_as: settings.embedded_as(),
                last_edition,
                free_from: 0,
            }),
            damage: OnceLock::new(),
            readers: Mutex::default(),
            memory: RwLock::new(memory),
        })
    }

    /// Returns what was found damaged since the collection was opened, if anything.
    pub(crate) fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }

    fn note_damage<T>(&self, result: &Result<T, IndexError>) {
        if let Err(error) = result
            && error.kind == IndexErrorKind::Damaged
        {
            // Only the first is told.
            let _ = self.damage.set(error.message.clone());
        }
    }

    /// Returns the number of documents, and of the vectors of each version.
    pub(crate) fn count_versions(&self) -> (u64, Vec<VersionInfo>) {
        let memory = self.memory();
        let version = |(version, loaded): (&String, &Loaded)| VersionInfo {
            version: version.clone(),
            dimension: u32::try_from(loaded.stored.dimension).unwrap_or(u32::MAX),
            documents: loaded.vectors.present().len(),
            reused_from: loaded.stored.reused_from.clone(),
        };
        (memory.all.len(), memory.versions.iter().map(version).collect())
    }

    /// Calls `change`, which binds the collection to other settings, while no document can be added.
    ///
    /// # Errors
    /// There are documents, or the disk is full.
    pub(crate) fn rebind(
        &self,
        settings: &Settings,
        change: impl FnOnce() -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        self.write(|writer| {
            if !self.memory().all.is_empty() {
                return Err(Settings::refuse_rebinding(&self.name));
            }
            // The next vectors may have another dimension.
            for version in writer.store.versions()? {
                writer.store.remove_version(version.number)?;
            }
            change()?;
            writer.embedded_as = settings.embedded_as();
            Ok(((), |memory: &mut Memory| memory.versions.clear()))
        })
    }

    /// Runs a reader, which sees the memory and the disk in the same state.
    fn read<T>(
        &self,
        run: impl FnOnce(&Memory, &Store) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let idle = self.idle_readers().pop();
        let store = match idle {
            Some(store) => store,
            None => Store::open_reader(&self.path, &self.name)?,
        };
        let memory = self.memory();
        store.begin(false)?;
        let result = run(&memory, &store);
        store.roll_back();
        self.note_damage(&result);
        drop(memory);
        self.idle_readers().push(store);
        result
    }

    /// Runs a writer, which returns its result and the change to the memory. A failed one changes
    /// nothing.
    fn write<T, C: FnOnce(&mut Memory)>(
        &self,
        run: impl FnOnce(&mut Writer) -> Result<(T, C), IndexError>,
    ) -> Result<T, IndexError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (last_edition, free_from) = (writer.last_edition, writer.free_from);
        let committed = writer.store.begin(true).and_then(|()| {
            let (result, change) = run(&mut writer)?;
            if writer.last_edition != last_edition {
                writer.store.put_last_edition(writer.last_edition)?;
            }
            let mut memory = self.memory_mut();
            writer.store.commit()?;
            change(&mut memory);
            Ok(result)
        });
        if committed.is_ok() {
            writer.store.check_point();
        } else {
            writer.store.roll_back();
            (writer.last_edition, writer.free_from) = (last_edition, free_from);
        }
        self.note_damage(&committed);
        committed
    }

    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_readers(&self) -> MutexGuard<'_, Vec<Store>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks vectors and makes them comparable: scaled to length 1 for the cosine.
    fn comparable(&self, mut vector: Vector) -> Result<Vector, IndexError> {
        if !vector.is_finite() {
            let message = "a vector has a component that is not a finite number";
            return Err(IndexErrorKind::Invalid.because(message));
        }
        if let (Distance::Cosine, Vector::Dense(vector)) = (self.distance, &mut vector) {
            normalize(vector);
        }
        Ok(vector)
    }
}

/// Returns the error for vectors of another dimension than the version's others.
fn wrong_dimension(expected: usize, found: usize) -> IndexError {
    let message = match (expected, found) {
        (0, _) => format!("a vector has {found} components, and the version's others are sparse"),
        (_, 0) => {
            format!("a vector is sparse, and the version's others have {expected} components")
        }
        _ => format!("a vector has {found} components, and the version's others have {expected}"),
    };
    IndexErrorKind::Invalid.because(message)
}

#[cfg(test)]
#[path = "collection_tests.rs"]
mod tests;
