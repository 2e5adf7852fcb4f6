//! `/tokenize` and `/decode`.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::engine::texts::{Decode, Tokenize};
use onnxd_proto::wire::ask;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        inputs::{Texts, TokenIds},
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

/// Approximate length of one token in JSON.
const TOKEN_BYTES: usize = 64;
/// More tokens than this are rendered off the async thread, so that others do not wait.
const RENDERED_INLINE_MAX: usize = 4096;

/// Texts to tokenize.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    inputs: Texts,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Add the model's special tokens. Default: true.
    add_special_tokens: Option<bool>,
    /// Name of the model's prompt to prepend to each text.
    prompt_name: Option<String>,
}

/// A token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Token {
    id: u32,
    /// The text of the token.
    text: String,
    /// Whether this is a special token, which stands for no text.
    special: bool,
    /// Where the token begins in the text, in characters.
    start: Option<usize>,
    /// Where the token ends, in characters.
    stop: Option<usize>,
}

impl From<ask::Token> for Token {
    fn from(token: ask::Token) -> Self {
        let ask::Token { id, text, special, start, stop } = token;
        Self { id, text, special, start, stop }
    }
}

/// Tokenizes texts.
#[utoipa::path(
    post, path = "/tokenize", tag = "text-embeddings-inference", request_body = TokenizeRequest,
    responses((status = 200, description = "The tokens of each input", body = Vec<Vec<Token>>), TeiErrors)
)]
pub(crate) async fn tokenize(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_tokenize(&app, request)).await
}

async fn try_tokenize(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: TokenizeRequest = parse(&body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let texts = request.inputs.into_list();
    check_count(texts.len(), app.client_batch, "inputs")?;
    let special = request.add_special_tokens.unwrap_or(true);
    let tokenize = Tokenize { texts, field: "inputs", prompt: request.prompt_name, special };
    let answer = app.engine.tokenize(&context, model, tokenize).await?;
    let count: usize = answer.output.iter().map(Vec::len).sum();
    let print = || {
        let list = |tokens: Vec<ask::Token>| tokens.into_iter().map(Token::from).collect();
        let lists: Vec<Vec<Token>> = answer.output.into_iter().map(list).collect();
        answer::json(app.engine.memory(), &answer.origin, &lists, count * TOKEN_BYTES)
    };
    if count > RENDERED_INLINE_MAX { tokio::task::block_in_place(print) } else { print() }
}

/// Token ids to decode.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DecodeRequest {
    ids: TokenIds,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Leave out special tokens. Default: true.
    skip_special_tokens: Option<bool>,
}

/// Decodes token ids to texts.
#[utoipa::path(
    post, path = "/decode", tag = "text-embeddings-inference", request_body = DecodeRequest,
    responses((status = 200, description = "One text per list of token ids", body = Vec<String>), TeiErrors)
)]
pub(crate) async fn decode(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_decode(&app, request)).await
}

async fn try_decode(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: DecodeRequest = parse(&body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let lists = request.ids.into_list();
    check_count(lists.len(), app.client_batch, "ids")?;
    let skip_special = request.skip_special_tokens.unwrap_or(true);
    let decode = Decode { ids: lists, field: "ids", skip_special };
    let answer = app.engine.decode(&context, model, decode).await?;
    answer::json(app.engine.memory(), &answer.origin, &answer.output, 0)
}
