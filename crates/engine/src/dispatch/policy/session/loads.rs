//! What one process of a worker has loaded, by slot, and what it could not load.

use onnxd_proto::{control_page::Slot, generation::Generation};

use crate::dispatch::worker::Load;

/// What a process serves. A new process has nothing.
#[derive(Clone, Debug)]
pub(super) struct Loads {
    /// By slot.
    serves: Vec<Load>,
    /// What it could not load, by slot; 0 is none.
    not_loaded: Vec<Generation>,
}

impl Loads {
    pub(super) fn new(models: usize) -> Self {
        Self { serves: vec![Load::default(); models], not_loaded: vec![0; models] }
    }

    pub(super) fn all(&self) -> &[Load] {
        &self.serves
    }

    /// A model was refreshed.
    ///
    /// # Errors
    /// There is no such slot, or the generation is older than the one that it serves.
    pub(super) fn loaded(&mut self, slot: Slot, load: Load) -> Result<(), &'static str> {
        let serves = self.serves.get_mut(usize::from(slot));
        let serves = serves.ok_or("it has loaded a model that is not served")?;
        if load.generation < serves.generation {
            return Err("it has gone back to an older generation");
        }
        *serves = load;
        self.not_loaded[usize::from(slot)] = 0;
        Ok(())
    }

    /// A model was dropped.
    ///
    /// # Errors
    /// There is no such slot.
    pub(super) fn unloaded(&mut self, slot: Slot) -> Result<(), &'static str> {
        let serves = self.serves.get_mut(usize::from(slot));
        *serves.ok_or("it has unloaded a model that is not served")? = Load::default();
        self.not_loaded[usize::from(slot)] = 0;
        Ok(())
    }

    /// A refresh failed; what was served is still served.
    pub(super) fn load_failed(&mut self, slot: Slot, generation: Generation) {
        if let Some(not_loaded) = self.not_loaded.get_mut(usize::from(slot)) {
            *not_loaded = generation;
        }
    }

    /// The generation of a model that is served; 0 is none.
    pub(super) fn generation(&self, slot: Slot) -> Generation {
        self.serves.get(usize::from(slot)).map_or(0, |load| load.generation)
    }

    /// Whether loading this generation was tried and failed.
    pub(super) fn failed(&self, slot: Slot, generation: Generation) -> bool {
        generation != 0 && self.not_loaded.get(usize::from(slot)) == Some(&generation)
    }

    /// Whether loading anything failed, and has not succeeded since.
    pub(super) fn any_failed(&self) -> bool {
        self.not_loaded.iter().any(|&generation| generation != 0)
    }

    /// The first model of `to_load` that is not loaded yet, and the generation. What could not be
    /// loaded, or was unloaded since, is not waited for.
    pub(super) fn missing(
        &self,
        to_load: &[Generation],
        committed: impl Fn(Slot) -> Generation,
    ) -> Option<(Slot, Generation)> {
        let is_missing = |&(slot, to_load): &(Slot, Generation)| {
            let failed = self.not_loaded.get(usize::from(slot)).is_some_and(|&not| not > 0);
            self.generation(slot) < to_load && !failed && committed(slot) > 0
        };
        (0..).zip(to_load.iter().copied()).find(is_missing)
    }

    /// The first model of which something older than what is committed is served, and the committed
    /// generation: the next thing it is asked for makes the process load that first.
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
