//! `mlflow://NAME@ALIAS` and `mlflow://NAME/VERSION`: a registered version of MLflow. A version is
//! immutable by convention, so its files are listed again after the download.

use async_trait::async_trait;
use http::HeaderValue;
use onnxd_proto::domain::{
    Checksums, RemoteUri,
    fetch::{FetchError, FetchErrorKind, Pin},
};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::{
    client::{Client, Request},
    environment::Environment,
    netrc,
    part::Offset,
    sources::{
        answer::{Opened, Validators, encoded, endpoint, json, opened, ranged},
        source::{File, KnownSnapshot, Snapshot, Source},
    },
};

const ARTIFACTS: &str = "api/2.0/mlflow-artifacts/artifacts";
/// Maximum depth of folders.
const DEPTH_MAX: usize = 16;
const REMEDY: &str =
    "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD";

/// A registered model.
pub(super) struct Mlflow {
    client: Client,
    endpoint: Url,
    name: String,
    version: VersionSelector,
    authorization: Option<HeaderValue>,
}

/// How the version is named.
enum VersionSelector {
    Alias(String),
    Number(String),
}

#[derive(Deserialize)]
struct VersionAnswer {
    model_version: Version,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    status: String,
    /// A name that is deleted and registered again counts from 1 again.
    #[serde(default)]
    creation_timestamp: serde_json::Value,
}

#[derive(Deserialize)]
struct DownloadUri {
    artifact_uri: String,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    path: String,
    #[serde(default)]
    is_dir: bool,
    file_size: Option<u64>,
}

#[derive(Deserialize)]
struct Run {
    run: RunOf,
}

#[derive(Deserialize)]
struct RunOf {
    info: Located,
}

#[derive(Deserialize)]
struct Logged {
    model: LoggedOf,
}

#[derive(Deserialize)]
struct LoggedOf {
    info: Located,
}

#[derive(Deserialize)]
struct Located {
    artifact_uri: String,
}

impl Mlflow {
    /// Creates the source. Reads netrc.
    pub(super) fn new(
        uri: &RemoteUri,
        client: Client,
        environment: &Environment,
    ) -> Result<Self, FetchError> {
        if environment.get("MLFLOW_TRACKING_URI").is_none() {
            let message = "set MLFLOW_TRACKING_URI to the URL of the MLflow server";
            return Err(FetchErrorKind::Configuration.because(message));
        }
        let endpoint = endpoint(environment, "MLFLOW_TRACKING_URI", "")?;
        let (name, version) = uri.revision();
        let version = version.unwrap_or_default().to_owned();
        let is_alias = uri.location().contains('@');
        let password = environment
            .secret("MLFLOW_TRACKING_PASSWORD")
            .unwrap_or_else(|| crate::environment::Secret::new(""));
        let user = environment.get("MLFLOW_TRACKING_USERNAME");
        let authorization = match environment.secret("MLFLOW_TRACKING_TOKEN") {
            Some(token) => token.bearer(),
            None => user.and_then(|user| password.basic(user)).or_else(|| {
                netrc::authorization(environment, endpoint.host_str().unwrap_or_default())
            }),
        };
        Ok(Self {
            client: client.trusting(&endpoint),
            endpoint,
            name: percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned(),
            version: if is_alias {
                VersionSelector::Alias(version)
            } else {
                VersionSelector::Number(version)
            },
            authorization,
        })
    }

