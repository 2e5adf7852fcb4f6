//! What all contracts share that have a model run: finding it, parsing, making items, the headers
//! of an answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use onnxd_engine::dispatch::Terms;
use onnxd_proto::{
    domain::{Record, Task},
    limits::TEXT_BYTES_MAX,
    wire::ask::{Ask, Content, PROMPT_NAME_BYTES_MAX, Side, TextAsk, Want},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time;
use utoipa::ToSchema;

use crate::api::inputs::TextOrIds;
use crate::{
    api::{
        error::{ApiError, Kind},
        router::{App, UNPAID_BYTES_MAX},
    },
    transport::chunks::{self, held},
};
use onnxd_engine::{
    dispatch::{
        Input,
        gather::{Answer, GatherError},
    },
    models::{gate::Pass, registry::Model},
};

/// Bytes of a JSON body beyond which parsing it would keep others waiting.
const PARSED_AT_ONCE_BYTES_MAX: usize = 256 * 1024;

const TIMEOUT_HEADER: &str = "x-request-timeout-ms";

/// Which end of a text that is too long is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) enum TruncationDirection {
    /// Its beginning.
    #[serde(alias = "left")]
    Left,
    /// Its end.
    #[default]
    #[serde(alias = "right")]
    Right,
}

/// How the texts of a request become tokens, as far as all contracts know it.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextOptions {
    /// `None`: longer texts are refused.
    pub truncate: Option<Side>,
    pub prompt: Option<String>,
}

impl TextOptions {
    /// As a request of text-embeddings-inference says it.
    pub(crate) fn new(
        truncate: Option<bool>,
        direction: Option<TruncationDirection>,
        prompt: Option<String>,
    ) -> Self {
        let side = match direction.unwrap_or_default() {
            TruncationDirection::Left => Side::Left,
            TruncationDirection::Right => Side::Right,
        };
        Self { truncate: truncate.unwrap_or(true).then_some(side), prompt }
    }

    /// Texts that are too long are cut at their end.
    pub(crate) fn cut() -> Self {
        Self { truncate: Some(Side::Right), prompt: None }
    }

    fn ask(&self, content: Content, want: Want) -> Ask {
        let Self { truncate, prompt } = self.clone();
        Ask::Text { text: TextAsk { content, truncate, prompt }, want }
    }

    /// The item of a text or of token ids.
    pub(crate) fn item(&self, text: TextOrIds, want: Want) -> Input {
        match text {
            TextOrIds::Text(text) => {
                Input { ask: self.ask(Content::Text, want), parts: vec![text.into()] }
            }
            TextOrIds::Ids(ids) => {
                Input { ask: self.ask(Content::Ids, want), parts: vec![id_bytes(&ids)] }
            }
        }
    }

    /// The item of two texts that belong together, checked to be short enough.
    pub(crate) fn pair(&self, first: &Bytes, second: Bytes, want: Want) -> Input {
        let first_bytes = u32::try_from(first.len()).expect("texts have a limit");
        let content = Content::Pair { first_bytes };
        Input { ask: self.ask(content, want), parts: vec![first.clone(), second] }
    }
}

/// Token ids as a payload.
pub(crate) fn id_bytes(ids: &[u32]) -> Bytes {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Parses a JSON body.
///
/// # Errors
/// 400 where it is no JSON, 422 where it is JSON of another shape.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let parse = || serde_json::from_slice::<T>(body);
    let parsed = if body.len() > PARSED_AT_ONCE_BYTES_MAX {
        tokio::task::block_in_place(parse)
    } else {
        parse()
    };
    parsed.map_err(|error| {
        let message = format!("the body is not what it should be: {error}");
        match error.classify() {
            serde_json::error::Category::Data => ApiError::new(Kind::Validation, message),
            _ => ApiError::new(Kind::Validation, message).with_status(StatusCode::BAD_REQUEST),
        }
    })
}

/// The model that a request names, or the first.
///
/// # Errors
/// 404 where it is not served.
pub(crate) fn find_model<'a>(app: &'a App, name: Option<&str>) -> Result<&'a Arc<Model>, ApiError> {
    app.registry.find(name).ok_or_else(|| {
        let served: Vec<&str> =
            app.registry.models().iter().map(|model| model.name.as_str()).collect();
        let name: String = name.unwrap_or_default().chars().take(200).collect();
        let message =
            format!("the model `{name}` is not served; served are: {}", served.join(", "));
        ApiError::new(Kind::Validation, message).with_status(StatusCode::NOT_FOUND).about("model")
    })
}

