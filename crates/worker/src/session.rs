//! ONNX Runtime: the only file that names `ort`. Owns how the library is opened, how a model is
//! loaded and run, and what a model must look like to be run. Knows nothing of texts or versions.

use std::{env, error::Error, fmt, path::Path, sync::Arc};

use onnxd_proto::message::{Refusal, RefusalKind};
use ort::{
    ErrorCode, LoadDynamicError,
    environment::Environment,
    logging::LogLevel,
    session::{
        HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{Outlet, TensorElementType, TensorRef, ValueType},
};
use thiserror::Error;

use crate::tokenize::Tokens;

/// Read by ONNX Runtime when it is loaded; from 1.29 on, it sends usage data unless this is 1.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";
/// Characters of a message of ONNX Runtime that are passed on; names in models have no limit.
const MESSAGE_CHARS_MAX: usize = 1000;

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

/// Why a model cannot be loaded or run.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// Its inputs or outputs are not those of a text model.
    #[error("{0}")]
    Contract(String),
    /// ONNX Runtime cannot load it.
    #[error("{cause}: {message}")]
    Load { cause: Cause, message: String },
    /// ONNX Runtime cannot run it with what it was given.
    #[error("{cause}: {message}")]
    Run { cause: Cause, message: String },
}

/// The classes of ONNX Runtime's error codes, as far as they tell people what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The file is cut short or was never an ONNX model.
    Damaged,
    /// A file, or a part of one, is not where it should be.
    Missing,
    /// The model uses what this version of ONNX Runtime does not have.
    Unsupported,
    /// The input does not fit the model.
    Input,
    /// Anything else.
    Other,
}

impl From<ErrorCode> for Cause {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph | ErrorCode::NoModel => {
                Self::Damaged
            }
            ErrorCode::NoSuchFile | ErrorCode::NotFound => Self::Missing,
            ErrorCode::NotImplemented => Self::Unsupported,
            ErrorCode::InvalidArgument => Self::Input,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "this is not a whole ONNX model",
            Self::Missing => "something is missing",
            Self::Unsupported => "this ONNX Runtime does not support the model",
            Self::Input => "an argument is invalid",
            Self::Other => "ONNX Runtime failed",
        })
    }
}

/// The loaded library; one per process.
#[derive(Debug)]
pub(crate) struct Runtime {
    environment: Environment,
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
        Ok(Self { environment })
    }

    /// One thread: the process has one CPU, and the calling thread computes on it.
    fn builder(&self) -> Result<SessionBuilder, ort::Error> {
        Ok(ort::session::Session::builder(&self.environment)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_log_level(LogLevel::Warning)?)
    }
}

/// What a text model takes. All are int64 with one row per text and one column per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    TypeIds,
}

impl Input {
    const ALL: [Self; 3] = [Self::Ids, Self::Mask, Self::TypeIds];

    fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::TypeIds => "token_type_ids",
        }
    }
}

/// A loaded model.
pub(crate) struct Session {
    inner: ort::session::Session,
    inputs: Vec<Input>,
    /// Computes the one output that is used.
    options: RunOptions<HasSelectedOutputs>,
    output: String,
    pooled: bool,
    /// What is fed, reused from run to run.
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Buffers {
    ids: Vec<i64>,
    mask: Vec<i64>,
    type_ids: Vec<i64>,
}

/// What a run computed, for every text `tokens` rows of `dimension` components.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) values: &'a [f32],
    /// 1 where the model pools by itself.
    pub(crate) tokens: usize,
    pub(crate) dimension: usize,
}

impl Session {
    /// Loads the model and sees whether it is one for texts.
    pub(crate) fn open(runtime: &Runtime, model: &Path) -> Result<Self, SessionError> {
        let inner =
            runtime.builder().and_then(|mut builder| builder.commit_from_file(model)).map_err(
                |error| SessionError::Load { cause: error.code().into(), message: brief(&error) },
            )?;
        let inputs = inner.inputs().iter().map(accept_input).collect::<Result<Vec<_>, _>>()?;
        if !inputs.contains(&Input::Ids) {
            return Err(SessionError::Contract("the model has no input input_ids".into()));
        }
        let (output, pooled) = choose_output(inner.outputs())?;
        let options = RunOptions::new()
            .map_err(run_failed)?
            .with_outputs(OutputSelector::no_default().with(&output));
        Ok(Self { inner, inputs, options, output, pooled, buffers: Buffers::default() })
    }

