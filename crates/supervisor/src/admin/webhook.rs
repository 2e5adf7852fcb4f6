//! `POST /admin/webhook`: checks sources at once when a signed notification says that they changed. Served over TCP if
//! `--webhook-secret-file` is set. A notification can only cause a check, so a repeated one does no harm.
//!
//! | sender | signature | names |
//! |---|---|---|
//! | a script | `x-onnxd-signature: sha256=HEX`, the HMAC-SHA256 of the body | `{"model": NAME}`, `{"source": URI}` |
//! | MLflow | `x-mlflow-signature: v1,BASE64` of delivery id, timestamp and body | the registered model |
//! | a Hugging Face hub | `x-webhook-secret`, the secret itself | the repository |

use std::time::{Duration, SystemTime};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Request, Response, StatusCode},
    response::IntoResponse,
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use onnxd_proto::domain::{Scheme, SourceUri};
use onnxd_telemetry::log_limit::LogLimit;
use ring::hmac;
use serde::Deserialize;
use serde_json::json;

use crate::{
    admin::{Admin, calls::BODY_BYTES_MAX},
    api::error::axum_json,
    config::Token,
    transport::bodies::read_body_within,
};

/// The route.
const PATH: &str = "/admin/webhook";
/// How far a timestamp of MLflow may be from now.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// Limits the lines about refused notifications.
static REFUSED: LogLimit = LogLimit::new();

/// The state of the handler.
#[derive(Clone, Debug)]
struct Webhook {
    admin: Admin,
    secret: Token,
}

/// Returns the route. Its signature takes the place of the token.
pub(crate) fn routes(admin: Admin, secret: Token) -> Router {
    Router::new().route(PATH, post(notified)).with_state(Webhook { admin, secret })
}

async fn notified(
    State(Webhook { admin, secret }): State<Webhook>,
    request: Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match read_body_within(Request::new(body), BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return answer(error.error.status(), &json!({ "error": error.to_string() })),
    };
    if !is_authentic(&parts.headers, &body, &secret, now()) {
        if let Some(suppressed) = REFUSED.admit() {
            tracing::warn!(suppressed, "refused a notification without a valid signature");
        }
        let error =
            "missing, wrong or outdated signature: sign with the secret of --webhook-secret-file";
        return answer(StatusCode::UNAUTHORIZED, &json!({ "error": error }));
    }
    let notice = match parse(&body) {
        Ok(notice) => notice,
        Err(error) => return answer(StatusCode::BAD_REQUEST, &json!({ "error": error })),
    };
    let models = admin.registry.models().iter();
    let named = models.filter(|model| {
        let names = model.aliases.iter().map(String::as_str).chain([model.name.as_str()]);
        notice.concerns(names, &model.source)
    });
    let checked = named.filter(|model| admin.watches.check_now(model));
    let checked: Vec<&str> = checked.map(|model| model.name.as_str()).collect();
    tracing::info!(models = checked.join(", "), "received a notification, checking sources");
    answer(StatusCode::ACCEPTED, &json!({ "models": checked }))
}

fn answer(status: StatusCode, document: &serde_json::Value) -> Response<Body> {
    (status, axum_json(document)).into_response()
}

#[expect(clippy::disallowed_methods, reason = "compared with the sender's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Returns whether one of the forms of signatures is valid.
fn is_authentic(headers: &HeaderMap, body: &[u8], secret: &Token, now: SystemTime) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let header = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(hex) = header("x-onnxd-signature").and_then(|value| value.strip_prefix("sha256=")) {
        return from_hex(hex).is_some_and(|tag| hmac::verify(&key, body, &tag).is_ok());
    }
    if let Some(signature) = header("x-mlflow-signature") {
        let sent = header("x-mlflow-delivery-id").zip(header("x-mlflow-timestamp"));
        let tag = signature.strip_prefix("v1,").and_then(|tag| BASE64_STANDARD.decode(tag).ok());
        return sent.zip(tag).is_some_and(|((id, timestamp), tag)| {
            let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
            is_fresh(timestamp, now) && hmac::verify(&key, &signed, &tag).is_ok()
        });
    }
    headers.get("x-webhook-secret").is_some_and(|value| secret.matches(value.as_bytes()))
}

