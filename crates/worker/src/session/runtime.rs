//! How ONNX Runtime's library is opened, and how a model is loaded and compiled. Knows nothing of what
//! a model takes.

use std::{env, error::Error, fs, path::Path, sync::Arc};

use ort::{
    LoadDynamicError,
    environment::Environment,
    logging::LogLevel,
    session::builder::{GraphOptimizationLevel, SessionBuilder},
};
use thiserror::Error;

use super::error::{SessionError, load_failed};

/// Read by ONNX Runtime when it is loaded; from 1.29 on, it sends usage data unless this is 1.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";
/// Says where the weights of a compiled model go, and makes them go there in the arrangement that
/// the CPU's kernels want. Without that, each process would arrange them in memory of its own.
/// What is smaller than the minimum stays in the model's file.
const COMPILE: [(&str, &str); 1] =
    [("session.optimized_model_external_initializers_file_name", COMPILED_WEIGHTS)];
const MIN_BYTES: &str = "session.optimized_model_external_initializers_min_size_in_bytes";
const PACK: &str = "session.save_external_prepacked_constant_initializers";
/// The file that holds a compiled model's weights, beside the model.
pub(crate) const COMPILED_WEIGHTS: &str = "weights.bin";

/// Why ONNX Runtime cannot be used at all.
#[derive(Debug, Error)]
pub(crate) enum RuntimeError {
    /// Not the library, too old, or missing.
    #[error(
        "ONNX Runtime (version 1.24 or newer is needed) cannot be loaded from {path}: {reason}"
    )]
    Library { path: String, reason: String },
    /// The library is fine and does not start.
    #[error("ONNX Runtime does not start: {0}")]
    Start(#[from] ort::Error),
    /// Loading the library would be too late to keep it from sending data.
    #[error("ONNX Runtime is not loaded, because {TELEMETRY_SWITCH} is not 1 in the environment")]
    Telemetry,
}

/// The loaded library; one per process.
#[derive(Debug)]
pub(crate) struct Runtime {
    environment: Environment,
    library_bytes: u64,
}

impl Runtime {
    /// Loads the library. Its own log lines join ours.
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

    /// Which build of ONNX Runtime this is, and what it is told when it compiles. In its own words
    /// a build is a commit; one that does not know its commit is told from others by its size.
    pub(crate) fn identity(&self) -> String {
        format!("{}, {} bytes, {COMPILE:?}", ort::info(), self.library_bytes)
    }

    /// Writes the model as it is after optimizing to `compiled`, and its weights beside it.
    pub(crate) fn compile(
        &self,
        model: &Path,
        compiled: &Path,
        arrangement: Arrangement,
    ) -> Result<(), SessionError> {
        let saved = || {
            let mut builder =
                self.builder(Form::Plain, &[])?.with_optimized_model_path(compiled)?;
            // It warns that the result is for this kind of CPU alone, which is what we want.
            builder = builder.with_log_level(LogLevel::Error)?;
            let [min_bytes, pack] = arrangement.values();
            for (key, value) in COMPILE.into_iter().chain([(MIN_BYTES, min_bytes), (PACK, pack)]) {
                builder = builder.with_config_entry(key, value)?;
            }
            builder.commit_from_file(model)
        };
        saved().map(drop).map_err(load_failed)
    }

    /// The calling thread computes, on the one CPU that the process has, and a thread on each of
    /// `helpers`. These spin while a run lasts: waking them for each operator would take as long
    /// as many operators do.
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
            // It plans memory for each shape and keeps the plan; shapes here are many, and no run
            // is faster for it. The arena stays: without it each run asks the kernel for memory.
            .with_memory_pattern(false)?
            .with_optimization_level(form.optimization())?
            .with_log_level(LogLevel::Warning)?;
        if helpers.is_empty() {
            return Ok(builder);
        }
        // It counts CPUs from 1.
        let cpus: Vec<String> =
            helpers.iter().map(|&cpu| (u32::from(cpu) + 1).to_string()).collect();
        Ok(builder
            .with_config_entry("session.intra_op_thread_affinities", cpus.join(";"))?
            .with_config_entry("session.force_spinning_stop", "1")?)
    }
}

/// How the weights of a compiled model are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// All but the smallest as the CPU's kernels want them.
    Packed,
    /// Only large ones: a vector of an odd length before them would shift all that follow it.
    PackedLarge,
    /// As they are in the model: each process arranges them in memory of its own.
    Plain,
}

impl Arrangement {
    /// The best one first.
    pub(crate) const ALL: [Self; 3] = [Self::Packed, Self::PackedLarge, Self::Plain];

    /// Bytes from which weights leave the model's file, and whether they are packed.
    fn values(self) -> [&'static str; 2] {
        match self {
            Self::Packed => ["1024", "1"],
            Self::PackedLarge => ["262144", "1"],
            Self::Plain => ["1024", "0"],
        }
    }
}

/// Which of the two forms of a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As its author made it.
    Plain,
    /// As [`Runtime::compile`] wrote it.
    Compiled,
}

impl Form {
    fn optimization(self) -> GraphOptimizationLevel {
        match self {
            Self::Plain => GraphOptimizationLevel::All,
            // It has been optimized.
            Self::Compiled => GraphOptimizationLevel::Disable,
        }
    }
}

fn unusable(library: &Path, error: &LoadDynamicError) -> RuntimeError {
    let reason = match error {
        // What the dynamic linker says is the source; the error itself only says that it failed.
        LoadDynamicError::Dlopen { error, .. } => {
            error.source().map_or_else(|| error.to_string(), |source| source.to_string())
        }
        error => error.to_string(),
    };
    RuntimeError::Library { path: library.display().to_string(), reason }
}
