//! The client side of the admin interface: finds the socket, makes one call, reads the lines of
//! the answer as they come.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use interprocess::local_socket::{
    GenericFilePath, ToFsName,
    tokio::{Stream, prelude::*},
};
use serde_json::Value;

use super::AdminArguments;
use crate::config::admin_socket_candidates;
use onnxd_engine::models::update::SUCCEEDED;
use onnxd_proto::exit::Failure;

/// Bytes of one line of an answer.
const LINE_BYTES_MAX: usize = 1 << 20;

/// How long a supervisor may take to hand over to its successor.
const SUCCESSION_MAX: Duration = Duration::from_secs(60);
/// How long we wait before we ask the successor.
const SUCCESSION_REST: Duration = Duration::from_millis(100);

/// Calls the supervisor and hands every line of the answer to `each`; its successor, if one is just
/// taking over. Returns the last.
///
/// # Errors
/// No supervisor answers, or the answer is cut off.
pub(crate) fn call(
    admin: &AdminArguments,
    method: &str,
    path: &str,
    body: &Value,
    mut each: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let begin = Instant::now();
    loop {
        let last = call_once(admin, method, path, body, &mut each)?;
        if last["error"]["message"] != SUCCEEDED || begin.elapsed() > SUCCESSION_MAX {
            return Ok(last);
        }
        thread::sleep(SUCCESSION_REST);
    }
}

/// Calls whoever answers and hands every line of the answer to `each`. Returns the last.
///
/// # Errors
/// No supervisor answers, or the answer is cut off.
fn call_once(
    admin: &AdminArguments,
    method: &str,
    path: &str,
    body: &Value,
    each: &mut impl FnMut(&Value),
) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(error.to_string()))?;
    runtime.block_on(async {
        let stream = connect(admin).await?;
        let broken = |error: &dyn std::fmt::Display| {
            Failure::refused(format!("the supervisor's answer broke off: {error}"))
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "onnxd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| Failure::internal(error.to_string()))?;
        let mut answer =
            sender.send_request(request).await.map_err(|error| broken(&error))?.into_body();
        let mut last = None;
        let mut buffer = BytesMut::new();
        while let Some(frame) = answer.frame().await {
            if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                buffer.extend_from_slice(&data);
            }
            while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                let value = parse(&buffer[..end])?;
                buffer.advance(end + 1);
                each(&value);
                last = Some(value);
            }
            if buffer.len() > LINE_BYTES_MAX {
                return Err(broken(&"a line is too long"));
            }
        }
        if buffer.is_empty() { last.ok_or_else(|| broken(&"it is empty")) } else { parse(&buffer) }
    })
}

fn parse(line: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(line).map_err(|_| {
        let text = String::from_utf8_lossy(line);
        Failure::refused(format!("the supervisor answers something else than JSON: {text}"))
    })
}

async fn connect(admin: &AdminArguments) -> Result<Stream, Failure> {
    let candidates: Vec<PathBuf> = match &admin.admin_socket {
        Some(path) => vec![path.clone()],
        None => admin_socket_candidates(),
    };
    let mut tried = Vec::new();
    for path in candidates {
        let name = path.as_path().to_fs_name::<GenericFilePath>();
        let connected = match name {
            Ok(name) => Stream::connect(name).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push(format!("{}: {error}", path.display())),
        }
    }
    Err(Failure::refused(format!(
        "no supervisor answers ({}); is `onnxd serve` running, and is --admin-socket the same?",
        tried.join("; ")
    )))
}
