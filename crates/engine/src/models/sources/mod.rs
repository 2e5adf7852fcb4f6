//! Where versions come from. [`Source::resolve`] identifies a source's content cheaply, and
//! [`Snapshot::fetch`] copies that content into a directory. The version consists of the bytes written,
//! not of those offered. [`Sources`] opens the source of a URI. Called by `update`, through the store.
//!
//! - [`source`]: what every source has in common.
//! - [`directory`]: a directory laid out as on the Hugging Face hub, and its [`directory_snapshot`].
//!   [`tree`] opens its files, [`selection`] chooses them by name, [`lister`] finds those that only the
//!   graph names, and [`transfer`] copies them.
//! - [`remote`]: a source on another server, downloaded by a [`fetcher`] and then read as a directory.
//!   [`download`] tells which files it needs, and [`download_folder`] locks where they are.
//! - [`checksums`]: a source's optional `SHA256SUMS`.
//! - [`signature`]: signatures of a source, by the keys of a model.
//! - [`digests`]: the digests of files that need not be read again.

mod checksums;
pub mod digests;
mod directory;
mod directory_snapshot;
mod download;
pub(super) mod download_folder;
#[cfg(test)]
pub(crate) mod fake;
pub mod fetcher;
mod lister;
mod remote;
pub(super) mod selection;
pub mod signature;
mod source;
mod transfer;
mod tree;

use std::{path::PathBuf, sync::Arc, time::Duration};

use onnxd_proto::{
    domain::{ModelChoice, Refusal, SourceUri},
    layout::Layout,
};

use crate::{
    models::{
        requester::Requester,
        sources::{
            digests::Digests,
            directory::Directory,
            fetcher::Fetcher,
            lister::{Lister, Process},
            remote::Remote,
            signature::SourceKeys,
            tree::Tree,
        },
    },
    pool::executable::WorkerExecutable,
};

pub(super) use self::source::SnapshotFile;
pub use self::source::{
    Fetched, FetchedFile, Follow, Progress, Resolved, Snapshot, SnapshotId, Source, Transfer,
};

/// How long a directory without `SHA256SUMS` that is polled must be unchanged by default. A copy that
/// takes longer between two writes is rare.
const POLL_SETTLE: Duration = Duration::from_secs(5);

/// Checks that a source in a directory is there, without reading it.
///
/// # Errors
/// It is missing or no directory.
pub fn require_directory(uri: &SourceUri) -> Result<(), Refusal> {
    uri.directory().map_or(Ok(()), |path| Tree::open(path).map(drop))
}

/// What a model requires of its sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRules {
    /// One of these keys must have signed a version, if there are any.
    pub keys: SourceKeys,
    /// How long a directory without `SHA256SUMS` must be unchanged; `None` for the default.
    pub settle: Option<Duration>,
}

impl SourceRules {
    /// Returns the conditions for a requester, which names the source if `is_configured` is false.
    pub(in crate::models) fn conditions(
        &self,
        requester: Requester,
        is_configured: bool,
    ) -> Conditions {
        let settle = match requester {
            // What was served before is gone: better a version now than none.
            Requester::Server => Duration::ZERO,
            Requester::Poll => self.settle.unwrap_or(POLL_SETTLE),
            Requester::Operator | Requester::Network => self.settle.unwrap_or_default(),
        };
        let allows_private = is_configured || requester != Requester::Network;
        let keys = self.keys.clone();
        Conditions { keys, settle, allows_private, with_signatures: false }
    }
}

/// What a source must satisfy before its content becomes a version.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// One of these keys must have signed the content, if there are any.
    pub(super) keys: SourceKeys,
    /// How long a directory without `SHA256SUMS` must be unchanged.
    pub(super) settle: Duration,
    /// Whether servers with private addresses may be asked.
    pub(super) allows_private: bool,
    /// Whether the files with signatures are needed even without keys.
    pub(super) with_signatures: bool,
}

impl Conditions {
    /// Identifies the keys; see [`SourceKeys::id`].
    pub(super) fn keys_id(&self) -> String {
        self.keys.id()
    }
}

impl Default for Conditions {
    fn default() -> Self {
        SourceRules::default().conditions(Requester::Operator, true)
    }
}

/// Opens sources. Caches file digests, so unchanged files are not read again.
#[derive(Clone, Debug)]
pub struct Sources {
    digests: Arc<Digests>,
    lister: Arc<dyn Lister>,
    fetcher: Option<Fetcher>,
}

impl Sources {
    /// Returns sources whose model files are inspected by processes of this executable. Without a
    /// fetcher, only directories can be opened.
    pub fn new(executable: WorkerExecutable, fetcher: Option<Fetcher>) -> Self {
        Self { fetcher, ..Self::with(Arc::new(Process::new(executable))) }
    }

    fn with(lister: Arc<dyn Lister>) -> Self {
        Self { digests: Arc::default(), lister, fetcher: None }
    }

    /// Opens the source that a URI names. Downloads go to `layout`'s state directory.
    pub fn open(
        &self,
        uri: &SourceUri,
        layout: &Layout,
        conditions: &Conditions,
    ) -> Box<dyn Source> {
        let conditions = conditions.clone();
        match uri {
            SourceUri::Directory { path, choice } => {
                Box::new(self.directory(path.clone(), choice.clone(), conditions))
            }
            SourceUri::Remote(remote) => {
                Box::new(Remote::new(self.clone(), remote.clone(), layout.clone(), conditions))
            }
        }
    }

    fn directory(&self, path: PathBuf, choice: ModelChoice, conditions: Conditions) -> Directory {
        let (digests, lister) = (Arc::clone(&self.digests), Arc::clone(&self.lister));
        Directory::new(path, choice, conditions, digests, lister)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_callers_over_tcp_are_kept_from_private_addresses() {
        let rules = SourceRules::default();
        for (requester, is_configured, expected) in [
            (Requester::Network, false, false),
            (Requester::Network, true, true),
            (Requester::Operator, false, true),
            (Requester::Poll, true, true),
            (Requester::Server, true, true),
        ] {
            let conditions = rules.conditions(requester, is_configured);
            assert_eq!(conditions.allows_private, expected, "{requester:?} {is_configured}");
        }
    }

    #[test]
    fn polls_wait_by_default_and_starts_never() {
        let settle = |settle: Option<u64>, requester| {
            let rules =
                SourceRules { settle: settle.map(Duration::from_secs), ..SourceRules::default() };
            rules.conditions(requester, true).settle.as_secs()
        };
        assert_eq!(settle(None, Requester::Poll), 5);
        assert_eq!(settle(None, Requester::Operator), 0);
        for requester in [Requester::Poll, Requester::Operator, Requester::Network] {
            assert_eq!(settle(Some(7), requester), 7, "{requester:?}");
        }
        assert_eq!(settle(Some(0), Requester::Poll), 0);
        assert_eq!(settle(Some(7), Requester::Server), 0);
    }
}
