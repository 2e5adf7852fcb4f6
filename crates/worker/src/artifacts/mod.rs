//! What lies on disk of a version beside its settings: the model's file, and what a check derives
//! from it: compiled forms, the outputs of fixed inputs ([`probes`]) and what runs cost ([`costs`]).
//! Reads, writes and compares; runs nothing. Checking writes these files, serving reads them.

pub(crate) mod compiled;
pub(crate) mod costs;
pub(crate) mod probes;
