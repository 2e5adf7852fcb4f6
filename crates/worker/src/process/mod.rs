//! What makes this a process of its own: its command line, the descriptors that it inherits, the
//! socket to the supervisor, its CPU, its clock, how it ends and why. Knows of models only that a
//! run can be terminated. Called by the crate's root; the rest of the worker takes errors, CPU time
//! and the sending half of the socket from here.

pub(crate) mod affinity;
pub(crate) mod args;
pub(crate) mod ceiling;
pub(crate) mod cpu_time;
pub(crate) mod fault;
pub(crate) mod guard;
pub(crate) mod hangs;
pub(crate) mod inherited;
pub(crate) mod ipc;
pub(crate) mod quit;
pub(crate) mod resident;
