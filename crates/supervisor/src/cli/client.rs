//! Calls a running supervisor for the commands, and maps errors of the call to exit codes.

use onnxd_admin::client::{Client, Error, Reply, across_succession};
use onnxd_proto::exit::Failure;

use super::AdminArguments;
use crate::config::admin_socket_candidates;

/// Makes a call, and repeats it if a successor takes over meanwhile.
///
/// # Errors
/// No supervisor answers, or its answer is malformed.
pub(super) fn call<T>(
    arguments: &AdminArguments,
    mut call: impl AsyncFnMut(&Client) -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(error.to_string()))?;
    let client = match &arguments.admin_socket {
        Some(path) => Client::at(path),
        None => Client::at_first_of(admin_socket_candidates()),
    };
    runtime
        .block_on(across_succession(async || call(&client).await))
        .map_err(|error| failure(&error))
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
