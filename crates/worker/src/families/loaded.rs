//! A version that has been loaded, whatever it is for. What only one kind of model does is its own
//! module's affair: [`crate::families::text::model`], [`crate::families::tensor::model`].

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use onnxd_proto::domain::{Refusal, RefusalKind, Task};

use crate::{
    artifacts::{compiled::Key, costs::Costs, probes::Probes},
    families::{
        tensor::model::TensorModel,
        text::{
            model::TextModel,
            task::{self, Own},
        },
    },
    serving::ahead::Later,
    session::Runtime,
};

/// Where the model may stand in a version's directory.
const MODEL_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// A loaded version.
pub(crate) enum LoadedVersion {
    /// For texts.
    Text(Box<TextModel>),
    /// For tensors.
    Tensor(Box<TensorModel>),
}

impl LoadedVersion {
    /// Loads the version in `dir` as it serves, warm: from its compiled forms below `compiled`
    /// if there is a sound one, else as its author made it.
    pub(crate) fn open_to_serve(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Self, Refusal> {
        Ok(match task_of(dir)? {
            Task::Tensor => Self::tensor(TensorModel::open_to_serve(runtime, dir, compiled, key)?),
            _ => Self::text(TextModel::open_to_serve(runtime, dir, compiled, key, helpers)?),
        })
    }

    /// Loads the version in `dir` as its author made it.
    pub(crate) fn open(runtime: &Runtime, dir: &Path) -> Result<Self, Refusal> {
        Ok(match task_of(dir)? {
            Task::Tensor => Self::tensor(TensorModel::open(runtime, dir)?),
            _ => Self::text(TextModel::open(runtime, dir)?),
        })
    }

    /// Loads the version in `dir` with the compiled `model` in the place of its own.
    pub(crate) fn open_compiled(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
    ) -> Result<Self, Refusal> {
        Ok(match task_of(dir)? {
            Task::Tensor => Self::tensor(TensorModel::open_compiled(runtime, dir, model)?),
            _ => Self::text(TextModel::open_compiled(runtime, dir, model)?),
        })
    }

    fn text(model: TextModel) -> Self {
        Self::Text(Box::new(model))
    }

    fn tensor(model: TensorModel) -> Self {
        Self::Tensor(Box::new(model))
    }

    /// What the version makes of fixed inputs.
    pub(crate) fn probe(&mut self) -> Result<Probes, Refusal> {
        match self {
            Self::Text(model) => Probes::measure(model),
            Self::Tensor(model) => model.probe(),
        }
    }

    /// What runs cost on this machine.
    pub(crate) fn measure_costs(&mut self) -> Result<Costs, Refusal> {
        match self {
            Self::Text(model) => Costs::measure(model),
            Self::Tensor(model) => model.measure_costs(),
        }
    }

    /// Whether the compiled form is loaded.
    pub(crate) fn is_compiled(&self) -> bool {
        match self {
            Self::Text(model) => model.is_compiled(),
            Self::Tensor(model) => model.is_compiled(),
        }
    }

    /// What is known of runs.
    pub(crate) fn costs(&self) -> &Costs {
        match self {
            Self::Text(model) => model.costs(),
            Self::Tensor(model) => model.costs(),
        }
    }

    /// What is to be made in the background, once.
    pub(crate) fn take_later(&mut self) -> Option<Later> {
        match self {
            Self::Text(model) => model.take_later(),
            Self::Tensor(_) => None,
        }
    }

    /// The model's file, for messages.
    pub(crate) fn model_file(&self) -> &'static str {
        match self {
            Self::Text(model) => model.model_file(),
            Self::Tensor(model) => model.model_file(),
        }
    }
}

fn task_of(dir: &Path) -> Result<Task, Refusal> {
    task::of(dir, &Own::read(dir)?)
}

/// The version's own model: its name in messages, and where it is.
pub(crate) fn model_in(dir: &Path) -> Result<(&'static str, PathBuf), Refusal> {
    let mut files = MODEL_FILES.into_iter().map(|file| (file, dir.join(file)));
    files.find(|(_, path)| path.is_file()).ok_or_else(|| {
        RefusalKind::Contract.because(format!("{} is missing", MODEL_FILES.join(" or ")))
    })
}
