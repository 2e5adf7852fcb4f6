//! A contract: what one kind of client sends and expects. Each contract's folder declares its
//! routes, the path prefixes it owns and how it renders errors. [`Table`] holds all contracts, so
//! the route decides the format of an error.

use std::{collections::HashMap, fmt};

use axum::{body::Body, http::Response};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    api::{app::App, error::Fault, oip::rest::paths},
    transport::error::{Rewrite, Shape, Shapes, TransportError},
};

/// What one kind of client sends and expects.
pub(crate) struct Contract {
    /// The routes, with their OpenAPI descriptions.
    pub routes: fn() -> OpenApiRouter<App>,
    /// Path prefixes whose errors use this contract's format, even without a route. The longest
    /// prefix wins.
    pub namespaces: &'static [&'static str],
    /// Renders an error in the contract's format.
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

/// Maps routes and paths to contracts.
#[derive(Debug)]
pub(crate) struct Table {
    contracts: &'static [&'static Contract],
    by_route: HashMap<String, &'static Contract>,
}

impl Table {
    /// Builds the table. The first contract owns all paths outside any namespace.
    pub(crate) fn new(contracts: &'static [&'static Contract]) -> Self {
        let routes = |contract: &'static Contract| {
            let paths = (contract.routes)().into_openapi().paths.paths;
            paths.into_keys().map(move |path| (path, contract))
        };
        Self { contracts, by_route: contracts.iter().copied().flat_map(routes).collect() }
    }

    /// Returns the contract of a route template, or of a path without a route.
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

    fn rewrite(&self) -> Rewrite {
        paths::escaped
    }
}
