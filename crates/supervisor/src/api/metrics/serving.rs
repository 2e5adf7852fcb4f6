//! The series that say whether models serve, and since when. Extends [`Scrape`].

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use onnxd_engine::models::registry::Model;
use onnxd_telemetry::metrics::format::Page;

use crate::api::metrics::exposition::Scrape;

impl Scrape {
    /// Adds readiness, failures, commits and quarantines of models.
    pub(super) fn serving(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "onnxd_model_ready",
            "1 if requests to the model are answered, else 0",
            self.of_models(|model, _| u64::from(self.app.engine.is_model_ready(model))),
        )?;
        page.gauge(
            "onnxd_model_failed",
            "1 if nothing serves because the model could not be loaded, else 0; the log has the reason",
            self.of_models(|model, _| {
                let load_failure = self.app.engine.load_failure(model);
                u64::from(model.failure().is_some() || load_failure.is_some())
            }),
        )?;
        page.gauge(
            "onnxd_model_last_commit_timestamp_seconds",
            "When the serving generation was recorded, in seconds since the Unix epoch; 0 if nothing serves",
            self.of_models(|model, _| {
                let recorded = self.recorded(model).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                recorded.unwrap_or_default().as_secs()
            }),
        )?;
        page.gauge(
            "onnxd_model_quarantined_versions",
            "Versions that failed their probation",
            self.of_models(|model, _| {
                let folder = self.app.observed.layout.quarantine(&model.name);
                fs::read_dir(folder).map_or(0, Iterator::count)
            }),
        )
    }

    /// Returns when the record of the serving generation was written, just before the commit. Also known
    /// after a restart.
    fn recorded(&self, model: &Model) -> Option<SystemTime> {
        let (generation, _) = model.serving()?;
        let record = self.app.observed.layout.generation(&model.name, generation);
        fs::metadata(record).ok()?.modified().ok()
    }
}
