//! A gRPC client of the Open Inference Protocol. Converts answers to HTTP terms for the history.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyper::http::HeaderValue;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    client::{DEADLINE, Response, Unanswered},
    launch::Builder,
    server::Server,
};

/// Code generated from `inference.proto`.
#[allow(
    clippy::enum_variant_names,
    clippy::too_many_lines,
    missing_debug_implementations,
    missing_docs,
    reason = "generated"
)]
pub mod pb {
    tonic::include_proto!("inference");
}

use pb::{
    ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};

/// A client of the service.
pub type Client = GrpcInferenceServiceClient<Channel>;

/// The inference method, as named in the server's metrics.
pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// A server logs its gRPC address within this time.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Message limit of clients that use large tensors.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Enables gRPC on a server.
#[must_use]
pub fn listening(builder: Builder) -> Builder {
    builder.argument("--grpc-listen").argument("127.0.0.1:0")
}

/// Returns the server's gRPC address, from its log.
pub async fn address(server: &Server) -> SocketAddr {
    crate::eventually("the address of gRPC", TIMEOUT, async || {
        let log = server.stderr();
        let (_, after) = log.split_once("grpc_listen=")?;
        after.split_whitespace().next()?.parse().ok()
    })
    .await
}

/// Opens a connection.
///
/// # Panics
/// Panics if the connection is refused.
pub async fn channel(server: &Server) -> Channel {
    connect(address(server).await).await
}

/// Opens a connection to an address.
///
/// # Panics
/// Panics if the connection is refused.
pub async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// Returns a client with its own connection.
///
/// # Panics
/// Panics if the connection is refused.
pub async fn client(server: &Server) -> Client {
    large(GrpcInferenceServiceClient::new(channel(server).await))
}

/// Raises a client's message size limits.
pub fn large(client: Client) -> Client {
    client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a request with raw inputs: name, datatype, shape and bytes of each.
pub fn raw(model: &str, inputs: &[(&str, &str, &[i64], Bytes)]) -> ModelInferRequest {
    let input = |(name, datatype, shape, _): &(&str, &str, &[i64], Bytes)| InferInputTensor {
        name: (*name).into(),
        datatype: (*datatype).into(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: model.into(),
        inputs: inputs.iter().map(input).collect(),
        raw_input_contents: inputs.iter().map(|input| input.3.clone()).collect(),
        ..ModelInferRequest::default()
    }
}

/// Returns a request with texts as inputs: name and texts of each.
///
/// # Panics
/// Panics if there are too many texts.
pub fn texts(model: &str, inputs: &[(&str, &[&str])]) -> ModelInferRequest {
    let input = |(name, texts): &(&str, &[&str])| {
        let bytes_contents =
            texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let contents = pb::InferTensorContents { bytes_contents, ..Default::default() };
        InferInputTensor {
            name: (*name).into(),
            datatype: "BYTES".into(),
            shape: vec![i64::try_from(texts.len()).unwrap()],
            contents: Some(contents),
            ..InferInputTensor::default()
        }
    };
    let inputs = inputs.iter().map(input).collect();
    ModelInferRequest { model_name: model.into(), inputs, ..ModelInferRequest::default() }
}

/// Sends an inference request. Returns the answer in HTTP terms, with the raw first output as the
/// body.
///
/// # Errors
/// Fails if no answer arrives.
///
/// # Panics
/// Panics if `timeout` overflows.
pub async fn infer(
    client: &mut Client,
    message: ModelInferRequest,
    timeout: Option<Duration>,
) -> Result<Response, Unanswered> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        // A gRPC deadline would let the client give up before the server does, and what the server
        // counted would be unknown.
        let millis = u64::try_from(timeout.as_millis()).unwrap();
        request.metadata_mut().insert("x-request-timeout-ms", millis.into());
    }
    match tokio::time::timeout(DEADLINE, client.model_infer(request)).await {
        Ok(Ok(answer)) => Ok(response(answer)),
        Ok(Err(status)) => refused(&status),
        Err(_) => Err(Unanswered(format!("no answer within {DEADLINE:?}"))),
    }
}

fn response(answer: tonic::Response<ModelInferResponse>) -> Response {
    let (metadata, message, _) = answer.into_parts();
    let body = message.raw_output_contents.into_iter().next().unwrap_or_default();
    Response { status: 200, headers: metadata.into_headers(), body }
}

fn refused(status: &Status) -> Result<Response, Unanswered> {
    let code = match status.code() {
        Code::InvalidArgument => 422,
        Code::NotFound => 404,
        Code::DeadlineExceeded => 504,
        Code::ResourceExhausted => 429,
        Code::FailedPrecondition => 424,
        Code::Internal => 500,
        Code::Unavailable => 503,
        other => return Err(Unanswered(format!("{other}: {}", status.message()))),
    };
    let mut headers = status.metadata().clone().into_headers();
    if let Some(millis) = headers.remove("retry-after-ms") {
        headers.insert("retry-after", millis);
    }
    headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    Ok(Response { status: code, headers, body: status.message().to_owned().into() })
}
