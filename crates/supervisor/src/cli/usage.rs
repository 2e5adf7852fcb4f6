//! What a wrong command line is answered: the flag or variable, what it expects, and an example.

use std::{
    env,
    error::Error as _,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use onnxd_proto::exit::ExitStatus;

use super::command;

/// Prints clap's message: help and version to standard output, errors to standard error.
pub(crate) fn print_usage(message: &clap::Error) -> ExitCode {
    if !message.use_stderr() {
        let _ = message.print();
        return ExitStatus::Fine.into();
    }
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // If the message cannot be written, the exit code still tells.
    let _ = match wrong_value(message, &arguments) {
        Some(reason) => {
            let reason = format!("{reason}\n\nFor more information, try '--help'.\n");
            clap::Error::raw(message.kind(), reason).print()
        }
        None => message.print(),
    };
    if message.kind() == ErrorKind::MissingRequiredArgument
        && let Some(example) = example(&arguments)
    {
        let _ = writeln!(io::stderr(), "Example: {example}");
    }
    ExitStatus::Usage.into()
}

/// Returns `--FLAG: expected …, got "VALUE"` for a value that a parser has refused.
fn wrong_value(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let (shown, value) =
        (text(error, ContextKind::InvalidArg)?, text(error, ContextKind::InvalidValue)?);
    let name = shown.split([' ', '[', '=']).next().filter(|name| !name.is_empty()).unwrap_or(shown);
    let name = name.trim_matches(['<', '>']);
    let origin = match variable(name) {
        Some(variable) if !is_given(name, arguments) => format!(" (set by {variable})"),
        _ => String::new(),
    };
    let reason = error.source()?.to_string();
    // Some parsers quote the value.
    let got = if reason.contains(&format!("{value:?}")) {
        String::new()
    } else {
        format!(", got {value:?}")
    };
    Some(format!("{name}{origin}: {reason}{got}"))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// Returns the variable of a flag, which is the same for every command.
fn variable(flag: &str) -> Option<String> {
    let long = flag.strip_prefix("--")?;
    let command = command();
    let mut arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let argument = arguments.find(|argument| argument.get_long() == Some(long))?;
    Some(argument.get_env()?.to_string_lossy().into_owned())
}

/// Returns whether the flag is on the command line.
fn is_given(flag: &str, arguments: &[OsString]) -> bool {
    arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Returns the first example of the command that was called.
fn example(arguments: &[OsString]) -> Option<String> {
    let command = command();
    let called = arguments.iter().find_map(|argument| command.find_subcommand(argument))?;
    let examples = called.get_after_long_help()?.to_string();
    examples.lines().map(str::trim).find(|line| line.starts_with("onnxd ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &[&str], on_command_line: bool) -> String {
        let all = ["onnxd"].iter().chain(arguments);
        let error = command().try_get_matches_from(all).unwrap_err();
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        let arguments = if on_command_line { &arguments[..] } else { &arguments[..1] };
        wrong_value(&error, arguments).unwrap_or_else(|| error.to_string())
    }

    #[test]
    fn wrong_values_are_answered_with_what_is_expected() {
        for (arguments, expected) in [
            (
                &["serve", "--workers", "0"][..],
                r#"--workers: expected a whole number of at least 1, got "0""#,
            ),
            (
                &["serve", "--listen=here"],
                r#"--listen: expected HOST:PORT, for example 127.0.0.1:8080 or localhost:8080, got "here""#,
            ),
            (&["serve", "--strict=maybe"], r#"--strict: expected true or false, got "maybe""#),
            (
                &["check", "/m", "--check-memory", "much"],
                r#"--check-memory: expected a whole number of MiB, for example 4096, got "much""#,
            ),
        ] {
            assert_eq!(message(arguments, true), expected);
        }
        let message = message(&["update", "UPPER"], true);
        assert!(message.starts_with("MODEL: \"UPPER\" is not a model name"), "{message}");
    }

    #[test]
    fn wrong_value_of_a_variable_is_answered_with_its_name() {
        assert_eq!(
            message(&["serve", "--workers=0"], false),
            r#"--workers (set by ONNXD_WORKERS): expected a whole number of at least 1, got "0""#
        );
    }

    #[test]
    fn nearest_flag_and_command_are_suggested() {
        assert!(message(&["serve", "--wrokers", "1"], true).contains("'--workers'"));
        assert!(message(&["sttus"], true).contains("'status'"));
    }

    #[test]
    fn missing_argument_is_answered_with_an_example() {
        let arguments = ["update".into(), "--json".into()];
        assert_eq!(example(&arguments), Some("onnxd update minilm".to_owned()));
    }
}
