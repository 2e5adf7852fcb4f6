//! The inference engine. Protocol-agnostic: HTTP, gRPC and the command line belong to its callers.
//!
//! - [`engine`]: the calls that protocols make: embed, classify, rerank, run tensors, tokenize,
//!   decode.
//! - [`pool`]: worker processes and their sockets.
//! - [`dispatch`]: the queue, the scheduler and the task that owns the workers.
//! - [`models`]: versions, generations, sources and updates.
//! - [`tasks`]: tasks that must run for as long as the server does.

mod clock;
pub mod dispatch;
pub mod engine;
pub mod models;
pub mod pool;
pub mod tasks;

pub use engine::{Engine, EngineError, ErrorKind, RequestContext};
