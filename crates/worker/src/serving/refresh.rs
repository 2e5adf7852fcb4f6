//! One served model in this worker: what is loaded, and the refresh that follows the committed
//! generation. This is the only place that compares generations.
//!
//! Answers carry the generation that is loaded, never one read afterwards.
//! `onnxd_proto::generation` model-checks the protocol.

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

/// Pause after the first failed load. It doubles with each further failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A loaded version. Tests substitute something lighter.
pub(crate) trait Content: Send + 'static {
    /// Returns whether the weights come from the compiled form, which all workers share.
    fn is_compiled(&self) -> bool;

    /// Returns the costs of its runs.
    fn cost_table(&self) -> CostTable;

    /// Applies the text length limit of these facts.
    fn follow(&mut self, facts: &Facts);
}

impl Content for LoadedVersion {
    fn is_compiled(&self) -> bool {
        Self::is_compiled(self)
    }

    fn cost_table(&self) -> CostTable {
        self.costs().reported_table()
    }

    fn follow(&mut self, facts: &Facts) {
        self.limit_tokens(facts.max_tokens);
    }
}

/// A model.
#[derive(Debug)]
pub(crate) struct Model<V> {
    model_slot: ModelSlot,
    serving: Option<Serving<V>>,
    failure: Option<Failure>,
}

/// A loaded version and the generation it serves.
#[derive(Debug)]
pub(crate) struct Serving<V> {
    /// The generation that answers carry.
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
    pub(crate) fn new(model_slot: ModelSlot) -> Self {
        Self { model_slot, serving: None, failure: None }
    }

    /// Returns the model's slot in the control page.
    pub(crate) fn slot(&self) -> Slot {
        self.model_slot.slot
    }

    /// Returns what is loaded, or why nothing is.
    pub(crate) fn serving(&mut self) -> Result<&mut Serving<V>, String> {
        let reason = self.failure.as_ref().map(|failure| failure.reason.as_str());
        self.serving
            .as_mut()
            .ok_or_else(|| reason.unwrap_or("no generation is committed").to_owned())
    }

    /// Follows the committed generation. Called once before each dispatch group, so that a group
    /// has exactly one generation. Takes the new version if it is ready, else loads it. If that
    /// fails, the old version keeps serving under its own generation. If nothing is committed,
    /// drops what is loaded. Returns a message for the supervisor, if any.
    pub(crate) fn refresh(
        &mut self,
        page: &ControlPageView,
        layout: &Layout,
        now: Instant,
        loader: &Loader<V>,
    ) -> Option<FromWorker> {
        let generation = page.committed(self.model_slot.slot);
        let loaded = self.serving.as_ref().map_or(0, |serving| serving.generation);
        match generation {
            0 if loaded != 0 || self.failure.is_some() => Some(self.unload(loader)),
            _ if generation != loaded => self.follow(generation, layout, now, loader),
            _ => None,
        }
    }

    /// Drops all versions of the model.
    fn unload(&mut self, loader: &Loader<V>) -> FromWorker {
        let slot = self.model_slot.slot;
        self.failure = None;
        loader.forget(slot);
        if let Some(Serving { generation, content, .. }) = self.serving.take() {
            info!(model = %self.model_slot.name, generation, "model unloaded");
            loader.discard(content);
        }
        FromWorker::Unloaded { slot }
    }

    /// Loads a version next to the serving one. Returns the answer if it is known at once;
    /// otherwise `loader` sends it.
    pub(crate) fn load_ahead(&self, version: &str, loader: &Loader<V>) -> Option<FromWorker> {
        let slot = self.model_slot.slot;
        let serves = self.serving.as_ref().is_some_and(|serving| serving.version == version);
        if serves {
            loader.forget(slot);
        }
        (serves || loader.request(slot, version)).then(|| FromWorker::LoadedAhead {
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
        // A new generation starts with no recorded failure.
        self.failure.take_if(|failure| failure.generation != generation);
        if self.failure.as_ref().is_some_and(|failure| failure.backoff.is_waiting(now)) {
            return None;
        }
        let slot = self.model_slot.slot;
        let started = Instant::now();
        match self.switch(generation, layout, loader) {
            Ok(read) => {
                self.failure = None;
                let took = if read { started.elapsed() } else { Duration::ZERO };
                let content = self.serving.as_ref().map(|serving| &serving.content);
                let compiled = content.is_some_and(V::is_compiled);
                let costs = content.map_or_else(CostTable::default, V::cost_table);
                info!(model = %self.model_slot.name, generation, ?took, compiled, "generation loaded");
                let load_micros = micros(took);
                Some(FromWorker::Loaded { slot, generation, load_micros, compiled, costs })
            }
            Err(refusal) => {
                warn!(model = %self.model_slot.name, generation, %refusal, "failed to load generation");
                let failed_at = now + started.elapsed();
                if let Some(failure) = &mut self.failure {
                    failure.backoff.failed(failed_at);
                    return None; // The supervisor has been told.
                }
                let reason = brief(&refusal);
                let backoff = Backoff::after_first(failed_at);
                self.failure = Some(Failure { generation, reason: reason.clone(), backoff });
                Some(FromWorker::LoadFailed { slot, generation, reason })
            }
        }
    }

    /// Switches to a generation. Returns whether a version had to be read. The old version serves
    /// until the new one is loaded.
    fn switch(
        &mut self,
        generation: Generation,
        layout: &Layout,
        loader: &Loader<V>,
    ) -> Result<bool, Refusal> {
        let record = layout
            .read_record(&self.model_slot.name, generation)
            .map_err(|error| RefusalKind::Internal.because(error.to_string()))?;
        let version = record.version;
        let ready = loader.take(self.model_slot.slot, &version);
        if let Some(serving) = &mut self.serving
            && serving.version == version
        {
            serving.generation = generation;
            serving.content.follow(&record.facts);
            if let Some(unneeded) = ready {
                loader.discard(unneeded);
            }
            return Ok(false);
        }
        let (mut content, read) = match ready {
            Some(content) => (content, false),
            None => (loader.load(&version)?, true),
        };
        content.follow(&record.facts);
        // The thread may still be loading it.
        loader.forget_version(self.model_slot.slot, &version);
        let new = Serving { generation, content, version };
        if let Some(old) = self.serving.replace(new) {
            loader.discard(old.content);
        }
        Ok(read)
    }
}

/// When to retry loading a generation.
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
