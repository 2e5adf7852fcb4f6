//! Whether a text is alone on the machine, so that idle workers' CPUs can help with it. Pure: time
//! comes in as an argument.

use crate::dispatch::policy::estimate::Work;

/// After two items were there at once, everything runs on one CPU for so long, in microseconds:
/// who is not alone now and then would be disturbed by help as often as he is helped.
const QUIET_MICROS: u64 = 20_000;
/// Runs that take less gain nothing by help, in microseconds.
const HELPED_MICROS_MIN: u32 = 1_500;

/// What was seen lately.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alone {
    crowded_until_micros: u64,
}

impl Alone {
    /// So many items wait or are computed.
    pub(crate) fn see(&mut self, now_micros: u64, items: usize) {
        if items > 1 {
            self.crowded_until_micros = now_micros.saturating_add(QUIET_MICROS);
        }
    }

    /// Whether this text, the only one now, is to be helped with.
    pub(crate) fn is_helped(self, now_micros: u64, work: Work) -> bool {
        now_micros >= self.crowded_until_micros && work.micros >= HELPED_MICROS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Work = Work { tokens: 20, micros: 5_000, bytes: 80 };

    #[test]
    fn a_text_is_helped_with_if_nobody_else_was_there_lately() {
        let mut alone = Alone::default();
        alone.see(1_000, 1);
        assert!(alone.is_helped(1_000, LONG));
        alone.see(2_000, 2);
        alone.see(3_000, 1);
        assert!(!alone.is_helped(21_999, LONG));
        assert!(alone.is_helped(22_000, LONG));
    }

    #[test]
    fn what_is_done_before_help_comes_is_not_helped_with() {
        let alone = Alone::default();
        assert!(!alone.is_helped(0, Work { tokens: 20, micros: 100, bytes: 80 }));
    }
}
