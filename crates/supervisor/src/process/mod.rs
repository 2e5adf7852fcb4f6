//! The supervisor's process: signals, systemd, inherited descriptors, privileges, limits of the machine and of
//! control groups, the allocator, and the exporter of traces.

pub(crate) mod allocator;
pub(crate) mod confinement;
pub(crate) mod control_groups;
pub(crate) mod descriptors;
pub(crate) mod exporter;
pub(crate) mod inherited;
pub(crate) mod init;
pub(crate) mod machine;
pub(crate) mod signals;
pub(crate) mod systemd;
