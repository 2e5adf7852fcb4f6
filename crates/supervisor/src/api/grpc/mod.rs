//! gRPC, on a port of its own: the Open Inference Protocol with Triton's additions
//! (`proto/inference.proto`), health and reflection. What models take and give, and having them
//! answer, is [`crate::api::oip`]; connections are accepted by [`crate::transport::listener`] and held by
//! [`crate::transport::http2`].
//!
//! - [`front`]: what stands before the services: API keys, metrics, the limits of requests.
//! - [`body`], [`frames`], [`packed`]: requests as they come in: paid for, in time, until we drain.
//! - [`codec`], [`bounds`]: messages: what they may cost before they are taken apart.
//! - [`service`], [`infer`], [`contents`]: the calls themselves.
//! - [`deadline`]: how long a call may take.
//! - [`status`], [`health`]: errors, and `grpc.health.v1`.

mod body;
pub(crate) mod bounds;
mod codec;
pub(crate) mod contents;
mod deadline;
mod frames;
mod front;
mod health;
mod infer;
mod packed;
mod service;
mod status;

use std::sync::{Arc, LazyLock};

use axum::{Router, body::Body, http::Response, middleware};
use onnxd_proto::limits::TENSORS_BYTES_MAX;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::sync::watch;
use tonic::service::Routes;

use onnxd_engine::tasks::EssentialTasks;

use crate::api::grpc::{
    front::Front, pb::grpc_inference_service_server::GrpcInferenceServiceServer,
};
use crate::{
    api::app::App,
    transport::{
        error::{Shape, TransportError, only},
        keys::Keys,
        panics,
    },
};
use onnxd_proto::exit::Failure;

/// What `proto/inference.proto` says, as Rust.
#[expect(
    clippy::doc_markdown,
    clippy::enum_variant_names,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "generated"
)]
pub(crate) mod pb {
    tonic::include_proto!("inference");
}

/// What `proto/inference.proto` says, for reflection.
const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
/// Bytes of a message: the largest tensors, and room for what describes them.
const MESSAGE_BYTES_MAX: usize = TENSORS_BYTES_MAX + (1 << 20);
/// Bytes of a message beyond which taking it apart or putting it together would keep others
/// waiting.
const AT_ONCE_BYTES_MAX: usize = 256 * 1024;

/// A method of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Method {
    /// As in `/package.Service/Method`.
    path: String,
    /// It takes more than one message.
    takes_stream: bool,
    /// Bytes of one.
    bytes_max: usize,
}

/// The call that tells its client how the server is, whenever that changes.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Whether a call may go on for ever without a message.
pub(crate) fn may_rest(path: &str) -> bool {
    static STREAMS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let streams = methods().into_iter().filter(|method| method.takes_stream);
        streams.map(|method| method.path).chain([WATCH.to_owned()]).collect()
    });
    STREAMS.iter().any(|stream| stream == path)
}

/// The methods of all services.
fn methods() -> Vec<Method> {
    let descriptions = [
        DESCRIPTION,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for description in descriptions {
        let set = FileDescriptorSet::decode(description).expect("the build made it");
        for file in &set.file {
            for service in &file.service {
                let method = |method: &prost_types::MethodDescriptorProto| Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    takes_stream: method.client_streaming(),
                    bytes_max: match method.input_type() {
                        ".inference.ModelInferRequest" => MESSAGE_BYTES_MAX,
                        _ => bounds::QUESTION_BYTES_MAX,
                    },
                };
                methods.extend(service.method.iter().map(method));
            }
        }
    }
    methods
}

/// The paths of all methods, which metrics name them by.
pub(crate) fn templates() -> Vec<String> {
    methods().into_iter().map(|method| method.path).collect()
}

/// The words of gRPC for a call that did not reach its service.
struct Words;

impl Shape for Words {
    fn render(&self, error: TransportError) -> Response<Body> {
        status::transport(error).into_http()
    }
}

/// All services. Open calls for more than one message end when `drain` becomes true.
///
/// # Errors
/// Reflection cannot describe them.
pub(crate) async fn router(
    app: App,
    keys: Option<Arc<Keys>>,
    drain: watch::Receiver<bool>,
    tasks: &EssentialTasks,
) -> Result<Router, Failure> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTION)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error: tonic_reflection::server::Error| Failure::internal(error.to_string());
    let inference = GrpcInferenceServiceServer::new(service::Service::new(app.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let routes = Routes::new(inference)
        .add_service(health::service(app.engine.health(), drain.clone(), tasks).await)
        .add_service(reflection().build_v1().map_err(failed)?)
        .add_service(reflection().build_v1alpha().map_err(failed)?);
    let front = Front::new(app, keys, drain);
    let around = middleware::from_fn_with_state(Arc::new(front), front::around);
    Ok(panics::caught(routes.into_axum_router(), only(&Words)).layer(around))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_every_service_has_a_template() {
        let templates = templates();
        for path in [
            "/inference.GRPCInferenceService/ModelInfer",
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(templates.iter().any(|template| template == path), "{path}: {templates:?}");
        }
        let streams = methods().into_iter().filter(|method| method.takes_stream);
        let streams: Vec<_> = streams.map(|method| method.path).collect();
        assert!(streams.contains(&"/inference.GRPCInferenceService/ModelStreamInfer".to_owned()));
        assert_eq!(streams.len(), 3);
        let large = methods().into_iter().filter(|method| method.bytes_max == MESSAGE_BYTES_MAX);
        let large: Vec<_> = large.map(|method| method.path).collect();
        let infer = ["ModelInfer", "ModelStreamInfer"];
        assert_eq!(large, infer.map(|name| format!("/inference.GRPCInferenceService/{name}")));
    }
}
