//! What one process of a worker has loaded and failed to load, by slot.

use onnxd_proto::{control_page::Slot, generation::Generation};

use crate::dispatch::worker::Load;

/// The loads of one process. A new process has none.
#[derive(Clone, Debug)]
pub(super) struct Loads {
    /// By slot.
    serves: Vec<Load>,
    /// The generation that it failed to load and has not loaded since, by slot.
    not_loaded: Vec<Option<FailedLoad>>,
}

/// A generation that could not be loaded.
#[derive(Clone, Debug)]
struct FailedLoad {
    generation: Generation,
    reason: String,
}

impl Loads {
    pub(super) fn new(models: usize) -> Self {
        Self { serves: vec![Load::default(); models], not_loaded: vec![None; models] }
    }

    pub(super) fn all(&self) -> &[Load] {
        &self.serves
    }

    /// Records that a model was refreshed.
    ///
    /// # Errors
    /// The slot does not exist, or the generation is older than the one being served.
    pub(super) fn loaded(&mut self, slot: Slot, load: Load) -> Result<(), &'static str> {
        let serves = self.serves.get_mut(usize::from(slot));
        let serves = serves.ok_or("loaded a model that is not served")?;
        if load.generation < serves.generation {
            return Err("went back to an older generation");
        }
        *serves = load;
        self.not_loaded[usize::from(slot)] = None;
        Ok(())
    }

    /// Records that a model was dropped.
    ///
    /// # Errors
    /// The slot does not exist.
    pub(super) fn unloaded(&mut self, slot: Slot) -> Result<(), &'static str> {
        let serves = self.serves.get_mut(usize::from(slot));
        *serves.ok_or("unloaded a model that is not served")? = Load::default();
        self.not_loaded[usize::from(slot)] = None;
        Ok(())
    }

    /// Records that a refresh failed. The previous generation is still served.
    pub(super) fn load_failed(&mut self, slot: Slot, generation: Generation, reason: String) {
        if let Some(not_loaded) = self.not_loaded.get_mut(usize::from(slot)) {
            *not_loaded = Some(FailedLoad { generation, reason });
        }
    }

    /// Returns the generation of a model that is served; 0 means none.
    pub(super) fn generation(&self, slot: Slot) -> Generation {
        self.serves.get(usize::from(slot)).map_or(0, |load| load.generation)
    }

    /// Returns whether loading this generation was tried and failed.
    pub(super) fn failed(&self, slot: Slot, generation: Generation) -> bool {
        self.failure(slot, generation).is_some()
    }

    /// Returns why loading this generation failed, if it was tried and did.
    pub(super) fn failure(&self, slot: Slot, generation: Generation) -> Option<&str> {
        let failed = self.not_loaded.get(usize::from(slot))?.as_ref();
        failed.filter(|failed| failed.generation == generation).map(|failed| &*failed.reason)
    }

    /// Returns whether any load failed and has not succeeded since.
    pub(super) fn any_failed(&self) -> bool {
        self.not_loaded.iter().any(Option::is_some)
    }

    /// Returns the first model of `to_load` that is not loaded yet, and its generation. Skips
    /// models that failed to load or were unloaded since.
    pub(super) fn missing(
        &self,
        to_load: &[Generation],
        committed: impl Fn(Slot) -> Generation,
    ) -> Option<(Slot, Generation)> {
        let is_missing = |&(slot, to_load): &(Slot, Generation)| {
            let failed = self.not_loaded.get(usize::from(slot)).is_some_and(Option::is_some);
            self.generation(slot) < to_load && !failed && committed(slot) > 0
        };
        (0..).zip(to_load.iter().copied()).find(is_missing)
    }

    /// Returns the first model that is behind its committed generation, and that generation. The
    /// process loads it before it handles its next message.
    pub(super) fn behind(
        &self,
        committed: impl Fn(Slot) -> Generation,
    ) -> Option<(Slot, Generation)> {
        let slots = (0..).zip(&self.serves).map(|(slot, load)| (slot, load.generation));
        slots.map(|(slot, has)| (slot, has, committed(slot))).find_map(|(slot, has, committed)| {
            let behind = has < committed && !self.failed(slot, committed);
            behind.then_some((slot, committed))
        })
    }
}
