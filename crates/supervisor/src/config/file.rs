//! Completes settings with the TOML file of `--config`. Errors name the file, the line and the key.

use std::{collections::BTreeMap, error::Error as _, fs, ops::Range, path::Path};

use clap::{
    Args, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use onnxd_proto::exit::Failure;
use toml::de::DeTable;

use super::{Origins, ServeArguments, flags::FLAGS_ONLY, variables};

impl ServeArguments {
    /// Fills in settings from the file of `--config`. Flags and variables win.
    ///
    /// # Errors
    /// The file cannot be read, or has an unknown key or a wrong value.
    pub(crate) fn with_file(mut self, origins: &mut Origins) -> Result<Self, Failure> {
        // Flags may hold commas, since they can be repeated.
        for (flag, list) in [
            ("model", &mut self.models.model),
            ("source-key", &mut self.security.source_key),
            ("allow-source", &mut self.security.allow_source),
        ] {
            if origins.is_variable(flag) {
                *list = list.iter().flat_map(|text| variables::split(text)).collect();
            }
        }
        let settings = match &self.other.config {
            Some(path) => {
                let file = read(path, origins)?;
                self.over(file)
            }
            None => self,
        };
        origins.add_defaults();
        Ok(settings)
    }
}

/// Reads the settings of a file, and records their lines in `origins`.
///
/// # Errors
/// The file cannot be read, or has an unknown key or a wrong value.
fn read(path: &Path, origins: &mut Origins) -> Result<ServeArguments, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::configuration(format!("--config: cannot read {}: {error}", path.display()))
    })?;
    let (settings, lines) = parse(&text).map_err(|Invalid { line, reason }| {
        Failure::configuration(format!("{}:{line}: {reason}", path.display()))
    })?;
    origins.add_file(path, lines);
    Ok(settings)
}

/// Why a file is invalid.
#[derive(Debug)]
struct Invalid {
    line: usize,
    reason: String,
}

/// Returns the settings, and the line of each key.
fn parse(text: &str) -> Result<(ServeArguments, BTreeMap<String, usize>), Invalid> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let table = DeTable::parse(text).map_err(|error| Invalid {
        line: line(start(&error)),
        reason: error.message().replace('\n', ", "),
    })?;
    let mut lines = BTreeMap::new();
    for (key, value) in table.get_ref() {
        let line = line(key.span().start);
        let name: &str = key.get_ref();
        if let Some(reason) = unknown(name, value.get_ref().is_table()) {
            return Err(Invalid { line, reason });
        }
        lines.insert(name.to_owned(), line);
    }
    let settings = ServeArguments::from_toml(text).map_err(|error| {
        let at = start(&error);
        let mut values = table.get_ref().iter().map(|(key, value)| (key.get_ref(), value.span()));
        let reason = match values.find(|(_, span)| span.contains(&at)) {
            Some((key, span)) => wrong_value(key, text, span, &error),
            None => error.message().to_owned(),
        };
        Invalid { line: line(at), reason }
    })?;
    Ok((settings, lines))
}

/// Returns why a key is refused, or `None` if it is a setting.
fn unknown(key: &str, is_table: bool) -> Option<String> {
    if FLAGS_ONLY.contains(&key) {
        return Some(format!("{key:?} can only be a flag, remove it from the file"));
    }
    let command = ServeArguments::augment_args(Command::new("serve"));
    if command.get_arguments().any(|argument| argument.get_long() == Some(key)) {
        return None;
    }
    if is_table {
        return Some(format!(
            "unexpected table [{key}], put all keys at the top level of the file"
        ));
    }
    let error = command.try_get_matches_from(["serve", &format!("--{key}")]).err();
    let similar = error.as_ref().and_then(|error| error_context(error, ContextKind::SuggestedArg));
    Some(match similar.and_then(|flag| flag.strip_prefix("--")) {
        Some(similar) => format!("unknown key {key:?}, did you mean {similar:?}?"),
        None => format!(
            "unknown key {key:?}, keys are the flags of `onnxd serve --help` without the leading dashes"
        ),
    })
}

/// Returns the example in the help of a flag.
pub(crate) fn flag_example(command: &Command, long: &str) -> Option<String> {
    let argument = command.get_arguments().find(|argument| argument.get_long() == Some(long))?;
    let help = argument.get_long_help()?.to_string();
    help.lines().find_map(|line| line.strip_prefix("Example: ")).map(str::to_owned)
}

