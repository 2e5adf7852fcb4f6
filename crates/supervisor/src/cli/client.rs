//! Calls a running supervisor for the commands, and maps errors of the call to exit codes.

use onnxd_admin::client::{Client, Error, Reply, Stage, across_succession};
use onnxd_proto::exit::{ExitStatus, Failure};

use super::AdminArguments;
use crate::{config::admin_socket_candidates, process::signals::Signals};

/// Makes a call, and repeats it if a successor takes over meanwhile.
///
/// # Errors
/// No supervisor answers, or its answer is malformed.
pub(super) fn call<T>(
    arguments: &AdminArguments,
    call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    runtime()?.block_on(answer(&client(arguments), call))
}

/// Work of the server that does not end with the command.
pub(super) struct Work {
    /// For example `update of m`.
    pub name: String,
    /// Ends it, if anything does.
    pub cancel: Option<String>,
}

impl Work {
    /// Returns what a command says that a signal ended when its call had come to this stage.
    fn interrupted(&self, stage: Stage) -> String {
        let Self { name, cancel } = self;
        let ends =
            || cancel.as_ref().map_or(String::new(), |cancel| format!("; `{cancel}` ends it"));
        match stage {
            Stage::Idle => format!("interrupted: the {name} did not begin"),
            Stage::Sent => {
                format!("interrupted before the server answered: the {name} may go on{}", ends())
            }
            Stage::Begun => format!("interrupted: the {name} goes on{}", ends()),
        }
    }
}

/// Makes a call like [`call`]. SIGINT or SIGTERM ends the command, but not `work` that has begun.
///
/// # Errors
/// Those of [`call`]; after a signal, whether the work goes on.
pub(super) fn interruptible<T>(
    arguments: &AdminArguments,
    work: &Work,
    call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    runtime()?.block_on(async {
        let mut signals = Signals::install().map_err(|error| internal(&error))?;
        let client = client(arguments);
        tokio::select! {
            // First, so that a signal after the end changes nothing.
            biased;
            answer = answer(&client, call) => answer,
            () = signals.stop() => {
                let message = work.interrupted(client.stage());
                Err(Failure { status: ExitStatus::Interrupted, message })
            }
        }
    })
}

fn internal(error: &std::io::Error) -> Failure {
    Failure::internal(error.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|error| internal(&error))
}

fn client(arguments: &AdminArguments) -> Client {
    match &arguments.admin_socket {
        Some(path) => Client::at(path),
        None => Client::at_first_of(admin_socket_candidates()),
    }
}

async fn answer<T>(
    client: &Client,
    mut call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    let reply = across_succession(async || {
        let reply = call(client).await?;
        client.reached(Stage::Idle);
        Ok(reply)
    });
    reply.await.map_err(|error| failure(&error))
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Unreachable { .. } => Failure::refused(format!(
            "{error}; check that `onnxd serve` is running, and pass the path of its --admin-socket"
        )),
        Error::Timeout(_) => Failure::refused(format!(
            "{error}; it may be stopped, frozen or overloaded, see its log; --timeout waits longer"
        )),
        Error::Broken(_) | Error::NotJson(_) => Failure::refused(error.to_string()),
        Error::Unexpected(_) => Failure::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use onnxd_admin::api::RefusalKind;
    use onnxd_engine::models::machine::events::Stop;

    use super::*;

    #[test]
    fn an_interrupted_command_says_what_goes_on() {
        let work = Work { name: "update of m".into(), cancel: Some("end m".into()) };
        for (stage, message) in [
            (Stage::Idle, "interrupted: the update of m did not begin"),
            (
                Stage::Sent,
                "interrupted before the server answered: the update of m may go on; `end m` ends it",
            ),
            (Stage::Begun, "interrupted: the update of m goes on; `end m` ends it"),
        ] {
            assert_eq!(work.interrupted(stage), message);
        }
    }

    #[test]
    fn version_0_1_0_recognizes_a_succession_by_its_message() {
        let refusal = Stop::HandingOver.refusal();
        assert_eq!(refusal.kind, RefusalKind::HandingOver);
        // 0.1.0 compares this text, and retries.
        assert_eq!(refusal.message, "a successor takes over; ask again");
    }
}
