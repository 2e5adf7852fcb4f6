//! Which requests the access log has: `--access-log`.

use std::str::FromStr;

use onnxd_telemetry::trace;

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Mode {
    /// None.
    #[default]
    Off,
    /// Those that failed.
    Errors,
    /// Those that failed, and this share of all others.
    Sampled(f64),
    /// All.
    All,
}

/// An unknown mode.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected off, errors, all or sampled=RATIO with a ratio from 0 to 1, such as sampled=0.01"
)]
pub(crate) struct ModeError;

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "off" => Ok(Self::Off),
            "errors" => Ok(Self::Errors),
            "all" => Ok(Self::All),
            _ => {
                let ratio = text.strip_prefix("sampled=").and_then(|ratio| ratio.parse().ok());
                let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.map(Self::Sampled).ok_or(ModeError)
            }
        }
    }
}

impl Mode {
    /// Decides whether to log a request. Call it once per request.
    pub(super) fn includes(self, failed: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Errors => failed,
            // 53 bits fit a float exactly.
            Self::Sampled(ratio) => failed || unit(trace::random()) < ratio,
            Self::All => true,
        }
    }
}

/// Maps random bits to a number from 0 up to, but not including, 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a float exactly")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_parse_and_wrong_ones_name_those_that_exist() {
        for (text, mode) in [
            ("off", Mode::Off),
            ("errors", Mode::Errors),
            ("all", Mode::All),
            ("sampled=0.01", Mode::Sampled(0.01)),
            ("sampled=1", Mode::Sampled(1.0)),
        ] {
            assert_eq!(text.parse::<Mode>().unwrap(), mode);
        }
        for text in ["", "on", "sampled", "sampled=", "sampled=1.1", "sampled=NaN", "sampled=-1"] {
            let message = text.parse::<Mode>().unwrap_err().to_string();
            assert!(message.contains("sampled=0.01"), "{message}");
        }
    }

    #[test]
    fn failures_are_always_included_and_others_by_ratio() {
        for mode in [Mode::Errors, Mode::Sampled(0.0), Mode::All] {
            assert!(mode.includes(true), "{mode:?}");
        }
        assert!(!Mode::Off.includes(true));
        assert!(!Mode::Errors.includes(false) && Mode::All.includes(false));
        let included = |ratio| (0..4000).filter(|_| Mode::Sampled(ratio).includes(false)).count();
        assert_eq!((included(0.0), included(1.0)), (0, 4000));
        assert!((800..1200).contains(&included(0.25)), "{}", included(0.25));
    }
}
