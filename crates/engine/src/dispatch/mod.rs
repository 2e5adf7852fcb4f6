//! Takes accepted requests to a worker and returns its answers.
//!
//! - [`gather`]: the entry point. Submits the inputs of a request, waits for the answers and
//!   ensures that one response comes from one generation.
//! - [`actor`]: the one task that owns the queue and the workers.
//! - [`policy`]: the decisions of that task; pure.
//! - [`workers`]: requests from updates to workers.
//! - [`progress`]: how far a recorded request came.
//! - [`item`], [`event`], [`backlog`], [`health`], [`worker`]: data shared with callers.

pub mod actor;
pub mod backlog;
pub mod event;
pub mod gather;
pub mod health;
pub mod item;
pub mod policy;
pub mod progress;
pub mod worker;
pub mod workers;

pub use backlog::Backlog;
pub use event::Event;
pub use item::{Input, Item, ItemAnswer, ItemError, Phases, Priority, RequestTerms, Timing};
