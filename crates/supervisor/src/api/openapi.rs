//! `/openapi.json`: the document of all public routes, made of the handlers themselves. A copy is
//! committed as `docs/openapi.json`, and a test compares the two.

use axum::{Router, http::header, routing::get};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use crate::api::app::App;

/// Where the document is.
pub(super) const PATH: &str = "/openapi.json";

/// What the document says of the whole.
pub(super) fn head() -> OpenApi {
    let license = LicenseBuilder::new().name("Apache-2.0 OR MIT").build();
    let info = InfoBuilder::new()
        .title("onnxd")
        .description(Some(
            "A model server for ONNX models on CPUs that replaces models while it serves.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(license));
    OpenApiBuilder::new().info(info.build()).build()
}

/// The route of the document.
pub(super) fn route(document: &OpenApi) -> Router<App> {
    let json = printed(document);
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], json) };
    Router::new().route(PATH, get(answer))
}

fn printed(document: &OpenApi) -> String {
    let mut json = document.to_pretty_json().expect("a document of our own is JSON");
    json.push('\n');
    json
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use crate::api::router;

    #[test]
    fn the_committed_document_is_what_the_code_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let document = crate::api::openapi::printed(&router::described().into_openapi());
        if env::var_os("ONNXD_UPDATE_DOCUMENTS").is_some() {
            fs::write(&path, &document).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == document,
            "docs/openapi.json is not what the code says: run the test with ONNXD_UPDATE_DOCUMENTS=1"
        );
    }
}
