//! Flags under the heading "State": the state directory.

use std::{num::NonZeroUsize, path::PathBuf};

use serde::Deserialize;

use crate::config::values::count;

/// The settings under "State".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct StateFlags {
    /// Directory for versions and records [default: $STATE_DIRECTORY]
    ///
    /// Holds the versions of every model and the record of its generations. Only one server may use it at a time.
    /// Without $STATE_DIRECTORY, which systemd sets, the default is $XDG_STATE_HOME/onnxd or ~/.local/state/onnxd.
    ///
    /// Example: --state-dir /var/lib/onnxd
    #[arg(long, value_name = "DIR", env = "ONNXD_STATE_DIR", help_heading = "State")]
    pub state_dir: Option<PathBuf>,

    /// Versions of each model kept for rollback [default: 3]
    ///
    /// Each version takes as much disk space as its files and its compiled form.
    ///
    /// Example: --retention 5
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_RETENTION",
        help_heading = "State"
    )]
    pub retention: Option<NonZeroUsize>,
}

overlay!(StateFlags: state_dir retention);
