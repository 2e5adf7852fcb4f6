//! The methods of all services, read from their descriptors: paths, streaming and message limits.

use std::sync::LazyLock;

use onnxd_proto::limits::TENSORS_BYTES_MAX;
use prost::Message;
use prost_types::FileDescriptorSet;

use crate::api::grpc::bounds::CONTROL_BYTES_MAX;

/// The descriptor of `proto/inference.proto`, for reflection.
pub(super) const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
/// Size limit of a message: the largest tensors plus 1 MiB for their description.
pub(super) const MESSAGE_BYTES_MAX: usize = TENSORS_BYTES_MAX + (1 << 20);
/// A method of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// `/package.Service/Method`.
    pub path: String,
    /// The client may send several messages.
    pub takes_stream: bool,
    /// Size limit of one message.
    pub bytes_max: usize,
}

/// Reports health changes to the client for as long as it stays connected.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Returns whether a call may stay open without messages.
pub(crate) fn may_rest(path: &str) -> bool {
    static STREAMS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let streams = methods().into_iter().filter(|method| method.takes_stream);
        streams.map(|method| method.path).chain([WATCH.to_owned()]).collect()
    });
    STREAMS.iter().any(|stream| stream == path)
}

/// Returns the methods of all services.
pub(super) fn methods() -> Vec<Method> {
    let descriptions = [
        DESCRIPTION,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for description in descriptions {
        let set = FileDescriptorSet::decode(description)
            .expect("the descriptors are generated at build time");
        for file in &set.file {
            for service in &file.service {
                let method = |method: &prost_types::MethodDescriptorProto| Method {
                    path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    takes_stream: method.client_streaming(),
                    bytes_max: match method.input_type() {
                        ".inference.ModelInferRequest" => MESSAGE_BYTES_MAX,
                        _ => CONTROL_BYTES_MAX,
                    },
                };
                methods.extend(service.method.iter().map(method));
            }
        }
    }
    methods
}

/// Returns the paths of all methods, used as `route` labels of metrics.
pub(crate) fn templates() -> Vec<String> {
    methods().into_iter().map(|method| method.path).collect()
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
