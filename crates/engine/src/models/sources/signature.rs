//! Signatures of sources. If a model has keys, one of them must have signed every file of a version:
//! with minisign, through `SHA256SUMS`, or in a bundle of OpenSSF Model Signing. Called by
//! [`directory`](super::directory).

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use minisign_verify::{PublicKey, Signature};
use onnxd_proto::domain::{Checksums, Refusal, RefusalKind};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::models::{
    disk::hex,
    sources::{selection::BUNDLE, source::FetchedFile},
};

/// Maximum bytes of a file with a signature: room for the paths of all files of a source.
pub(super) const BYTES_MAX: u64 = 4 << 20;

/// The first line of a public key as PEM.
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";
/// What precedes the point of a P-256 key in DER: the algorithm, the curve and the lengths.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of an uncompressed point of that curve.
const P256_POINT_BYTES: usize = 65;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

/// Reads a file of the source of at most [`BYTES_MAX`] bytes; `None` if it is missing.
pub(super) type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>, Refusal>;

/// A public key that may sign a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKey {
    /// A key of minisign, in base64.
    Minisign(String),
    /// An uncompressed point of the curve P-256.
    P256(Vec<u8>),
}

impl SourceKey {
    /// Parses a public key as minisign writes it, or a P-256 key as PEM.
    ///
    /// # Errors
    /// Returns what is expected.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected a public key of minisign or a P-256 public key as PEM";
        if let Some((_, rest)) = text.split_once(PEM_BEGIN) {
            let base64 = rest.split_once(PEM_END).ok_or(EXPECTED)?.0;
            let base64: String = base64.split_ascii_whitespace().collect();
            let der = BASE64_STANDARD.decode(base64).map_err(|_| EXPECTED)?;
            let point = der.strip_prefix(&P256_PREFIX).ok_or(EXPECTED)?;
            let is_point = point.len() == P256_POINT_BYTES && point[0] == 4;
            return if is_point { Ok(Self::P256(point.to_owned())) } else { Err(EXPECTED) };
        }
        if text.contains("PRIVATE KEY-----") || text.contains("minisign encrypted secret key") {
            return Err(
                "this is the private key, which onnxd does not need; pass the public key of the pair",
            );
        }
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        PublicKey::from_base64(line).map_err(|_| EXPECTED)?;
        Ok(Self::Minisign(line.to_owned()))
    }

    /// Returns why this key has not signed the files, if it has not.
    fn fault(&self, files: &[FetchedFile], read: Read<'_>) -> Result<Option<String>, Refusal> {
        let missing = |path: &str, remedy: &str| Ok(Some(format!("{path} is missing; {remedy}")));
        match self {
            Self::Minisign(key) => {
                let Some(signature) = read(Checksums::SIGNATURE)? else {
                    return missing(
                        Checksums::SIGNATURE,
                        "create it with `minisign -S -m SHA256SUMS`",
                    );
                };
                let Some(text) = read(Checksums::FILE)? else {
                    return missing(Checksums::FILE, "create it with `sha256sum`");
                };
                Ok(minisign_fault(key, &text, &signature, files))
            }
            Self::P256(point) => {
                let Some(bundle) = read(BUNDLE)? else {
                    return missing(BUNDLE, "create it with `model_signing sign key`");
                };
                Ok(bundle_fault(point, &bundle, files))
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Minisign(key) => key.as_bytes(),
            Self::P256(point) => point,
        }
    }
}

/// The keys of a model. Without any, no signature is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceKeys(Arc<[SourceKey]>);

impl From<Vec<SourceKey>> for SourceKeys {
    fn from(keys: Vec<SourceKey>) -> Self {
        Self(keys.into())
    }
}

impl SourceKeys {
    /// Returns whether no signature is needed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Identifies the keys; empty if there are none.
    pub(in crate::models) fn id(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut digest = Sha256::new();
        for key in self.0.iter() {
            digest.update(Sha256::digest(key.bytes()));
        }
        hex(&digest.finalize())
    }

    /// Checks that one of the keys has signed every file.
    ///
    /// # Errors
    /// `Signature` if none has; the message says why not.
    pub(super) fn verify(&self, files: &[FetchedFile], read: Read<'_>) -> Result<(), Refusal> {
        let mut faults: Vec<String> = Vec::new();
        for key in self.0.iter() {
            match key.fault(files, read)? {
                None => return Ok(()),
                Some(fault) if faults.contains(&fault) => {}
                Some(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(RefusalKind::Signature.because(faults.join("; ")))
        }
    }
}

fn minisign_fault(
    key: &str,
    text: &[u8],
    signature: &[u8],
    files: &[FetchedFile],
) -> Option<String> {
    let (sums, file) = (Checksums::FILE, Checksums::SIGNATURE);
    let signature = std::str::from_utf8(signature).ok();
    let Some(signature) = signature.and_then(|text| Signature::decode(text).ok()) else {
        return Some(format!("{file} is not a signature of minisign"));
    };
    let is_signed =
        PublicKey::from_base64(key).is_ok_and(|key| key.verify(text, &signature, false).is_ok());
    if !is_signed {
        return Some(format!("{file} is not a signature of {sums} by a configured key"));
    }
    let checksums = std::str::from_utf8(text).ok().and_then(|text| Checksums::parse(text).ok());
    let Some(checksums) = checksums else { return Some(format!("{sums} is malformed")) };
    let digest = |path: &str| checksums.iter().find(|(listed, _)| *listed == path);
    files.iter().find_map(|file| match digest(&file.path) {
        Some((_, sha256)) if sha256 == file.sha256 => None,
        Some(_) => Some(format!("{} does not match {sums}", file.path)),
        None => Some(format!("{} is not listed in {sums}, so it is not signed", file.path)),
    })
}

/// A Sigstore bundle, as far as it is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

/// An in-toto statement about a model.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Predicate {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

fn bundle_fault(point: &[u8], bundle: &[u8], files: &[FetchedFile]) -> Option<String> {
    let malformed = || Some(format!("{BUNDLE} is not a bundle of OpenSSF Model Signing"));
    let Ok(Bundle { dsse_envelope: envelope }) = serde_json::from_slice(bundle) else {
        return malformed();
    };
    let Ok(payload) = BASE64_STANDARD.decode(&envelope.payload) else { return malformed() };
    let signed = pre_authentication_encoding(&envelope.payload_type, &payload);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    let is_signed = envelope.signatures.iter().any(|signature| {
        BASE64_STANDARD.decode(&signature.sig).is_ok_and(|sig| key.verify(&signed, &sig).is_ok())
    });
    if !is_signed {
        return Some(format!("{BUNDLE} is not signed by a configured key"));
    }
    // The owner of the key may also sign statements of other kinds.
    let statement: Statement = match serde_json::from_slice(&payload) {
        Ok(statement) if envelope.payload_type == PAYLOAD_TYPE => statement,
        _ => return malformed(),
    };
    if statement.kind != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
        return malformed();
    }
    let resources = statement.predicate.resources;
    files.iter().find_map(|file| {
        match resources.iter().find(|resource| resource.name == file.path) {
            Some(Resource { algorithm, .. }) if algorithm != "sha256" => Some(format!(
                "{BUNDLE} lists {} with {algorithm}; sign with --hash-algorithm sha256",
                file.path
            )),
            Some(Resource { digest, .. }) if digest.eq_ignore_ascii_case(&file.sha256) => None,
            Some(_) => Some(format!("{} does not match {BUNDLE}", file.path)),
            None => Some(format!("{} is not listed in {BUNDLE}, so it is not signed", file.path)),
        }
    })
}

/// Returns the bytes that a DSSE signature covers.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
