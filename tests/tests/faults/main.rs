//! Whatever dies, no request fails that was accepted, and nothing is left behind.

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
