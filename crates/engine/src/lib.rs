//! The engine of onnxd. It knows no protocol: HTTP, gRPC and the command line belong to its callers.
//!
//! - [`engine`]: what protocols call: embed, classify, rerank, run tensors, tokenize, decode.
//! - [`pool`]: worker processes and the links to them.
//! - [`dispatch`]: the queue, the scheduler, and the task that owns the workers.
//! - [`models`]: versions, generations, sources and updates.
//! - [`tasks`]: tasks that must live as long as the server.

mod clock;
pub mod dispatch;
pub mod engine;
pub mod models;
pub mod pool;
pub mod tasks;

pub use engine::{Engine, EngineError, ErrorKind, RequestContext};
