//! Search under test: texts whose vectors are known in the space of each content, the answers that an
//! exact search would give, and clients that compare every answer with them.
//!
//! - [`spaces`]: texts and their vectors. [`documents`]: what a search may find at a moment.
//! - [`requests`]: requests and answers of search. [`load`]: clients that search and write.
//!
//! Two contents put the same text at different places. So the scores of an answer reveal whose vectors
//! were compared, and an answer that mixes two spaces matches neither.

mod clients;
pub mod documents;
pub mod load;
pub mod requests;
mod seen;
pub mod spaces;

use std::collections::BTreeSet;

pub use self::seen::Summary;
use crate::processes::{self, Process};

/// The name of the index process.
const INDEX: &str = "onnxd-index";

/// Returns the running index processes of a supervisor.
pub fn index_processes(supervisor: i32) -> BTreeSet<Process> {
    let is_index = |process: &Process| {
        processes::status(&process.pid.to_string(), "Name").as_deref() == Some(INDEX)
    };
    processes::descendants(supervisor).into_iter().filter(is_index).collect()
}
