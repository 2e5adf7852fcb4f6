//! The protocol between supervisor and worker: a fixed header ([`frame`]), control messages
//! ([`message`]), and the items of a dispatch group with their results ([`ask`]).

pub mod ask;
pub mod frame;
pub mod message;
