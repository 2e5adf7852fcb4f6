//! `hf://org/name[@revision]`: a model of a Hugging Face hub. A commit holds its files together.

use async_trait::async_trait;
use http::{HeaderValue, StatusCode, header::CONTENT_LENGTH, header::ETAG};
use onnxd_proto::domain::{
    RemoteUri,
    fetch::{FetchError, FetchErrorKind, Pin},
};
use serde::Deserialize;
use url::Url;

use crate::{
    client::{Client, Request, Response},
    digest::Digest,
    environment::{Environment, Secret, read},
    part::Offset,
    sources::{
        answer::{Opened, Validators, encoded, endpoint, json, opened, part_encoded, ranged},
        source::{File, KnownSnapshot, Snapshot, Source},
    },
};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";
const COMMIT: &str = "x-repo-commit";
/// Prefix of a snapshot's id.
const ID_PREFIX: &str = "hf:";

/// A model of a hub.
pub(super) struct Hub {
    client: Client,
    endpoint: Url,
    name: String,
    revision: String,
    authorization: Option<HeaderValue>,
}

/// The hub's description of a revision.
#[derive(Deserialize)]
struct Revision {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// A file of a revision.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

/// A file outside Git.
#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// Creates the source. Reads the token.
    pub(super) fn new(
        uri: &RemoteUri,
        client: Client,
        environment: &Environment,
    ) -> Result<Self, FetchError> {
        let endpoint = endpoint(environment, "HF_ENDPOINT", DEFAULT_ENDPOINT)?;
        let (name, revision) = uri.revision();
        Ok(Self {
            client: client.trusting(&endpoint),
            endpoint,
            name: name.to_owned(),
            revision: revision.unwrap_or("main").to_owned(),
            authorization: token(environment).and_then(|token| token.bearer()),
        })
    }

    fn request(&self, path: &str, of: fn(Url) -> Request) -> Result<Request, FetchError> {
        let url = self
            .endpoint
            .join(path)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{path}: {error}")))?;
        Ok(of(url).authorization(self.authorization.clone()))
    }

    fn file(&self, file: &File, of: fn(Url) -> Request) -> Result<Request, FetchError> {
        let commit = file.identity.as_deref().unwrap_or_default();
        self.request(&format!("{}/resolve/{commit}/{}", self.name, encoded(&file.path)), of)
    }

    /// Returns the advice for an answer without access.
    fn remedy(&self) -> String {
        let Self { name, revision, .. } = self;
        let exists = format!("check that {name} exists and has the revision {revision}");
        match self.authorization {
            Some(_) => format!("{exists}, and that the token in HF_TOKEN may read it"),
            None => format!("{exists}; if it is private or gated, set HF_TOKEN"),
        }
    }
}

/// Returns the token that the hub's own tools use.
fn token(environment: &Environment) -> Option<Secret> {
    let stated = environment.first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).map(Secret::new);
    stated.or_else(|| {
        let path = match (environment.get("HF_TOKEN_PATH"), environment.get("HF_HOME")) {
            (Some(path), _) => path.into(),
            (None, Some(home)) => std::path::Path::new(home).join("token"),
            (None, None) => environment.path("", ".cache/huggingface/token")?,
        };
        read(&path).map(|text| Secret::new(&text))
    })
}

/// Completes what is known of a file from the headers of the hub, not of the server that it
/// redirects to, whose ETag is no digest.
fn complete(file: &mut File, response: &Response) -> Result<(), FetchError> {
    let headers = response.redirected.as_ref().unwrap_or(&response.headers);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let (Some(sent), Some(asked)) = (header(COMMIT), &file.identity)
        && sent != asked
    {
        let message =
            format!("{}: the hub sent a file of commit {sent}, not {asked}", response.url);
        return Err(FetchErrorKind::Malformed.because(message));
    }
    let is_own = response.redirected.is_none() && response.status.is_success();
    let own = |name| header(name).filter(|_| is_own);
    let etag = header(LINKED_ETAG).or_else(|| own(ETAG.as_str()));
    file.digest = file.digest.take().or_else(|| Digest::of_etag(etag?));
    let bytes = header(LINKED_SIZE).or_else(|| own(CONTENT_LENGTH.as_str()));
    file.bytes = file.bytes.or_else(|| bytes?.parse().ok());
    Ok(())
}

#[async_trait(?Send)]
impl Source for Hub {
    async fn resolve(
        &self,
        known: &KnownSnapshot,
        _: usize,
    ) -> Result<Option<Snapshot>, FetchError> {
        let revision = part_encoded(&self.revision);
        let path = format!("api/models/{}/revision/{revision}?blobs=true", self.name);
        let response =
            self.client.send(known.validators.apply(self.request(&path, Request::get)?)).await?;
        if response.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let response = response.success(&self.remedy()).await?;
        let validators = Validators::of(&response);
        let url = response.url.clone();
        let found: Revision = json(response).await?;
        if found.sha.len() != 40 || !found.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = format!("{url}: {:?} is not a commit", found.sha);
            return Err(FetchErrorKind::Malformed.because(message));
        }
        let files = found.siblings.into_iter().map(|sibling| {
            let lfs = sibling.lfs.as_ref();
            let digest = match lfs {
                Some(lfs) => lfs.sha256.as_deref(),
                None => sibling.blob_id.as_deref(),
            };
            File {
                digest: digest.and_then(Digest::of_etag),
                bytes: lfs.and_then(|lfs| lfs.size).or(sibling.size),
                path: sibling.rfilename,
                identity: Some(found.sha.clone()),
            }
        });
        Ok(Some(Snapshot {
            id: format!("{ID_PREFIX}{}", found.sha),
            pin: Pin::Commit,
            files: files.collect(),
            archives: Vec::new(),
            notes: Vec::new(),
            validators,
        }))
    }

    async fn stat(&self, file: &mut File) -> Result<(), FetchError> {
        // The server of large files may refuse HEAD, and the hub's redirect says enough.
        let response = self.client.send(self.file(file, Request::head)?.stay()).await?;
        match response.status.is_success() || response.status.is_redirection() {
            true => complete(file, &response),
            // The download shows what is wrong.
            false => Ok(()),
        }
    }

    async fn open(&self, file: &File, from: &Offset) -> Result<Opened, FetchError> {
        let request = ranged(self.file(file, Request::get)?, from);
        let response = self.client.send(request).await?.success(&self.remedy()).await?;
        let mut found = file.clone();
        complete(&mut found, &response)?;
        Ok(Opened { digest: found.digest, ..opened(response, from)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_where_the_hubs_tools_keep_it() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join(".cache/huggingface");
        std::fs::create_dir_all(&cache).unwrap();
        std::fs::write(cache.join("token"), "file\n").unwrap();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let home_path = home.path().to_string_lossy().into_owned();
        let found = |variables: Vec<(String, String)>| {
            token(&Environment::new(variables)).map(|token| token.reveal().to_owned())
        };
        let home = variable("HOME", &home_path);
        assert_eq!(found(vec![home.clone()]).as_deref(), Some("file"));
        assert_eq!(found(vec![home.clone(), variable("HF_HOME", "/nowhere")]), None);
        assert_eq!(found(vec![home, variable("HF_TOKEN", "set")]).as_deref(), Some("set"));
        assert_eq!(found(Vec::new()), None);
    }
}