/// What the model serves, which must be for one of these tasks.
///
/// # Errors
/// 424 where it is for something else; 503 where nothing is served.
pub(crate) fn require_task(model: &Model, tasks: &[Task]) -> Result<Arc<Record>, ApiError> {
    let (_, record) = model
        .serving()
        .ok_or_else(|| ApiError::new(Kind::Unhealthy, "the model is not loaded yet"))?;
    let task = record.facts.task;
    if tasks.contains(&task) {
        return Ok(record);
    }
    let wanted: Vec<&str> = tasks.iter().map(|task| task.as_str()).collect();
    let message = format!(
        "the model `{}` is for {}, and this call is for {}",
        model.name,
        task.as_str(),
        wanted.join(" or ")
    );
    Err(ApiError::new(Kind::Backend, message))
}

/// Checks how many inputs there are. `field` is what the contract calls them.
///
/// # Errors
/// There are none, or too many.
pub(crate) fn check_count(count: usize, max: usize, field: &'static str) -> Result<(), ApiError> {
    let wrong = |kind, message: String| Err(ApiError::new(kind, message).about(field));
    match count {
        0 => wrong(Kind::Empty, format!("`{field}` cannot be empty")),
        count if count > max => {
            let message = format!("batch size {count} > maximum allowed batch size {max}");
            wrong(Kind::Validation, message)
        }
        _ => Ok(()),
    }
}

/// Checks the length of a text before a tokenizer sees it.
///
/// # Errors
/// It is too long.
pub(crate) fn check_length(bytes: usize, field: &'static str) -> Result<(), ApiError> {
    if bytes <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "Input validation error: a text of `{field}` has {bytes} bytes, at most {TEXT_BYTES_MAX} are allowed"
    );
    Err(ApiError::new(Kind::Validation, message).about(field))
}

/// Checks a prompt's name.
///
/// # Errors
/// It is longer than any.
pub(crate) fn check_prompt(name: Option<&String>) -> Result<(), ApiError> {
    match name {
        Some(name) if name.len() > PROMPT_NAME_BYTES_MAX => {
            let message = format!("`prompt_name` has more than {PROMPT_NAME_BYTES_MAX} bytes");
            Err(ApiError::new(Kind::Validation, message).about("prompt_name"))
        }
        _ => Ok(()),
    }
}

/// The items of texts, ready for the queue.
///
/// # Errors
/// One is too long.
pub(crate) fn items(
    texts: Vec<TextOrIds>,
    field: &'static str,
    options: &TextOptions,
    want: Want,
) -> Result<Vec<Input>, ApiError> {
    check_prompt(options.prompt.as_ref())?;
    let item = |text: TextOrIds| {
        check_length(
            match &text {
                TextOrIds::Text(text) => text.len(),
                TextOrIds::Ids(ids) => ids.len() * size_of::<u32>(),
            },
            field,
        )?;
        Ok(options.item(text, want))
    };
    texts.into_iter().map(item).collect()
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Inference<'a> {
    app: &'a App,
    pub model: &'a Arc<Model>,
    /// From the request's headers to now.
    started: Instant,
    /// Unicode characters of its texts, about.
    characters: usize,
    pub answer: Answer,
    /// What the generation that answered is.
    pub record: Arc<Record>,
}

/// What is known of a request before its model is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    started: Instant,
    timeout: Option<Duration>,
}

impl Begun {
    /// A request with these headers has begun.
    ///
    /// # Errors
    /// 400 where it asks for no number of milliseconds.
    pub(crate) fn new(headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self { started: Instant::now(), timeout: asked_timeout(headers)? })
    }

    /// The same, that must be answered within this time, too.
    pub(crate) fn within(self, time: Duration) -> Self {
        let timeout = self.timeout.map_or(time, |timeout| timeout.min(time));
        Self { timeout: Some(timeout), ..self }
    }

    /// How long the request may take, if it says so itself.
    pub(crate) fn timeout(self) -> Option<Duration> {
        self.timeout
    }

    /// Has the model answer the items, which must be for one of these tasks, and says what the
    /// generation that did so is.
    ///
    /// # Errors
    /// See [`App::ready`] and [`onnxd_engine::dispatch::gather::GatherError`].
    pub(crate) async fn run<'a>(
        self,
        app: &'a App,
        model: &'a Arc<Model>,
        tasks: &[Task],
        inputs: Vec<Input>,
    ) -> Result<Inference<'a>, ApiError> {
        let characters = inputs.iter().map(characters).sum();
        let (_pass, timeout) = admitted(app, model, self.timeout).await?;
        require_task(model, tasks)?;
        let terms = Terms { timeout, ..Terms::default() };
        let answer = app.dispatch.run(model, inputs, terms).await?;
        let record = model.record(answer.generation).ok_or_else(|| {
            ApiError::new(Kind::Backend, "the generation of the answer is unknown")
                .with_status(StatusCode::INTERNAL_SERVER_ERROR)
        })?;
        Ok(Inference { app, model, started: self.started, characters, answer, record })
    }
}

