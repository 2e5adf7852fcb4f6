//! The name under which a model is served. It becomes part of paths and headers, so it is validated
//! once, here, and then carried as a type.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Maximum length of a name in bytes.
const BYTES_MAX: usize = 128;
/// Replaces the slash in the name of a folder. No name contains a percent sign.
const SLASH_IN_FOLDER: &str = "%2F";

/// A served name, as on a hub: parts of letters, digits, `.`, `_` and `-` that are separated by
/// slashes. Each part begins with a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// An invalid model name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a model name: use 1 to {BYTES_MAX} letters, digits, '.', '_', '-' and '/', starting with a letter or digit, for example BAAI/bge-m3"
)]
pub struct InvalidModelName(String);

impl ModelName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name as one part of a path or URL. Names without a slash are unchanged, and two
    /// names never share a folder.
    pub fn folder(&self) -> String {
        self.0.replace('/', SLASH_IN_FOLDER)
    }

    /// Returns the name of a folder that [`folder`](Self::folder) named.
    ///
    /// # Errors
    /// It is the folder of no name.
    pub fn from_folder(folder: &str) -> Result<Self, InvalidModelName> {
        folder.replace(SLASH_IN_FOLDER, "/").parse()
    }
}

impl FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_part = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let valid = text.len() <= BYTES_MAX && text.split('/').all(is_part);
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidModelName(text.to_owned())) }
    }
}

impl TryFrom<String> for ModelName {
    type Error = InvalidModelName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_unsafe_in_a_path_or_header_are_refused() {
        for name in [
            "a",
            "all-MiniLM-L6-v2",
            "BAAI/bge-m3",
            "registry/org/name",
            "0.5_x",
            &"a".repeat(BYTES_MAX),
        ] {
            assert_eq!(name.parse::<ModelName>().map(String::from), Ok(name.to_owned()));
        }
        let long = "a".repeat(BYTES_MAX + 1);
        for name in [
            "", ".", "..", "../a", "a/../b", "a/", "/a", "a//b", "a/.b", "-a", "a b", "ä", "a\n",
            "a%2Fb", "a\\b", &long,
        ] {
            assert!(name.parse::<ModelName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn each_name_has_one_folder_without_a_slash() {
        let folder = |name: &str| name.parse::<ModelName>().unwrap().folder();
        assert_eq!(folder("minilm"), "minilm");
        assert_eq!(folder("BAAI/bge-m3"), "BAAI%2Fbge-m3");
        assert_ne!(folder("BAAI/bge-m3"), folder("baai/bge-m3"));
        for name in ["minilm", "A/b/C"] {
            assert_eq!(ModelName::from_folder(&folder(name)), name.parse());
        }
        for other in ["%2Fa", "a%2", ".tmp", "a%2f"] {
            assert!(ModelName::from_folder(other).is_err(), "{other}");
        }
    }
}
