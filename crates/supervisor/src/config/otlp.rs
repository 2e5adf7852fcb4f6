//! Parses `--otlp-endpoint`, `--trace-ratio` and OpenTelemetry's variables. Headers, attributes and
//! certificates are for the exporter alone, which reads them itself; here they are only checked, so that a start and
//! `--check-config` report what the exporter could not use.

use std::path::Path;

use axum::http::{HeaderName, Uri};
use onnxd_proto::exit::Failure;
use onnxd_telemetry::tracer::{self, Sampler};
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// Share of requests without a parent that are recorded.
const RATIO: f64 = 0.01;
/// The path of traces below a collector's endpoint.
const PATH: &str = "/v1/traces";
const PROTOCOLS: [&str; 2] = ["http/protobuf", "http/json"];

/// Where traces are sent, and which.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Otlp {
    /// The complete URL.
    pub endpoint: String,
    pub sampler: Sampler,
}

impl Otlp {
    /// Combines the flags with variables, which `variable` returns. `None` if no traces are exported.
    ///
    /// # Errors
    /// A setting is invalid. The message names it.
    pub(super) fn load(
        endpoint: Option<&str>,
        ratio: Option<f64>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Failure> {
        // An empty variable counts as unset.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let is = |name, value| variable(name).is_some_and(|text| text.eq_ignore_ascii_case(value));
        if let Some(ratio) = ratio {
            tracer::ratio(&ratio.to_string()).map_err(|error| invalid("--trace-ratio", &error))?;
        }
        let flag = endpoint.filter(|text| !text.trim().is_empty());
        let base = |name, text: &str| Ok(url(name, text)?.trim_end_matches('/').to_owned() + PATH);
        let [of_traces, of_all] =
            ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let endpoint = match (flag, variable(of_traces), variable(of_all)) {
            (Some(text), ..) => base("--otlp-endpoint", text)?,
            (None, Some(text), _) => url(of_traces, &text)?,
            (None, None, Some(text)) => base(of_all, &text)?,
            (None, None, None) => return Ok(None),
        };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            let Some(protocol) = variable(name) else { continue };
            if !PROTOCOLS.contains(&protocol.as_str()) {
                let expected =
                    "expected http/protobuf or http/json, which collectors accept on port 4318";
                return Err(invalid(name, &format!("{expected}, got {protocol:?}")));
            }
        }
        // Those for traces win over those for all signals.
        let first = |suffix: &str| {
            let names = ["_TRACES", ""].map(|of| format!("OTEL_EXPORTER_OTLP{of}_{suffix}"));
            names.into_iter().find_map(|name| Some((variable(&name)?, name)))
        };
        if let Some((path, name)) = first("CERTIFICATE") {
            certificate(Path::new(path.trim()))
                .map_err(|reason| invalid(&name, &format!("{}: {reason}", path.trim())))?;
        }
        for warning in [
            first("HEADERS").and_then(|(text, name)| headers_warning(&name, &text)),
            first("TIMEOUT").and_then(|(text, name)| timeout_warning(&name, &text)),
        ]
        .into_iter()
        .flatten()
        {
            tracing::warn!("{warning}");
        }
        let sampler = match (ratio, variable("OTEL_TRACES_SAMPLER")) {
            (None, Some(name)) => {
                let argument = variable("OTEL_TRACES_SAMPLER_ARG");
                Sampler::parse(name.trim(), argument.as_deref().map(str::trim))
                    .map_err(|error| invalid("OTEL_TRACES_SAMPLER", &error))?
            }
            (ratio, _) => Sampler::parent_or_ratio(ratio.unwrap_or(RATIO)),
        };
        Ok(Some(Self { endpoint, sampler }))
    }
}

/// Checks a URL. Messages do not repeat it: it may contain a password.
fn url(name: &str, text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let example = "for example http://localhost:4318";
    let uri: Uri = text
        .parse()
        .map_err(|error| invalid(name, &format!("expected a URL, {example}: {error}")))?;
    let is_http = uri.scheme_str().is_some_and(|scheme| matches!(scheme, "http" | "https"));
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            let message =
                "a URL must not contain a user or password; use OTEL_EXPORTER_OTLP_HEADERS";
            Err(invalid(name, &message))
        }
        Some(_) if is_http => Ok(text.to_owned()),
        _ => Err(invalid(name, &format!("expected an http or https URL, {example}"))),
    }
}

/// Checks the CA certificates of a collector.
fn certificate(path: &Path) -> Result<(), String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let has_certificate =
        CertificateDer::pem_slice_iter(&pem).next().is_some_and(|certificate| certificate.is_ok());
    match has_certificate {
        true => Ok(()),
        false => Err("expected a PEM file with a certificate".to_owned()),
    }
}

