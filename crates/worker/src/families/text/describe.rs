//! Describes how a loaded model runs: its inputs, the output used and the steps after it. Called by
//! [`super::trial`] for the record.

use onnxd_proto::domain::{SwitchFacts, Task};

use super::{
    model::{LoadedSource, TextModel},
    readout::LoadedStep,
};
use crate::session::Session;

/// A readable description of how a model runs.
pub(super) struct Description {
    pub(super) inputs: Vec<String>,
    pub(super) pipeline: Vec<String>,
    pub(super) switches: Vec<SwitchFacts>,
}

/// Describes a loaded model.
pub(super) fn describe(model: &TextModel) -> Description {
    let inputs = model.session.as_ref().map(Session::describe_inputs).unwrap_or_default();
    let plan = &model.settings.plan;
    let mut pipeline = Vec::new();
    for (place, route) in model.routes.iter().enumerate() {
        let mut steps = Vec::new();
        match &route.source {
            LoadedSource::Graph(readout) => {
                steps.extend(model.session.as_ref().map(Session::describe_output));
                steps.extend(readout.describe());
            }
            LoadedSource::Table(_, after) => {
                steps.push("mean of table rows".to_owned());
                steps.extend(after.iter().map(LoadedStep::describe));
            }
            LoadedSource::Weights(_) => steps.push("weight per token".to_owned()),
        }
        if route.normalize && model.settings.task == Task::Embed {
            steps.push("normalize".to_owned());
        }
        match plan.routes.len() {
            1 => pipeline = steps,
            _ => pipeline.push(format!("{}: {}", plan.routes[place].name, steps.join(", "))),
        }
    }
    Description { inputs, pipeline, switches: model.preparation.switches.facts().to_vec() }
}
