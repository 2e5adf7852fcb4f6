//! Why a request failed, and what the supervisor is told about it.

use onnxd_proto::search::{IndexError, IndexErrorKind};
use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The request is refused.
    #[error("{0}")]
    Refused(#[from] IndexError),
    /// The database failed, or cannot be reached.
    #[error("{}", with_cause(.0))]
    Database(#[from] tokio_postgres::Error),
}

impl Failure {
    /// Returns whether another attempt may succeed: tables changed meanwhile, two writers waited for
    /// each other, or the server closed a connection that was idle.
    pub(crate) fn is_transient(&self) -> bool {
        let Self::Database(error) = self else { return false };
        match error.code() {
            Some(code) => [
                SqlState::UNDEFINED_TABLE,
                SqlState::INTERNAL_ERROR,
                SqlState::FEATURE_NOT_SUPPORTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::ADMIN_SHUTDOWN,
            ]
            .contains(code),
            None => true,
        }
    }

    /// Returns whether the server refuses what the URL asks for, until the URL or the database is changed.
    /// Only for failures of opening a session and of creating what is missing.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Refused(error) if error.kind == IndexErrorKind::Storage)
    }

    /// Returns whether a table does not exist.
    pub(crate) fn lacks_table(&self) -> bool {
        self.has_code(&SqlState::UNDEFINED_TABLE)
    }

    /// Returns whether the wait for a lock timed out.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        self.has_code(&SqlState::LOCK_NOT_AVAILABLE)
    }

    fn has_code(&self, code: &SqlState) -> bool {
        matches!(self, Self::Database(error) if error.code() == Some(code))
    }

    /// Returns what the supervisor is told.
    pub(crate) fn explain(self) -> IndexError {
        match self {
            Self::Refused(error) => error,
            Self::Database(error) => match error.as_db_error() {
                Some(reported) => explain(reported),
                None => IndexErrorKind::Unavailable.because(format!(
                    "the connection to the database failed ({}); the request may be repeated",
                    with_cause(&error)
                )),
            },
        }
    }
}

/// Returns an error and its causes. The client's own errors are just "db error" or "error connecting".
pub(crate) fn with_cause(error: &tokio_postgres::Error) -> String {
    if let Some(reported) = error.as_db_error() {
        return reported.message().to_owned();
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn explain(error: &DbError) -> IndexError {
    let (code, message) = (error.code(), error.message());
    let class = code.code().get(..2).unwrap_or_default();
    match class {
        _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => IndexErrorKind::Unavailable.because(
            "the database server is read-only; name the primary server, or several hosts with target_session_attrs=read-write",
        ),
        _ if *code == SqlState::LOCK_NOT_AVAILABLE => IndexErrorKind::Unavailable.because(format!(
            "another session holds a lock on the collection ({message}); the request may be repeated"
        )),
        _ if *code == SqlState::QUERY_CANCELED => IndexErrorKind::Unavailable.because(format!(
            "the database was too slow ({message}); the request may be repeated"
        )),
        _ if *code == SqlState::UNTRANSLATABLE_CHARACTER
            || *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE =>
        {
            IndexErrorKind::Invalid
                .because(format!("PostgreSQL cannot store the character U+0000 ({message}); remove it"))
        }
        // Connections, resources other than space, and a server that starts or stops.
        "08" | "57" => unavailable(message),
        "53" if *code != SqlState::DISK_FULL => unavailable(message),
        "53" => IndexErrorKind::Full
            .because(format!("the disk of the database is full ({message}); free space there")),
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => IndexErrorKind::Storage.because(format!(
            "the user of the database may not do this ({message}); grant the privilege"
        )),
        _ => IndexErrorKind::Storage.because(format!("the database: {message} ({})", code.code())),
    }
}

fn unavailable(message: &str) -> IndexError {
    let message = format!("the database is not available ({message}); the request may be repeated");
    IndexErrorKind::Unavailable.because(message)
}
