//! Posts batches to the collector, and retries as OTLP asks for.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use onnxd_proto::domain::{
    fetch::{FetchError, FetchErrorKind},
    span::{ExportReport, Span},
};
use tokio::{sync::watch, time};

use super::{
    json, protobuf,
    settings::{Encoding, Settings},
};
use crate::client::{Client, Request, Times, status_error};

/// Attempts for one batch.
const ATTEMPTS_MAX: u32 = 3;
/// Pause before the second attempt; doubled for each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum pause, even if the collector asks for more: later spans wait meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Maximum bytes of the collector's answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Maximum characters of the collector's reason that the log repeats.
const REASON_CHARS_MAX: usize = 200;
/// Statuses that OTLP allows to retry.
const RETRYABLE: [u16; 4] = [429, 502, 503, 504];

/// Sends spans to one collector.
pub(super) struct Sender {
    client: Client,
    settings: Settings,
    /// Whether the last batch failed, which is logged once.
    is_failing: Cell<bool>,
}

/// Why an attempt failed.
struct Failure {
    error: FetchError,
    is_retryable: bool,
}

impl Sender {
    /// Creates a sender. Connects to nothing yet.
    ///
    /// # Errors
    /// A CA file is invalid.
    pub(super) fn new(settings: Settings) -> Result<Self, FetchError> {
        let timeout = settings.timeout;
        let times = Times { connect: timeout, stall: timeout, ..Times::default() };
        // The administrator configured the collector, so it may be anywhere.
        let client = Client::new(&settings.environment, times, true)?;
        let sent = client.sent();
        settings.headers.values().for_each(|value| sent.add(value));
        Ok(Self { client, settings, is_failing: Cell::new(false) })
    }

    /// Sends spans, and retries until the input has `ended`. Logs the first failure in a row.
    pub(super) async fn send(&self, spans: &[Span], ended: watch::Receiver<bool>) -> ExportReport {
        let all = spans.len() as u64;
        match self.attempts(spans, ended).await {
            Ok((0, _)) => {
                if self.is_failing.replace(false) {
                    tracing::info!("trace export recovered");
                }
                ExportReport { exported: all, dropped: 0 }
            }
            Ok((rejected, reason)) => {
                let dropped = rejected.min(all);
                self.failed(dropped, &reason);
                ExportReport { exported: all - dropped, dropped }
            }
            Err(error) => {
                self.failed(all, &error.message);
                ExportReport { exported: 0, dropped: all }
            }
        }
    }

    fn failed(&self, dropped: u64, reason: &str) {
        let reason = self.client.sent().redact(reason);
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        if !self.is_failing.replace(true) {
            tracing::warn!(dropped, reason, "collector did not accept spans");
        }
    }

    /// Returns how many spans the collector rejected, and why.
    async fn attempts(
        &self,
        spans: &[Span],
        mut ended: watch::Receiver<bool>,
    ) -> Result<(u64, String), FetchError> {
        let resource = &self.settings.resource;
        let body: Bytes = match self.settings.encoding {
            Encoding::Protobuf => protobuf::encode(resource, spans),
            Encoding::Json => json::encode(resource, spans),
        }
        .into();
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            let Failure { error, is_retryable } = match self.attempt(body.clone()).await {
                Ok(rejected) => return Ok(rejected),
                Err(failure) => failure,
            };
            if !is_retryable {
                return Err(error);
            }
            let requested = error.retry_after_seconds.map(Duration::from_secs);
            let pause_now = requested.unwrap_or(pause).min(PAUSE_MAX);
            // At the end of the input, the supervisor waits for this process.
            if time::timeout(pause_now, ended.wait_for(|ended| *ended)).await.is_ok() {
                return Err(error);
            }
            pause *= 2;
        }
        self.attempt(body).await.map_err(|failure| failure.error)
    }

    async fn attempt(&self, body: Bytes) -> Result<(u64, String), Failure> {
        let limit = self.settings.timeout;
        let late = || {
            let message = format!("no answer within {} s", limit.as_secs_f32());
            let error = FetchErrorKind::Unreachable.because(message);
            Failure { error, is_retryable: true }
        };
        time::timeout(limit, self.post(body)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn post(&self, body: Bytes) -> Result<(u64, String), Failure> {
        let type_ = match self.settings.encoding {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        };
        let Settings { url, headers, .. } = &self.settings;
        let request = Request::post(url.clone(), headers.clone(), body).header(CONTENT_TYPE, type_);
        let lost = |error| Failure { error, is_retryable: true };
        // A redirect is an error: headers with secrets go only to the configured server.
        let response = self.client.send_once(&request).await.map_err(lost)?;
        let status = response.status;
        if !status.is_success() {
            let is_retryable = RETRYABLE.contains(&status.as_u16());
            let remedy = "set OTEL_EXPORTER_OTLP_HEADERS";
            let error = status_error(status, &response.headers, &response.url, remedy);
            return Err(Failure { error, is_retryable });
        }
        let answer = response.body.all(ANSWER_BYTES_MAX).await.map_err(lost)?;
        Ok(match self.settings.encoding {
            Encoding::Protobuf => protobuf::rejected(&answer),
            Encoding::Json => json::rejected(&answer),
        })
    }
}
