//! The series of collections: updates that embed documents, and the process that has them. Extends
//! [`Scrape`].

use std::fmt;

use onnxd_telemetry::metrics::format::Page;

use crate::api::metrics::exposition::Scrape;

impl Scrape {
    /// Adds the documents that updates embed, and what happened to the index process.
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
        )?;
        page.counter(
            "onnxd_index_restarts",
            "Restarts of the process that has the collections of documents",
            [([], self.metrics.index_restarts_total.get())],
        )?;
        page.counter(
            "onnxd_index_requests_retried",
            "Requests sent to the process with the collections again because it exited before it answered",
            [([], self.metrics.index_requests_retried_total.get())],
        )
    }
}
