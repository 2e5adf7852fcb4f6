//! gRPC: calls of the Open Inference Protocol, health, reflection, keys, TLS and limits.

mod calls;
mod errors;
mod infer;
mod lifecycle;
mod security;

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    fixtures::model,
    grpc::{
        self, Client, address as grpc_address, channel, client,
        pb::{
            self, ModelInferResponse, infer_parameter::ParameterChoice,
            model_infer_request::InferRequestedOutputTensor,
        },
        raw, texts,
    },
    launch::Builder,
    server::Server,
};
use tonic::{Response, Status};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Configures a server with gRPC.
fn builder(models: &[(&str, &str)]) -> Builder {
    let builder = grpc::listening(Server::builder());
    models.iter().fold(builder, |builder, (name, path)| builder.model(name, &model(path)))
}

fn requested_output(name: &str) -> InferRequestedOutputTensor {
    InferRequestedOutputTensor { name: name.into(), ..InferRequestedOutputTensor::default() }
}

fn bytes(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(raw: &[u8]) -> Vec<f32> {
    let (values, []) = raw.as_chunks() else { panic!("{} bytes of floats", raw.len()) };
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Returns the generation that a response states in its parameters, version and header.
fn generation(response: &Response<ModelInferResponse>) -> u64 {
    let header = response.metadata().get("x-model-generation").expect("a header");
    let message = response.get_ref();
    assert_eq!(header.to_str().ok(), Some(message.model_version.as_str()));
    generation_of(message)
}

fn generation_of(message: &ModelInferResponse) -> u64 {
    let generation = message.parameters["generation"].parameter_choice.clone();
    let Some(ParameterChoice::Int64Param(number)) = generation else { panic!("{message:?}") };
    assert_eq!(message.model_version, number.to_string());
    number.try_into().expect("above 0")
}

fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> (tonic::Code, String) {
    let status = answer.expect_err("a refusal");
    (status.code(), status.message().to_owned())
}
