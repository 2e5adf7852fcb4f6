//! Unit tests of the queue's promises. `scheduler_simulation_tests.rs` adds workers and clients.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::dispatch::policy::scheduler::*;

/// Returns the run time in microseconds, on a machine where a call costs 2 ms and a token 0.2 ms.
pub(super) fn run_micros(texts: usize, tokens: u32) -> u32 {
    2000 + 200 * tokens * u32::try_from(texts).unwrap()
}

pub(super) fn work(tokens: u32) -> Work {
    Work { tokens, micros: run_micros(1, tokens), bytes: 80 }
}

pub(super) const INTERACTIVE: Priority = Priority::Interactive;

pub(super) fn arrival(slot: Slot, micros: u64, together: bool) -> Arrival {
    Arrival { slot, micros, priority: INTERACTIVE, together }
}

fn charge(slot: Slot, estimated: u64, took: u64) -> Charge {
    Charge { slot, priority: INTERACTIVE, estimated, took }
}

pub(super) fn age(item: ItemId) -> Age {
    Age { micros: item, item }
}

/// Pushes one item per length, numbered from `first`.
fn push(scheduler: &mut Scheduler, slot: Slot, first: ItemId, lengths: &[u32]) {
    for (item, tokens) in (first..).zip(lengths) {
        scheduler.push(
            age(item),
            Unit {
                slot,
                priority: INTERACTIVE,
                items: vec![item],
                work: work(*tokens),
                suspect: false,
            },
        );
    }
}

/// Returns the items of the next group if `free` workers may run any model.
fn next(scheduler: &mut Scheduler, free: usize) -> Option<Vec<ItemId>> {
    scheduler
        .next(|_, _| free, |_, texts, tokens| run_micros(texts, tokens))
        .map(|group| group.items)
}

#[test]
fn work_is_divided_among_the_free_workers() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[10; 6]);
    assert_eq!(next(&mut scheduler, 2), Some(vec![0, 1, 2]));
    assert_eq!(next(&mut scheduler, 1), Some(vec![3, 4, 5]));
    assert_eq!(next(&mut scheduler, 1), None);
}

#[test]
fn the_oldest_item_is_grouped_with_items_of_similar_length() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[10, 90, 11, 30, 9]);
    assert_eq!(next(&mut scheduler, 1), Some(vec![0, 2, 4]));
    assert_eq!(next(&mut scheduler, 1), Some(vec![1]), "30 padded to 90 would cost 12 ms more");
    assert_eq!(next(&mut scheduler, 1), Some(vec![3]));
}

#[test]
fn with_a_long_queue_groups_may_take_longer() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[12; 200]);
    let queued_micros = scheduler.micros(INTERACTIVE);
    assert_eq!(queued_micros, 200 * 4_400);
    let group = scheduler.next(|_, _| 1, |_, texts, tokens| run_micros(texts, tokens)).unwrap();
    let most = u64::from(run_micros(group.items.len(), 12));
    assert!(
        most <= queued_micros / GROUP_PART && most + 2_400 > queued_micros / GROUP_PART,
        "{most}"
    );
}

#[test]
fn items_age_as_if_an_idle_server_ran_them_one_by_one() {
    let items = [(5, work(10)), (6, work(20)), (7, work(30))];
    let separate = units(arrival(3, 1_000, false), &items, 2);
    let ages: Vec<u64> = separate.iter().map(|(age, _)| age.micros).collect();
    assert_eq!(ages, [1_000, 1_000 + 4_000 / 2, 1_000 + (4_000 + 6_000) / 2]);
    let [(age, all)] = &units(arrival(3, 1_000, true), &items, 2)[..] else {
        panic!("expected one unit")
    };
    assert_eq!((age.micros, &all.items[..], all.work.tokens), (1_000, &[5, 6, 7][..], 30));
    assert_eq!((all.work.micros, all.work.bytes), (4_000 + 6_000 + 8_000, 240));
}

