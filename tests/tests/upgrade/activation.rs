//! Socket activation: no connection is refused while onnxd restarts.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use e2e::{client::Client, fixtures, fixtures::model, grpc, home::Home, server::Server};
use hyper::Method;
use serde_json::json;

use crate::Succession;

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_in_a_passed_socket_for_the_next_start() {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    // A kept generation serves within a moment, so requests wait for it.
    let home = Arc::new(Home::new());
    let builder = || Server::builder().home(&home).model("m", &model("tiny/a"));
    let mut pending = None;
    for _ in 0..2 {
        let mut server = builder().activated(&socket).spawn_at(address);
        server.ready().await.expect("ready");
        if let Some(pending) = pending.take() {
            let pending: tokio::task::JoinHandle<Option<u16>> = pending;
            assert_eq!(pending.await.expect("no panic"), Some(200));
        }
        server.stop().await;
        // No server is running now, but connections are still accepted by the socket.
        pending = Some(tokio::spawn(async move {
            let mut client = Client::connect(address).await.ok()?;
            Some(client.post("/embed", &json!({"inputs": "a"})).await.ok()?.status)
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_serves_the_passed_socket_despite_the_flag() {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    let builder = Server::builder().model("m", &model("tiny/a")).activated(&socket);
    let home = builder.directories();
    // This address differs from the socket's and must not be used.
    let server = builder.spawn_at(e2e::launch::free_address());
    let line = Succession { server, home };
    line.wait_for_log("ready listen=", 0).await;
    for _ in 0..2 {
        let pending = async {
            let mut client = Client::connect(address).await.expect("a connection");
            client.post("/embed", &json!({"inputs": "a"})).await.map(|answer| answer.status)
        };
        let answer = tokio::time::timeout(crate::TIMEOUT, pending).await;
        assert_eq!(answer.expect("the connection is accepted"), Ok(200));
        line.succeed().await;
    }
    line.stop().await;
}

fn tcp() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// Binds a Unix socket, to which the path of the admin socket is a link.
fn unix(home: &Home) -> (UnixListener, PathBuf) {
    let path = home.root().join("passed.sock");
    let socket = UnixListener::bind(&path).expect("a socket");
    symlink(&path, home.admin_socket()).expect("a link");
    (socket, path)
}

fn token(home: &Home) -> PathBuf {
    let path = home.root().join("token");
    fs::write(&path, "0123456789abcdef").expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, mode).expect("a mode");
    path
}

async fn status_over_tcp(address: SocketAddr) -> u16 {
    let mut client = Client::connect(address).await.expect("a connection");
    let headers = [("authorization", "Bearer 0123456789abcdef")];
    client
        .send_with(Method::GET, "/admin/status", &headers, Bytes::new())
        .await
        .expect("an answer")
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_takes_its_passed_socket_in_every_successor() {
    let ((http, address), (rpc, rpc_address), (admin_tcp, admin_address)) = (tcp(), tcp(), tcp());
    let builder = Server::builder().model("m", &model("tiny/a"));
    let home = builder.directories();
    let (admin, path) = unix(&home);
    let server = builder
        .argument("--admin-listen=127.0.0.1:1")
        .argument("--admin-token-file")
        .argument(token(&home).to_str().expect("a path"))
        .activated_as("admin-tcp", admin_tcp)
        .activated_as("grpc", rpc)
        .activated_as("admin", admin.try_clone().expect("a descriptor"))
        .activated_as("http", http)
        .spawn_at(e2e::launch::free_address());
    let line = Succession { server, home: Arc::clone(&home) };
    line.wait_for_log("ready listen=", 0).await;
    for _ in 0..2 {
        let mut client = Client::connect(address).await.expect("a connection");
        let answer = client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(grpc::address(&line.server).await, rpc_address);
        let mut health = grpc::channel(&line.server).await;
        tower::ServiceExt::ready(&mut health).await.expect("a connection");
        assert_eq!(status_over_tcp(admin_address).await, 200);
        assert!(line.answers_admin().await);
        line.succeed().await;
    }
    fs::remove_file(home.admin_socket()).expect("the link");
    line.stop().await;
    assert!(path.exists(), "the socket belongs to systemd");
    drop(admin);
}

/// Starts a server with one passed socket, which it must refuse. Returns its log.
async fn refused(name: &str, socket: OwnedFd, arguments: &[&str]) -> String {
    let mut builder = Server::builder().model("m", &model("tiny/a"));
    for argument in arguments {
        builder = builder.argument(argument);
    }
    let exited = builder.activated_as(name, socket).try_start().await.expect_err("refused");
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    exited.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn unsuitable_passed_sockets_are_refused_with_the_reason() {
    let home = Home::new();
    let (admin, _) = unix(&home);
    let token = format!("--admin-token-file={}", token(&home).display());
    let with_token = ["--admin-listen=127.0.0.1:1", &token];
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("a socket");
    let closed = fs::File::open(Path::new("/dev/null")).expect("a file");
    for (name, socket, arguments, part) in [
        (
            "gprc",
            tcp().0.into(),
            &[][..],
            "expected one of http, grpc, admin, admin-tcp, got \"gprc\"",
        ),
        ("http", admin.into(), &[], "(public@activated): expected a TCP socket"),
        ("admin", tcp().0.into(), &[], "(admin@activated): expected a Unix socket"),
        ("admin-tcp", tcp().0.into(), &[], "needs --admin-listen ADDRESS and --admin-token-file"),
        ("admin-tcp", everywhere.into(), &with_token, "to a loopback address"),
        ("http", closed.into(), &[], "inherited descriptor 3"),
    ] {
        let log = refused(name, socket, arguments).await;
        assert!(log.contains(part), "{log}");
    }
}

#[test]
fn too_many_passed_sockets_are_refused_by_number() {
    let ends = |count: &str| {
        let command = format!("export LISTEN_PID=$$ LISTEN_FDS={count}; exec \"$0\" serve");
        let output = Command::new("sh").args(["-c", &command]).arg(fixtures::onnxd()).output();
        let output = output.expect("sh");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, log) = ends("17");
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("LISTEN_FDS: expected at most 16 sockets, got \"17\""), "{log}");
    let (code, log) = ends("16");
    assert_eq!(code, Some(78), "{log}");
    assert!(!log.contains("expected at most"), "the sockets are missing or duplicates: {log}");
}
