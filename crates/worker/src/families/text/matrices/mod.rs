//! The matrices and tables beside a graph: read from `model.safetensors` of a module's folder,
//! shared between workers where they are large, and applied to rows. Knows no request and no graph.

pub(crate) mod dense;
pub(crate) mod layer_norm;
mod linear;
#[cfg(test)]
mod module_fixture;
mod nonlinear;
pub(crate) mod sparse_static;
pub(crate) mod static_table;
mod weights;
