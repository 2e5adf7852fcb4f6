//! Settings and credentials from where people already have them: environment variables, systemd's
//! credentials and the files that other tools keep. Read before the process is confined. Secrets
//! are never displayed.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

/// Maximum bytes of a credential file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Variables whose value may be a systemd credential with the name in lower case.
const VALUES: [&str; 9] = [
    "HF_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_URI",
    "OTEL_EXPORTER_OTLP_HEADERS",
];
/// Variables that name a file, which may be a systemd credential.
const FILES: [&str; 5] = [
    "NETRC",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "DOCKER_CONFIG",
];

/// Variables that name a file or a folder.
const PATHS: [&str; 18] = [
    "NETRC",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CA_BUNDLE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "HF_TOKEN_PATH",
    "HF_HOME",
    "HOME",
    "SSL_CERT_FILE",
    "ONNXD_SOURCE_CA_FILE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
];

/// A text that no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Marks a text as secret. Surrounding whitespace, such as the newline of a file, is dropped.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Returns the text.
    #[cfg(test)]
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the value of an `Authorization` header with this token.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        sensitive(&format!("Bearer {}", self.0))
    }

    /// Returns the value of an `Authorization` header with this password.
    pub(crate) fn basic(&self, user: &str) -> Option<HeaderValue> {
        sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", self.0))))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

/// Returns a header value that debug output hides. `None` if a header cannot contain it.
pub(crate) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The environment of a fetch.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secret.
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// Creates an environment of variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = variables.into_iter().filter(|(_, value)| !value.is_empty());
        let mut environment = Self(variables.collect());
        environment.take_credentials();
        environment.resolve_paths();
        environment
    }

    /// Returns the environment of this process. Variables that are not UTF-8 are ignored.
    pub fn of_process() -> Self {
        let variables = env::vars_os();
        Self::new(variables.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// Returns this environment with another value of a variable.
    pub(crate) fn with(mut self, name: &str, value: String) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Returns the value of a variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the value of the first variable that is set.
    pub(crate) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// Returns the secret in a variable.
    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).map(Secret::new)
    }

    /// Returns all variables.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the path in a variable, or else a path below the home directory.
    pub(crate) fn path(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let stated = self.get(variable).map(PathBuf::from);
        stated.or_else(|| Some(Path::new(self.get("HOME")?).join(below_home)))
    }

    /// Returns the files that are read when a token is needed, because others replace them.
    pub(crate) fn files_read_later(&self) -> Vec<PathBuf> {
        let names = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
        names.iter().filter_map(|name| self.get(name)).map(PathBuf::from).collect()
    }

    /// Resolves relative paths by `PWD`, where onnxd was started: the working directory is that of the
    /// download.
    fn resolve_paths(&mut self) {
        let Some(start) = self.get("PWD").map(PathBuf::from) else { return };
        for name in PATHS {
            if let Some(path) = self.0.get_mut(name) {
                *path = start.join(&*path).to_string_lossy().into_owned();
            }
        }
    }

    /// Adds the credentials that systemd passes, as files named like the variables.
    fn take_credentials(&mut self) {
        let Some(directory) = self.get("CREDENTIALS_DIRECTORY").map(PathBuf::from) else { return };
        for name in VALUES {
            let text = read(&directory.join(name.to_ascii_lowercase()));
            if let Some(text) = text.filter(|_| self.get(name).is_none()) {
                self.0.insert(name.to_owned(), text.trim().to_owned());
            }
        }
        for name in FILES {
            let path = directory.join(name.to_ascii_lowercase());
            if self.get(name).is_none() && path.is_file() {
                self.0.insert(name.to_owned(), path.to_string_lossy().into_owned());
            }
        }
    }
}

/// Reads a small text file. `None` if it does not exist or cannot be read, which a missing
/// credential reports later.
pub(crate) fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_credentials_are_variables_unless_these_are_set() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("hf_token", "a\n"), ("mlflow_tracking_token", "b"), ("netrc", "c")] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let path = directory.path().to_string_lossy().into_owned();
        let environment = Environment::new([
            ("CREDENTIALS_DIRECTORY".to_owned(), path.clone()),
            ("MLFLOW_TRACKING_TOKEN".to_owned(), "set".to_owned()),
        ]);
        assert_eq!(environment.get("HF_TOKEN"), Some("a"));
        assert_eq!(environment.get("MLFLOW_TRACKING_TOKEN"), Some("set"));
        assert_eq!(environment.get("NETRC"), Some(&*format!("{path}/netrc")));
        let shown = format!("{environment:?} {:?}", Secret::new("hidden"));
        assert!(!shown.contains("set\"") && !shown.contains("hidden"), "{shown}");
    }
    #[test]
    fn relative_paths_are_those_of_the_start() {
        let pairs = [("PWD", "/start"), ("SSL_CERT_FILE", "ca.pem"), ("NETRC", "/etc/netrc")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = Environment::new(pairs);
        assert_eq!(environment.get("SSL_CERT_FILE"), Some("/start/ca.pem"));
        assert_eq!(environment.get("NETRC"), Some("/etc/netrc"));
    }
}
