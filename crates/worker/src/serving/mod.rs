//! The serving side of a worker: the message loop ([`serve`]), following the committed generation
//! ([`refresh`]), and loading ahead of a commit ([`ahead`]). Independent of the kind of model: what
//! is loaded is a [`crate::families::LoadedVersion`].

pub(crate) mod ahead;
pub(crate) mod refresh;
pub(crate) mod serve;
