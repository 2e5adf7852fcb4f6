//! A second session of a version, over the same weights, that spreads one run over several CPUs:
//! for a request that is alone on the machine. It is made in the background when the first such
//! request has come; until then, and where it cannot be made, the other one runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use tracing::{debug, warn};

use crate::{
    families::family::Later,
    process::affinity,
    session::{Runtime, Session, SessionError},
};

/// The session, or its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wide(Arc<Mutex<Option<Session>>>);

/// What it is made of.
#[derive(Debug)]
pub(crate) struct Making {
    pub(crate) runtime: Arc<Runtime>,
    /// The compiled model: weights that are not shared would be in memory twice.
    pub(crate) model: PathBuf,
    /// The output that is computed.
    pub(crate) output: String,
    /// CPUs beside the process's own.
    pub(crate) helpers: Arc<[u16]>,
}

impl Making {
    fn open(&self) -> Result<Session, SessionError> {
        let mut session = Session::open_wide(&self.runtime, &self.model, &self.helpers)?;
        session.select(&self.output)?;
        Ok(session)
    }
}

impl Wide {
    /// The session, if there is one yet.
    pub(crate) fn get(&self) -> Option<MutexGuard<'_, Option<Session>>> {
        let session = match self.0.try_lock() {
            Ok(session) => session,
            // Who makes it has panicked before there was one.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        session.is_some().then_some(session)
    }

    /// What makes it, unless the version has gone by then; a failure only costs speed.
    pub(crate) fn later(&self, making: Making) -> Later {
        let place = Arc::downgrade(&self.0);
        Box::new(move || {
            if let Some(place) = place.upgrade() {
                Self(place).make(&making);
            }
        })
    }

    /// There is none any more: it does not work.
    pub(crate) fn give_up(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn make(&self, making: &Making) {
        if let Some(helper) = making.helpers.iter().find(|&&cpu| !affinity::may_use(cpu)) {
            return warn!(helper, "no wide session: this CPU may not be used");
        }
        match making.open() {
            Ok(session) => {
                debug!(helpers = ?making.helpers, "wide session made");
                // Nobody holds the lock for long before there is a session.
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
            }
            Err(error) => warn!(%error, "no wide session: requests that are alone use one CPU"),
        }
    }
}
