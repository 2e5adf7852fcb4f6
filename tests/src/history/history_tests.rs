//! Each invariant detects a history that violates it, and no other invariant does.

use super::*;

pub(super) fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn version(generation: u64) -> &'static str {
    if generation % 2 == 1 { "version-of-a" } else { "version-of-b" }
}

pub(super) fn content(generation: u64) -> Result<String, String> {
    Ok(if generation % 2 == 1 { "a" } else { "b" }.to_owned())
}

pub(super) fn label(generation: u64) -> Label {
    Label { generation, version: version(generation).to_owned(), content: content(generation) }
}

fn update(start: u64, end: u64, generation: u64) -> Update {
    Update {
        start: at(start),
        end: at(end),
        generations: generation..=generation,
        version: version(generation).to_owned(),
    }
}

pub(super) fn request(
    client: usize,
    sequence: usize,
    times: (u64, u64),
    generation: u64,
) -> Request {
    Request {
        client,
        sequence,
        texts: 1,
        start: at(times.0),
        end: at(times.1),
        outcome: Outcome::Answered(label(generation)),
    }
}

/// Returns a valid history of two clients. Generation 2 is committed between 100 and 200 ms,
/// generation 3 from 300 ms on.
fn good() -> History {
    let requests = vec![
        request(0, 0, (10, 20), 1),
        request(0, 1, (90, 150), 1),
        request(0, 2, (151, 160), 2),
        request(0, 3, (210, 310), 2),
        request(1, 0, (110, 120), 1),
        request(1, 1, (130, 170), 2),
        request(1, 2, (290, 320), 3),
        request(1, 3, (420, 430), 3),
    ];
    History {
        sent: requests.len(),
        requests,
        updates: vec![update(0, 0, 1), update(100, 200, 2), update(300, 400, 3)],
        absences: Vec::new(),
        contents: BTreeMap::from([
            ("version-of-a".to_owned(), "a".to_owned()),
            ("version-of-b".to_owned(), "b".to_owned()),
        ]),
        deadline: at(1000),
    }
}

fn broken(history: &History) -> Vec<Invariant> {
    let mut found: Vec<Invariant> = match history.check() {
        Ok(_) => Vec::new(),
        Err(violations) => violations.iter().map(|violation| violation.invariant).collect(),
    };
    found.dedup();
    found
}

#[test]
fn a_valid_history_passes() {
    let summary = Summary { answered: 8, texts: 8, generations: 3, longest: at(100) };
    assert_eq!(good().check(), Ok(summary));
}

#[test]
fn an_answer_with_a_false_label_is_found() {
    let mut history = good();
    history.requests[2].outcome = Outcome::Answered(Label { content: content(1), ..label(2) });
    assert_eq!(broken(&history), [Invariant::LabelTruth]);
}

#[test]
fn an_answer_that_mixes_contents_is_found() {
    let mut history = good();
    let content = Err("nearest content is a, at distance 0.3".to_owned());
    history.requests[2].outcome = Outcome::Answered(Label { content, ..label(2) });
    assert_eq!(broken(&history), [Invariant::LabelTruth]);
}

#[test]
fn a_generation_with_two_versions_is_found() {
    let mut history = good();
    history.requests[2].outcome = Outcome::Answered(Label { generation: 2, ..label(1) });
    assert_eq!(broken(&history), [Invariant::LabelTruth]);
}

#[test]
fn an_unknown_version_is_found() {
    let mut history = good();
    history.contents.remove("version-of-b");
    assert_eq!(broken(&history), [Invariant::LabelTruth]);
}

#[test]
fn a_stale_answer_after_an_update_returned_is_found() {
    let mut history = good();
    // No answer has shown generation 3 before, so the order of answers alone is valid.
    history.requests.truncate(6);
    history.requests.push(request(1, 2, (420, 430), 2));
    history.sent = history.requests.len();
    assert_eq!(broken(&history), [Invariant::Freshness]);
}