/// Admits a request to a model, which is loaded first if nobody has used it yet. Gives what keeps
/// the model until the request is answered, and the time that is left.
///
/// # Errors
/// The model is unloaded, cannot be loaded, or not in time.
pub(crate) async fn admitted(
    app: &App,
    model: &Model,
    timeout: Option<Duration>,
) -> Result<(Pass, Option<Duration>), ApiError> {
    if let Ok(pass) = model.gate.admit() {
        return Ok((pass, timeout));
    }
    let (begun, allowed) = (Instant::now(), app.dispatch.time_allowed(timeout));
    let loaded = time::timeout(allowed, app.updater.ensure_loaded(model)).await;
    let pass = loaded.map_err(|_| GatherError::Timeout(allowed))??;
    Ok((pass, Some(allowed.saturating_sub(begun.elapsed()))))
}

/// Every byte that does not continue a character begins one.
fn characters(input: &Input) -> usize {
    match &input.ask {
        Ask::Text { text, .. } if text.content != Content::Ids => {
            let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
            input.parts.iter().map(|part| part.iter().filter(begins).count()).sum()
        }
        _ => 0,
    }
}

/// How long a request may take, if it says so itself.
fn asked_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else { return Ok(None) };
    let millis = value.to_str().ok().and_then(|value| value.parse().ok()).filter(|&ms| ms > 0);
    millis.map(|millis| Some(Duration::from_millis(millis))).ok_or_else(|| {
        let message = format!("{TIMEOUT_HEADER} is no number of milliseconds above 0");
        ApiError::new(Kind::Validation, message).with_status(StatusCode::BAD_REQUEST)
    })
}

impl Inference<'_> {
    /// A JSON response with the headers that every inference response carries. A large one pays for
    /// its memory until it has been sent.
    ///
    /// # Errors
    /// 429 where other large bodies take all the room.
    pub(crate) fn json(&self, body: Vec<u8>) -> Result<Response<Body>, ApiError> {
        let paid = self.app.pay(body.len(), UNPAID_BYTES_MAX)?;
        let body = chunks::body(held([body.into()], paid));
        Ok(self.response("application/json", body))
    }

    /// A response with the headers that every inference response carries.
    pub(crate) fn response(&self, content_type: &'static str, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("x-model-generation", HeaderValue::from(self.answer.generation));
        insert(headers, "x-model-name", self.model.name.as_str());
        insert(headers, "x-model-version", &self.record.version);
        let timing = self.answer.timing;
        let times = [timing.queue, timing.tokenize, timing.infer];
        let [queue, tokenize, infer] = times.map(|time| time.as_secs_f64() * 1e3);
        let server =
            format!("queue;dur={queue:.3}, tokenize;dur={tokenize:.3}, infer;dur={infer:.3}");
        insert(headers, "server-timing", &server);
        // As text-embeddings-inference has them, in whole milliseconds.
        headers.insert("x-compute-type", HeaderValue::from_static("cpu"));
        headers.insert("x-compute-characters", HeaderValue::from(self.characters));
        headers.insert("x-compute-tokens", HeaderValue::from(self.answer.tokens));
        let millis =
            |time: Duration| HeaderValue::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        headers.insert("x-compute-time", millis(self.started.elapsed()));
        headers.insert("x-total-time", millis(self.started.elapsed()));
        headers.insert("x-queue-time", millis(timing.queue));
        headers.insert("x-tokenization-time", millis(timing.tokenize));
        headers.insert("x-inference-time", millis(timing.infer));
        response
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names are validated, versions are hexadecimal, timings are digits.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Appends text to a body.
pub(crate) fn push(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
}
