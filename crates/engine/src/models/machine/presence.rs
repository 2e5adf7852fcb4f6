//! Whether a model can answer requests.

use serde::Serialize;

/// Whether a model is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Nobody has asked for it yet, and it was not to be loaded at start.
    NotLoaded,
    /// Nothing serves yet; something is on its way.
    Loading,
    /// A generation serves.
    Loaded,
    /// What was accepted is answered still, and no more is accepted.
    Unloading,
    /// It was told to serve nothing.
    Unloaded,
}

/// Every presence, in the order of its number.
pub(in crate::models) const PRESENCES: [Presence; 5] = [
    Presence::NotLoaded,
    Presence::Loading,
    Presence::Loaded,
    Presence::Unloading,
    Presence::Unloaded,
];
