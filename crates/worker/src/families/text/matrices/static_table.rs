//! Static embeddings: one vector per token, averaged for a text. Reads the tables of
//! sentence-transformers' `StaticEmbedding` and of model2vec. The table stays in the mapped file,
//! which all workers share.

use std::path::Path;

use onnxd_proto::{domain::Refusal, wire::operation::Rejection};
use safetensors::Dtype;

use super::{
    linear::FEATURES_MAX,
    weights::{self, Floats, Tensor, Weights},
};
use crate::families::text::files::json::contract;

/// The table's tensor in sentence-transformers and in model2vec.
const TABLES: [&str; 2] = ["embedding.weight", "embeddings"];

/// One vector per token.
#[derive(Debug)]
pub(crate) struct StaticTable {
    rows: Rows,
    dimension: usize,
    /// The number of token ids.
    tokens: u32,
    /// The row of each token, if tokens share rows.
    mapping: Option<Vec<u32>>,
    /// The weight of each token's row in the mean.
    weights: Option<Floats>,
}

#[derive(Debug)]
enum Rows {
    Floats(Floats),
    /// Rows of other types, converted to `f32` on use.
    Narrow(Tensor),
}

impl StaticTable {
    /// Reads the table in `folder`, a folder within `dir`; an empty name means `dir` itself.
    ///
    /// # Errors
    /// The file is missing or damaged, or has no table with one vector per token.
    pub(crate) fn open(dir: &Path, folder: &str) -> Result<Self, Refusal> {
        let file = Weights::open(dir, folder)?;
        let Some(table) = TABLES.into_iter().find(|table| file.has(table)) else {
            return Err(contract(format!(
                "{}: expected a tensor embedding.weight (sentence-transformers) or embeddings \
                 (model2vec)",
                file.name()
            )));
        };
        let table = file.tensor(table)?;
        let (rows, dimension) = match *table.shape() {
            [rows, dimension @ 1..=FEATURES_MAX] if rows > 0 => (rows, dimension),
            ref shape => {
                return Err(contract(format!(
                    "{} has shape {shape:?}; expected one row per token",
                    table.name()
                )));
            }
        };
        let mapping = mapping(&file, rows)?;
        let tokens = mapping.as_ref().map_or(rows, Vec::len);
        let weights = match file.has("weights") {
            true => Some(file.floats("weights", &[tokens], "the number of tokens")?),
            false => None,
        };
        let Ok(tokens) = u32::try_from(tokens) else {
            return Err(contract(format!(
                "{} has too many rows: {tokens}; at most 4294967295 are supported",
                table.name()
            )));
        };
        Ok(Self { rows: Rows::new(table)?, dimension, tokens, mapping, weights })
    }

    /// Returns the dimension of an embedding.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Returns the number of token ids with a vector.
    pub(crate) fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Appends the mean of the tokens' vectors to `out`, or zeros if there are no tokens.
    ///
    /// # Errors
    /// A token has no vector: the tokenizer belongs to another table. `out` is then unchanged.
    pub(crate) fn mean(&self, ids: &[u32], out: &mut Vec<f32>) -> Result<(), Rejection> {
        if let Some(&id) = ids.iter().find(|&&id| id >= self.tokens) {
            return Err(Rejection::TokenId { id, highest: self.tokens - 1 });
        }
        let start = out.len();
        out.resize(start + self.dimension, 0.0);
        let (sums, mut wide) = (&mut out[start..], Vec::new());
        // In token order, as both libraries add them.
        for &id in ids {
            let row = self.rows.row(self.row_index(id), self.dimension, &mut wide);
            match &self.weights {
                None => sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value),
                Some(weights) => {
                    let weight = weights[id as usize];
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * weight);
                }
            }
        }
        if !ids.is_empty() {
            // Exact: a text has fewer than 2²⁴ tokens.
            let count = ids.len() as f32;
            sums.iter_mut().for_each(|sum| *sum /= count);
        }
        Ok(())
    }

    /// Returns the row of a token.
    fn row_index(&self, id: u32) -> usize {
        self.mapping.as_ref().map_or(id, |mapping| mapping[id as usize]) as usize
    }
}

impl Rows {
    fn new(table: Tensor) -> Result<Self, Refusal> {
        match table.dtype() {
            Dtype::F32 => Ok(Self::Floats(table.floats()?)),
            Dtype::F16 | Dtype::BF16 | Dtype::F64 | Dtype::I8 => Ok(Self::Narrow(table)),
            _ => Err(table.unreadable("F32, F16, BF16, F64 or I8")),
        }
    }

    /// Returns one row; `wide` holds it if it needs conversion.
    fn row<'a>(&'a self, index: usize, dimension: usize, wide: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::Floats(floats) => &floats[index * dimension..][..dimension],
            Self::Narrow(tensor) => {
                let row_bytes = dimension * tensor.dtype().bitsize() / 8;
                wide.clear();
                let known = weights::widen(
                    tensor.dtype(),
                    &tensor.bytes()[index * row_bytes..][..row_bytes],
                    wide,
                );
                debug_assert!(known, "the type was checked when the table was opened");
                wide
            }
        }
    }
}

fn mapping(file: &Weights, rows: usize) -> Result<Option<Vec<u32>>, Refusal> {
    if !file.has("mapping") {
        return Ok(None);
    }
    let tensor = file.tensor("mapping")?;
    if tensor.shape().len() != 1 || tensor.bytes().is_empty() {
        return Err(contract(format!(
            "{} has shape {:?}; expected one row number per token",
            tensor.name(),
            tensor.shape()
        )));
    }
    let mapping = tensor.indices()?;
    match mapping.iter().find(|&&index| index as usize >= rows) {
        Some(index) => Err(contract(format!(
            "{} refers to row {index} of a table with {rows} rows",
            tensor.name()
        ))),
        None => Ok(Some(mapping)),
    }
}

#[cfg(test)]
#[path = "static_table_tests.rs"]
mod tests;
