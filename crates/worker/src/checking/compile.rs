//! Sees to it that a version has a sound compiled form: finds it, or makes it and compares what
//! it computes with what the plain model does, and measures what its runs cost. What fails here is
//! no fault of the version; the plain model serves then.

use std::{io, path::Path};

use onnxd_proto::domain::Refusal;

use crate::{
    artifacts::{
        compiled::{self, Key, Making},
        costs::Costs,
        model_in,
        probes::Probes,
    },
    families::LoadedVersion,
    session::Runtime,
};

/// Whether the compiled form of the version in `dir`, which takes texts of `max_tokens` tokens where
/// that is known, had to be made. `measured` is what the plain model makes of the fixed texts, if
/// that is known.
///
/// # Errors
/// Why there is none, for people.
pub(crate) fn compile(
    runtime: &Runtime,
    (dir, max_tokens): (&Path, Option<u32>),
    root: &Path,
    key: &Key,
    measured: Option<&Probes>,
) -> Result<bool, String> {
    let said = |error: io::Error| format!("{}: {error}", root.display());
    let making = Making::begin(root, key).map_err(said)?;
    let known = Probes::read(root);
    let measured_costs = compiled::find(root, key).and_then(|model| Costs::read(model.parent()?));
    if known.is_some() && measured_costs.is_some() && making.is_done() {
        return Ok(false);
    }
    let said_of = |refusal: Refusal| refusal.message;
    let expected = match measured {
        Some(measured) => measured.clone(),
        None => LoadedVersion::open(runtime, dir)
            .and_then(|mut version| version.probe())
            .map_err(said_of)?,
    };
    expected.write(root).map_err(said)?;
    // A table is mapped as it is.
    let Some((_, model)) = model_in(dir).map_err(said_of)? else { return Ok(false) };
    making.make(runtime, &model, |compiled| {
        let mut version = LoadedVersion::open_compiled(runtime, dir, compiled).map_err(said_of)?;
        if let Some(max_tokens) = max_tokens {
            version.limit_tokens(max_tokens);
        }
        let file = version.model_file().to_owned();
        version.probe().and_then(|again| expected.require(&again, &file)).map_err(said_of)?;
        let costs = version.measure_costs().map_err(said_of)?;
        costs.write(compiled.parent().unwrap_or(root)).map_err(said)
    })?;
    Ok(true)
}
