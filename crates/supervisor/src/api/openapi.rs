//! `/openapi.json`: the document of all public routes, generated from the handlers and printed by
//! `onnxd openapi`. A test compares it with `routes.txt`.

use axum::{Router, http::header, routing::get};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use crate::api::{app::App, router};

/// The document's route.
pub(super) const PATH: &str = "/openapi.json";

/// Returns the document without paths: title, version and license.
pub(super) fn head() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0 OR MIT").build();
    let info = InfoBuilder::new()
        .title("onnxd")
        .description(Some("Serves ONNX models on CPUs and updates them without downtime."))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(license));
    OpenApiBuilder::new().info(info.build()).build()
}

/// Returns the route that serves the document.
pub(super) fn route(document: &OpenApi) -> Router<App> {
    let json = printed(document);
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], json) };
    Router::new().route(PATH, get(answer))
}

/// Returns the document as `GET /openapi.json` serves it.
pub(crate) fn document() -> String {
    printed(&router::described().into_openapi())
}

fn printed(document: &OpenApi) -> String {
    let mut json = document.to_pretty_json().expect("the generated document serializes");
    json.push('\n');
    json
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, fs, path::Path};

    use serde_json::Value;

    use super::*;

    /// Method, path and operation of every route that the document describes.
    const ROUTES: &str = include_str!("routes.txt");

    #[test]
    fn the_document_describes_exactly_the_committed_routes() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let mut described = String::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let id = operation["operationId"].as_str().expect("every operation has an id");
                assert!(operation["responses"].get("200").is_some(), "{method} {path}");
                described += &format!("{} {path} {id}\n", method.to_uppercase());
            }
        }
        if env::var_os("ONNXD_UPDATE_DOCUMENTS").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/routes.txt");
            fs::write(path, &described).unwrap();
            return;
        }
        let lines = |text| str::lines(text).collect::<BTreeSet<_>>();
        let (committed, described) = (lines(ROUTES), lines(&described));
        let missing: Vec<_> = committed.difference(&described).collect();
        let new: Vec<_> = described.difference(&committed).collect();
        assert!(
            missing.is_empty() && new.is_empty(),
            "no handler serves {missing:?}, and routes.txt lacks {new:?}: \
            run the test with ONNXD_UPDATE_DOCUMENTS=1 if this is intended"
        );
    }
}
