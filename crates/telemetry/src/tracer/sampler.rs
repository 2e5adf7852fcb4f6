//! Decides which traces are recorded, like OpenTelemetry's samplers. Pure.

use thiserror::Error;

use crate::trace::TraceContext;

/// The samplers that `OTEL_TRACES_SAMPLER` may name.
const NAMES: &str = "always_on, always_off, traceidratio, parentbased_always_on, \
    parentbased_always_off or parentbased_traceidratio";

/// A sampler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// The share of traces that are recorded.
    ratio: f64,
    /// Whether the caller's decision applies if there is one.
    follows_parent: bool,
    /// Whether updates are recorded.
    updates: bool,
}

/// A sampler's name or argument is invalid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SamplerError {
    /// No such sampler is known.
    #[error("unknown sampler {0:?}; expected {NAMES}")]
    Name(String),
    /// The ratio is invalid.
    #[error("expected a number from 0 to 1, for example 0.01, got {0:?}")]
    Ratio(String),
}

impl Sampler {
    /// Returns the sampler that follows the caller, and records this share of the other traces.
    pub fn parent_or_ratio(ratio: f64) -> Self {
        Self { ratio, follows_parent: true, updates: true }
    }

    /// Parses `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`, whose default is 1.
    ///
    /// # Errors
    /// The name is unknown, or the argument is not a ratio.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, SamplerError> {
        let (follows_parent, rest) = match name.strip_prefix("parentbased_") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        let (ratio, updates) = match rest {
            "always_on" => (1.0, true),
            "always_off" => (0.0, false),
            "traceidratio" => (argument.map_or(Ok(1.0), ratio)?, true),
            _ => return Err(SamplerError::Name(name.to_owned())),
        };
        Ok(Self { ratio, follows_parent, updates })
    }

    /// Returns whether a trace with this id and parent is recorded. All services with the same ratio
    /// decide alike.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the low half of the id counts, and the ratio is from 0 to 1"
    )]
    pub(super) fn samples(self, trace_id: u128, parent: Option<TraceContext>) -> bool {
        const WHOLE: u64 = 1 << 63;
        match parent {
            Some(parent) if self.follows_parent => parent.is_sampled(),
            _ => (trace_id as u64 >> 1) < (self.ratio * WHOLE as f64) as u64,
        }
    }

    /// Returns whether updates are recorded.
    pub(super) fn samples_updates(self) -> bool {
        self.updates
    }
}

/// Parses a ratio.
///
/// # Errors
/// It is not a number from 0 to 1.
pub fn ratio(text: &str) -> Result<f64, SamplerError> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| SamplerError::Ratio(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(sampler: Sampler, parent: Option<TraceContext>) -> usize {
        (0..10_000).filter(|_| sampler.samples(crate::trace::new_trace_id(), parent)).count()
    }

    #[test]
    fn samplers_have_the_names_and_meanings_of_opentelemetry() {
        let [yes, no] = [true, false].map(|sampled| Some(TraceContext::root(sampled)));
        for (name, argument, expected) in [
            ("always_on", None, [10_000, 10_000, 10_000]),
            ("always_off", None, [0, 0, 0]),
            ("traceidratio", Some("0"), [0, 0, 0]),
            ("traceidratio", None, [10_000, 10_000, 10_000]),
            ("parentbased_always_on", None, [10_000, 10_000, 0]),
            ("parentbased_always_off", None, [0, 10_000, 0]),
            ("parentbased_traceidratio", Some("1"), [10_000, 10_000, 0]),
            ("parentbased_traceidratio", Some("0.0"), [0, 10_000, 0]),
        ] {
            let sampler = Sampler::parse(name, argument).unwrap();
            let sampled = [None, yes, no].map(|parent| traces(sampler, parent));
            assert_eq!(sampled, expected, "{name} {argument:?}");
        }
        let tenth = traces(Sampler::parent_or_ratio(0.1), None);
        assert!((800..1200).contains(&tenth), "{tenth}");
    }

    #[test]
    fn updates_are_recorded_unless_sampling_is_off() {
        for (name, recorded) in
            [("parentbased_traceidratio", true), ("parentbased_always_off", false)]
        {
            assert_eq!(Sampler::parse(name, Some("0")).unwrap().samples_updates(), recorded);
        }
    }

    #[test]
    fn unknown_samplers_and_ratios_are_refused() {
        assert!(matches!(Sampler::parse("jaeger_remote", None), Err(SamplerError::Name(_))));
        for argument in ["2", "-0.1", "x", "NaN", ""] {
            let parsed = Sampler::parse("traceidratio", Some(argument));
            assert!(matches!(parsed, Err(SamplerError::Ratio(_))), "{argument}");
        }
    }
}
