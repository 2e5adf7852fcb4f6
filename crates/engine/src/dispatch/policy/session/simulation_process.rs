//! The worker's process in the simulation of a session: it does what it likes, late.

use std::collections::VecDeque;

use onnxd_proto::{control_page::Slot, generation::Generation};
use onnxd_telemetry::metrics::KillReason;

use crate::dispatch::policy::restarts::End;
use crate::pool::Epoch;

pub(super) const MODELS: u16 = 2;

/// What a socket still holds, and what the keeper still has to tell.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Hello,
    Ready,
    Loaded(Slot, Generation),
    LoadFailed(Slot, Generation),
    Pong,
    /// The group's items at these places.
    Answer(u64, Vec<u32>),
    End,
}

/// A process as the system knows it.
#[derive(Default)]
pub(super) struct Process {
    pub epoch: Epoch,
    pub messages: VecDeque<Message>,
    /// Its own end, not reported to the session yet.
    pub ended: Option<End>,
    pub is_reported: bool,
    pub killed: bool,
    pub killed_for: Option<KillReason>,
    pub is_stopped: bool,
    /// Pings that it has not answered.
    pub pings: u32,
    /// The groups that it has, with the places that it has not answered.
    pub groups: VecDeque<(u64, Vec<u32>)>,
    pub serves: [Generation; MODELS as usize],
}

impl Process {
    /// Does something of its own accord: loads, becomes ready, answers.
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
                let Some((id, places)) = self.groups.front_mut() else { return };
                let rest = if some { places.split_off(1) } else { Vec::new() };
                self.messages.push_back(Message::Answer(*id, std::mem::take(places)));
                *places = rest;
                if places.is_empty() {
                    self.groups.pop_front();
                }
            }
        }
    }
}
