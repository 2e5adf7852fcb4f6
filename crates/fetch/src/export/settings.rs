//! Reads OpenTelemetry's variables. The supervisor has checked the endpoint and the protocol, and
//! passes the endpoint as `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::environment::{Environment, sensitive};

/// Time limit of one request unless `OTEL_EXPORTER_OTLP_TIMEOUT` sets another.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time limit of one request.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Name of this service unless a variable sets another.
const SERVICE: &str = "onnxd";
const SERVICE_NAME: &str = "service.name";

/// The settings of an exporter.
#[derive(Debug)]
pub(super) struct Settings {
    /// Where spans are sent.
    pub url: Url,
    pub encoding: Encoding,
    /// Values are secret.
    pub headers: HeaderMap,
    /// Describes this process to the collector.
    pub resource: Vec<(String, String)>,
    /// Maximum time of one request.
    pub timeout: Duration,
    pub environment: Environment,
}

/// Encoding of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

impl Settings {
    /// Reads the variables.
    ///
    /// # Errors
    /// The endpoint or the protocol is invalid.
    pub(super) fn load(environment: Environment) -> Result<Self, FetchError> {
        // Variables for traces win over those for all signals.
        let get = |name: &str| {
            let [traces, all] = ["_TRACES", ""].map(|of| format!("OTEL_EXPORTER_OTLP{of}_{name}"));
            environment.first(&[&*traces, &*all]).map(str::to_owned)
        };
        let invalid = |message: &str| FetchErrorKind::Configuration.because(message);
        let url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").unwrap_or_default();
        let url = Url::parse(url)
            .map_err(|_| invalid("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: expected a URL"))?;
        let encoding = match get("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => Encoding::Protobuf,
            Some("http/json") => Encoding::Json,
            Some(_) => return Err(invalid("OTEL_EXPORTER_OTLP_PROTOCOL: unknown protocol")),
        };
        let millis = get("TIMEOUT").and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let timeout = millis.filter(|time| !time.is_zero()).unwrap_or(TIMEOUT).min(TIMEOUT_MAX);
        let (headers, resource) =
            (headers(&get("HEADERS").unwrap_or_default()), resource(&environment));
        let environment = match get("CERTIFICATE") {
            Some(path) => environment.with("ONNXD_SOURCE_CA_FILE", path),
            None => environment,
        };
        Ok(Self { url, encoding, headers, resource, timeout, environment })
    }
}

/// Parses a list `name=value,name=value` whose values are percent-encoded.
fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<String>)> {
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    pairs.map(|pair| match pair.split_once('=') {
        Some((name, value)) => {
            let value = percent_decode_str(value.trim()).decode_utf8().ok();
            (name.trim(), value.map(std::borrow::Cow::into_owned))
        }
        None => ("", None),
    })
}

/// Parses the headers. Leaves out invalid ones, as OpenTelemetry asks for, and never shows a value.
fn headers(text: &str) -> HeaderMap {
    let header = |(name, value): (&str, Option<String>)| {
        let header = HeaderName::try_from(name).ok().zip(value.and_then(|value| sensitive(&value)));
        if header.is_none() {
            let message = "ignoring an invalid header: expected NAME=VALUE, separated by commas";
            tracing::warn!("OTEL_EXPORTER_OTLP_HEADERS: {message}");
        }
        header
    };
    pairs(text).filter_map(header).collect()
}

/// Returns the attributes of this process.
fn resource(environment: &Environment) -> Vec<(String, String)> {
    let own = [
        ("telemetry.sdk.name", "onnxd"),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ("service.version", env!("CARGO_PKG_VERSION")),
        (SERVICE_NAME, SERVICE),
    ];
    let mut resource: Vec<_> = own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut set = |name: &str, value: String| {
        resource.retain(|(other, _)| other != name);
        resource.push((name.to_owned(), value));
    };
    for (name, value) in pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()) {
        match value.filter(|_| !name.is_empty()) {
            Some(value) => set(name, value),
            None => tracing::warn!("OTEL_RESOURCE_ATTRIBUTES: ignoring an invalid attribute"),
        }
    }
    if let Some(name) = environment.get("OTEL_SERVICE_NAME") {
        set(SERVICE_NAME, name.to_owned());
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(more: &[(&str, &str)]) -> Result<Settings, FetchError> {
        let url = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces");
        let variables = [url]
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<Vec<_>>();
        Settings::load(Environment::new(variables))
    }

    #[test]
    fn variables_for_traces_win_over_those_for_all_signals() {
        let settings = load(&[]).unwrap();
        assert_eq!((settings.encoding, settings.timeout), (Encoding::Protobuf, TIMEOUT));
        let settings = load(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ])
        .unwrap();
        assert_eq!(settings.encoding, Encoding::Json);
        assert_eq!(settings.timeout, Duration::from_millis(2500));
        assert!(load(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).is_err());
    }

    #[test]
    fn headers_are_decoded_and_never_shown() {
        let list = "authorization=Basic%20hidden, x-a = b,bad,=c,x-b=%ff";
        let settings = load(&[("OTEL_EXPORTER_OTLP_HEADERS", list)]).unwrap();
        let headers: Vec<_> = settings
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        assert_eq!(headers, [("authorization", &b"Basic hidden"[..]), ("x-a", b"b")]);
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn resource_attributes_replace_defaults_and_the_service_name_wins() {
        let get = |more: &[(&str, &str)], name: &str| {
            let resource = load(more).unwrap().resource;
            resource.into_iter().find(|(other, _)| other == name).map(|(_, value)| value).unwrap()
        };
        assert_eq!(get(&[], SERVICE_NAME), "onnxd");
        let list = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment=x%2Cy,bad");
        assert_eq!(get(&[list], SERVICE_NAME), "a");
        assert_eq!(get(&[list], "deployment.environment"), "x,y");
        assert_eq!(get(&[list, ("OTEL_SERVICE_NAME", "b")], SERVICE_NAME), "b");
    }
}
