//! The checker process, which tries a version before it serves. [`check`] gives the verdict, and
//! [`compile`] writes the compiled form, after the files of a kept version have been compared.
//! Independent of model families: it tries a [`crate::families::LoadedVersion`].

pub(crate) mod canary;
pub(crate) mod check;
pub(crate) mod compile;
mod external;
pub(crate) mod weights;
