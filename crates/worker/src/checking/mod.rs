//! The checker process, which tries a version before it serves. [`check`] gives the verdict, and
//! [`compile`] writes the compiled form, after [`intact`] has compared the files of a kept version. Independent of model families: it tries a
//! [`crate::families::LoadedVersion`].

pub(crate) mod canary;
pub(crate) mod check;
pub(crate) mod compile;
mod external;
mod intact;
pub(crate) mod weights;
