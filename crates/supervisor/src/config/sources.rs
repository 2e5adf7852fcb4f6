//! Applies `--poll`, `--settle`, `--source-key` and `--fetch-binary`: how sources are watched and verified, and the
//! program that reads those on other servers.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use onnxd_engine::models::{
    registry::ModelSource,
    sources::{SourceRules, signature::SourceKey},
};
use onnxd_proto::{
    domain::{SourceUri, model_name::ModelName},
    exit::Failure,
};

use super::{Problems, SECONDS_MAX, duration, paths::executable_file, values::seconds};
use crate::transport::secret_file;

/// Default of `--poll` for sources on other servers, in seconds.
const POLL_REMOTE: u64 = 60;
/// The program that reads sources on other servers.
const FETCHER: &str = "onnxd-fetch";
/// Maximum size of a file with a public key in bytes.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

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
    let mut problems = Problems::default();
    for value in given {
        let (name, number) = match value.split_once('=') {
            Some((name, number)) => (Some(name), number),
            None => (None, value.as_str()),
        };
        let number = seconds(number).map_err(|reason| invalid(value, reason));
        let Some(number) = problems.keep(number) else { continue };
        match name {
            None => all = Some(number),
            Some(name) => match models.iter().find(|model| model.is_named(name)) {
                Some(model) => drop(named.insert(model.name.as_str(), number)),
                None => {
                    let names = super::models::names(models);
                    let reason = format!("no model is named {name:?}; the models are: {names}");
                    problems.keep::<()>(Err(invalid(value, &reason)));
                }
            },
        }
    }
    problems.finish()?;
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

/// Returns what the sources of each model must satisfy. `keys` are the values of `--source-key`.
///
/// # Errors
/// A key names an unknown model or a file without a key.
pub(super) fn rules(
    models: &[ModelSource],
    keys: &[String],
    settle: Option<u64>,
) -> Result<Vec<SourceRules>, Failure> {
    let mut of_model: HashMap<ModelName, Vec<SourceKey>> = HashMap::new();
    for value in keys {
        let invalid =
            |reason: &str| Failure::configuration(format!("--source-key {value}: {reason}"));
        let (name, file) = value
            .split_once('=')
            .ok_or_else(|| invalid("expected NAME=FILE, for example minilm=/etc/onnxd/key.pub"))?;
        let Some(model) = models.iter().find(|model| model.is_named(name)) else {
            let names = super::models::names(models);
            return Err(invalid(&format!("no model is named {name:?}; the models are: {names}")));
        };
        let bytes = secret_file::read(Path::new(file), KEY_FILE_BYTES_MAX)
            .map_err(|error| invalid(&error.to_string()))?;
        let key = SourceKey::parse(&String::from_utf8_lossy(&bytes)).map_err(invalid)?;
        of_model.entry(model.name.clone()).or_default().push(key);
    }
    let settle = settle.map(|seconds| Duration::from_secs(seconds.min(SECONDS_MAX)));
    let rules = models.iter().map(|model| {
        let keys = of_model.remove(&model.name).unwrap_or_default().into();
        SourceRules { keys, settle }
    });
    Ok(rules.collect())
}

/// Adds to each model its rules, which are in the same order.
pub(super) fn with_rules(models: Vec<ModelSource>, rules: Vec<SourceRules>) -> Vec<ModelSource> {
    let with = |(model, rules)| ModelSource { rules, ..model };
    models.into_iter().zip(rules).map(with).collect()
}

/// Returns the program that reads sources on other servers and exports traces, if it is installed.
///
/// # Errors
/// It is missing although a model, the flag or the export needs it.
pub(super) fn fetcher(
    given: Option<PathBuf>,
    models: &[ModelSource],
    exports_traces: bool,
) -> Result<Option<PathBuf>, Failure> {
    let needed = exports_traces
        || given.is_some()
        || models.iter().any(|model| model.uri.directory().is_none());
    match executable_file("--fetch-binary", given, FETCHER) {
        Ok(path) => Ok(Some(path)),
        Err(_) if !needed => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models() -> [ModelSource; 2] {
        let model = |name: &str, uri: &str| ModelSource {
            name: name.parse().unwrap(),
            aliases: Vec::new(),
            uri: uri.parse().unwrap(),
            preload: true,
            required: false,
            rules: Default::default(),
        };
        [model("local", "/x"), model("remote", "hf://org/name")]
    }

    #[test]
    fn keys_belong_to_their_model() {
        const KEY: &str = "untrusted comment: minisign public key CF76DF6C8C3DD691\nRWSR1j2MbN92z4+vOIYadAYscDut/s3PdF6Wq/Y7yPKQ+8w6BrJsU9w1\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pub");
        std::fs::write(&file, KEY).unwrap();
        let with = |value: String| {
            let rules = rules(&models(), &[value], Some(3)).map_err(|failure| failure.message)?;
            Ok::<_, String>(with_rules(models().into(), rules))
        };
        let found = with(format!("remote={}", file.display())).unwrap();
        assert_eq!(found[0].rules.keys, Default::default());
        assert_eq!(found[1].rules.keys, vec![SourceKey::parse(KEY).unwrap()].into());
        assert!(found.iter().all(|model| model.rules.settle == Some(Duration::from_secs(3))));
        std::fs::write(&file, "no key").unwrap();
        for (value, reason) in [
            (format!("local={}", file.display()), "public key of minisign"),
            (format!("other={}", file.display()), "the models are: local, remote"),
            ("local=/nowhere".to_owned(), "No such file"),
            ("/nowhere".to_owned(), "expected NAME=FILE"),
        ] {
            let message = with(value.clone()).unwrap_err();
            assert!(message.contains(reason) && message.contains(&value), "{message}");
        }
    }

    fn of(given: &[&str]) -> Result<Vec<(String, u64)>, String> {
        let models = models();
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
        assert_eq!(of(&["x", "1", "other=5"]).unwrap_err().lines().count(), 2);
    }
}
