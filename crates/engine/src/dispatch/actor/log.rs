//! Makes workers follow the supervisor's log filter.

use onnxd_proto::wire::message::ToWorker;

use crate::dispatch::actor::state::Dispatcher;
use crate::pool::WorkerId;

impl Dispatcher {
    /// Passes a new filter to all workers. Starting workers are told once they are ready.
    pub(super) fn filter_logs(&mut self, filter: String) {
        self.log_filter = Some(filter);
        for id in 0..self.workers.len() {
            if self.workers[id].session.serves() {
                self.filter_log(id);
            }
        }
    }

    /// Passes the filter to a worker that is ready, if it has changed since this process began.
    pub(super) fn filter_log(&self, id: WorkerId) {
        if let Some(filter) = &self.log_filter {
            // Ignore the result: a worker that cannot be reached will exit, and the next one begins
            // with this filter.
            self.workers[id].send(0, &ToWorker::FilterLog { filter: filter.clone() }, Vec::new());
        }
    }
}
