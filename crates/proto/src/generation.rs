//! Commit and refresh: the protocol that everything rests on, in a dozen lines.
//!
//! The supervisor commits a generation with one Release store; a worker loads the slot with
//! Acquire before each dispatch group and stamps its answer with the generation it *has loaded*.
//! What a generation maps to is immutable and was complete before the store, so nothing else
//! needs ordering. The functions are generic over the atomic, so that the model checker below
//! runs the very code that the processes run.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number of a model's line of served versions: only ever rising, never reused; 0 is none.
pub type Generation = u64;

/// An atomic 64-bit integer, of the standard library or of the model checker.
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

/// Makes `generation` the one to be served. Called by the one writer, when what the generation
/// maps to is complete and durable.
pub fn commit(slot: &impl Register, generation: Generation) {
    slot.store(generation, Ordering::Release);
}

/// Makes none the one to be served. The numbers go on: what is committed next is above all before.
pub fn unload(slot: &impl Register) {
    slot.store(0, Ordering::Release);
}

/// The generation to be served now; 0 is none. What its commit published is visible to the
/// caller.
pub fn committed(slot: &impl Register) -> Generation {
    slot.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    //! loom runs every interleaving and every reordering that the C11 memory model allows. The
    //! tests that must fail show that the model can see the faults it is there to exclude.

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

    /// One model: the slot, and the contents of generations 1 and 2, which stand for files.
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

    /// What a worker has loaded, as `model.rs` of the worker does it.
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
                assert_eq!(worker.content, stamped * 10, "the label must be the content's");
                assert!(stamped >= last, "generations must never fall");
                last = stamped;
            }
            supervisor.join().unwrap();
            worker.refresh(&model, committed);
            assert_eq!(worker.loaded, 2, "what begins after the commit must see it");
        });
    }

    fn loaded(worker: &Worker, _: &Model) -> Generation {
        worker.loaded
    }

    #[test]
    fn every_answer_is_labelled_with_the_content_that_made_it() {
        check(commit, committed, loaded);
    }

    #[test]
    fn an_unloaded_model_answers_nothing_and_what_comes_after_it_is_above_all_before() {
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
                assert_eq!(worker.content, worker.loaded * 10, "the label must be the content's");
                // Who has nothing loaded answers nothing.
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
    #[should_panic(expected = "the label must be the content's")]
    fn without_release_a_worker_sees_a_generation_without_its_content() {
        check(|slot, n| slot.store(n, Ordering::Relaxed), committed, loaded);
    }

    #[test]
    #[should_panic(expected = "the label must be the content's")]
    fn without_acquire_a_worker_sees_a_generation_without_its_content() {
        check(commit, |slot| slot.load(Ordering::Relaxed), loaded);
    }

    #[test]
    #[should_panic(expected = "the label must be the content's")]
    fn a_stamp_taken_by_a_second_read_names_the_wrong_generation() {
        check(commit, committed, |_, model| committed(&model.slot));
    }
}