/// Returns what the key expects. Uses the flag's parser, so that file and flag agree.
fn wrong_value(key: &str, text: &str, span: Range<usize>, error: &toml::de::Error) -> String {
    let value = &text[span];
    let flag = format!("--{key}={}", value.trim_matches(['"', '\'']));
    let command = ServeArguments::augment_args(Command::new("serve"));
    let example = flag_example(&command, key);
    let refused = command.try_get_matches_from(["serve", &flag]).err().filter(|error| {
        error.kind() == ErrorKind::ValueValidation
            && error_context(error, ContextKind::InvalidArg)
                .and_then(|flag| flag.strip_prefix("--")?.strip_prefix(key))
                .is_some_and(|rest| {
                    !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-')
                })
    });
    match refused.as_ref().and_then(|error| error.source()) {
        Some(expected) => {
            let expected = expected.to_string();
            // Counts have no example, since a good one depends on the flag.
            let number = example.as_deref().and_then(|flag| flag.rsplit_once(' '));
            match number.filter(|_| expected.ends_with("at least 1")) {
                Some((_, number)) => {
                    format!("{key}: {expected}, for example {number}, got {value}")
                }
                None => format!("{key}: {expected}, got {value}"),
            }
        }
        None if error.message().contains("expected a boolean") => {
            format!("{key}: expected true or false without quotes, got {value}")
        }
        None if error.message().contains("expected a sequence") => {
            format!("{key}: expected a list, for example [{value}], got {value}")
        }
        None if value.starts_with(['"', '\'']) => {
            format!("{key}: expected a value without quotes, got {value}")
        }
        None => format!("{key}: {}", error.message()),
    }
}

/// Returns a text that clap attached to an error.
pub(crate) fn error_context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        ContextValue::Strings(texts) => texts.first().map(String::as_str),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_recorded_with_their_lines() {
        let (settings, lines) = parse("# x\nworkers = 2\n\nmodel = [\n  'a=/x',\n]\n").unwrap();
        assert_eq!((settings.workers.workers.unwrap().get(), settings.models.model.len()), (2, 1));
        assert_eq!(lines, BTreeMap::from([("workers".into(), 2), ("model".into(), 4)]));
    }

    #[test]
    fn errors_name_the_line_and_what_is_expected() {
        for (text, line, part) in [
            ("\nwrokers = 1", 2, "unknown key \"wrokers\", did you mean \"workers\"?"),
            ("state_dir = '/x'", 1, "did you mean \"state-dir\"?"),
            ("zzz = 1", 1, "unknown key \"zzz\", keys are the flags of `onnxd serve --help`"),
            ("[serve]\nworkers = 1", 1, "unexpected table [serve], put all keys at the top"),
            ("config = '/x'", 1, "\"config\" can only be a flag"),
            ("check-config = true", 1, "\"check-config\" can only be a flag"),
            (
                "retention = 1\nworkers = 0",
                2,
                "workers: expected a whole number of at least 1, for example 4, got 0",
            ),
            ("workers = \"one\"", 1, "at least 1, for example 4, got \"one\""),
            ("queue-limit = 0", 1, "at least 1, for example 1024, got 0"),
            ("workers = \"2\"", 1, "workers: expected a value without quotes, got \"2\""),
            ("listen = 'here'", 1, "listen: expected HOST:PORT"),
            (
                "min-cosine = 'x'",
                1,
                "min-cosine: expected a number from -1 to 1, for example 0.98, got 'x'",
            ),
            ("check-timeout = -1", 1, "check-timeout: expected a whole number of seconds"),
            ("strict = 'yes'", 1, "strict: expected true or false without quotes, got 'yes'"),
            ("strict = 'maybe'", 1, "strict: expected true or false, got 'maybe'"),
            ("model = 'm=/x'", 1, "model: expected a list, for example ['m=/x']"),
            ("model = [\n  'a=/x',\n  3,\n]", 3, "model: invalid type: integer `3`"),
            ("workers = 1\nlisten = \n", 2, ""),
        ] {
            let invalid = parse(text).unwrap_err();
            assert_eq!(invalid.line, line, "{text}: {}", invalid.reason);
            assert!(invalid.reason.contains(part), "{text}: {}", invalid.reason);
        }
    }
}
