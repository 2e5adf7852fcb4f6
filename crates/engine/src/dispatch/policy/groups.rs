//! The groups sent to one worker, in the order in which it computes them, and their unanswered
//! items. Part of a worker's [session](crate::dispatch::policy::session).

use std::{collections::VecDeque, time::Instant};

use onnxd_proto::{control_page::Slot, generation::Generation};

use crate::dispatch::{
    item::Priority,
    policy::{
        overdue::Overdue,
        scheduler::{Charge, Group, ItemId},
    },
};

/// A worker receives its next group early if its only group takes at most this long, in
/// microseconds. For such short groups, the time to send the next one matters.
const NEXT_MICROS_MAX: u32 = 2_000;

/// The groups sent to a worker: the first is being computed, the others wait.
#[derive(Debug, Default)]
pub(crate) struct Groups(VecDeque<InFlight>);

/// How a group was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentGroup {
    /// The group's id.
    pub id: u64,
    /// Whether it uses the CPUs of idle workers.
    pub wide: bool,
    /// A lower bound for the earliest deadline of its unanswered items: the item that has it may
    /// have been answered since.
    pub deadline: Option<Instant>,
    /// The committed generation at that time. The worker loads it first if necessary.
    pub committed: Generation,
}

/// A group sent to a worker.
#[derive(Debug)]
struct InFlight {
    sent: SentGroup,
    slot: Slot,
    priority: Priority,
    /// The unanswered items, by index in the group.
    unanswered: Vec<Option<ItemId>>,
    /// The estimated time of the whole group.
    micros: u32,
    /// CPU time of its micro-batches so far, in microseconds.
    took: u64,
    /// When the worker was told to terminate it.
    terminated: Option<Instant>,
}

/// Items that were answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TakenItems {
    pub items: Vec<ItemId>,
    pub group: GroupState,
}

/// Whether a group has unanswered items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupState {
    Open,
    Done,
}

/// What may have caused a worker's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspect {
    /// The group being computed. Groups still waiting in the socket cannot be the cause.
    First,
    /// None of the groups: the worker was stopped from outside.
    Nothing,
}

/// The unanswered items of one group of a worker that exited.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnansweredItems {
    pub slot: Slot,
    /// The items without an answer.
    pub items: Vec<ItemId>,
    /// The committed generation when the group was sent.
    pub committed: Generation,
    /// Whether the items may have caused the exit.
    pub is_suspect: bool,
}

impl Groups {
    /// Creates an empty list.
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Returns whether the worker has no group.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the worker has one group that will finish before another could be sent.
    /// Never true for background work: interactive work takes the first worker that finishes.
    pub(crate) fn is_nearly_done(&self) -> bool {
        let is_short = |group: &InFlight| {
            group.priority == Priority::Interactive && group.micros <= NEXT_MICROS_MAX
        };
        self.0.len() == 1 && self.0.iter().all(is_short)
    }

    /// Adds a group that was sent.
    pub(crate) fn push(&mut self, group: &Group, sent: SentGroup) {
        self.0.push_back(InFlight {
            sent,
            slot: group.slot,
            priority: group.priority,
            unanswered: group.items.iter().copied().map(Some).collect(),
            micros: group.micros,
            took: 0,
            terminated: None,
        });
    }

    /// Returns the group with this id if it is the one being computed.
    fn current(&self, id: u64) -> Option<&InFlight> {
        self.0.front().filter(|group| group.sent.id == id)
    }

    /// Returns the slot of the group with this id if it is the one being computed.
    pub(crate) fn slot(&self, id: u64) -> Option<Slot> {
        self.current(id).map(|group| group.slot)
    }

    /// Adds the time of a micro-batch of the group with this id. Returns the total for the group.
    pub(crate) fn record_time(&mut self, id: u64, micros: u32) -> Option<Charge> {
        let group = self.0.front_mut().filter(|group| group.sent.id == id)?;
        group.took += u64::from(micros);
        let (slot, priority, estimated) = (group.slot, group.priority, group.micros.into());
        Some(Charge { slot, priority, estimated, took: group.took })
    }

