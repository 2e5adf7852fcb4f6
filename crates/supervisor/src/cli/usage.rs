//! Prints errors of the command line: the flag or variable, what it expects, and an example.

use std::{
    env,
    error::Error as _,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{
    CommandFactory,
    error::{ContextKind, ErrorKind},
};
use onnxd_proto::exit::ExitStatus;

use super::{Cli, command, leaves};
use crate::config::{error_context, flag_example};

/// Prints clap's message: help and version to standard output, errors to standard error.
pub(crate) fn print_usage(message: &clap::Error) -> ExitCode {
    if !message.use_stderr() {
        let _ = message.print();
        return ExitStatus::Success.into();
    }
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // Ignore write errors: the exit code still reports the failure.
    let _ = match wrong_value(message, &arguments).or_else(|| not_utf8(message)) {
        Some(reason) => {
            let reason = format!("{reason}\n\nFor more information, try '--help'.\n");
            clap::Error::raw(message.kind(), reason).print()
        }
        None => message.print(),
    };
    for line in hints(message, &arguments) {
        let _ = writeln!(io::stderr(), "{line}");
    }
    ExitStatus::Usage.into()
}

/// Returns `--FLAG: expected …, got "VALUE"` if a parser refused a value.
fn wrong_value(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let (shown, value) = (
        error_context(error, ContextKind::InvalidArg)?,
        error_context(error, ContextKind::InvalidValue)?,
    );
    let name = shown.split([' ', '[', '=']).next().filter(|name| !name.is_empty()).unwrap_or(shown);
    let name = name.trim_matches(['<', '>', '[', ']']);
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

/// Returns which variable is not UTF-8, which clap does not say.
fn not_utf8(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return None;
    }
    let command = command();
    let mut arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let variable = arguments.find_map(|argument| {
        let variable = argument.get_env()?;
        env::var_os(variable).filter(|value| value.to_str().is_none())?;
        Some(format!("--{} (set by {})", argument.get_long()?, variable.to_string_lossy()))
    });
    Some(format!("{}: expected UTF-8", variable?))
}

/// Returns the variable of a flag. It is the same for every command that has one.
fn variable(flag: &str) -> Option<String> {
    let long = flag.strip_prefix("--")?;
    let command = command();
    let leaves = leaves(&command);
    let arguments = leaves.iter().flat_map(|(_, leaf)| leaf.get_arguments());
    let mut same = arguments.filter(|argument| argument.get_long() == Some(long));
    Some(same.find_map(clap::Arg::get_env)?.to_string_lossy().into_owned())
}

/// Returns whether the flag is on the command line.
fn is_given(flag: &str, arguments: &[OsString]) -> bool {
    arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Returns the lines that follow an error: the commands, if there is no such command, and an example.
fn hints(error: &clap::Error, arguments: &[OsString]) -> Vec<String> {
    let command = command();
    let mut hints = Vec::new();
    if error.kind() == ErrorKind::InvalidSubcommand {
        let cli = Cli::command();
        let shown = cli.get_subcommands().filter(|sub| !sub.is_hide_set());
        let names: Vec<&str> = shown.map(clap::Command::get_name).collect();
        hints.push(format!("Commands: {}", names.join(", ")));
    }
    let called = arguments
        .iter()
        .fold(&command, |called, argument| called.find_subcommand(argument).unwrap_or(called));
    let example = example(error, called);
    hints.extend(example.map(|example| format!("Example: {example}")));
    hints
}

/// Returns the example of the flag that is wrong or was probably meant, or else an example of the command.
fn example(error: &clap::Error, command: &clap::Command) -> Option<String> {
    let named = error_context(error, ContextKind::SuggestedArg)
        .or(error_context(error, ContextKind::InvalidArg));
    let long = named.and_then(|named| named.split([' ', '[', '=']).next()?.strip_prefix("--"));
    if error.kind() != ErrorKind::MissingRequiredArgument
        && let Some(example) = long.and_then(|long| flag_example(command, long))
    {
        return Some(example);
    }
    let help = command.get_after_long_help()?.to_string();
    let mut examples = help.lines().map(str::trim).filter(|line| line.starts_with("onnxd "));
    let first = examples.next()?;
    let with_flag =
        long.and_then(|long| examples.find(|line| line.contains(&format!("--{long} "))));
    Some(with_flag.unwrap_or(first).to_owned())
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
    fn wrong_value_error_says_what_is_expected() {
        for (arguments, expected) in [
            (
                &["serve", "--workers", "0"][..],
                r#"--workers: expected a whole number of at least 1, got "0""#,
            ),
            (
                &["serve", "--listen=here"],
                r#"--listen: expected HOST:PORT, for example localhost:8080, or [::]:8080 for all addresses, got "here""#,
            ),
            (&["serve", "--strict=maybe"], r#"--strict: expected true or false, got "maybe""#),
            (
                &["check", "/m", "--check-memory", "much"],
                r#"--check-memory: expected a whole number of MiB, for example 4096, got "much""#,
            ),
        ] {
            assert_eq!(message(arguments, true), expected);
        }
        assert_eq!(
            message(&["rollback", "m", "--to", "x"], true),
            r#"--to: expected the number of a generation, for example 3, got "x""#
        );
        let message = message(&["update", "a b"], true);
        assert!(message.starts_with("MODEL: \"a b\" is not a model name"), "{message}");
    }

    #[test]
    fn wrong_value_error_names_the_variable() {
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
    fn every_error_has_an_example() {
        for (arguments, example) in [
            (&["update"][..], "onnxd update minilm"),
            (&["update", "a b"], "onnxd update minilm"),
            (&["update", "m", "--from"], "--from /srv/models/minilm-v2"),
            (&["update", "m", "--fro", "x"], "--from /srv/models/minilm-v2"),
            (&["update", "m", "--load", "x"], "--load lazy"),
            (
                &["check", "/m", "--min-cosine", "0.9"],
                "onnxd check ./candidate --against ./released --min-cosine 0.98 --strict --json",
            ),
            (&["completions", "fsh"], "onnxd completions bash > /etc/bash_completion.d/onnxd"),
            (&["serve", "--workers", "0"], "--workers 4"),
            (&["serve", "--strict=maybe"], "--strict"),
            (&["serve", "--qqq"], "onnxd serve --model minilm=/srv/models/minilm"),
            (&["bogus"], "onnxd serve --model minilm=/srv/models/minilm"),
        ] {
            let all = ["onnxd"].iter().chain(arguments);
            let error = command().try_get_matches_from(all).unwrap_err();
            let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
            let hints = hints(&error, &arguments);
            assert_eq!(hints.last(), Some(&format!("Example: {example}")), "{arguments:?}");
        }
    }

    #[test]
    fn unknown_command_is_answered_with_the_commands() {
        let error = command().try_get_matches_from(["onnxd", "bogus"]).unwrap_err();
        let hints = hints(&error, &["bogus".into()]);
        assert!(hints[0].starts_with("Commands: serve, check, update, "), "{hints:?}");
        assert!(!hints[0].contains("reference"), "hidden commands stay hidden: {hints:?}");
    }
}
