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
