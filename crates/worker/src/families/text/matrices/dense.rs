//! Dense modules: the linear layers after a model's graph in `modules.json`, as saved by
//! sentence-transformers and PyLate. Reads their configuration and weights and applies them to
//! rows, either after pooling or to each token.

use std::path::Path;

use onnxd_proto::domain::Refusal;
use serde_json::{Map, Value};

use super::{
    linear::{self, FEATURES_MAX, Matrix},
    nonlinear::Nonlinear,
    weights::{Weights, inside},
};
use crate::families::text::files::json::{JsonFile, contract, read_json};

/// The vectors that a dense module applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// The pooled embedding of each text.
    Texts,
    /// The embedding of each token.
    Tokens,
}

/// One dense module: `activation(rows · weightᵀ + bias) + residual`.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    linear: Matrix,
    activation: Nonlinear,
    residual: Residual,
    rows: Rows,
}

/// The term added to the activations.
#[derive(Clone, Debug)]
enum Residual {
    None,
    /// The rows themselves.
    Rows,
    /// The rows, projected to the output width.
    Projected(Matrix),
}

impl Dense {
    /// Reads the module in `folder`, a folder within `dir`.
    ///
    /// # Errors
    /// A file is missing or malformed, the activation is unknown, or a shape does not match.
    pub(crate) fn open(dir: &Path, folder: &str) -> Result<Self, Refusal> {
        let name = inside(folder, "config.json");
        let fields = match read_json(dir, &name)? {
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(contract(format!("{name}: expected a JSON object"))),
            None => return Err(contract(format!("{name} is missing; a Dense module needs it"))),
        };
        let activation = activation(&fields, &name)?;
        let file = JsonFile::new(&name, fields);
        let inputs = features(&file, &name, "in_features")?;
        let outputs = features(&file, &name, "out_features")?;
        let has_bias = file.get("bias")?.unwrap_or(true);
        let has_residual = file.get("use_residual")?.unwrap_or(false);
        let weights = Weights::open(dir, folder)?;
        let mut known = vec![linear::WEIGHT];
        let linear = Matrix::open(&weights, "linear", (outputs, inputs), has_bias, &name)?;
        if has_bias {
            known.push(linear::BIAS);
        }
        let residual = match has_residual {
            false => Residual::None,
            true if inputs == outputs => Residual::Rows,
            true => {
                known.push("residual.weight");
                let matrix = Matrix::open(&weights, "residual", (outputs, inputs), false, &name)?;
                Residual::Projected(matrix)
            }
        };
        weights.expect_only(&known)?;
        Ok(Self { linear, activation, residual, rows: rows(&file, &name)? })
    }

    /// Returns the width of a row before the module.
    pub(crate) fn inputs(&self) -> usize {
        self.linear.inputs()
    }

    /// Returns the width of a row after the module.
    pub(crate) fn outputs(&self) -> usize {
        self.linear.outputs()
    }

    /// Returns which vectors the configuration applies the module to. PyLate's `Dense` ignores this
    /// and takes tokens.
    pub(crate) fn rows(&self) -> Rows {
        self.rows
    }

    /// Writes the module's output for `rows` to `out`, replacing its contents. Each row is
    /// [`Self::inputs`] wide.
    pub(crate) fn apply(&self, rows: &[f32], out: &mut Vec<f32>) {
        out.clear();
        self.linear.apply(rows, out);
        self.activation.apply(out);
        match &self.residual {
            Residual::None => {}
            Residual::Rows => add(out, rows),
            Residual::Projected(matrix) => {
                let mut projected = Vec::new();
                matrix.apply(rows, &mut projected);
                add(out, &projected);
            }
        }
    }
}

fn add(sums: &mut [f32], terms: &[f32]) {
    sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

/// Reads the activation. As in sentence-transformers, a missing field means tanh and null means
/// none.
fn activation(fields: &Map<String, Value>, name: &str) -> Result<Nonlinear, Refusal> {
    const FIELD: &str = "activation_function";
    match fields.get(FIELD) {
        None => Ok(Nonlinear::Tanh),
        Some(Value::Null) => Ok(Nonlinear::Identity),
        Some(Value::String(class)) => Nonlinear::from_class(class).ok_or_else(|| {
            contract(format!(
                "{name}: {FIELD}: unknown class {class:?}; expected one of torch.nn's {}",
                Nonlinear::supported_classes()
            ))
        }),
        Some(_) => Err(contract(format!("{name}: {FIELD}: expected the name of a class"))),
    }
}

fn features(file: &JsonFile, name: &str, field: &str) -> Result<usize, Refusal> {
    match file.get::<u64>(field)?.map(usize::try_from) {
        Some(Ok(features @ 1..=FEATURES_MAX)) => Ok(features),
        None => Err(contract(format!("{name}: {field} is missing"))),
        Some(_) => Err(contract(format!(
            "{name}: {field}: expected a number between 1 and {FEATURES_MAX}"
        ))),
    }
}

fn rows(file: &JsonFile, name: &str) -> Result<Rows, Refusal> {
    const TEXTS: &str = "sentence_embedding";
    let input = file.get("module_input_name")?.unwrap_or_else(|| TEXTS.to_owned());
    let output = file.get("module_output_name")?.unwrap_or_else(|| input.clone());
    match (input.as_str(), output.as_str()) {
        (TEXTS, TEXTS) => Ok(Rows::Texts),
        ("token_embeddings", "token_embeddings") => Ok(Rows::Tokens),
        _ => Err(contract(format!(
            "{name}: module_input_name {input:?} and module_output_name {output:?}: expected \
             sentence_embedding or token_embeddings for both"
        ))),
    }
}

#[cfg(test)]
#[path = "dense_tests.rs"]
mod tests;
