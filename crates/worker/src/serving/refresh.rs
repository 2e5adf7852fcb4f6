//! One served model in this worker: what is loaded, and the refresh that follows the committed
//! generation. This is the one place where generations are compared.
//!
//! What answers are stamped with is the generation that is loaded, never one read afterwards:
//! see `onnxd_proto::generation`, where the protocol is model-checked.

use std::time::{Duration, Instant};

use onnxd_proto::{
    control_page::{ControlPageView, Slot},
    domain::{Facts, Refusal, RefusalKind, cost::CostTable},
    generation::Generation,
    layout::Layout,
    wire::message::{FromWorker, ModelSlot},
};
use tracing::{info, warn};

use super::ahead::{Loader, brief, micros};
use crate::families::LoadedVersion;

/// The pause after the first failure to load; doubled with every further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What a version is when loaded; tests put something lighter there.
pub(crate) trait Content: Send + 'static {
    /// Whether the weights are those of the compiled form, which all workers share.
    fn is_compiled(&self) -> bool;

    /// What its runs cost.
    fn cost_table(&self) -> CostTable;

    /// Takes texts as long as these facts say.
    fn follow(&mut self, facts: &Facts);
}

impl Content for LoadedVersion {
    fn is_compiled(&self) -> bool {
        Self::is_compiled(self)
    }

    fn cost_table(&self) -> CostTable {
        self.costs().table_to_tell()
    }

    fn follow(&mut self, facts: &Facts) {
        self.limit_tokens(facts.max_tokens);
    }
}

/// A model.
#[derive(Debug)]
pub(crate) struct Model<V> {
    place: ModelSlot,
    serving: Option<Serving<V>>,
    failure: Option<Failure>,
}

/// What answers are made with, and their label.
#[derive(Debug)]
pub(crate) struct Serving<V> {
    /// What answers are stamped with.
    pub(crate) generation: Generation,
    /// The loaded version.
    pub(crate) content: V,
    version: String,
}

/// A committed generation that could not be loaded.
#[derive(Debug)]
struct Failure {
    generation: Generation,
    reason: String,
    backoff: Backoff,
}

impl<V: Content> Model<V> {
    pub(crate) fn new(place: ModelSlot) -> Self {
        Self { place, serving: None, failure: None }
    }

    /// Its slot in the control page.
    pub(crate) fn slot(&self) -> Slot {
        self.place.slot
    }

    /// What is loaded, or why nothing is.
    pub(crate) fn serving(&mut self) -> Result<&mut Serving<V>, String> {
        let reason = self.failure.as_ref().map(|failure| failure.reason.as_str());
        self.serving.as_mut().ok_or_else(|| reason.unwrap_or("nothing is committed").to_owned())
    }

    /// Follows the committed generation; called once before each dispatch group, so that a group
    /// has exactly one. Returns what the supervisor has to know. A version that stands ready is
    /// taken, another one is loaded; if that fails, what was loaded goes on serving under its own
    /// number. Where none is committed any more, what was loaded is dropped.
    pub(crate) fn refresh(
        &mut self,
        page: &ControlPageView,
        layout: &Layout,
        now: Instant,
        loader: &Loader<V>,
    ) -> Option<FromWorker> {
        let generation = page.committed(self.place.slot);
        let loaded = self.serving.as_ref().map_or(0, |serving| serving.generation);
        match generation {
            0 if loaded != 0 || self.failure.is_some() => Some(self.unload(loader)),
            _ if generation != loaded => self.follow(generation, layout, now, loader),
            _ => None,
        }
    }

    /// Drops everything there is of the model.
    fn unload(&mut self, loader: &Loader<V>) -> FromWorker {
        let slot = self.place.slot;
        self.failure = None;
        loader.forget(slot);
        if let Some(Serving { generation, content, .. }) = self.serving.take() {
            info!(model = %self.place.name, generation, "unloaded");
            loader.discard(content);
        }
        FromWorker::Unloaded { slot }
    }

