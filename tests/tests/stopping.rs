//! Stops that come early, and servers that fail while they stop.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{fs, sync::Arc, time::Duration};

use e2e::{
    client::Client,
    eventually,
    fixtures::model,
    home::Home,
    processes::{self, Signal},
    server::Server,
    web::Web,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(60);

async fn logged(server: &Server, text: &str) {
    eventually(text, SOON, async || server.stderr().contains(text).then_some(())).await;
}

/// Returns the status of an embedding by the model `good`, if the server answers.
async fn status(server: &Server) -> Option<u16> {
    let mut client = Client::connect(server.address()).await.ok()?;
    let answer = client.post("/embed", &json!({"inputs": "a", "model": "good"})).await.ok()?;
    Some(answer.status)
}

/// A request whose body the server waits for.
struct InFlight(TcpStream);

impl InFlight {
    const BODY: &str = r#"{"inputs": "a", "model": "good"}"#;

    async fn begin(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let head = format!(
            "POST /embed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            Self::BODY.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 25];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&answer));
        Self(stream)
    }

    async fn end(mut self) -> String {
        self.0.write_all(Self::BODY.as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_another_model_is_awaited_drains_what_serves() {
    let home = Arc::new(Home::new());
    let folder = home.root().join("web/m");
    fs::create_dir_all(&folder).unwrap();
    let web = Web::start(folder.parent().unwrap());
    web.take_away(true);
    let spec = format!("away={}", web.uri("m"));
    for delay in ["0", "600"] {
        let builder = Server::builder().home(&home).model("good", &model("tiny/a"));
        let builder = builder.argument("--model").argument(&spec).argument("--require=away");
        let mut server = builder.argument(&format!("--shutdown-delay={delay}")).spawn();
        eventually("a model that serves", SOON, async || {
            (status(&server).await == Some(200)).then_some(())
        })
        .await;
        assert!(!server.answers_ready().await);
        let request = InFlight::begin(&server).await;
        server.signal(Signal::SIGTERM);
        if delay != "0" {
            logged(&server, "still accepting requests").await;
            assert_eq!(status(&server).await, Some(200));
            server.signal(Signal::SIGTERM);
            logged(&server, "received a stop signal during --shutdown-delay, draining now").await;
        }
        logged(&server, "draining").await;
        let answer = request.end().await;
        assert!(answer.contains("HTTP/1.1 200"), "{answer}");
        assert_eq!(server.wait().await.code(), Some(0), "{}", server.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_during_the_shutdown_delay_ends_the_server() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let trigger = builder.directories().root().join("panic");
    let mut server = builder
        .variable("ONNXD_PANIC_TASK", "dispatcher")
        .variable("ONNXD_PANIC_FILE", trigger.to_str().unwrap())
        .argument("--shutdown-delay=600")
        .start()
        .await;
    server.signal(Signal::SIGTERM);
    logged(&server, "still accepting requests").await;
    fs::write(&trigger, "").unwrap();
    let exit = server.wait().await;
    assert_eq!(exit.code(), Some(70), "{exit}: {}", server.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_fail_during_the_shutdown_delay_end_the_server() {
    let builder = Server::builder().model("m", &model("tiny/a")).workers(1);
    let builder = builder.argument("--worker-restarts=1").argument("--shutdown-delay=600");
    let mut server = builder.start().await;
    server.signal(Signal::SIGTERM);
    logged(&server, "still accepting requests").await;
    eventually("the end", SOON, async || {
        if !server.runs() {
            return Some(());
        }
        for process in processes::descendants(server.pid()) {
            process.signal(Signal::SIGKILL);
        }
        None
    })
    .await;
    let exit = server.wait().await;
    assert_eq!(exit.code(), Some(69), "{exit}: {}", server.stderr());
}
