//! Triton's model repository API: `index`, `load` and `unload`. A load works like `onnxd update`, an unload
//! like `onnxd unload`. Served on the admin listeners; the public listener refuses these paths.
//!
//! Triton's clients treat any status but 200 as an error and read its text from `error`.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{Response, StatusCode},
    response::IntoResponse,
    routing::post,
};
use onnxd_proto::domain::{Load, Refusal, RefusalKind, SourceUri};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::{admin::Admin, api::error::axum_json};
use onnxd_engine::models::{
    gate::Presence,
    machine::events::{Job, Target},
    registry::Model,
};

/// Prefix of Triton's paths, including those without a route.
pub(super) const NAMESPACE: &str = "/v2/";

/// Returns the routes, in both forms that Triton has. The repository's name is ignored.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/{repository}/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/{repository}/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .route("/v2/repository/{repository}/models/{model}/unload", post(unload))
}

/// Path parameters.
#[derive(Debug, Deserialize)]
struct ModelParameters {
    model: String,
}

/// The body of `index`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IndexCall {
    /// Whether to list loaded models only.
    ready: bool,
}

/// The body of `load` and `unload`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Call {
    parameters: Map<String, Value>,
}

/// One model of the index.
#[derive(Debug, Serialize)]
struct IndexEntry {
    name: String,
    /// The generation, or empty if the model is not loaded. Triton's versions are numbers.
    version: String,
    state: &'static str,
    reason: &'static str,
}

async fn index(State(admin): State<Admin>, body: Bytes) -> Response<Body> {
    let call: IndexCall = match parse(&body) {
        Ok(call) => call,
        Err(refusal) => return refused(&refusal),
    };
    let models = admin.registry.models().iter().map(|model| {
        let is_unloadable = admin.engine.load_failure(model).is_some();
        indexed(model, is_unloadable)
    });
    let models: Vec<IndexEntry> =
        models.filter(|model| !call.ready || model.state == "READY").collect();
    axum_json(&json!(models)).into_response()
}

fn indexed(model: &Model, is_unloadable: bool) -> IndexEntry {
    let (state, reason) = match model.gate.presence() {
        Presence::Loaded if is_unloadable => ("UNAVAILABLE", "no worker can load it"),
        Presence::Loaded => ("READY", ""),
        Presence::Loading => ("LOADING", ""),
        Presence::Unloading => ("UNAVAILABLE", "unloading"),
        Presence::Unloaded => ("UNAVAILABLE", "unloaded"),
        Presence::NotLoaded if model.failure().is_some() => ("UNAVAILABLE", "could not be loaded"),
        Presence::NotLoaded => ("UNAVAILABLE", "not used yet: the first request loads it"),
    };
    let generation = model.serving().map(|(generation, _)| generation.to_string());
    let (name, version) = (model.name.to_string(), generation.unwrap_or_default());
    IndexEntry { name, version, state, reason }
}

async fn load(
    State(admin): State<Admin>,
    Path(ModelParameters { model }): Path<ModelParameters>,
    body: Bytes,
) -> Response<Body> {
    let loaded = async {
        let job = job(parse::<Call>(&body)?.parameters, |uri| admin.source(uri))?;
        let job = Job { requester: admin.requester, ..job };
        let model = admin.find(&model)?;
        let _permit = admin.permit()?;
        let (progress, _) = mpsc::channel(1);
        admin.updater.update(&model, job, progress).await
    };
    respond(loaded.await)
}

async fn unload(
    State(admin): State<Admin>,
    Path(ModelParameters { model }): Path<ModelParameters>,
    body: Bytes,
) -> Response<Body> {
    let unloaded = async {
        // Accepted and ignored: onnxd has no dependent models.
        let known = |name: &String| name == "unload_dependents";
        if let Some(unknown) = parse::<Call>(&body)?.parameters.keys().find(|name| !known(name)) {
            return Err(malformed(format!(
                "unknown parameter `{unknown}`; expected unload_dependents"
            )));
        }
        let model = admin.find(&model)?;
        let _permit = admin.permit()?;
        admin.updater.unload(&model).await
    };
    respond(unloaded.await)
}

