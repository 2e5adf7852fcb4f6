//! Models, versions, generations, and the way from a source to what is served.
//!
//! - [`registry`]: the served models and the generation of each; the one writer of the control
//!   page.
//! - [`source`]: where versions come from; a directory so far.
//! - [`checksums`]: what a source says of its own files.
//! - [`store`]: the state directory: staging, versions, generations.
//! - [`retention`]: what of the past is kept.
//! - [`background`]: threads for what waits for the disk.
//! - [`digests`]: what of a source need not be read again.
//! - [`crash`]: where tests have the supervisor killed.
//! - [`checker`]: starts the process that tries a candidate.
//! - [`line`](mod@line): pure: the line of updates of one model, step by step.
//! - [`gate`]: which requests are admitted, and which of them are not answered yet.
//! - [`wanted`]: pure: who waits until a model serves.
//! - [`pace`]: pure: how fast updates may follow each other.
//! - [`probation`]: pure: when a line goes back by itself.
//! - [`events`]: the words between a line and its driver.
//! - [`find`]: which content an update is about.
//! - [`driver`]: does what the lines ask for: stage → check → load ahead → record → commit.
//! - [`update`]: updates as callers see them.

pub mod background;
pub mod checker;
pub mod checksums;
mod crash;
mod digests;
mod driver;
pub mod events;
mod find;
pub mod gate;
pub mod line;
mod lock;
mod pace;
mod probation;
pub mod registry;
mod retention;
pub mod source;
pub mod store;
pub mod update;
mod wanted;
