//! The command line: what each command takes, and how the terminal is written to. `serve` lives
//! in [`crate::serve`]; the commands here are clients of the admin socket, but for [`check`], which
//! needs no server.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod documents;
mod progress;
pub(crate) mod status;
pub(crate) mod update;
mod usage;

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
};

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use onnxd_proto::domain::Load;
use onnxd_proto::{
    domain::model_name::ModelName,
    exit::{ExitStatus, Failure},
    generation::Generation,
};
use onnxd_telemetry::log;

pub(crate) use self::usage::print_usage;
use crate::config::{Origins, ServeArguments, boolean, cosine, count, mebibytes, seconds};

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
  64  the command line is wrong
  69  all workers failed for good
  70  internal error
  71  the system is temporarily out of processes, descriptors or memory
  78  the configuration cannot work";

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
    /// Returns when the new generation serves, or when the update is refused. Requests continue throughout.
    #[command(after_long_help = "\
Examples:
  onnxd update minilm
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
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages into a directory
    #[command(hide = true)]
    Man {
        /// Directory to write to, created if missing
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print docs/reference.md
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Model to test, DIR or file:///DIR
    ///
    /// Append ?file=PATH or ?variant=NAME if the directory has several model files.
    #[arg(value_name = "DIR|URI")]
    pub source: String,
    /// Version to compare with, DIR or file:///DIR
    ///
    /// Also tests whether an update from that version to this model would be accepted.
    #[arg(long, value_name = "DIR|URI")]
    pub against: Option<String>,
    /// Smallest cosine to the embeddings of --against [default: none]
    ///
    /// Refuses the model if its embeddings of fixed texts differ more.
    ///
    /// Example: --against ./released --min-cosine 0.98
    #[arg(long, value_name = "COSINE", value_parser = cosine, requires = "against")]
    pub min_cosine: Option<f64>,
    /// Refuse a model that needs a guess [default: false]
    ///
    /// Also refuses a model whose longest text must be shortened to fit memory or time.
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_STRICT",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub strict: Option<bool>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// ONNX Runtime's shared library [default: libonnxruntime.so]
    ///
    /// Needs version 1.24 or newer. The default is libonnxruntime.so in the directory of the onnxd executable.
    #[arg(long, value_name = "PATH", env = "ONNXD_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
    /// Executable of the workers [default: onnxd-worker]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-worker in the directory of the onnxd executable.
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY")]
    pub worker_binary: Option<PathBuf>,
    /// Seconds that the check may take [default: 120]
    ///
    /// Raise it for large models.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "ONNXD_CHECK_TIMEOUT")]
    pub check_timeout: Option<u64>,
    /// MiB that the check may use [default: 4096]
    ///
    /// It also limits the longest text that the model accepts.
    #[arg(long, value_name = "MIB", value_parser = mebibytes, env = "ONNXD_CHECK_MEMORY")]
    pub check_memory: Option<u64>,
    /// Request timeout of the intended server, in seconds [default: 30]
    ///
    /// The longest text may take at most half of it.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "ONNXD_REQUEST_TIMEOUT")]
    pub request_timeout: Option<u64>,
    /// Workers that share the memory [default: one per usable CPU]
    ///
    /// Pass the number of workers of the intended server.
    #[arg(long, value_name = "N", value_parser = count::<NonZeroUsize>, env = "ONNXD_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Run the check without a sandbox [default: false]
    ///
    /// A malicious model can then do whatever you can. Use it only on kernels that cannot filter system calls.
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_NO_SANDBOX",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub no_sandbox: Option<bool>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArguments {
    /// Name of the served model
    pub model: ModelName,
    /// Source of the new version [default: the source given at start]
    ///
    /// Takes DIR or file:///DIR, relative to the current directory.
    ///
    /// Example: --from /srv/models/minilm-v2
    #[arg(long, value_name = "URI")]
    pub from: Option<String>,
    /// When workers load the new version
    #[arg(long, value_enum, default_value_t)]
    pub load: LoadArgument,
    /// Accept a version that failed its probation
    ///
    /// Such a version is quarantined, and other updates refuse it.
    #[arg(long)]
    pub force: bool,
    /// Accept a version with another embedding dimension
    ///
    /// Vectors stored earlier cannot be compared with those of the new version.
    #[arg(long)]
    pub allow_dimension_change: bool,
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnloadArguments {
    /// Name of the served model
    pub model: ModelName,
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArguments {
    /// Name of the served model
    pub model: ModelName,
    /// Generation whose version to serve [default: the previous]
    ///
    /// The default is the newest generation with another version. `onnxd status` and the log show generations.
    ///
    /// Example: --to 3
    #[arg(long, value_name = "GENERATION")]
    pub to: Option<Generation>,
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AdminArguments {
    /// Admin socket of the server [default: onnxd-admin.sock]
    ///
    /// By default looks for onnxd-admin.sock in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR and /run/onnxd.
    ///
    /// Example: --admin-socket /run/onnxd/onnxd-admin.sock
    #[arg(long, value_name = "PATH", env = "ONNXD_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `--load` of `onnxd update`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LoadArgument {
    /// Load before the commit, one worker at a time, while the old version serves
    #[default]
    Ahead,
    /// Each worker loads after the commit, before its next inference
    Lazy,
}

impl From<LoadArgument> for Load {
    fn from(argument: LoadArgument) -> Self {
        match argument {
            LoadArgument::Ahead => Self::Ahead,
            LoadArgument::Lazy => Self::Lazy,
        }
    }
}

/// Returns the definition of the command line. `-h` shows one line per flag; `--help` adds details and the variable.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command().mut_subcommand("serve", |serve| {
        // Clap would list its own flag before all headings.
        let help = Arg::new("help").short('h').long("help").action(ArgAction::Help);
        let help = help.help("Print help (-h for a summary)").help_heading("Other");
        serve.disable_help_flag(true).arg(help)
    });
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().into()).collect();
    for name in names {
        command = command.mut_subcommand(name, |sub| sub.mut_args(with_variable));
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

/// Parses the arguments of this process, and notes which flags came from variables.
///
/// # Errors
/// The help that was asked for, or what is wrong with the command line.
pub(crate) fn parse() -> Result<(Cli, Origins), clap::Error> {
    let command = command();
    let mut matches = command.clone().try_get_matches()?;
    let origins = match matches.subcommand() {
        Some((name, matches)) => command
            .find_subcommand(name)
            .map_or_else(Origins::default, |command| Origins::of(command, matches)),
        None => Origins::default(),
    };
    Ok((Cli::from_arg_matches_mut(&mut matches)?, origins))
}

/// Prints why a command failed; gives its exit code.
pub(crate) fn report(failure: &Failure) -> ExitStatus {
    log::complain(&failure.message);
    failure.status
}

/// Writes one line of a command's result to standard output.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters of a flag's short help, which leaves room for the flag in 100 columns.
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
    fn every_flag_has_one_line_and_every_command_an_example() {
        for sub in command().get_subcommands() {
            let name = sub.get_name();
            for arg in sub.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name} {}", arg.get_id());
                assert!(help.len() <= SHORT_HELP_MAX, "{name} {}: {help}", arg.get_id());
            }
            if !sub.is_hide_set() {
                let examples = sub.get_after_long_help().map(ToString::to_string);
                assert!(examples.is_some_and(|text| text.contains("\n  onnxd ")), "{name}");
            }
        }
    }

    #[test]
    fn help_of_serve_groups_flags_and_shows_variables_only_in_full() {
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
