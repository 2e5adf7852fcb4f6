//! The series of updates that embed documents. Extends [`Scrape`].

use std::fmt;

use onnxd_telemetry::metrics::format::Page;

use crate::api::metrics::exposition::Scrape;

impl Scrape {
    /// Adds the documents that updates embed.
    pub(super) fn indexes(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter(
            "onnxd_index_documents_embedded",
            "Documents embedded again by updates, before their commits",
            self.of_models(|_, metrics| metrics.index.documents_embedded()),
        )?;
        page.gauge(
            "onnxd_index_documents_remaining",
            "Documents that the running update has yet to embed again",
            self.of_models(|_, metrics| metrics.index.documents_remaining()),
        )
    }
}
