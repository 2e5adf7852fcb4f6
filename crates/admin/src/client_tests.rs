use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use super::*;

const OUTCOME: &str = r#"{"model":"m","generation":2,"version":"ab","previous_generation":1,"load":"ahead","seconds":0.5}"#;

/// Starts a supervisor that sends these responses, one per connection.
fn answering(responses: Vec<(u16, String)>) -> (tempfile::TempDir, Client) {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        for (status, body) in responses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    (home, Client::at(socket))
}

fn refusal(kind: &str, message: &str) -> String {
    format!(r#"{{"error":{{"kind":"{kind}","message":"{message}"}}}}"#)
}

#[tokio::test]
async fn a_stream_yields_known_steps_and_the_outcome() {
    let lines = [
        r#"{"step":"passed","part":"load"}"#,
        r#"{"step":"pondering","depth":3}"#,
        r#"{"step":"loaded","worker":0,"done":1,"of":2}"#,
        OUTCOME,
    ];
    let (_home, client) = answering(vec![(200, lines.join("\n") + "\n")]);
    let call = client.update("m", &UpdateCall::default()).await.unwrap();
    assert_eq!(call.status(), 200);
    let mut steps = Vec::new();
    let answer = call.end(|step| steps.push(step.clone())).await.unwrap();
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert_eq!(answer.json, OUTCOME);
    assert_eq!(answer.result.unwrap().generation, 2);
}

#[tokio::test]
async fn a_refusal_parses_in_every_form() {
    for (status, body, kind, message) in [
        (404, refusal("not_found", "no m"), RefusalKind::NotFound, "no m"),
        // A kind that only newer releases know.
        (418, refusal("teapot", "no tea"), RefusalKind::Internal, "no tea"),
        (
            401,
            r#"{"error":"a token is needed"}"#.to_owned(),
            RefusalKind::Internal,
            "a token is needed",
        ),
    ] {
        let (_home, client) = answering(vec![(status, body.clone()), (status, body.clone())]);
        let unloaded = client.unload("m").await.unwrap();
        assert_eq!(unloaded.result, Err(kind.because(message)), "{body}");
        assert_eq!(unloaded.json, body);
        let call = client.rollback("m", &RollbackCall::default()).await.unwrap();
        assert_eq!(call.status(), status);
        let answer = call.end(|_| {}).await.unwrap();
        assert_eq!(answer.result.unwrap_err().message, message);
    }
}

#[tokio::test]
async fn a_response_that_is_not_json_is_shown() {
    let (_home, client) = answering(vec![(400, "Expected a body\n".into()), (200, "[1]".into())]);
    let error = client.status().await.unwrap_err().to_string();
    assert!(error.contains("expected JSON from the supervisor, got: Expected a body"), "{error}");
    assert!(client.status().await.is_err());
}

#[tokio::test]
async fn every_endpoint_tried_is_named() {
    let error = Client::at_first_of(vec!["/nowhere/a".into(), "/nowhere/b".into()]).status().await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/nowhere/a") && error.contains("/nowhere/b"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_retried_while_a_successor_takes_over() {
    for (kind, message, times) in [
        (RefusalKind::HandingOver, "any words", 3),
        // Release 0.1.0.
        (RefusalKind::Busy, "a successor takes over; ask again", 3),
        (RefusalKind::Busy, "onnxd is stopping", 1),
    ] {
        let calls = AtomicUsize::new(0);
        let answer = across_succession(async || {
            let result = match calls.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(kind.because(message)),
                _ => Ok(()),
            };
            Ok(Answer { json: String::new(), result })
        });
        assert_eq!(answer.await.unwrap().result.is_ok(), times == 3, "{message}");
        assert_eq!(calls.into_inner(), times, "{message}");
    }
}

#[test]
fn the_token_is_never_printed() {
    let client = Client::tcp("127.0.0.1:1".parse().unwrap(), "0123456789abcdef");
    assert!(!format!("{client:?}").contains("0123"));
}
