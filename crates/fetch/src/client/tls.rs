//! Certificate authorities that servers must be certified by.

use std::sync::Arc;

use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::environment::{Environment, read};

/// Returns the TLS configuration: the machine's CAs, or those of `SSL_CERT_FILE`, and more from
/// `ONNXD_SOURCE_CA_FILE` or `AWS_CA_BUNDLE`.
pub(super) fn configuration(environment: &Environment) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    let mut add = |variable: &str, path: &str| {
        let pem = read(path.as_ref()).unwrap_or_default();
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
        let certificates: Vec<_> = certificates.filter_map(Result::ok).collect();
        match roots.add_parsable_certificates(certificates) {
            (0, _) => Err(FetchErrorKind::Configuration
                .because(format!("{variable}={path}: no certificates; expected a PEM file"))),
            _ => Ok(()),
        }
    };
    for variable in ["ONNXD_SOURCE_CA_FILE", "AWS_CA_BUNDLE"] {
        if let Some(path) = environment.get(variable) {
            add(variable, path)?;
        }
    }
    match environment.get("SSL_CERT_FILE") {
        Some(path) => add("SSL_CERT_FILE", path)?,
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchErrorKind::Internal.because(format!("TLS: {error}")))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
