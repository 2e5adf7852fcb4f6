//! Whether the server and its models are ready: what probes, metrics and `onnxd status` report.

use super::Engine;
use crate::models::{gate::Presence, registry::Model};

impl Engine {
    /// Returns whether the server is ready; see [`Engine::not_ready_reason`].
    pub fn is_ready(&self) -> bool {
        self.not_ready_reason().is_none()
    }

    /// Returns why the server is not ready, or `None` if it is: the start is done, every worker has
    /// been ready once, and one serves now. As at the start, a model that no worker can load matters
    /// only if it is required or if no other model can be served.
    pub fn not_ready_reason(&self) -> Option<String> {
        match self.parts.updater.startup().phase() {
            _ if *self.closing.borrow() => Some("the server is stopping".to_owned()),
            Some(phase) => Some(phase.to_string()),
            None if self.parts.health.borrow().is_ready() => self.unloadable_reason(),
            None => Some("no worker is ready".to_owned()),
        }
    }

    /// Returns why the server is not ready because of models that no worker can load.
    fn unloadable_reason(&self) -> Option<String> {
        let health = self.parts.health.borrow();
        let is_unloadable = |model: &Model| health.unloadable.contains_key(&model.slot);
        let can_serve = |model: &Model| match model.gate.presence() {
            Presence::Loaded => !is_unloadable(model),
            Presence::Loading => true,
            Presence::NotLoaded => model.failure().is_none(),
            Presence::Unloading | Presence::Unloaded => false,
        };
        let models = self.models();
        let is_alone = !models.iter().any(|model| can_serve(model));
        let matters = |model: &Model| is_unloadable(model) && (is_alone || model.required);
        let model = models.iter().find(|model| matters(model))?;
        Some(format!("no worker can load the model `{}`; see `onnxd status`", model.name))
    }

    /// Returns whether requests to a model are answered. The model must serve, or load on first use
    /// from a generation that was kept: only that has been checked. A worker must be able to answer.
    pub fn is_model_ready(&self, model: &Model) -> bool {
        // Models that are ready answer also while others are still checked.
        let workers_serve = self.parts.health.borrow().is_ready();
        let is_open = !*self.closing.borrow();
        is_open
            && workers_serve
            && match model.gate.presence() {
                Presence::Loaded => self.load_failure(model).is_none(),
                Presence::NotLoaded => {
                    !model.preload
                        && model.failure().is_none()
                        && self.parts.updater.was_kept(model)
                }
                _ => false,
            }
    }

    /// Returns why no worker can load what the model serves, or `None` if one can.
    pub fn load_failure(&self, model: &Model) -> Option<String> {
        self.parts.health.borrow().unloadable.get(&model.slot).cloned()
    }
}

#[cfg(test)]
#[path = "readiness_tests.rs"]
mod tests;
