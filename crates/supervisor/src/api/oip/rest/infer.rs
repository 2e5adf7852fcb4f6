//! `/v2/models/{model}/infer`.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, Request, Response},
};
use bytes::Bytes;
use onnxd_engine::engine::{
    Answer,
    memory::Reservation,
    tensors::{Tensor, TensorRequest},
};
use onnxd_proto::limits::TENSORS_BYTES_MAX;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        answer::{self, UNCHARGED_BYTES_MAX},
        app::App,
        error::{Class, Fault},
        numbers::{NotFinite, to_json},
        oip::{
            request::InferRequest,
            rest::{
                binary::{self, OutputEncoding, RequestJson},
                elements::Elements,
                error::{OipErrors, respond},
            },
        },
        request::context,
    },
    transport::{
        bodies::read_paid,
        chunks::{self, held},
    },
};

/// Size limit of a body: the largest tensors plus 1 MiB for their description.
const BODY_BYTES_MAX: usize = TENSORS_BYTES_MAX + (1 << 20);
/// Size limit of an output sent as JSON, which is several times larger than its raw bytes.
const JSON_OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Maximum JSON bytes per raw byte: `false,`, or an escaped control character in a string.
const JSON_EXPANSION_MAX: usize = 6;

/// The response to an inference request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResponseJson {
    model_name: String,
    /// The generation that computed the outputs.
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    parameters: ResponseParameters,
    outputs: Vec<TensorJson>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ResponseParameters {
    /// The generation that computed the outputs.
    generation: u64,
}

/// A tensor.
#[derive(Debug, Serialize, ToSchema)]
struct TensorJson {
    name: String,
    #[schema(value_type = String)]
    datatype: &'static str,
    shape: Vec<u64>,
    /// `binary_data_size` if the tensor follows the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    parameters: Option<TensorParameters>,
    /// The elements in one list, in row-major order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    data: Option<Elements>,
}

#[derive(Debug, Serialize)]
struct TensorParameters {
    /// Length of the tensor after the JSON.
    binary_data_size: usize,
}

/// Computes a model's outputs from inputs.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("inference-header-content-length" = Option<u64>, Header, description = "Length of the JSON before raw tensors"),
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
    respond(try_infer(&app, (model, String::new()), request)).await
}

/// Same, for one generation.
#[utoipa::path(
    post, path = "/v2/models/{model}/versions/{version}/infer", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The generation that must answer"),
        ("inference-header-content-length" = Option<u64>, Header, description = "Length of the JSON before raw tensors"),
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
    respond(try_infer(&app, model, request)).await
}

async fn try_infer(
    app: &App,
    model: (String, String),
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let (engine, context) = (&app.engine, context(request.headers())?);
    let json_bytes = binary::json_bytes(request.headers())?;
    let body = read_paid(engine.memory(), request, UNCHARGED_BYTES_MAX, BODY_BYTES_MAX).await?;
    let (request, encoding) = match json_bytes {
        Some(0) => {
            let (model, version) = model;
            let input = engine.only_input(&context, engine.find(Some(&model))?, body).await?;
            let tensors =
                TensorRequest { version, inputs: vec![input], ..TensorRequest::default() };
            (InferRequest { model, id: None, tensors }, OutputEncoding::raw())
        }
        json_bytes if body.len() > UNCHARGED_BYTES_MAX => {
            tokio::task::block_in_place(|| binary::request(model, &body, json_bytes))?
        }
        json_bytes => binary::request(model, &body, json_bytes)?,
    };
    let InferRequest { model, id, tensors } = request;
    let model = engine.find_version(&model, &tensors.version)?;
    let answer = engine.run_tensors(&context, model, &tensors).await?;
    let bytes_of = |output: &Tensor| match encoding.is_binary(&output.name) {
        true => output.data.len(),
        false => output.data.len().saturating_mul(JSON_EXPANSION_MAX),
    };
    let bytes: usize = answer.output.iter().map(bytes_of).sum();
    let reservation = engine.memory().reserve(bytes, UNCHARGED_BYTES_MAX)?;
    let response = || response(answer, id, &encoding, reservation);
    // Serializing millions of numbers would block other requests.
    if bytes > UNCHARGED_BYTES_MAX { tokio::task::block_in_place(response) } else { response() }
}

fn too_large_for_json(output: &str, bytes: usize) -> Fault {
    let message = format!(
        "output `{output}` has {bytes} bytes, but at most {JSON_OUTPUT_BYTES_MAX} are sent as \
         JSON; request it as binary data"
    );
    Fault::new(Class::FAILED, message)
}

fn not_in_json(output: &str) -> Fault {
    let message = format!(
        "output `{output}` contains NaN or infinity, which JSON cannot represent; \
         request it as binary data"
    );
    Fault::new(Class::FAILED, message)
}

/// Builds the response: JSON, followed by raw tensors. The reservation is released once it is sent.
fn response(
    answer: Answer<Vec<Tensor>>,
    id: Option<String>,
    encoding: &OutputEncoding,
    reservation: Option<Reservation>,
) -> Result<Response<Body>, Fault> {
    let Answer { origin, output } = answer;
    let mut raw: Vec<Bytes> = Vec::new();
    let mut outputs = Vec::with_capacity(output.len());
    for Tensor { name, datatype, shape, data } in output {
        let (mut parameters, mut elements) = (None, None);
        if encoding.is_binary(&name) {
            parameters = Some(TensorParameters { binary_data_size: data.len() });
            raw.push(data);
        } else if data.len() > JSON_OUTPUT_BYTES_MAX {
            return Err(too_large_for_json(&name, data.len()));
        } else {
            elements = Some(Elements { datatype, data });
        }
        let datatype = datatype.name();
        outputs.push(TensorJson { name, datatype, shape, parameters, data: elements });
    }
    let response = ResponseJson {
        model_name: origin.model.name.to_string(),
        model_version: origin.generation.to_string(),
        id,
        parameters: ResponseParameters { generation: origin.generation },
        outputs,
    };
    let json = to_json(&response, 0).map_err(|NotFinite| {
        let is_finite = |output: &&TensorJson| to_json(&output.data, 0).is_ok();
        let culprit = response.outputs.iter().find(|output| !is_finite(output));
        not_in_json(culprit.map_or("", |output| &output.name))
    })?;
    if raw.is_empty() {
        let body = chunks::body(held([json.into()], reservation));
        return Ok(answer::response(&origin, "application/json", body));
    }
    let json_bytes = json.len();
    let body = chunks::body(held([json.into()].into_iter().chain(raw), reservation));
    let mut response = answer::response(&origin, "application/octet-stream", body);
    response.headers_mut().insert(binary::HEADER, HeaderValue::from(json_bytes));
    Ok(response)
}
