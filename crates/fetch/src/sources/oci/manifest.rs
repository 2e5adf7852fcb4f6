//! Manifests of registries: which blobs an artifact or image consists of. Pure.

use std::collections::BTreeMap;

use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use serde::Deserialize;

/// Media types of manifests, in order of preference.
pub(super) const TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.cncf.model.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// Annotations that name the file in a layer: of CNCF's model format, and of ORAS.
const NAMES: [&str; 2] = ["org.cncf.model.filepath", "org.opencontainers.image.title"];

/// A manifest, or an index of manifests for several platforms.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// A layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: String,
    pub(super) bytes: u64,
    pub(super) content: Content,
}

/// What a layer contains.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// One file with this path.
    File(String),
    /// A tar archive, which may be compressed.
    Archive,
}

impl Manifest {
    /// Parses a manifest from `from`.
    pub(super) fn parse(bytes: &[u8], from: &str) -> Result<Self, FetchError> {
        serde_json::from_slice(bytes).map_err(|error| {
            FetchErrorKind::Malformed.because(format!("{from}: manifest: {error}"))
        })
    }

    /// Returns the digest of this machine's manifest if this is an index.
    pub(super) fn of_platform(&self, from: &str) -> Result<Option<String>, FetchError> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let is_ours = |entry: &&Descriptor| {
            let platform = entry.platform.as_ref();
            platform.is_some_and(|platform| {
                platform.os == "linux" && platform.architecture == architecture
            })
        };
        let found = match self.manifests.as_slice() {
            [] => return Ok(None),
            [only] => Some(only),
            several => several.iter().find(is_ours),
        };
        let found = found.ok_or_else(|| {
            FetchErrorKind::NotFound
                .because(format!("{from}: no manifest for linux/{architecture}"))
        })?;
        checked_digest(&found.digest, from).map(Some)
    }

    /// Returns the layers.
    pub(super) fn layers(self, from: &str) -> Result<Vec<Layer>, FetchError> {
        let malformed =
            |reason: String| FetchErrorKind::Malformed.because(format!("{from}: {reason}"));
        if self.layers.is_empty() {
            return Err(malformed("the manifest has no layers".to_owned()));
        }
        let layers = self.layers.into_iter().map(|layer| {
            let name =
                NAMES.iter().find_map(|name| layer.annotations.as_ref()?.get(*name).cloned());
            let media_type = layer.media_type.as_str();
            if media_type.ends_with("zstd") {
                return Err(malformed("layers with zstd are not supported; use gzip".to_owned()));
            }
            let content = match name {
                _ if media_type.contains(".tar") => Content::Archive,
                Some(path) => Content::File(path),
                None => {
                    return Err(malformed(format!(
                        "a layer of type {media_type:?} names no file; push files with `oras push`"
                    )));
                }
            };
            let digest = checked_digest(&layer.digest, from)?;
            Ok(Layer { digest, bytes: layer.size, content })
        });
        layers.collect()
    }
}

/// Returns a digest if it is SHA-256.
pub(super) fn checked_digest(digest: &str, from: &str) -> Result<String, FetchError> {
    let is_valid = digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    });
    match is_valid {
        true => Ok(digest.to_owned()),
        false => Err(FetchErrorKind::Malformed
            .because(format!("{from}: {digest:?} is not a SHA-256 digest"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(json: &str) -> Result<Vec<Layer>, FetchError> {
        let digest = format!("sha256:{}", "a".repeat(64));
        Manifest::parse(json.replace("DIGEST", &digest).as_bytes(), "r")?.layers("r")
    }

    #[test]
    fn layers_are_named_files_or_archives() {
        let found = layers(
            r#"{"layers": [
            {"mediaType": "application/octet-stream", "digest": "DIGEST", "size": 3,
             "annotations": {"org.opencontainers.image.title": "onnx/model.onnx"}},
            {"mediaType": "application/vnd.cncf.model.weight.v1.tar", "digest": "DIGEST", "size": 4,
             "annotations": {"org.cncf.model.filepath": "x"}},
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "DIGEST", "size": 5}
            ]}"#,
        );
        let contents: Vec<_> =
            found.unwrap().into_iter().map(|layer| (layer.bytes, layer.content)).collect();
        let file = Content::File("onnx/model.onnx".to_owned());
        assert_eq!(contents, [(3, file), (4, Content::Archive), (5, Content::Archive)]);
    }

    #[test]
    fn unusable_layers_are_refused() {
        for json in [
            "[]",
            "{}",
            r#"{"layers": [{"mediaType": "application/octet-stream", "digest": "DIGEST", "size": 3}]}"#,
            r#"{"layers": [{"mediaType": "a.tar+zstd", "digest": "DIGEST", "size": 3}]}"#,
            r#"{"layers": [{"mediaType": "a.tar", "digest": "sha256:../..", "size": 3}]}"#,
            r#"{"layers": [{"mediaType": "a.tar", "digest": "DIGEST", "size": -1}]}"#,
        ] {
            assert_eq!(layers(json).unwrap_err().kind, FetchErrorKind::Malformed, "{json}");
        }
    }

    #[test]
    fn an_index_leads_to_this_machines_manifest() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let entry = |architecture: &str, digit| {
            format!(
                r#"{{"digest": "{}", "size": 1, "platform": {{"architecture": "{architecture}", "os": "linux"}}}}"#,
                digest(digit)
            )
        };
        let index = |entries: &[String]| {
            let text = format!(r#"{{"manifests": [{}]}}"#, entries.join(","));
            Manifest::parse(text.as_bytes(), "r").unwrap().of_platform("r")
        };
        let (amd, arm) = (entry("amd64", "a"), entry("arm64", "b"));
        let ours = digest(if cfg!(target_arch = "x86_64") { "a" } else { "b" });
        assert_eq!(index(&[amd, arm]).unwrap(), Some(ours));
        let other = entry("s390x", "c");
        assert_eq!(index(std::slice::from_ref(&other)).unwrap(), Some(digest("c")));
        assert!(index(&[other.clone(), other]).is_err());
        assert_eq!(index(&[]).unwrap(), None);
    }
}
