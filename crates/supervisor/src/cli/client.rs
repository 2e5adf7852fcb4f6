//! How commands reach a supervisor: which socket, on which runtime, and how errors of the client
//! become exit codes.

use onnxd_admin::client::{Client, Error, Reply, across_succession};
use onnxd_proto::exit::Failure;

use super::AdminArguments;
use crate::config::admin_socket_candidates;

/// Makes a call, again if a successor is just taking over from the supervisor that got it.
///
/// # Errors
/// No supervisor answers, or not as documented.
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
            "{error}; is `onnxd serve` running, and is --admin-socket the same?"
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
    fn command_of_0_1_0_understands_that_a_successor_takes_over() {
        let refusal = Stop::HandingOver.refusal();
        assert_eq!(refusal.kind, RefusalKind::HandingOver);
        // It compares this sentence, and asks again.
        assert_eq!(refusal.message, "a successor takes over; ask again");
    }
}
