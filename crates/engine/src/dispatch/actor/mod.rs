//! The task that owns the queue and the workers. It receives all input as
//! [`Event`](crate::dispatch::event::Event)s and awaits nothing else, so no worker or client can
//! block it. [`policy`](crate::dispatch::policy) makes the decisions; this module carries them out.
//!
//! - [`state`]: the task's data. The other files import it; it imports none of them.
//! - [`worker`]: the handles of one worker.
//! - [`run`]: the loop and the dispatch of events.
//! - [`reports`]: reports of processes and sockets; [`messages`]: messages of workers.
//! - [`queue`]: accepts items, hands out groups and requeues unanswered items.
//! - [`exits`], [`hangs`], [`recycle`]: how workers exit, on their own or on request.
//! - [`poison`]: refuses inputs identical to ones that crashed workers.
//! - [`loads`]: loads and drops that updates request.
//! - [`log`]: the log filter of workers.
//! - [`health`], [`metrics`]: what the task publishes.

mod exits;
mod hangs;
mod health;
mod loads;
mod log;
mod messages;
mod metrics;
mod poison;
mod queue;
mod recycle;
mod reports;
mod run;
pub mod state;
pub mod worker;
