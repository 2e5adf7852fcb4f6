//! Tries a source without a server: stages and checks it like an update, in a temporary store, and
//! compares it with another source. Called by `onnxd check`.

use std::{path::PathBuf, sync::Arc};

use onnxd_proto::domain::{Checked, Output, Refusal, RefusalKind, SourceUri};

use crate::models::{
    sources::Conditions,
    store::{Staged, Store},
    update::{background::Background, checker::Checker, resolve::require_compatible},
};

/// Runs trials of sources.
#[derive(Debug)]
pub struct Trials {
    /// A temporary store.
    pub store: Arc<Store>,
    /// Checks the staged content.
    pub checker: Checker,
    /// Runs blocking work.
    pub background: Background,
}

/// A source that passed its trial.
#[derive(Debug)]
pub struct TrialResult {
    /// The version's digest.
    pub version: String,
    /// Total bytes of its files.
    pub bytes: u64,
    /// The result of the check.
    pub checked: Checked,
}

/// A finished part of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The files were copied.
    Staged {
        /// The version's digest.
        version: String,
        /// Total bytes of its files.
        bytes: u64,
    },
    /// A part of the check passed.
    Passed(String),
}

impl Trials {
    /// Stages and checks a source and compares it with `against`. `done` is called for each part.
    ///
    /// # Errors
    /// Why the source cannot serve, or cannot replace `against`.
    pub async fn run(
        &self,
        uri: &SourceUri,
        against: Option<&TrialResult>,
        mut done: impl FnMut(Part),
    ) -> Result<TrialResult, Refusal> {
        let (store, from) = (Arc::clone(&self.store), uri.clone());
        let stage = move || store.stage(&from, &Conditions::default(), &|_| {});
        let staged = self.background.run(stage).await?;
        let (version, bytes) = (staged.version.clone(), staged.bytes);
        done(Part::Staged { version: version.clone(), bytes });
        let folder = self.folder(&staged);
        let layout = self.store.layout();
        let compiled = layout.compiled(&version);
        let serving = against.map(|tried| layout.compiled(&tried.version));
        let passed = |part| done(Part::Passed(part));
        let checked = self.checker.check(&folder, &compiled, serving.as_deref(), passed).await?;
        if let Some(against) = against {
            require_compatible(&checked.facts, &against.checked.facts, false)?;
            let drift_is_unknown = self.checker.has_min_cosine() && checked.drift.is_none();
            if drift_is_unknown && matches!(checked.facts.output(), Output::Dense { .. }) {
                let message = "cannot check --min-cosine: the probe embeddings of the version of --against are missing";
                return Err(RefusalKind::Drift.because(message));
            }
        }
        Ok(TrialResult { version, bytes, checked })
    }

    fn folder(&self, staged: &Staged) -> PathBuf {
        let kept = || self.store.layout().version(&staged.version);
        staged.folder().map_or_else(kept, Into::into)
    }
}
