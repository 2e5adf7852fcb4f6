//! Everything about this process: command line, inherited descriptors, the socket to the
//! supervisor, CPU, clock, exit and exit codes. Knows of models only that a run can be terminated.

pub(crate) mod affinity;
pub(crate) mod args;
pub(crate) mod ceiling;
pub(crate) mod cpu_time;
pub(crate) mod fault;
pub(crate) mod guard;
pub(crate) mod inherited;
pub(crate) mod ipc;
pub(crate) mod quit;
pub(crate) mod resident;
pub(crate) mod terminations;
