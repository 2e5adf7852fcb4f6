//! A loaded version, whatever its family: the only way from a version's directory to something that
//! runs. Serving and checking open versions here, so that what was checked is what serves.

use std::{path::Path, sync::Arc};

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    generation::Generation,
};
use tracing::warn;

use super::{
    family::{Budget, Extent, Family, Fit, Helpers, Later, Opening, Trial},
    group::Group,
    own::Own,
    table,
};
use crate::{
    artifacts::{
        compiled::{self, Key},
        costs::Costs,
        model_in,
        probes::Probes,
    },
    process::fault::Fault,
    session::{Form, Runtime},
};

/// How messages call a compiled model.
const COMPILED: &str = "the compiled model";
/// What messages call a version without a graph.
const TABLE: &str = "model.safetensors";

/// A loaded version.
pub(crate) struct LoadedVersion {
    family: Box<dyn Family>,
    file: String,
    form: Form,
    costs: Costs,
}

impl LoadedVersion {
    /// Loads the version in `dir` as it serves, warm: from its compiled forms below `compiled`
    /// if there is a sound one, else as its author made it.
    ///
    /// # Errors
    /// The version cannot serve.
    pub(crate) fn open_to_serve(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Self, Refusal> {
        match Self::open_warm(runtime, dir, compiled, key, helpers) {
            Ok(Some(version)) => return Ok(version),
            Ok(None) => {}
            Err(refusal) => warn!(%refusal, "the plain model is loaded, not its compiled form"),
        }
        let mut version = Self::open(runtime, dir)?;
        version.family.warm_up()?;
        Ok(version)
    }

    /// The compiled form, if there is one. What it is compared by warms it, too.
    fn open_warm(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(model) = compiled::find(compiled, key) else { return Ok(None) };
        let expected = Probes::read(compiled).ok_or_else(|| {
            RefusalKind::Checksum.because("there is nothing to compare the compiled model with")
        })?;
        let mut version = Self::open_compiled(runtime, dir, &model)?;
        expected.require(&version.family.probe(Extent::AtLoad)?, &version.file)?;
        // Without them each input runs alone until runs have been observed.
        if let Some(costs) = model.parent().and_then(Costs::read) {
            version.costs = costs;
        }
        if !helpers.is_empty() {
            version.family.offer_helpers(&Helpers { runtime, model: &model, cpus: helpers });
        }
        Ok(Some(version))
    }

    /// Loads the version in `dir` as its author made it.
    ///
    /// # Errors
    /// The version cannot be loaded.
    pub(crate) fn open(runtime: &Runtime, dir: &Path) -> Result<Self, Refusal> {
        let own = Own::read(dir)?;
        let found = model_in(dir)?;
        let (file, model) = match &found {
            Some((file, model)) => (file.as_str(), Some(model.as_path())),
            None => (TABLE, None),
        };
        Self::open_form(Opening { runtime, dir, own: &own, model, file, form: Form::Plain })
    }

    /// Loads the version in `dir` with the compiled `model` in the place of its own.
    ///
    /// # Errors
    /// The version cannot be loaded.
    pub(crate) fn open_compiled(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
    ) -> Result<Self, Refusal> {
        let (file, form, model) = (COMPILED, Form::Compiled, Some(model));
        Self::open_form(Opening { runtime, dir, own: &Own::read(dir)?, model, file, form })
    }

    fn open_form(opening: Opening<'_>) -> Result<Self, Refusal> {
        let family = table::open(&opening)?;
        let costs = family.unmeasured_costs();
        Ok(Self { family, file: opening.file.to_owned(), form: opening.form, costs })
    }

    /// See [`Family::try_out`].
    pub(crate) fn try_out(&mut self) -> Result<Trial, Refusal> {
        self.family.try_out()
    }

    /// See [`Family::fit`].
    pub(crate) fn fit(&mut self, budget: &Budget) -> Result<Option<Fit>, Refusal> {
        self.family.fit(budget)
    }

    /// See [`Family::limit_tokens`].
    pub(crate) fn limit_tokens(&mut self, max_tokens: u32) {
        self.family.limit_tokens(max_tokens);
    }

    /// Runs all fixed inputs.
    pub(crate) fn probe(&mut self) -> Result<Probes, Refusal> {
        self.family.probe(Extent::All)
    }

    /// See [`Family::measure_costs`].
    pub(crate) fn measure_costs(&mut self) -> Result<Costs, Refusal> {
        self.family.measure_costs()
    }

    /// See [`Family::embed_text`].
    pub(crate) fn embed_text(&mut self, text: &str) -> Result<Vec<f32>, Refusal> {
        self.family.embed_text(text)
    }

    /// See [`Family::answer`].
    pub(crate) fn answer(
        &mut self,
        group: &mut Group<'_>,
        parts: &[&[u8]],
        generation: Generation,
    ) -> Result<(), Fault> {
        self.family.answer(group, parts, generation, &mut self.costs)
    }

    /// See [`Family::take_later`].
    pub(crate) fn take_later(&mut self) -> Option<Later> {
        self.family.take_later()
    }

    /// Returns what is known of the cost of runs.
    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Whether the compiled form is loaded.
    pub(crate) fn is_compiled(&self) -> bool {
        self.form == Form::Compiled
    }

    /// The model's file, for messages.
    pub(crate) fn model_file(&self) -> &str {
        &self.file
    }
}
