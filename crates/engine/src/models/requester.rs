//! The origin of a request to read a source. Set by the callers of updates, read by sources.

/// The origin of a request to read a source. Decides which servers are allowed, and how long a directory
/// must be unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requester {
    /// onnxd itself, at start or on first use.
    Server,
    /// The watcher of the model's source.
    Poll,
    /// A person or program on this machine, by the admin socket or a signal.
    #[default]
    Operator,
    /// A caller of the admin interface over TCP.
    Network,
}