/// Returns whether a timestamp in seconds is close to now.
fn is_fresh(timestamp: &str, now: SystemTime) -> bool {
    let sent = timestamp.parse().ok().map(Duration::from_secs);
    let sent = sent.and_then(|sent| SystemTime::UNIX_EPOCH.checked_add(sent));
    sent.is_some_and(|sent| match now.duration_since(sent) {
        Ok(age) => age <= AGE_MAX,
        Err(ahead) => ahead.duration() <= AGE_MAX,
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A notification, as far as it is used. Senders add fields.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Notice {
    /// The plain form: a model of this server.
    model: Option<String>,
    /// The plain form: a source.
    source: Option<String>,
    /// The hub's form.
    repo: Option<Named>,
    /// MLflow's form: the kind of `data`.
    entity: Option<String>,
    data: Option<Named>,
}

/// A repository of the hub or a registered model of MLflow.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Option<String>,
}

fn parse(body: &Bytes) -> Result<Notice, String> {
    serde_json::from_slice(body).map_err(|error| format!("invalid request body: {error}"))
}

impl Notice {
    /// Returns whether the notification concerns a model with these names and this source.
    fn concerns<'a>(&self, mut names: impl Iterator<Item = &'a str>, source: &SourceUri) -> bool {
        if let Some(model) = &self.model {
            return names.any(|name| name == model);
        }
        if let Some(named) = &self.source {
            return named.parse::<SourceUri>().is_ok_and(|named| is_same(&named, source));
        }
        let SourceUri::Remote(remote) = source else { return false };
        let (name, _) = remote.revision();
        let is_named = |named: &Option<Named>| {
            named.as_ref().is_some_and(|it| it.name.as_deref() == Some(name))
        };
        match remote.scheme() {
            Scheme::Hf => is_named(&self.repo),
            Scheme::Mlflow => self.entity.is_some() && is_named(&self.data),
            _ => false,
        }
    }
}

/// Returns whether two sources are the same but for the choice among their model files.
fn is_same(one: &SourceUri, other: &SourceUri) -> bool {
    match (one, other) {
        (SourceUri::Remote(one), SourceUri::Remote(other)) => {
            (one.scheme(), one.location()) == (other.scheme(), other.location())
        }
        _ => one.directory().is_some() && one.directory() == other.directory(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";
    const BODY: &[u8] = br#"{"model": "minilm"}"#;
    /// `printf '{"model": "minilm"}' | openssl dgst -sha256 -hmac 0123456789abcdef`
    const HEX: &str = "532f125a991074ab43d38b30ffb3be032096725108fc2b6024a36a69e89dd147";
    /// The same of `d1.1700000000.{"model": "minilm"}`, in base64.
    const BASE64: &str = "z2qmOP/oe1dJZ4zcfzY89l7YZZfR77b/hLeEG0+ZeyI=";

    fn authentic(headers: &[(&'static str, &str)], body: &[u8], seconds: u64) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            (axum::http::HeaderName::from_static(name), value.parse().unwrap())
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        is_authentic(&headers.collect(), body, &Token::new(SECRET), now)
    }

    #[test]
    fn plain_signature_covers_the_body() {
        let signed = |value: &str, body: &[u8]| authentic(&[("x-onnxd-signature", value)], body, 0);
        assert!(signed(&format!("sha256={HEX}"), BODY));
        assert!(signed(&format!("sha256={}", HEX.to_uppercase()), BODY));
        assert!(!signed(&format!("sha256={HEX}"), b"{}"));
        for value in [HEX, "sha256=", "sha256=00", "sha256=x", &format!("sha256={}", &HEX[1..])] {
            assert!(!signed(value, BODY), "{value}");
        }
        assert!(!authentic(&[], BODY, 0));
    }

    #[test]
    fn signature_of_mlflow_covers_delivery_and_time() {
        let signature = format!("v1,{BASE64}");
        let at = |id: &str, timestamp: &str, now| {
            let headers = [
                ("x-mlflow-signature", signature.as_str()),
                ("x-mlflow-delivery-id", id),
                ("x-mlflow-timestamp", timestamp),
            ];
            authentic(&headers, BODY, now)
        };
        const SENT: u64 = 1_700_000_000;
        for now in [SENT, SENT + 300, SENT - 300] {
            assert!(at("d1", "1700000000", now), "{now}");
        }
        for now in [SENT + 301, SENT - 301] {
            assert!(!at("d1", "1700000000", now), "{now}");
        }
        assert!(!at("d2", "1700000000", SENT));
        assert!(!at("d1", "1700000001", SENT));
        assert!(!authentic(&[("x-mlflow-signature", &signature)], BODY, SENT));
    }

    #[test]
    fn hub_sends_the_secret_and_a_wrong_signature_beside_it_is_refused() {
        let right = ("x-webhook-secret", SECRET);
        assert!(authentic(&[right], BODY, 0));
        assert!(!authentic(&[("x-webhook-secret", "0123456789abcdeF")], BODY, 0));
        assert!(!authentic(&[right, ("x-onnxd-signature", "sha256=00")], BODY, 0));
    }

    #[test]
    fn notification_concerns_the_models_it_names() {
        let hub = r#"{"event": {"action": "update"}, "repo": {"type": "model", "name": "org/m"}}"#;
        let mlflow = r#"{"entity": "model_version_alias", "action": "created",
            "data": {"name": "m", "alias": "champion", "version": "3"}}"#;
        for (body, source, expected) in [
            (r#"{"model": "name"}"#, "/m", true),
            (r#"{"model": "alias"}"#, "/m", true),
            (r#"{"model": "other"}"#, "/m", false),
            (r#"{"source": "s3://bucket/m"}"#, "s3://bucket/m?variant=int8", true),
            (r#"{"source": "s3://bucket/m"}"#, "s3://bucket/n", false),
            (r#"{"source": "/m/"}"#, "/m", true),
            (hub, "hf://org/m@main", true),
            (hub, "hf://org/m", true),
            (hub, "hf://org/n", false),
            (hub, "mlflow://org@m", false),
            (mlflow, "mlflow://m@champion", true),
            (mlflow, "mlflow://m/3", true),
            (mlflow, "mlflow://n@champion", false),
            ("{}", "hf://org/m", false),
        ] {
            let notice = parse(&Bytes::copy_from_slice(body.as_bytes())).unwrap();
            let names = ["alias", "name"].into_iter();
            assert_eq!(
                notice.concerns(names, &source.parse().unwrap()),
                expected,
                "{body} {source}"
            );
        }
        assert!(parse(&Bytes::from_static(b"nonsense")).is_err());
    }
}
