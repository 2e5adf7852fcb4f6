//! Arguments of `onnxd state`.

use std::path::PathBuf;

use clap::Subcommand;
use onnxd_proto::domain::model_name::ModelName;

/// The commands of `onnxd state`.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Show what a state directory holds and what is damaged
    ///
    /// Reads every record, and compares every version with its manifest. Writes nothing, and may run beside a server.
    /// Exits with 0 if everything is whole, with 1 if something is damaged, and with 78 if DIR is not a state directory.
    #[command(after_long_help = "\
Examples:
  onnxd state check --state-dir /var/lib/onnxd
  onnxd state check --state-dir /var/lib/onnxd --json")]
    Check(StateCheckArguments),
    /// Set damaged records and versions aside
    ///
    /// Moves them to damaged/ in the state directory, so that the next start serves the newest whole generation. Removes
    /// what a crash left behind. Numbers of generations are never used again. Needs a stopped server. Exits with 0 if
    /// everything is whole afterwards, with 1 if something else must be done, which the output says.
    #[command(after_long_help = "\
Examples:
  onnxd state repair --state-dir /var/lib/onnxd --dry-run
  onnxd state repair --state-dir /var/lib/onnxd")]
    Repair(RepairArguments),
    /// Remove what belongs to models that are not configured
    ///
    /// Removes their records, and the versions, compiled forms and downloads that no other model uses. Takes the
    /// configured models from --config, --model and their variables, as onnxd serve does, or from --keep. Needs a stopped
    /// server. A model that is configured again later starts with generation 1.
    #[command(after_long_help = "\
Examples:
  onnxd state prune --config /etc/onnxd/onnxd.toml --dry-run
  onnxd state prune --state-dir /var/lib/onnxd --keep minilm --keep reranker")]
    Prune(PruneArguments),
}

/// Arguments of `onnxd state check`.
#[derive(Debug, clap::Args)]
pub(crate) struct StateCheckArguments {
    #[command(flatten)]
    pub directory: DirectoryArguments,
}

/// Arguments of `onnxd state repair`.
#[derive(Debug, clap::Args)]
pub(crate) struct RepairArguments {
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// Arguments of `onnxd state prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArguments {
    /// TOML file of onnxd serve, with the models that stay
    ///
    /// Only the keys model and state-dir count.
    ///
    /// Example: --config /etc/onnxd/onnxd.toml
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Model that stays, as onnxd serve takes it
    ///
    /// Repeat the flag for several models. The variable takes a list, as for onnxd serve.
    ///
    /// Example: --model minilm=/srv/models/minilm
    #[arg(long, value_name = "[NAME=]URI", env = "ONNXD_MODEL")]
    pub model: Vec<String>,
    /// Name of a model that stays
    ///
    /// The state directory must have a record of it. Repeat the flag for several models.
    ///
    /// Example: --keep minilm
    #[arg(long, value_name = "NAME")]
    pub keep: Vec<ModelName>,
    #[command(flatten)]
    pub change: ChangeArguments,
}

/// Arguments of the commands that change a state directory.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArguments {
    /// Show what would be changed, and change nothing
    ///
    /// May run beside a server.
    ///
    /// Example: --dry-run
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub directory: DirectoryArguments,
}

/// Arguments of all commands of `onnxd state`.
#[derive(Debug, clap::Args)]
pub(crate) struct DirectoryArguments {
    /// State directory of the server [default: as onnxd serve]
    ///
    /// Defaults to $STATE_DIRECTORY, $XDG_STATE_HOME/onnxd or ~/.local/state/onnxd.
    ///
    /// Example: --state-dir /var/lib/onnxd
    #[arg(long, value_name = "DIR", env = "ONNXD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Print one line of JSON
    ///
    /// For scripts. Without it the result is text, whose format may change.
    ///
    /// Example: --json
    #[arg(long)]
    pub json: bool,
}
