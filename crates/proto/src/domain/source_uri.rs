//! Where a model's versions come from, as a parsed URI. Configuration, records, the admin interface
//! and the command line all use this type; only the directory scheme exists so far.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A source. Written as `DIR` or `file:///DIR`, which are equal; shown as `DIR`, which is also
/// what records of earlier releases have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceUri {
    /// A directory of this machine; the path is absolute.
    Directory(PathBuf),
}

/// Why a text is not a source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceUriError {
    /// Nothing.
    #[error("a source is empty: give DIR or file:///DIR")]
    Empty,
    /// A relative path, where nothing says what it is relative to.
    #[error("{0}: the path of a source must be absolute")]
    Relative(String),
    /// A scheme that onnxd does not know.
    #[error("{uri}: unknown scheme `{scheme}`; a source is a directory: DIR or file:///DIR")]
    Scheme {
        /// The scheme.
        scheme: String,
        /// The whole text.
        uri: String,
    },
    /// A `file` URI that names no local directory.
    #[error("{uri}: {reason}; write file:///DIR")]
    File {
        /// The whole text.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl SourceUri {
    /// Parses a text whose relative paths are below `base`, which is absolute.
    ///
    /// # Errors
    /// The scheme is unknown, or a `file` URI names no local directory.
    pub fn parse_in(base: &Path, text: &str) -> Result<Self, SourceUriError> {
        match text.parse() {
            Err(SourceUriError::Relative(_)) => Ok(Self::Directory(base.join(text))),
            parsed => parsed,
        }
    }

    /// The directory, where the source is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
        }
    }

    /// The last part of the path, which names the model where nothing else does.
    pub fn last_name(&self) -> String {
        match self {
            Self::Directory(path) => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
        }
    }
}

impl FromStr for SourceUri {
    type Err = SourceUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SourceUriError::Empty);
        }
        let path = match scheme(text) {
            Some("file") => file_path(text)?,
            Some(scheme) => {
                let (scheme, uri) = (scheme.to_owned(), text.to_owned());
                return Err(SourceUriError::Scheme { scheme, uri });
            }
            None => PathBuf::from(text),
        };
        match path.is_absolute() {
            true => Ok(Self::Directory(path)),
            false => Err(SourceUriError::Relative(text.to_owned())),
        }
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(formatter),
        }
    }
}

impl TryFrom<String> for SourceUri {
    type Error = SourceUriError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SourceUri> for String {
    fn from(uri: SourceUri) -> Self {
        uri.to_string()
    }
}

/// The scheme of a URI with `://`, or `file` of one with `file:`. Everything else is a path.
fn scheme(text: &str) -> Option<&str> {
    if text.starts_with("file:") {
        return Some("file");
    }
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
}

/// The path of a `file` URI, RFC 8089.
fn file_path(uri: &str) -> Result<PathBuf, SourceUriError> {
    let wrong = |reason| SourceUriError::File { uri: uri.to_owned(), reason };
    let rest = uri.strip_prefix("file:").unwrap_or(uri);
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err(wrong("it names no absolute path of this machine"));
    }
    if path.contains(['?', '#']) {
        return Err(wrong("a directory takes no parameters"));
    }
    let decoded = decode(path).ok_or_else(|| wrong("its percent-encoding is wrong"))?;
    Ok(decoded.into())
}

/// Decodes `%XX`. `None` where that is not UTF-8, or has a NUL.
fn decode(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|&byte| is_hex && byte != 0)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> SourceUri {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_and_its_file_uri_are_equal_and_shown_as_the_path() {
        for text in ["/m x", "file:///m%20x", "file:/m%20x", "file://localhost/m%20x", "/m x/"] {
            assert_eq!(uri(text), uri("/m x"), "{text}");
        }
        assert_eq!(uri("file:///m%20x").to_string(), "/m x");
        assert_eq!(uri("/a://b").directory(), Some(Path::new("/a://b")));
        assert_eq!(uri("/models/a").last_name(), "a");
    }

    #[test]
    fn an_unknown_scheme_is_refused_with_those_that_are_known() {
        for text in ["s3://bucket/m", "hf://org/m", "https://host/m", "FILE:///m"] {
            let error = text.parse::<SourceUri>().unwrap_err().to_string();
            assert!(error.contains("DIR or file:///DIR") && error.contains(text), "{error}");
            assert!(SourceUri::parse_in(Path::new("/here"), text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_names_no_local_directory_is_refused() {
        for text in ["file://host/m", "file:m", "file:///m?a=b", "file:///m%2", "file:///%00"] {
            let error = text.parse::<SourceUri>().unwrap_err();
            assert!(matches!(error, SourceUriError::File { .. }), "{text}: {error}");
        }
        let error = "m".parse::<SourceUri>().unwrap_err().to_string();
        assert_eq!(error, "m: the path of a source must be absolute");
        assert_eq!(SourceUri::parse_in(Path::new("/here"), ""), Err(SourceUriError::Empty));
        assert_eq!(SourceUri::parse_in(Path::new("/here"), "m"), Ok(uri("/here/m")));
        assert_eq!(SourceUri::parse_in(Path::new("/here"), "file:///m"), Ok(uri("/m")));
    }

    #[test]
    fn json_is_the_path_and_both_spellings_are_read() {
        assert_eq!(serde_json::to_string(&uri("file:///m")).unwrap(), "\"/m\"");
        for json in ["\"/m\"", "\"file:///m\""] {
            assert_eq!(serde_json::from_str::<SourceUri>(json).unwrap(), uri("/m"));
        }
        assert!(serde_json::from_str::<SourceUri>("\"s3://m\"").is_err());
    }
}
