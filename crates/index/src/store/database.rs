//! Opens the databases of collections and of the catalog, and explains their errors.

use std::path::Path;

use onnxd_proto::search::{IndexError, IndexErrorKind};
use onnxd_telemetry::log_limit::LogLimit;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::log;

/// Opens a database for writing, whose transactions are synced one by one.
///
/// # Errors
/// It is damaged, or cannot be written.
pub(crate) fn connect(path: &Path, name: &str, remedy: &str) -> Result<Connection, IndexError> {
    let storage = |reason: String| IndexErrorKind::Storage.because(format!("{name}: {reason}"));
    match log::is_damaged(&path.with_extension("db-wal")) {
        Ok(false) => {}
        Ok(true) => {
            let message = format!("{name}: its log of transactions is damaged on disk; {remedy}");
            return Err(IndexErrorKind::Damaged.because(message));
        }
        Err(error) => {
            return Err(storage(format!("its log of transactions cannot be read: {error}")));
        }
    }
    let open = || {
        let connection = open_file(path, OpenFlags::default())?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // Sync each transaction, not only checkpoints.
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    };
    open().map_err(|error| storage_error(name, remedy, &error))
}

/// Opens a database without changing it.
pub(super) fn open_file(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "cell_size_check", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    // The process may write only below its directory, and has no temporary files.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Returns what is wrong with a database, or with one of its tables and their indexes.
pub(crate) fn check_integrity(
    connection: &Connection,
    table: Option<&str>,
) -> rusqlite::Result<Option<String>> {
    let query = match table {
        Some(table) => format!("PRAGMA integrity_check({table})"),
        None => "PRAGMA integrity_check(1)".to_owned(),
    };
    let found: String = connection.query_row(&query, [], |row| row.get(0))?;
    Ok((found != "ok").then_some(found))
}

/// Explains an error of a database.
pub(crate) fn storage_error(name: &str, remedy: &str, error: &rusqlite::Error) -> IndexError {
    static FULL: LogLimit = LogLimit::new();
    let reason = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            let reason = "the disk is full; free space in the state directory and try again";
            if let Some(suppressed) = FULL.admit() {
                tracing::error!(name, suppressed, "{reason}");
            }
            return IndexErrorKind::Full.because(format!("{name}: {reason}"));
        }
        Some(ErrorCode::OutOfMemory | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            error.to_string()
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            format!("its file cannot be used ({error}); see the file system of the state directory")
        }
        // Damage also shows as missing tables, or as values of another type.
        _ => {
            let message = format!("{name}: its file is damaged ({error}); {remedy}");
            return IndexErrorKind::Damaged.because(message);
        }
    };
    IndexErrorKind::Storage.because(format!("{name}: {reason}"))
}
