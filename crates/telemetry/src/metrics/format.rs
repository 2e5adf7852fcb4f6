//! Text formats for Prometheus. The library writes `OpenMetrics`, in which a counter's family has
//! no `_total` and the text ends with a mark. The classic format, the default for clients that do
//! not ask for `OpenMetrics`, differs only in these lines.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::metrics::histogram::Histogram;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Supported since Prometheus 0.4.
    Classic,
    /// Version 1.0.
    OpenMetrics,
}

impl Format {
    /// Returns the format for a request with this `Accept` header.
    pub fn from_accept(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Classic,
        }
    }

    /// Returns the value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Converts `OpenMetrics` text to the classic format: names each counter's family like its samples
/// and removes the end mark.
pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            // Hold the help back: the TYPE line, which follows, decides the family's name.
            (Some("#"), Some("HELP"), _, Some(about)) => help = Some(about),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some(about) = help.take() {
                    text.extend(["# HELP ", name, suffix, " ", about, "\n"]);
                }
                text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

/// Adds exemplars to the buckets of a histogram in `OpenMetrics` text. There is one, or `None`, for
/// each bucket of each series, in order. The library keeps its own exemplars to itself.
pub fn with_exemplars(
    open_metrics: &str,
    name: &str,
    exemplars: impl IntoIterator<Item = Option<String>>,
) -> String {
    let mut exemplars = exemplars.into_iter();
    let bucket = format!("{name}_bucket{{");
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let exemplar = line.starts_with(&bucket).then(|| exemplars.next().flatten()).flatten();
        text.extend([line, exemplar.as_deref().unwrap_or_default(), "\n"]);
    }
    text
}

/// Labels of one series.
pub type Labels<const N: usize> = [(&'static str, String); N];

/// A writer of metric families.
pub struct Page<'a>(pub DescriptorEncoder<'a>);

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl Page<'_> {
    /// Writes a family of counters. The name has no `_total`; samples get it.
    pub fn counter<V: EncodeCounterValue, const N: usize>(
        &mut self,
        name: &str,
        about: &str,
        series: impl IntoIterator<Item = (Labels<N>, V)>,
    ) -> fmt::Result {
        let series = series.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, about, MetricType::Counter, series)
    }

    /// Writes a family of gauges.
    pub fn gauge<V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        about: &str,
        series: impl IntoIterator<Item = (Labels<N>, V)>,
    ) -> fmt::Result {
        let series = series.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, about, MetricType::Gauge, series)
    }

    /// Writes a family of histograms.
    pub fn histogram<'h, const N: usize>(
        &mut self,
        name: &str,
        about: &str,
        series: impl IntoIterator<Item = (Labels<N>, &'h Histogram)>,
    ) -> fmt::Result {
        self.family(name, about, MetricType::Histogram, series.into_iter())
    }

    fn family<M: EncodeMetric, const N: usize>(
        &mut self,
        name: &str,
        about: &str,
        kind: MetricType,
        series: impl Iterator<Item = (Labels<N>, M)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, about, None, kind)?;
        for (labels, metric) in series {
            match N {
                // Without labels there are no braces either.
                0 => return metric.encode(encoder),
                _ => metric.encode(encoder.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classic_text_names_counters_total_and_has_no_end_mark() {
        let open_metrics = "# HELP a Of a kind\n# TYPE a counter\na_total{b=\"# EOF\"} 1\n\
            # HELP c_seconds Time\n# TYPE c_seconds gauge\nc_seconds 2.0\n# EOF\n";
        let expected = "# HELP a_total Of a kind\n# TYPE a_total counter\na_total{b=\"# EOF\"} 1\n\
            # HELP c_seconds Time\n# TYPE c_seconds gauge\nc_seconds 2.0\n";
        assert_eq!(classic(open_metrics), expected);
    }

    #[test]
    fn exemplars_go_to_the_buckets_of_their_histogram() {
        let text = "a_bucket{le=\"1\"} 1\na_bucket{le=\"2\"} 2\na_count 2\nab_bucket{le=\"1\"} 1\n";
        let expected =
            "a_bucket{le=\"1\"} 1\na_bucket{le=\"2\"} 2 # x\na_count 2\nab_bucket{le=\"1\"} 1\n";
        assert_eq!(with_exemplars(text, "a", [None, Some(" # x".to_owned())]), expected);
    }

    #[test]
    fn open_metrics_is_sent_only_on_request() {
        for (accept, format) in [
            (None, Format::Classic),
            (Some("*/*"), Format::Classic),
            (Some("text/plain;version=0.0.4"), Format::Classic),
            (
                Some("application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"),
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::from_accept(accept), format, "{accept:?}");
        }
    }
}
