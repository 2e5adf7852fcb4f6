//! gRPC, on a dedicated port: the Open Inference Protocol with Triton's additions
//! (`proto/inference.proto`), health and reflection. [`crate::api::oip`] has what both transports
//! share; [`crate::transport::listener`] accepts connections and [`crate::transport::http2`] serves
//! them.
//!
//! - [`middleware`]: API keys, metrics and limits, before all services.
//! - [`body`], [`frames`], [`decompress`]: incoming requests: memory, timeouts and drain.
//! - [`methods`], [`pb`]: methods and messages.
//! - [`codec`], [`bounds`]: encoding, and what a message may cost before it is decoded.
//! - [`service`], [`infer`], [`contents`]: the calls.
//! - [`deadline`]: call deadlines.
//! - [`status`], [`health`]: errors, and `grpc.health.v1`.

mod body;
pub(crate) mod bounds;
mod codec;
pub(crate) mod contents;
mod deadline;
mod decompress;
mod frames;
mod health;
mod infer;
mod methods;
mod middleware;
pub(crate) mod pb;
mod service;
mod status;

use std::sync::Arc;

use axum::{Router, body::Body, http::Response};
use tokio::sync::watch;
use tonic::service::Routes;

use onnxd_engine::tasks::EssentialTasks;

pub(crate) use self::methods::{may_idle, templates};
use self::{
    methods::{DESCRIPTION, MESSAGE_BYTES_MAX},
    middleware::Middleware,
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

/// Renders errors of calls that did not reach their service.
struct GrpcErrors;

impl Shape for GrpcErrors {
    fn render(&self, error: TransportError) -> Response<Body> {
        status::transport(error).into_http()
    }
}

/// Builds the router of all services. Open streaming calls end when `drain` becomes true.
///
/// # Errors
/// The reflection service rejected the descriptors.
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
        .add_service(health::service(Arc::clone(&app.engine), drain.clone(), tasks).await)
        .add_service(reflection().build_v1().map_err(failed)?)
        .add_service(reflection().build_v1alpha().map_err(failed)?);
    let state = Arc::new(Middleware::new(app, keys, drain));
    let layer = axum::middleware::from_fn_with_state(state, middleware::handle);
    Ok(panics::caught(routes.into_axum_router(), only(&GrpcErrors)).layer(layer))
}
