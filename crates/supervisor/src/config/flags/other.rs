//! Flags under the heading "Other": the configuration file itself.

use std::path::PathBuf;

/// The settings under "Other".
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub(crate) struct OtherFlags {
    /// TOML file with any of these settings as keys
    ///
    /// A key is the flag's name without the leading dashes, for example `workers = 4`. Flags win
    /// over variables, variables win over the file.
    ///
    /// Example: --config /etc/onnxd.toml
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG", help_heading = "Other")]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit
    ///
    /// Exits with 0 if a server could start. Otherwise prints the errors and exits with 78, or with 64 if the command
    /// line is invalid. Tries addresses, directories, ONNX Runtime, and models in directories that a start would check.
    /// Contacts no other server but a database of --search, and leaves nothing behind. What a server with the same
    /// state directory uses is only reported.
    ///
    /// Example: --config /etc/onnxd.toml --check-config
    #[arg(long, help_heading = "Other")]
    pub check_config: bool,
}
