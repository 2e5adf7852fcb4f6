//! Records about models and versions, shared by supervisor, workers and checkers. Kept as JSON in
//! the state directory and sent in the messages of [`crate::wire`].

mod check;
mod checksums;
pub mod cost;
mod facts;
pub mod fetch;
mod listing;
mod model_choice;
pub mod model_name;
mod output;
mod pooling;
mod record;
mod refusal;
mod source_uri;
pub mod span;
mod strict;
mod task;
pub mod tensor;
mod update;

pub use self::{
    check::{CheckLine, Checked, Drift, Probe},
    checksums::{Checksums, ChecksumsError},
    facts::{Facts, Guess, Shortened, SwitchFacts},
    listing::{FileStamp, ListLine, ListedModel, Listing},
    model_choice::{MODEL_SUFFIX, ModelChoice, SOURCE_PATH_BYTES_MAX, is_inside},
    output::Output,
    pooling::{Pooling, PoolingMode},
    record::Record,
    refusal::{Refusal, RefusalKind},
    source_uri::{RemoteUri, Scheme, SourceUri, SourceUriError},
    task::{Activation, Signature, Task},
    update::{IndexStatus, Load, Outcome, Step, Unloaded},
};
