//! Metrics that take more than one line to record.

use std::time::Duration;

use onnxd_proto::{control_page::Slot, wire::ask::Answered};

use crate::dispatch::{actor::state::Dispatcher, policy::groups::GroupState};
use crate::pool::WorkerId;

impl Dispatcher {
    /// Records that a worker has refreshed a model. Unless the version was loaded ahead, all items
    /// of the worker waited for the load. Each waited from the start of the load, or from when it
    /// was sent if that was later.
    pub(super) fn record_refresh(&self, id: WorkerId, slot: Slot, load_micros: u64) {
        let model = self.metrics.model(slot);
        model.refreshed(load_micros);
        if load_micros == 0 {
            return;
        }
        for accepted in
            self.workers[id].session.groups().unanswered().filter_map(|item| self.items.get(item))
        {
            let sent_for = accepted.item.queued_at.elapsed().saturating_sub(accepted.waited);
            let model = self.metrics.model(accepted.item.slot);
            model.waited_for_load(sent_for.min(Duration::from_micros(load_micros)));
        }
    }

    /// Records a micro-batch that a worker answered. The tokenizing time belongs to the whole group
    /// and is repeated in each answer, so it is recorded with the last one.
    pub(super) fn record_run(&self, slot: Slot, answered: &Answered, group: GroupState) {
        let model = self.metrics.model(slot);
        model.ran(answered.items.iter().map(|item| item.tokens), answered.infer_micros);
        if group == GroupState::Done {
            model.tokenized(answered.tokenize_micros);
        }
    }
}
