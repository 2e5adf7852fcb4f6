//! Tries a source without a server: stages and checks it as an update would, in a store of its own that
//! is removed afterwards, and compares it with another source. Called by `onnxd check`.

use std::{path::PathBuf, sync::Arc};

use onnxd_proto::domain::{Checked, Output, Refusal, RefusalKind, SourceUri};

use crate::models::{
    store::{Staged, Store},
    update::{background::Background, checker::Checker, find::require_alike},
};

/// What a trial works with.
#[derive(Debug)]
pub struct Trials {
    /// A store that nothing serves from.
    pub store: Arc<Store>,
    /// Tries candidates.
    pub checker: Checker,
    /// Runs what blocks.
    pub background: Background,
}

/// A source that can serve.
#[derive(Debug)]
pub struct Tried {
    /// The digest of its content.
    pub version: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// What the check found out.
    pub checked: Checked,
}

/// A part of a trial that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The files are copied.
    Staged {
        /// The digest of the content.
        version: String,
        /// Bytes of all files.
        bytes: u64,
    },
    /// A part of the check has passed.
    Passed(String),
}

impl Trials {
    /// Stages and checks a source. `beside` is what it is compared with; `done` hears of each part.
    ///
    /// # Errors
    /// Why the source cannot serve, or cannot follow `beside`.
    pub async fn run(
        &self,
        uri: &SourceUri,
        beside: Option<&Tried>,
        mut done: impl FnMut(Part),
    ) -> Result<Tried, Refusal> {
        let (store, from) = (Arc::clone(&self.store), uri.clone());
        let staged = self.background.run(move || store.stage(&from, &|_, _| {})).await?;
        let (version, bytes) = (staged.version.clone(), staged.bytes);
        done(Part::Staged { version: version.clone(), bytes });
        let folder = self.folder(&staged);
        let layout = self.store.layout();
        let compiled = layout.compiled(&version);
        let serving = beside.map(|tried| layout.compiled(&tried.version));
        let passed = |part| done(Part::Passed(part));
        let checked = self.checker.check(&folder, &compiled, serving.as_deref(), passed).await?;
        if let Some(beside) = beside {
            require_alike(&checked.facts, &beside.checked.facts, false)?;
            let is_far = self.checker.demands_nearness() && checked.drift.is_none();
            if is_far && matches!(checked.facts.output(), Output::Dense { .. }) {
                let message = "--min-cosine is set, and there are no embeddings to compare with";
                return Err(RefusalKind::Drift.because(message));
            }
        }
        Ok(Tried { version, bytes, checked })
    }

    fn folder(&self, staged: &Staged) -> PathBuf {
        let kept = || self.store.layout().version(&staged.version);
        staged.folder().map_or_else(kept, Into::into)
    }
}
