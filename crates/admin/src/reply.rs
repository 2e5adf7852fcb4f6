//! Reads responses of the admin interface: one JSON document, or a stream of lines as they arrive. Used
//! by the [client](crate::client).

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::{Response, StatusCode, body::Incoming};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use crate::{
    api::{Outcome, Refusal, RefusalKind, Step},
    error::Error,
};

/// Maximum bytes of one response line.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A response, raw and parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply<T> {
    /// The line of JSON as received, including fields that this release does not know.
    pub json: String,
    /// The result, or the refusal.
    pub result: Result<T, Refusal>,
}

/// A line of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A step; `None` if this release does not know it.
    Step(Option<Step>),
    /// The last line.
    End(Result<Outcome, Refusal>),
}

/// An update or rollback whose response has started.
#[derive(Debug)]
pub struct Call {
    status: StatusCode,
    lines: Lines,
}

impl Call {
    /// Reads a response whose headers have arrived.
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        Self { status: response.status(), lines: Lines::new(response) }
    }

    /// Returns the HTTP status. It is not 200 if the call was refused before its first step.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the next line as text, or `None` after the last.
    ///
    /// # Errors
    /// The response was cut off.
    pub async fn next_text(&mut self) -> Result<Option<String>, Error> {
        self.lines.next().await
    }

    /// Reads the response to the end and passes each step to `each` as it arrives.
    ///
    /// # Errors
    /// The response was cut off or is malformed.
    pub async fn end(mut self, mut each: impl FnMut(&Step)) -> Result<Reply<Outcome>, Error> {
        while let Some(json) = self.lines.next().await? {
            match Line::parse(&json)? {
                Line::Step(Some(step)) => each(&step),
                Line::Step(None) => {}
                Line::End(result) => return Ok(Reply { json, result }),
            }
        }
        Err(Error::broken("the last line is missing"))
    }
}

impl Line {
    /// Parses a line.
    ///
    /// # Errors
    /// The line is neither a step nor an outcome nor a refusal.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let marks: LineFields = serde_json::from_str(json).map_err(|_| not_json(json))?;
        Ok(match marks.step {
            Some(_) => Self::Step(serde_json::from_str(json).ok()),
            None => Self::End(verdict(json)?),
        })
    }
}

/// Fields that distinguish the kinds of lines.
#[derive(Deserialize)]
struct LineFields {
    step: Option<IgnoredAny>,
    error: Option<ErrorForm>,
}

/// Known forms of an error.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorForm {
    Refusal(Refusal),
    /// A refusal of a kind that only newer releases know.
    Message {
        message: String,
    },
    /// The form of the `--admin-listen` guard and of Triton's clients.
    Text(String),
}

impl From<ErrorForm> for Refusal {
    fn from(form: ErrorForm) -> Self {
        match form {
            ErrorForm::Refusal(refusal) => refusal,
            ErrorForm::Message { message } | ErrorForm::Text(message) => {
                RefusalKind::Internal.because(message)
            }
        }
    }
}

fn not_json(text: &str) -> Error {
    Error::NotJson(text.trim_end().to_owned())
}

fn verdict<T: DeserializeOwned>(json: &str) -> Result<Result<T, Refusal>, Error> {
    let marks: LineFields = serde_json::from_str(json).map_err(|_| not_json(json))?;
    match marks.error {
        Some(error) => Ok(Err(error.into())),
        None => serde_json::from_str(json).map(Ok).map_err(|_| Error::Unexpected(json.to_owned())),
    }
}

pub(crate) async fn answer<T: DeserializeOwned>(
    response: Response<Incoming>,
) -> Result<Reply<T>, Error> {
    let body = response.into_body().collect().await.map_err(Error::broken)?.to_bytes();
    let json = text(&body)?.trim_end().to_owned();
    let result = verdict(&json)?;
    Ok(Reply { json, result })
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| not_json(&String::from_utf8_lossy(bytes)))
}

/// Splits a body into lines as it arrives.
#[derive(Debug)]
struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = text(&self.buffer[..end])?.to_owned();
                self.buffer.advance(end + 1);
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Error::broken("a line exceeds 1 MiB"));
            }
            let Some(frame) = self.body.frame().await else {
                // The last line may lack a newline.
                let rest = self.buffer.split();
                return if rest.is_empty() { Ok(None) } else { Ok(Some(text(&rest)?.to_owned())) };
            };
            if let Ok(data) = frame.map_err(Error::broken)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