/// Returns a warning if the exporter will leave out a header. It does not show the value, which may be secret.
fn headers_warning(name: &str, text: &str) -> Option<String> {
    let is_valid = |pair: &str| {
        pair.split_once('=').is_some_and(|(name, value)| {
            HeaderName::try_from(name.trim()).is_ok()
                && value.trim().bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        })
    };
    let mut pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    let expected = "ignoring an invalid header: expected NAME=VALUE, separated by commas";
    (!pairs.all(is_valid)).then(|| format!("{name}: {expected}"))
}

/// Returns a warning if the exporter will use its default instead.
fn timeout_warning(name: &str, text: &str) -> Option<String> {
    let is_valid = text.trim().parse::<u64>().is_ok_and(|millis| millis > 0);
    let expected = "expected milliseconds, for example 10000; using the default";
    (!is_valid).then(|| format!("{name}: {expected}, got {text:?}"))
}

fn invalid(name: &str, reason: &dyn std::fmt::Display) -> Failure {
    Failure::configuration(format!("{name}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flag: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Otlp>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Otlp::load(flag, None, variable).map_err(|failure| failure.message)
    }

    fn endpoint(flag: Option<&str>, variables: &[(&str, &str)]) -> Option<String> {
        load(flag, variables).unwrap().map(|otlp| otlp.endpoint)
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/");

    #[test]
    fn traces_are_off_unless_an_endpoint_is_set() {
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/custom?x=1");
        for (flag, variables, expected) in [
            (None, &[][..], None),
            (Some(""), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None),
            (Some("http://[::1]:4318"), &[ALL], Some("http://[::1]:4318/v1/traces")),
            (None, &[ALL], Some("http://all:4318/v1/traces")),
            (None, &[ALL, traces], Some("https://t/custom?x=1")),
            (Some("http://x"), &[("OTEL_SDK_DISABLED", "TRUE")], None),
            (Some("http://x"), &[("OTEL_TRACES_EXPORTER", "none")], None),
            (Some("http://x"), &[("OTEL_SDK_DISABLED", "false")], Some("http://x/v1/traces")),
        ] {
            assert_eq!(endpoint(flag, variables).as_deref(), expected, "{flag:?} {variables:?}");
        }
    }

    #[test]
    fn the_flag_wins_over_the_sampler_of_variables() {
        let sampler = |ratio, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Otlp::load(Some("http://x"), ratio, variable).unwrap().unwrap().sampler
        };
        let always = ("OTEL_TRACES_SAMPLER", "always_on");
        assert_eq!(sampler(None, &[]), Sampler::parent_or_ratio(RATIO));
        assert_eq!(sampler(None, &[always]), Sampler::parse("always_on", None).unwrap());
        assert_eq!(sampler(Some(0.5), &[always]), Sampler::parent_or_ratio(0.5));
    }

    #[test]
    fn wrong_settings_are_named_and_secrets_are_not_shown() {
        for (flag, variables, expected) in [
            (Some("collector:4318"), &[][..], "--otlp-endpoint: expected an http or https URL"),
            (Some("ftp://x"), &[], "--otlp-endpoint: expected an http or https URL"),
            (Some("http://a b"), &[], "--otlp-endpoint: expected a URL"),
            (Some("http://u:hidden@x"), &[], "--otlp-endpoint: a URL must not contain a user"),
            (
                None,
                &[ALL, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
                "OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf or",
            ),
            (None, &[ALL, ("OTEL_TRACES_SAMPLER", "xray")], "OTEL_TRACES_SAMPLER: unknown sampler"),
        ] {
            let error = load(flag, variables).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        assert!(Otlp::load(None, Some(1.5), |_| None).is_err());
    }

    #[test]
    fn certificate_is_checked_and_its_own_variable_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = file.path().to_str().unwrap();
        let own = "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE";
        for (name, path, expected) in [
            (own, "/none", ": /none: No such file"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", empty, "expected a PEM file with a certificate"),
        ] {
            let error = load(None, &[ALL, (name, path)]).unwrap_err();
            assert!(error.starts_with(name) && error.contains(expected), "{error}");
        }
        assert!(load(None, &[ALL, (own, " ")]).is_ok(), "an empty variable is not set");
    }

    #[test]
    fn what_the_exporter_ignores_is_warned_about() {
        for text in ["a=b", "a=b, c = d%20e ,", ""] {
            assert_eq!(headers_warning("H", text), None, "{text}");
        }
        for text in ["secret", "a b=secret", "=secret", "a=se\u{7}cret"] {
            let warning = headers_warning("H", text).unwrap();
            assert!(warning.starts_with("H: ") && !warning.contains("secret"), "{warning}");
        }
        assert_eq!(timeout_warning("T", " 10 "), None);
        assert!(timeout_warning("T", "10s").unwrap().contains("got \"10s\""));
    }
}
