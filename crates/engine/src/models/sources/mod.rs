//! Where versions come from.

pub mod checksums;
pub mod digests;
pub mod directory;
