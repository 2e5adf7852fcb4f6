//! `onnxd update`, `onnxd rollback` and `onnxd unload`.

use std::env;

use onnxd_proto::{
    domain::{Refusal, SourceUri},
    exit::ExitStatus,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminArguments, RollbackArguments, UnloadArguments, UpdateArguments, client,
    progress::{self, Display},
    say,
};
use crate::admin::{RollbackCall, UpdateCall};
use onnxd_proto::domain::{Outcome, Step, Unloaded};
use onnxd_proto::exit::Failure;

/// `onnxd update MODEL`.
///
/// # Errors
/// No supervisor answers.
pub(crate) fn main(arguments: &UpdateArguments) -> Result<ExitStatus, Failure> {
    let from = arguments.from.as_deref().map(from_here).transpose()?;
    let UpdateArguments { load, force, allow_dimension_change, .. } = *arguments;
    let call = UpdateCall { from, load: load.into(), force, allow_dimension_change };
    let path = format!("/admin/models/{}/update", arguments.model);
    run(&arguments.admin, &path, &json!(call))
}

/// `onnxd rollback MODEL`.
///
/// # Errors
/// No supervisor answers.
pub(crate) fn rollback(arguments: &RollbackArguments) -> Result<ExitStatus, Failure> {
    let path = format!("/admin/models/{}/rollback", arguments.model);
    run(&arguments.admin, &path, &json!(RollbackCall { to: arguments.to }))
}

/// `onnxd unload MODEL`.
///
/// # Errors
/// No supervisor answers, or the model is not unloaded.
pub(crate) fn unload(arguments: &UnloadArguments) -> Result<ExitStatus, Failure> {
    let path = format!("/admin/models/{}/unload", arguments.model);
    let last = client::call(&arguments.admin, "POST", &path, &json!({}), |_| {})?;
    if arguments.admin.json {
        say(&last.to_string());
    }
    let Ok(unloaded) = serde_json::from_value::<Unloaded>(last.clone()) else {
        return refused(&arguments.admin, &last);
    };
    if !arguments.admin.json {
        let Unloaded { model, generation, seconds } = unloaded;
        say(&format!("{model}: generation {generation} unloaded, {seconds:.2} s"));
    }
    Ok(ExitStatus::Fine)
}

/// The supervisor stands in another directory than we do.
fn from_here(uri: &str) -> Result<String, Failure> {
    let here = env::current_dir().map_err(|error| Failure::internal(error.to_string()))?;
    let uri = SourceUri::parse_in(&here, uri);
    uri.map(String::from).map_err(|error| Failure::refused(format!("--from {error}")))
}

fn run(admin: &AdminArguments, path: &str, call: &Value) -> Result<ExitStatus, Failure> {
    let display = Display::new(!admin.json);
    let show = |line: &Value| {
        if let Ok(step) = Step::deserialize(line) {
            display.show(&step);
        }
    };
    let last = client::call(admin, "POST", path, call, show)?;
    display.finish();
    if admin.json {
        say(&last.to_string());
    }
    if let Ok(outcome) = serde_json::from_value::<Outcome>(last.clone()) {
        if !admin.json {
            say(&progress::summary(&outcome));
        }
        return Ok(ExitStatus::Fine);
    }
    refused(admin, &last)
}

fn refused(admin: &AdminArguments, last: &Value) -> Result<ExitStatus, Failure> {
    match serde_json::from_value::<Refusal>(last["error"].clone()) {
        Ok(_) if admin.json => Ok(ExitStatus::Refused),
        Ok(refusal) => Err(Failure::refused(format!("refused: {refusal}"))),
        Err(_) => Err(Failure::internal(format!("the supervisor answers {last}"))),
    }
}
