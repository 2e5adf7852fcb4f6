//! `grpc.health.v1`: serving means that requests are answered, as over HTTP. During a drain,
//! watchers are notified and disconnected.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::{HealthReporter, health_reporter},
};

use crate::api::grpc::{
    pb::grpc_inference_service_server::GrpcInferenceServiceServer, service::Service,
};
use onnxd_engine::{Engine, tasks::EssentialTasks};

/// Names with a status: the server as a whole, and the one service that may be unable to serve.
const NAMES: [&str; 2] = ["", <GrpcInferenceServiceServer<Service> as NamedService>::NAME];

/// Returns the health service, which follows the server's readiness.
pub(super) async fn service(
    engine: Arc<Engine>,
    mut drain: watch::Receiver<bool>,
    tasks: &EssentialTasks,
) -> HealthServer<impl Health> {
    let (mut reporter, service) = health_reporter();
    let (mut health, mut startup) = (engine.health(), engine.startup());
    let mut closing = engine.closing();
    set(&reporter, engine.is_ready()).await;
    tasks.spawn("gRPC health", async move {
        loop {
            tokio::select! {
                // An error means that the sender was dropped. Treat that as a drain.
                () = async { drop(drain.wait_for(|drain| *drain).await) } => break,
                Ok(()) = health.changed() => {}
                Ok(()) = startup.changed() => {}
                Ok(()) = closing.changed() => {}
                else => break,
            }
            set(&reporter, engine.is_ready()).await;
        }
        set(&reporter, false).await;
        for name in NAMES {
            // Disconnects watchers.
            reporter.clear_service_status(name).await;
        }
        set(&reporter, false).await;
    });
    service
}

async fn set(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in NAMES {
        reporter.set_service_status(name, status).await;
    }
}
