//! What travels between the supervisor and a worker: a fixed header ([`frame`]), control messages
//! ([`message`]) and the items of a dispatch group with their answers ([`ask`]).

pub mod ask;
pub mod frame;
pub mod message;
