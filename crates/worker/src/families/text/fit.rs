//! Whether the parts of a model belong to each other: what a graph or a table gives, what the steps
//! after it take, and the tokens that there are. Pure; called by [`super::build`].

use onnxd_proto::domain::Refusal;

use super::{files::json::contract, matrices::dense::Rows, readout::Applied, tokenize::Tokenizer};

/// Sees to it that a table has a row for each token.
pub(super) fn require_rows_for(tokenizer: &Tokenizer, rows: u32) -> Result<(), Refusal> {
    let highest = tokenizer.highest_id();
    match highest.checked_add(1) == Some(rows) {
        true => Ok(()),
        false => Err(contract(format!(
            "tokenizer.json has ids up to {highest}, and model.safetensors has {rows} rows: they \
             belong to different models"
        ))),
    }
}

/// Sees to it that steps stand where what they are for is.
pub(super) fn require_rows(steps: &[Applied], rows: Rows) -> Result<(), Refusal> {
    let is_misplaced = |step: &&Applied| match step {
        Applied::Dense(dense, _) => dense.rows() != rows,
        Applied::LayerNorm(..) | Applied::Normalize | Applied::Cut(_) => false,
    };
    match steps.iter().find(is_misplaced) {
        None => Ok(()),
        Some(step) => Err(contract(format!(
            "{}: it is for the vectors of {}, and does not stand where they are in modules.json",
            step.file(),
            if rows == Rows::Tokens { "texts" } else { "tokens" }
        ))),
    }
}

/// The steps that a graph whose output has this width has not done itself.
pub(super) fn contained(
    steps: Vec<Applied>,
    width: Option<usize>,
    name: &str,
) -> Result<Vec<Applied>, Refusal> {
    let first = steps.iter().find_map(Applied::inputs);
    let last = steps.iter().rev().find_map(Applied::outputs);
    match (first, last, width) {
        (Some(first), Some(last), Some(width)) if first != width && last == width => Ok(Vec::new()),
        _ => {
            fit(&steps, width, name)?;
            Ok(steps)
        }
    }
}

/// Sees to it that each step takes what the one before it gives; returns what the last one gives.
pub(super) fn fit(
    steps: &[Applied],
    width: Option<usize>,
    name: &str,
) -> Result<Option<usize>, Refusal> {
    let (mut width, mut name) = (width, name.to_owned());
    for step in steps {
        if let (Some(inputs), Some(found)) = (step.inputs(), width)
            && inputs != found
        {
            return Err(contract(format!(
                "{} takes vectors of {inputs} numbers, and {name} gives {found}: they belong to \
                 different models",
                step.file()
            )));
        }
        if step.outputs().is_some() {
            (width, name) = (step.outputs(), step.file());
        }
    }
    Ok(width)
}
