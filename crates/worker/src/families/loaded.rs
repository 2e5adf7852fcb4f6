//! The only way from a version's directory to a model that runs, for every family. Serving and
//! checking both open versions here, so the checked model is the one that serves.

use std::{path::Path, sync::Arc};

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    generation::Generation,
};
use tracing::warn;

use super::{
    config::ModelConfig,
    family::{Budget, DeferredJob, Extent, Family, Fit, Helpers, Opening, Trial},
    group::Group,
    table,
};
use crate::{
    artifacts::{
        compiled::{self, Key},
        costs::Costs,
        intact::require_small_files_intact,
        model_in,
        probes::Probes,
    },
    process::fault::Fault,
    session::{Form, Runtime},
};

/// The name of a compiled model in messages.
const COMPILED: &str = "the compiled model";
/// The name of a version without a graph in messages.
const TABLE: &str = "model.safetensors";

/// A loaded version of any family.
pub(crate) struct LoadedVersion {
    family: Box<dyn Family>,
    file: String,
    form: Form,
    costs: Costs,
}

impl LoadedVersion {
    /// Loads and warms up the version in `dir` for serving. Uses a valid compiled form below
    /// `compiled` if one exists, else the original model.
    ///
    /// # Errors
    /// The version cannot be served.
    pub(crate) fn open_to_serve(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Self, Refusal> {
        require_small_files_intact(dir)?;
        match Self::open_warm(runtime, dir, compiled, key, helpers) {
            Ok(Some(version)) => return Ok(version),
            Ok(None) => {}
            Err(refusal) => warn!(%refusal, "compiled model failed; loading the original model"),
        }
        let mut version = Self::open(runtime, dir)?;
        version.family.warm_up()?;
        Ok(version)
    }

    /// Opens the compiled form, if one exists. Comparing it with the recorded probes also warms it
    /// up.
    fn open_warm(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(model) = compiled::find(compiled, key) else { return Ok(None) };
        let expected = Probes::read(compiled).ok_or_else(|| {
            RefusalKind::Checksum
                .because("the compiled model has no recorded probes to compare it with")
        })?;
        let mut version = Self::open_compiled(runtime, dir, &model)?;
        expected.require(&version.family.probe(Extent::AtLoad)?, &version.file)?;
        // Without recorded costs, every input runs on its own until runs have been observed.
        if let Some(costs) = model.parent().and_then(Costs::read) {
            version.costs = costs;
        }
        if !helpers.is_empty() {
            version.family.offer_helpers(&Helpers { runtime, model: &model, cpus: helpers });
        }
        Ok(Some(version))
    }

    /// Loads the version in `dir` from its original model.
    ///
    /// # Errors
    /// The version cannot be loaded.
    pub(crate) fn open(runtime: &Runtime, dir: &Path) -> Result<Self, Refusal> {
        let model_config = ModelConfig::read(dir)?;
        let found = model_in(dir)?;
        let (file, model) = match &found {
            Some((file, model)) => (file.as_str(), Some(model.as_path())),
            None => (TABLE, None),
        };
        Self::open_form(Opening {
            runtime,
            dir,
            model_config: &model_config,
            model,
            file,
            form: Form::Plain,
        })
    }

    /// Loads the version in `dir` with the compiled `model` in place of the original.
    ///
    /// # Errors
    /// The version cannot be loaded.
    pub(crate) fn open_compiled(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
    ) -> Result<Self, Refusal> {
        let (file, form, model) = (COMPILED, Form::Compiled, Some(model));
        Self::open_form(Opening {
            runtime,
            dir,
            model_config: &ModelConfig::read(dir)?,
            model,
            file,
            form,
        })
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

    /// See [`Family::take_deferred`].
    pub(crate) fn take_deferred(&mut self) -> Option<DeferredJob> {
        self.family.take_deferred()
    }

    /// Returns the known costs of runs.
    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Returns whether the compiled form is loaded.
    pub(crate) fn is_compiled(&self) -> bool {
        self.form == Form::Compiled
    }

    /// Returns the name of the model's file, for messages.
    pub(crate) fn model_file(&self) -> &str {
        &self.file
    }
}
