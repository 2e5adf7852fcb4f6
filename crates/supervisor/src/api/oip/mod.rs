//! The Open Inference Protocol, version 2, apart from how it travels: what models take and give in
//! its terms, and inference on tensors. JSON over HTTP and gRPC call this; see [`crate::api`]
//! and [`crate::api::grpc`].
//!
//! A model for tensors takes and gives what its file says. One for texts takes BYTES tensors of
//! UTF-8 and gives FP32, so that every model can be asked in this way.

pub(crate) mod infer;
pub(crate) mod metadata;
pub(crate) mod rest;

use bytes::Bytes;
use onnxd_proto::domain::{
    Facts, Signature, Task,
    tensor::{DataType, TensorSpec},
};

/// A tensor that a client sends or is sent, raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<u64>,
    /// Little-endian, row-major; see [`DataType`].
    pub data: Bytes,
}

/// The input of models for texts.
const TEXT: &str = "text";
/// The second input of models that rerank.
const QUERY: &str = "query";

/// What a model takes and gives.
pub(crate) fn signature(facts: &Facts) -> Signature {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.into(),
    };
    let text = spec(TEXT, DataType::Bytes, &[-1]);
    let row = i64::from(facts.dimension);
    match facts.task {
        Task::Tensor => facts.signature.clone(),
        Task::Embed => Signature {
            inputs: vec![text],
            outputs: vec![spec("embedding", DataType::Fp32, &[-1, row])],
        },
        Task::Classify => Signature {
            inputs: vec![text],
            outputs: vec![spec("scores", DataType::Fp32, &[-1, row])],
        },
        Task::Rerank => Signature {
            inputs: vec![spec(QUERY, DataType::Bytes, &[1]), text],
            outputs: vec![spec("score", DataType::Fp32, &[-1])],
        },
    }
}
