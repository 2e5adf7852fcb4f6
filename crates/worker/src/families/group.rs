//! A dispatch group: the items of one frame, each answered exactly once and all by one generation.
//! Micro-batches are answered as they complete, so that short texts do not wait for long ones. Each
//! family decides how to answer its items.

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

// Numbers are little-endian on the wire and are sent as they are in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// Splits the payload of a group into the payloads of its items.
///
/// # Errors
/// The frame violates the protocol.
pub(crate) fn parts<'p>(items: &[Item], mut payload: &'p [u8]) -> Result<Vec<&'p [u8]>, Fault> {
    if items.len() > GROUP_ITEMS_MAX {
        return Err(malformed("has more items than the limit"));
    }
    let mut parts = Vec::with_capacity(items.len());
    for item in items {
        let length = usize::try_from(item.payload_bytes).unwrap_or(usize::MAX);
        let Some((part, rest)) = payload.split_at_checked(length) else {
            return Err(malformed("declares more bytes than its payload has"));
        };
        parts.push(part);
        payload = rest;
    }
    if payload.is_empty() {
        Ok(parts)
    } else {
        Err(malformed("has a longer payload than its items declare"))
    }
}

/// Returns the fault for a malformed group.
pub(crate) fn malformed(what: &str) -> Fault {
    Fault::Protocol(format!("a group {what}"))
}

/// A group as the supervisor sent it.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The frame's id.
    pub(crate) id: u64,
    pub(crate) items: Vec<Item>,
    /// Whether the group may run on several CPUs.
    pub(crate) wide: bool,
}

/// A group that is being answered.
pub(crate) struct Group<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) sender: &'a Sender,
}

/// Time spent on a micro-batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timings {
    pub(crate) tokenizing: Duration,
    pub(crate) inference: Duration,
    pub(crate) cpu: Duration,
}

impl Group<'_> {
    /// Rejects all items.
    pub(crate) fn reject_all(&mut self, reason: Rejection) -> Result<(), Fault> {
        self.reject((0..self.asked.items.len()).map(number).collect(), reason)
    }

    /// Rejects some items.
    pub(crate) fn reject(&mut self, items: Vec<u32>, reason: Rejection) -> Result<(), Fault> {
        self.sender.tell_group(self.asked.id, &FromWorker::Rejected { items, reason }, &[])
    }

    /// Sends the answers of one micro-batch. The payload is the concatenation of its slices.
    pub(crate) fn send(
        &mut self,
        generation: Generation,
        items: Vec<AnsweredItem>,
        took: Timings,
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

/// Converts a count of items, tokens or bytes; limits keep each below 2³².
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
    fn payload_is_split_by_item_lengths() {
        let cut = parts(&items(&[1, 0, 2, 3]), b"abcdef").unwrap();
        assert_eq!(cut, [&b"a"[..], b"", b"bc", b"def"]);
        assert!(parts(&[], b"").unwrap().is_empty());
    }

    #[test]
    fn inconsistent_group_lengths_are_a_protocol_fault() {
        let malformed: [(&[u32], &[u8]); 5] = [
            (&[1], b""),
            (&[u32::MAX, 1], b"a"),
            (&[1], b"ab"),
            (&[], b"a"),
            (&[0; GROUP_ITEMS_MAX + 1], b""),
        ];
        for (lengths, payload) in malformed {
            let fault = parts(&items(lengths), payload).unwrap_err();
            assert!(matches!(fault, Fault::Protocol(_)), "{lengths:?} {payload:?}");
        }
    }
}
