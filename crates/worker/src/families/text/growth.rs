//! Models how resource needs grow with the length of a text: attention quadratically, the rest
//! linearly. Fits both terms to the last two runs. Pure; called by [`super::longest`].

/// The resources that a run needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Need {
    /// Memory in addition to the loaded model.
    pub(super) bytes: f64,
    /// CPU time.
    pub(super) cpu_seconds: f64,
    /// Wall-clock time.
    pub(super) seconds: f64,
}

impl Need {
    /// Returns the need with its times multiplied by `factor`.
    pub(super) fn slower(self, factor: f64) -> Self {
        Self { cpu_seconds: self.cpu_seconds * factor, seconds: self.seconds * factor, ..self }
    }
}

/// The last two runs with different lengths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    earlier: Option<(u32, Need)>,
    last: Option<(u32, Need)>,
}

impl Growth {
    /// Adds a run of `tokens` tokens.
    pub(super) fn add(&mut self, tokens: u32, need: Need) {
        self.earlier = self.last.replace((tokens, need));
    }

    /// Predicts the need of a text of `tokens` tokens.
    pub(super) fn predict(&self, tokens: u32) -> Need {
        let Some((length, last)) = self.last else { return Need::default() };
        let predict = |value: fn(&Need) -> f64| {
            let earlier = self.earlier.map(|(length, need)| (f64::from(length), value(&need)));
            extrapolate(earlier, (f64::from(length), value(&last)), f64::from(tokens))
        };
        Need {
            bytes: predict(|need| need.bytes),
            cpu_seconds: predict(|need| need.cpu_seconds),
            seconds: predict(|need| need.seconds),
        }
    }
}

/// Evaluates `line · x + square · x²` through both points at `x`. Neither coefficient is negative.
/// With one point, all growth counts as quadratic.
fn extrapolate(earlier: Option<(f64, f64)>, (at, value): (f64, f64), x: f64) -> f64 {
    let all_square = value / (at * at);
    let square = match earlier {
        Some((before, less)) if before < at => {
            ((value / at - less / before) / (at - before)).clamp(0.0, all_square)
        }
        Some((before, more)) if before > at => {
            ((more / before - value / at) / (before - at)).clamp(0.0, all_square)
        }
        _ => all_square,
    };
    let line = value / at - square * at;
    line * x + square * x * x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(points: &[(u32, f64)], tokens: u32) -> f64 {
        let mut growth = Growth::default();
        for &(length, bytes) in points {
            growth.add(length, Need { bytes, ..Need::default() });
        }
        growth.predict(tokens).bytes
    }

    #[test]
    fn linear_quadratic_and_mixed_growth_is_predicted() {
        assert_eq!(grown(&[(128, 128.0), (256, 256.0)], 1024).round(), 1024.0);
        assert_eq!(grown(&[(128, 16_384.0), (256, 65_536.0)], 512).round(), 262_144.0);
        let sum = |n: f64| 3.0 * n + 0.5 * n * n;
        let both = grown(&[(128, sum(128.0)), (256, sum(256.0))], 2048);
        assert_eq!(both.round(), sum(2048.0).round());
        // The longer one may have run first.
        let both = grown(&[(256, sum(256.0)), (128, sum(128.0))], 2048);
        assert_eq!(both.round(), sum(2048.0).round());
    }

    #[test]
    fn growth_is_capped_at_quadratic() {
        assert_eq!(grown(&[(128, 10.0)], 256).round(), 40.0);
        assert_eq!(grown(&[(128, 1.0), (256, 100.0)], 512).round(), 400.0);
        assert_eq!(grown(&[], 512), 0.0);
        // A longer run that needs less is noise; predict at least linear growth.
        assert_eq!(grown(&[(128, 10.0), (256, 8.0)], 512).round(), 16.0);
    }
}
