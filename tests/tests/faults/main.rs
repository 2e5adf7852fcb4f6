//! When a process dies, no accepted request fails, and nothing is left behind.

mod answers;
mod clock;
mod hangs;
mod isolation;
mod memory;
mod poison;
mod shutdown;
mod supervisor;
mod tasks;
mod workers;
