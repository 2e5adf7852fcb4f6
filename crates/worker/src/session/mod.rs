//! ONNX Runtime: the only folder that names `ort`. Opens the library, loads and compiles models
//! ([`runtime`]), runs text graphs ([`texts`]) and tensor models ([`tensors`]), and terminates runs
//! ([`interrupt`]). Knows nothing of versions.

mod elements;
mod error;
mod graph_inputs;
mod interrupt;
mod runtime;
mod tensors;
mod texts;

pub(crate) use self::{
    error::SessionError,
    interrupt::{compute_group, is_terminated, terminate},
    runtime::{Arrangement, COMPILED_WEIGHTS, Form, Runtime, RuntimeError},
    tensors::{Given, Output as TensorOutput, TensorSession},
    texts::{Batch, Output, Session, Tokens},
};
