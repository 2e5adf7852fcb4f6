//! Flags under the heading "Search": where collections of documents are kept.

use std::path::PathBuf;

use serde::Deserialize;

/// The settings under "Search".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct SearchFlags {
    /// Where collections of documents are kept [default: embedded]
    ///
    /// With embedded, they are in the state directory, and a process of their own searches them. It is started by the
    /// first call that needs it. With postgres://USER:PASSWORD@HOST/DATABASE, they are in that database, which must
    /// have pgvector; put a password into the variable, since others can see the command line. With off, the routes of
    /// search answer 404.
    ///
    /// Example: --search off
    #[arg(
        long,
        value_name = "embedded|URL|off",
        env = "ONNXD_SEARCH",
        hide_env_values = true,
        help_heading = "Search"
    )]
    pub search: Option<String>,

    /// Executable that searches [default: onnxd-index]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-index in the directory of the onnxd executable, and
    /// onnxd-postgres for collections in a database. Without it, the routes of search answer 503.
    ///
    /// Example: --index-binary /usr/lib/onnxd/onnxd-index
    #[arg(long, value_name = "PATH", env = "ONNXD_INDEX_BINARY", help_heading = "Search")]
    pub index_binary: Option<PathBuf>,
}

overlay!(SearchFlags: search index_binary);
