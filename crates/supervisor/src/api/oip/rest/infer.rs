//! `/v2/models/{model}/infer`.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, Request, Response},
};
use bytes::Bytes;
use onnxd_proto::limits::TENSORS_BYTES_MAX;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use crate::api::oip::rest::{
    binary::{self, RequestJson, Wanted},
    elements::push_json,
};
use crate::{
    api::{
        error::{ApiError, Contract, Kind, OipErrors},
        inference::Begun,
        numbers::NotFinite,
        oip::{
            Tensor,
            infer::{InferRequest, InferResponse, infer as run, only_input},
        },
        router::{App, UNPAID_BYTES_MAX, respond},
    },
    transport::{
        bodies::read_paid,
        chunks::{self, held},
    },
};

/// Bytes of a body: the largest tensors, and room for what describes them.
const BODY_BYTES_MAX: usize = TENSORS_BYTES_MAX + (1 << 20);
/// Bytes of an output that is written as JSON, which takes several times as many.
const JSON_OUTPUT_BYTES_MAX: usize = 8 << 20;
/// How many bytes an element's byte becomes at most when it is printed: `false,`, or a control character
/// in a text.
const JSON_TIMES: usize = 6;

/// The answer to an inference request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseJson {
    model_name: String,
    /// The generation that answered.
    model_version: String,
    id: Option<String>,
    parameters: ResponseParameters,
    outputs: Vec<TensorJson>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ResponseParameters {
    /// The generation that answered.
    generation: u64,
}

/// A tensor.
#[derive(Debug, Serialize, ToSchema)]
struct TensorJson {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    /// `binary_data_size` where the tensor comes after the JSON.
    parameters: Option<Value>,
    /// Its elements in one list, row by row.
    data: Option<Vec<Value>>,
}

/// Has a model compute outputs from inputs.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("inference-header-content-length" = Option<u64>, Header, description = "Where the JSON ends and raw tensors begin"),
    ),
    request_body = RequestJson,
    responses(
        (status = 200, description = "The outputs", content(
            (ResponseJson = "application/json"),
            (Vec<u8> = "application/octet-stream"),
        )),
        OipErrors,
    )
)]
pub(crate) async fn infer(
    State(app): State<App>,
    Path(model): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    respond(Contract::Oip, try_infer(&app, (model, String::new()), request)).await
}

/// The same of one generation.
#[utoipa::path(
    post, path = "/v2/models/{model}/versions/{version}/infer", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The generation that must answer"),
        ("inference-header-content-length" = Option<u64>, Header, description = "Where the JSON ends and raw tensors begin"),
    ),
    request_body = RequestJson,
    responses(
        (status = 200, description = "The outputs", content(
            (ResponseJson = "application/json"),
            (Vec<u8> = "application/octet-stream"),
        )),
        OipErrors,
    )
)]
pub(crate) async fn infer_version(
    State(app): State<App>,
    Path(model): Path<(String, String)>,
    request: Request<Body>,
) -> Response<Body> {
    respond(Contract::Oip, try_infer(&app, model, request)).await
}

async fn try_infer(
    app: &App,
    model: (String, String),
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let json_bytes = binary::json_bytes(request.headers())?;
    let body = read_paid(app, request, UNPAID_BYTES_MAX, BODY_BYTES_MAX).await?;
    let (request, wanted) = match json_bytes {
        Some(0) => {
            let input = only_input(app, begun, &model.0, body).await?;
            let (model, version) = model;
            let inputs = vec![input];
            (InferRequest { model, version, inputs, ..InferRequest::default() }, Wanted::raw())
        }
        json_bytes if body.len() > UNPAID_BYTES_MAX => {
            tokio::task::block_in_place(|| binary::request(model, &body, json_bytes))?
        }
        json_bytes => binary::request(model, &body, json_bytes)?,
    };
    let id = request.id.clone();
    let response = run(app, begun, request).await?;
    let bytes_of = |output: &Tensor| match wanted.is_binary(&output.name) {
        true => output.data.len(),
        false => output.data.len().saturating_mul(JSON_TIMES),
    };
    let bytes: usize = response.outputs.iter().map(bytes_of).sum();
    let paid = app.pay(bytes, UNPAID_BYTES_MAX)?;
    let answer = || answer(&response, id.as_deref(), &wanted, paid);
    // Printing millions of numbers would keep others waiting.
    if bytes > UNPAID_BYTES_MAX { tokio::task::block_in_place(answer) } else { answer() }
}

fn too_large_for_json(output: &str, bytes: usize) -> ApiError {
    let message = format!(
        "the output `{output}` has {bytes} bytes, and at most {JSON_OUTPUT_BYTES_MAX} are written as \
         JSON; ask for it as binary data"
    );
    ApiError::new(Kind::Backend, message)
}

fn not_in_json(output: &str) -> ApiError {
    let message = format!(
        "the output `{output}` has elements that are not finite, which JSON has no numbers for; \
         ask for it as binary data"
    );
    ApiError::new(Kind::Backend, message)
}

/// The JSON of a response, and the raw tensors after it; what they have paid is given back when they
/// have been sent.
fn answer(
    response: &InferResponse<'_>,
    id: Option<&str>,
    wanted: &Wanted,
    paid: Option<OwnedSemaphorePermit>,
) -> Result<Response<Body>, ApiError> {
    let inference = &response.inference;
    let generation = inference.answer.generation;
    let text = |text: &str| serde_json::to_string(text).expect("a string is JSON");
    let mut json = format!(
        r#"{{"model_name":{},"model_version":"{generation}""#,
        text(inference.model.name.as_str())
    )
    .into_bytes();
    if let Some(id) = id {
        json.extend_from_slice(format!(r#","id":{}"#, text(id)).as_bytes());
    }
    let parameters = Value::Object(binary::response_parameters(generation));
    json.extend_from_slice(format!(r#","parameters":{parameters},"outputs":["#).as_bytes());
    let mut raw: Vec<Bytes> = Vec::new();
    for (place, output) in response.outputs.iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        let (name, datatype, shape) = (text(&output.name), output.datatype.name(), &output.shape);
        let shape = serde_json::to_string(shape).expect("numbers are JSON");
        let head = format!(r#"{comma}{{"name":{name},"datatype":"{datatype}","shape":{shape},"#);
        json.extend_from_slice(head.as_bytes());
        if wanted.is_binary(&output.name) {
            let size = output.data.len();
            let size = format!(r#""parameters":{{"binary_data_size":{size}}}}}"#);
            json.extend_from_slice(size.as_bytes());
            raw.push(output.data.clone());
        } else if output.data.len() > JSON_OUTPUT_BYTES_MAX {
            return Err(too_large_for_json(&output.name, output.data.len()));
        } else {
            json.extend_from_slice(br#""data":"#);
            push_json(&mut json, output.datatype, &output.data)
                .map_err(|_: NotFinite| not_in_json(&output.name))?;
            json.push(b'}');
        }
    }
    json.extend_from_slice(b"]}");
    if raw.is_empty() {
        let body = chunks::body(held([json.into()], paid));
        return Ok(inference.response("application/json", body));
    }
    let json_bytes = json.len();
    let body = chunks::body(held([json.into()].into_iter().chain(raw), paid));
    let mut answer = inference.response("application/octet-stream", body);
    answer.headers_mut().insert(binary::HEADER, HeaderValue::from(json_bytes));
    Ok(answer)
}
