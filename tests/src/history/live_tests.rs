//! Tests what only the live checker supports. The tests of [`super::super::History`] cover
//! violations in whole histories.

use super::super::tests::{at, content, label, request, version};
use super::*;

fn answered(live: &mut Live, request: &Request) -> Vec<Invariant> {
    let start_info = live.begin();
    live.end(start_info, request).into_iter().map(|violation| violation.invariant).collect()
}

#[test]
fn the_first_answer_determines_an_unstated_content() {
    let mut live = Live::new(at(1000));
    assert_eq!(answered(&mut live, &request(0, 0, (10, 20), 2)), []);
    assert_eq!(live.committed(at(0), 2..=2, version(2), None), []);
    assert_eq!(answered(&mut live, &request(0, 1, (30, 40), 2)), []);
    let mut other = request(0, 2, (50, 60), 2);
    other.outcome = Outcome::Answered(Label { content: content(1), ..label(2) });
    assert_eq!(answered(&mut live, &other), [Invariant::LabelTruth]);
    assert_eq!(live.finish(0), []);
}

#[test]
fn a_version_that_was_never_staged_is_found_at_the_end() {
    let mut live = Live::new(at(1000));
    assert_eq!(answered(&mut live, &request(0, 0, (10, 20), 2)), []);
    let found = live.finish(1);
    assert_eq!((found.len(), found[0].invariant), (1, Invariant::LabelTruth));
}

#[test]
fn a_contradicting_content_is_found() {
    let mut live = Live::new(at(1000));
    assert_eq!(answered(&mut live, &request(0, 0, (10, 20), 2)), []);
    let found = live.version(version(2), "a");
    assert_eq!((found.len(), found[0].invariant), (1, Invariant::LabelTruth));
}

#[test]
fn unrequested_generations_are_limited_to_the_given_number() {
    let mut live = Live::new(at(1000));
    assert_eq!(live.version(version(1), "a"), []);
    let start_info = live.begin();
    assert_eq!(live.end(start_info, &request(0, 0, (1, 2), 1)), []);
    assert_eq!((live.unrequested(), live.finish(1)), (1, Vec::new()));
    assert_eq!(live.finish(0).len(), 1);
}

#[test]
fn an_unfinished_request_is_found_unless_excused() {
    let mut live = Live::new(at(1000));
    let (first, _second) = (live.begin(), live.begin());
    live.excuse(first);
    let found = live.finish(0);
    assert_eq!((found.len(), found[0].invariant), (1, Invariant::Conservation));
}
