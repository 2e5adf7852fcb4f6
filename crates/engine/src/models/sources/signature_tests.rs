//! Tests of signatures that minisign and model-signing made; see `testdata/README.md`.

use std::{collections::BTreeMap, path::Path};

use super::*;

/// The files of the signed model.
const FILES: [&str; 3] = ["1_Pooling/config.json", "config.json", "onnx/model.onnx"];

/// The signed model in memory, so that tests can change it.
struct Model(BTreeMap<String, Vec<u8>>);

impl Model {
    fn signed() -> Self {
        let proofs = [Checksums::FILE, Checksums::SIGNATURE, BUNDLE];
        let files = FILES.into_iter().chain(proofs);
        Self(files.map(|path| (path.to_owned(), read(&format!("signed/{path}")))).collect())
    }

    fn with(mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(self.0.entry(path.to_owned()).or_default());
        self
    }

    fn without(mut self, path: &str) -> Self {
        self.0.remove(path);
        self
    }

    /// Verifies `paths` as if they had been fetched.
    fn verify_paths(&self, keys: &[&str], paths: &[&str]) -> Result<(), String> {
        let keys: Vec<SourceKey> = keys.iter().map(|name| key(name)).collect();
        let file = |path: &&str| {
            let bytes = &self.0[*path];
            let sha256 = hex(&Sha256::digest(bytes));
            FetchedFile { path: (*path).to_owned(), bytes: bytes.len() as u64, sha256 }
        };
        let files: Vec<FetchedFile> = paths.iter().map(file).collect();
        let read = |path: &str| Ok(self.0.get(path).cloned());
        SourceKeys::from(keys).verify(&files, &read).map_err(|refusal| {
            assert_eq!(refusal.kind, RefusalKind::Signature);
            refusal.message
        })
    }

    fn verify(&self, keys: &[&str]) -> Result<(), String> {
        self.verify_paths(keys, &FILES)
    }
}

fn read(path: &str) -> Vec<u8> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/models/sources/testdata"));
    std::fs::read(folder.join(path)).unwrap()
}

fn key(name: &str) -> SourceKey {
    SourceKey::parse(&String::from_utf8(read(name)).unwrap()).unwrap()
}

const MINISIGN: &str = "minisign.pub";
const OPENSSF: &str = "model-signing.pub";

#[test]
fn signature_by_any_configured_key_is_accepted() {
    let model = Model::signed();
    for keys in [
        &[MINISIGN][..],
        &[OPENSSF],
        &["other-minisign.pub", MINISIGN],
        &["other.pub", MINISIGN],
        &[],
    ] {
        assert_eq!(model.verify(keys), Ok(()), "{keys:?}");
    }
}

#[test]
fn other_key_or_changed_signature_is_refused() {
    let model = Model::signed();
    for (key, words) in [
        ("other-minisign.pub", "SHA256SUMS.minisig is not a signature of SHA256SUMS by"),
        ("other.pub", "model.sig is not signed by"),
    ] {
        let message = model.verify(&[key]).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
    for (path, key) in [(Checksums::FILE, MINISIGN), (Checksums::SIGNATURE, MINISIGN)] {
        let changed = Model::signed().with(path, |bytes| bytes[120] ^= 1);
        assert!(changed.verify(&[key]).is_err(), "{path}");
    }
    // One character of the payload, which stays valid base64.
    let changed = Model::signed().with(BUNDLE, |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let at = text.find("\"payload\":\"").unwrap() + 200;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    });
    let message = changed.verify(&[OPENSSF]).unwrap_err();
    assert!(message.contains("not signed by"), "{message}");
}

#[test]
fn changed_and_unlisted_files_are_named() {
    let changed = Model::signed().with("config.json", |bytes| bytes.push(b' '));
    for key in [MINISIGN, OPENSSF] {
        let message = changed.verify(&[key]).unwrap_err();
        assert!(message.contains("config.json does not match"), "{message}");
        let extra = Model::signed().with("tokenizer.json", |bytes| bytes.push(b'1'));
        let message = extra.verify_paths(&[key], &["config.json", "tokenizer.json"]).unwrap_err();
        assert!(message.contains("tokenizer.json is not listed"), "{message}");
    }
}

#[test]
fn missing_signature_is_refused_with_the_command_that_makes_one() {
    for (path, key, command) in [
        (Checksums::FILE, MINISIGN, "sha256sum"),
        (Checksums::SIGNATURE, MINISIGN, "minisign -S"),
        (BUNDLE, OPENSSF, "model_signing sign"),
    ] {
        let message = Model::signed().without(path).verify(&[key]).unwrap_err();
        assert!(message.contains(path) && message.contains(command), "{message}");
    }
}

#[test]
fn text_that_is_no_public_key_is_refused() {
    let private = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQE=\n-----END EC PRIVATE KEY-----\n";
    let short = format!("{PEM_BEGIN}\nMFkwEwYHKoZIzj0CAQ==\n{PEM_END}\n");
    for text in ["", "untrusted comment: x\n", "RWQ=", private, &short, PEM_BEGIN] {
        assert!(SourceKey::parse(text).is_err(), "{text}");
    }
    let secret = "untrusted comment: minisign encrypted secret key\nRWRTY0Iy\n";
    for text in [private, secret] {
        assert!(SourceKey::parse(text).unwrap_err().contains("public key of the pair"), "{text}");
    }
}

#[test]
fn keys_have_an_id_unless_there_are_none() {
    let keys = |names: &[&str]| {
        SourceKeys::from(names.iter().map(|name| key(name)).collect::<Vec<_>>()).id()
    };
    assert_eq!(keys(&[]), "");
    assert_ne!(keys(&[MINISIGN]), keys(&[OPENSSF]));
}
