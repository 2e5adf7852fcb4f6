//! Each kind of wrong answer is found.

use super::*;

const LIMIT: usize = 2;

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Four texts. In space `b` their order is the reverse of that in space `a`.
fn spaces() -> Spaces {
    let a = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]];
    let b = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]];
    Spaces::of(&[("a", &a), ("b", &b)])
}

fn hit(id: u64, text: usize, score: f32) -> Hit {
    Hit { id, score, text: format!("text {text}") }
}

/// Document `n` has text `n`, acknowledged at 10 ms.
fn filled() -> Documents {
    let mut documents = Documents::new(4);
    let write = documents.begin(at(5), &[(1, Some(1)), (2, Some(2)), (3, Some(3))]);
    documents.acknowledge(write, at(10));
    documents
}

fn check(documents: &Documents, content: &str, from: u64, hits: &[Hit]) -> Result<(), String> {
    let asked = Asked { query: 0, limit: LIMIT, times: (at(from), at(from + 10)) };
    documents.check((&spaces(), content), asked, hits)
}

#[test]
fn an_exact_answer_passes_in_its_own_space_only() {
    let documents = filled();
    let (in_a, in_b) = ([hit(1, 1, 0.8), hit(2, 2, 0.6)], [hit(3, 3, 0.8), hit(2, 2, 0.6)]);
    assert_eq!(check(&documents, "a", 20, &in_a), Ok(()));
    assert_eq!(check(&documents, "b", 20, &in_b), Ok(()));
    assert!(check(&documents, "b", 20, &in_a).is_err());
    assert!(check(&documents, "a", 20, &in_b).is_err());
    let mixed = [hit(1, 1, 0.8), hit(3, 3, 0.8)];
    assert!(
        check(&documents, "a", 20, &mixed).is_err() && check(&documents, "b", 20, &mixed).is_err()
    );
}

#[test]
fn wrong_answers_are_found() {
    let documents = filled();
    for (hits, reason) in [
        (vec![hit(1, 1, 0.8)], "document 2 with scores"),
        (vec![hit(2, 2, 0.6), hit(3, 3, 0.0)], "document 1 with scores"),
        (vec![hit(2, 2, 0.6), hit(1, 1, 0.8)], "is behind a worse one"),
        (vec![hit(1, 1, 0.8), hit(1, 1, 0.8)], "found twice"),
        (vec![hit(1, 1, 0.9), hit(2, 2, 0.6)], "has score 0.9"),
        (vec![hit(1, 2, 0.6), hit(2, 2, 0.6)], "may have had"),
        (vec![hit(0, 1, 0.8), hit(2, 2, 0.6)], "may have had"),
        (vec![hit(9, 1, 0.8), hit(2, 2, 0.6)], "is unknown"),
        (vec![hit(1, 9, 0.8), hit(2, 2, 0.6)], "unknown text"),
        (vec![hit(1, 1, 0.8), hit(2, 2, 0.6), hit(3, 3, 0.0)], "3 documents were found"),
    ] {
        let found = check(&documents, "a", 20, &hits).expect_err(reason);
        assert!(found.contains(reason), "{reason}: {found}");
    }
}

#[test]
fn a_write_that_overlaps_a_search_may_be_seen_or_not() {
    let mut documents = filled();
    let write = documents.begin(at(25), &[(1, None)]);
    let (before, after) = ([hit(1, 1, 0.8), hit(2, 2, 0.6)], [hit(2, 2, 0.6), hit(3, 3, 0.0)]);
    for hits in [&before, &after] {
        assert_eq!(check(&documents, "a", 20, hits), Ok(()));
    }
    // It starts after the search has ended.
    assert!(check(&documents, "a", 10, &after).is_err());
    documents.acknowledge(write, at(30));
    assert!(check(&documents, "a", 31, &before).is_err(), "a deleted document was found");
    assert_eq!(check(&documents, "a", 31, &after), Ok(()));
    assert_eq!(documents.current().collect::<Vec<_>>(), [(2, 2), (3, 3)]);
}

#[test]
fn a_lost_write_may_be_seen_until_the_next_and_a_refused_one_never() {
    let (old, new) = ([hit(1, 1, 0.8), hit(2, 2, 0.6)], [hit(1, 0, 1.0), hit(2, 2, 0.6)]);
    let mut lost = filled();
    drop(lost.begin(at(15), &[(1, Some(0))]));
    assert_eq!((check(&lost, "a", 20, &old), check(&lost, "a", 90, &new)), (Ok(()), Ok(())));
    let write = lost.begin(at(100), &[(1, Some(1))]);
    lost.acknowledge(write, at(110));
    assert!(check(&lost, "a", 120, &new).is_err());

    let mut refused = filled();
    let write = refused.begin(at(15), &[(1, Some(0))]);
    refused.refuse(write);
    assert_eq!(check(&refused, "a", 20, &old), Ok(()));
    assert!(check(&refused, "a", 20, &new).is_err());
    assert_eq!(refused.current().next(), Some((1, 1)));
}
