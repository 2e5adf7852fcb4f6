//! Calls a running supervisor for the commands, and maps errors of the call to exit codes.

use onnxd_admin::client::{Client, Error, Reply, across_succession};
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
    runtime()?.block_on(answer(arguments, call))
}

/// Makes a call like [`call`], whose work goes on at the server if SIGINT or SIGTERM ends the command.
///
/// # Errors
/// Those of [`call`], or `goes_on` if there was a signal.
pub(super) fn interruptible<T>(
    arguments: &AdminArguments,
    goes_on: &str,
    call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    runtime()?.block_on(async {
        let mut signals = Signals::install().map_err(|error| internal(&error))?;
        tokio::select! {
            answer = answer(arguments, call) => answer,
            () = signals.stop() => {
                Err(Failure { status: ExitStatus::Interrupted, message: goes_on.to_owned() })
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

async fn answer<T>(
    arguments: &AdminArguments,
    mut call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    let client = match &arguments.admin_socket {
        Some(path) => Client::at(path),
        None => Client::at_first_of(admin_socket_candidates()),
    };
    across_succession(async || call(&client).await).await.map_err(|error| failure(&error))
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

    #[test]
    fn version_0_1_0_recognizes_a_succession_by_its_message() {
        let refusal = Stop::HandingOver.refusal();
        assert_eq!(refusal.kind, RefusalKind::HandingOver);
        // 0.1.0 compares this text, and retries.
        assert_eq!(refusal.message, "a successor takes over; ask again");
    }
}
