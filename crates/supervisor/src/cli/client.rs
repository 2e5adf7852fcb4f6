//! Calls a running supervisor for the commands, and maps errors of the call to exit codes.

use std::{
    io::{self, Write},
    time::Duration,
};

use onnxd_admin::client::{Client, Error, Reply, Stage, across_succession, within};
use onnxd_proto::exit::{ExitStatus, Failure};
use tokio::time::sleep;

use super::AdminArguments;
use crate::{config::admin_socket_candidates, process::signals::Signals};

/// Makes a call, and repeats it if a successor takes over meanwhile.
///
/// # Errors
/// No supervisor answers within `--timeout`, or its answer is malformed.
pub(super) fn call<T>(
    arguments: &AdminArguments,
    mut call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    let (client, time) = (client(arguments), timeout(arguments));
    runtime()?.block_on(answer(&client, async |client| within(time, call(client)).await))
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
        let ends = || {
            cancel.as_ref().map_or(String::new(), |cancel| format!("; cancel it with `{cancel}`"))
        };
        match stage {
            Stage::Idle => format!("interrupted: the {name} did not begin"),
            Stage::Sent => {
                format!("interrupted before the server answered: the {name} may go on{}", ends())
            }
            Stage::Begun => format!("interrupted: the {name} goes on{}", ends()),
        }
    }
}

/// Makes a call that may take long. SIGINT or SIGTERM ends the command, but not `work` that has begun. Says so if the
/// supervisor stops answering.
///
/// # Errors
/// Those of [`call`], without the time limit; after a signal, whether the work goes on.
pub(super) fn interruptible<T>(
    arguments: &AdminArguments,
    work: &Work,
    call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    // The second one does not change how far the call has come.
    let (client, other) = (client(arguments), client(arguments));
    runtime()?.block_on(async {
        let mut signals = Signals::install().map_err(|error| internal(&error))?;
        tokio::select! {
            // First, so that a signal after the end changes nothing.
            biased;
            answer = answer(&client, call) => answer,
            () = signals.stop() => {
                let message = work.interrupted(client.stage());
                Err(Failure { status: ExitStatus::Interrupted, message })
            }
            () = report_silence(&other, timeout(arguments)) => unreachable!("it never ends"),
        }
    })
}

/// Asks for the status again and again, and says once when no answer arrives within `time`. A call may be silent for a
/// long time while the supervisor works.
async fn report_silence(client: &Client, time: Duration) {
    let mut is_reported = false;
    loop {
        sleep(time).await;
        match within(time, client.status()).await {
            Err(error @ Error::Timeout(_)) if !is_reported => {
                is_reported = true;
                warn(&format!(
                    "{error}; it may be stopped, frozen or overloaded, see its log; still waiting: interrupt to stop \
                     waiting, then `onnxd status` shows whether the work was done"
                ));
            }
            Ok(_) if is_reported => {
                is_reported = false;
                warn("the supervisor answers again; still waiting");
            }
            // The call itself reports a supervisor that has ended.
            _ => {}
        }
    }
}

fn warn(message: &str) {
    // A closed standard error must not end the call.
    let _ = writeln!(io::stderr(), "onnxd: {message}");
}

fn client(arguments: &AdminArguments) -> Client {
    match &arguments.admin_socket {
        Some(path) => Client::at(path),
        None => Client::at_first_of(admin_socket_candidates()),
    }
}

fn timeout(arguments: &AdminArguments) -> Duration {
    Duration::from_secs(arguments.timeout.into())
}

fn internal(error: &io::Error) -> Failure {
    Failure::internal(error.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|error| internal(&error))
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
                "interrupted before the server answered: the update of m may go on; cancel it with `end m`",
            ),
            (Stage::Begun, "interrupted: the update of m goes on; cancel it with `end m`"),
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
