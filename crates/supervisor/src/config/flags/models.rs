//! Flags under the heading "Models": which models are served, and how their sources are watched.

use serde::Deserialize;

use crate::config::values::seconds;

/// The settings under "Models".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ModelFlags {
    /// Model to serve, from a directory or another server
    ///
    /// URI is DIR or file:///DIR, or one of https://HOST/PATH/, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
    /// hf://ORG/NAME[@REVISION], oci://REGISTRY/REPOSITORY[:TAG] and mlflow://NAME@ALIAS. The name may have a slash, as in
    /// BAAI/bge-m3=DIR, and defaults to the last part of the path. Append ?file=PATH or ?variant=NAME if there are
    /// several model files. Repeat the flag for several models, or separate them with commas or line breaks in the
    /// variable, where \, is a comma of a path. The first model answers requests that name none.
    ///
    /// Example: --model minilm=/srv/models/minilm
    #[arg(long, value_name = "[NAME=]URI", env = "ONNXD_MODEL", help_heading = "Models")]
    pub model: Vec<String>,

    /// Another name that requests may use for a model
    ///
    /// Use it for names that existing clients already send. Repeat the flag for several aliases, or separate them
    /// with commas in the variable.
    ///
    /// Example: --model-alias text-embedding-3-small=minilm
    #[arg(
        long,
        value_name = "ALIAS=NAME",
        env = "ONNXD_MODEL_ALIAS",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub model_alias: Vec<String>,

    /// Models to load at start [default: all]
    ///
    /// Pass all, none, or names separated by commas. The first request for any other model loads it and waits until
    /// it is ready. Preload fewer models to start faster, or to save the memory of models that are rarely used.
    ///
    /// Example: --preload minilm,reranker
    #[arg(
        long,
        value_name = "all|none|NAME",
        env = "ONNXD_PRELOAD",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub preload: Vec<String>,

    /// Models without which the server does not start
    ///
    /// Pass all, or names separated by commas. By default one model that can be served is enough:
    /// the others are reported. Their sources are tried again at the next check, then when they
    /// change. A required model that cannot be served ends the start with exit code 78. A source on
    /// another server that is away is waited for. Required models are loaded at start.
    ///
    /// Example: --require minilm
    #[arg(
        long,
        value_name = "all|NAME",
        env = "ONNXD_REQUIRE",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub require: Vec<String>,

    /// Seconds between checks of a source [default: 60, directories 0]
    ///
    /// A source whose content has changed updates its model; 0 turns this off, the default for directories. Without
    /// NAME=, the value is for all models. A check of unchanged content is one request. After failures the pauses grow
    /// up to 15 minutes.
    ///
    /// Example: --poll minilm=300
    #[arg(
        long,
        value_name = "[NAME=]SECONDS",
        env = "ONNXD_POLL",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub poll: Vec<String>,

    /// Seconds a directory must be unchanged [default: 5 if polled, 0]
    ///
    /// An update from a directory that changed later is refused as `incomplete`; a polled directory is checked again.
    /// Does not apply to a directory with a SHA256SUMS, nor at start. Raise it if copies into directories pause.
    ///
    /// Example: --settle 30
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_SETTLE",
        help_heading = "Models"
    )]
    pub settle: Option<u64>,
}

overlay!(ModelFlags: model model_alias preload require poll settle);
