//! Runs `onnxd log`.

use onnxd_proto::exit::{ExitStatus, Failure};

use super::{LogArguments, client::call, print_line, update::refused};

/// Changes a running server's log filter, if one is given, and prints the filter in effect.
///
/// # Errors
/// No supervisor answers, or it refuses the filter.
pub(crate) fn main(arguments: &LogArguments) -> Result<ExitStatus, Failure> {
    let filter = arguments.filter.as_deref();
    let answer = call(&arguments.admin, async |client| client.log(filter).await)?;
    if arguments.admin.json {
        print_line(&answer.json);
    }
    match answer.result {
        Ok(settings) if !arguments.admin.json => print_line(&settings.filter),
        Ok(_) => {}
        Err(refusal) => return Err(refused(&refusal)),
    }
    Ok(ExitStatus::Success)
}
