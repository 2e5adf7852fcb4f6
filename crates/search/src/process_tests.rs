use onnxd_proto::search::{Filter, Selection};

use super::*;

/// Returns a request that was sent so often, and its caller.
fn request(message: ToIndex, attempts: u32) -> (Request, oneshot::Receiver<FromIndex>) {
    let (reply, caller) = oneshot::channel();
    let (payload, held, permit) = (Bytes::new(), None, None);
    (Request { message, payload, attempts, reply, held, permit }, caller)
}

fn change(name: &str) -> ToIndex {
    let which = Selection::Matching(Filter::default());
    ToIndex::Delete { collection: name.to_owned(), which }
}

fn count(name: &str) -> ToIndex {
    ToIndex::Count { collection: name.to_owned(), filter: Filter::default() }
}

#[test]
fn a_new_change_never_overtakes_a_repeated_one() {
    let parts = [(change("a"), 1), (change("b"), 1), (change("new"), 0), (count("new"), 0)];
    let (mut again, _callers): (Vec<_>, Vec<_>) =
        parts.into_iter().map(|(message, attempts)| request(message, attempts)).unzip();
    let mut in_flight = BTreeMap::new();
    let mut send = |id: u64, in_flight: &mut BTreeMap<u64, Request>| {
        let mut request = take_next(&mut again, in_flight)?;
        request.attempts += 1;
        let message = request.message.clone();
        in_flight.insert(id, request);
        Some(message)
    };
    assert_eq!(send(1, &mut in_flight), Some(change("a")));
    // A search need not wait.
    assert_eq!(send(2, &mut in_flight), Some(count("new")));
    assert_eq!(send(3, &mut in_flight), None);
    in_flight.remove(&1);
    assert_eq!(send(3, &mut in_flight), Some(change("b")));
    assert_eq!(send(4, &mut in_flight), None);
    in_flight.remove(&3);
    assert_eq!(send(4, &mut in_flight), Some(change("new")));
}

#[test]
fn a_request_whose_caller_has_gone_is_dropped() {
    let (repeated, caller) = request(change("a"), 1);
    let (new, _waits) = request(change("b"), 0);
    let mut again = vec![repeated, new];
    drop(caller);
    let next = take_next(&mut again, &BTreeMap::new()).unwrap();
    assert_eq!((next.message, again.len()), (change("b"), 0));
}

#[tokio::test]
async fn a_permit_is_free_once_the_process_has_answered() {
    let permits = Arc::new(Semaphore::new(1));
    let (mut asked, caller) = request(change("a"), 1);
    asked.permit = Arc::clone(&permits).try_acquire_owned().ok();
    asked.held = Some(Box::new(Arc::clone(&permits)));
    // The caller does not wait.
    drop(caller);
    assert_eq!((permits.available_permits(), Arc::strong_count(&permits)), (0, 3));
    asked.answer(FromIndex::Done);
    assert_eq!((permits.available_permits(), Arc::strong_count(&permits)), (1, 1));
}
