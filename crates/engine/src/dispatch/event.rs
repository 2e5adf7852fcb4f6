//! What the dispatcher is told: by requests, by workers, and by updates.

use std::io;

use onnxd_proto::control_page::Slot;
use tokio::sync::oneshot;

use crate::dispatch::{item::Item, worker};
use crate::pool::{Epoch, WorkerId, keeper::Report, link::Incoming};

/// Everything that happens to the dispatcher.
#[derive(Debug)]
pub enum Event {
    /// Items of one request, all for the same model.
    Submitted(Vec<Item>),
    /// A keeper has started its process, or the process has ended.
    Kept(WorkerId, Epoch, Report),
    /// A message of a worker, or the end of its socket.
    Arrived(WorkerId, Epoch, io::Result<Incoming>),
    /// Asks how the workers are.
    StatusAsked(oneshot::Sender<Vec<worker::Status>>),
    /// A line of updates wants to know which workers serve.
    WorkersAsked(oneshot::Sender<Vec<WorkerId>>),
    /// A worker is to load a version beside what it serves.
    LoadAhead(WorkerId, Slot, String),
    /// What workers have loaded ahead of a model is not wanted any more.
    Forget(Slot),
    /// Nothing of a model is committed any more; answered when all serving workers have dropped
    /// what they had of it.
    Unload(Slot, oneshot::Sender<()>),
    /// What was loaded ahead is committed: idle workers need not wait for a request to follow.
    Committed,
    /// The watchdog wants a sign of life of any worker.
    ProbeAsked(oneshot::Sender<()>),
    /// No new requests come; end the workers when they have answered.
    Drain,
}
