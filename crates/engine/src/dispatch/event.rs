//! Events that requests, workers and updates send to the dispatcher.

use std::io;

use onnxd_proto::control_page::Slot;
use tokio::sync::oneshot;

use crate::dispatch::{item::Item, worker};
use crate::pool::{Epoch, WorkerId, link::Incoming, process_monitor::Report};

/// An event for the dispatcher.
#[derive(Debug)]
pub enum Event {
    /// A model serves, so the workers may start.
    StartWorkers,
    /// Items of one request, all for the same model.
    Submitted(Vec<Item>),
    /// A process monitor reports a change in its process.
    ProcessReported(WorkerId, Epoch, Report),
    /// A worker sent a message, or its socket closed.
    MessageArrived(WorkerId, Epoch, io::Result<Incoming>),
    /// Requests the status of all workers.
    StatusRequested(oneshot::Sender<Vec<worker::Status>>),
    /// An update queue requests the ids of the serving workers.
    WorkersRequested(oneshot::Sender<Vec<WorkerId>>),
    /// Asks a worker to load a version ahead, alongside the one it serves.
    LoadAhead(WorkerId, Slot, String),
    /// Asks workers to drop what they loaded ahead for a model.
    DropLoadedAhead(Slot),
    /// A model no longer has a committed generation. Answered once all serving workers have dropped
    /// the model.
    Unload(Slot, oneshot::Sender<()>),
    /// A version that was loaded ahead is now committed. Idle workers switch without waiting for a
    /// request.
    Committed,
    /// The log filter of this process has changed. Workers follow.
    LogFilterChanged(String),
    /// The watchdog requests a sign of life from any worker.
    ProbeRequested(oneshot::Sender<()>),
    /// No more requests will arrive. Stops the workers once they have answered.
    Drain,
}
