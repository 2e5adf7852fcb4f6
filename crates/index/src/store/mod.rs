//! The durable part of a collection: one SQLite database with documents, their full-text index and
//! a table of vectors for each version. A transaction is synced before it counts as committed. Every
//! row has a checksum, because SQLite does not detect damaged content. Called by
//! [`crate::collection`].

mod database;
mod log;
mod rows;
mod vectors;

use std::path::Path;

use onnxd_proto::search::{DocumentId, IndexError, IndexErrorKind};
use roaring::RoaringBitmap;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use self::{
    database::open_file,
    rows::{document_checksum, edition_checksum},
};
pub(crate) use self::{
    database::{check_integrity, connect, storage_error},
    vectors::StoredVersion,
};

/// Pages of the log of transactions, from which on it is moved into the database.
const LOG_PAGES_MAX: i64 = 1000;
/// What to do about a damaged collection.
const REMEDY: &str = "delete the collection and import its documents again";
/// Raised with every change to the tables.
const FORMAT: i64 = 3;

const TABLES: &str = "
    CREATE TABLE documents (
        key INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        edition INTEGER NOT NULL,
        text TEXT NOT NULL,
        payload TEXT NOT NULL,
        checksum INTEGER NOT NULL
    );
    CREATE TABLE versions (
        number INTEGER PRIMARY KEY,
        version TEXT NOT NULL UNIQUE,
        dimension INTEGER NOT NULL,
        -- The version whose vectors some of these are, if any.
        reused_from TEXT
    );
    -- The last edition that was given to a text; at most one row.
    CREATE TABLE editions (last INTEGER NOT NULL, checksum INTEGER NOT NULL);
    CREATE VIRTUAL TABLE texts USING fts5(
        text, content='documents', content_rowid='key', tokenize='unicode61 remove_diacritics 2'
    );
";

/// A connection to a collection's database. One writes; others read, each from one thread.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    /// For errors.
    collection: String,
}

/// A document as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The document's number, which is also its place among the vectors.
    pub(crate) key: u32,
    pub(crate) id: DocumentId,
    /// Changes with the text.
    pub(crate) edition: u64,
    pub(crate) text: String,
    pub(crate) payload: String,
}

