//! The same random requests go to `onnxd-postgres` and to the embedded index, which must answer the
//! same.

use std::collections::{BTreeMap, BTreeSet};

use onnxd_proto::search::{
    Condition, Document, DocumentId, Filter, FromIndex, PayloadChange, Query, Range, Scalar,
    Selection, Shown, ToIndex,
};
use serde_json::{Value, json};

use crate::{
    database::Database,
    process::{Process, embed, hits, query, settings, upsert},
};

const ROUNDS: usize = 1500;
const TEXTS: [&str; 12] = [
    "a",
    "b",
    "a b",
    "A-b",
    "kiki",
    "\u{212a}iki",
    "İstanbul",
    "i\u{307}stanbul",
    "STRASSE straße",
    "ΌΣΟΣ",
    "x_y %z",
    "1 2",
];
const PATHS: [&str; 14] = [
    "f", "g", "f.g", "f[]", "f[].g", "g.f[].g", "\"f.g\"", "f.g[]", "", "x", "f[0]", "f..g",
    "f[][]", "f'\"\\",
];

/// A sequence of numbers that a seed determines.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % limit
    }

    fn one<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn value(&mut self, levels: usize) -> Value {
        match self.below(if levels == 0 { 11 } else { 17 }) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!(false),
            3 => json!(1.0),
            4 => json!(self.one(&[1.5, 1e16, -1e300, 1e-300, 0.1, -0.0])),
            5 => json!(self.one(&[i64::MAX, i64::MIN, -1, 9_007_199_254_740_993])),
            6 => json!(u64::MAX),
            7 | 8 => json!(self.below(3)),
            9 | 10 => json!(self.one(&TEXTS)),
            11..=13 => (0..self.below(3)).map(|_| self.value(levels - 1)).collect(),
            _ => self.object(levels - 1),
        }
    }

    fn object(&mut self, levels: usize) -> Value {
        let names = ["f", "g", "f.g", "f'\"\\"];
        let fields = (0..self.below(4)).map(|_| (*self.one(&names), self.value(levels)));
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn filter(&mut self, levels: usize) -> Filter {
        let conditions = |random: &mut Self, count| {
            (0..count).map(|_| random.condition(levels)).collect::<Vec<_>>()
        };
        let [must, should, must_not] = [2, 3, 2].map(|limit| self.below(limit));
        let min_should = match self.below(4) {
            0 => {
                let count = self.below(4);
                Some((conditions(self, count), self.below(4)))
            }
            _ => None,
        };
        Filter {
            must: conditions(self, must),
            should: conditions(self, should),
            must_not: conditions(self, must_not),
            min_should,
        }
    }

    fn condition(&mut self, levels: usize) -> Condition {
        let key = (*self.one(&PATHS)).to_owned();
        match self.below(if levels == 0 { 8 } else { 9 }) {
            0 | 1 => Condition::Any(key, self.scalars()),
            2 => Condition::Except(key, self.scalars()),
            3 => Condition::Range(key, self.range()),
            4 => Condition::Text(key, [*self.one(&TEXTS), *self.one(&["", " ", " B"])].concat()),
            5 => Condition::IsEmpty(key),
            6 => Condition::IsNull(key),
            7 => Condition::HasId((0..self.below(4)).map(|_| self.id()).collect()),
            _ => Condition::Nested(Box::new(self.filter(levels - 1))),
        }
    }

    fn scalars(&mut self) -> Vec<Scalar> {
        let scalar = |random: &mut Self| match random.below(5) {
            0 => Scalar::Bool(random.below(2) == 0),
            1 => Scalar::Integer(*random.one(&[i64::MAX, i64::MIN, -1, 10_000_000_000_000_000])),
            2 => Scalar::Integer(i64::try_from(random.below(3)).unwrap()),
            _ => Scalar::Text((*random.one(&TEXTS)).to_owned()),
        };
        (0..self.below(4)).map(|_| scalar(self)).collect()
    }

    fn range(&mut self) -> Range {
        let bounds = [
            0.0,
            -0.0,
            1.0,
            1.5,
            0.1,
            -1e300,
            1e16,
            9_007_199_254_740_992.0,
            f64::NAN,
            f64::INFINITY,
        ];
        let mut bound = || (self.below(3) == 0).then(|| *self.one(&bounds));
        Range { gt: bound(), gte: bound(), lt: bound(), lte: bound() }
    }

    fn id(&mut self) -> DocumentId {
        match self.below(2) {
            0 => DocumentId::Number(self.below(12) as u64),
            _ => DocumentId::Text(self.below(6).to_string()),
        }
    }

    fn selection(&mut self) -> Selection {
        match self.below(2) {
            // The embedded index counts a repeated id twice.
            0 => {
                let ids: BTreeSet<DocumentId> = (0..=self.below(2)).map(|_| self.id()).collect();
                Selection::Ids(ids.into_iter().collect())
            }
            _ => {
                let mut filter = self.filter(1);
                // Not everything at once.
                filter.must.push(Condition::HasId((0..4).map(|_| self.id()).collect()));
                Selection::Matching(filter)
            }
        }
    }

    fn documents(&mut self) -> Vec<Document> {
        let documents = (0..=self.below(3)).map(|_| {
            let text = format!("{} {}", self.one(&TEXTS), self.below(50));
            (self.id(), text, self.object(3).to_string())
        });
        // One id once: the order of writes in one request is not compared.
        let by_id: BTreeMap<_, _> =
            documents.map(|(id, text, payload)| (id, (text, payload))).collect();
        by_id.into_iter().map(|(id, (text, payload))| Document { id, text, payload }).collect()
    }
}

