//! `/tokenize` and `/decode`: from texts to tokens and back.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_proto::{domain::Task, wire::ask::Ask};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        error::{ApiError, Contract, TeiErrors},
        inference::{
            Begun, check_count, check_length, check_prompt, find_model, id_bytes, parse, push,
        },
        inputs::{Texts, TokenIds},
        router::{App, respond},
    },
    transport::bodies::read_body,
};
use onnxd_engine::dispatch::Input;

/// What has a tokenizer.
const TEXT_TASKS: [Task; 3] = [Task::Embed, Task::Classify, Task::Rerank];

/// Texts to tokenize.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    inputs: Texts,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// With the tokens that the model wants around a text; true where it is missing.
    add_special_tokens: Option<bool>,
    /// The model's prompt of this name is put before each text.
    prompt_name: Option<String>,
}

/// A token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    id: u32,
    /// What it stands for in the text.
    text: String,
    /// Whether it belongs to no text.
    special: bool,
    /// Where it begins in the text, in characters.
    start: Option<usize>,
    /// Where it ends.
    stop: Option<usize>,
}

/// The tokens of texts.
#[utoipa::path(
    post, path = "/tokenize", tag = "text-embeddings-inference", request_body = TokenizeRequest,
    responses((status = 200, description = "The tokens of each input", body = Vec<Vec<Token>>), TeiErrors)
)]
pub(crate) async fn tokenize(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, try_tokenize(&app, request)).await
}

async fn try_tokenize(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let body = read_body(app, request).await?;
    let request: TokenizeRequest = parse(&body)?;
    let model = find_model(app, request.model.as_deref())?;
    let texts = request.inputs.into_list();
    check_count(texts.len(), app.limits.client_batch, "inputs")?;
    check_prompt(request.prompt_name.as_ref())?;
    let special = request.add_special_tokens.unwrap_or(true);
    let item = |text: String| {
        check_length(text.len(), "inputs")?;
        let ask = Ask::Tokenize { prompt: request.prompt_name.clone(), special };
        Ok(Input { ask, parts: vec![text.into()] })
    };
    let inputs = texts.into_iter().map(item).collect::<Result<Vec<_>, ApiError>>()?;
    let inference = begun.run(app, model, &TEXT_TASKS, inputs).await?;
    let mut body = vec![b'['];
    for (place, item) in inference.answer.items.iter().enumerate() {
        push(&mut body, if place > 0 { "," } else { "" });
        body.extend_from_slice(&item.bytes);
    }
    body.push(b']');
    inference.json(body)
}

/// Tokens to turn into text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DecodeRequest {
    ids: TokenIds,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Without the tokens that belong to no text; true where it is missing.
    skip_special_tokens: Option<bool>,
}

/// The texts of tokens.
#[utoipa::path(
    post, path = "/decode", tag = "text-embeddings-inference", request_body = DecodeRequest,
    responses((status = 200, description = "One text for each list of tokens", body = Vec<String>), TeiErrors)
)]
pub(crate) async fn decode(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, try_decode(&app, request)).await
}

async fn try_decode(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let body = read_body(app, request).await?;
    let request: DecodeRequest = parse(&body)?;
    let model = find_model(app, request.model.as_deref())?;
    let lists = request.ids.into_list();
    check_count(lists.len(), app.limits.client_batch, "ids")?;
    let skip_special = request.skip_special_tokens.unwrap_or(true);
    let item = |ids: Vec<u32>| {
        check_length(ids.len() * size_of::<u32>(), "ids")?;
        Ok(Input { ask: Ask::Decode { skip_special }, parts: vec![id_bytes(&ids)] })
    };
    let inputs = lists.into_iter().map(item).collect::<Result<Vec<_>, ApiError>>()?;
    let inference = begun.run(app, model, &TEXT_TASKS, inputs).await?;
    let texts = inference.answer.items.iter().map(|item| String::from_utf8_lossy(&item.bytes));
    let texts: Vec<_> = texts.collect();
    inference.json(serde_json::to_vec(&texts).expect("texts are JSON"))
}
