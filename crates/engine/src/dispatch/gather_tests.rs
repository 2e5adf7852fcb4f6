//! One response comes from one generation, whatever is committed meanwhile.

use onnxd_proto::wire::operation::Operation;

use crate::dispatch::gather::*;
use crate::models::registry::ModelSource;

/// A dispatch handle with room for 100 texts.
fn dispatch(events: mpsc::Sender<Event>) -> Dispatch {
    let limits = Limits { items: 100, timeout: Duration::from_secs(5) };
    Dispatch::new(events, Arc::default(), limits, Arc::default(), 1)
}

fn input() -> Input {
    Input { operation: Operation::Decode { skip_special: true }, parts: vec![Bytes::new()] }
}

fn model() -> Model {
    let name = "m".parse().unwrap();
    let uri = "/".parse().unwrap();
    let rules = Default::default();
    Model::new(
        0,
        ModelSource { name, aliases: Vec::new(), uri, preload: true, required: false, rules },
    )
}

fn answered(index: usize, generation: Generation) -> ItemAnswer {
    let bytes = Bytes::from(vec![u8::try_from(index % 256).unwrap(); 4]);
    let (timing, outputs) = (Timing::default(), Vec::new());
    ItemAnswer { generation, bytes, outputs, tokens: 1, timing, queued_at: Instant::now() }
}

/// Stands in for a dispatcher whose answers have the given generations, one list per round.
async fn served_by(rounds: &[&[Generation]], inputs: usize) -> (Answer, Vec<usize>) {
    let (events, mut incoming) = mpsc::channel(16);
    let dispatch = dispatch(events);
    let rounds: Vec<Vec<Generation>> = rounds.iter().map(|round| round.to_vec()).collect();
    let player = tokio::spawn(async move {
        let mut sizes = Vec::new();
        for round in rounds {
            let Some(Event::Submitted(items)) = incoming.recv().await else { panic!() };
            sizes.push(items.len());
            assert_eq!(items.len(), round.len());
            let together = items[0].together;
            assert!(items.iter().all(|item| item.together == together));
            assert_eq!(together, sizes.len() > 3);
            for (item, generation) in items.into_iter().zip(round) {
                let answered = answered(item.index, generation);
                item.reply.try_send((item.index, Ok(answered))).unwrap();
            }
        }
        sizes
    });
    let answer =
        dispatch.run(&model(), vec![input(); inputs], RequestTerms::default()).await.unwrap();
    (answer, player.await.unwrap())
}

#[tokio::test]
async fn a_response_from_one_generation_is_run_once() {
    let (answer, sizes) = served_by(&[&[4, 4, 4]], 3).await;
    assert_eq!((answer.generation, answer.tokens, sizes), (4, 3, vec![3]));
}

#[tokio::test]
async fn older_parts_are_rerun_and_keep_their_position() {
    let (answer, sizes) = served_by(&[&[1, 2, 1], &[2, 2]], 3).await;
    assert_eq!((answer.generation, sizes), (2, vec![3, 2]));
    let indices: Vec<u8> = answer.items.iter().map(|item| item.bytes[0]).collect();
    assert_eq!(indices, [0, 1, 2]);
}

#[tokio::test]
async fn repeated_commits_make_a_response_run_as_one_group() {
    let (answer, sizes) = served_by(&[&[1, 2], &[3], &[4], &[9, 9]], 2).await;
    assert_eq!((answer.generation, sizes), (9, vec![2, 1, 1, 2]));
}

#[tokio::test]
async fn a_full_queue_rejects_immediately() {
    let (events, _incoming) = mpsc::channel(16);
    let dispatch = dispatch(events);
    let permits = (0..2).map(|_| dispatch.acquire(0, 50, Priority::Interactive).unwrap());
    let _held: Vec<_> = permits.collect();
    let error = dispatch.run(&model(), vec![input()], RequestTerms::default()).await.unwrap_err();
    let retry_after = Duration::from_millis(50);
    assert_eq!(error, GatherError::Overloaded { limit: 100, retry_after });
}

#[tokio::test(start_paused = true)]
async fn a_request_may_shorten_but_not_extend_its_timeout() {
    let (events, _incoming) = mpsc::channel(16);
    let dispatch = dispatch(events);
    let model = model();
    for (requested, given) in [(Some(2), 2), (Some(60), 5), (None, 5)] {
        let terms =
            RequestTerms { timeout: requested.map(Duration::from_secs), ..RequestTerms::default() };
        let error = dispatch.run(&model, vec![input()], terms).await;
        assert_eq!(error.unwrap_err(), GatherError::Timeout(Duration::from_secs(given)));
    }
}

