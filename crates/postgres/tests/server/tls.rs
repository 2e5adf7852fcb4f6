//! Connections with TLS. The servers of the tests have none, so a proxy adds it.

use std::{net::SocketAddr, sync::Arc};

use onnxd_proto::search::{FromIndex, IndexErrorKind, ToIndex};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{database::Database, process::Process};

/// What a client sends first, if it wants TLS.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Accepts connections with TLS for `name`, and passes them on to a server without.
async fn proxy(listener: TcpListener, server: SocketAddr, key: CertifiedKey<rcgen::KeyPair>) {
    let certificate = key.cert.der().clone();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut first = [0; 8];
            client.read_exact(&mut first).await?;
            assert_eq!(first, TLS_REQUEST, "the client wants TLS before anything else");
            client.write_all(b"S").await?;
            let mut session = acceptor.accept(client).await?;
            let mut behind = TcpStream::connect(server).await?;
            copy_bidirectional(&mut session, &mut behind).await
        });
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn only_servers_with_a_trusted_certificate_get_the_password() {
    let database = Database::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (folder.path().join("own.pem"), folder.path().join("other.pem"));
    std::fs::write(&own, key.cert.pem()).unwrap();
    let stranger = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.cert.pem()).unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(proxy(listener, database.address(), key));
    let url = |host: &str, mode: &str, file: &std::path::Path| {
        let (server, proxy) = (database.address().to_string(), format!("{host}:{port}"));
        let (url, file) = (database.url().replace(&server, &proxy), file.display());
        format!("{url}&sslmode={mode}&sslrootcert={file}")
    };
    let empty = FromIndex::Collections(vec![]);
    for mode in ["require", "verify-full", "prefer"] {
        let process = Process::postgres(&url("localhost", mode, &own));
        assert_eq!(process.ask(&ToIndex::List, &[]), empty, "{mode}");
    }
    // A name that the certificate lacks, and a certificate that nobody vouches for.
    for url in [url("127.0.0.1", "require", &own), url("localhost", "require", &other)] {
        let process = Process::postgres(&url);
        assert_eq!(process.refused(&ToIndex::List, &[]), IndexErrorKind::Unavailable, "{url}");
    }
}
