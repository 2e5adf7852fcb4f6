//! Text models: one encoder, decoder or table that embeds, classifies or reranks. [`files`] reads
//! what the version's files declare, [`output`] chooses the graph's output, [`prepare`] tokenizes
//! requests, and [`readout`] converts outputs to answers. [`model`] combines them; the other
//! modules implement the trait [`Family`].

pub(crate) mod answer;
mod build;
mod consistency;
pub(crate) mod costs;
mod describe;
pub(crate) mod files;
mod growth;
mod interaction;
mod longest;
pub(crate) mod matrices;
pub(crate) mod microbatch;
pub(crate) mod model;
pub(crate) mod output;
pub(crate) mod prepare;
pub(crate) mod probe;
pub(crate) mod readout;
pub(crate) mod stages;
pub(crate) mod switches;
pub(crate) mod template;
pub(crate) mod tokenize;
pub(crate) mod trial;
pub(crate) mod wide;

use std::path::Path;

use onnxd_proto::{
    domain::{Refusal, Task},
    generation::Generation,
};

use self::{model::TextModel, prepare::Asked};
use super::{
    family::{Budget, Extent, Family, Fit, Helpers, Later, Opening, Trial},
    group::Group,
    own::{self, Own},
};
use crate::{
    artifacts::{costs::Costs, probes::Probes},
    process::fault::Fault,
};

/// Returns whether the version in `dir` is a text model.
pub(super) fn claims(dir: &Path, own: &Own) -> bool {
    match own.task {
        Some(task) => Task::TEXT.contains(&task),
        None => own::has_text_files(dir),
    }
}

/// Opens a text model.
///
/// # Errors
/// A file is malformed, or the model is not a text model.
pub(super) fn open(opening: &Opening<'_>) -> Result<Box<dyn Family>, Refusal> {
    Ok(Box::new(TextModel::open(opening)?))
}

impl Family for TextModel {
    fn warm_up(&mut self) -> Result<(), Refusal> {
        Self::warm_up(self)
    }

    fn try_out(&mut self) -> Result<Trial, Refusal> {
        Ok(Trial { facts: trial::try_out(self)?, untried: None })
    }

    fn fit(&mut self, budget: &Budget) -> Result<Option<Fit>, Refusal> {
        longest::fit(self, budget).map(Some)
    }

    fn limit_tokens(&mut self, max_tokens: u32) {
        Self::limit_tokens(self, max_tokens);
    }

    fn probe(&mut self, extent: Extent) -> Result<Probes, Refusal> {
        probe::probe(self, extent)
    }

    fn measure_costs(&mut self) -> Result<Costs, Refusal> {
        costs::measure(self)
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

    fn embed_text(&mut self, text: &str) -> Result<Vec<f32>, Refusal> {
        self.run_one(&Asked::text(text))
    }

    fn offer_helpers(&mut self, helpers: &Helpers<'_>) {
        Self::offer_helpers(self, helpers);
    }

    fn take_later(&mut self) -> Option<Later> {
        Self::take_later(self)
    }
}