    /// Returns what must happen to the current group, and by when.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        let group = self.0.front()?;
        match group.terminated {
            Some(at) => Some(Overdue::Terminated(at)),
            None => group.sent.deadline.map(Overdue::Group),
        }
    }

    /// Returns the id of the group to terminate now because the deadline of an unanswered item has
    /// passed.
    pub(crate) fn terminate(
        &mut self,
        deadline: impl Fn(&ItemId) -> Option<Instant>,
        now: Instant,
    ) -> Option<u64> {
        let group = self.0.front_mut()?;
        group.sent.deadline = group.unanswered.iter().flatten().filter_map(deadline).min();
        group.sent.deadline.filter(|deadline| *deadline <= now)?;
        group.terminated = Some(now);
        Some(group.sent.id)
    }

    /// Returns whether the worker was told to terminate the group with this id.
    pub(crate) fn is_terminated(&self, id: u64) -> bool {
        self.current(id).is_some_and(|group| group.terminated.is_some())
    }

    /// Returns whether other CPUs help with the current group.
    pub(crate) fn is_boosted(&self) -> bool {
        self.0.front().is_some_and(|group| group.sent.wide)
    }

    /// Returns the items at these indices of the group with this id, or `None` if one of them is
    /// not waiting for an answer.
    pub(crate) fn unanswered_at(
        &self,
        id: u64,
        indices: impl Iterator<Item = u32>,
    ) -> Option<Vec<ItemId>> {
        take(&mut self.current(id)?.unanswered.clone(), indices)
    }

    /// Takes the items at these indices from the group with this id. Takes nothing and returns
    /// `None` if one of them is not waiting for an answer; the items then go to another worker.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        indices: impl Iterator<Item = u32>,
    ) -> Option<TakenItems> {
        let group = self.0.front_mut().filter(|group| group.sent.id == id)?;
        let mut unanswered = group.unanswered.clone();
        let items = take(&mut unanswered, indices)?;
        group.unanswered = unanswered;
        if group.unanswered.iter().any(Option::is_some) {
            return Some(TakenItems { items, group: GroupState::Open });
        }
        self.0.pop_front();
        Some(TakenItems { items, group: GroupState::Done })
    }

    /// Returns all unanswered items.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = &ItemId> {
        self.0.iter().flat_map(|group| group.unanswered.iter().flatten())
    }

    /// Takes all groups.
    pub(crate) fn take(&mut self, suspect: Suspect) -> Vec<UnansweredItems> {
        let groups = std::mem::take(&mut self.0).into_iter().enumerate();
        let unanswered = groups.map(|(index, group)| UnansweredItems {
            slot: group.slot,
            items: group.unanswered.into_iter().flatten().collect(),
            committed: group.sent.committed,
            is_suspect: index == 0 && suspect == Suspect::First,
        });
        unanswered.collect()
    }
}