impl Store {
    /// Creates the database. `last_edition` is the edition before the first one that it gives to a text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn create(
        path: &Path,
        collection: &str,
        last_edition: u64,
    ) -> Result<(), IndexError> {
        let store = Self {
            connection: connect(path, &called(collection), REMEDY)?,
            collection: collection.to_owned(),
        };
        let create = format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT};");
        store.with(|connection| connection.execute_batch(&create))?;
        store.put_last_edition(last_edition)?;
        // Closing the only connection moves the log into the database.
        store.commit()
    }

    /// Opens the database for writing.
    ///
    /// # Errors
    /// The file is damaged or lost, is of a newer release, or cannot be written.
    pub(crate) fn open(path: &Path, collection: &str) -> Result<Self, IndexError> {
        // SQLite would create it, or take an empty one for new.
        if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
            let (name, what) = (called(collection), path.display());
            return Err(IndexErrorKind::Damaged
                .because(format!("{name}: its file {what} is lost or empty; {REMEDY}")));
        }
        let store = Self {
            connection: connect(path, &called(collection), REMEDY)?,
            collection: collection.to_owned(),
        };
        let format: i64 = store.with(|connection| {
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            connection.pragma_query_value(None, "user_version", |row| row.get(0))
        })?;
        if format != FORMAT {
            return Err(store.error(&format!(
                "its file has format {format}, and this release reads {FORMAT}; start the release that wrote it. If no release did, the file is damaged; {REMEDY}"
            )));
        }
        store.check("documents")?;
        store.check("versions")?;
        store.check("editions")?;
        for version in store.versions()? {
            store.check(&version.table())?;
        }
        Ok(store)
    }

    /// Finds lost rows of a table, which no checksum can.
    fn check(&self, table: &str) -> Result<(), IndexError> {
        match self.with(|connection| check_integrity(connection, Some(table)))? {
            Some(found) => Err(self.damaged(&format!("its table {table} ({found})"))),
            None => Ok(()),
        }
    }

    /// Opens the database for reading.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open_reader(path: &Path, collection: &str) -> Result<Self, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = open_file(path, flags)
            .map_err(|error| storage_error(&called(collection), REMEDY, &error))?;
        Ok(Self { connection, collection: collection.to_owned() })
    }

    /// Runs statements and explains their error.
    fn with<T>(
        &self,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        run(&self.connection)
            .map_err(|error| storage_error(&called(&self.collection), REMEDY, &error))
    }

    fn error(&self, message: &str) -> IndexError {
        IndexErrorKind::Storage.because(format!("{}: {message}", called(&self.collection)))
    }

    fn damaged(&self, what: &str) -> IndexError {
        let name = called(&self.collection);
        IndexErrorKind::Damaged.because(format!("{name}: {what} is damaged on disk; {REMEDY}"))
    }

    /// Returns the error for a file that has another collection's documents.
    pub(crate) fn of_another_collection(&self, number: u64) -> IndexError {
        let name = called(&self.collection);
        IndexErrorKind::Damaged
            .because(format!("{name}: its file is that of collection number {number}; {REMEDY}"))
    }

    /// Begins a transaction. Readers see everything as it is at their first read.
    pub(crate) fn begin(&self, writes: bool) -> Result<(), IndexError> {
        let kind = if writes { "BEGIN IMMEDIATE" } else { "BEGIN" };
        self.with(|connection| connection.execute_batch(kind))
    }

    /// Makes the transaction durable.
    pub(crate) fn commit(&self) -> Result<(), IndexError> {
        self.with(|connection| connection.execute_batch("COMMIT"))
    }

    /// Moves the log of transactions into the database once it is long. A commit would do so by itself,
    /// but while searches wait.
    pub(crate) fn check_point(&self) {
        let pages = self.with(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, i64>(1))
        });
        let result = pages.and_then(|pages| match pages >= LOG_PAGES_MAX {
            true => self.with(|connection| {
                connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            }),
            false => Ok(()),
        });
        // The transactions are durable in the log, too.
        if let Err(error) = result {
            tracing::warn!(%error, "failed to shorten the log of a collection");
        }
    }

    /// Rolls the transaction back. Does nothing outside a transaction.
    pub(crate) fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(collection = self.collection, %error, "failed to roll back");
        }
    }

    /// Returns the keys of all documents.
    pub(crate) fn keys(&self) -> Result<RoaringBitmap, IndexError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached("SELECT key FROM documents")?;
            statement.query_map([], |row| row.get::<_, u32>(0))?.collect()
        })
    }

    /// Returns the document with this id, if there is one.
    pub(crate) fn find(&self, id: &DocumentId) -> Result<Option<Row>, IndexError> {
        self.row("SELECT * FROM documents WHERE id = ?", params![id.to_bytes()])
    }

    /// Returns the document with this key, if there is one.
    pub(crate) fn get(&self, key: u32) -> Result<Option<Row>, IndexError> {
        self.row("SELECT * FROM documents WHERE key = ?", params![key])
    }

    fn row(&self, query: &str, values: impl rusqlite::Params) -> Result<Option<Row>, IndexError> {
        let found = self.with(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            statement.query_row(values, read_row).optional()
        })?;
        found
            .map(|row| row.map_err(|key| self.damaged(&format!("document number {key}"))))
            .transpose()
    }

    /// Calls `use_row` with every document from `from` on, in the order of their ids, until it
    /// returns false.
    pub(crate) fn for_each_document(
        &self,
        from: Option<&DocumentId>,
        mut use_row: impl FnMut(Row) -> bool,
    ) -> Result<(), IndexError> {
        let from = from.map(DocumentId::to_bytes).unwrap_or_default();
        let mut damaged = None;
        self.with(|connection| {
            let query = "SELECT * FROM documents WHERE id >= ? ORDER BY id";
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query([from])?;
            while let Some(row) = rows.next()? {
                match read_row(row)? {
                    Ok(row) => {
                        if !use_row(row) {
                            break;
                        }
                    }
                    Err(key) => {
                        damaged = Some(key);
                        break;
                    }
                }
            }
            Ok(())
        })?;
        match damaged {
            Some(key) => Err(self.damaged(&format!("document number {key}"))),
            None => Ok(()),
        }
    }

    /// Adds a document, or replaces the one with its key. `old` is what it replaces.
    pub(crate) fn put(&self, row: &Row, old: Option<&Row>) -> Result<(), IndexError> {
        let Row { key, id, edition, text, payload } = row;
        let (id, checksum) = (id.to_bytes(), document_checksum(row));
        self.with(|connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)")?
                .execute(params![key, id, edition.cast_signed(), text, payload, checksum])?;
            if old.is_some_and(|old| old.text == *text) {
                return Ok(());
            }
            if let Some(old) = old {
                remove_text(connection, old)?;
            }
            let query = "INSERT INTO texts (rowid, text) VALUES (?, ?)";
            connection.prepare_cached(query)?.execute(params![key, text]).map(drop)
        })
    }

    /// Removes a document. Its vectors stay; see [`Store::remove_vector`].
    pub(crate) fn remove(&self, row: &Row) -> Result<(), IndexError> {
        self.with(|connection| {
            remove_text(connection, row)?;
            let query = "DELETE FROM documents WHERE key = ?";
            connection.prepare_cached(query)?.execute([row.key]).map(drop)
        })
    }

    /// Returns the last edition given to a text, even if its document has been deleted.
    pub(crate) fn last_edition(&self) -> Result<u64, IndexError> {
        let found = self.with(|connection| {
            let query = "SELECT last, checksum FROM editions";
            let edition = |row: &rusqlite::Row<'_>| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, u32>(1)?))
            };
            connection.query_row(query, [], edition).optional()
        })?;
        match found {
            Some((last, checksum)) if edition_checksum(last) == checksum => Ok(last),
            _ => Err(self.damaged("the number of its last edition")),
        }
    }

    /// Notes the last edition that was given to a text. None is given twice: a vector for the text of
    /// a deleted document must not fit the document that has its key now.
    pub(crate) fn put_last_edition(&self, last: u64) -> Result<(), IndexError> {
        self.with(|connection| {
            let query = "INSERT OR REPLACE INTO editions (rowid, last, checksum) VALUES (1, ?, ?)";
            let values = params![last.cast_signed(), edition_checksum(last)];
            connection.prepare_cached(query)?.execute(values).map(drop)
        })
    }

    /// Calls `use_key` with the documents that contain any of the words, best first, until it
    /// returns false.
    pub(crate) fn match_text(
        &self,
        text: &str,
        mut use_key: impl FnMut(u32) -> bool,
    ) -> Result<(), IndexError> {
        let words = text.split(|character: char| !character.is_alphanumeric());
        let words: Vec<String> =
            words.filter(|word| !word.is_empty()).map(|word| format!("\"{word}\"")).collect();
        if words.is_empty() {
            return Ok(());
        }
        self.with(|connection| {
            let query = "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY rank, rowid";
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query([words.join(" OR ")])?;
            while let Some(row) = rows.next()? {
                if !use_key(row.get(0)?) {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// Removes a text from the full-text index, which needs to know it.
fn remove_text(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let query = "INSERT INTO texts (texts, rowid, text) VALUES ('delete', ?, ?)";
    connection.prepare_cached(query)?.execute(params![row.key, row.text]).map(drop)
}

/// Reads a document, or returns the key of a damaged one.
fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Row, u32>> {
    let key: u32 = row.get(0)?;
    let Some(id) = DocumentId::from_bytes(row.get_ref(1)?.as_blob()?) else { return Ok(Err(key)) };
    let edition = row.get::<_, i64>(2)?.cast_unsigned();
    let found = Row { key, id, edition, text: row.get(3)?, payload: row.get(4)? };
    let is_whole = document_checksum(&found) == row.get::<_, u32>(5)?;
    Ok(if is_whole { Ok(found) } else { Err(key) })
}

fn called(collection: &str) -> String {
    format!("collection {collection}")
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
