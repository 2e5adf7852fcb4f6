//! Who asks for an update. Set by the callers of updates, read by sources.

/// Who wants the content of a source. Decides what may be asked, and how long a change waits.
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