fn take(
    unanswered: &mut [Option<ItemId>],
    mut indices: impl Iterator<Item = u32>,
) -> Option<Vec<ItemId>> {
    indices.try_fold(Vec::new(), |mut items, index| {
        items.push(unanswered.get_mut(index as usize)?.take()?);
        Some(items)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sent(id: u64) -> SentGroup {
        SentGroup { id, wide: false, deadline: None, committed: 1 }
    }

    fn groups(now: Instant) -> Groups {
        let mut groups = Groups::default();
        for (id, items) in [(7, vec![10, 11, 12]), (8, vec![20])] {
            let priority = Priority::Interactive;
            let group = Group { slot: 3, priority, items, micros: 2_000 };
            groups.push(&group, SentGroup { id, wide: id == 7, deadline: Some(now), committed: 4 });
        }
        groups
    }

    #[test]
    fn each_item_is_answered_once_and_invalid_answers_none() {
        let mut groups = groups(Instant::now());
        assert_eq!(groups.answered(8, [0].into_iter()), None, "not being computed yet");
        assert_eq!(groups.answered(7, [0, 3].into_iter()), None, "no fourth item");
        assert_eq!(groups.answered(7, [0, 0].into_iter()), None, "twice");
        assert_eq!(groups.unanswered_at(7, [2, 0].into_iter()), Some(vec![12, 10]));
        let taken = |items, group| Some(TakenItems { items, group });
        assert_eq!(groups.answered(7, [2, 0].into_iter()), taken(vec![12, 10], GroupState::Open));
        assert_eq!(groups.unanswered_at(7, [0].into_iter()), None);
        assert_eq!(groups.unanswered().copied().collect::<Vec<_>>(), [11, 20]);
        assert_eq!(groups.slot(7), Some(3));
        assert_eq!(groups.answered(7, [1].into_iter()), taken(vec![11], GroupState::Done));
        assert_eq!((groups.slot(7), groups.slot(8)), (None, Some(3)));
        assert!(!groups.is_boosted() && groups.is_nearly_done() && !groups.is_empty());
    }

    #[test]
    fn a_group_is_terminated_when_an_unanswered_item_is_late() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        let mut groups = groups(now);
        let deadline = |item: &ItemId| Some(if *item == 10 { soon } else { later });
        assert_eq!(groups.overdue(), Some(Overdue::Group(now)));
        assert_eq!(groups.terminate(deadline, now), None);
        assert_eq!(groups.overdue(), Some(Overdue::Group(soon)), "not checked again earlier");
        groups.answered(7, [0].into_iter()).unwrap();
        assert_eq!(groups.terminate(deadline, soon), None, "the late item was answered");
        assert_eq!(groups.terminate(deadline, later), Some(7));
        assert_eq!(groups.overdue(), Some(Overdue::Terminated(later)));
        assert!(groups.is_terminated(7) && !groups.is_terminated(8));
    }

    #[test]
    fn the_time_of_the_current_group_is_added_up() {
        let mut groups = groups(Instant::now());
        let charge = |took| {
            Some(Charge { slot: 3, priority: Priority::Interactive, estimated: 2_000, took })
        };
        assert_eq!(groups.record_time(7, 300), charge(300));
        assert_eq!(groups.record_time(7, 900), charge(1_200));
        assert_eq!(groups.record_time(8, 1), None, "not being computed yet");
        assert!(groups.is_boosted(), "the first group is wide");
    }

    #[test]
    fn only_one_short_group_is_nearly_done() {
        let group = |priority, micros| Group { slot: 0, priority, items: vec![1], micros };
        let one = |priority, micros| {
            let mut groups = Groups::default();
            assert!(groups.is_empty() && !groups.is_nearly_done());
            groups.push(&group(priority, micros), sent(1));
            groups
        };
        let interactive = Priority::Interactive;
        assert!(one(interactive, NEXT_MICROS_MAX).is_nearly_done());
        assert!(!one(interactive, NEXT_MICROS_MAX + 1).is_nearly_done());
        assert!(
            !one(Priority::Background, 1).is_nearly_done(),
            "nothing queues behind background work"
        );
        let mut two = one(interactive, 1);
        two.push(&group(interactive, 1), sent(2));
        assert!(!two.is_nearly_done() && !two.is_empty());
    }

    #[test]
    fn only_the_current_group_is_blamed_for_an_exit() {
        let now = Instant::now();
        let is_suspect = |suspect| -> Vec<bool> {
            let taken = groups(now).take(suspect);
            assert!(taken.iter().all(|group| group.committed == 4));
            taken.iter().map(|group| group.is_suspect).collect()
        };
        assert_eq!(is_suspect(Suspect::First), [true, false]);
        assert_eq!(is_suspect(Suspect::Nothing), [false, false]);
    }
}
