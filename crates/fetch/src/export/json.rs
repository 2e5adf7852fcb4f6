//! OTLP's JSON encoding: names in camel case, identifiers in hex, and 64-bit numbers as strings.

use onnxd_proto::domain::span::{Span, Value};
use serde_json::{Value as Json, json};

/// Encodes a request.
pub(super) fn encode(resource: &[(String, String)], spans: &[Span]) -> Vec<u8> {
    let resource: Vec<_> =
        resource.iter().map(|(name, text)| attribute(name, &Value::Text(text.clone()))).collect();
    let scope = json!({"name": "onnxd", "version": env!("CARGO_PKG_VERSION")});
    let spans: Vec<_> = spans.iter().map(span).collect();
    let request = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    request.to_string().into_bytes()
}

/// Returns how many spans the collector rejected although it accepted the request, and why.
pub(super) fn rejected(body: &[u8]) -> (u64, String) {
    let body: Json = serde_json::from_slice(body).unwrap_or_default();
    let partial = &body["partialSuccess"];
    let count = &partial["rejectedSpans"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default();
    (count, partial["errorMessage"].as_str().unwrap_or_default().to_owned())
}

fn span(span: &Span) -> Json {
    let attributes: Vec<_> =
        span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    let mut json = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "name": span.name,
        "kind": if span.is_server { 2 } else { 1 },
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.end.to_string(),
        "attributes": attributes,
        "status": {},
    });
    if let Some(parent) = span.parent {
        json["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(message) = &span.error {
        json["status"] = json!({"code": 2, "message": message});
    }
    json
}

fn attribute(name: &str, value: &Value) -> Json {
    let value = match value {
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::Text(text) => json!({"stringValue": text}),
    };
    json!({"key": name, "value": value})
}

#[cfg(test)]
mod tests {
    use super::{super::tests::span, *};

    #[test]
    fn identifiers_are_hex_and_large_numbers_are_strings() {
        let resource = [("service.name".to_owned(), "s".to_owned())];
        let spans = [span("root", None, Some("why")), span("child", Some(1), None)];
        let json: Json = serde_json::from_slice(&encode(&resource, &spans)).unwrap();
        let of = &json["resourceSpans"][0];
        assert_eq!(of["resource"]["attributes"][0]["value"]["stringValue"], "s");
        let [root, child] = [0, 1].map(|index| &of["scopeSpans"][0]["spans"][index]);
        assert_eq!(root["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(root["spanId"], "00f067aa0ba902b7");
        assert_eq!((&root["kind"], &child["kind"]), (&json!(2), &json!(1)));
        assert_eq!(root.get("parentSpanId"), None);
        assert_eq!(child["parentSpanId"], "0000000000000001");
        assert_eq!(root["startTimeUnixNano"], "1700000000000000001");
        assert_eq!(root["status"], json!({"code": 2, "message": "why"}));
        assert_eq!(root["attributes"][1], json!({"key": "n", "value": {"intValue": "5"}}));
    }

    #[test]
    fn a_partial_success_names_the_rejected_spans() {
        let body = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"full"}}"#;
        assert_eq!(rejected(body), (3, "full".to_owned()));
        assert_eq!(rejected(b"{}"), (0, String::new()));
        assert_eq!(rejected(b"<html>"), (0, String::new()));
    }
}
