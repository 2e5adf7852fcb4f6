//! Runs `onnxd update`, `onnxd rollback` and `onnxd unload`.

use std::env;

use onnxd_admin::{
    api::{Outcome, Refusal, RollbackCall, Step, Unloaded, UpdateCall},
    client::{Call, Client, Error, Reply},
};
use onnxd_proto::{
    domain::SourceUri,
    exit::{ExitStatus, Failure},
};

use super::{
    AdminArguments, RollbackArguments, UnloadArguments, UpdateArguments,
    client::call,
    print_line,
    progress::{self, Display},
};

/// Runs `onnxd update MODEL`.
///
/// # Errors
/// No supervisor answers, or the update is refused.
pub(crate) fn main(arguments: &UpdateArguments) -> Result<ExitStatus, Failure> {
    let from = arguments.from.as_deref().map(absolute).transpose()?;
    let UpdateArguments { load, force, allow_dimension_change, .. } = *arguments;
    let update = UpdateCall { from, load: load.into(), force, allow_dimension_change };
    let model = arguments.model.as_str();
    show(&arguments.admin, async |client| client.update(model, &update).await)
}

/// Runs `onnxd rollback MODEL`.
///
/// # Errors
/// No supervisor answers, or the rollback is refused.
pub(crate) fn rollback(arguments: &RollbackArguments) -> Result<ExitStatus, Failure> {
    let rollback = RollbackCall { to: arguments.to };
    let model = arguments.model.as_str();
    show(&arguments.admin, async |client| client.rollback(model, &rollback).await)
}

/// Runs `onnxd unload MODEL`.
///
/// # Errors
/// No supervisor answers, or the unload is refused.
pub(crate) fn unload(arguments: &UnloadArguments) -> Result<ExitStatus, Failure> {
    let model = arguments.model.as_str();
    let answer = call(&arguments.admin, async |client| client.unload(model).await)?;
    report(&arguments.admin, answer, |unloaded: &Unloaded| {
        let Unloaded { model, generation, seconds } = unloaded;
        format!("{model}: generation {generation} unloaded, {seconds:.2} s")
    })
}

/// Makes a source's path absolute, since the supervisor runs in another directory.
fn absolute(uri: &str) -> Result<String, Failure> {
    let current_dir = env::current_dir().map_err(|error| Failure::internal(error.to_string()))?;
    let uri = SourceUri::parse_in(&current_dir, uri);
    uri.map(String::from).map_err(|error| Failure::refused(format!("--from: {error}")))
}

/// Shows the steps of an update or rollback as they arrive, then the outcome.
fn show(
    admin: &AdminArguments,
    mut begin: impl AsyncFnMut(&Client) -> Result<Call, Error>,
) -> Result<ExitStatus, Failure> {
    let display = Display::new(!admin.json);
    let show = |step: &Step| display.show(step);
    let answer = call(admin, async |client| begin(client).await?.end(show).await)?;
    display.finish();
    report(admin, answer, |outcome: &Outcome| progress::summary(outcome))
}

/// Prints the outcome as JSON or text.
fn report<T>(
    admin: &AdminArguments,
    answer: Reply<T>,
    summary: impl Fn(&T) -> String,
) -> Result<ExitStatus, Failure> {
    if admin.json {
        print_line(&answer.json);
    }
    match answer.result {
        Ok(_) if admin.json => Ok(ExitStatus::Success),
        Ok(done) => {
            print_line(&summary(&done));
            Ok(ExitStatus::Success)
        }
        Err(_) if admin.json => Ok(ExitStatus::Refused),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// Converts a refusal by the supervisor.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    Failure::refused(format!("refused: {refusal}"))
}
