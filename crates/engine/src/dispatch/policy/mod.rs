//! Decides what the dispatcher does. Pure: no task, no process, no socket and no clock; callers
//! pass the time. The [actor](crate::dispatch::actor) reports what happened and carries out what
//! these modules decide.
//!
//! - [`scheduler`]: which items form the next group.
//! - [`estimate`]: how much work an item is, before it is tokenized.
//! - [`placement`]: which workers may receive a group of a model.
//! - [`groups`]: the groups of one worker and their unanswered items.
//! - [`session`]: one worker: its processes, their states, and restarts.
//! - [`restarts`]: when and how often a worker is restarted.
//! - [`overdue`]: how long the dispatcher waits for a worker.
//! - [`poison`]: which inputs are refused because they crashed workers.
//! - [`recycling`]: which worker is restarted because it uses too much memory.
//! - [`idle_boost`]: when a lone item may use the CPUs of idle workers.

pub mod estimate;
pub(crate) mod groups;
pub(crate) mod idle_boost;
pub(crate) mod overdue;
pub(crate) mod placement;
pub(crate) mod poison;
pub(crate) mod recycling;
pub mod restarts;
pub mod scheduler;
pub mod session;

#[cfg(test)]
mod priority_tests;
