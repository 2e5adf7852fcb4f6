//! Accepts, limits, secures and drains connections, and reads and writes bodies. Independent of contracts.
//!
//! - [`listener`] accepts connections, [`connection`] processes one; [`preface`] finds those that speak
//!   HTTP/2, [`http2`] serves them; [`slots`] limits them, [`watched`] finds slow ones.
//! - [`access`] identifies and logs requests; [`malformed`] reports those that cannot be parsed,
//!   [`refusals`] finds them in HTTP/2.
//! - [`edge`] guards all routes: [`keys`], [`cors`], [`tls`] with [`certificate`].
//! - [`bodies`] and [`unpack`] read request bodies; [`chunks`] and [`guarded_body`] write response
//!   bodies.
//! - [`requests`] checks what no handler does; [`panics`] turns a panicking handler into a response.
//! - [`error`]: errors of this layer; each contract renders them.

pub(crate) mod access;
pub(crate) mod bodies;
mod certificate;
pub(crate) mod chunks;
mod connection;
pub(crate) mod cors;
pub(crate) mod edge;
pub(crate) mod error;
pub(crate) mod guarded_body;
mod http2;
pub(crate) mod keys;
pub(crate) mod listener;
mod malformed;
pub(crate) mod panics;
mod preface;
mod refusals;
mod requests;
pub(crate) mod secret_file;
pub(crate) mod slots;
pub(crate) mod tls;
pub(crate) mod unpack;
mod watched;
