//! What only the live checker can be told. That it finds what breaks an invariant is tested through
//! whole histories, beside [`super::super::History`].

use super::super::tests::{at, content, label, request, version};
use super::*;

fn answered(live: &mut Live, request: &Request) -> Vec<Invariant> {
    let begun = live.begin();
    live.end(begun, request).into_iter().map(|violation| violation.invariant).collect()
}

#[test]
fn a_version_whose_content_nobody_said_has_the_one_that_its_first_answer_had() {
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
fn a_version_that_nobody_staged_is_found_in_the_end() {
    let mut live = Live::new(at(1000));
    assert_eq!(answered(&mut live, &request(0, 0, (10, 20), 2)), []);
    let found = live.finish(1);
    assert_eq!((found.len(), found[0].invariant), (1, Invariant::LabelTruth));
}

#[test]
fn a_content_that_contradicts_what_is_known_is_found() {
    let mut live = Live::new(at(1000));
    assert_eq!(answered(&mut live, &request(0, 0, (10, 20), 2)), []);
    let found = live.version(version(2), "a");
    assert_eq!((found.len(), found[0].invariant), (1, Invariant::LabelTruth));
}

#[test]
fn what_no_call_made_is_allowed_as_often_as_something_else_may_have_made_it() {
    let mut live = Live::new(at(1000));
    assert_eq!(live.version(version(1), "a"), []);
    let begun = live.begin();
    assert_eq!(live.end(begun, &request(0, 0, (1, 2), 1)), []);
    assert_eq!((live.unasked(), live.finish(1)), (1, Vec::new()));
    assert_eq!(live.finish(0).len(), 1);
}

#[test]
fn a_request_that_does_not_end_is_found_and_an_excused_one_is_not() {
    let mut live = Live::new(at(1000));
    let (first, _second) = (live.begin(), live.begin());
    live.excuse(first);
    let found = live.finish(0);
    assert_eq!((found.len(), found[0].invariant), (1, Invariant::Conservation));
}
