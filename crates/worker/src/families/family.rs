//! Defines the trait that each model family implements and the types it exchanges with serving,
//! checking and compiling. Independent of any one family.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_proto::{
    domain::{Facts, Refusal, RefusalKind, Shortened},
    generation::Generation,
};

use super::{config::ModelConfig, group::Group};
use crate::{
    artifacts::{costs::Costs, probes::Probes},
    process::fault::Fault,
    session::{Form, Runtime},
};

/// Work that a loaded version defers to a background thread.
pub(crate) type DeferredJob = Box<dyn FnOnce() + Send>;

/// What a family needs to open a version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) runtime: &'a Runtime,
    /// The version's directory.
    pub(crate) dir: &'a Path,
    /// The version's `onnxd.toml`.
    pub(crate) model_config: &'a ModelConfig,
    /// The graph: the version's own file or its compiled form. `None` if the version has none.
    pub(crate) model: Option<&'a Path>,
    /// The model's name in messages.
    pub(crate) file: &'a str,
    pub(crate) form: Form,
}

/// Resources for running a single request on several CPUs.
#[derive(Clone, Debug)]
pub(crate) struct Helpers<'a> {
    pub(crate) runtime: &'a Arc<Runtime>,
    /// The compiled model. Without its shared weights, memory use would double.
    pub(crate) model: &'a Path,
    /// CPUs in addition to the process's own; at least one.
    pub(crate) cpus: &'a Arc<[u16]>,
}

/// How many of the fixed inputs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Every input, for a check.
    All,
    /// As many as loading a compiled form has time for.
    AtLoad,
}

/// Limits on what the longest text may use. `None` means unlimited.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// Total memory of this process; it is killed above this limit.
    pub(crate) check_bytes: Option<u64>,
    /// Memory that each worker has for one text.
    pub(crate) worker_bytes: Option<u64>,
    /// CPU time of one text.
    pub(crate) text_time: Option<Duration>,
    /// When this process is killed.
    pub(crate) deadline: Option<Instant>,
    /// Whether `onnxd.toml` sets the length of texts. If it does, a shorter limit is an error.
    pub(crate) is_explicit: bool,
}

/// The longest text that fits a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Its length in tokens.
    pub(crate) tokens: u32,
    /// Set when the limit is below the one that the files declare.
    pub(crate) shortened: Option<Shortened>,
}

/// The result of a trial.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) facts: Facts,
    /// Why nothing was run, if the family allows that.
    pub(crate) untried: Option<String>,
}

/// A loaded model of one family. Methods are called once per version or dispatch group, never once
/// per input.
pub(crate) trait Family: Send {
    /// Runs a short input, so that the first request finds all weights in memory.
    ///
    /// # Errors
    /// The model does not run.
    fn warm_up(&mut self) -> Result<(), Refusal>;

    /// Runs one input of each shape that serving uses, and describes the model.
    ///
    /// # Errors
    /// The model does not do what its files declare.
    fn try_out(&mut self) -> Result<Trial, Refusal>;

    /// Finds the longest text that fits the budget and limits the model to it. Returns `None` if
    /// this family's resource needs do not grow with the length of a text.
    ///
    /// # Errors
    /// The model fails for a reason other than its resource needs, or no length fits.
    fn fit(&mut self, _budget: &Budget) -> Result<Option<Fit>, Refusal> {
        Ok(None)
    }

    /// Limits texts to the length that a check found.
    fn limit_tokens(&mut self, _max_tokens: u32) {}

    /// Runs the family's fixed inputs.
    ///
    /// # Errors
    /// The model does not run them.
    fn probe(&mut self, extent: Extent) -> Result<Probes, Refusal>;

    /// Measures the cost of runs on this machine.
    ///
    /// # Errors
    /// The model does not run.
    fn measure_costs(&mut self) -> Result<Costs, Refusal>;

    /// Returns the costs to assume before any measurement.
    fn unmeasured_costs(&self) -> Costs {
        Costs::default()
    }

    /// Answers each item of a group exactly once, and updates `costs` with the measured run times.
    /// The payload of item `i` is `parts[i]`.
    ///
    /// # Errors
    /// The group violates the protocol, or the supervisor has disconnected.
    fn answer(
        &mut self,
        group: &mut Group<'_>,
        parts: &[&[u8]],
        generation: Generation,
        costs: &mut Costs,
    ) -> Result<(), Fault>;

    /// Returns the vector of a text without normalizing it.
    ///
    /// # Errors
    /// The family has no single vector per text, or the model fails on this text.
    fn embed_text(&mut self, text: &str) -> Result<Vec<f32>, Refusal> {
        let message =
            format!("the model does not return one vector per text (text of {} bytes)", text.len());
        Err(RefusalKind::Contract.because(message))
    }

    /// Offers CPUs for requests that run while the server is otherwise idle. Most families ignore
    /// them.
    fn offer_helpers(&mut self, _helpers: &Helpers<'_>) {}

    /// Returns the deferred background work, once.
    fn take_deferred(&mut self) -> Option<DeferredJob> {
        None
    }
}
