//! Refused admin calls have an HTTP status and a uniform JSON body.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc};

use e2e::{control::Control, home::Home, launch::free_address, processes::Signal, server::Server};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use onnxd_admin::{
    api::{RefusalKind, RollbackCall, Task, UpdateCall},
    client::Client,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::repository::{TOKEN, listening, token_file};
use crate::{checker, served, tiny};

/// Posts a body with an optional content type. Returns the status, the content type and the JSON
/// answer.
async fn post(
    server: &Server,
    path: &str,
    content_type: Option<&str>,
    body: &str,
) -> (u16, String, Value) {
    let stream = UnixStream::connect(server.home().admin_socket()).await.expect("a socket");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let mut request = Request::post(path).header("host", "onnxd");
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let request = request.body(Full::<bytes::Bytes>::from(body.to_owned())).expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type").expect("a content type");
    let content_type = content_type.to_str().expect("a text").to_owned();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"));
    (status, content_type, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_admin_calls_have_a_status_and_a_json_body() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let linked = server.home().models().join("linked");
    fs::create_dir_all(&linked).unwrap();
    symlink("elsewhere.bin", linked.join("model.onnx")).unwrap();
    let from = |path: &Path| json!({ "from": path }).to_string();
    let json = Some("application/json");
    for (path, content_type, body, status, kind) in [
        ("nobody/update", json, "{}".to_owned(), 404, "not_found"),
        ("nobody/rollback", json, "{}".to_owned(), 404, "not_found"),
        ("nobody/unload", json, "{}".to_owned(), 404, "not_found"),
        ("m/update", json, from(Path::new("/nowhere")), 404, "not_found"),
        ("m/rollback", json, json!({"to": 77}).to_string(), 404, "not_found"),
        ("m/update", json, json!({"from": "here"}).to_string(), 400, "malformed"),
        ("m/update", json, "{".to_owned(), 400, "malformed"),
        ("m/update", json, String::new(), 400, "malformed"),
        ("m/update", json, json!({"form": "/x"}).to_string(), 400, "malformed"),
        ("m/rollback", json, json!({"to": "first"}).to_string(), 400, "malformed"),
        ("m/update", None, "{}".to_owned(), 400, "malformed"),
        ("m/update", Some("text/plain"), "{}".to_owned(), 400, "malformed"),
        ("%FF/update", json, "{}".to_owned(), 400, "malformed"),
        ("m/update", json, " ".repeat(70_000), 400, "malformed"),
        ("m/update", json, from(&linked), 422, "contract"),
        ("m/frobnicate", json, "{}".to_owned(), 404, "not_found"),
        ("../status", json, "{}".to_owned(), 405, "malformed"),
    ] {
        let path = match path.strip_prefix("../") {
            Some(path) => format!("/admin/{path}"),
            None => format!("/admin/models/{path}"),
        };
        let (found, form, answer) = post(&server, &path, content_type, &body).await;
        let shown = format!("{path} {:.40}: {answer}", body);
        assert_eq!((found, form.as_str()), (status, "application/json"), "{shown}");
        assert_eq!(answer["error"]["kind"], kind, "{shown}");
        assert!(answer["error"]["message"].is_string(), "{shown}");
    }
    // After the first step has been streamed, the refusal is the last line.
    let mut call = Control::new(&server).update("m", &tiny("nan"), "ahead").await;
    assert_eq!(call.status(), 200);
    call.step("staged").await;
    assert_eq!(call.end().await.1.unwrap_err().kind, "contract");
    assert_eq!(served(&server, "m").await.0, 1, "nothing has changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_update_is_accepted_immediately() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let control = Control::new(&server);
    let mut running = control.update("m", &tiny("slow"), "ahead").await;
    running.step("staged").await;
    let waiting = control.update("m", &tiny("b"), "ahead").await;
    assert_eq!(waiting.status(), 200, "accepted while another one runs");
    let newest = control.update("m", &tiny("b"), "ahead").await;
    checker(server.home()).await.signal(Signal::SIGKILL);
    assert_eq!(waiting.end().await.1.unwrap_err().kind, "superseded");
    assert_eq!(newest.end().await.1.unwrap().generation, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_client_works_over_the_socket_and_tcp() {
    let home = Arc::new(Home::new());
    let address = free_address();
    let builder = listening(&home, &address.to_string(), &token_file(&home, 0o600));
    let server = builder.model("m", &tiny("a")).start().await;
    for client in [Client::at(server.home().admin_socket()), Client::tcp(address, TOKEN)] {
        let status = client.status().await.unwrap().result.unwrap();
        assert_eq!(status.models[0].task, Some(Task::Embed));
        let before = status.models[0].generation;
        let call =
            UpdateCall { from: Some(tiny("b").display().to_string()), ..UpdateCall::default() };
        let mut steps = 0;
        let call = client.update("m", &call).await.unwrap();
        let updated = call.end(|_| steps += 1).await.unwrap().result.unwrap();
        assert!(updated.generation == before + 1 && steps > 0, "{updated:?} {steps}");
        let call = client.rollback("m", &RollbackCall { to: Some(1) }).await.unwrap();
        call.end(|_| {}).await.unwrap().result.unwrap();
        let refusal = client.unload("nobody").await.unwrap().result.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NotFound);
        assert_eq!(client.unload("m").await.unwrap().result.unwrap().model, "m");
        let call = client.update("m", &UpdateCall::default()).await.unwrap();
        call.end(|_| {}).await.unwrap().result.unwrap();
    }
    let stranger = Client::tcp(address, "another-token-0000").status().await.unwrap();
    assert!(stranger.result.unwrap_err().message.contains("--admin-token-file"));
    server.stop().await;
}
