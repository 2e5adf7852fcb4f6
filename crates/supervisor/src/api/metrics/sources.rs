//! The series of watched sources. Extends [`Scrape`].

use std::fmt;

use onnxd_telemetry::metrics::{
    format::{Labels, Page},
    source::SourceMetrics,
};

use crate::api::metrics::exposition::Scrape;

impl Scrape {
    /// Adds the checks and downloads of watched sources.
    pub(super) fn sources(&self, page: &mut Page<'_>) -> fmt::Result {
        if self.of_watched(SourceMetrics::is_watched).next().is_none() {
            return Ok(());
        }
        let results = self.by_result(|metrics| {
            metrics.source.check_results().filter(|_| metrics.source.is_watched())
        });
        page.counter(
            "onnxd_source_checks",
            "Checks of a watched source: its content was unchanged or changed, or the check failed",
            results,
        )?;
        page.gauge(
            "onnxd_source_last_checked_timestamp_seconds",
            "When a watched source last answered, in seconds since the Unix epoch; 0 if never",
            self.of_watched(SourceMetrics::last_checked),
        )?;
        page.gauge(
            "onnxd_source_last_changed_timestamp_seconds",
            "When a watched source was last seen to change, in seconds since the Unix epoch; 0 if never",
            self.of_watched(SourceMetrics::last_changed),
        )?;
        page.gauge(
            "onnxd_source_last_error_timestamp_seconds",
            "When a check or an update of a watched source last failed, in seconds since the Unix epoch; 0 if never",
            self.of_watched(SourceMetrics::last_error),
        )?;
        let snapshots = self.of_watched(SourceMetrics::snapshot);
        page.gauge(
            "onnxd_source_info",
            "Snapshot of a watched source that was seen last; always 1",
            snapshots.map(|([model], snapshot)| {
                ([model, ("snapshot", snapshot.unwrap_or_default())], 1_u64)
            }),
        )?;
        page.counter(
            "onnxd_source_download_bytes",
            "Bytes downloaded from other servers for a watched model",
            self.of_watched(SourceMetrics::bytes_downloaded),
        )
    }

    /// Returns one series per model whose source is watched.
    fn of_watched<'s, V>(
        &'s self,
        value: impl Fn(&'s SourceMetrics) -> V,
    ) -> impl Iterator<Item = (Labels<1>, V)> {
        let sources = self.of_models(|_, metrics| &metrics.source);
        sources.filter(|(_, of)| of.is_watched()).map(move |(labels, of)| (labels, value(of)))
    }
}
