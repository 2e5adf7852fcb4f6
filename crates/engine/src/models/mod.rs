//! Models, versions, generations, and the way from a source to what is served. Layers, from the bottom:
//!
//! - [`machine`]: pure: the updates of one model, step by step.
//! - [`sources`]: where versions come from.
//! - [`store`]: the state directory: staging, versions, records.
//! - [`gate`]: admits requests to a model and counts them.
//! - [`registry`]: the served models and the generation of each; the one writer of the control page.
//! - [`workers`]: what updates need of the worker processes; the dispatcher implements it.
//! - [`update`]: runs the machines: stage → check → load ahead → decide → record → commit.
//!
//! [`disk`] turns faults of the disk into refusals.

mod disk;
pub mod gate;
pub mod machine;
pub mod registry;
pub mod sources;
pub mod store;
pub mod update;
pub mod workers;
