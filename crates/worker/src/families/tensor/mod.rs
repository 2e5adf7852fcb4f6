//! Models for tensors: any that takes and gives nothing but tensors. [`model`] is the loaded model;
//! it is tried with samples ([`sample`]), since only its author knows what it is fed.

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
    family::{Extent, Family, Opening, Trial},
    group::Group,
    own::{self, Own},
};
use crate::{
    artifacts::{
        costs::{Company, Costs},
        probes::Probes,
    },
    process::fault::Fault,
};

/// Whether the version in `dir` is a model for tensors.
pub(super) fn claims(dir: &Path, said: &Own) -> bool {
    match said.task {
        Some(task) => task == Task::Tensor,
        None => !own::has_text_files(dir),
    }
}

/// Opens one.
///
/// # Errors
/// ONNX Runtime cannot load it, or it takes or gives something else than tensors.
pub(super) fn open(opening: &Opening<'_>) -> Result<Box<dyn Family>, Refusal> {
    Ok(Box::new(TensorModel::open(opening)?))
}

impl Family for TensorModel {
    /// A model that cannot be tried is not warm, and serves.
    fn warm_up(&mut self) -> Result<(), Refusal> {
        if let Err(refusal) = Self::probe(self) {
            warn!(%refusal, "a model for tensors is not warm");
        }
        Ok(())
    }

    /// A model for tensors may need inputs that cannot be guessed: then it serves untried.
    fn try_out(&mut self) -> Result<Trial, Refusal> {
        let untried = Self::probe(self).err().map(|refusal| refusal.message);
        let (signature, output) = (self.signature().clone(), Some(Output::Tensors));
        Ok(Trial { facts: Facts { signature, output, ..Facts::of(Task::Tensor) }, untried })
    }

    fn probe(&mut self, _extent: Extent) -> Result<Probes, Refusal> {
        Self::probe(self)
    }

    fn measure_costs(&mut self) -> Result<Costs, Refusal> {
        Ok(Self::measure_costs(self))
    }

    /// Until it is known that company changes nothing, each runs alone.
    fn unmeasured_costs(&self) -> Costs {
        Costs { company: Company::Alone, ..Costs::default() }
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