#[test]
fn groups_fit_half_a_frame_and_large_tensors_run_separately() {
    let items = |tokens, bytes: [usize; 4]| {
        let mut scheduler = Scheduler::default();
        for (item, bytes) in (0..).zip(bytes) {
            let work = Work { bytes, ..work(tokens) };
            scheduler.push(
                age(item),
                Unit { slot: 0, priority: INTERACTIVE, items: vec![item], work, suspect: false },
            );
        }
        std::iter::from_fn(move || next(&mut scheduler, 1)).collect::<Vec<_>>()
    };
    let half = GROUP_BYTES_MAX / 2;
    assert_eq!(items(4, [half; 4]), [[0, 1], [2, 3]]);
    assert_eq!(items(4, [half + 1, half, half, half]), [vec![0], vec![1, 2], vec![3]]);
    assert_eq!(items(1, [SEPARATE_BYTES; 4]), [[0, 1, 2, 3]]);
    let large = SEPARATE_BYTES + 1;
    assert_eq!(items(1, [8, large, 8, 8]), [vec![0, 2, 3], vec![1]]);
    assert_eq!(items(1, [large, 8, 8, 8]), [vec![0], vec![1, 2, 3]]);
}

#[test]
fn a_group_takes_at_most_the_maximum_time() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[12; 32]);
    let group = scheduler.next(|_, _| 1, |_, texts, tokens| run_micros(texts, tokens)).unwrap();
    assert_eq!((group.items.len(), group.micros), (9, 2000 + 9 * 2400));
    // An item that takes longer than that is alone in its group.
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[500, 500]);
    assert_eq!(next(&mut scheduler, 1), Some(vec![0]));
}

/// Returns the models that get the next turns of one worker.
fn turns(scheduler: &mut Scheduler, count: usize) -> Vec<Slot> {
    let next =
        |_| scheduler.next(|_, _| 1, |_, texts, tokens| run_micros(texts, tokens)).unwrap().slot;
    (0..count).map(next).collect()
}

#[test]
fn models_are_charged_actual_time_and_keep_no_old_credit() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[100; 4]);
    push(&mut scheduler, 1, 100, &[100; 4]);
    assert_eq!(turns(&mut scheduler, 2), [0, 1], "alternating while estimates are right");
    let estimated = run_micros(1, 100).into();
    scheduler.correct(charge(0, estimated, estimated * 10));
    assert_eq!(turns(&mut scheduler, 4), [1, 1, 1, 0]);

    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[100; 4]);
    assert_eq!(turns(&mut scheduler, 2), [0, 0]);
    push(&mut scheduler, 1, 100, &[100; 4]);
    scheduler.correct(charge(1, estimated * 10, 0));
    assert_eq!(turns(&mut scheduler, 2), [1, 0]);
}

#[test]
fn a_cleared_queue_hands_out_nothing() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[10; 3]);
    scheduler.clear();
    assert!(scheduler.is_empty() && scheduler.micros(INTERACTIVE) == 0);
    assert_eq!(next(&mut scheduler, 1), None);
}

#[test]
fn cheap_texts_share_a_frame_whatever_their_length() {
    let mut scheduler = Scheduler::default();
    for (item, tokens) in (0..).zip([10, 500, 20]) {
        let work = Work { tokens, micros: 100, bytes: 80 };
        scheduler.push(
            age(item),
            Unit { slot: 0, priority: INTERACTIVE, items: vec![item], work, suspect: false },
        );
    }
    // Each text costs the same in any group: running together saves nothing.
    let group = scheduler.next(|_, _| 1, |_, texts, _| 100 * u32::try_from(texts).unwrap());
    assert_eq!(group.unwrap().items.len(), 3);
}

#[test]
fn units_stay_together_and_models_are_never_mixed() {
    let mut scheduler = Scheduler::default();
    let items: Vec<(ItemId, Work)> = (0..20).map(|item| (item, work(10))).collect();
    let together = units(arrival(0, 0, true), &items, 2);
    assert_eq!(together.len(), 1);
    together.into_iter().for_each(|(age, unit)| scheduler.push(age, unit));
    push(&mut scheduler, 1, 20, &[10]);
    push(&mut scheduler, 0, 21, &[10]);
    push(&mut scheduler, 1, 22, &[10]);
    assert_eq!(next(&mut scheduler, 4), Some((0..20).collect()));
    assert_eq!(next(&mut scheduler, 1), Some(vec![20, 22]));
    assert_eq!(next(&mut scheduler, 1), Some(vec![21]));
}

#[test]
fn work_without_a_free_worker_does_not_block_other_work() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 1, &[10]);
    push(&mut scheduler, 1, 2, &[10]);
    let group = scheduler
        .next(|slot, _| usize::from(slot == 1), |_, texts, tokens| run_micros(texts, tokens));
    assert_eq!(group.unwrap().items, [2]);
    assert_eq!(next(&mut scheduler, 0), None);
    assert_eq!(next(&mut scheduler, 1), Some(vec![1]));
}

