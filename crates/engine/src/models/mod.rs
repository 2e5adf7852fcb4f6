//! Models, versions, generations, and the path from a source to a served version. Layers, bottom up:
//!
//! - [`machine`]: the pure state machine for one model's updates.
//! - [`sources`]: where versions come from.
//! - [`store`]: the state directory: staging, versions, records.
//! - [`gate`]: admits requests to a model and counts those in flight.
//! - [`registry`]: the served models and their generations; the only writer of the control page.
//! - [`workers`]: the worker operations that updates need; implemented by the dispatcher.
//! - [`indexes`]: the indexes of documents, which must be complete before a commit; implemented by the
//!   search crate.
//! - [`update`]: runs the machines: stage → check → load ahead → index → decide → record → commit.
//! - [`watch`]: asks sources whether they have changed, and updates their models.
//!
//! [`startup`] is the progress of a start. [`requester`] is the origin of an update. [`disk`] turns
//! disk errors into refusals. [`schedule`] decides when a source is checked next.

mod disk;
pub mod gate;
pub mod indexes;
pub mod machine;
pub mod registry;
pub mod requester;
mod schedule;
pub mod sources;
pub mod startup;
pub mod store;
pub mod update;
pub mod watch;
pub mod workers;
