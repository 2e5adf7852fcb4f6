//! What a family of models is to the rest of the worker: the trait that serving, checking and
//! compiling call, and what goes in and out of it. Knows no family.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_proto::{
    domain::{Facts, Refusal, RefusalKind, Shortened},
    generation::Generation,
};

use super::{group::Group, own::Own};
use crate::{
    artifacts::{costs::Costs, probes::Probes},
    process::fault::Fault,
    session::{Form, Runtime},
};

/// Work that a loaded version leaves to a background thread.
pub(crate) type Later = Box<dyn FnOnce() + Send>;

/// What a family opens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) runtime: &'a Runtime,
    /// The version's directory.
    pub(crate) dir: &'a Path,
    /// What the version's `onnxd.toml` says.
    pub(crate) own: &'a Own,
    /// The graph: the version's own or the compiled one. `None`: the version has none.
    pub(crate) model: Option<&'a Path>,
    /// What messages call it.
    pub(crate) file: &'a str,
    pub(crate) form: Form,
}

/// What may run a lone request on several CPUs.
#[derive(Clone, Debug)]
pub(crate) struct Helpers<'a> {
    pub(crate) runtime: &'a Arc<Runtime>,
    /// The compiled model: weights that are not shared would be in memory twice.
    pub(crate) model: &'a Path,
    /// CPUs besides the process's own; at least one.
    pub(crate) cpus: &'a Arc<[u16]>,
}

/// How many of the fixed inputs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of them, for a check.
    All,
    /// As many as loading a compiled form has time for.
    AtLoad,
}

/// What the longest text may use. What is `None` has no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// Memory of this process in all; with more it is ended.
    pub(crate) check_bytes: Option<u64>,
    /// Memory that each worker has for one text.
    pub(crate) worker_bytes: Option<u64>,
    /// CPU time of one text.
    pub(crate) text_time: Option<Duration>,
    /// When this process is ended.
    pub(crate) deadline: Option<Instant>,
    /// Whether `onnxd.toml` says how long texts are: then shorter ones are not what was asked for.
    pub(crate) is_asked: bool,
}

/// The longest text that fits a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Its tokens.
    pub(crate) tokens: u32,
    /// Set where the files say more.
    pub(crate) shortened: Option<Shortened>,
}

/// The result of a trial.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) facts: Facts,
    /// Why nothing was run, if the family allows that.
    pub(crate) untried: Option<String>,
}

/// A loaded model of one family. Calls are made once for each version or dispatch group, never for
/// each input.
pub(crate) trait Family: Send {
    /// Runs something short, so that the first request finds all weights in memory.
    ///
    /// # Errors
    /// The model does not run.
    fn warm_up(&mut self) -> Result<(), Refusal>;

    /// Runs one input of each shape that serving runs and describes the model.
    ///
    /// # Errors
    /// The model does not do what its files say.
    fn try_out(&mut self) -> Result<Trial, Refusal>;

    /// Finds the longest text that fits the budget and takes no longer ones from then on. `None`: the
    /// needs of this family do not grow with a text.
    ///
    /// # Errors
    /// The model fails for another reason than its needs, or nothing fits.
    fn fit(&mut self, _budget: &Budget) -> Result<Option<Fit>, Refusal> {
        Ok(None)
    }

    /// Takes no longer texts than this from now on: what a check found out.
    fn limit_tokens(&mut self, _max_tokens: u32) {}

    /// Runs the family's fixed inputs.
    ///
    /// # Errors
    /// The model does not run them.
    fn probe(&mut self, extent: Extent) -> Result<Probes, Refusal>;

    /// Measures what runs cost on this machine.
    ///
    /// # Errors
    /// The model does not run.
    fn measure_costs(&mut self) -> Result<Costs, Refusal>;

    /// What to assume before anything was measured.
    fn unmeasured_costs(&self) -> Costs {
        Costs::default()
    }

    /// Answers each item of a group, whose payloads are `parts`, exactly once, and corrects `costs`
    /// by what the runs took.
    ///
    /// # Errors
    /// The group is not one that a supervisor sends, or the supervisor is gone.
    fn answer(
        &mut self,
        group: &mut Group<'_>,
        parts: &[&[u8]],
        generation: Generation,
        costs: &mut Costs,
    ) -> Result<(), Fault>;

    /// Returns the vector of a text, not normalized.
    ///
    /// # Errors
    /// The family returns no single vector for a text, or the model fails on this one.
    fn embed_text(&mut self, text: &str) -> Result<Vec<f32>, Refusal> {
        let message = format!("the model returns no vector for a text of {} bytes", text.len());
        Err(RefusalKind::Contract.because(message))
    }

    /// Offers CPUs for requests that are alone on the machine. Most families ignore it.
    fn offer_helpers(&mut self, _helpers: &Helpers<'_>) {}

    /// Returns work for the background, once.
    fn take_later(&mut self) -> Option<Later> {
        None
    }
}
