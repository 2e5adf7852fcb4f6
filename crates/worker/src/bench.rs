//! Entry points for benchmarks: a text model without a supervisor, and micro-batch planning. Not
//! used by product code.

use std::{path::Path, time::Duration};

use nix::unistd::getppid;
use onnxd_proto::domain::cost::CostTable;

use crate::{
    artifacts::{costs::Batching, model_in},
    families::{
        config::ModelConfig,
        family::Opening,
        text::{
            microbatch,
            model::TextModel,
            prepare::{self, TextRequest},
            readout::{Numbers, Rows},
        },
    },
    process::{affinity, cpu_time, guard},
    session::{Form, Runtime, Tokens},
};

/// Sets this process up like a worker: logging, parent-death signal, pinned to one CPU.
///
/// # Errors
/// The system refuses one of these.
pub fn prepare(cpu: u16) -> Result<(), String> {
    let parent = getppid();
    onnxd_telemetry::log::init(None).map_err(|error| error.to_string())?;
    affinity::pin(cpu)?;
    guard::die_with_parent(parent).map_err(|error| error.to_string())
}

/// Returns the CPU time of this thread.
pub fn cpu_time() -> Duration {
    cpu_time::CpuTime::now().since_start()
}

/// A text model in the form its author published, run with one thread.
pub struct BareModel {
    model: TextModel,
    numbers: Numbers,
    // Must outlive the model, so it is dropped last.
    _runtime: Runtime,
}

/// The tokens of a text.
#[derive(Clone, Debug)]
pub struct Prepared(prepare::Prepared);

impl Prepared {
    /// Creates a text with this many tokens, for calls that do not run the model.
    pub fn with_length(tokens: usize) -> Self {
        let tokens = Tokens::new(vec![0; tokens], vec![0; tokens]);
        Self(prepare::Prepared { tokens, ..prepare::Prepared::default() })
    }

    /// Returns the number of tokens.
    pub fn tokens(&self) -> usize {
        self.0.tokens.ids.len()
    }
}

impl BareModel {
    /// Loads the version in a directory.
    ///
    /// # Errors
    /// ONNX Runtime or the version cannot be loaded.
    pub fn open(onnxruntime: &Path, version: &Path) -> Result<Self, String> {
        let runtime = Runtime::open(onnxruntime).map_err(|error| error.to_string())?;
        let opened = || {
            let model_config = ModelConfig::read(version)?;
            let found = model_in(version)?;
            let (file, model) =
                found.as_ref().map_or(("", None), |(file, model)| (file.as_str(), Some(&**model)));
            let (runtime, dir, model_config, form) =
                (&runtime, version, &model_config, Form::Plain);
            TextModel::open(&Opening { runtime, dir, model_config, model, file, form })
        };
        let model = opened().map_err(|refusal| refusal.message)?;
        Ok(Self { model, numbers: Numbers::default(), _runtime: runtime })
    }

    /// Tokenizes a text, truncated to the model's limit.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn tokenize(&self, text: &str) -> Result<Prepared, String> {
        self.model
            .prepare_any(&TextRequest::text(text))
            .map(Prepared)
            .map_err(|refusal| refusal.message)
    }

    /// Embeds texts in one call, padded to the longest.
    ///
    /// # Errors
    /// ONNX Runtime fails.
    pub fn run(&mut self, texts: &[&Prepared]) -> Result<(), String> {
        let texts: Vec<&prepare::Prepared> = texts.iter().map(|text| &text.0).collect();
        let ran = self.model.run(&texts, Rows::Pooled, &mut self.numbers);
        ran.map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for BareModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareModel").finish_non_exhaustive()
    }
}

/// Splits texts of these lengths in tokens into micro-batches, as for a model with an attention
/// mask.
pub fn plan(lengths: &[usize], costs: &CostTable) -> Vec<Vec<usize>> {
    microbatch::plan(lengths, costs, Batching::Padded)
}
