//! The catalog: a database of the names, settings and aliases of collections. Every row has a
//! checksum. Called by [`crate::collections`].

use std::path::Path;

use crc32fast::Hasher;
use onnxd_proto::search::{Distance, IndexError, IndexErrorKind, Settings};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::{check_integrity, connect, storage_error};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS collections (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        settings TEXT NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS aliases (
        alias TEXT PRIMARY KEY, name TEXT NOT NULL, checksum INTEGER NOT NULL
    );
";

/// For errors: the catalog instead of a collection.
const NAME: &str = "the catalog of collections";
/// What to do about a damaged catalog. Collections are kept beside it.
const REMEDY: &str = "restore catalog.db from a backup; or stop onnxd, move its folder away, and import the documents of all collections again";

/// The connection to the catalog.
#[derive(Debug)]
pub(crate) struct Catalog(Connection);

/// A collection in the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Names its file. Never used again.
    pub(crate) number: i64,
    pub(crate) name: String,
    /// An error if the entry is damaged.
    pub(crate) settings: Result<Settings, IndexError>,
}

impl Catalog {
    /// Opens the catalog, or creates it.
    ///
    /// # Errors
    /// It is damaged, or the directory cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, IndexError> {
        let catalog = Self(connect(path, NAME, REMEDY)?);
        let found = catalog.with(|connection| {
            connection.execute_batch(TABLES)?;
            check_integrity(connection, None)
        })?;
        match found {
            Some(found) => Err(damaged(&format!("its file ({found})"))),
            None => Ok(catalog),
        }
    }

    /// Returns all collections, by name.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, IndexError> {
        self.with(|connection| {
            let query = "SELECT number, name, settings, checksum FROM collections ORDER BY name";
            connection.prepare_cached(query)?.query_map([], read_entry)?.collect()
        })
    }

    /// Returns the collection with this name or alias.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Entry>, IndexError> {
        let query = "SELECT name, checksum FROM aliases WHERE alias = ?";
        let alias = self.with(|connection| {
            let read =
                |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?));
            connection.prepare_cached(query)?.query_row([name], read).optional()
        })?;
        let name = match &alias {
            Some((target, checksum)) if *checksum == alias_checksum(name, target) => target,
            Some(_) => return Err(damaged(&format!("alias {name}"))),
            None => name,
        };
        self.with(|connection| {
            let query = "SELECT number, name, settings, checksum FROM collections WHERE name = ?";
            connection.prepare_cached(query)?.query_row([name], read_entry).optional()
        })
    }

    /// Returns all aliases with the names of their collections.
    pub(crate) fn aliases(&self) -> Result<Vec<(String, String)>, IndexError> {
        let rows: Vec<(String, String, u32)> = self.with(|connection| {
            let query = "SELECT alias, name, checksum FROM aliases ORDER BY alias";
            let alias = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            connection.prepare_cached(query)?.query_map([], alias)?.collect()
        })?;
        let check =
            |(alias, name, checksum): (String, String, u32)| match alias_checksum(&alias, &name)
                == checksum
            {
                true => Ok((alias, name)),
                false => Err(damaged(&format!("alias {alias}"))),
            };
        rows.into_iter().map(check).collect()
    }

    /// Returns the highest number that a collection has or had.
    ///
    /// # Errors
    /// The catalog is damaged: the number has no checksum, but no collection can have a higher one.
    pub(crate) fn last_number(&self) -> Result<i64, IndexError> {
        let (last, highest): (i64, i64) = self.with(|connection| {
            let last = "SELECT seq FROM sqlite_sequence WHERE name = 'collections'";
            let last = connection.query_row(last, [], |row| row.get(0)).optional()?.unwrap_or(0);
            let highest = "SELECT ifnull(max(number), 0) FROM collections";
            Ok((last, connection.query_row(highest, [], |row| row.get(0))?))
        })?;
        match highest <= last {
            true => Ok(last),
            false => Err(damaged("the number of its last collection")),
        }
    }

    /// Adds a collection, whose name must be free, and whose number must be the next one.
    pub(crate) fn add(
        &self,
        number: i64,
        name: &str,
        settings: &Settings,
    ) -> Result<(), IndexError> {
        let settings = to_json(settings);
        let checksum = entry_checksum(number, name, &settings);
        self.with(|connection| {
            connection
                .execute(
                    "INSERT INTO collections VALUES (?, ?, ?, ?)",
                    params![number, name, settings, checksum],
                )
                .map(drop)
        })
    }

    /// Replaces the settings of a collection.
    pub(crate) fn configure(&self, entry: &Entry, settings: &Settings) -> Result<(), IndexError> {
        let settings = to_json(settings);
        let checksum = entry_checksum(entry.number, &entry.name, &settings);
        self.with(|connection| {
            let query = "UPDATE collections SET settings = ?, checksum = ? WHERE number = ?";
            connection.execute(query, params![settings, checksum, entry.number]).map(drop)
        })
    }

    /// Removes a collection and its aliases.
    pub(crate) fn remove(&self, entry: &Entry) -> Result<(), IndexError> {
        self.change(|connection| {
            connection.execute("DELETE FROM aliases WHERE name = ?", [&entry.name])?;
            connection.execute("DELETE FROM collections WHERE number = ?", [entry.number])?;
            Ok(())
        })
    }

    /// Removes aliases, then adds others.
    pub(crate) fn set_aliases(
        &self,
        removed: &[String],
        added: &[(String, String)],
    ) -> Result<(), IndexError> {
        self.change(|connection| {
            for alias in removed {
                connection.execute("DELETE FROM aliases WHERE alias = ?", [alias])?;
            }
            for (alias, name) in added {
                let query = "INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)";
                connection.execute(query, params![alias, name, alias_checksum(alias, name)])?;
            }
            Ok(())
        })
    }

    /// Runs statements in one transaction.
    fn change(
        &self,
        run: impl FnOnce(&Connection) -> rusqlite::Result<()>,
    ) -> Result<(), IndexError> {
        self.with(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let done = run(connection).and_then(|()| connection.execute_batch("COMMIT"));
            if done.is_err() && !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            done
        })
    }

    fn with<T>(
        &self,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        run(&self.0).map_err(|error| storage_error(NAME, REMEDY, &error))
    }
}

fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let (number, name): (i64, String) = (row.get(0)?, row.get(1)?);
    let settings: String = row.get(2)?;
    let is_whole = entry_checksum(number, &name, &settings) == row.get::<_, u32>(3)?;
    let settings = is_whole.then(|| serde_json::from_str(&settings).ok()).flatten();
    let settings = settings.ok_or_else(|| {
        IndexErrorKind::Damaged.because(format!(
            "the entry of collection {name} in the catalog is damaged; delete the collection and import its documents again"
        ))
    });
    Ok(Entry { number, name, settings })
}

fn entry_checksum(number: i64, name: &str, settings: &str) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&number.to_le_bytes());
    hash_texts(hasher, [name, settings])
}

fn alias_checksum(alias: &str, name: &str) -> u32 {
    hash_texts(Hasher::new(), [alias, name])
}

fn hash_texts(mut hasher: Hasher, texts: [&str; 2]) -> u32 {
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize()
}

fn to_json(settings: &Settings) -> String {
    serde_json::to_string(settings).unwrap_or_default()
}

fn damaged(what: &str) -> IndexError {
    IndexErrorKind::Storage.because(format!("{NAME}: {what} is damaged on disk; {REMEDY}"))
}

/// Returns what is shown of a collection whose settings are damaged.
pub(crate) fn unknown_settings() -> Settings {
    Settings {
        model: None,
        distance: Distance::Cosine,
        dimensions: None,
        declared_dimension: None,
        document_prompt: None,
        query_prompt: None,
        text_field: None,
        metadata: "{}".to_owned(),
    }
}
