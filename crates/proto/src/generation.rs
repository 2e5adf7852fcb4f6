//! Commit and refresh, the protocol behind every update.
//!
//! The supervisor commits a generation with one Release store. A worker loads the slot with Acquire
//! before each dispatch group and stamps its response with the generation it *has loaded*. A
//! generation's content is immutable and complete before the store, so nothing else needs ordering.
//! The functions are generic over the atomic type so that the model checker below runs the
//! production code.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number in a model's sequence of served versions. It only rises and is never reused; 0 means
/// none.
pub type Generation = u64;

/// The largest number of a generation. Clients that read JSON numbers as floating point read it
/// exactly, and the next number never overflows.
pub const GENERATION_MAX: Generation = (1 << 53) - 1;

/// An atomic 64-bit integer, from the standard library or from loom.
pub trait Register {
    /// Reads the value.
    fn load(&self, ordering: Ordering) -> Generation;
    /// Writes the value.
    fn store(&self, value: Generation, ordering: Ordering);
}

impl Register for AtomicU64 {
    fn load(&self, ordering: Ordering) -> Generation {
        Self::load(self, ordering)
    }

    fn store(&self, value: Generation, ordering: Ordering) {
        Self::store(self, value, ordering);
    }
}

/// Publishes `generation` as the one to serve. Only the single writer calls this, once the
/// generation's content is complete and durable.
pub fn commit(slot: &impl Register, generation: Generation) {
    slot.store(generation, Ordering::Release);
}

/// Publishes that no generation is served. Numbering continues: the next commit exceeds all earlier
/// ones.
pub fn unload(slot: &impl Register) {
    slot.store(0, Ordering::Release);
}

/// Returns the generation to serve, or 0 for none. Everything published by its commit is visible to
/// the caller.
pub fn committed(slot: &impl Register) -> Generation {
    slot.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    //! loom runs every interleaving and reordering that the C11 memory model allows. The tests that
    //! must fail prove that the model detects the faults it is meant to exclude.

    use loom::{
        sync::{Arc, atomic::AtomicU64},
        thread,
    };

    use super::*;

    impl Register for AtomicU64 {
        fn load(&self, ordering: Ordering) -> Generation {
            Self::load(self, ordering)
        }

        fn store(&self, value: Generation, ordering: Ordering) {
            Self::store(self, value, ordering);
        }
    }

    /// A model's slot and the contents of generations 1 and 2, which stand in for files.
    struct Model {
        slot: AtomicU64,
        contents: [AtomicU64; 2],
    }

    impl Model {
        fn new() -> Arc<Self> {
            let contents = [AtomicU64::new(0), AtomicU64::new(0)];
            Arc::new(Self { slot: AtomicU64::new(0), contents })
        }

        /// Writes the contents of `generation`, then commits it.
        fn update(&self, generation: Generation, commit: impl Fn(&AtomicU64, Generation)) {
            self.content(generation).store(generation * 10, Ordering::Relaxed);
            commit(&self.slot, generation);
        }

        fn content(&self, generation: Generation) -> &AtomicU64 {
            &self.contents[usize::try_from(generation).unwrap() - 1]
        }
    }

    /// A worker's loaded state. Mirrors the refresh in the worker's serving code.
    #[derive(Default)]
    struct Worker {
        loaded: Generation,
        content: u64,
    }

    impl Worker {
        fn refresh(&mut self, model: &Model, committed: impl Fn(&AtomicU64) -> Generation) {
            let generation = committed(&model.slot);
            if generation != self.loaded {
                self.content = match generation {
                    0 => 0,
                    _ => model.content(generation).load(Ordering::Relaxed),
                };
                self.loaded = generation;
            }
        }
    }

    fn check(
        commit: impl Fn(&AtomicU64, Generation) + Copy + Send + Sync + 'static,
        committed: impl Fn(&AtomicU64) -> Generation + Copy + Send + Sync + 'static,
        stamp: impl Fn(&Worker, &Model) -> Generation + Copy + Send + Sync + 'static,
    ) {
        loom::model(move || {
            let model = Model::new();
            let supervisor = {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    model.update(1, commit);
                    model.update(2, commit);
                })
            };
            let mut worker = Worker::default();
            let mut last = 0;
            for _ in 0..2 {
                worker.refresh(&model, committed);
                let stamped = stamp(&worker, &model);
                assert_eq!(worker.content, stamped * 10, "the stamp must match the content");
                assert!(stamped >= last, "generations must never fall");
                last = stamped;
            }
            supervisor.join().unwrap();
            worker.refresh(&model, committed);
            assert_eq!(worker.loaded, 2, "a refresh after the commit must see it");
        });
    }

    fn loaded(worker: &Worker, _: &Model) -> Generation {
        worker.loaded
    }

    #[test]
    fn every_response_is_stamped_with_its_own_content() {
        check(commit, committed, loaded);
    }

    #[test]
    fn generations_keep_rising_across_an_unload() {
        loom::model(|| {
            let model = Model::new();
            let supervisor = {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    model.update(1, commit);
                    unload(&model.slot);
                    model.update(2, commit);
                    unload(&model.slot);
                })
            };
            let mut worker = Worker::default();
            let mut last = 0;
            for _ in 0..3 {
                worker.refresh(&model, committed);
                assert_eq!(worker.content, worker.loaded * 10, "the stamp must match the content");
                // A worker with nothing loaded sends no response.
                if worker.loaded > 0 {
                    assert!(worker.loaded >= last, "generations must never fall");
                    last = worker.loaded;
                }
            }
            supervisor.join().unwrap();
            worker.refresh(&model, committed);
            assert_eq!((worker.loaded, worker.content), (0, 0), "the unload must be seen");
        });
    }

    #[test]
    #[should_panic(expected = "the stamp must match the content")]
    fn a_store_without_release_exposes_missing_content() {
        check(|slot, n| slot.store(n, Ordering::Relaxed), committed, loaded);
    }

    #[test]
    #[should_panic(expected = "the stamp must match the content")]
    fn a_load_without_acquire_exposes_missing_content() {
        check(commit, |slot| slot.load(Ordering::Relaxed), loaded);
    }

    #[test]
    #[should_panic(expected = "the stamp must match the content")]
    fn stamping_from_a_second_read_names_the_wrong_generation() {
        check(commit, committed, |_, model| committed(&model.slot));
    }
}
