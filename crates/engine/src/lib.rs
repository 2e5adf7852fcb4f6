//! The engine of onnxd. It knows no protocol: HTTP, gRPC and the command line belong to its callers.
//!
//! - [`pool`]: worker processes and the links to them.
//! - [`dispatch`]: the queue, the scheduler, and the task that owns the workers.
//! - [`models`]: versions, generations, sources and updates.
//! - [`tasks`]: tasks that must live as long as the server.

mod clock;
pub mod dispatch;
pub mod models;
pub mod pool;
pub mod tasks;
