//! Models whose inputs and outputs are plain tensors. [`model`] is the loaded model. It is tried
//! with generated samples ([`sample`]), since only the model's author knows its real inputs.

pub(crate) mod answer;
pub(crate) mod model;
pub(crate) mod sample;

use std::path::Path;

use onnxd_proto::{
    domain::{Facts, Output, Refusal, Task},
    generation::Generation,
};
use tracing::warn;

use self::model::TensorModel;
use super::{
    config::{self, ModelConfig},
    family::{Extent, Family, Opening, Trial},
    group::Group,
};
use crate::{
    artifacts::{
        costs::{Batching, Costs},
        probes::Probes,
    },
    process::fault::Fault,
};

/// Returns whether the version in `dir` is a tensor model.
pub(super) fn claims(dir: &Path, model_config: &ModelConfig) -> bool {
    match model_config.task {
        Some(task) => task == Task::Tensor,
        None => !config::has_text_files(dir),
    }
}

/// Opens a tensor model.
///
/// # Errors
/// ONNX Runtime cannot load it, or an input or output is not a tensor.
pub(super) fn open(opening: &Opening<'_>) -> Result<Box<dyn Family>, Refusal> {
    Ok(Box::new(TensorModel::open(opening)?))
}

impl Family for TensorModel {
    /// A model that no sample fits still serves, without a warm-up.
    fn warm_up(&mut self) -> Result<(), Refusal> {
        if let Err(refusal) = Self::probe(self) {
            warn!(%refusal, "cannot warm up the tensor model; serving it anyway");
        }
        Ok(())
    }

    /// A tensor model may need inputs that cannot be generated; it then serves untried.
    fn try_out(&mut self) -> Result<Trial, Refusal> {
        let untried = Self::probe(self).err().map(|refusal| refusal.message);
        let (signature, output) = (self.signature().clone(), Some(Output::Tensors));
        Ok(Trial { facts: Facts { signature, output, ..Facts::new(Task::Tensor) }, untried })
    }

    fn probe(&mut self, _extent: Extent) -> Result<Probes, Refusal> {
        Self::probe(self)
    }

    fn measure_costs(&mut self) -> Result<Costs, Refusal> {
        Ok(Self::measure_costs(self))
    }

    /// Items run on their own until measurements show that sharing a run changes no output.
    fn unmeasured_costs(&self) -> Costs {
        Costs { batching: Batching::Separate, ..Costs::default() }
    }

    fn answer(
        &mut self,
        group: &mut Group<'_>,
        parts: &[&[u8]],
        generation: Generation,
        costs: &mut Costs,
    ) -> Result<(), Fault> {
        answer::answer(group, parts, generation, (self, costs))
    }
}
