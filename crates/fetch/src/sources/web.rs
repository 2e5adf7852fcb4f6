//! `https://host/path/` and `http://host/path/`: a folder of a web server. Its `SHA256SUMS`, uploaded
//! last, is the snapshot.

use async_trait::async_trait;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, ETAG},
};
use onnxd_proto::domain::{
    Checksums, RemoteUri,
    fetch::{FetchError, FetchErrorKind},
};
use url::Url;

use crate::{
    client::{Client, Request},
    environment::Environment,
    netrc,
    part::Offset,
    sources::{
        answer::{Opened, Validators, encoded, opened, ranged},
        checksums,
        source::{File, KnownSnapshot, Snapshot, Source},
    },
};

const REMEDY: &str = "add the host with login and password to ~/.netrc, or to the file in NETRC";

/// A folder of a web server.
pub(super) struct Web {
    client: Client,
    /// Ends with a slash.
    base: Url,
    authorization: Option<HeaderValue>,
}

impl Web {
    /// Creates the source. Reads netrc.
    pub(super) fn new(
        uri: &RemoteUri,
        client: Client,
        environment: &Environment,
    ) -> Result<Self, FetchError> {
        let text = format!("{}://{}/", uri.scheme(), uri.location());
        let base = Url::parse(&text)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{text}: {error}")))?;
        let authorization = netrc::authorization(environment, base.host_str().unwrap_or_default());
        Ok(Self { client, base, authorization })
    }

    /// Returns the advice for an answer without access.
    fn remedy(&self) -> &'static str {
        match self.authorization {
            Some(_) => "the login and password in netrc do not give access",
            None => REMEDY,
        }
    }

    fn request(&self, path: &str, of: fn(Url) -> Request) -> Result<Request, FetchError> {
        let url = self
            .base
            .join(&encoded(path))
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{path}: {error}")))?;
        Ok(of(url).authorization(self.authorization.clone()))
    }
}

#[async_trait(?Send)]
impl Source for Web {
    async fn resolve(
        &self,
        known: &KnownSnapshot,
        _: usize,
    ) -> Result<Option<Snapshot>, FetchError> {
        let request = known.validators.apply(self.request(Checksums::FILE, Request::get)?);
        let response = self.client.send(request).await?;
        match response.status {
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::NOT_FOUND => {
                let message = checksums::missing(&response.url);
                return Err(FetchErrorKind::Incomplete.because(message));
            }
            _ => {}
        }
        let response = response.success(self.remedy()).await?;
        let validators = Validators::of(&response);
        let from = response.url;
        let bytes = response.body.all(Checksums::BYTES_MAX).await?;
        checksums::snapshot(&bytes, &from, validators).map(Some)
    }

    async fn signature(&self, snapshot: &Snapshot) -> Result<Vec<File>, FetchError> {
        let request = self.request(Checksums::SIGNATURE, Request::head)?;
        let response = self.client.send(request).await?;
        let length = match response.status {
            // Some servers answer 403 for files that do not exist.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => return Ok(Vec::new()),
            // The download shows whether it exists.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => None,
            status if status.is_success() => {
                response.header(CONTENT_LENGTH).and_then(|text| text.parse().ok())
            }
            _ => return response.success(self.remedy()).await.map(|_| Vec::new()),
        };
        let etag = response.header(ETAG).map(str::to_owned);
        let identity = etag.or_else(|| Some(snapshot.id.clone()));
        Ok(checksums::signature(snapshot, length, identity))
    }

    async fn stat(&self, file: &mut File) -> Result<(), FetchError> {
        let response = self.client.send(self.request(&file.path, Request::head)?).await?;
        match response.status {
            StatusCode::NOT_FOUND => return Err(checksums::listed_but_missing(&file.path)),
            status if status.is_success() => {
                let length = response.header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
                file.bytes = file.bytes.or(length);
            }
            // Some servers do not answer HEAD. The download shows what is wrong otherwise.
            status => tracing::debug!(%status, url = response.url, "HEAD failed"),
        }
        Ok(())
    }

    async fn open(&self, file: &File, from: &Offset) -> Result<Opened, FetchError> {
        let request = ranged(self.request(&file.path, Request::get)?, from);
        let response = self.client.send(request).await?;
        match response.status {
            StatusCode::NOT_FOUND => Err(checksums::listed_but_missing(&file.path)),
            _ => opened(response.success(self.remedy()).await?, from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_become_queries_or_other_urls() {
        let base = Url::parse("https://host/m/").unwrap();
        for (path, url) in [
            ("a b/c#d?e.onnx", "https://host/m/a%20b/c%23d%3Fe.onnx"),
            ("http://x", "https://host/m/http%3A//x"),
            ("%2e%2e/x", "https://host/m/%252e%252e/x"),
        ] {
            assert_eq!(base.join(&encoded(path)).unwrap().as_str(), url);
        }
    }
}
