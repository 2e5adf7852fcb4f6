//! Parses `--search` and `--index-binary`: where collections of documents are kept.

use std::{fmt, path::PathBuf};

use onnxd_proto::exit::Failure;

use super::executable_file;

/// The executables of embedded collections, and of collections in a database.
const EXECUTABLES: [&str; 2] = ["onnxd-index", "onnxd-postgres"];
const DATABASES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where collections of documents are kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SearchStore {
    /// Nowhere: search is off.
    Off,
    /// Nowhere: the executable is not installed, and nothing asked for it.
    Missing,
    /// In the state directory, by this executable.
    Embedded(PathBuf),
    /// In a database, by this executable.
    Postgres(PathBuf, DatabaseUrl),
}

/// The URL of a database. Hidden in debug output, since it may have a password.
#[derive(Clone, PartialEq)]
pub(crate) struct DatabaseUrl(pub String);

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// Returns where collections are kept.
///
/// # Errors
/// The word is unknown, or the executable is missing although a flag asks for it.
pub(super) fn store(word: Option<&str>, binary: Option<PathBuf>) -> Result<SearchStore, Failure> {
    let is_asked_for = word.is_some() || binary.is_some();
    let [index, postgres] = EXECUTABLES;
    match word.unwrap_or("embedded") {
        "off" => Ok(SearchStore::Off),
        "embedded" => match executable_file("--index-binary", binary, index) {
            Ok(path) => Ok(SearchStore::Embedded(path)),
            Err(_) if !is_asked_for => Ok(SearchStore::Missing),
            Err(failure) => Err(failure),
        },
        url if DATABASES.iter().any(|scheme| url.starts_with(scheme)) => {
            let path = executable_file("--index-binary", binary, postgres)?;
            Ok(SearchStore::Postgres(path, DatabaseUrl(url.to_owned())))
        }
        // Not shown: it may be a URL with a password.
        _ => {
            let message =
                "--search: expected embedded, off or postgres://USER:PASSWORD@HOST/DATABASE";
            Err(Failure::configuration(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_store_is_refused_without_showing_it() {
        let refused = store(Some("mysql://me:secret@host/db"), None).unwrap_err().message;
        assert!(refused.contains("postgres://") && !refused.contains("secret"), "{refused}");
        assert_eq!(store(Some("off"), None).unwrap(), SearchStore::Off);
    }

    #[test]
    fn a_password_is_in_no_debug_output() {
        let store =
            SearchStore::Postgres("/p".into(), DatabaseUrl("postgres://me:secret@h/d".into()));
        assert!(!format!("{store:?}").contains("secret"));
    }
}
