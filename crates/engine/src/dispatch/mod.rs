//! From an accepted request to the worker that computes it, and back.
//!
//! - [`gather`]: the way in. Hands the inputs of a request to the dispatcher, waits for the answers,
//!   and makes sure that one response has one generation.
//! - [`actor`]: the one task that owns the queue and the workers.
//! - [`policy`]: what that task decides; pure.
//! - [`workers`]: how updates ask workers for something.
//! - [`item`], [`event`], [`backlog`], [`health`], [`worker`]: what passes between them and their
//!   callers.

pub mod actor;
pub mod backlog;
pub mod event;
pub mod gather;
pub mod health;
pub mod item;
pub mod policy;
pub mod worker;
pub mod workers;

pub use backlog::Backlog;
pub use event::Event;
pub use item::{Answered, Input, Item, ItemError, Priority, Terms, Timing};
