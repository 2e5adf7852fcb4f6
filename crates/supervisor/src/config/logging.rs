//! Parses the settings of the access log: `--access-log` and `--trusted-proxy`.

use crate::transport::access::{AccessLog, mode::Mode, proxies::Network};
use onnxd_proto::exit::Failure;

/// Combines the settings of the access log.
///
/// # Errors
/// The mode is unknown, or a proxy is no network.
pub(super) fn access(mode: Option<String>, proxies: &[String]) -> Result<AccessLog, Failure> {
    // An empty variable counts as unset.
    let mode = match mode.filter(|mode| !mode.is_empty()) {
        Some(text) => text.trim().parse().map_err(|error| {
            Failure::configuration(format!("--access-log: {error}, got {text:?}"))
        })?,
        None => Mode::default(),
    };
    let network = |text: &String| {
        text.trim().parse::<Network>().map_err(|error| {
            Failure::configuration(format!("--trusted-proxy: {error}, got {text:?}"))
        })
    };
    let proxies = proxies.iter().filter(|text| !text.is_empty()).map(network);
    Ok(AccessLog { mode, proxies: proxies.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_of_the_access_log_name_their_flag() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(access(None, &[]).unwrap(), AccessLog::default());
        assert_eq!(access(text(""), &[String::new()]).unwrap(), AccessLog::default());
        let log = access(text("sampled=0.5"), &["10.0.0.0/8".into(), " ::1".into()]).unwrap();
        assert_eq!(log.mode, Mode::Sampled(0.5));
        let error = access(text("some"), &[]).unwrap_err().message;
        assert!(error.starts_with("--access-log: expected off, errors, all or"), "{error}");
        let error = access(None, &["proxy".into()]).unwrap_err().message;
        assert!(error.starts_with("--trusted-proxy: ") && error.contains("\"proxy\""), "{error}");
    }
}
