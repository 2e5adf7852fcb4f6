//! Flags under the heading "Updates": how candidates are fetched, checked and watched after a commit.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::values::{boolean, cosine, mebibytes, seconds};

/// The settings under "Updates".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct UpdateFlags {
    /// Executable of the fetcher [default: onnxd-fetch]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-fetch in the directory of the onnxd executable. Only
    /// sources on other servers need it.
    ///
    /// Example: --fetch-binary /usr/lib/onnxd/onnxd-fetch
    #[arg(long, value_name = "PATH", env = "ONNXD_FETCH_BINARY", help_heading = "Updates")]
    pub fetch_binary: Option<PathBuf>,

    /// Seconds that checking a candidate may take [default: 120]
    ///
    /// A candidate is a version that an update brings. One that takes longer is refused. Raise it for large models.
    ///
    /// Example: --check-timeout 300
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_CHECK_TIMEOUT",
        help_heading = "Updates"
    )]
    pub check_timeout: Option<u64>,

    /// Memory for checking a candidate, in MiB [default: 4096]
    ///
    /// The default is at most three quarters of the memory of the machine or container.
    /// It also limits the longest text that a model accepts. Raise it if a candidate is refused with the kind
    /// `memory`, or if `onnxd status` shows that this setting shortened the longest text.
    ///
    /// Example: --check-memory 8192
    #[arg(
        long,
        value_name = "MIB",
        value_parser = mebibytes,
        env = "ONNXD_CHECK_MEMORY",
        help_heading = "Updates"
    )]
    pub check_memory: Option<u64>,

    /// Minimum cosine between old and new embeddings [default: none]
    ///
    /// Refuses a candidate whose embeddings of fixed texts differ more from those of the serving version. Without it
    /// drift is only reported. Set it if stored vectors must remain comparable.
    ///
    /// Example: --min-cosine 0.98
    #[arg(
        long,
        value_name = "COSINE",
        value_parser = cosine,
        env = "ONNXD_MIN_COSINE",
        help_heading = "Updates"
    )]
    pub min_cosine: Option<f64>,

    /// Refuse models that need a guess [default: false]
    ///
    /// Also refuses models whose longest text must be shortened to fit memory or time. Without it onnxd serves them,
    /// logs what it assumed, and shows it in `onnxd status`. --strict=false overrides the file or the variable.
    ///
    /// Example: --strict
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_STRICT",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Updates"
    )]
    pub strict: Option<bool>,

    /// Seconds after a commit in which failures undo it [default: 60]
    ///
    /// If workers fail twice within this time of a commit, onnxd restores the previous version and quarantines the new
    /// one. 0 turns automatic rollback off.
    ///
    /// Example: --probation 300
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_PROBATION",
        help_heading = "Updates"
    )]
    pub probation: Option<u64>,
}

overlay!(UpdateFlags: fetch_binary check_timeout check_memory min_cosine strict probation);
