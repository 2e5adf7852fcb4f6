//! The one task that owns the queue and the workers. Everything that happens comes in as an
//! [`Event`](crate::dispatch::event::Event); nothing here waits for anything else, so no worker and
//! no client can hold it up. [`policy`](crate::dispatch::policy) decides; this carries it out.
//!
//! - [`state`]: what the task owns. Imported by the others, and imports none of them.
//! - [`worker`]: the handles of one worker.
//! - [`run`]: the loop, and what an event leads to.
//! - [`hear`]: what processes and sockets report; [`messages`]: what a worker says.
//! - [`queue`]: takes items in, hands groups out, and takes back what was not answered.
//! - [`endings`], [`hangs`], [`recycle`]: how a worker ends, by itself or by us.
//! - [`poison`]: refuses inputs whose like crashed workers.
//! - [`loads`]: what updates ask of workers.
//! - [`health`], [`measure`]: what others hear of it.

mod endings;
mod hangs;
mod health;
mod hear;
mod loads;
mod measure;
mod messages;
mod poison;
mod queue;
mod recycle;
mod run;
pub mod state;
pub mod worker;
