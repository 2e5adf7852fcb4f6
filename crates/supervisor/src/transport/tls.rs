//! TLS: loads and reloads the certificate and its key, and configures handshakes for
//! [`crate::transport::listener`].

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

use crate::transport::{
    certificate,
    secret_file::{self, FileError},
};

/// Maximum size of either file in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Paths of a certificate and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate, followed by intermediate certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The certificate in use.
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Current>,
}

/// What was read from the files last.
#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    /// When the first certificate of the chain expires, in seconds since the Unix epoch.
    expires: Option<u64>,
}

/// Why a certificate and key cannot be used. Never quotes the key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("--tls-cert: {}: {error}", path.display())]
    CertificateFile { path: PathBuf, error: FileError },
    #[error("--tls-cert: {}: expected a PEM file with a certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("--tls-key: {}: {error}", path.display())]
    KeyFile { path: PathBuf, error: FileError },
    #[error(
        "--tls-key: {}: expected a PEM file with an unencrypted private key (PKCS#8, PKCS#1 or SEC1)",
        path.display()
    )]
    NoKey { path: PathBuf },
    #[error(
        "--tls-key: {}: the key does not match the certificate in {}",
        files.key.display(), files.certificate.display()
    )]
    Mismatch { files: TlsFiles },
    #[error(
        "--tls-cert: cannot use {} with the key in {}: {error}",
        files.certificate.display(), files.key.display()
    )]
    Unusable { files: TlsFiles, error: rustls::Error },
}

impl Tls {
    /// Loads both files.
    ///
    /// # Errors
    /// A file is invalid, or the key does not match the certificate.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(Self { files, current })
    }

    /// Reloads both files. Open connections are not affected.
    ///
    /// # Errors
    /// As for [`Tls::load`]. The previous certificate stays in use then.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let current = read(&self.files)?;
        tracing::info!("reloaded the TLS certificate");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// Returns when the first certificate of the chain expires, in seconds since the Unix epoch. `None` if
    /// no certificate says so.
    pub(crate) fn expires(&self) -> Option<u64> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).expires
    }

    /// Returns the configuration of the next handshake, with the listener's protocols in order of
    /// preference.
    pub(crate) fn config(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        // Cheap compared to a handshake: large parts are shared.
        let mut config = ServerConfig::clone(&current.config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Builds a new configuration, with a new session store: a resumed session would keep using the old
/// certificate.
fn read(files: &TlsFiles) -> Result<Current, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_no_client_auth();
    let chain = certificates(&files.certificate)?;
    let expires = chain.iter().filter_map(|der| certificate::expires(der)).min();
    let config =
        builder.with_single_cert(chain, key(&files.key)?).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { files: files.clone() },
            error => TlsError::Unusable { files: files.clone(), error },
        })?;
    Ok(Current { config: Arc::new(config), expires })
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
    // Errors of the parser may quote the file.
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

    struct Fixture {
        _directory: tempfile::TempDir,
        files: TlsFiles,
    }

    impl Fixture {
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
    fn invalid_files_are_named_with_the_reason() {
        let (fixture, one, other) = (Fixture::new(), pair(), pair());
        let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        let broken = key.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----");
        for (certificate, key, part) in [
            ("", key.as_str(), "cert.pem: expected a PEM file with a certificate"),
            (&key, &key, "cert.pem: expected a PEM file with a certificate"),
            (&certificate, "", "key.pem: expected a PEM file with an unencrypted private key"),
            (
                &certificate,
                &certificate,
                "key.pem: expected a PEM file with an unencrypted private key",
            ),
            (&certificate, &broken, "key.pem: expected a PEM file with an unencrypted private key"),
            (&certificate, &other.signing_key.serialize_pem(), "does not match the certificate"),
        ] {
            fixture.write(certificate, key);
            let message = fixture.error();
            assert!(message.contains(part), "{message}");
            assert!(!key.lines().any(|line| line.len() > 9 && message.contains(line)), "{message}");
        }
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        fixture.write(nonsense, &key);
        assert!(fixture.error().contains("cannot use"), "{}", fixture.error());
        fs::remove_file(&fixture.files.certificate).unwrap();
        assert!(fixture.error().contains("--tls-cert") && fixture.error().contains("No such file"));
    }

    #[test]
    fn invalid_pair_keeps_the_previous_certificate() {
        let (fixture, one, other) = (Fixture::new(), pair(), pair());
        fixture.write(&one.cert.pem(), &one.signing_key.serialize_pem());
        let tls = Tls::load(fixture.files.clone()).unwrap();
        let before = tls.config(&[b"h2"]);
        assert_eq!(before.alpn_protocols, [b"h2"]);

        fixture.write(&other.cert.pem(), &one.signing_key.serialize_pem());
        tls.reload().unwrap_err();
        assert!(Arc::ptr_eq(&before.cert_resolver, &tls.config(&[]).cert_resolver));

        fixture.write(&other.cert.pem(), &other.signing_key.serialize_pem());
        tls.reload().unwrap();
        let after = tls.config(&[b"http/1.1"]);
        assert!(!Arc::ptr_eq(&before.cert_resolver, &after.cert_resolver));
        assert!(!Arc::ptr_eq(&before.session_storage, &after.session_storage));
        let shown = format!("{tls:?}");
        assert!(!shown.contains("Key {") && shown.contains("key.pem"), "{shown}");
    }
}
