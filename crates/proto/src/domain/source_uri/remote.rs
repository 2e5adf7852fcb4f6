//! The forms of sources on other servers. Checks them without asking anybody; `onnxd-fetch` speaks
//! the protocols. Called by [`super::parse`].

use std::fmt;

use super::{SourceUriError, choice, decode};
use crate::domain::ModelChoice;

/// Maximum bytes of a URI.
const URI_BYTES_MAX: usize = 2048;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A folder of a web server, over TLS.
    Https,
    /// A folder of a web server, without TLS.
    Http,
    /// A prefix of an S3 bucket.
    S3,
    /// A prefix of a Google Cloud Storage bucket.
    Gs,
    /// A model of a Hugging Face hub.
    Hf,
    /// An artifact or image of a container registry.
    Oci,
    /// A model version of an MLflow registry.
    Mlflow,
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Self; 7] =
        [Self::Https, Self::Http, Self::S3, Self::Gs, Self::Hf, Self::Oci, Self::Mlflow];
    /// The forms of their URIs, in the same order.
    pub const FORMS: [&str; 7] = [
        "https://host/path/",
        "http://host/path/",
        "s3://bucket/prefix",
        "gs://bucket/prefix",
        "hf://org/name[@revision]",
        "oci://registry/repository[:tag|@sha256:DIGEST]",
        "mlflow://NAME@ALIAS or mlflow://NAME/VERSION",
    ];

    /// Returns the scheme's name in URIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Hf => "hf",
            Self::Oci => "oci",
            Self::Mlflow => "mlflow",
        }
    }

    /// Returns the form of the scheme's URIs.
    pub fn form(self) -> &'static str {
        match self {
            Self::Https => Self::FORMS[0],
            Self::Http => Self::FORMS[1],
            Self::S3 => Self::FORMS[2],
            Self::Gs => Self::FORMS[3],
            Self::Hf => Self::FORMS[4],
            Self::Oci => Self::FORMS[5],
            Self::Mlflow => Self::FORMS[6],
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A source on another server. Carries no credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteUri {
    scheme: Scheme,
    location: String,
    choice: ModelChoice,
}

impl RemoteUri {
    /// Returns the kind of server.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns what follows `scheme://`, without parameters and without a slash at the end.
    /// Percent-encoded as it was written.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Returns the choice among the source's model files.
    pub fn choice(&self) -> &ModelChoice {
        &self.choice
    }

    /// Splits the location into its first part (host, bucket, organization, registry or name) and the
    /// rest, which may be empty.
    pub fn split(&self) -> (&str, &str) {
        self.location.split_once('/').unwrap_or((&self.location, ""))
    }

    /// Splits off the revision, tag, digest, alias or version, for the schemes that have one: the part
    /// behind `@`, or behind `:` for tags, or behind the last `/` for versions of MLflow.
    pub fn revision(&self) -> (&str, Option<&str>) {
        let location = self.location.as_str();
        if let Some((name, revision)) = location.split_once('@')
            && matches!(self.scheme, Scheme::Hf | Scheme::Oci | Scheme::Mlflow)
        {
            return (name, Some(revision));
        }
        let last = location.rfind('/').map_or(0, |slash| slash + 1);
        let colon = location[last..].find(':').map(|colon| last + colon);
        match (self.scheme, colon) {
            (Scheme::Hf | Scheme::Oci, Some(colon)) => {
                (&location[..colon], Some(&location[colon + 1..]))
            }
            (Scheme::Mlflow, _) if last > 0 => (&location[..last - 1], Some(&location[last..])),
            _ => (location, None),
        }
    }

    /// Returns the last part of the name, the model's default name.
    pub(super) fn last_name(&self) -> &str {
        let (name, _) = self.revision();
        name.rsplit('/').next().unwrap_or(name)
    }
}

/// Parses a URI with a scheme other than `file`. `text` starts with the scheme.
pub(super) fn parse(name: &str, text: &str) -> Result<RemoteUri, SourceUriError> {
    let Some(scheme) = Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == name) else {
        return Err(SourceUriError::Scheme { scheme: name.to_owned(), uri: text.to_owned() });
    };
    let prefix = ["://", ":/"].iter().find_map(|colon| {
        let name = if text.starts_with("models:") { "models" } else { name };
        text.strip_prefix(name)?.strip_prefix(colon)
    });
    let rest = prefix.unwrap_or_default();
    let (location, parameters) = match rest.split_once('?') {
        Some((location, parameters)) => (location, Some(parameters)),
        None => (rest, None),
    };
    let location = location.trim_end_matches('/');
    if let Some(reason) = fault(scheme, location) {
        // A password before `@` must reach no log.
        let uri = if has_password(scheme, location) { name } else { text };
        let (uri, form) = (uri.to_owned(), scheme.form());
        return Err(SourceUriError::Remote { uri, reason, form });
    }
    let choice = parameters.map_or(Ok(ModelChoice::Unstated), choice);
    let choice = choice.map_err(|reason| SourceUriError::Parameter {
        // The query of a URI may be a signature, which must reach no log.
        uri: format!("{scheme}://{location}"),
        reason,
    })?;
    Ok(RemoteUri { scheme, location: location.to_owned(), choice })
}

/// Returns an error for text such as `hf:org/name`, which would otherwise be a path.
pub(super) fn without_slashes(text: &str) -> Option<SourceUriError> {
    let (name, rest) = text.split_once(':')?;
    let scheme = Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == name)?;
    // A password before `@` must reach no log.
    let uri = if rest.contains('@') { name } else { text };
    let reason = "`//` is missing after the scheme";
    Some(SourceUriError::Remote { uri: uri.to_owned(), reason, form: scheme.form() })
}

