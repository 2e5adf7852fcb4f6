//! Static token weights for sparse queries: sentence-transformers' `SparseStaticEmbedding`, which a
//! router uses instead of the graph. A text's entry for a token is the token's weight, however
//! often it occurs.

use std::{collections::BTreeMap, path::Path};

use onnxd_proto::{domain::Refusal, wire::operation::Rejection};

use super::weights::{Floats, Weights, inside};
use crate::families::text::files::json::{JsonFile, contract};

/// The file that the library's `from_json` reads and that configurations name.
const TABLE: &str = "idf.json";
/// Maximum size of the vocabulary; the largest in use have about 260,000 tokens.
const TOKENS_MAX: usize = 1 << 22;

/// The weight of each token.
#[derive(Clone, Debug)]
pub(crate) struct SparseStatic {
    weights: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Tensor(Floats),
    Listed(Vec<f32>),
}

impl SparseStatic {
    /// Reads the module in `folder`, a folder within `dir`. `id_of` returns a token's id, since
    /// weights may be listed by token text.
    ///
    /// # Errors
    /// A file is missing or malformed, or lists a token that is not in the vocabulary.
    pub(crate) fn open(
        dir: &Path,
        folder: &str,
        id_of: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<Self, Refusal> {
        let config = JsonFile::read(dir, &inside(folder, "config.json"))?;
        let table: Option<String> = match config {
            Some(config) => config.get("path")?,
            None => None,
        };
        let weights = match table.filter(|path| path.ends_with(".json")) {
            Some(path) => Values::Listed(listed(dir, folder, &path, id_of)?),
            None => Values::Tensor(tensor(dir, folder)?),
        };
        Ok(Self { weights })
    }

    /// Returns the entries of a text with these tokens, in ascending order of tokens, without zero
    /// weights.
    ///
    /// # Errors
    /// A token has no weight: the tokenizer belongs to another module.
    pub(crate) fn weigh(&self, ids: &[u32]) -> Result<Vec<(u32, f32)>, Rejection> {
        let weights = self.weights();
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        if let Some(&id) = ids.last().filter(|&&id| id as usize >= weights.len()) {
            let highest = u32::try_from(weights.len() - 1).unwrap_or(u32::MAX);
            return Err(Rejection::TokenId { id, highest });
        }
        let entries = ids.into_iter().map(|id| (id, weights[id as usize]));
        Ok(entries.filter(|&(_, weight)| weight != 0.0).collect())
    }

    /// Returns the number of dimensions; token ids are below it.
    pub(crate) fn tokens(&self) -> usize {
        self.weights().len()
    }

    fn weights(&self) -> &[f32] {
        match &self.weights {
            Values::Tensor(floats) => floats,
            Values::Listed(values) => values,
        }
    }
}

fn tensor(dir: &Path, folder: &str) -> Result<Floats, Refusal> {
    let file = Weights::open(dir, folder)?;
    let tensor = file.tensor("weight")?;
    match *tensor.shape() {
        [1..=TOKENS_MAX] => tensor.floats(),
        ref shape => Err(contract(format!(
            "{} has shape {shape:?}; expected one weight per token",
            tensor.name()
        ))),
    }
}

/// Reads weights from a JSON file that lists them by token text.
fn listed(
    dir: &Path,
    folder: &str,
    path: &str,
    id_of: &dyn Fn(&str) -> Option<u32>,
) -> Result<Vec<f32>, Refusal> {
    // The library resolves the path against its working directory and the hub. Here the file is in
    // the module's folder.
    let file_name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(TABLE);
    let name = inside(folder, file_name);
    let Some(file) = crate::families::text::files::json::read_json(dir, &name)? else {
        return Err(contract(format!(
            "{name} is missing; {} reads the weights from {path:?}",
            inside(folder, "config.json")
        )));
    };
    let by_token: BTreeMap<String, f32> = serde_json::from_value(file)
        .map_err(|error| contract(format!("{name}: expected one weight per token: {error}")))?;
    let mut weights = Vec::new();
    for (token, weight) in by_token {
        let id = id_of(&token).map(|id| id as usize).filter(|&id| id < TOKENS_MAX);
        let Some(id) = id else {
            return Err(contract(format!("{name}: the vocabulary has no token {token:?}")));
        };
        if weights.len() <= id {
            weights.resize(id + 1, 0.0);
        }
        weights[id] = weight;
    }
    if weights.is_empty() {
        return Err(contract(format!("{name} has no weights")));
    }
    Ok(weights)
}

#[cfg(test)]
#[path = "sparse_static_tests.rs"]
mod tests;
