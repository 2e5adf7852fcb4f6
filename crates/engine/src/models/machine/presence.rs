//! Describes whether a model can answer requests.

use serde::Serialize;

/// Whether a model can answer requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Nothing has requested it yet, and it is not preloaded.
    NotLoaded,
    /// Nothing serves yet; an update is running or waiting.
    Loading,
    /// A generation serves.
    Loaded,
    /// Requests in flight are being answered; no more are admitted.
    Unloading,
    /// It was unloaded on request.
    Unloaded,
}

/// Every presence, indexed by its discriminant.
pub(in crate::models) const PRESENCES: [Presence; 5] = [
    Presence::NotLoaded,
    Presence::Loading,
    Presence::Loaded,
    Presence::Unloading,
    Presence::Unloaded,
];