/// Converts the parameters of a load. `source` parses a source.
fn job(
    parameters: Map<String, Value>,
    source: impl Fn(&str) -> Result<SourceUri, Refusal>,
) -> Result<Job, Refusal> {
    let mut job = Job::from_source(None, Load::default());
    for (name, value) in parameters {
        match name.as_str() {
            "source" => {
                let from = source(&typed::<String>(&name, value)?)?;
                job.target = Target::Source(Some(from));
            }
            "load" => job.load = typed(&name, value)?,
            "force" => job.force = typed(&name, value)?,
            "allow_dimension_change" => job.allow_dimension_change = typed(&name, value)?,
            "reuse_index" => job.reuse_index = typed(&name, value)?,
            name if name == "config" || name.starts_with("file:") => {
                return Err(malformed(format!(
                    "`{name}`: models cannot be uploaded; put the files into a directory on this machine and pass it as `source`"
                )));
            }
            unknown => {
                return Err(malformed(format!(
                    "unknown parameter `{unknown}`; expected source, load, force, allow_dimension_change or reuse_index"
                )));
            }
        }
    }
    Ok(job)
}

fn typed<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|error| malformed(format!("parameter `{name}`: {error}")))
}

/// Parses a body, which may be empty.
fn parse<T: Default + serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    // serde would also accept a list for a struct, so parse an object first.
    serde_json::from_slice(body)
        .and_then(|object: Map<String, Value>| serde_json::from_value(object.into()))
        .map_err(|error| malformed(format!("invalid request body: {error}")))
}

fn malformed(message: String) -> Refusal {
    RefusalKind::Contract.because(message)
}

fn respond(result: Result<impl Serialize, Refusal>) -> Response<Body> {
    match result {
        Ok(done) => axum_json(&json!(done)).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response<Body> {
    failed(StatusCode::BAD_REQUEST, &refusal.message)
}

/// Returns an error in Triton's format.
pub(super) fn failed(status: StatusCode, message: &str) -> Response<Body> {
    (status, axum_json(&json!({ "error": message }))).into_response()
}

#[cfg(test)]
mod tests {
    use onnxd_engine::models::update::source;

    use super::*;

    fn job_of(parameters: Value) -> Result<Job, String> {
        let call = parse::<Call>(json!({ "parameters": parameters }).to_string().as_bytes());
        job(call.unwrap().parameters, source).map_err(|refusal| refusal.message)
    }

    #[test]
    fn load_without_parameters_updates_from_the_models_source() {
        let plain = Job::from_source(None, Load::Ahead);
        assert_eq!(job_of(json!({})), Ok(plain.clone()));
        for body in ["", "  ", "{}"] {
            assert_eq!(
                job(parse::<Call>(body.as_bytes()).unwrap().parameters, source),
                Ok(plain.clone())
            );
        }
        let all =
            json!({"source": "/d", "load": "lazy", "force": true, "allow_dimension_change": true});
        let target = Target::Source(Some("file:///d".parse().unwrap()));
        let lazy = Job::from_source(None, Load::Lazy);
        let expected = Job { target, force: true, allow_dimension_change: true, ..lazy };
        assert_eq!(job_of(all), Ok(expected));
    }

    #[test]
    fn unsupported_parameters_are_refused_by_name() {
        for (parameters, words) in [
            (json!({"config": "{}"}), "`source`"),
            (json!({"file:1/model.onnx": "AAAA"}), "`file:1/model.onnx`"),
            (json!({"warmup": 1}), "`warmup`"),
            (json!({"source": "relative"}), "absolute"),
            (json!({"source": "ftp://host/m"}), "file:///DIR"),
            (json!({"source": 1}), "`source`"),
            (json!({"load": "soon"}), "`load`"),
            (json!({"force": "yes"}), "`force`"),
        ] {
            let message = job_of(parameters.clone()).unwrap_err();
            assert!(message.contains(words), "{parameters}: {message}");
        }
        assert!(parse::<Call>(b"[1]").is_err() && parse::<Call>(b"nonsense").is_err());
    }
}
