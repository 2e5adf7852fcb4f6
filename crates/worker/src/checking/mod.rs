//! A process that tries a version before it serves: [`check`] gives the verdict, [`compile`] leaves
//! the compiled form. Knows no kind of model: what is tried is a
//! [`crate::families::LoadedVersion`].

pub(crate) mod canary;
pub(crate) mod check;
pub(crate) mod compile;
mod external;
pub(crate) mod weights;
