//! API keys and TLS, shared with HTTP.

use std::{fs, net::SocketAddr, sync::Arc};

use e2e::processes::Signal;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    Client, TIMEOUT, builder, bytes, channel, client, grpc_address,
    pb::{ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest},
    raw, refused,
};

const KEY: &str = "a-key-of-this-test";

type Pair = rcgen::CertifiedKey<rcgen::KeyPair>;

fn pair() -> Pair {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_but_health_requires_an_api_key() {
    let builder = builder(&[("m", "tiny/tensor_a")]);
    let keys = builder.directories().root().join("keys");
    fs::write(&keys, format!("{KEY}\n")).unwrap();
    let builder = builder.argument("--api-key-file").argument(keys.to_str().unwrap());
    let server = builder.start().await;
    let mut client = client(&server).await;
    let mut health = HealthClient::new(channel(&server).await);
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
    health.check(HealthCheckRequest::default()).await.unwrap();
    let metadata = client.server_metadata(ServerMetadataRequest {}).await;
    assert_eq!(refused(metadata).0, Code::Unauthenticated);
    for (name, value, allowed) in [
        ("authorization", format!("Bearer {KEY}"), true),
        ("x-api-key", KEY.to_owned(), true),
        ("authorization", "Bearer something-else".to_owned(), false),
        ("x-api-key", String::new(), false),
    ] {
        let message = raw("m", &[("x", "FP32", &[1, 4], bytes(&[1.0; 4]))]);
        let mut request = Request::new(message);
        request.metadata_mut().insert(name, value.parse().unwrap());
        match client.model_infer(request).await {
            Ok(_) => assert!(allowed, "{name}: {value}"),
            Err(status) => {
                assert_eq!((status.code(), allowed), (Code::Unauthenticated, false));
            }
        }
    }
    // A refusal keeps the connection open, even for a large request.
    let large = raw("m", &[("x", "FP32", &[1, 4], vec![0; 8 << 20].into())]);
    assert_eq!(refused(client.model_infer(large).await).0, Code::Unauthenticated);
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    server.stop().await;
}

/// Connects over TLS, trusting one certificate.
async fn over_tls(address: SocketAddr, pair: &Pair) -> Result<Client, tonic::transport::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(pair.cert.der().clone()).expect("a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            let stream = connector.connect(name, stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(Client::new(endpoint.connect_with_connector(connect).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_swaps_the_grpc_certificate() {
    let builder = builder(&[("m", "tiny/tensor_a")]);
    let home = builder.directories();
    let path = |name: &str| home.root().join(name).to_str().unwrap().to_owned();
    let write = |pair: &Pair| {
        fs::write(path("cert"), pair.cert.pem()).unwrap();
        fs::write(path("key"), pair.signing_key.serialize_pem()).unwrap();
    };
    let (first, second) = (pair(), pair());
    write(&first);
    let builder = builder.argument("--tls-cert").argument(&path("cert"));
    let server = builder.argument("--tls-key").argument(&path("key")).spawn();
    let address = grpc_address(&server).await;
    let mut kept = over_tls(address, &first).await.unwrap();
    assert!(kept.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(over_tls(address, &second).await.is_err());
    write(&second);
    server.signal(Signal::SIGHUP);
    let renewed = e2e::eventually("the new certificate", TIMEOUT, async || {
        over_tls(address, &second).await.ok()
    });
    let mut renewed = renewed.await;
    assert!(renewed.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(kept.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_streams_do_not_lock_out_other_clients() {
    let builder = builder(&[("m", "tiny/tensor_a")]).argument("--max-connections=4");
    let server = builder.start().await;
    let mut watching = Vec::new();
    for _ in 0..4 {
        let mut health = HealthClient::new(channel(&server).await);
        let answers = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        watching.push((health, answers));
    }
    let pending = async { server.client().await.get("/health").await.map(|answer| answer.status) };
    let answer = tokio::time::timeout(TIMEOUT, pending).await.expect("an idle connection yields");
    assert_eq!(answer, Ok(200));
    drop(watching);
    server.stop().await;
}