    /// Returns the advice for an answer without access.
    fn remedy(&self) -> &'static str {
        match self.authorization {
            Some(_) => {
                "the login in MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_PASSWORD or netrc does not give access"
            }
            None => REMEDY,
        }
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Result<Url, FetchError> {
        let mut url = self
            .endpoint
            .join(path)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{path}: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, FetchError> {
        let request =
            Request::get(self.url(path, query)?).authorization(self.authorization.clone());
        json(self.client.send(request).await?.success(self.remedy()).await?).await
    }

    async fn version(&self) -> Result<Version, FetchError> {
        let (path, query) = match &self.version {
            VersionSelector::Alias(alias) => ("registered-models/alias", ("alias", alias.as_str())),
            VersionSelector::Number(number) => ("model-versions/get", ("version", number.as_str())),
        };
        let path = format!("api/2.0/mlflow/{path}");
        let answer: VersionAnswer = self.ask(&path, &[("name", &self.name), query]).await?;
        Ok(answer.model_version)
    }

    /// Returns the path of a version's files on the server.
    async fn location(&self, version: &str) -> Result<String, FetchError> {
        let query = [("name", self.name.as_str()), ("version", version)];
        let path = "api/2.0/mlflow/model-versions/get-download-uri";
        let mut uri = self.ask::<DownloadUri>(path, &query).await?.artifact_uri;
        if let Some(id) = uri.strip_prefix("models:/") {
            let path = format!("api/2.0/mlflow/logged-models/{}", encoded(id));
            uri = self.ask::<Logged>(&path, &[]).await?.model.info.artifact_uri;
        } else if let Some(rest) = uri.strip_prefix("runs:/") {
            let (run, below) = rest.split_once('/').unwrap_or((rest, ""));
            let found: Run = self.ask("api/2.0/mlflow/runs/get", &[("run_id", run)]).await?;
            uri = format!("{}/{below}", found.run.info.artifact_uri);
        }
        let path =
            uri.strip_prefix("mlflow-artifacts:").map(|rest| match rest.strip_prefix("//") {
                // A host, which is this server.
                Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
                None => rest,
            });
        let path = path.map(|path| path.trim_matches('/').to_owned()).ok_or_else(|| {
            let scheme = uri.split(':').next().unwrap_or_default().to_owned();
            FetchErrorKind::Forbidden.because(format!(
                "{}: the files are in {scheme}: storage that MLflow does not serve; start it with \
                 `mlflow server --serve-artifacts`, or use an s3:// source",
                self.name
            ))
        })?;
        match path.split('/').any(|part| part == ".." || part == ".") {
            true => Err(FetchErrorKind::Malformed.because(format!("{path}: not a plain path"))),
            false => Ok(path),
        }
    }

    /// Lists all files below a path.
    async fn list(&self, id: &str, root: &str, files_max: usize) -> Result<Vec<File>, FetchError> {
        let mut files = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let path = join(root, &folder);
            let listing: Listing = self.ask(ARTIFACTS, &[("path", &path)]).await?;
            for listed in listing.files {
                // Names are relative to the folder in new versions, and to the root in old ones.
                let name = listed.path.rsplit('/').next().unwrap_or_default();
                let path = join(&folder, name);
                if listed.is_dir {
                    folders.push(path);
                    continue;
                }
                // The path on the server is needed to open the file.
                let identity = Some(format!("{id} {root}"));
                files.push(File { path, bytes: listed.file_size, digest: None, identity });
            }
            let is_deep = folder.split('/').count() > DEPTH_MAX;
            if files.len() + folders.len() > files_max || is_deep {
                let message =
                    format!("{}: more than {files_max} files, or folders too deep", self.name);
                return Err(FetchErrorKind::TooLarge.because(message));
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

fn join(folder: &str, name: &str) -> String {
    match folder.is_empty() || name.is_empty() {
        true => format!("{folder}{name}"),
        false => format!("{folder}/{name}"),
    }
}

/// Returns the id of the version and the path of its files.
fn identity(file: &File) -> (&str, &str) {
    file.identity.as_deref().and_then(|identity| identity.split_once(' ')).unwrap_or_default()
}

#[async_trait(?Send)]
impl Source for Mlflow {
    async fn resolve(
        &self,
        known: &KnownSnapshot,
        files_max: usize,
    ) -> Result<Option<Snapshot>, FetchError> {
        let Version { version, status, creation_timestamp } = self.version().await?;
        let id = format!("mlflow:{}/{version}:{creation_timestamp}", encoded(&self.name))
            .replace('"', "");
        if status != "READY" {
            let message = format!("{} version {version} has status {status}, not READY", self.name);
            return Err(FetchErrorKind::Incomplete.because(message));
        }
        if known.id.as_ref() == Some(&id) {
            return Ok(None);
        }
        let root = self.location(&version).await?;
        let files = self.list(&id, &root, files_max).await?;
        if files.is_empty() {
            let message = format!("{} version {version} has no files", self.name);
            return Err(FetchErrorKind::NotFound.because(message));
        }
        let has_checksums = files.iter().any(|file| file.path == Checksums::FILE);
        let note = "MLflow states no digests, so only names and lengths are compared; log SHA256SUMS \
                    with the model";
        Ok(Some(Snapshot {
            id,
            pin: Pin::Version,
            files,
            archives: Vec::new(),
            notes: if has_checksums { Vec::new() } else { vec![note.to_owned()] },
            validators: Validators::default(),
        }))
    }

    async fn open(&self, file: &File, from: &Offset) -> Result<Opened, FetchError> {
        let (_, root) = identity(file);
        let path = format!("{ARTIFACTS}/{}", encoded(&join(root, &file.path)));
        let request = ranged(Request::get(self.url(&path, &[])?), from);
        let request = request.authorization(self.authorization.clone());
        opened(self.client.send(request).await?.success(self.remedy()).await?, from)
    }

    async fn confirm(&self, snapshot: &Snapshot, files_max: usize) -> Result<(), FetchError> {
        let Some(first) = snapshot.files.first() else { return Ok(()) };
        let (id, root) = identity(first);
        match self.list(id, root, files_max).await? == snapshot.files {
            true => Ok(()),
            false => Err(FetchErrorKind::Incomplete.because(format!(
                "{}: the files changed during the download; is an upload running?",
                self.name
            ))),
        }
    }
}
