//! Where a model's versions come from, as a parsed URI. Configuration, records, the admin interface
//! and the command line all use this type; only the directory scheme exists so far.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ModelChoice;

/// A source. Written as `DIR` or `file:///DIR`, which are equal, with `?file=PATH` or
/// `?variant=NAME` where the directory has several model files. Shown as `DIR`, which is also what
/// records of earlier releases have.
///
/// In `DIR`, only `?file=` and `?variant=` begin parameters, so that other paths with a `?` stay
/// paths; a directory with such a text in its name is written as a `file` URI, with `%3F`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceUri {
    /// A directory of this machine.
    Directory {
        /// Absolute.
        path: PathBuf,
        /// Which of its model files to take.
        choice: ModelChoice,
    },
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
    /// A parameter that is unknown or has no valid value.
    #[error("{uri}: {reason}; write DIR?file=onnx/model_fp16.onnx or DIR?variant=int8")]
    Parameter {
        /// The whole text.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What begins parameters in a plain path.
const PARAMETERS: [&str; 2] = ["?file=", "?variant="];

impl SourceUri {
    /// A directory, with whichever model file it has.
    pub fn of_directory(path: impl Into<PathBuf>) -> Self {
        Self::Directory { path: path.into(), choice: ModelChoice::default() }
    }

    /// Parses a text whose relative paths are below `base`, which is absolute.
    ///
    /// # Errors
    /// The scheme is unknown, a `file` URI names no local directory, or a parameter is wrong.
    pub fn parse_in(base: &Path, text: &str) -> Result<Self, SourceUriError> {
        let Self::Directory { path, choice } = parse(text)?;
        Ok(Self::Directory { path: base.join(path), choice })
    }

    /// The directory, where the source is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory { path, .. } => Some(path),
        }
    }

    /// The last part of the path, which names the model where nothing else does.
    pub fn last_name(&self) -> String {
        match self {
            Self::Directory { path, .. } => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
        }
    }
}

impl FromStr for SourceUri {
    type Err = SourceUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = parse(text)?;
        match uri.directory().is_some_and(Path::is_absolute) {
            true => Ok(uri),
            false => Err(SourceUriError::Relative(text.to_owned())),
        }
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Directory { path, choice } = self;
        let shown = path.to_string_lossy();
        // As a plain path it would be read as one with parameters.
        match parameters_at(&shown) {
            Some(_) => write!(formatter, "file://{}", encode(&shown))?,
            None => formatter.write_str(&shown)?,
        }
        match choice {
            ModelChoice::Unstated => Ok(()),
            ModelChoice::File(file) => write!(formatter, "?file={}", encode(file)),
            ModelChoice::Variant(name) => write!(formatter, "?variant={name}"),
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

/// Parses any spelling; the path may be relative.
fn parse(text: &str) -> Result<SourceUri, SourceUriError> {
    if text.is_empty() {
        return Err(SourceUriError::Empty);
    }
    let (path, parameters) = match scheme(text) {
        Some("file") => {
            let (path, parameters) = match text.split_once('?') {
                Some((path, parameters)) => (path, Some(parameters)),
                None => (text, None),
            };
            (file_path(text, path)?, parameters)
        }
        Some(scheme) => {
            let (scheme, uri) = (scheme.to_owned(), text.to_owned());
            return Err(SourceUriError::Scheme { scheme, uri });
        }
        None => match parameters_at(text) {
            Some(at) => (PathBuf::from(&text[..at]), Some(&text[at + 1..])),
            None => (PathBuf::from(text), None),
        },
    };
    if path.as_os_str().is_empty() {
        return Err(SourceUriError::Empty);
    }
    let wrong = |reason| SourceUriError::Parameter { uri: text.to_owned(), reason };
    let choice = parameters.map_or(Ok(ModelChoice::Unstated), choice).map_err(wrong)?;
    Ok(SourceUri::Directory { path, choice })
}

/// Where the parameters of a plain path begin.
fn parameters_at(text: &str) -> Option<usize> {
    PARAMETERS.iter().filter_map(|parameter| text.find(parameter)).min()
}

/// The one parameter that a source has.
fn choice(parameters: &str) -> Result<ModelChoice, &'static str> {
    if parameters.contains('#') {
        return Err("a source has no fragment");
    }
    if parameters.contains('&') {
        return Err("a source takes one parameter");
    }
    let (key, value) = parameters.split_once('=').unwrap_or((parameters, ""));
    let value = decode(value).ok_or("the percent-encoding of a parameter is wrong")?;
    match key {
        "file" => ModelChoice::file(&value),
        "variant" => ModelChoice::variant(&value),
        _ => Err("unknown parameter; a source takes `file` or `variant`"),
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

/// The path of the `file` URI `uri` without its parameters, RFC 8089.
fn file_path(uri: &str, path: &str) -> Result<PathBuf, SourceUriError> {
    let wrong = |reason| SourceUriError::File { uri: uri.to_owned(), reason };
    let rest = path.strip_prefix("file:").unwrap_or(path);
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err(wrong("it names no absolute path of this machine"));
    }
    if path.contains('#') {
        return Err(wrong("a source has no fragment"));
    }
    let decoded = decode(path).ok_or_else(|| wrong("its percent-encoding is wrong"))?;
    Ok(decoded.into())
}

/// Writes everything but unreserved characters and `/` as `%XX`.
fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
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
        for text in ["file://host/m", "file:m", "file:///m#a", "file:///m%2", "file:///%00"] {
            let error = text.parse::<SourceUri>().unwrap_err();
            assert!(matches!(error, SourceUriError::File { .. }), "{text}: {error}");
        }
        let error = "m".parse::<SourceUri>().unwrap_err().to_string();
        assert_eq!(error, "m: the path of a source must be absolute");
        for text in ["", "?variant=int8"] {
            assert_eq!(SourceUri::parse_in(Path::new("/here"), text), Err(SourceUriError::Empty));
        }
        assert_eq!(SourceUri::parse_in(Path::new("/here"), "m"), Ok(uri("/here/m")));
        assert_eq!(SourceUri::parse_in(Path::new("/here"), "file:///m"), Ok(uri("/m")));
    }

