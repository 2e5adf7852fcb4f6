//! OpenAI's contract: `/v1/embeddings`. Embeddings are lists of numbers, or base64 of
//! little-endian f32, which is what OpenAI's own client asks for.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response, StatusCode},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{
    embedding::{answered, asked_timeout, check_inputs, embed, find_model, parse},
    inputs::Inputs,
    numbers::push_numbers,
};
use crate::http::{
    error::{ApiError, Contract},
    router::{App, read_body, respond},
};

#[derive(Debug, Deserialize)]
struct EmbeddingsRequest {
    input: Inputs,
    model: Option<String>,
    encoding_format: Option<EncodingFormat>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    Float,
    Base64,
}

/// `POST /v1/embeddings`.
pub(crate) async fn embeddings(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::OpenAi, try_embeddings(&app, request).await)
}

async fn try_embeddings(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let timeout = asked_timeout(request.headers())?;
    let body = read_body(request).await?;
    // OpenAI answers 400 to all that it cannot understand.
    let request: EmbeddingsRequest =
        parse(&body).map_err(|error| error.with_status(StatusCode::BAD_REQUEST))?;
    let model = find_model(app, request.model.as_deref())?;
    let inputs = check_inputs(request.input, "input", None, true)?;
    let (answer, record) = embed(app, model, inputs, timeout).await?;
    let mut body = br#"{"object":"list","data":["#.to_vec();
    for (index, embedding) in answer.embeddings.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        push(&mut body, &format!(r#"{comma}{{"object":"embedding","index":{index},"embedding":"#));
        if request.encoding_format == Some(EncodingFormat::Base64) {
            push(&mut body, &format!("\"{}\"", BASE64_STANDARD.encode(embedding)));
        } else {
            push_numbers(&mut body, embedding)?;
        }
        body.push(b'}');
    }
    let (name, tokens) = (&model.name, answer.tokens);
    let usage = format!(r#"{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}"#);
    push(&mut body, &format!(r#"],"model":"{name}","usage":{usage}}}"#));
    Ok(answered(model, &answer, &record, body))
}

fn push(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
}