    /// Whether the model pools by itself.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Runs texts of equal length and lets `read` see the output before it is freed.
    pub(crate) fn run<T>(
        &mut self,
        texts: &[&Tokens],
        read: impl FnOnce(&Output<'_>) -> T,
    ) -> Result<T, SessionError> {
        let shape = [texts.len(), texts.first().map_or(0, |text| text.ids.len())];
        self.buffers.fill(texts);
        let mut fed: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(Input::ALL.len());
        for input in &self.inputs {
            let values = self.buffers.of(*input);
            let tensor = TensorRef::from_array_view((shape, values)).map_err(run_failed)?;
            fed.push((input.name(), tensor.into()));
        }
        let outputs = self.inner.run_with_options(fed, &self.options).map_err(run_failed)?;
        let (dimensions, values) = outputs[0].try_extract_tensor::<f32>().map_err(run_failed)?;
        let size = |place: usize| usize::try_from(dimensions[place]).unwrap_or(0);
        let (tokens, dimension) = match dimensions.len() {
            3 if !self.pooled && [size(0), size(1)] == shape => (shape[1], size(2)),
            2 if self.pooled && size(0) == shape[0] => (1, size(1)),
            _ => (0, 0),
        };
        if dimension == 0 {
            return Err(SessionError::Contract(format!(
                "the output {} has the shape {dimensions} for {} texts of {} tokens",
                self.output, shape[0], shape[1]
            )));
        }
        Ok(read(&Output { values, tokens, dimension }))
    }
}

impl Buffers {
    fn fill(&mut self, texts: &[&Tokens]) {
        self.ids.clear();
        self.type_ids.clear();
        for text in texts {
            self.ids.extend_from_slice(&text.ids);
            self.type_ids.extend_from_slice(&text.type_ids);
        }
        // Texts of equal length need no padding, so that every token is attended to.
        self.mask.resize(self.ids.len(), 1);
    }

    fn of(&self, input: Input) -> &[i64] {
        match input {
            Input::Ids => &self.ids,
            Input::Mask => &self.mask,
            Input::TypeIds => &self.type_ids,
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

fn accept_input(outlet: &Outlet) -> Result<Input, SessionError> {
    let known = Input::ALL.into_iter().find(|input| input.name() == outlet.name());
    match (known, tensor(outlet)) {
        (None, _) => Err(SessionError::Contract(format!(
            "the model has an input {}; known are {}",
            outlet.name(),
            Input::ALL.map(Input::name).join(", ")
        ))),
        (Some(input), Some((TensorElementType::Int64, 2))) => Ok(input),
        (Some(_), _) => Err(SessionError::Contract(format!(
            "the input {} is {}, and int64 with 2 dimensions is needed",
            outlet.name(),
            describe(outlet)
        ))),
    }
}

/// The output to use, and whether it is pooled: token embeddings under the names they usually
/// have, then under any name, then embeddings of whole texts.
fn choose_output(outlets: &[Outlet]) -> Result<(String, bool), SessionError> {
    let floats = |rank: usize| {
        outlets
            .iter()
            .filter(move |outlet| tensor(outlet) == Some((TensorElementType::Float32, rank)))
    };
    let named = |rank: usize, name: &str| floats(rank).find(|outlet| outlet.name() == name);
    let tokens = named(3, "last_hidden_state")
        .or_else(|| named(3, "token_embeddings"))
        .or_else(|| floats(3).next());
    let pooled = || named(2, "sentence_embedding").or_else(|| floats(2).next());
    match tokens.map(|outlet| (outlet, false)).or_else(|| pooled().map(|outlet| (outlet, true))) {
        Some((outlet, pooled)) => Ok((outlet.name().to_owned(), pooled)),
        None => {
            let found: Vec<String> = outlets
                .iter()
                .map(|outlet| format!("{} ({})", outlet.name(), describe(outlet)))
                .collect();
            Err(SessionError::Contract(format!(
                "no output is float32 with 3 or 2 dimensions; the model has {}",
                found.join(", ")
            )))
        }
    }
}

/// Element type and number of dimensions.
fn tensor(outlet: &Outlet) -> Option<(TensorElementType, usize)> {
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => Some((*ty, shape.len())),
        _ => None,
    }
}

fn describe(outlet: &Outlet) -> String {
    match tensor(outlet) {
        Some((ty, rank)) => format!("{} with {rank} dimensions", format!("{ty:?}").to_lowercase()),
        None => "no tensor".into(),
    }
}

fn run_failed(error: ort::Error) -> SessionError {
    SessionError::Run { cause: error.code().into(), message: brief(&error) }
}

fn brief(error: &ort::Error) -> String {
    error.message().chars().take(MESSAGE_CHARS_MAX).collect()
}

impl SessionError {
    /// As the reason why the version in which `file` is the model does not serve.
    pub(crate) fn refuse(self, file: &str) -> Refusal {
        let kind = match self {
            Self::Contract(_) => RefusalKind::Contract,
            Self::Load { .. } | Self::Run { .. } => RefusalKind::Load,
        };
        kind.because(format!("{file}: {self}"))
    }
}
