//! Checks that the parts of a model match: the widths of the graph or table and of the steps after
//! it, and the number of tokens. Pure; called by [`super::build`].

use onnxd_proto::domain::Refusal;

use super::{
    files::json::contract, matrices::dense::Rows, readout::LoadedStep, tokenize::Tokenizer,
};

/// Checks that a table has exactly one row per token.
pub(super) fn require_row_per_token(tokenizer: &Tokenizer, rows: u32) -> Result<(), Refusal> {
    let highest = tokenizer.highest_id();
    match highest.checked_add(1) == Some(rows) {
        true => Ok(()),
        false => Err(contract(format!(
            "tokenizer.json has ids up to {highest}, but model.safetensors has {rows} rows: they \
             belong to different models; use files of the same model"
        ))),
    }
}

/// Checks that each step comes at the right place: before or after pooling.
pub(super) fn require_placement(steps: &[LoadedStep], rows: Rows) -> Result<(), Refusal> {
    let is_misplaced = |step: &&LoadedStep| match step {
        LoadedStep::Dense(dense, _) => dense.rows() != rows,
        LoadedStep::LayerNorm(..) | LoadedStep::Normalize | LoadedStep::Cut(_) => false,
    };
    match steps.iter().find(is_misplaced) {
        None => Ok(()),
        Some(step) => Err(contract(format!(
            "{}: this module applies to the vectors of {}, but modules.json lists it on the other \
             side of pooling",
            step.file(),
            if rows == Rows::Tokens { "texts" } else { "tokens" }
        ))),
    }
}

/// Returns the steps that the graph does not contain, judging by the width of its output.
pub(super) fn steps_not_in_graph(
    steps: Vec<LoadedStep>,
    width: Option<usize>,
    name: &str,
) -> Result<Vec<LoadedStep>, Refusal> {
    let first = steps.iter().find_map(LoadedStep::inputs);
    let last = steps.iter().rev().find_map(LoadedStep::outputs);
    match (first, last, width) {
        (Some(first), Some(last), Some(width)) if first != width && last == width => Ok(Vec::new()),
        _ => {
            check_widths(&steps, width, name)?;
            Ok(steps)
        }
    }
}

/// Checks that each step takes the width of the one before it; returns the final width.
pub(super) fn check_widths(
    steps: &[LoadedStep],
    width: Option<usize>,
    name: &str,
) -> Result<Option<usize>, Refusal> {
    let (mut width, mut name) = (width, name.to_owned());
    for step in steps {
        if let (Some(inputs), Some(found)) = (step.inputs(), width)
            && inputs != found
        {
            return Err(contract(format!(
                "{} takes vectors of {inputs} numbers, but {name} has vectors of {found}: they \
                 belong to different models; use files of the same model",
                step.file()
            )));
        }
        if step.outputs().is_some() {
            (width, name) = (step.outputs(), step.file());
        }
    }
    Ok(width)
}
