//! Finds a version's compiled form, or builds one. A new one must reproduce the outputs of the
//! plain model, and the costs of its runs are measured. A failure here does not refuse the version;
//! it then serves from the plain model.

use std::{io, path::Path};

use onnxd_proto::domain::Refusal;

use crate::{
    artifacts::{
        compiled::{self, Compilation, Key},
        costs::Costs,
        intact::require_intact,
        model_in,
        probes::Probes,
    },
    families::LoadedVersion,
    session::Runtime,
};

/// Why there is no compiled form.
#[derive(Debug)]
pub(crate) enum NotCompiled {
    /// The files of the version are not those that were checked. It must not serve.
    Damaged(Refusal),
    /// What failed, as a message for users. The version serves without a compiled form.
    Failed(String),
}

impl From<String> for NotCompiled {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Ensures a valid compiled form of the version in `dir` and returns whether it had to be built.
/// `max_tokens` limits texts, if known. `measured` holds the plain model's outputs for the fixed
/// texts, if known.
///
/// # Errors
/// Why there is no compiled form.
pub(crate) fn compile(
    runtime: &Runtime,
    (dir, max_tokens): (&Path, Option<u32>),
    root: &Path,
    key: &Key,
    measured: Option<&Probes>,
) -> Result<bool, NotCompiled> {
    let message = |error: io::Error| format!("{}: {error}", root.display());
    let compilation = match Compilation::begin(root, key) {
        Ok(compilation) => compilation,
        Err(error) => {
            require_intact(dir).map_err(NotCompiled::Damaged)?;
            return Err(message(error).into());
        }
    };
    let known = Probes::read(root);
    let measured_costs = compiled::find(root, key).and_then(|model| Costs::read(model.parent()?));
    if known.is_some() && measured_costs.is_some() && compilation.is_done() {
        return Ok(false);
    }
    require_intact(dir).map_err(NotCompiled::Damaged)?;
    let reason = |refusal: Refusal| refusal.message;
    let expected = match measured {
        Some(measured) => measured.clone(),
        None => LoadedVersion::open(runtime, dir)
            .and_then(|mut version| version.probe())
            .map_err(reason)?,
    };
    expected.write(root).map_err(message)?;
    // Static embeddings have no graph; their table is mapped as it is.
    let Some((_, model)) = model_in(dir).map_err(reason)? else { return Ok(false) };
    compilation.run(runtime, &model, |compiled| {
        let mut version = LoadedVersion::open_compiled(runtime, dir, compiled).map_err(reason)?;
        if let Some(max_tokens) = max_tokens {
            version.limit_tokens(max_tokens);
        }
        let file = version.model_file().to_owned();
        version.probe().and_then(|again| expected.require(&again, &file)).map_err(reason)?;
        let costs = version.measure_costs().map_err(reason)?;
        costs.write(compiled.parent().unwrap_or(root)).map_err(message)
    })?;
    Ok(true)
}
