//! Opens ONNX Runtime's library, and builds and compiles sessions. Knows nothing of a model's
//! inputs.

use std::{env, error::Error, fs, path::Path, sync::Arc};

use ort::{
    LoadDynamicError,
    environment::Environment,
    logging::LogLevel,
    session::builder::{GraphOptimizationLevel, SessionBuilder},
};
use thiserror::Error;

use super::error::{SessionError, load_failed};

/// Read when ONNX Runtime is loaded. From 1.29 on, it sends usage data unless this is 1.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";
/// Names the file for the weights of a compiled model. In that file they have the layout of the
/// CPU's kernels; otherwise each process would rearrange them in private memory. Weights smaller
/// than the minimum stay in the model file.
const COMPILE: [(&str, &str); 1] =
    [("session.optimized_model_external_initializers_file_name", COMPILED_WEIGHTS)];
const MIN_BYTES: &str = "session.optimized_model_external_initializers_min_size_in_bytes";
const PACK: &str = "session.save_external_prepacked_constant_initializers";
/// The file with a compiled model's weights, next to the model.
pub(crate) const COMPILED_WEIGHTS: &str = "weights.bin";

/// Why ONNX Runtime cannot be used.
#[derive(Debug, Error)]
pub(crate) enum RuntimeError {
    /// The library is missing, too old, or another library.
    #[error("failed to load ONNX Runtime (1.24 or newer) from {path}: {reason}")]
    Library { path: String, reason: String },
    /// The library loaded but failed to start.
    #[error("failed to start ONNX Runtime: {0}")]
    Start(#[from] ort::Error),
    /// Telemetry can only be disabled before the library is loaded.
    #[error(
        "refusing to load ONNX Runtime: set {TELEMETRY_SWITCH}=1 in the environment to disable its telemetry"
    )]
    Telemetry,
}

/// The loaded library; one per process.
#[derive(Debug)]
pub(crate) struct Runtime {
    environment: Environment,
    library_bytes: u64,
}

impl Runtime {
    /// Loads the library, and routes its log to ours.
    pub(crate) fn open(library: &Path) -> Result<Self, RuntimeError> {
        if env::var_os(TELEMETRY_SWITCH).is_none_or(|value| value != "1") {
            return Err(RuntimeError::Telemetry);
        }
        let environment = ort::init_from(library)
            .map_err(|error| unusable(library, &error))?
            .with_name("onnxd")
            .with_telemetry(false)
            .with_logger(Arc::new(|level, category, _id, location, message| match level {
                LogLevel::Verbose | LogLevel::Info => {}
                LogLevel::Warning => tracing::warn!(category, location, "onnxruntime: {message}"),
                _ => tracing::error!(category, location, "onnxruntime: {message}"),
            }))
            .build()?;
        environment.set_log_level(LogLevel::Warning);
        let library_bytes = fs::metadata(library).map_or(0, |found| found.len());
        Ok(Self { environment, library_bytes })
    }

    /// Identifies this build of ONNX Runtime and the options for compiling. Builds report a commit;
    /// the library's size distinguishes those that do not.
    pub(crate) fn identity(&self) -> String {
        format!("{}, {} bytes, {COMPILE:?}", ort::info(), self.library_bytes)
    }

    /// Writes the optimized model to `compiled`, and its weights next to it.
    pub(crate) fn compile(
        &self,
        model: &Path,
        compiled: &Path,
        arrangement: Arrangement,
    ) -> Result<(), SessionError> {
        let saved = || {
            let mut builder =
                self.builder(Form::Plain, &[])?.with_optimized_model_path(compiled)?;
            // Hides the warning that the result only suits this kind of CPU, which is intended.
            builder = builder.with_log_level(LogLevel::Error)?;
            let [min_bytes, pack] = arrangement.values();
            for (key, value) in COMPILE.into_iter().chain([(MIN_BYTES, min_bytes), (PACK, pack)]) {
                builder = builder.with_config_entry(key, value)?;
            }
            builder.commit_from_file(model)
        };
        saved().map(drop).map_err(|error| load_failed(&error, model))
    }

    /// Returns a builder of sessions that compute on the calling thread and one thread per helper
    /// CPU. Helpers spin during a run: waking them for each operator would take as long as many
    /// operators.
    pub(super) fn builder(
        &self,
        form: Form,
        helpers: &[u16],
    ) -> Result<SessionBuilder, ort::Error> {
        let builder = ort::session::Session::builder(&self.environment)?
            .with_intra_threads(1 + helpers.len())?
            .with_inter_threads(1)?
            .with_intra_op_spinning(!helpers.is_empty())?
            .with_inter_op_spinning(false)?
            // Memory patterns are planned and kept per shape. Shapes vary here, and no run gets
            // faster. The arena stays: without it each run asks the kernel for memory.
            .with_memory_pattern(false)?
            .with_optimization_level(form.optimization())?
            .with_log_level(LogLevel::Warning)?;
        if helpers.is_empty() {
            return Ok(builder);
        }
        // ONNX Runtime numbers CPUs from 1.
        let cpus: Vec<String> =
            helpers.iter().map(|&cpu| (u32::from(cpu) + 1).to_string()).collect();
        Ok(builder
            .with_config_entry("session.intra_op_thread_affinities", cpus.join(";"))?
            .with_config_entry("session.force_spinning_stop", "1")?)
    }
}

/// The layout of a compiled model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// All but the smallest weights in the layout of the CPU's kernels.
    Packed,
    /// Only large weights in that layout: a vector of odd length before them would shift the rest.
    PackedLarge,
    /// The model's own layout. Each process rearranges the weights in private memory.
    Plain,
}

impl Arrangement {
    /// From best to worst.
    pub(crate) const ALL: [Self; 3] = [Self::Packed, Self::PackedLarge, Self::Plain];

    /// Returns the minimum size of weights outside the model file, and whether they are packed.
    fn values(self) -> [&'static str; 2] {
        match self {
            Self::Packed => ["1024", "1"],
            Self::PackedLarge => ["262144", "1"],
            Self::Plain => ["1024", "0"],
        }
    }
}

/// The form of a model to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As published by its author.
    Plain,
    /// As written by [`Runtime::compile`].
    Compiled,
}

impl Form {
    fn optimization(self) -> GraphOptimizationLevel {
        match self {
            Self::Plain => GraphOptimizationLevel::All,
            // Already optimized.
            Self::Compiled => GraphOptimizationLevel::Disable,
        }
    }
}

fn unusable(library: &Path, error: &LoadDynamicError) -> RuntimeError {
    let reason = match error {
        // The source has the dynamic linker's message; the error itself only says that it failed.
        LoadDynamicError::Dlopen { error, .. } => {
            error.source().map_or_else(|| error.to_string(), |source| source.to_string())
        }
        error => error.to_string(),
    };
    RuntimeError::Library { path: library.display().to_string(), reason }
}
