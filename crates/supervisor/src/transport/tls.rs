//! TLS: the certificate and its key, read at the start and again on demand. Owns the files and
//! what a listener needs to shake hands; connections belong to [`crate::transport::listener`].

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::transport::secret_file::{self, FileError};

/// Bytes of either file. A longer one is refused.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a certificate and its key are, both as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate, and after it those that vouch for it.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// The certificate that is shown now.
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

/// Why a certificate and its key cannot be used. Never says what stands in the key's file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("--tls-cert {}: {error}", path.display())]
    CertificateFile { path: PathBuf, error: FileError },
    #[error("--tls-cert {}: this is no PEM file with a certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("--tls-key {}: {error}", path.display())]
    KeyFile { path: PathBuf, error: FileError },
    #[error(
        "--tls-key {}: this is no PEM file with a private key (PKCS#8, PKCS#1 or SEC1, not encrypted)",
        path.display()
    )]
    NoKey { path: PathBuf },
    #[error(
        "--tls-key {}: the key does not fit the certificate --tls-cert {}",
        files.key.display(), files.certificate.display()
    )]
    Mismatch { files: TlsFiles },
    #[error(
        "--tls-cert {} and --tls-key {} cannot be used: {error}",
        files.certificate.display(), files.key.display()
    )]
    Unusable { files: TlsFiles, error: rustls::Error },
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be used, or they do not belong together.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads both files again. Connections that are there go on as they are.
    ///
    /// # Errors
    /// As [`Tls::load`]; the certificate from before is shown on then.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.files)?;
        tracing::info!("the TLS certificate was read again");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// What the next handshake uses, for a listener that speaks these protocols, the preferred
    /// one first.
    pub(crate) fn config(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        // Cheap beside a handshake: all that is large in it is shared.
        let mut config = ServerConfig::clone(&current);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// A configuration of its own each time, also with sessions of its own: whoever resumes one sees
/// no certificate, and would never notice a new one.
fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of TLS 1.2 and 1.3")
        .with_no_client_auth();
    let config = builder.with_single_cert(certificates(&files.certificate)?, key(&files.key)?);
    config.map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { files: files.clone() },
        error => TlsError::Unusable { files: files.clone(), error },
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = secret_file::read(path, FILE_BYTES_MAX)
        .map_err(|error| TlsError::CertificateFile { path: path.to_owned(), error })?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    chain
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| TlsError::NoCertificate { path: path.to_owned() })
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = secret_file::read(path, FILE_BYTES_MAX)
        .map_err(|error| TlsError::KeyFile { path: path.to_owned(), error })?;
    // The parser's own errors may quote the file.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertifiedKey, KeyPair};

    use super::*;

    fn pair() -> CertifiedKey<KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    struct Place {
        _directory: tempfile::TempDir,
        files: TlsFiles,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let files = TlsFiles {
                certificate: directory.path().join("cert.pem"),
                key: directory.path().join("key.pem"),
            };
            Self { _directory: directory, files }
        }

        fn write(&self, certificate: &str, key: &str) {
            fs::write(&self.files.certificate, certificate).unwrap();
            fs::write(&self.files.key, key).unwrap();
        }

        fn error(&self) -> String {
            Tls::load(self.files.clone()).unwrap_err().to_string()
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let (place, one, other) = (Place::new(), pair(), pair());
        let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let broken = key.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----");
        for (certificate, key, part) in [
            ("", key.as_str(), "cert.pem: this is no PEM file with a certificate"),
            (&key, &key, "cert.pem: this is no PEM file with a certificate"),
            (&certificate, "", "key.pem: this is no PEM file with a private key"),
            (&certificate, &certificate, "key.pem: this is no PEM file with a private key"),
            (&certificate, &broken, "key.pem: this is no PEM file with a private key"),
            (&certificate, &other.signing_key.serialize_pem(), "does not fit the certificate"),
        ] {
            place.write(certificate, key);
            let message = place.error();
            assert!(message.contains(part), "{message}");
            assert!(!key.lines().any(|line| line.len() > 9 && message.contains(line)), "{message}");
        }
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        place.write(nonsense, &key);
        assert!(place.error().contains("cannot be used"), "{}", place.error());
        fs::remove_file(&place.files.certificate).unwrap();
        assert!(place.error().contains("--tls-cert") && place.error().contains("No such file"));
    }

    #[test]
    fn a_bad_pair_leaves_the_certificate_and_a_good_one_begins_anew() {
        let (place, one, other) = (Place::new(), pair(), pair());
        place.write(&one.cert.pem(), &one.signing_key.serialize_pem());
        let tls = Tls::load(place.files.clone()).unwrap();
        let before = tls.config(&[b"h2"]);
        assert_eq!(before.alpn_protocols, [b"h2"]);

        place.write(&other.cert.pem(), &one.signing_key.serialize_pem());
        tls.reload().unwrap_err();
        assert!(Arc::ptr_eq(&before.cert_resolver, &tls.config(&[]).cert_resolver));

        place.write(&other.cert.pem(), &other.signing_key.serialize_pem());
        tls.reload().unwrap();
        let after = tls.config(&[b"http/1.1"]);
        assert!(!Arc::ptr_eq(&before.cert_resolver, &after.cert_resolver));
        assert!(!Arc::ptr_eq(&before.session_storage, &after.session_storage));
        let shown = format!("{tls:?}");
        assert!(!shown.contains("Key {") && shown.contains("key.pem"), "{shown}");
    }
}
