//! The source of a model's versions, as a parsed URI. Used by the configuration, records, the admin
//! interface and the command line. [`remote`] has the forms of sources on other servers.

mod remote;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ModelChoice;

pub use self::remote::{RemoteUri, Scheme};

/// A source. Written as a URI such as `hf://org/name`, or as `DIR` or the equivalent `file:///DIR`,
/// each with `?file=PATH` or `?variant=NAME` if the source has several model files. Directories are
/// displayed as `DIR`, the form that records of earlier releases use.
///
/// In `DIR`, only `?file=` and `?variant=` start parameters; any other path with a `?` stays a
/// path. A directory whose name contains one of these is written as a `file` URI, with `%3F`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceUri {
    /// A local directory.
    Directory {
        /// Absolute path.
        path: PathBuf,
        /// Choice among its model files.
        choice: ModelChoice,
    },
    /// Files on another server.
    Remote(RemoteUri),
}

/// Why a text is not a valid source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceUriError {
    /// The text or its path is empty.
    #[error("empty source: expected a directory or a URI such as hf://org/name")]
    Empty,
    /// A relative path without a base directory.
    #[error("{0}: the path of a source must be absolute")]
    Relative(String),
    /// An unknown scheme.
    #[error("{uri}: unknown scheme `{scheme}`; expected a directory (DIR or file:///DIR) or one of {}", Scheme::FORMS.join(", "))]
    Scheme { scheme: String, uri: String },
    /// A URI of a known scheme that does not have the scheme's form. The URI is not shown if it
    /// contains a password.
    #[error("{uri}: {reason}; expected {form}")]
    Remote {
        uri: String,
        /// Reason for the rejection.
        reason: &'static str,
        /// The form of the scheme's URIs.
        form: &'static str,
    },
    /// A `file` URI that does not name a local directory.
    #[error("{uri}: {reason}; write file:///DIR")]
    File {
        uri: String,
        /// Reason for the rejection.
        reason: &'static str,
    },
    /// An unknown parameter or an invalid value.
    #[error("{uri}: {reason}; append ?file=onnx/model_fp16.onnx or ?variant=int8")]
    Parameter {
        uri: String,
        /// Reason for the rejection.
        reason: &'static str,
    },
}

/// Texts that start the parameters of a plain path.
const PARAMETERS: [&str; 2] = ["?file=", "?variant="];

impl SourceUri {
    /// Returns a directory source without a choice of model file.
    pub fn from_directory(path: impl Into<PathBuf>) -> Self {
        Self::Directory { path: path.into(), choice: ModelChoice::default() }
    }

    /// Parses a source, resolving relative paths against `base`, which must be absolute. Removes
    /// `.` and repeated slashes from the path.
    ///
    /// # Errors
    /// The scheme is unknown, a `file` URI does not name a local directory, or a parameter is
    /// invalid.
    pub fn parse_in(base: &Path, text: &str) -> Result<Self, SourceUriError> {
        Ok(match parse(text)? {
            Self::Directory { path, choice } => {
                Self::Directory { path: base.join(path).components().collect(), choice }
            }
            remote @ Self::Remote(_) => remote,
        })
    }

    /// Returns the directory, if the source is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory { path, .. } => Some(path),
            Self::Remote(_) => None,
        }
    }

    /// Returns the choice among the source's model files.
    pub fn choice(&self) -> &ModelChoice {
        match self {
            Self::Directory { choice, .. } => choice,
            Self::Remote(remote) => remote.choice(),
        }
    }

    /// Returns the last part of the path, the model's default name.
    pub fn last_name(&self) -> String {
        match self {
            Self::Directory { path, .. } => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            Self::Remote(remote) => remote.last_name().to_owned(),
        }
    }
}

impl FromStr for SourceUri {
    type Err = SourceUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = parse(text)?;
        match uri.directory().is_none_or(Path::is_absolute) {
            true => Ok(uri),
            false => Err(SourceUriError::Relative(text.to_owned())),
        }
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, .. } => {
                let shown = path.to_string_lossy();
                // A plain path would be parsed as one with parameters.
                match parameters_at(&shown) {
                    Some(_) => write!(formatter, "file://{}", encode(&shown))?,
                    None => formatter.write_str(&shown)?,
                }
            }
            Self::Remote(remote) => {
                write!(formatter, "{}://{}", remote.scheme(), remote.location())?
            }
        }
        match self.choice() {
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
        Some(scheme) => return remote::parse(scheme, text).map(SourceUri::Remote),
        None => {
            if let Some(error) = remote::without_slashes(text) {
                return Err(error);
            }
            match parameters_at(text) {
                Some(at) => (PathBuf::from(&text[..at]), Some(&text[at + 1..])),
                None => (PathBuf::from(text), None),
            }
        }
    };
    if path.as_os_str().is_empty() {
        return Err(SourceUriError::Empty);
    }
    let invalid = |reason| SourceUriError::Parameter { uri: text.to_owned(), reason };
    let choice = parameters.map_or(Ok(ModelChoice::Unstated), choice).map_err(invalid)?;
    Ok(SourceUri::Directory { path, choice })
}

