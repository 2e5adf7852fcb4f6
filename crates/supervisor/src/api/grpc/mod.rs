//! gRPC, on a port of its own: the Open Inference Protocol with Triton's additions
//! (`proto/inference.proto`), health and reflection. What models take and give, and having them
//! answer, is [`crate::api::oip`]; connections are accepted by [`crate::transport::listener`] and held by
//! [`crate::transport::http2`].
//!
//! - [`front`]: what stands before the services: API keys, metrics, the limits of requests.
//! - [`body`], [`frames`], [`packed`]: requests as they come in: paid for, in time, until we drain.
//! - [`methods`], [`pb`]: which methods there are, and their messages.
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
mod methods;
mod packed;
pub(crate) mod pb;
mod service;
mod status;

use std::sync::Arc;

use axum::{Router, body::Body, http::Response, middleware};
use tokio::sync::watch;
use tonic::service::Routes;

use onnxd_engine::tasks::EssentialTasks;

pub(crate) use self::methods::{may_rest, templates};
use self::{
    front::Front,
    methods::{DESCRIPTION, MESSAGE_BYTES_MAX},
    pb::grpc_inference_service_server::GrpcInferenceServiceServer,
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
