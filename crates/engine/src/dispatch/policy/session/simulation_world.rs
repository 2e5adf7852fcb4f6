//! The world of the session simulation: a worker process that acts randomly and reports late.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use onnxd_proto::{control_page::Slot, generation::Generation};
use onnxd_telemetry::metrics::KillReason;

use crate::dispatch::policy::{restarts::End, scheduler::ItemId, session::Session};
use crate::pool::{Epoch, Supervision};

pub(super) const MODELS: u16 = 2;
pub(super) const SUPERVISION: Supervision = Supervision {
    stopped_grace: Duration::from_secs(2),
    start_timeout: Duration::from_secs(10),
    restarts_max: 6,
};

/// Messages still in the socket, and reports that the process monitor still has to send.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Hello,
    Ready,
    Loaded(Slot, Generation),
    LoadFailed(Slot, Generation),
    Pong,
    /// The group's items at these indices.
    Answer(u64, Vec<u32>),
    End,
}

/// A process as the operating system knows it.
#[derive(Default)]
pub(super) struct Process {
    pub epoch: Epoch,
    pub messages: VecDeque<Message>,
    /// Its exit, not yet reported to the session.
    pub ended: Option<End>,
    pub is_reported: bool,
    pub killed: bool,
    pub killed_for: Option<KillReason>,
    pub is_stopped: bool,
    /// Pings that it has not answered.
    pub pings: u32,
    /// Its groups, with the indices of the unanswered items.
    pub groups: VecDeque<(u64, Vec<u32>)>,
    pub serves: [Generation; MODELS as usize],
}

impl Process {
    /// Acts on its own: loads, becomes ready or answers.
    pub(super) fn act(
        &mut self,
        (what, some, fails): (u64, bool, bool),
        slot: usize,
        committed: Generation,
    ) {
        let runs = self.is_reported && self.ended.is_none() && !self.is_stopped;
        if !runs || self.killed {
            return;
        }
        let slot_number = u16::try_from(slot).unwrap();
        match what {
            0..2 if self.serves[slot] < committed && fails => {
                self.messages.push_back(Message::LoadFailed(slot_number, committed));
            }
            0..2 if self.serves[slot] < committed => {
                self.serves[slot] = committed;
                self.messages.push_back(Message::Loaded(slot_number, committed));
            }
            2 | 3 => self.messages.push_back(Message::Ready),
            4 if self.pings > 0 => {
                self.pings -= 1;
                self.messages.push_back(Message::Pong);
            }
            _ => {
                let Some((id, indices)) = self.groups.front_mut() else { return };
                let rest = if some { indices.split_off(1) } else { Vec::new() };
                self.messages.push_back(Message::Answer(*id, std::mem::take(indices)));
                *indices = rest;
                if indices.is_empty() {
                    self.groups.pop_front();
                }
            }
        }
    }
}

/// One session, and the actual state of its worker.
pub(super) struct World {
    pub seed: u64,
    pub random: u64,
    pub now: Instant,
    pub session: Session,
    pub process: Option<Process>,
    pub committed: [Generation; MODELS as usize],
    /// Items that were sent and neither answered nor taken back, by group.
    pub out: BTreeMap<u64, Vec<ItemId>>,
    pub settled: BTreeSet<ItemId>,
    pub last: u64,
    /// Whether there were commits or probes since the last ping that the process received.
    pub is_ping_owed: bool,
    pub newest: [Generation; MODELS as usize],
    pub drained: bool,
    pub reached: BTreeSet<&'static str>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            seed,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now,
            session: Session::new(now, usize::from(MODELS), SUPERVISION.restarts_max),
            process: None,
            committed: [1; MODELS as usize],
            out: BTreeMap::new(),
            settled: BTreeSet::new(),
            last: 0,
            is_ping_owed: false,
            newest: [0; MODELS as usize],
            drained: false,
            reached: BTreeSet::new(),
        }
    }

    /// xorshift64, so that the seed alone reproduces a run.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }
}
