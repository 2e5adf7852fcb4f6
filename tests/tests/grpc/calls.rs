//! All calls except inference.

use std::collections::BTreeSet;

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{
    builder, bytes, channel, client,
    pb::{
        DataType, ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest,
        ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
        RepositoryModelUnloadRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
        model_instance_group::Kind,
    },
    raw, refused,
};

const SERVICE: &str = "inference.GRPCInferenceService";

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_readiness_are_reported() {
    let server = builder(&[("m", "tiny/tensor_two"), ("t", "tiny/a")]).start().await;
    let mut client = client(&server).await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
    let metadata = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "onnxd");
    assert!(metadata.extensions.contains(&"binary_tensor_data".to_owned()));
    for (name, version, ready) in
        [("m", "", true), ("m", "1", true), ("m", "2", false), ("nobody", "", false)]
    {
        let request = ModelReadyRequest { name: name.into(), version: version.into() };
        let actual = client.model_ready(request).await.unwrap().get_ref().ready;
        assert_eq!(actual, ready, "{name} {version}");
    }
    let request = ModelMetadataRequest { name: "m".into(), version: String::new() };
    let model = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!((model.name.as_str(), model.versions), ("m", vec!["1".to_owned()]));
    let shown = model.inputs.iter().map(|input| (&*input.name, &*input.datatype, &input.shape[..]));
    assert_eq!(shown.collect::<Vec<_>>(), [("a", "FP32", &[-1, 2][..]), ("b", "FP32", &[-1, 2])]);
    let outputs: Vec<_> = model.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!(outputs, ["sum", "product"]);
    let request = ModelConfigRequest { name: "t".into(), version: String::new() };
    let config = client.model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((&*config.name, &*config.backend), ("t", "onnxruntime"));
    assert_eq!(config.input[0].data_type, i32::from(DataType::TypeString));
    assert_eq!(config.output[0].data_type, i32::from(DataType::TypeFp32));
    assert_eq!((config.instance_group[0].count, config.instance_group[0].kind()), (2, Kind::Cpu));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_and_metrics_count_requests() {
    let server = builder(&[("m", "tiny/tensor_a"), ("t", "tiny/a")]).start().await;
    let mut client = client(&server).await;
    for _ in 0..3 {
        let request = raw("m", &[("x", "FP32", &[1, 4], bytes(&[0.0; 4]))]);
        client.model_infer(request).await.unwrap();
    }
    let code = refused(client.model_infer(raw("m", &[])).await).0;
    assert_eq!(code, Code::InvalidArgument);
    let request = ModelStatisticsRequest { name: "m".into(), version: String::new() };
    let stats = client.model_statistics(request).await.unwrap().into_inner().model_stats;
    assert_eq!((stats.len(), stats[0].inference_count), (1, 3));
    assert!(stats[0].inference_stats.as_ref().unwrap().compute_infer.unwrap().ns > 0);
    let all = client.model_statistics(ModelStatisticsRequest::default()).await.unwrap();
    assert_eq!(all.get_ref().model_stats.len(), 2);
    let metrics = server.client().await.get("/metrics").await.unwrap().text();
    let counted = |path: &str, code: &str| {
        let has = |line: &&str| {
            line.starts_with("onnxd_requests_total{")
                && line.contains(&format!("\"{path}\""))
                && line.contains(&format!("\"{code}\""))
        };
        let line = metrics.lines().find(has)?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let infer = format!("/{SERVICE}/ModelInfer");
    assert_eq!((counted(&infer, "200"), counted(&infer, "400")), (Some(3), Some(1)), "{metrics}");
    assert_eq!(counted(&format!("/{SERVICE}/ModelConfig"), "200"), Some(0), "{metrics}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_calls_are_denied_and_unknown_ones_unimplemented() {
    let server = builder(&[("m", "tiny/tensor_a")]).start().await;
    let mut client = client(&server).await;
    let load = RepositoryModelLoadRequest { model_name: "m".into(), ..Default::default() };
    let unload = RepositoryModelUnloadRequest { model_name: "m".into(), ..Default::default() };
    for (code, message) in [
        refused(client.repository_index(RepositoryIndexRequest::default()).await),
        refused(client.repository_model_load(load).await),
        refused(client.repository_model_unload(unload).await),
    ] {
        assert_eq!(code, Code::PermissionDenied);
        assert!(message.contains("--admin-listen"), "{message}");
    }
    for path in ["/inference.GRPCInferenceService/TraceSetting", "/inference.Nobody/Nothing"] {
        let mut grpc = tonic::client::Grpc::new(channel(&server).await);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ServerLiveRequest, ServerLiveRequest>::default();
        let request = tonic::Request::new(ServerLiveRequest {});
        let answer = grpc.unary(request, path.parse().unwrap(), codec).await;
        assert_eq!(refused(answer).0, Code::Unimplemented, "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness_and_ends_watches_on_shutdown() {
    let server = builder(&[("m", "tiny/tensor_a")]).start().await;
    let mut client = HealthClient::new(channel(&server).await);
    for service in ["", SERVICE] {
        let request = HealthCheckRequest { service: service.into() };
        let status = client.check(request).await.unwrap().get_ref().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "nobody".into() };
    assert_eq!(refused(client.check(request).await).0, Code::NotFound);
    let mut watched = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = watched.next().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let start = std::time::Instant::now();
    server.stop().await;
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    let last = watched.next().await.unwrap().unwrap();
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(watched.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_of_both_versions_lists_the_services() {
    let server = builder(&[("m", "tiny/tensor_a")]).start().await;
    let channel = channel(&server).await;
    let expected = BTreeSet::from([SERVICE.to_owned(), "grpc.health.v1.Health".to_owned()]);
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap().message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer
    else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.is_superset(&expected), "{names:?}");
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request =
        v1alpha::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap().message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer
    else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.is_superset(&expected), "{names:?}");
    server.stop().await;
}
