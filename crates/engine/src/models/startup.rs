//! What the server does before it serves. Set by [`restore`](crate::models::update), read by health
//! checks and by requests that arrive meanwhile.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

/// The progress of a start.
#[derive(Debug)]
pub struct Startup {
    phase: watch::Sender<Phase>,
    /// Counts what happens within the phases.
    steps: AtomicU64,
}

/// What a start does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing yet.
    #[default]
    Begun,
    /// Restores the last generation of a model.
    Restoring(Progress),
    /// Checks the content of a model's source for the first time.
    Checking(Progress),
    /// No model serves, or a required one does not, and another attempt follows.
    Waiting {
        /// The model.
        model: String,
        /// Why the last attempt failed.
        reason: String,
    },
    /// Every model has been tried.
    Done,
}

/// A model's place among those that are loaded at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The model.
    pub model: String,
    /// Its place, counted from 1.
    pub place: usize,
    /// The number of models.
    pub of: usize,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, place, of } = self;
        write!(f, "model {model}, {place} of {of}")
    }
}

/// Describes the phase for clients.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun => f.write_str("starting"),
            Self::Restoring(progress) => write!(f, "restoring {progress}"),
            Self::Checking(progress) => write!(f, "checking {progress}"),
            // The reason names servers, which clients need not know.
            Self::Waiting { model, .. } => write!(f, "waiting for the source of model {model}"),
            Self::Done => f.write_str("started"),
        }
    }
}

impl Phase {
    /// Describes the phase for operators.
    pub fn in_full(&self) -> String {
        match self {
            Self::Waiting { reason, .. } => format!("{self}: {reason}"),
            _ => self.to_string(),
        }
    }
}

impl Startup {
    /// Returns a start in a phase.
    pub(super) fn new(phase: Phase) -> Self {
        Self { phase: watch::channel(phase).0, steps: AtomicU64::new(0) }
    }

    pub(super) fn set(&self, phase: Phase) {
        self.progressed();
        self.phase.send_replace(phase);
    }

    /// Records that a model's first load goes on.
    pub(super) fn progressed(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns a number that rises as long as the start makes progress.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Subscribes to the phase.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Returns the phase, or `None` once the start is done.
    pub fn phase(&self) -> Option<Phase> {
        Some(self.phase.borrow().clone()).filter(|phase| *phase != Phase::Done)
    }

    /// Returns whether the start is done.
    pub fn is_done(&self) -> bool {
        *self.phase.borrow() == Phase::Done
    }

    /// Waits until the start is done.
    pub async fn done(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.subscribe().wait_for(|phase| *phase == Phase::Done).await;
    }
}
