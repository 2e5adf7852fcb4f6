//! gRPC: the calls of the Open Inference Protocol, health, reflection, keys, TLS and limits.

mod calls;
mod errors;
mod guarded;
mod infer;
mod lifecycle;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use e2e::{fixtures::model, launch::Builder, server::Server};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

/// What `inference.proto` says.
#[allow(
    clippy::enum_variant_names,
    clippy::too_many_lines,
    unreachable_pub,
    missing_debug_implementations,
    reason = "generated"
)]
mod pb {
    tonic::include_proto!("inference");
}

use pb::{
    ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};

type Client = GrpcInferenceServiceClient<Channel>;

const PATIENCE: Duration = Duration::from_secs(30);
/// What a client of large tensors sets.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A server that also speaks gRPC.
fn builder(models: &[(&str, &str)]) -> Builder {
    let builder = Server::builder().argument("--grpc-listen").argument("127.0.0.1:0");
    models.iter().fold(builder, |builder, (name, path)| builder.model(name, &model(path)))
}

/// Where it does, by its log.
async fn grpc_address(server: &Server) -> SocketAddr {
    e2e::eventually("the address of gRPC", PATIENCE, async || {
        let log = server.stderr();
        let (_, after) = log.split_once("grpc_listen=")?;
        after.split_whitespace().next()?.parse().ok()
    })
    .await
}

async fn channel(server: &Server) -> Channel {
    let address = grpc_address(server).await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("a connection")
}

async fn client(server: &Server) -> Client {
    large(GrpcInferenceServiceClient::new(channel(server).await))
}

fn large(client: Client) -> Client {
    client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A request with raw inputs.
fn raw(model: &str, inputs: &[(&str, &str, &[i64], Bytes)]) -> ModelInferRequest {
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

/// A request for texts.
fn texts(model: &str, inputs: &[(&str, &[&str])]) -> ModelInferRequest {
    let input = |(name, texts): &(&str, &[&str])| {
        let bytes_contents =
            texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let contents = pb::InferTensorContents { bytes_contents, ..Default::default() };
        InferInputTensor {
            name: (*name).into(),
            datatype: "BYTES".into(),
            shape: vec![i64::try_from(texts.len()).expect("few")],
            contents: Some(contents),
            ..InferInputTensor::default()
        }
    };
    let inputs = inputs.iter().map(input).collect();
    ModelInferRequest { model_name: model.into(), inputs, ..ModelInferRequest::default() }
}

fn wanted(name: &str) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor { name: name.into(), ..InferRequestedOutputTensor::default() }
}

fn bytes(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(raw: &[u8]) -> Vec<f32> {
    let (values, []) = raw.as_chunks() else { panic!("{} bytes of floats", raw.len()) };
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// The generation that a response names, in three places and in its headers.
fn generation(response: &Response<ModelInferResponse>) -> u64 {
    let header = response.metadata().get("x-model-generation").expect("a header");
    let message = response.get_ref();
    assert_eq!(header.to_str().ok(), Some(message.model_version.as_str()));
    generation_of(message)
}

fn generation_of(message: &ModelInferResponse) -> u64 {
    let said = message.parameters["generation"].parameter_choice.clone();
    let Some(ParameterChoice::Int64Param(number)) = said else { panic!("{message:?}") };
    assert_eq!(message.model_version, number.to_string());
    number.try_into().expect("above 0")
}

fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> (tonic::Code, String) {
    let status = answer.expect_err("a refusal");
    (status.code(), status.message().to_owned())
}
