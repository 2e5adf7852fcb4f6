//! Defines the command line, and runs every command except `serve` ([`crate::serve`]). [`check`], [`mod@source`], [`state`] and
//! [`documents`] need no server; the others call one over its admin socket.

mod arguments;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod documents;
pub(crate) mod log;
mod progress;
pub(crate) mod source;
pub(crate) mod state;
mod state_arguments;
pub(crate) mod status;
pub(crate) mod update;
mod usage;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use onnxd_proto::exit::{ExitStatus, Failure};

pub(crate) use self::{
    arguments::{
        AdminArguments, CheckArguments, FetchArguments, LogArguments, RollbackArguments,
        SourceArguments, StatusArguments, UnloadArguments, UpdateArguments,
    },
    state_arguments::StateCommand,
    usage::print_usage,
};
use crate::config::{Origins, ServeArguments, without_empty};

/// Serve ONNX models on CPUs and update them without downtime
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = ROOT_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const ROOT_HELP: &str = "\
Examples:
  onnxd serve --model minilm=/srv/models/minilm
  onnxd update minilm --from /srv/models/minilm-v2
  onnxd serve --help

Exit codes:
  0   success
  1   the request was refused, or no server answered
  3   a newer update or an unload replaced this update
  64  the command line is invalid
  69  all workers failed permanently
  70  internal error
  78  the configuration is invalid
  130 interrupted; an update that has begun goes on at the server";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve models over HTTP and gRPC
    ///
    /// Runs until SIGTERM or SIGINT, then finishes accepted requests. SIGHUP reloads keys and certificates and updates
    /// every model from its source. SIGUSR2 starts a successor, which takes over without refusing a connection.
    ///
    /// Every flag is also a variable and a key of the file that --config names. Flags win over variables, variables win
    /// over the file.
    #[command(after_long_help = "\
Examples:
  onnxd serve --model minilm=/srv/models/minilm
  onnxd serve --config /etc/onnxd.toml --check-config
  ONNXD_WORKERS=4 onnxd serve --model /srv/models/minilm --listen 0.0.0.0:8080 --api-key-file keys")]
    Serve(Box<ServeArguments>),
    /// Test a model without a server
    ///
    /// Reports what the model is, its inputs and outputs, and what inference costs. Runs the same checks as an update,
    /// in a sandbox. Exits with 0 if the model can be served, otherwise with 1.
    #[command(after_long_help = "\
Examples:
  onnxd check ./candidate
  onnxd check ./candidate --against ./released --min-cosine 0.98 --strict --json")]
    Check(CheckArguments),
    /// Replace a model while it serves
    ///
    /// Returns when the new generation serves, or when the update is refused. Requests continue throughout. If the
    /// command is interrupted, an update that has begun goes on at the server.
    #[command(after_long_help = "\
Examples:
  onnxd update minilm
  onnxd update --cancel minilm
  onnxd update minilm --from /srv/models/minilm-v2")]
    Update(UpdateArguments),
    /// Serve an earlier version of a model again
    ///
    /// The earlier version gets a new generation.
    #[command(after_long_help = "\
Examples:
  onnxd rollback minilm
  onnxd rollback minilm --to 3")]
    Rollback(RollbackArguments),
    /// Unload a model and release its memory
    ///
    /// Requests for the model are then answered 404. `onnxd update` loads it again.
    #[command(after_long_help = "\
Examples:
  onnxd unload minilm")]
    Unload(UnloadArguments),
    /// Show models, generations and workers
    #[command(after_long_help = "\
Examples:
  onnxd status
  onnxd status --json
  onnxd status --admin-socket /run/onnxd/onnxd-admin.sock")]
    Status(StatusArguments),
    /// Show or change what a running server logs
    ///
    /// Prints the filter in effect. A new filter applies to the server and its workers until the server is restarted or
    /// a successor takes over; both begin with the filter of the variable ONNXD_LOG.
    #[command(after_long_help = "\
Examples:
  onnxd log
  onnxd log onnxd=debug
  onnxd log info")]
    Log(LogArguments),
    /// Show what a source holds
    ///
    /// Downloads the files that an update would stage into a temporary directory, verifies them, and lists them with the
    /// snapshot that they belong to.
    #[command(after_long_help = "\
Examples:
  onnxd source https://models.example.org/minilm/
  onnxd source hf://org/minilm@v2 --json")]
    Source(SourceArguments),
    /// Download a model into a directory
    ///
    /// Downloads and verifies the files that an update would stage, for an image or a machine without network. Writes
    /// SHA256SUMS last, so the directory can be served as it is. Exits with 0 if it is complete, otherwise with 1.
    #[command(after_long_help = "\
Examples:
  onnxd fetch hf://org/minilm@v2 /srv/models/minilm
  onnxd fetch 's3://models/minilm?variant=int8' ./minilm --json")]
    Fetch(FetchArguments),
    /// Inspect, repair or prune a state directory without a server
    ///
    /// `onnxd state COMMAND --help` describes each command.
    #[command(after_long_help = "\
Examples:
  onnxd state check --state-dir /var/lib/onnxd
  onnxd state repair --state-dir /var/lib/onnxd
  onnxd state prune --config /etc/onnxd/onnxd.toml --dry-run")]
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Print the OpenAPI document of the HTTP interface
    #[command(after_long_help = "\
