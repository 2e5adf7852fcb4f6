//! One dispatch group: the items that one frame brought, answered exactly once each, by one
//! generation. Each micro-batch is answered as it completes, so that short texts do not wait for
//! long ones. How items are answered is decided by each family.

use std::time::Duration;

use onnxd_proto::{
    generation::Generation,
    limits::GROUP_ITEMS_MAX,
    wire::{
        ask::{Answered, AnsweredItem, Item, Rejection},
        message::FromWorker,
    },
};

use crate::process::{fault::Fault, ipc::Sender};

// Numbers travel little-endian, and are sent as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// The payload of a group, cut at the lengths that its items name.
///
/// # Errors
/// The frame is not one that a supervisor sends.
pub(crate) fn parts<'p>(items: &[Item], mut payload: &'p [u8]) -> Result<Vec<&'p [u8]>, Fault> {
    if items.len() > GROUP_ITEMS_MAX {
        return Err(broken("has more items than the limit"));
    }
    let mut parts = Vec::with_capacity(items.len());
    for item in items {
        let length = usize::try_from(item.payload_bytes).unwrap_or(usize::MAX);
        let Some((part, rest)) = payload.split_at_checked(length) else {
            return Err(broken("names more bytes than it brings"));
        };
        parts.push(part);
        payload = rest;
    }
    if payload.is_empty() { Ok(parts) } else { Err(broken("brings more bytes than it names")) }
}

/// What is wrong with the frame.
pub(crate) fn broken(what: &str) -> Fault {
    Fault::Protocol(format!("a group {what}"))
}

/// What the frame of a group asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The frame's id.
    pub(crate) id: u64,
    pub(crate) items: Vec<Item>,
    /// Whether it may be spread over several CPUs.
    pub(crate) wide: bool,
}

/// A group that is being answered.
pub(crate) struct Group<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) sender: &'a Sender,
}

/// What a micro-batch took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) tokenizing: Duration,
    pub(crate) inference: Duration,
    pub(crate) cpu: Duration,
}

impl Group<'_> {
    /// Rejects all items, as nothing can answer them.
    pub(crate) fn reject_all(&mut self, reason: Rejection) -> Result<(), Fault> {
        self.reject((0..self.asked.items.len()).map(number).collect(), reason)
    }

    /// Rejects some items.
    pub(crate) fn reject(&mut self, items: Vec<u32>, reason: Rejection) -> Result<(), Fault> {
        self.sender.tell_group(self.asked.id, &FromWorker::Rejected { items, reason }, &[])
    }

    /// Sends the answers of one micro-batch; the payload may lie in several places.
    pub(crate) fn send(
        &mut self,
        generation: Generation,
        items: Vec<AnsweredItem>,
        took: Took,
        payload: &[&[u8]],
    ) -> Result<(), Fault> {
        let answered = Answered {
            generation,
            items,
            tokenize_micros: micros(took.tokenizing),
            infer_micros: micros(took.inference),
            infer_cpu_micros: micros(took.cpu),
        };
        self.sender.tell_group(self.asked.id, &FromWorker::Answered(answered), payload)
    }
}

/// Numbers of items, tokens and bytes are below the limit.
pub(crate) fn number(value: usize) -> u32 {
    u32::try_from(value).expect("limits keep every count within 32 bits")
}

pub(crate) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use onnxd_proto::wire::ask::Ask;

    use super::*;

    fn items(lengths: &[u32]) -> Vec<Item> {
        let item = |&payload_bytes| Item { payload_bytes, ask: Ask::Decode { skip_special: true } };
        lengths.iter().map(item).collect()
    }

    #[test]
    fn the_payload_is_cut_into_the_parts_of_the_items() {
        let cut = parts(&items(&[1, 0, 2, 3]), b"abcdef").unwrap();
        assert_eq!(cut, [&b"a"[..], b"", b"bc", b"def"]);
        assert!(parts(&[], b"").unwrap().is_empty());
    }

    #[test]
    fn a_group_that_does_not_add_up_is_a_fault_and_not_an_answer() {
        let broken: [(&[u32], &[u8]); 5] = [
            (&[1], b""),
            (&[u32::MAX, 1], b"a"),
            (&[1], b"ab"),
            (&[], b"a"),
            (&[0; GROUP_ITEMS_MAX + 1], b""),
        ];
        for (lengths, payload) in broken {
            let fault = parts(&items(lengths), payload).unwrap_err();
            assert!(matches!(fault, Fault::Protocol(_)), "{lengths:?} {payload:?}");
        }
    }
}