    #[test]
    fn parameters_choose_a_model_file_and_make_another_source() {
        let file = ModelChoice::File("onnx/a b.onnx".to_owned());
        for text in
            ["/m?file=onnx/a b.onnx", "/m?file=onnx/a%20b.onnx", "file:///m?file=onnx/a%20b.onnx"]
        {
            let parsed = uri(text);
            let expected = SourceUri::Directory { path: "/m".into(), choice: file.clone() };
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.to_string(), "/m?file=onnx/a%20b.onnx");
            assert_eq!(uri(&parsed.to_string()), parsed);
        }
        let here = Path::new("/here");
        let relative = SourceUri::parse_in(here, "m?variant=int8").unwrap();
        assert_eq!(relative, uri("/here/m?variant=int8"));
        assert_eq!(relative.to_string(), "/here/m?variant=int8");
        assert_ne!(uri("/m"), uri("/m?variant=int8"));
        assert_eq!(uri("/m?variant=int8").last_name(), "m");
    }

    #[test]
    fn a_path_with_a_question_mark_stays_a_path() {
        assert_eq!(uri("/m?x").directory(), Some(Path::new("/m?x")));
        assert_eq!(uri("/m?x").to_string(), "/m?x");
        let odd = SourceUri::of_directory("/m?file=x.onnx");
        assert_eq!(odd.to_string(), "file:///m%3Ffile%3Dx.onnx");
        assert_eq!(uri(&odd.to_string()), odd);
    }

    #[test]
    fn a_wrong_parameter_is_refused_with_what_is_possible() {
        for text in [
            "file:///m?a=b",
            "file:///m?",
            "/m?file=",
            "/m?file=model.bin",
            "/m?file=../m.onnx",
            "/m?file=/m.onnx",
            "/m?file=%",
            "/m?variant=",
            "/m?variant=a/b",
            "/m?file=m.onnx&variant=int8",
            "/m?variant=int8#x",
        ] {
            let error = text.parse::<SourceUri>().unwrap_err();
            assert!(matches!(error, SourceUriError::Parameter { .. }), "{text}: {error}");
            let message = error.to_string();
            assert!(message.contains(text) && message.contains("?variant=int8"), "{message}");
        }
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