#[test]
fn suspect_items_run_in_a_separate_group() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 0, 0, &[10, 10]);
    let suspect =
        Unit { slot: 0, priority: INTERACTIVE, items: vec![2], work: work(10), suspect: true };
    scheduler.push(age(2), suspect);
    push(&mut scheduler, 0, 3, &[10]);
    assert_eq!(next(&mut scheduler, 1), Some(vec![0, 1, 3]));
    assert_eq!(next(&mut scheduler, 1), Some(vec![2]));
    scheduler.push(
        age(4),
        Unit { slot: 0, priority: INTERACTIVE, items: vec![4], work: work(10), suspect: true },
    );
    push(&mut scheduler, 0, 5, &[10]);
    assert_eq!(
        next(&mut scheduler, 1),
        Some(vec![4]),
        "the oldest item comes first, in its own group"
    );
}

#[test]
fn a_single_text_does_not_wait_for_a_whole_large_request() {
    let mut scheduler = Scheduler::default();
    let many: Vec<(ItemId, Work)> = (0..32).map(|item| (item, work(100))).collect();
    let one = [(32, work(8))];
    // The single text arrives 1 ms later; the others take 22 ms each, on two workers.
    for (age, unit) in units(arrival(0, 0, false), &many, 2).into_iter().chain(units(
        arrival(0, 1000, false),
        &one,
        2,
    )) {
        scheduler.push(age, unit);
    }
    let order: Vec<ItemId> = std::iter::from_fn(|| next(&mut scheduler, 1)).flatten().collect();
    let index = order.iter().position(|item| *item == 32).unwrap();
    assert!(index <= 2, "{order:?}");
    assert_eq!(order.len(), 33);
}

#[test]
fn a_slow_model_delays_a_fast_one_only_by_the_running_group() {
    let mut scheduler = Scheduler::default();
    // 100 items of 22 ms are queued for the slow model before the first of the fast one arrives.
    push(&mut scheduler, 0, 0, &[100; 100]);
    let next_slot = |scheduler: &mut Scheduler| {
        scheduler.next(|_, _| 1, |_, texts, tokens| run_micros(texts, tokens)).unwrap().slot
    };
    assert_eq!(next_slot(&mut scheduler), 0);
    push(&mut scheduler, 1, 100, &[1, 1]);
    assert_eq!(next_slot(&mut scheduler), 1, "it waits only for the running group");
    // While both have work, each gets about half of the time.
    let (mut used, mut first) = ([0_u64; 2], 200);
    for _ in 0..50 {
        push(&mut scheduler, 1, first, &[10; 4]);
        first += 4;
        let group = scheduler.next(|_, _| 1, |_, texts, tokens| run_micros(texts, tokens)).unwrap();
        used[usize::from(group.slot)] += u64::from(group.micros);
    }
    assert!(used[0].abs_diff(used[1]) <= 2 * GROUP_MICROS_MAX, "{used:?}");
}

#[test]
fn a_model_without_work_saves_up_no_credit() {
    let mut scheduler = Scheduler::default();
    push(&mut scheduler, 1, 0, &[10]);
    next(&mut scheduler, 1).unwrap();
    push(&mut scheduler, 0, 1, &[100; 50]);
    (0..40).for_each(|_| drop(next(&mut scheduler, 1).unwrap()));
    push(&mut scheduler, 1, 100, &[100; 50]);
    let slot = |scheduler: &mut Scheduler| {
        scheduler.next(|_, _| 1, |_, texts, tokens| run_micros(texts, tokens)).unwrap().slot
    };
    let turns: Vec<Slot> = (0..6).map(|_| slot(&mut scheduler)).collect();
    assert!(turns.iter().filter(|&&slot| slot == 0).count() >= 2, "{turns:?}");
}

proptest! {
    #[test]
    fn the_oldest_item_is_always_in_the_next_group(
        lengths in prop::collection::vec(1..300_u32, 1..200),
        free in 1..8_usize,
    ) {
        let mut scheduler = Scheduler::default();
        push(&mut scheduler, 0, 0, &lengths);
        let mut waiting: BTreeSet<ItemId> = (0..lengths.len() as u64).collect();
        while let Some(group) = next(&mut scheduler, free) {
            prop_assert_eq!(group.first(), waiting.first());
            prop_assert!((1..=GROUP_ITEMS_MAX).contains(&group.len()));
            for item in group {
                prop_assert!(waiting.remove(&item));
            }
        }
        prop_assert!(waiting.is_empty());
    }
}