/// Returns whether a host is preceded by a user's name or password.
fn has_password(scheme: Scheme, location: &str) -> bool {
    let host = location.split('/').next().unwrap_or_default();
    !matches!(scheme, Scheme::Hf | Scheme::Mlflow) && host.contains('@')
}

/// Returns why a location does not have its scheme's form.
fn fault(scheme: Scheme, location: &str) -> Option<&'static str> {
    if has_password(scheme, location) {
        return Some(
            "a source cannot contain a user or password; set them in netrc or the environment",
        );
    }
    if location.len() > URI_BYTES_MAX {
        return Some("a URI has at most 2048 bytes");
    }
    if location.contains('#') {
        return Some("a source cannot have a fragment (`#`)");
    }
    if location.contains(|c: char| c.is_control() || c.is_whitespace() || "\\\"<>".contains(c)) {
        return Some("spaces and quotes must be percent-encoded");
    }
    let parts: Vec<&str> = location.split('/').collect();
    let is_climbing = |part: &&str| {
        decode(part).is_none_or(|part| part.is_empty() || part == "." || part == "..")
    };
    if parts.iter().any(is_climbing) {
        return Some("empty parts, `.` and `..` are not allowed");
    }
    let uri = RemoteUri { scheme, location: location.to_owned(), choice: ModelChoice::Unstated };
    let (name, revision) = uri.revision();
    let is_named = revision.is_none_or(|revision| !revision.is_empty() && !revision.contains('@'));
    match scheme {
        Scheme::Hf => {
            let parts = name.split('/').count();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
            match parts <= 2 && name.chars().all(is_plain) && is_named {
                true => None,
                false => Some("expected the id of a model"),
            }
        }
        Scheme::Oci if !name.contains('/') => Some("the repository is missing"),
        Scheme::Oci if !is_named => Some("the tag or digest is empty"),
        Scheme::Mlflow if revision.is_none() || !is_named || name.contains('/') => {
            Some("expected an alias or a version")
        }
        Scheme::S3 | Scheme::Gs if parts.len() < 2 => Some("the prefix is missing"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SourceUri;

    fn remote(text: &str) -> RemoteUri {
        match text.parse() {
            Ok(SourceUri::Remote(remote)) => remote,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_scheme_names_a_model_and_its_revision() {
        for (text, name, revision, last) in [
            ("https://host:8443/m/minilm/", "host:8443/m/minilm", None, "minilm"),
            ("http://[::1]:80/minilm", "[::1]:80/minilm", None, "minilm"),
            ("https://models.example", "models.example", None, "models.example"),
            ("s3://bucket/a/minilm", "bucket/a/minilm", None, "minilm"),
            ("gs://bucket/minilm", "bucket/minilm", None, "minilm"),
            ("hf://org/minilm", "org/minilm", None, "minilm"),
            ("hf://org/minilm@main", "org/minilm", Some("main"), "minilm"),
            ("hf://org/minilm@refs/pr/1", "org/minilm", Some("refs/pr/1"), "minilm"),
            ("hf://org/minilm:v1", "org/minilm", Some("v1"), "minilm"),
            ("oci://host:5000/a/minilm:v1", "host:5000/a/minilm", Some("v1"), "minilm"),
            ("oci://host/minilm@sha256:00", "host/minilm", Some("sha256:00"), "minilm"),
            ("oci://host:5000/minilm", "host:5000/minilm", None, "minilm"),
            ("mlflow://minilm@prod", "minilm", Some("prod"), "minilm"),
            ("mlflow://minilm/7", "minilm", Some("7"), "minilm"),
        ] {
            let uri = remote(text);
            assert_eq!(uri.revision(), (name, revision), "{text}");
            assert_eq!(uri.last_name(), last, "{text}");
            let shown = SourceUri::Remote(uri.clone()).to_string();
            assert_eq!(shown, text.trim_end_matches('/'));
            assert_eq!(remote(&shown), uri);
        }
        assert_eq!(remote("models:/minilm@prod"), remote("mlflow://minilm@prod"));
    }

    #[test]
    fn a_choice_of_model_file_is_kept() {
        let uri = remote("hf://org/minilm@v1?variant=int8");
        assert_eq!(uri.choice(), &ModelChoice::Variant("int8".to_owned()));
        assert_eq!(SourceUri::Remote(uri).to_string(), "hf://org/minilm@v1?variant=int8");
    }

    #[test]
    fn a_malformed_uri_is_refused_with_the_right_form() {
        for text in [
            "hf://",
            "hf:org/name",
            "hf:/org/name",
            "https:/host/path",
            "hf://a/b/c",
            "hf://org/name@",
            "hf://org/na me",
            "s3://bucket",
            "oci://host",
            "oci://host/m:",
            "mlflow://m",
            "mlflow://a/b/c",
            "https://",
            "https://host/../m",
            "https://host/%2e%2e/m",
            "https://host//m",
            "https://host/m#a",
            "s3://b/a\nb",
        ] {
            let error = text.parse::<SourceUri>().unwrap_err();
            assert!(matches!(error, SourceUriError::Remote { .. }), "{text}: {error}");
            let scheme = text.split(':').next().unwrap();
            assert!(error.to_string().contains(&format!("expected {scheme}://")), "{error}");
        }
        let of_length = |length: usize| format!("https://{}", "a".repeat(length));
        assert!(of_length(URI_BYTES_MAX).parse::<SourceUri>().is_ok());
        assert!(of_length(URI_BYTES_MAX + 1).parse::<SourceUri>().is_err());
    }

    #[test]
    fn passwords_and_signatures_reach_no_message() {
        for text in ["https://user:secret@host/m", "https://host/m?X-Amz-Signature=secret"] {
            let error = text.parse::<SourceUri>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
