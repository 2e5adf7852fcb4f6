//! Whatever the other checker finds in a history that is whole, this one finds while it happens.

use super::super::{
    Absence, History, Invariant, Outcome, Request,
    tests::{at, content, good, label, request, update, version},
};
use super::*;

/// What happens at the same time is taken in this order, in which nothing is before anything else
/// that it need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin(usize),
    UnloadAsked,
    Unloaded,
    LoadAsked,
    End(usize),
    Committed(usize),
    Loaded,
}

fn events(history: &History) -> Vec<(Duration, Event)> {
    let mut events = Vec::new();
    for (place, request) in history.requests.iter().enumerate() {
        events.push((request.start, Event::Begin(place)));
        events.push((request.end, Event::End(place)));
    }
    for (place, update) in history.updates.iter().enumerate() {
        events.push((update.end, Event::Committed(place)));
    }
    for Absence { unload, load } in &history.absences {
        events.push((unload.0, Event::UnloadAsked));
        events.push((unload.1, Event::Unloaded));
        events.push((load.0, Event::LoadAsked));
        events.push((load.1, Event::Loaded));
    }
    events.sort();
    events
}

/// What is found in a history as it happens.
fn found(history: &History) -> Vec<Invariant> {
    let mut live = Live::new(history.deadline);
    let mut found = Vec::new();
    for (version, content) in &history.contents {
        found.extend(live.version(version, content));
    }
    let mut begun: BTreeMap<usize, Begun> = BTreeMap::new();
    for (_, event) in events(history) {
        match event {
            Event::Begin(place) => {
                begun.insert(place, live.begin());
            }
            Event::End(place) => {
                found.extend(live.end(begun.remove(&place).unwrap(), &history.requests[place]));
            }
            Event::Committed(place) => {
                let update = &history.updates[place];
                let content = history.contents.get(&update.version).map(String::as_str);
                let generations = update.generations.clone();
                found.extend(live.committed(update.start, generations, &update.version, content));
            }
            Event::UnloadAsked => live.unload_asked(),
            Event::Unloaded => live.unloaded(true),
            Event::LoadAsked => live.load_asked(),
            Event::Loaded => live.loaded(),
        }
    }
    found.extend(live.finish(0));
    let mut found: Vec<Invariant> = found.into_iter().map(|one| one.invariant).collect();
    found.dedup();
    found
}

#[test]
fn a_history_as_it_must_be_passes() {
    assert_eq!(found(&good()), []);
}

#[test]
fn an_answer_of_another_content_or_version_than_its_label_says_is_found() {
    for wrong in [
        Label { content: content(1), ..label(2) },
        Label { content: Err("0.3 away from a, which is nearest".to_owned()), ..label(2) },
        Label { generation: 2, ..label(1) },
    ] {
        let mut history = good();
        history.requests[2].outcome = Outcome::Answered(wrong.clone());
        assert_eq!(found(&history), [Invariant::LabelTruth], "{wrong:?}");
    }
}

#[test]
fn a_version_that_nobody_staged_is_found_in_the_end() {
    let mut history = good();
    history.contents.remove("version-of-b");
    history.updates.remove(1);
    assert!(found(&history).contains(&Invariant::LabelTruth));
}

#[test]
fn a_version_whose_content_nobody_said_has_the_one_that_its_first_answer_had() {
    let mut history = good();
    history.contents.clear();
    assert_eq!(found(&history), []);
    history.requests[5].outcome = Outcome::Answered(Label { content: content(1), ..label(2) });
    assert_eq!(found(&history), [Invariant::LabelTruth]);
}

#[test]
fn what_is_stale_or_falls_is_found() {
    let mut stale = good();
    stale.requests.truncate(6);
    stale.requests.push(request(1, 2, (420, 430), 2));
    assert_eq!(found(&stale), [Invariant::Freshness]);

    let mut falls = good();
    falls.requests.push(request(2, 0, (175, 180), 1));
    assert_eq!(found(&falls), [Invariant::Order]);
}

#[test]
fn a_generation_that_nothing_made_yet_or_ever_is_found() {
    let mut early = good();
    early.requests[3] = request(0, 3, (210, 290), 3);
    // Who has seen it early makes those stale that rightly have not.
    early.requests.truncate(6);
    assert_eq!(found(&early), [Invariant::NoInventions]);

    let mut never = good();
    never.requests[7] = request(1, 3, (420, 430), 5);
    assert_eq!(found(&never), [Invariant::NoInventions]);

    let mut twice = good();
    twice.updates.push(update(410, 415, 3));
    assert_eq!(found(&twice), [Invariant::NoInventions]);
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
fn a_request_that_fails_is_late_or_does_not_end_is_found() {
    let mut late = good();
    late.requests[7].end = late.requests[7].start + at(1001);
    assert_eq!(found(&late), [Invariant::Answered]);
    for outcome in [Outcome::Failed(503, String::new()), Outcome::Lost("reset".to_owned())] {
        let mut failed = good();
        failed.requests[7].outcome = outcome;
        assert_eq!(found(&failed), [Invariant::Answered]);
    }
    let mut live = Live::new(at(1000));
    let (first, _) = (live.begin(), live.begin());
    live.excuse(first);
    assert_eq!(live.finish(0)[0].invariant, Invariant::Conservation);
}

#[test]
fn only_while_it_is_unloaded_a_model_is_answered_404() {
    let with = |times: (u64, u64), is_404: bool| {
        let mut history = good();
        history.absences = vec![Absence { unload: (at(500), at(510)), load: (at(600), at(620)) }];
        let mut asked: Request = request(2, 0, times, 3);
        if is_404 {
            asked.outcome = Outcome::Failed(404, "it is unloaded".into());
        }
        history.requests.push(asked);
        found(&history)
    };
    for times in [(495, 501), (505, 506), (550, 560), (615, 630)] {
        assert_eq!(with(times, true), [], "{times:?}");
    }
    for times in [(480, 490), (625, 630)] {
        assert_eq!(with(times, true), [Invariant::Answered], "{times:?}");
    }
    assert_eq!(with((570, 580), false), [Invariant::Answered], "nothing served then");
    assert_eq!(with((595, 605), false), [], "it may have served by then");
}
