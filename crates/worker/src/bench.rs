//! The worker's parts as benchmarks call them: a model for texts without a supervisor, and the cut
//! into micro-batches. No product code calls this.

use std::{path::Path, time::Duration};

use nix::unistd::getppid;
use onnxd_proto::{domain::cost::CostTable, wire::ask::Side};

pub use crate::session::Tokens;
use crate::{
    artifacts::{costs::Company, graph_in},
    families::{
        family::Opening,
        own::Own,
        text::{
            microbatch,
            model::{Rows, TextModel},
            tokenize::Text,
        },
    },
    process::{affinity, cpu_time, guard},
    session::{Form, Runtime},
};

/// Prepares this process as a worker is prepared: it logs, ends with its parent, and runs on one
/// CPU.
///
/// # Errors
/// The system refuses it.
pub fn prepare(cpu: u16) -> Result<(), String> {
    let parent = getppid();
    onnxd_telemetry::log::init(None).map_err(|error| error.to_string())?;
    affinity::pin(cpu)?;
    guard::die_with(parent).map_err(|error| error.to_string())
}

/// Returns the CPU time of this thread.
pub fn cpu_time() -> Duration {
    cpu_time::CpuTime::now().since_start()
}

/// A model for texts, as its author made it, with one thread.
pub struct BareModel {
    model: TextModel,
    values: Vec<f32>,
    // Dropped last.
    _runtime: Runtime,
}

impl BareModel {
    /// Loads the version in a directory.
    ///
    /// # Errors
    /// ONNX Runtime or the version cannot be used.
    pub fn open(onnxruntime: &Path, version: &Path) -> Result<Self, String> {
        let runtime = Runtime::open(onnxruntime).map_err(|error| error.to_string())?;
        let opened = || {
            let own = Own::read(version)?;
            let (file, model) = graph_in(version)?;
            TextModel::open(&Opening {
                runtime: &runtime,
                dir: version,
                own: &own,
                model: &model,
                file: &file.into(),
                form: Form::Plain,
            })
        };
        let model = opened().map_err(|refusal| refusal.message)?;
        Ok(Self { model, values: Vec::new(), _runtime: runtime })
    }

    /// Turns a text into tokens, cut to what the model takes.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn tokenize(&self, text: &str) -> Result<Tokens, String> {
        let tokens = self.model.tokenize(&Text::One(text), Some(Side::Right));
        tokens.map_err(|rejection| format!("{rejection:?}"))
    }

    /// Embeds texts in one call, padded to the longest.
    ///
    /// # Errors
    /// ONNX Runtime fails.
    pub fn run(&mut self, texts: &[&Tokens]) -> Result<(), String> {
        let ran = self.model.embed(texts, Rows::Pooled, &mut self.values);
        ran.map(drop).map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for BareModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareModel").finish_non_exhaustive()
    }
}

/// Cuts texts of these numbers of tokens into micro-batches, as for a model that can be told what is
/// padding.
pub fn plan(lengths: &[usize], costs: &CostTable) -> Vec<Vec<usize>> {
    microbatch::plan(lengths, costs, Company::Padded)
}
