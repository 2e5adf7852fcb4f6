//! The supervisor's own process: signals, systemd, inherited descriptors, confinement, limits.

pub(crate) mod confinement;
pub(crate) mod descriptors;
pub(crate) mod inherited;
pub(crate) mod machine;
pub(crate) mod signals;
pub(crate) mod systemd;
