//! What the dispatcher tells the metrics where that takes more than a line.

use std::time::Duration;

use onnxd_proto::{control_page::Slot, wire::ask::Answered};

use crate::dispatch::{actor::state::Dispatcher, policy::groups::GroupState};
use crate::pool::WorkerId;

impl Dispatcher {
    /// A worker has refreshed a model. What it had to load by itself, all that it has been sent
    /// waited for: from the beginning of the load, or since it was sent where that was later.
    pub(super) fn measure_refresh(&self, id: WorkerId, slot: Slot, load_micros: u64) {
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

    /// A worker has answered a micro-batch, and perhaps the last of its group: the time of
    /// tokenizing is the group's, and each of its answers repeats it.
    pub(super) fn measure_run(&self, slot: Slot, answered: &Answered, group: GroupState) {
        let model = self.metrics.model(slot);
        model.ran(answered.items.iter().map(|item| item.tokens), answered.infer_micros);
        if group == GroupState::Done {
            model.tokenized(answered.tokenize_micros);
        }
    }
}
