//! Runs `onnxd update`, `onnxd rollback` and `onnxd unload`.

use onnxd_admin::{
    api::{Cancelled, Outcome, Refusal, RefusalKind, RollbackCall, Step, Unloaded, UpdateCall},
    client::{Call, Client, Error, Reply},
};
use onnxd_proto::exit::{ExitStatus, Failure};

use super::{
    AdminArguments, RollbackArguments, UnloadArguments, UpdateArguments,
    client::{Work, call, interruptible},
    print_line,
    progress::{self, Display},
};
use crate::config::source_uri;

/// Runs `onnxd update MODEL` and `onnxd update --cancel [MODEL]`.
///
/// # Errors
/// No supervisor answers, or the update is refused.
pub(crate) fn main(arguments: &UpdateArguments) -> Result<ExitStatus, Failure> {
    let model = match &arguments.model {
        Some(model) if !arguments.cancel => model.as_str(),
        Some(model) => return cancel(&arguments.admin, model.as_str()),
        None => return cancel_all(&arguments.admin),
    };
    let from = arguments.from.as_deref().map(absolute).transpose()?;
    let UpdateArguments { load, force, allow_dimension_change, reuse_index, .. } = *arguments;
    let load = load.into();
    let update = UpdateCall { from, load, force, allow_dimension_change, reuse_index };
    let work = cancellable("update", model);
    show(&arguments.admin, &work, model, async |client| client.update(model, &update).await)
}

/// Ends the updates of one model.
fn cancel(admin: &AdminArguments, model: &str) -> Result<ExitStatus, Failure> {
    let answer = call(admin, async |client| client.cancel(model).await)?;
    report(admin, answer, describe)
}

fn describe(cancelled: &Cancelled) -> String {
    let Cancelled { model, generation, updates } = cancelled;
    let updates = if *updates == 1 { "1 update".into() } else { format!("{updates} updates") };
    if *generation == 0 {
        return format!("{model}: {updates} cancelled, no generation is serving");
    }
    format!("{model}: {updates} cancelled, generation {generation} keeps serving")
}

/// Ends the updates of all models. Fails if none has one, or if it is too late for one.
fn cancel_all(admin: &AdminArguments) -> Result<ExitStatus, Failure> {
    let status = call(admin, async |client| client.status().await)?;
    let status = status.result.map_err(|refusal| refused(&refusal))?;
    let (mut cancelled, mut failed) = (false, Vec::new());
    for model in status.models {
        let answer = call(admin, async |client| client.cancel(&model.name).await)?;
        match &answer.result {
            Ok(_) => {
                report(admin, answer, describe)?;
                cancelled = true;
            }
            // The others may have one.
            Err(refusal) if refusal.kind == RefusalKind::NotFound => {}
            Err(refusal) => {
                failed.push(format!("{}: {refusal}", model.name));
                if admin.json {
                    print_line(&answer.json);
                }
            }
        }
    }
    match failed[..] {
        [] if cancelled => Ok(ExitStatus::Success),
        [] => Err(Failure::refused("refused: no update is running or waiting")),
        _ if admin.json => Ok(ExitStatus::Refused),
        _ => Err(Failure::refused(format!("refused: {}", failed.join("; ")))),
    }
}

/// Describes a call that `onnxd update --cancel` ends.
fn cancellable(call: &str, model: &str) -> Work {
    let cancel = Some(format!("onnxd update --cancel {model}"));
    Work { name: format!("{call} of {model}"), cancel }
}

/// Runs `onnxd rollback MODEL`.
///
/// # Errors
/// No supervisor answers, or the rollback is refused.
pub(crate) fn rollback(arguments: &RollbackArguments) -> Result<ExitStatus, Failure> {
    let rollback = RollbackCall { to: arguments.to };
    let model = arguments.model.as_str();
    let work = cancellable("rollback", model);
    show(&arguments.admin, &work, model, async |client| client.rollback(model, &rollback).await)
}

/// Runs `onnxd unload MODEL`.
///
/// # Errors
/// No supervisor answers, or the unload is refused.
pub(crate) fn unload(arguments: &UnloadArguments) -> Result<ExitStatus, Failure> {
    let model = arguments.model.as_str();
    let work = Work { name: format!("unload of {model}"), cancel: None };
    let unload = async |client: &Client| client.unload(model).await;
    let answer = interruptible(&arguments.admin, &work, unload)?;
    report(&arguments.admin, answer, |unloaded: &Unloaded| {
        let Unloaded { model, generation, seconds } = unloaded;
        if *generation == 0 {
            return format!(
                "{model}: no generation was serving; requests no longer load the model"
            );
        }
        format!("{model}: generation {generation} unloaded, {seconds:.2} s")
    })
}

/// Makes a source's path absolute, since the supervisor runs in another directory.
fn absolute(uri: &str) -> Result<String, Failure> {
    let uri = source_uri(uri).map_err(|error| Failure::refused(format!("--from: {error}")))?;
    Ok(uri.into())
}

/// Shows the steps of an update or rollback as they arrive, then the outcome.
fn show(
    admin: &AdminArguments,
    work: &Work,
    model: &str,
    mut begin: impl AsyncFnMut(&Client) -> Result<Call, Error>,
) -> Result<ExitStatus, Failure> {
    let display = Display::new(!admin.json, model);
    let show = |step: &Step| display.show(step);
    let answer = interruptible(admin, work, async |client| begin(client).await?.end(show).await);
    display.finish();
    let answer = answer?;
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
        Err(refusal) if admin.json => Ok(refused(&refusal).status),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// Converts a refusal by the supervisor.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    let status = match refusal.kind {
        RefusalKind::Superseded => ExitStatus::Superseded,
        _ => ExitStatus::Refused,
    };
    Failure { status, message: format!("refused: {refusal}") }
}
