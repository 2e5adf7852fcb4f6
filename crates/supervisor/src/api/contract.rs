//! A contract: what one kind of client sends and expects. Each folder of a contract declares its
//! routes, the paths that are its own even where no route exists, and how it puts an error into
//! words. [`Table`] holds all of them, so that the shape of an error follows from where its route
//! is registered.

use std::{collections::HashMap, fmt};

use axum::{body::Body, http::Response};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    api::{app::App, error::Fault},
    transport::error::{Shape, Shapes, TransportError},
};

/// What one kind of client sends and expects.
pub(crate) struct Contract {
    /// Its routes, with what the OpenAPI document says of them.
    pub routes: fn() -> OpenApiRouter<App>,
    /// Prefixes of paths whose errors have its shape even where no route exists. The longest
    /// prefix wins.
    pub namespaces: &'static [&'static str],
    /// Puts an error into its words.
    pub render: fn(Fault) -> Response<Body>,
}

impl Shape for Contract {
    fn render(&self, error: TransportError) -> Response<Body> {
        (self.render)(error.into())
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract").field("namespaces", &self.namespaces).finish_non_exhaustive()
    }
}

/// The contract of every route and path.
#[derive(Debug)]
pub(crate) struct Table {
    contracts: &'static [&'static Contract],
    by_route: HashMap<String, &'static Contract>,
}

impl Table {
    /// Of these contracts; the first has all paths that are in no namespace.
    pub(crate) fn new(contracts: &'static [&'static Contract]) -> Self {
        let routes = |contract: &'static Contract| {
            let paths = (contract.routes)().into_openapi().paths.paths;
            paths.into_keys().map(move |path| (path, contract))
        };
        Self { contracts, by_route: contracts.iter().copied().flat_map(routes).collect() }
    }

    /// The contract of a route by its template, or of a path that has no route.
    pub(crate) fn find(&self, template: Option<&str>, path: &str) -> &'static Contract {
        if let Some(contract) = template.and_then(|template| self.by_route.get(template)) {
            return contract;
        }
        let longest = |contract: &Contract| {
            let prefixes = contract.namespaces.iter().filter(|prefix| path.starts_with(**prefix));
            prefixes.map(|prefix| prefix.len()).max()
        };
        let owners = self.contracts.iter().filter(|contract| longest(contract).is_some());
        owners.max_by_key(|contract| longest(contract)).unwrap_or(&self.contracts[0])
    }
}

impl Shapes for Table {
    fn shape(&self, template: Option<&str>, path: &str) -> &'static dyn Shape {
        self.find(template, path)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// The files of a folder of this crate, with their text up to unit tests.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(self::files(&path));
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            // Without spaces, so that an import is found however it is written.
            let code: String = code.flat_map(str::split_whitespace).collect();
            files.push((path.display().to_string(), code));
        }
        files
    }

    /// Asserts that no file of a folder names one of these modules.
    fn assert_free(folder: &str, forbidden: &[&str]) {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = files(&sources.join(folder));
        assert!(!files.is_empty(), "{folder}");
        for (path, code) in files {
            for module in forbidden {
                let written = [
                    format!("crate::{module}::"),
                    format!("{{{module}::"),
                    format!(",{module}::"),
                    format!("{{{module},"),
                    format!(",{module},"),
                    format!(",{module}}}"),
                ];
                let found = written.iter().any(|written| code.contains(written));
                assert!(!found, "{path} imports {module}");
            }
        }
    }

    #[test]
    fn transport_knows_no_contract() {
        assert_free("transport", &["api", "admin", "serve", "config", "cli"]);
    }

    #[test]
    fn no_contract_imports_another() {
        let folders = ["tei", "openai", "cohere", "oip", "grpc"];
        for folder in folders {
            let others = folders.into_iter().filter(|other| *other != folder);
            // Both ways in which the Open Inference Protocol travels share what it means.
            let others = others.filter(|other| (folder, *other) != ("grpc", "oip"));
            let mut forbidden: Vec<String> = others.clone().map(str::to_owned).collect();
            forbidden.extend(others.map(|other| format!("api::{other}")));
            // A crate of routes has a `router`, too.
            forbidden.extend(["mixed", "api::router", "admin", "serve"].map(str::to_owned));
            let forbidden: Vec<&str> = forbidden.iter().map(String::as_str).collect();
            assert_free(&format!("api/{folder}"), &forbidden);
        }
    }
}
