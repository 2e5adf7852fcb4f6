//! Responses of the admin interface: a JSON document, or one line of JSON per step of an update.
//! A refusal before the first step sets the HTTP status.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use bytes::Bytes;
use hyper::body::Frame;
use onnxd_admin::api::{
    ErrorBody, JSON, JSON_LINES, Outcome, Refusal, RefusalKind, Step, http_status,
};
use serde::Serialize;
use tokio::{sync::mpsc, time};

/// Steps of one update buffered for a slow reader.
pub(super) const STEPS_MAX: usize = 64;
/// How long the response head waits for the first step. After that the stream begins, so the caller
/// of a queued update learns that the call was accepted.
const FIRST_STEP_TIMEOUT: Duration = Duration::from_millis(250);
/// Value of retry-after for a refused call.
const RETRY_AFTER_SECONDS: u16 = 1;

/// A refusal that renders as a response.
#[derive(Debug)]
pub(super) struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let status = http_status(self.0.kind);
        let mut response = document(&ErrorBody { error: self.0 });
        *response.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// Returns a response with one JSON document.
pub(super) fn document(value: &impl Serialize) -> Response<Body> {
    with_content_type(JSON, Body::from(line(value)))
}

/// A message from a running update.
#[derive(Debug)]
pub(super) enum Message {
    Step(Step),
    End(Result<Outcome, Refusal>),
}

impl Message {
    fn line(&self) -> Bytes {
        match self {
            Self::Step(step) => line(step),
            Self::End(Ok(outcome)) => line(outcome),
            Self::End(Err(refusal)) => line(&ErrorBody { error: refusal.clone() }),
        }
    }
}

/// Streams the steps of an update.
///
/// # Errors
/// The update was refused before its first step.
pub(super) async fn respond(mut queue: mpsc::Receiver<Message>) -> Result<Response<Body>, Refused> {
    let first = match time::timeout(FIRST_STEP_TIMEOUT, queue.recv()).await {
        Ok(Some(Message::End(Err(refusal)))) => return Err(refusal.into()),
        Ok(Some(message)) => Some(message.line()),
        Ok(None) => {
            return Err(RefusalKind::Internal
                .because("internal error: the update ended without an outcome")
                .into());
        }
        Err(_) => None,
    };
    Ok(with_content_type(JSON_LINES, Body::new(Lines { first, queue })))
}

/// A body that sends each message as a line when it arrives.
struct Lines {
    first: Option<Bytes>,
    queue: mpsc::Receiver<Message>,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.queue.poll_recv(context).map(|message| Some(Ok(Frame::data(message?.line()))))
    }
}

fn with_content_type(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("our types serialize to JSON");
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn step() -> Message {
        Message::Step(Step::Passed { part: "load".into() })
    }

    fn refused() -> Message {
        Message::End(Err(RefusalKind::Load.because("no such file")))
    }

    /// Returns status, content type and body of the response to an update that sends `messages`.
    async fn response_to(messages: Vec<Message>, pause: Duration) -> (u16, String, String) {
        let (sender, queue) = mpsc::channel(STEPS_MAX);
        tokio::spawn(async move {
            time::sleep(pause).await;
            for message in messages {
                sender.send(message).await.unwrap();
            }
        });
        let response = respond(queue).await.into_response();
        let (status, headers) = (response.status().as_u16(), response.headers());
        let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, content_type, String::from_utf8(body.into()).unwrap())
    }

    const NO_PAUSE: Duration = Duration::ZERO;

    #[tokio::test]
    async fn refusal_before_the_first_step_has_its_status() {
        let (status, content_type, body) = response_to(vec![refused()], NO_PAUSE).await;
        assert_eq!((status, content_type.as_str()), (422, JSON));
        assert_eq!(body, "{\"error\":{\"kind\":\"load\",\"message\":\"no such file\"}}\n");
    }

    #[tokio::test]
    async fn refusal_after_a_step_is_the_last_line() {
        let (status, content_type, body) = response_to(vec![step(), refused()], NO_PAUSE).await;
        assert_eq!((status, content_type.as_str()), (200, JSON_LINES));
        let lines: Vec<&str> = body.lines().collect();
        assert_eq!(lines[0], r#"{"step":"passed","part":"load"}"#);
        assert!(lines[1].starts_with("{\"error\":"), "{body}");
        assert_eq!(lines.len(), 2, "{body}");
    }

    #[tokio::test(start_paused = true)]
    async fn queued_update_starts_its_stream() {
        let (sender, queue) = mpsc::channel(STEPS_MAX);
        let response = respond(queue).await.into_response();
        assert_eq!(response.status(), 200, "the call was accepted");
        sender.send(refused()).await.unwrap();
        drop(sender);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{\"error\":"), "{body:?}");
    }

    #[tokio::test]
    async fn update_without_outcome_is_an_internal_error() {
        assert_eq!(response_to(Vec::new(), NO_PAUSE).await.0, 500);
    }

    #[test]
    fn busy_refusal_has_retry_after() {
        let headers =
            |kind: RefusalKind| Refused(kind.because("x")).into_response().headers().clone();
        assert_eq!(headers(RefusalKind::Busy)[header::RETRY_AFTER], "1");
        assert!(!headers(RefusalKind::Load).contains_key(header::RETRY_AFTER));
    }
}