Examples:
  onnxd openapi > openapi.json")]
    Openapi,
    /// Print a completion script for a shell
    ///
    /// Write it to where the shell looks for completions.
    #[command(after_long_help = "\
Examples:
  onnxd completions bash > /etc/bash_completion.d/onnxd
  onnxd completions zsh > /usr/share/zsh/site-functions/_onnxd
  onnxd completions fish > ~/.config/fish/completions/onnxd.fish")]
    Completions {
        /// Shell to complete in
        ///
        /// Example: onnxd completions bash
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages into a directory
    #[command(
        hide = true,
        after_long_help = "\
Examples:
  onnxd man target/man"
    )]
    Man {
        /// Directory to write to, created if missing
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print docs/reference.md
    #[command(hide = true)]
    Reference,
}

/// Returns the definition of the command line. `-h` shows one line per flag; `--help` adds details and the variable.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command().mut_subcommand("serve", |serve| {
        // Clap would list its own flag before all headings.
        let help = Arg::new("help").short('h').long("help").action(ArgAction::Help);
        let help = help.help("Print help (-h for a summary)").help_heading("Other");
        serve.disable_help_flag(true).arg(help)
    });
    with_variables(command)
}

/// Moves the variables of all flags of the subcommands.
fn with_variables(mut command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().into()).collect();
    for name in names {
        let moved = |sub: clap::Command| with_variables(sub.mut_args(with_variable));
        command = command.mut_subcommand(name, moved);
    }
    command
}

/// Moves the variable of a flag from its short help to its long help.
fn with_variable(arg: Arg) -> Arg {
    let Some(variable) = arg.get_env().map(|name| name.to_string_lossy().into_owned()) else {
        return arg;
    };
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    arg.hide_env(true).long_help(format!("{help}\n\nVariable: {variable}"))
}

/// Parses the arguments of this process, and records which settings came from variables.
///
/// # Errors
/// Help was requested, or the command line is invalid.
pub(crate) fn parse() -> Result<(Cli, Origins), clap::Error> {
    let mut command = command();
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().into()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| sub.mut_args(without_empty));
    }
    let mut matches = command.clone().try_get_matches()?;
    let (mut called, mut given) = (&command, &matches);
    while let Some((name, inner)) = given.subcommand()
        && let Some(sub) = called.find_subcommand(name)
    {
        (called, given) = (sub, inner);
    }
    let origins = Origins::new(called, given);
    Ok((Cli::from_arg_matches_mut(&mut matches)?, origins))
}

/// Returns the commands that run, with their names: those without subcommands.
fn leaves(command: &clap::Command) -> Vec<(String, &clap::Command)> {
    let of = |sub| -> Vec<(String, &clap::Command)> {
        let name = clap::Command::get_name(sub);
        let inner = leaves(sub).into_iter();
        let inner: Vec<_> = inner.map(|(rest, leaf)| (format!("{name} {rest}"), leaf)).collect();
        if inner.is_empty() { vec![(name.to_owned(), sub)] } else { inner }
    };
    command.get_subcommands().flat_map(of).collect()
}

/// Prints why a command failed, and returns its exit status.
pub(crate) fn report(failure: &Failure) -> ExitStatus {
    onnxd_telemetry::log::print_error(&failure.message);
    failure.status
}

/// Prints one line of a command's result to standard output.
pub(crate) fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest short help of a flag, in characters. The flag itself must also fit into 100 columns.
    const SHORT_HELP_MAX: usize = 64;

    fn help(arguments: &[&str]) -> String {
        let arguments = ["onnxd"].iter().chain(arguments);
        command().try_get_matches_from(arguments).unwrap_err().to_string()
    }

    #[test]
    fn definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_one_line_a_paragraph_and_an_example() {
        for (name, sub) in leaves(&command()) {
            for arg in sub.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name} {}", arg.get_id());
                assert!(help.len() <= SHORT_HELP_MAX, "{name} {}: {help}", arg.get_id());
                let long = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
                let paragraphs: Vec<&str> = long.split("\n\n").collect();
                let has_example = paragraphs.iter().any(|text| text.starts_with("Example: "));
                assert!(
                    sub.is_hide_set() || arg.get_id() == "help" || has_example,
                    "{name} {long}"
                );
                assert!(!has_example || paragraphs.len() >= 2, "{name} {long}");
            }
            if !sub.is_hide_set() {
                let examples = sub.get_after_long_help().map(ToString::to_string);
                assert!(examples.is_some_and(|text| text.contains("\n  onnxd ")), "{name}");
            }
        }
    }

    #[test]
    fn help_of_serve_groups_flags_and_hides_variables_in_summary() {
        let (short, long) = (help(&["serve", "-h"]), help(&["serve", "--help"]));
        let headings = [
            "Models:",
            "Listening:",
            "Security:",
            "Workers:",
            "Updates:",
            "Limits and timeouts:",
            "State:",
            "Logging:",
            "Other:",
        ];
        for text in [&short, &long] {
            let found: Vec<&str> = text.lines().filter(|line| headings.contains(line)).collect();
            assert_eq!(found, headings, "{text}");
            assert!(!text.contains("Options:") && !text.contains("alone"), "{text}");
        }
        assert!(!short.contains("ONNXD_") && !short.contains("Example"), "{short}");
        assert!(long.contains("Variable: ONNXD_WORKERS"), "{long}");
        assert!(long.contains("Example: --model minilm=/srv/models/minilm"), "{long}");
        let longest = short.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{short}");
    }
}
