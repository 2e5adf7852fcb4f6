//! OTLP's Protobuf encoding. The messages have only the fields that onnxd sets; their numbers are
//! those of `opentelemetry/proto` 1.x.

use onnxd_proto::domain::span::{self, Value};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 3")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// Encodes a request.
pub(super) fn encode(resource: &[(String, String)], spans: &[span::Span]) -> Vec<u8> {
    let resource = resource.iter();
    let attributes =
        resource.map(|(name, text)| attribute(name, &Value::Text(text.clone()))).collect();
    let scope = Scope { name: "onnxd".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = spans.iter().map(Span::from).collect();
    let of_resource = ResourceSpans {
        resource: Some(Resource { attributes }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
    };
    Request { resource_spans: vec![of_resource] }.encode_to_vec()
}

/// Returns how many spans the collector rejected although it accepted the request, and why.
pub(super) fn rejected(body: &[u8]) -> (u64, String) {
    let partial = Response::decode(body).unwrap_or_default().partial_success.unwrap_or_default();
    (u64::try_from(partial.rejected_spans).unwrap_or_default(), partial.error_message)
}

impl From<&span::Span> for Span {
    fn from(span: &span::Span) -> Self {
        let parent = span.parent.map(|parent| parent.to_be_bytes().to_vec());
        Self {
            trace_id: span.trace.to_be_bytes().into(),
            span_id: span.id.to_be_bytes().into(),
            parent_span_id: parent.unwrap_or_default(),
            name: span.name.clone().into_owned(),
            kind: if span.is_server { 2 } else { 1 },
            start_time_unix_nano: span.start,
            end_time_unix_nano: span.end,
            attributes: span
                .attributes
                .iter()
                .map(|(name, value)| attribute(name, value))
                .collect(),
            status: span.error.as_ref().map(|why| Status { message: why.clone(), code: 2 }),
        }
    }
}

fn attribute(name: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Number(number) => Any::Number(*number),
        Value::Text(text) => Any::Text(text.clone()),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::span, *};

    #[test]
    fn spans_are_encoded_with_the_field_numbers_of_the_specification() {
        let encoded = encode(&[], &[span("ab", Some(1), Some("no"))]);
        let request = Request::decode(&*encoded).unwrap();
        assert_eq!(request.resource_spans[0].scope_spans[0].spans[0].name, "ab");
        // Bytes that another implementation of the specification printed for this span.
        let expected = [
            &[0x0a, 16][..],
            &0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
            &[0x12, 8],
            &0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
            &[0x22, 8, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0x2a, 2, b'a', b'b', 0x30, 1, 0x39],
            &1_700_000_000_000_000_001_u64.to_le_bytes(),
            &[0x41],
            &1_700_000_000_000_000_002_u64.to_le_bytes(),
        ]
        .concat();
        assert!(encoded.windows(expected.len()).any(|part| part == expected), "{encoded:02x?}");
        let status = [0x7a, 6, 0x12, 2, b'n', b'o', 0x18, 2];
        assert!(encoded.ends_with(&status), "{encoded:02x?}");
    }

    #[test]
    fn a_partial_success_names_the_rejected_spans() {
        let body = [0x0a, 6, 0x08, 3, 0x12, 2, b'n', b'o'];
        assert_eq!(rejected(&body), (3, "no".to_owned()));
        assert_eq!(rejected(&[]), (0, String::new()));
        assert_eq!(rejected(b"<html>"), (0, String::new()));
    }
}
