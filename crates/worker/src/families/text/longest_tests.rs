//! Simulated models with known needs, to verify the search.

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

const MIB: f64 = 1_048_576.0;

/// Needs `line · n + square · n²` bytes and as many nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Simulated {
    line: f64,
    square: f64,
}

impl Simulated {
    fn need(self, tokens: u32) -> Need {
        let tokens = f64::from(tokens);
        let bytes = self.line * tokens + self.square * tokens * tokens;
        let seconds = bytes * 1e-9;
        Need { bytes, cpu_seconds: seconds, seconds }
    }

    /// Returns what the search finds and the lengths that it ran. A run that needs more than
    /// `fatal` bytes kills the process.
    fn search(self, wanted: u32, limits: &Limits, fatal: f64) -> (Longest, Vec<u32>) {
        let mut runs = Vec::new();
        let found = search(wanted, limits, |tokens| {
            runs.push(tokens);
            let need = self.need(tokens);
            assert!(need.bytes <= fatal, "a run of {tokens} tokens kills the process");
            Ok::<_, Infallible>(Some(need))
        });
        (found.unwrap(), runs)
    }
}

fn limits(mebibytes: f64) -> Limits {
    Limits {
        memory: (mebibytes * MIB, Cause::CheckMemory),
        text_seconds: f64::INFINITY,
        all_seconds: f64::INFINITY,
        caution: 1.15,
    }
}

/// Plain attention of one layer with twelve heads: two buffers of attention weights.
const PLAIN: Simulated = Simulated { line: 3000.0, square: 96.0 };

#[test]
fn search_finds_the_requested_length_if_it_fits() {
    let (found, runs) = PLAIN.search(8192, &limits(1e6), f64::INFINITY);
    assert_eq!((found.tokens, found.shortfall.is_none()), (8192, true));
    assert_eq!(runs, [128, 256, 512, 1024, 2048, 4096, 8192]);
    for wanted in [1, 63, 64, 129, 500] {
        let (found, _) = PLAIN.search(wanted, &limits(1e6), f64::INFINITY);
        assert_eq!((found.tokens, found.shortfall.is_none()), (wanted, true));
    }
}

#[test]
fn search_stays_below_the_limit_and_wastes_little() {
    // 4096 tokens take 1550 MiB; 2000, 3000 and 4500 MiB are 4658, 5709 and 6995 tokens.
    for (mebibytes, tokens) in [(2000.0, 4600..=4658), (3000.0, 5600..=5709), (4500.0, 6900..=6995)]
    {
        let (found, runs) = PLAIN.search(8192, &limits(mebibytes), mebibytes * MIB);
        assert!(tokens.contains(&found.tokens), "{found:?} {runs:?}");
    }
    let (found, runs) = PLAIN.search(8192, &limits(3000.0), 3000.0 * MIB);
    assert!(runs.len() <= 9, "{runs:?}");
    let (cause, need) = found.shortfall.unwrap();
    assert_eq!(cause, Cause::CheckMemory);
    assert!((need.bytes / PLAIN.need(8192).bytes - 1.0).abs() < 0.01, "{need:?}");
}

#[test]
fn time_limits_are_reported_as_the_cause() {
    // A text of 8192 tokens takes 6.5 s, one of 4096 takes 1.6 s.
    let slow = Limits { text_seconds: 2.0, ..limits(1e6) };
    let (found, _) = PLAIN.search(8192, &slow, f64::INFINITY);
    assert_eq!(found.shortfall.unwrap().0, Cause::TextTime);
    assert!((4000..=4553).contains(&found.tokens), "{found:?}");
    let short = Limits { all_seconds: 2.0, ..limits(1e6) };
    let (found, runs) = PLAIN.search(8192, &short, f64::INFINITY);
    assert_eq!(found.shortfall.unwrap().0, Cause::CheckTime);
    let all: f64 = runs.iter().map(|&tokens| PLAIN.need(tokens).seconds).sum();
    assert!(all <= 2.0 && found.tokens >= 2048, "{all} {found:?}");
}

#[test]
fn first_limit_reached_is_the_cause() {
    // 8192 tokens take 6.5 s and 6170 MiB, 5120 take 2.5 s.
    let both = Limits { text_seconds: 2.5, ..limits(4500.0) };
    let (found, runs) = PLAIN.search(8192, &both, f64::INFINITY);
    assert_eq!(found.shortfall.unwrap().0, Cause::TextTime, "{found:?} {runs:?}");
}

#[test]
fn failed_allocation_limits_the_length() {
    let mut runs = Vec::new();
    let found = search(8192, &limits(f64::INFINITY), |tokens| {
        runs.push(tokens);
        Ok::<_, Infallible>((tokens <= 3000).then(Need::default))
    });
    let found = found.unwrap();
    assert!((2048..=3000).contains(&found.tokens), "{found:?} {runs:?}");
    assert_eq!(found.shortfall.unwrap().0, Cause::CheckMemory);
    let nothing = search(64, &limits(1e6), |_| Ok::<_, Infallible>(None)).unwrap();
    assert_eq!((nothing.tokens, nothing.shortfall.is_some()), (0, true));
}

#[test]
fn slow_model_still_accepts_short_texts() {
    let slow = Limits { text_seconds: 1e-9, ..limits(1e6) };
    for (wanted, tokens) in [(64, 64), (128, 128), (8192, 128)] {
        let (found, _) = PLAIN.search(wanted, &slow, f64::INFINITY);
        assert_eq!((found.tokens, found.shortfall.is_some()), (tokens, wanted > tokens));
    }
}

proptest! {
    #[test]
    fn search_never_exceeds_the_limit(
        line in 0.0..1e6_f64,
        square in 0.0..2000.0_f64,
        wanted in 1..40_000_u32,
        mebibytes in 50.0..8000.0_f64,
    ) {
        let model = Simulated { line, square };
        // The first length always fits.
        let limit = mebibytes.max(model.need(FIRST).bytes / MIB + 1.0);
        let (found, runs) = model.search(wanted, &limits(limit), limit * MIB);
        prop_assert!(runs.len() <= 16, "{:?}", runs);
        prop_assert!(found.tokens <= wanted && found.tokens >= FIRST.min(wanted));
        // The search leaves little unused.
        if found.tokens < wanted {
            // After one run, all growth counts as quadratic. Then a gain of less than a half is not
            // tried, although a linear model could take texts 1.5² times as long.
            let more = (found.tokens + found.tokens / 8 + 2 * STEP).max(FIRST * 9 / 4);
            prop_assert!(more > wanted || model.need(more).bytes > limit * MIB, "{:?}", found);
        }
    }
}
