//! The supervisor's process: signals, systemd, inherited descriptors, privileges, and limits of the machine and
//! of control groups.

pub(crate) mod confinement;
pub(crate) mod control_groups;
pub(crate) mod descriptors;
pub(crate) mod inherited;
pub(crate) mod init;
pub(crate) mod machine;
pub(crate) mod signals;
pub(crate) mod systemd;