/// Answers one request with 500 inputs. Returns the maximum number of items queued at once.
async fn max_queued(priority: Priority) -> usize {
    let (events, mut incoming) = mpsc::channel(16);
    let dispatch = Arc::new(dispatch(events));
    let player = tokio::spawn(async move {
        let (mut waiting, mut most, mut seen) = (Vec::new(), 0, 0);
        while seen < 500 {
            if waiting.is_empty() || !incoming.is_empty() {
                let Some(Event::Submitted(items)) = incoming.recv().await else { panic!() };
                seen += items.len();
                waiting.extend(items);
            }
            most = most.max(waiting.len());
            for item in waiting.drain(..) {
                item.reply.try_send((item.index, Ok(answered(item.index, 3)))).unwrap();
            }
            tokio::task::yield_now().await;
        }
        most
    });
    let terms = RequestTerms { priority, ..RequestTerms::default() };
    let answer = dispatch.run(&model(), vec![input(); 500], terms).await.unwrap();
    assert!((0..500).all(|index| usize::from(answer.items[index].bytes[0]) == index % 256));
    player.await.unwrap()
}

#[tokio::test]
async fn a_large_request_leaves_room_and_is_answered_completely() {
    let most = max_queued(Priority::Interactive).await;
    assert!(most <= 50, "{most} items queued: more than half of the queue");
}

#[tokio::test]
async fn a_background_request_uses_half_of_its_queue_share() {
    let most = max_queued(Priority::Background).await;
    assert!(most <= 100 / BACKGROUND_DIVISOR / 2, "{most} items queued");
}

#[tokio::test]
async fn background_work_leaves_room_in_the_queue() {
    let (events, _incoming) = mpsc::channel(16);
    let dispatch = dispatch(events);
    let share = 100 / BACKGROUND_DIVISOR;
    let _background = dispatch.acquire(0, share, Priority::Background).unwrap();
    let error = dispatch.acquire(0, 1, Priority::Background).unwrap_err();
    assert!(matches!(error, GatherError::Overloaded { limit, .. } if limit == share));
    let interactive = dispatch.acquire(0, 100 - share, Priority::Interactive).unwrap();
    assert!(
        dispatch.acquire(0, 1, Priority::Interactive).is_err(),
        "both priorities share one limit"
    );
    drop(interactive);
    let _interactive = dispatch.acquire(0, 100 - share, Priority::Interactive).unwrap();
}

/// Runs a request under continuous commits, which end only when commits wait for the response.
async fn outlasts_commits(inputs: usize) {
    let (events, mut incoming) = mpsc::channel(16);
    let dispatch = dispatch(events);
    let model = Arc::new(model());
    let settles = Arc::clone(&model);
    let terms = RequestTerms::default();
    let player = tokio::spawn(async move {
        // A commit lands in each round until commits are blocked.
        let mut generation = 1;
        let mut answered_by = |items: Vec<Item>, rises: bool| {
            let last = items.len() - 1;
            for (index, item) in items.into_iter().enumerate() {
                let newer = u64::from(rises && index == last);
                let answered = answered(item.index, generation + newer);
                item.reply.try_send((item.index, Ok(answered))).unwrap();
            }
            generation += u64::from(rises);
        };
        for round in 0.. {
            let Some(Event::Submitted(items)) = incoming.recv().await else { panic!() };
            let soon = Duration::from_millis(20);
            if time::timeout(soon, settles.wait_for_commit_blocks()).await.is_err() {
                assert!(round >= 3 && items.iter().all(|item| !item.together));
                return answered_by(items, false);
            }
            answered_by(items, true);
        }
    });
    let answer = dispatch.run(&model, vec![input(); inputs], terms).await.unwrap();
    player.await.unwrap();
    assert_eq!(answer.items.len(), inputs);
    model.wait_for_commit_blocks().await;
}

#[tokio::test]
async fn commits_wait_for_a_response_too_large_for_one_group() {
    outlasts_commits(40).await;
}

#[tokio::test]
async fn background_work_never_delays_a_commit() {
    const COMMITS: u64 = 6;
    let (events, mut incoming) = mpsc::channel(16);
    let dispatch = dispatch(events);
    let model = Arc::new(model());
    let settles = Arc::clone(&model);
    let player = tokio::spawn(async move {
        // A commit lands in each of the first rounds and in none after that.
        for generation in 1..=COMMITS {
            let Some(Event::Submitted(items)) = incoming.recv().await else { panic!() };
            let settled =
                time::timeout(Duration::from_millis(20), settles.wait_for_commit_blocks()).await;
            assert!(settled.is_ok() && items.iter().all(|item| !item.together));
            let last = items.len() - 1;
            for (index, item) in items.into_iter().enumerate() {
                let newer = u64::from(generation < COMMITS && index == last);
                let answered = answered(item.index, generation + newer);
                item.reply.try_send((item.index, Ok(answered))).unwrap();
            }
        }
    });
    let terms = RequestTerms { priority: Priority::Background, ..RequestTerms::default() };
    let answer = dispatch.run(&model, vec![input(); 10], terms).await.unwrap();
    player.await.unwrap();
    assert_eq!((answer.items.len(), answer.generation), (10, COMMITS));
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_at_most_five_seconds_for_a_response() {
    let model = model();
    let block = model.block_commits().await;
    let start = time::Instant::now();
    model.wait_for_commit_blocks().await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    drop(block);
    model.wait_for_commit_blocks().await;
    assert_eq!(start.elapsed(), Duration::from_secs(5), "no response blocks commits any more");
}
