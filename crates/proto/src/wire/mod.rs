//! The protocol between supervisor and worker: a fixed header ([`frame`]), control messages
//! ([`message`]), and the items of a dispatch group with their results ([`operation`]).

pub mod frame;
pub mod message;
pub mod operation;
