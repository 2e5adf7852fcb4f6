//! ONNX Runtime: the only folder that names `ort`. Owns how the library is opened and a model is
//! loaded and compiled ([`runtime`]), what a model must look like to be run with texts ([`texts`]) or
//! tensors ([`tensors`]), running it, and ending a run ([`interrupt`]). Knows nothing of versions.

mod elements;
mod error;
mod inlets;
mod interrupt;
mod runtime;
mod tensors;
mod texts;

pub(crate) use self::{
    error::SessionError,
    interrupt::{during, is_terminated, terminate},
    runtime::{Arrangement, COMPILED_WEIGHTS, Form, Runtime, RuntimeError},
    tensors::{Given, Output as TensorOutput, TensorSession},
    texts::{Batch, Output, Session, Tokens},
};