/// The two processes.
struct Both(Process, Process);

impl Both {
    fn ask(&self, message: &ToIndex, vectors: &[Vec<f32>]) -> (FromIndex, FromIndex) {
        (self.0.ask(message, vectors), self.1.ask(message, vectors))
    }

    /// Asks both, and expects the same.
    fn same(&self, message: &ToIndex, vectors: &[Vec<f32>]) {
        let (ours, embedded) = self.ask(message, vectors);
        match (&ours, &embedded) {
            (FromIndex::Failed(ours), FromIndex::Failed(embedded)) => {
                assert_eq!(ours.kind, embedded.kind, "{message:?}");
            }
            (FromIndex::Page(..), FromIndex::Page(..)) => {
                let parsed = |answer: FromIndex| {
                    let hits = hits(answer).into_iter();
                    hits.map(|hit| (hit.id, hit.text, canonical(&hit.payload))).collect::<Vec<_>>()
                };
                assert_eq!(parsed(ours), parsed(embedded), "{message:?}");
            }
            _ => assert_eq!(ours, embedded, "{message:?}"),
        }
    }
}

/// Returns a payload with its fields in one order, and zero without a sign.
fn canonical(payload: &Option<String>) -> Option<String> {
    fn sort(value: &Value) -> Value {
        match value {
            Value::Array(elements) => elements.iter().map(sort).collect(),
            Value::Object(fields) => {
                let sorted: BTreeMap<&String, Value> =
                    fields.iter().map(|(name, value)| (name, sort(value))).collect();
                sorted.into_iter().map(|(name, value)| (name.clone(), value)).collect()
            }
            Value::Number(number) if number.as_f64() == Some(0.0) && number.is_f64() => json!(0.0),
            other => other.clone(),
        }
    }
    payload.as_ref().map(|payload| sort(&serde_json::from_str(payload).unwrap()).to_string())
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn any_history_is_answered_like_by_the_embedded_index() {
    let database = Database::start();
    let both = Both(Process::postgres(&database.url()), Process::embedded());
    both.same(&ToIndex::Create("docs".into(), settings("{}")), &[]);
    let seed = std::env::var("ONNXD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(0x5eed);
    println!("ONNXD_TEST_SEED={seed}");
    let mut random = Random(seed);
    let mut compared = 0;
    for _ in 0..ROUNDS {
        let collection = || "docs".to_owned();
        match random.below(10) {
            0 | 1 => {
                let documents = random.documents();
                let vectors: Vec<_> = documents.iter().map(|one| embed("v1", &one.text)).collect();
                both.same(&upsert("docs", "v1", documents), &vectors);
            }
            2 => {
                let which = random.selection();
                if random.below(3) == 0 {
                    both.same(&ToIndex::Delete { collection: collection(), which }, &[]);
                } else {
                    let change = match random.below(3) {
                        0 => PayloadChange::Set(random.object(2).to_string()),
                        1 => PayloadChange::Replace(random.object(2).to_string()),
                        _ => PayloadChange::Remove(vec![(*random.one(&PATHS)).to_owned()]),
                    };
                    both.same(
                        &ToIndex::ChangePayload { collection: collection(), which, change },
                        &[],
                    );
                }
            }
            3 | 4 => both
                .same(&ToIndex::Count { collection: collection(), filter: random.filter(2) }, &[]),
            5..=7 => {
                let shown = Shown { text: true, payload: true, vector: None };
                let from = (random.below(3) == 0).then(|| random.id());
                let (filter, limit) = (random.filter(2), 1 + random.below(20));
                let collection = collection();
                both.same(&ToIndex::Scroll { collection, filter, from, limit, shown }, &[]);
            }
            _ => {
                let text = *random.one(&TEXTS);
                let query = Query {
                    filter: random.filter(2),
                    score_threshold: (random.below(3) == 0).then_some(0.9),
                    ..query("v1", 50)
                };
                let search = ToIndex::Search { collection: collection(), query };
                let (ours, embedded) = both.ask(&search, &[embed("v1", text)]);
                let (ours, embedded) = (hits(ours), hits(embedded));
                let scores = |hits: &[onnxd_proto::search::Hit]| -> BTreeMap<DocumentId, f32> {
                    hits.iter().map(|hit| (hit.id.clone(), hit.score)).collect()
                };
                let (ours, embedded) = (scores(&ours), scores(&embedded));
                assert!(ours.keys().eq(embedded.keys()), "{search:?}: {ours:?} {embedded:?}");
                for (one, other) in ours.values().zip(embedded.values()) {
                    assert!((one - other).abs() < 1e-5, "{search:?}: {ours:?} {embedded:?}");
                }
                compared += ours.len();
            }
        }
    }
    assert!(compared > ROUNDS / 3, "searches find documents: {compared}");
}
