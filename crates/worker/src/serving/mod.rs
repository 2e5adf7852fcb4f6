//! A worker that serves: the loop over messages ([`serve`]), the refresh that follows the committed
//! generation ([`refresh`]), and loading ahead of a commit ([`ahead`]). Knows no kind of model:
//! what is loaded is a [`crate::families::LoadedVersion`].

pub(crate) mod ahead;
pub(crate) mod refresh;
pub(crate) mod serve;
