//! A second session of a version over the same weights that spreads one run over several CPUs, for
//! requests while the server is otherwise idle. It is created in the background after the first
//! such request. Until then, or if that fails, the regular session runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use tracing::{debug, warn};

use crate::{
    families::family::DeferredJob,
    process::affinity,
    session::{Runtime, Session, SessionError},
};

/// The session; `None` until it is created.
#[derive(Clone, Debug, Default)]
pub(crate) struct WideSession(Arc<Mutex<Option<Session>>>);

/// What the session is created from.
#[derive(Debug)]
pub(crate) struct WideSpec {
    pub(crate) runtime: Arc<Runtime>,
    /// The compiled model. Without its shared weights, memory use would double.
    pub(crate) model: PathBuf,
    /// The output to compute.
    pub(crate) output: String,
    /// CPUs in addition to the process's own.
    pub(crate) helpers: Arc<[u16]>,
}

impl WideSpec {
    fn open(&self) -> Result<Session, SessionError> {
        let mut session = Session::open_wide(&self.runtime, &self.model, &self.helpers)?;
        session.select(&self.output)?;
        Ok(session)
    }
}

impl WideSession {
    /// Returns the session, if it exists and is not locked.
    pub(crate) fn get(&self) -> Option<MutexGuard<'_, Option<Session>>> {
        let session = match self.0.try_lock() {
            Ok(session) => session,
            // The creating thread panicked before it stored a session.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        session.is_some().then_some(session)
    }

    /// Returns the task that creates the session, unless the version is dropped first. A failure
    /// only costs speed.
    pub(crate) fn creation_task(&self, spec: WideSpec) -> DeferredJob {
        let slot = Arc::downgrade(&self.0);
        Box::new(move || {
            if let Some(slot) = slot.upgrade() {
                Self(slot).create(&spec);
            }
        })
    }

    /// Drops a session that failed.
    pub(crate) fn discard(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn create(&self, spec: &WideSpec) {
        if let Some(helper) = spec.helpers.iter().find(|&&cpu| !affinity::may_use(cpu)) {
            return warn!(helper, "cannot create a multi-CPU session: CPU not allowed");
        }
        match spec.open() {
            Ok(session) => {
                debug!(helpers = ?spec.helpers, "created multi-CPU session");
                // The lock is never held for long before a session exists.
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
            }
            Err(error) => {
                warn!(%error, "cannot create a multi-CPU session; lone requests use one CPU")
            }
        }
    }
}