    /// Has a version loaded beside what is served. Returns the answer if it is known at once;
    /// else `loader` gives it.
    pub(crate) fn load_ahead(&self, version: &str, loader: &Loader<V>) -> Option<FromWorker> {
        let slot = self.place.slot;
        let serves = self.serving.as_ref().is_some_and(|serving| serving.version == version);
        if serves {
            loader.forget(slot);
        }
        (serves || loader.want(slot, version)).then(|| FromWorker::LoadedAhead {
            slot,
            version: version.to_owned(),
            load_micros: 0,
        })
    }

    fn follow(
        &mut self,
        generation: Generation,
        layout: &Layout,
        now: Instant,
        loader: &Loader<V>,
    ) -> Option<FromWorker> {
        // Another generation starts with a clean record.
        self.failure.take_if(|failure| failure.generation != generation);
        if self.failure.as_ref().is_some_and(|failure| failure.backoff.is_waiting(now)) {
            return None;
        }
        let slot = self.place.slot;
        let started = Instant::now();
        match self.switch(generation, layout, loader) {
            Ok(read) => {
                self.failure = None;
                let took = if read { started.elapsed() } else { Duration::ZERO };
                let content = self.serving.as_ref().map(|serving| &serving.content);
                let compiled = content.is_some_and(V::is_compiled);
                let costs = content.map_or_else(CostTable::default, V::cost_table);
                info!(model = %self.place.name, generation, ?took, compiled, "generation loaded");
                let load_micros = micros(took);
                Some(FromWorker::Loaded { slot, generation, load_micros, compiled, costs })
            }
            Err(refusal) => {
                warn!(model = %self.place.name, generation, %refusal, "generation not loaded");
                let failed_at = now + started.elapsed();
                if let Some(failure) = &mut self.failure {
                    failure.backoff.failed(failed_at);
                    return None; // The supervisor knows.
                }
                let reason = brief(&refusal);
                let backoff = Backoff::after_first(failed_at);
                self.failure = Some(Failure { generation, reason: reason.clone(), backoff });
                Some(FromWorker::LoadFailed { slot, generation, reason })
            }
        }
    }

    /// Whether a version had to be read. The old one serves until the new one can.
    fn switch(
        &mut self,
        generation: Generation,
        layout: &Layout,
        loader: &Loader<V>,
    ) -> Result<bool, Refusal> {
        let record = layout
            .read_record(&self.place.name, generation)
            .map_err(|error| RefusalKind::Internal.because(error.to_string()))?;
        let version = record.version;
        let ready = loader.take(self.place.slot, &version);
        if let Some(serving) = &mut self.serving
            && serving.version == version
        {
            serving.generation = generation;
            serving.content.follow(&record.facts);
            if let Some(superfluous) = ready {
                loader.discard(superfluous);
            }
            return Ok(false);
        }
        let (mut content, read) = match ready {
            Some(content) => (content, false),
            None => (loader.load(&version)?, true),
        };
        content.follow(&record.facts);
        // It may be on its way still, if it was not waited for.
        loader.forget_version(self.place.slot, &version);
        let new = Serving { generation, content, version };
        if let Some(old) = self.serving.replace(new) {
            loader.discard(old.content);
        }
        Ok(read)
    }
}

/// When a generation that could not be loaded is tried again.
#[derive(Debug, PartialEq, Eq)]
struct Backoff {
    pause: Duration,
    until: Instant,
}

impl Backoff {
    fn after_first(now: Instant) -> Self {
        Self { pause: RETRY_FIRST, until: now + RETRY_FIRST }
    }

    fn failed(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(RETRY_MAX);
        self.until = now + self.pause;
    }

    fn is_waiting(&self, now: Instant) -> bool {
        now < self.until
    }
}

#[cfg(test)]
#[path = "refresh_tests.rs"]
mod tests;
