//! Applies `--poll` and `--fetch-binary`: how sources are watched, and the program that reads those on other servers.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use onnxd_engine::models::registry::ModelSource;
use onnxd_proto::{domain::SourceUri, exit::Failure};

use super::{duration, paths::executable_file, values::seconds};

/// Default of `--poll` for sources on other servers, in seconds.
const POLL_REMOTE: u64 = 60;
/// The program that reads sources on other servers.
const FETCHER: &str = "onnxd-fetch";

/// Returns the interval of each watched model, by name. `given` are the values of `--poll`.
///
/// # Errors
/// A value is not a number of seconds, or names an unknown model.
pub(super) fn intervals(
    models: &[ModelSource],
    given: &[String],
) -> Result<HashMap<String, Duration>, Failure> {
    let invalid =
        |value: &str, reason: &str| Failure::configuration(format!("--poll {value}: {reason}"));
    let (mut all, mut named) = (None, HashMap::new());
    for value in given {
        let (name, number) = match value.split_once('=') {
            Some((name, number)) => (Some(name), number),
            None => (None, value.as_str()),
        };
        let number = seconds(number).map_err(|reason| invalid(value, reason))?;
        match name {
            None => all = Some(number),
            Some(name) if models.iter().any(|model| model.name.as_str() == name) => {
                named.insert(name, number);
            }
            Some(name) => {
                let names = super::models::names(models);
                let reason = format!("no model is named {name:?}; the models are: {names}");
                return Err(invalid(value, &reason));
            }
        }
    }
    let interval = |model: &ModelSource| {
        let by_kind = match model.uri {
            SourceUri::Directory { .. } => 0,
            SourceUri::Remote(_) => POLL_REMOTE,
        };
        named.get(model.name.as_str()).copied().or(all).unwrap_or(by_kind)
    };
    let intervals = models.iter().map(|model| (model, interval(model)));
    let watched = intervals.filter(|(_, seconds)| *seconds > 0);
    Ok(watched
        .map(|(model, seconds)| (model.name.to_string(), duration(Some(seconds), 0)))
        .collect())
}

/// Returns the program that reads sources on other servers, if it is installed.
///
/// # Errors
/// It is missing although a model or the flag needs it.
pub(super) fn fetcher(
    given: Option<PathBuf>,
    models: &[ModelSource],
) -> Result<Option<PathBuf>, Failure> {
    let needed = given.is_some() || models.iter().any(|model| model.uri.directory().is_none());
    match executable_file("--fetch-binary", given, FETCHER) {
        Ok(path) => Ok(Some(path)),
        Err(_) if !needed => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[&str]) -> Result<Vec<(String, u64)>, String> {
        let model = |name: &str, uri: &str| ModelSource {
            name: name.parse().unwrap(),
            aliases: Vec::new(),
            uri: uri.parse().unwrap(),
            preload: true,
        };
        let models = [model("local", "/x"), model("remote", "hf://org/name")];
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        let found = intervals(&models, &given).map_err(|failure| failure.message)?;
        let mut found: Vec<_> =
            found.into_iter().map(|(name, interval)| (name, interval.as_secs())).collect();
        found.sort();
        Ok(found)
    }

    #[test]
    fn remote_sources_are_watched_by_default_and_directories_on_request() {
        let found = |local: u64, remote: u64| {
            let all = [("local".to_owned(), local), ("remote".to_owned(), remote)];
            Ok(all.into_iter().filter(|(_, seconds)| *seconds > 0).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), found(0, 60));
        assert_eq!(of(&["5"]), found(5, 5));
        assert_eq!(of(&["0"]), found(0, 0));
        assert_eq!(of(&["local=7"]), found(7, 60));
        assert_eq!(of(&["remote=0", "9"]), found(9, 0));
    }

    #[test]
    fn invalid_intervals_are_refused_with_the_reason() {
        for (value, reason) in [
            ("x", "whole number of seconds"),
            ("local=", "whole number of seconds"),
            ("-1", "whole number of seconds"),
            ("other=5", "the models are: local, remote"),
        ] {
            let message = of(&[value]).unwrap_err();
            assert!(message.contains(reason) && message.contains(value), "{message}");
        }
    }
}
