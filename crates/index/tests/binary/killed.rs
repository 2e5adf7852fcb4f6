//! Acknowledged writes survive SIGKILL at any moment, and a write is seen wholly or not at all.

use std::{collections::BTreeMap, sync::mpsc, thread, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use onnxd_proto::search::{Distance, DocumentId, Filter, FromIndex, Selection, Shown, ToIndex};
use tempfile::tempdir;

use crate::{
    process::{Index, bytes, document, embedded_as, hits, query, settings},
    start,
};

/// Kills of one run.
const KILLS: usize = 40;
/// Documents that are written over and over.
const DOCUMENTS: u64 = 40;

/// A generator of pseudo-random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// The texts of documents, by id.
type State = BTreeMap<u64, u64>;

/// A write, and the state after it.
struct Write {
    message: ToIndex,
    payload: Vec<u8>,
    after: State,
}

/// A vector that tells its text.
fn vector(text: u64) -> [f32; 2] {
    #[expect(clippy::cast_precision_loss, reason = "texts are small numbers")]
    let angle = text as f32 * 1e-4;
    [angle.cos(), angle.sin()]
}

/// Adds, replaces or removes several documents at once.
fn draw(random: &mut Random, state: &State, text: &mut u64) -> Write {
    let mut after = state.clone();
    let touched: Vec<u64> = (0..=random.below(8)).map(|_| random.below(DOCUMENTS)).collect();
    let collection = "docs".to_owned();
    if random.below(4) == 0 {
        after.retain(|id, _| !touched.contains(id));
        let which = Selection::Ids(touched.into_iter().map(DocumentId::Number).collect());
        return Write {
            message: ToIndex::Delete { collection, which },
            payload: Vec::new(),
            after,
        };
    }
    let (mut documents, mut payload) = (Vec::new(), Vec::new());
    for id in touched {
        *text += 1;
        after.insert(id, *text);
        documents.push(document(id, &text.to_string(), "{}"));
        payload.extend(bytes(&vector(*text)));
    }
    let message =
        ToIndex::Upsert { collection, embedded_as: embedded_as(), version: "v".into(), documents };
    Write { message, payload, after }
}

/// Reads all documents, and checks that each has the vector of its text.
fn read(index: &mut Index) -> State {
    let shown = Shown { text: true, payload: true, vector: Some("v".into()) };
    let (filter, collection) = (Filter::default(), "docs".to_owned());
    let found =
        hits(index.ask(&ToIndex::Scroll { collection, filter, from: None, limit: 1000, shown }));
    let document = |hit: &onnxd_proto::search::Hit| {
        let DocumentId::Number(id) = hit.id else { panic!("unexpected {:?}", hit.id) };
        let text: u64 = hit.text.as_ref().unwrap().parse().unwrap();
        let found = hit.vector.as_ref().unwrap();
        let wanted = vector(text);
        assert!((found[0] - wanted[0]).abs() + (found[1] - wanted[1]).abs() < 1e-6);
        (id, text)
    };
    let state: State = found.iter().map(document).collect();
    // The memory agrees with the disk.
    let nearest = hits(index.search("docs", query("v", 1000), &[1.0, 0.0]));
    assert_eq!(nearest.len(), state.len());
    state
}

#[test]
fn acknowledged_writes_survive_sigkill_and_none_is_torn() {
    let folder = tempdir().unwrap();
    let mut random = Random(7);
    let mut index = start(folder.path());
    index.ask(&ToIndex::Create("docs".into(), settings(Distance::Cosine)));
    let (mut state, mut text, mut writes, mut cut) = (State::new(), 0, 0, 0);
    for round in 0..KILLS {
        let pid = Pid::from_raw(index.child.id().try_into().unwrap());
        let delay = Duration::from_micros(random.below(30_000));
        let (begin, begun) = mpsc::channel();
        let killer = thread::spawn(move || {
            begun.recv().unwrap();
            thread::sleep(delay);
            kill(pid, Signal::SIGKILL).unwrap();
        });
        begin.send(()).unwrap();
        let unanswered = loop {
            let write = draw(&mut random, &state, &mut text);
            match index.try_ask(&write.message, &write.payload) {
                Ok(FromIndex::Changed(_)) => (state, writes) = (write.after, writes + 1),
                Ok(other) => panic!("unexpected {other:?}"),
                Err(_) => break write,
            }
        };
        killer.join().unwrap();
        drop(index);
        index = start(folder.path());
        let found = read(&mut index);
        assert!(
            found == state || found == unanswered.after,
            "kill {round}: found {found:?}, acknowledged {state:?}, unanswered {:?}",
            unanswered.after
        );
        cut += usize::from(found != state);
        // The supervisor repeats what was not answered.
        let repeated = index.ask_with(&unanswered.message, &unanswered.payload);
        assert!(matches!(repeated, FromIndex::Changed(_)), "{repeated:?}");
        state = unanswered.after;
        assert_eq!(read(&mut index), state, "kill {round}");
    }
    assert!(writes > KILLS, "only {writes} writes were acknowledged");
    println!("{writes} acknowledged writes, {cut} committed without an answer");
}
