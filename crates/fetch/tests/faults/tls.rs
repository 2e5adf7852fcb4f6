//! Certificates: of an unknown authority, for another name, and from a file of the administrator.

use std::fs;

use onnxd_proto::domain::fetch::FetchErrorKind;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::{
    double::{Double, Reply},
    fetch::{Fetch, checksums},
};

/// Starts a server with a certificate for `name`, which it also returns.
fn start(name: &str) -> (Double, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = rustls::crypto::ring::default_provider();
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let sums = checksums(&[("model.onnx", b"x")]);
    let server = Double::start_tls(config, move |asked| match asked.path.as_str() {
        "/m/SHA256SUMS" => Reply::ok(sums.clone()),
        "/m/model.onnx" => Reply::ok("x"),
        _ => Reply::redirect("http://127.0.0.1:1/"),
    });
    (server, cert.pem())
}

fn fetch_of(server: &Double) -> Fetch {
    Fetch::of(format!("https://localhost:{}/m/", server.port()))
}

#[test]
fn only_certificates_of_known_authorities_are_accepted() {
    let (server, pem) = start("localhost");
    let error = fetch_of(&server).fails();
    assert_eq!(error.kind, FetchErrorKind::Unreachable);
    assert!(error.message.contains("SSL_CERT_FILE"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    fs::write(&path, pem).unwrap();
    for variable in ["SSL_CERT_FILE", "ONNXD_SOURCE_CA_FILE"] {
        let fetch = fetch_of(&server).with(variable, path.to_string_lossy());
        fetch.all().unwrap();
        assert_eq!(fetch.read("model.onnx"), b"x");
    }
    let error = fetch_of(&server).with("ONNXD_SOURCE_CA_FILE", "/nowhere").fails();
    assert_eq!(error.kind, FetchErrorKind::Configuration);
    assert!(error.message.contains("ONNXD_SOURCE_CA_FILE=/nowhere"), "{error}");
}

#[test]
fn a_certificate_for_another_name_and_a_downgrade_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let (server, pem) = start("other.example");
    fs::write(&path, pem).unwrap();
    let error = fetch_of(&server).with("SSL_CERT_FILE", path.to_string_lossy()).fails();
    assert_eq!(error.kind, FetchErrorKind::Unreachable, "{error}");
    let (server, pem) = start("localhost");
    fs::write(&path, pem).unwrap();
    let mut fetch = Fetch::of(format!("https://localhost:{}/other/", server.port()));
    fetch = fetch.with("SSL_CERT_FILE", path.to_string_lossy());
    assert_eq!(fetch.kind(), FetchErrorKind::Forbidden);
}
