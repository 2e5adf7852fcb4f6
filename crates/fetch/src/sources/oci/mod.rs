//! `oci://registry/repository[:tag|@sha256:…]`: an artifact or image of a container registry. The
//! digest of the manifest is the snapshot.

mod auth;
mod manifest;
mod unpack;

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr};

use async_trait::async_trait;
use http::{
    HeaderValue, StatusCode,
    header::{ACCEPT, WWW_AUTHENTICATE},
};
use onnxd_proto::domain::{
    RemoteUri,
    fetch::{FetchError, FetchErrorKind, Pin},
};
use url::Url;

use self::{
    auth::Login,
    manifest::{Content, Manifest},
};
use crate::{
    client::{Client, Request, Response, redirects::is_same_server},
    digest::{self, Digest},
    environment::Environment,
    folder::OWN,
    part::{Offset, Part},
    sources::{
        answer::{Opened, Validators, opened, ranged},
        source::{File, KnownSnapshot, Snapshot, Source, UnpackTarget},
    },
};

/// Docker's name of its registry, and the host that serves it.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
/// Maximum bytes of a manifest, as registries limit it.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
const DIGEST_HEADER: &str = "docker-content-digest";
/// Prefix of a snapshot's id.
const ID_PREFIX: &str = "oci:";

/// A repository of a registry.
pub(super) struct Registry {
    client: Client,
    /// Ends with `/v2/REPOSITORY/`.
    base: Url,
    reference: String,
    login: Login,
    authorization: RefCell<Option<HeaderValue>>,
    /// Digests of blobs by path.
    blobs: RefCell<BTreeMap<String, String>>,
}

impl Registry {
    /// Creates the source. Reads Docker's configuration.
    pub(super) fn new(
        uri: &RemoteUri,
        client: Client,
        environment: &Environment,
    ) -> Result<Self, FetchError> {
        let (name, reference) = uri.revision();
        let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
        let is_docker_hub = registry == DOCKER_HUB.0;
        let host = if is_docker_hub { DOCKER_HUB.1 } else { registry };
        let library = if is_docker_hub && !repository.contains('/') { "library/" } else { "" };
        let scheme = if is_loopback(host) { "http" } else { "https" };
        let text = format!("{scheme}://{host}/v2/{library}{repository}/");
        let base = Url::parse(&text)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{text}: {error}")))?;
        Ok(Self {
            client,
            base,
            reference: reference.unwrap_or("latest").to_owned(),
            login: Login::of(environment, registry),
            authorization: RefCell::default(),
            blobs: RefCell::default(),
        })
    }

    /// Sends a request, and logs in if the registry wants that.
    async fn send(&self, path: &str, of: impl Fn(Url) -> Request) -> Result<Response, FetchError> {
        let url = self
            .base
            .join(path)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{path}: {error}")))?;
        let known = self.authorization.borrow().clone();
        let response = self.client.send(of(url.clone()).authorization(known)).await?;
        let is_own = Url::parse(&response.url).is_ok_and(|url| is_same_server(&url, &self.base));
        // Another server, to which the registry redirected, must not learn the password.
        if response.status != StatusCode::UNAUTHORIZED || !is_own {
            return Ok(response);
        }
        let challenge = response.header(WWW_AUTHENTICATE).unwrap_or_default().to_owned();
        let authorization = self.login.answer(&self.client, &challenge, &self.base).await?;
        self.authorization.replace(Some(authorization.clone()));
        self.client.send(of(url).authorization(Some(authorization))).await
    }

    /// Returns the digest of the tag.
    async fn digest(&self) -> Result<String, FetchError> {
        if self.reference.starts_with("sha256:") {
            return manifest::checked_digest(&self.reference, self.base.as_str());
        }
        let path = format!("manifests/{}", self.reference);
        let accept = |url| Request::head(url).header(ACCEPT, manifest::TYPES);
        let response = self.send(&path, accept).await?.success(&self.login.remedy()).await?;
        match response.header(DIGEST_HEADER) {
            Some(digest) => manifest::checked_digest(digest, &response.url),
            None => Ok(format!(
                "sha256:{}",
                digest::sha256(&self.manifest_bytes(&self.reference).await?)
            )),
        }
    }

