//! The vectors of each version, in a table of their own.

use onnxd_proto::search::IndexError;
use rusqlite::{OptionalExtension, params};

use super::{Store, rows::vector_checksum};
use crate::vector::Vector;

/// A version whose vectors are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredVersion {
    /// Names its table.
    pub(crate) number: i64,
    /// The version's digest.
    pub(crate) version: String,
    /// Components of a vector; 0 if the vectors are sparse.
    pub(crate) dimension: usize,
    /// The version whose vectors some of these are, if any.
    pub(crate) reused_from: Option<String>,
}

impl StoredVersion {
    /// Returns the name of its table.
    pub(super) fn table(&self) -> String {
        format!("vectors_{}", self.number)
    }

    /// Reads a vector; `None` if its bytes are damaged.
    fn read(&self, key: u32, bytes: &[u8], checksum: u32) -> Option<Vector> {
        let is_whole = vector_checksum(key, bytes) == checksum
            && (self.dimension == 0 || bytes.len() == self.dimension * size_of::<f32>());
        is_whole.then(|| Vector::from_bytes(bytes, self.dimension))
    }
}

impl Store {
    /// Returns the versions that have a table of vectors.
    pub(crate) fn versions(&self) -> Result<Vec<StoredVersion>, IndexError> {
        self.with(|connection| {
            let query = "SELECT number, version, dimension, reused_from FROM versions";
            let mut statement = connection.prepare_cached(query)?;
            let version = |row: &rusqlite::Row<'_>| {
                Ok(StoredVersion {
                    number: row.get(0)?,
                    version: row.get(1)?,
                    dimension: row.get::<_, u32>(2)? as usize,
                    reused_from: row.get(3)?,
                })
            };
            statement.query_map([], version)?.collect()
        })
    }

    /// Adds a version and its empty table of vectors.
    pub(crate) fn add_version(
        &self,
        version: &str,
        dimension: usize,
    ) -> Result<StoredVersion, IndexError> {
        self.with(|connection| {
            let components = i64::try_from(dimension).unwrap_or(i64::MAX);
            connection.execute(
                "INSERT INTO versions (version, dimension) VALUES (?, ?)",
                params![version, components],
            )?;
            let number = connection.last_insert_rowid();
            connection.execute_batch(&format!(
                "CREATE TABLE vectors_{number} (
                    key INTEGER PRIMARY KEY, vector BLOB NOT NULL, checksum INTEGER NOT NULL
                )"
            ))?;
            Ok(StoredVersion { number, version: version.to_owned(), dimension, reused_from: None })
        })
    }

    /// Notes whose vectors some of a version's are.
    pub(crate) fn set_reused_from(&self, number: i64, from: &str) -> Result<(), IndexError> {
        self.with(|connection| {
            let query = "UPDATE versions SET reused_from = ? WHERE number = ?";
            connection.execute(query, params![from, number]).map(drop)
        })
    }

    /// Removes a version with its vectors.
    pub(crate) fn remove_version(&self, number: i64) -> Result<(), IndexError> {
        self.with(|connection| {
            connection.execute("DELETE FROM versions WHERE number = ?", [number])?;
            connection.execute_batch(&format!("DROP TABLE vectors_{number}"))
        })
    }

    /// Calls `use_vector` with every vector of a version.
    pub(crate) fn for_each_vector(
        &self,
        version: &StoredVersion,
        mut use_vector: impl FnMut(u32, &Vector),
    ) -> Result<(), IndexError> {
        let mut damaged = None;
        self.with(|connection| {
            let query =
                format!("SELECT key, vector, checksum FROM {} ORDER BY key", version.table());
            let mut statement = connection.prepare(&query)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let key: u32 = row.get(0)?;
                match version.read(key, row.get_ref(1)?.as_blob()?, row.get(2)?) {
                    Some(vector) => use_vector(key, &vector),
                    None => {
                        damaged = Some(key);
                        return Ok(());
                    }
                }
            }
            Ok(())
        })?;
        match damaged {
            Some(key) => Err(self.damaged(&format!("the vector of document number {key}"))),
            None => Ok(()),
        }
    }

    /// Returns the vectors of these keys, in their order.
    pub(crate) fn vectors(
        &self,
        version: &StoredVersion,
        keys: &[u32],
    ) -> Result<Vec<Vector>, IndexError> {
        let query = format!("SELECT vector, checksum FROM {} WHERE key = ?", version.table());
        let read = |key: &u32| {
            let found = self.with(|connection| {
                let mut statement = connection.prepare_cached(&query)?;
                let row = statement.query_row([key], |row| {
                    Ok(version.read(*key, row.get_ref(0)?.as_blob()?, row.get(1)?))
                });
                row.optional()
            })?;
            let damaged = || self.damaged(&format!("the vector of document number {key}"));
            found.flatten().ok_or_else(damaged)
        };
        keys.iter().map(read).collect()
    }

    /// Sets the vector of a document.
    pub(crate) fn put_vector(
        &self,
        version: &StoredVersion,
        key: u32,
        vector: &Vector,
    ) -> Result<(), IndexError> {
        let bytes = vector.to_bytes();
        let checksum = vector_checksum(key, &bytes);
        let query = format!("INSERT OR REPLACE INTO {} VALUES (?, ?, ?)", version.table());
        self.with(|connection| {
            connection.prepare_cached(&query)?.execute(params![key, bytes, checksum]).map(drop)
        })
    }

    /// Removes the vector of a document, if it has one.
    pub(crate) fn remove_vector(
        &self,
        version: &StoredVersion,
        key: u32,
    ) -> Result<(), IndexError> {
        let query = format!("DELETE FROM {} WHERE key = ?", version.table());
        self.with(|connection| connection.prepare_cached(&query)?.execute([key]).map(drop))
    }
}
