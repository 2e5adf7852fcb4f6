//! Matrices and tables beside a graph: read from a module's `model.safetensors`, shared between
//! workers if large, and applied to rows. Independent of requests and of the graph.

pub(crate) mod dense;
pub(crate) mod layer_norm;
mod linear;
#[cfg(test)]
mod module_fixture;
mod nonlinear;
pub(crate) mod sparse_static;
pub(crate) mod static_table;
mod weights;