    async fn manifest_bytes(&self, reference: &str) -> Result<Vec<u8>, FetchError> {
        let accept = |url| Request::get(url).header(ACCEPT, manifest::TYPES);
        let response = self.send(&format!("manifests/{reference}"), accept).await?;
        response.success(&self.login.remedy()).await?.body.all(MANIFEST_BYTES_MAX).await
    }

    /// Returns a verified manifest.
    async fn manifest(&self, digest: &str) -> Result<Manifest, FetchError> {
        let bytes = self.manifest_bytes(digest).await?;
        if format!("sha256:{}", digest::sha256(&bytes)) != digest {
            let message =
                format!("{}manifests/{digest}: the content has another digest", self.base);
            return Err(FetchErrorKind::Checksum.because(message));
        }
        Manifest::parse(&bytes, self.base.as_str())
    }

    /// Remembers the blob of a file.
    fn file(&self, path: String, bytes: u64, digest: &str) -> File {
        self.blobs.borrow_mut().insert(path.clone(), digest.to_owned());
        let digest = Digest::of_etag(digest.trim_start_matches("sha256:"));
        File { path, bytes: Some(bytes), digest, identity: None }
    }
}

/// Returns whether a registry is on this machine, where Docker uses no TLS either.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[async_trait(?Send)]
impl Source for Registry {
    async fn resolve(
        &self,
        known: &KnownSnapshot,
        _: usize,
    ) -> Result<Option<Snapshot>, FetchError> {
        let digest = self.digest().await?;
        let id = format!("{ID_PREFIX}{digest}");
        if known.id.as_ref() == Some(&id) {
            return Ok(None);
        }
        let mut manifest = self.manifest(&digest).await?;
        if let Some(digest) = manifest.of_platform(self.base.as_str())? {
            manifest = self.manifest(&digest).await?;
        }
        let (mut files, mut archives) = (Vec::new(), Vec::new());
        for layer in manifest.layers(self.base.as_str())? {
            match layer.content {
                Content::File(path) => files.push(self.file(path, layer.bytes, &layer.digest)),
                Content::Archive => {
                    let hex = layer.digest.trim_start_matches("sha256:");
                    archives.push(self.file(
                        format!("{OWN}/.{hex}.layer"),
                        layer.bytes,
                        &layer.digest,
                    ));
                }
            }
        }
        let (pin, notes, validators) = (Pin::Digest, Vec::new(), Validators::default());
        Ok(Some(Snapshot { id, pin, files, archives, notes, validators }))
    }

    async fn unpack(
        &self,
        snapshot: Snapshot,
        target: &UnpackTarget<'_>,
    ) -> Result<Snapshot, FetchError> {
        let unpacked = unpack::unpack(target, &snapshot.archives).inspect_err(|error| {
            Part::discard_all(target.folder);
            // A full disk may have room later, but an archive that cannot be unpacked stays so.
            let is_transient =
                matches!(error.kind, FetchErrorKind::Space | FetchErrorKind::Internal);
            for archive in snapshot.archives.iter().filter(|_| !is_transient) {
                let _ = target.folder.remove(&archive.path);
            }
        })?;
        let mut files = snapshot.files;
        files.extend(unpacked);
        Ok(Snapshot { files, ..snapshot })
    }

    async fn open(&self, file: &File, from: &Offset) -> Result<Opened, FetchError> {
        let digest = self.blobs.borrow().get(&file.path).cloned();
        let Some(digest) = digest else {
            let message = format!("{}: no longer unpacked; resolve the source again", file.path);
            return Err(FetchErrorKind::Incomplete.because(message));
        };
        let response =
            self.send(&format!("blobs/{digest}"), |url| ranged(Request::get(url), from)).await?;
        opened(response.success(&self.login.remedy()).await?, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registries_of_this_machine_are_asked_without_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1:5000", "ghcr.io", "registry:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