#[test]
fn a_generation_that_decreases_for_one_client_is_found() {
    let mut history = good();
    history.requests[2] = request(0, 2, (151, 155), 2);
    history.requests.insert(3, request(0, 3, (156, 158), 1));
    history.requests[4].sequence = 4;
    history.sent += 1;
    assert_eq!(broken(&history), [Invariant::Order]);
}

#[test]
fn a_generation_that_decreases_across_clients_is_found() {
    let mut history = good();
    history.requests.push(request(2, 0, (175, 180), 1));
    history.sent += 1;
    assert_eq!(broken(&history), [Invariant::Order]);
}

#[test]
fn a_generation_that_answers_too_early_is_found() {
    let mut history = good();
    history.requests[3] = request(0, 3, (210, 290), 3);
    assert_eq!(broken(&history), [Invariant::NoInventions]);
    history.requests[7] = request(1, 3, (420, 430), 5);
    assert_eq!(broken(&history), [Invariant::NoInventions]);
}

#[test]
fn a_generation_that_was_never_committed_is_found() {
    let mut history = good();
    history.requests[7] = request(1, 3, (420, 430), 5);
    assert_eq!(broken(&history), [Invariant::NoInventions]);
}

#[test]
fn a_generation_committed_twice_is_found() {
    let mut history = good();
    history.updates.push(update(410, 415, 3));
    assert_eq!(broken(&history), [Invariant::NoInventions]);
}

#[test]
fn missing_duplicate_late_and_failed_answers_are_found() {
    let mut missing = good();
    missing.requests.remove(2);
    assert_eq!(broken(&missing), [Invariant::Answered, Invariant::Conservation]);

    let mut never_recorded = good();
    never_recorded.sent += 1;
    assert_eq!(broken(&never_recorded), [Invariant::Conservation]);

    let mut twice = good();
    twice.requests.push(twice.requests[7].clone());
    twice.sent += 1;
    assert_eq!(broken(&twice), [Invariant::Answered]);

    let mut late = good();
    late.requests[7].end = late.requests[7].start + at(1001);
    assert_eq!(broken(&late), [Invariant::Answered]);

    for outcome in [Outcome::Failed(503, String::new()), Outcome::Lost("reset".to_owned())] {
        let mut failed = good();
        failed.requests[7].outcome = outcome;
        assert_eq!(broken(&failed), [Invariant::Answered]);
    }
}

#[test]
fn joined_updates_may_answer_with_any_of_their_generations() {
    let mut history = good();
    history.updates[2].generations = 3..=5;
    history.updates[2].version = version(5).to_owned();
    assert_eq!(broken(&history), [Invariant::Freshness]);
    history.requests[7] = request(1, 3, (420, 430), 5);
    assert_eq!(broken(&history), []);
}

#[test]
fn a_404_is_allowed_only_while_the_model_is_unloaded() {
    let with_404 = |times: (u64, u64)| {
        let mut history = good();
        let unload = (at(500), at(510));
        history.absences = vec![Absence { unload, load: (at(600), at(620)) }];
        let outcome = Outcome::Failed(404, "it is unloaded".into());
        let request = Request { outcome, ..request(2, 0, times, 0) };
        history.requests.push(request);
        history.sent += 1;
        history
    };
    for times in [(495, 501), (505, 506), (550, 560), (615, 630)] {
        assert_eq!(broken(&with_404(times)), [], "{times:?}");
    }
    for times in [(480, 490), (625, 630)] {
        assert_eq!(broken(&with_404(times)), [Invariant::Answered], "{times:?}");
    }
    let mut history = with_404((550, 560));
    history.requests.push(request(2, 1, (570, 580), 3));
    history.sent += 1;
    assert_eq!(broken(&history), [Invariant::Answered], "no generation was loaded");
    let mut history = with_404((550, 560));
    history.requests.push(request(2, 1, (595, 605), 3));
    history.sent += 1;
    assert_eq!(broken(&history), [], "it may be loaded by then");
}
