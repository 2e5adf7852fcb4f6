//! Records the spans of a model's updates: one trace each, with a child for each step. Fed by the
//! [driver](crate::models::update::driver); records nothing unless traces are exported.

use std::time::Instant;

use onnxd_proto::{
    domain::{
        Refusal,
        span::{Attribute, Value},
    },
    generation::Generation,
};
use onnxd_telemetry::{
    metrics::refusal_name,
    tracer::{Failure, Recording, Root, Tracer},
};

use crate::models::machine::events::CallId;

/// The spans of one model's updates.
#[derive(Debug)]
pub(super) struct UpdateSpans {
    tracer: Tracer,
    model: String,
    /// The running update, if it is recorded.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    recording: Recording,
    caller: Option<CallId>,
    step: Option<(&'static str, Instant)>,
    attributes: Vec<Attribute>,
    error: Option<Failure>,
}

impl UpdateSpans {
    /// Creates spans of this model's updates.
    pub(super) fn new(tracer: Tracer, model: &str) -> Self {
        Self { tracer, model: model.to_owned(), running: None }
    }

    /// Begins an update, which `caller` requested.
    pub(super) fn begin(&mut self, caller: Option<CallId>) {
        self.end();
        let now = Instant::now();
        self.running = self.tracer.update(now).map(|recording| {
            let attributes = vec![("onnxd.model".into(), self.model.as_str().into())];
            let step = Some(("resolve", now));
            Running { recording, caller, step, attributes, error: None }
        });
    }

    /// Ends the running step and begins another, unless it is the same.
    pub(super) fn step(&mut self, name: &'static str) {
        if let Some(running) = &mut self.running
            && running.step.is_none_or(|(running, _)| running != name)
        {
            running.end_step(Instant::now());
            running.step = Some((name, Instant::now()));
        }
    }

    /// Notes what the update commits.
    pub(super) fn commits(&mut self, generation: Generation, version: &str) {
        if let Some(running) = &mut self.running {
            running.attributes.push(("onnxd.generation".into(), generation.into()));
            running.attributes.push(("onnxd.version".into(), Value::from(version)));
        }
    }

    /// Notes the answer to the caller of the update. Other callers' updates were superseded.
    pub(super) fn answers(&mut self, caller: CallId, refusal: Option<&Refusal>) {
        if let Some(running) = self.running.as_mut().filter(|it| it.caller == Some(caller)) {
            running.error = refusal.map(|refusal| Failure {
                kind: refusal_name(refusal.kind).into(),
                message: refusal.message.clone(),
            });
        }
    }

    /// Ends the update, if one is recorded.
    pub(super) fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let now = Instant::now();
        running.end_step(now);
        let Running { mut recording, attributes, error, .. } = running;
        if let Some(failure) = &error {
            // The step that ran last.
            recording.fail_child(failure.clone());
        }
        recording.finish(now, Root { name: "update".into(), is_server: false, attributes, error });
    }
}

impl Running {
    fn end_step(&mut self, now: Instant) {
        if let Some((name, start)) = self.step.take() {
            self.recording.child(name, start, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use onnxd_proto::domain::RefusalKind;
    use onnxd_telemetry::tracer::Sampler;

    use super::*;

    #[test]
    fn an_update_has_a_span_for_each_step() {
        let (tracer, traces) = Tracer::new(Sampler::parent_or_ratio(0.0), Arc::default());
        let mut spans = UpdateSpans::new(tracer, "m");
        spans.begin(Some(1));
        for step in ["fetch", "fetch", "stage", "check"] {
            spans.step(step);
        }
        spans.answers(2, Some(&RefusalKind::Superseded.because("another update")));
        spans.answers(1, Some(&RefusalKind::Load.because("broken")));
        spans.end();
        spans.end();
        let trace = traces.try_recv().unwrap();
        assert!(traces.try_recv().is_err(), "one trace");
        let names: Vec<_> = trace.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["update", "resolve", "fetch", "stage", "check"]);
        assert_eq!(trace[0].error.as_deref(), Some("broken"));
        assert_eq!(trace[4].error.as_deref(), Some("broken"), "the step that failed");
        assert!(trace[1..4].iter().all(|span| span.error.is_none()));
        assert_eq!(trace[4].attributes, [("error.type".into(), Value::from("load"))]);
        assert!(trace.windows(2).skip(1).all(|pair| pair[0].end <= pair[1].start));
    }
}
