//! The name under which a model is served. It becomes part of paths and headers, so it is validated
//! once, here, and then carried as a type.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A served name: `^[a-z0-9][a-z0-9._-]{0,63}$`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

/// An invalid model name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a model name: use 1 to 64 characters from a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
)]
pub struct InvalidModelName(String);

impl ModelName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = matches!(bytes.len(), 1..=64)
            && plain(bytes[0])
            && bytes.iter().all(|&byte| plain(byte) || b"._-".contains(&byte));
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
        for name in ["a", "minilm", "all-minilm-l6-v2", "0.5_x", &"a".repeat(64)] {
            assert_eq!(name.parse::<ModelName>().map(String::from), Ok(name.to_owned()));
        }
        for name in ["", ".", "..", "../a", "a/b", "A", "-a", "a b", "ä", "a\n", &"a".repeat(65)] {
            assert!(name.parse::<ModelName>().is_err(), "{name:?}");
        }
    }
}