/// Returns the offset of a plain path's parameters.
fn parameters_at(text: &str) -> Option<usize> {
    PARAMETERS.iter().filter_map(|parameter| text.find(parameter)).min()
}

/// Parses the only parameter of a source.
fn choice(parameters: &str) -> Result<ModelChoice, &'static str> {
    if parameters.contains('#') {
        return Err("a source cannot have a fragment (`#`)");
    }
    if parameters.contains('&') {
        return Err("a source takes at most one parameter");
    }
    let (key, value) = parameters.split_once('=').unwrap_or((parameters, ""));
    let value = decode(value).ok_or("invalid percent-encoding in a parameter")?;
    match key {
        "file" => ModelChoice::file(&value),
        "variant" => ModelChoice::variant(&value),
        _ => Err("unknown parameter; expected `file` or `variant`"),
    }
}

/// Returns the scheme of a URI with `://`, `file` for `file:`, or `mlflow` for `models:/`, as MLflow
/// writes it. Anything else is a path.
fn scheme(text: &str) -> Option<&str> {
    if text.starts_with("file:") {
        return Some("file");
    }
    if text.starts_with("models:/") {
        return Some("mlflow");
    }
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
}

/// Returns the path of the `file` URI `uri` without its parameters (RFC 8089).
fn file_path(uri: &str, path: &str) -> Result<PathBuf, SourceUriError> {
    let invalid = |reason| SourceUriError::File { uri: uri.to_owned(), reason };
    let rest = path.strip_prefix("file:").unwrap_or(path);
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err(invalid("expected an absolute path on this machine"));
    }
    if path.contains('#') {
        return Err(invalid("a source cannot have a fragment (`#`)"));
    }
    let decoded = decode(path).ok_or_else(|| invalid("invalid percent-encoding"))?;
    Ok(decoded.into())
}

/// Percent-encodes everything except unreserved characters and `/`.
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

/// Decodes `%XX`. Returns `None` if the result is not UTF-8 or contains NUL.
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
    fn a_path_equals_its_file_uri_and_displays_as_the_path() {
        for text in ["/m x", "file:///m%20x", "file:/m%20x", "file://localhost/m%20x", "/m x/"] {
            assert_eq!(uri(text), uri("/m x"), "{text}");
        }
        assert_eq!(uri("file:///m%20x").to_string(), "/m x");
        assert_eq!(uri("/a://b").directory(), Some(Path::new("/a://b")));
        assert_eq!(uri("/models/a").last_name(), "a");
    }

    #[test]
    fn an_unknown_scheme_is_refused_and_known_ones_are_named() {
        for text in ["ftp://host/m", "hdfs://host/m", "FILE:///m"] {
            let error = text.parse::<SourceUri>().unwrap_err().to_string();
            assert!(error.contains("DIR or file:///DIR") && error.contains(text), "{error}");
            assert!(error.contains("hf://org/name[@revision]"), "{error}");
            assert!(SourceUri::parse_in(Path::new("/here"), text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_uri_without_a_local_directory_is_refused() {
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
        for text in ["./m", "m/", "././m//."] {
            let shown = SourceUri::parse_in(Path::new("/here"), text).unwrap().to_string();
            assert_eq!(shown, "/here/m", "{text}");
        }
    }

    #[test]
    fn parameters_choose_a_model_file_and_distinguish_sources() {
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
        let ambiguous = SourceUri::from_directory("/m?file=x.onnx");
        assert_eq!(ambiguous.to_string(), "file:///m%3Ffile%3Dx.onnx");
        assert_eq!(uri(&ambiguous.to_string()), ambiguous);
    }

    #[test]
    fn an_invalid_parameter_is_refused_with_valid_examples() {
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
    fn json_is_written_as_a_path_and_read_in_both_spellings() {
        assert_eq!(serde_json::to_string(&uri("file:///m")).unwrap(), "\"/m\"");
        for json in ["\"/m\"", "\"file:///m\""] {
            assert_eq!(serde_json::from_str::<SourceUri>(json).unwrap(), uri("/m"));
        }
        assert!(serde_json::from_str::<SourceUri>("\"ftp://m\"").is_err());
    }
}
