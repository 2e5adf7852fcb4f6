//! Log setup for all executables: text or JSON lines, filtered by `ONNXD_LOG`, written to standard
//! error without blocking. Call [`init`] once, before the first event. [`set_filter`] changes the
//! filter while the process runs.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    panic,
    str::FromStr,
    sync::{Mutex, OnceLock, PoisonError},
};

use serde::Serialize;
use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime, time::SystemTime as Timestamp},
    reload,
};

use crate::stderr::Stderr;

/// Environment variable with the log filter.
pub const FILTER_VARIABLE: &str = "ONNXD_LOG";
/// Environment variable with the log format.
pub const FORMAT_VARIABLE: &str = "ONNXD_LOG_FORMAT";

/// Format of log events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of human-readable text per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Returns the format's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        [Self::Text, Self::Json]
            .into_iter()
            .find(|format| format.as_str() == word)
            .ok_or_else(|| Error::Format(word.to_owned()))
    }
}

/// Why the log cannot be set up.
#[derive(Debug, Error)]
pub enum Error {
    /// The filter cannot be parsed.
    #[error("{FILTER_VARIABLE}: {0}")]
    Filter(#[from] FilterError),
    /// The format is unknown.
    #[error("{FORMAT_VARIABLE} (--log-format): unknown format {0:?}; use text or json")]
    Format(String),
    /// [`init`] was called before.
    #[error("internal error: the log was initialized twice")]
    Twice,
}

/// A filter that cannot be used.
#[derive(Debug, Error)]
#[error(
    "invalid filter {filter:?}: {reason}; use a level (off, error, warn, info, debug or trace) or TARGET=LEVEL, several separated by commas"
)]
pub struct FilterError {
    filter: String,
    /// Reason for the rejection.
    reason: String,
}

/// The settings in effect.
struct Effective {
    filter: Mutex<String>,
    format: Format,
    /// Replaces the filter.
    reload: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

static EFFECTIVE: OnceLock<Effective> = OnceLock::new();

/// Sets up logging for this process, including panics. If `format` is `None`, the environment
/// variable decides.
///
/// # Errors
/// Returns an error if the filter or the format is invalid.
pub fn init(format: Option<&str>) -> Result<(), Error> {
    start(format, "info")
}

/// Starts the log like [`init`], but with warnings only unless the variable says otherwise. For
/// commands that print a result.
///
/// # Errors
/// Those of [`init`].
pub fn init_quiet() -> Result<(), Error> {
    start(None, "warn")
}

fn start(format: Option<&str>, default: &str) -> Result<(), Error> {
    let format = match format.map(str::to_owned).or_else(|| variable(FORMAT_VARIABLE)) {
        Some(word) => word.parse()?,
        None => Format::default(),
    };
    let text = variable(FILTER_VARIABLE).unwrap_or_else(|| default.into());
    let filter = filter(&text)?;
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr);
    // The two formats have different types.
    let initialized = match format {
        Format::Text => {
            let events = events.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
            let handle = events.reload_handle();
            put_into_effect(text, format, move |filter| handle.reload(filter))?;
            events.try_init()
        }
        Format::Json => {
            let events = events.json().with_filter_reloading();
            let handle = events.reload_handle();
            put_into_effect(text, format, move |filter| handle.reload(filter))?;
            events.try_init()
        }
    };
    initialized.map_err(|_| Error::Twice)
}

fn put_into_effect(
    filter: String,
    format: Format,
    reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
) -> Result<(), Error> {
    let effective = Effective { filter: filter.into(), format, reload: Box::new(reload) };
    EFFECTIVE.set(effective).map_err(|_| Error::Twice)?;
    write_panics();
    Ok(())
}

/// Returns the filter and the format in effect; `None` before [`init`].
pub fn current() -> Option<(String, Format)> {
    EFFECTIVE.get().map(|effective| {
        let filter = effective.filter.lock().unwrap_or_else(PoisonError::into_inner);
        (filter.clone(), effective.format)
    })
}

/// Replaces the filter of this process, and of children that it starts from now on.
///
/// # Errors
/// The filter cannot be parsed. The previous one stays in effect.
pub fn set_filter(text: &str) -> Result<(), FilterError> {
    let new = filter(text)?;
    let Some(effective) = EFFECTIVE.get() else { return Ok(()) };
    let mut current = effective.filter.lock().unwrap_or_else(PoisonError::into_inner);
    // Before the change, since the new filter may hide it.
    tracing::info!(from = *current, to = text, "changing the log filter");
    // Fails only if the subscriber is gone, which lives as long as the process.
    let _ = (effective.reload)(new);
    text.clone_into(&mut current);
    Ok(())
}

/// Returns the environment variables that make a child process log like this one.
pub fn variables() -> Vec<(&'static str, String)> {
    let Some((filter, format)) = current() else { return Vec::new() };
    vec![(FILTER_VARIABLE, filter), (FORMAT_VARIABLE, format.to_string())]
}

/// Writes why this process exits, regardless of the filter. A JSON log gets a regular event.
pub fn print_error(message: &str) {
    write_line(&format!("onnxd: {message}"), message);
}

fn write_line(text: &str, message: &str) {
    let line = match EFFECTIVE.get().map(|effective| effective.format) {
        Some(Format::Json) => json_line(message),
        Some(Format::Text) | None => format!("{text}\n"),
    };
    // One write per line. `Stderr` never fails.
    let _ = Stderr.write_all(line.as_bytes());
}

/// An event with the same fields as the JSON events of `tracing_subscriber`.
#[derive(Serialize)]
struct Event<'a> {
    timestamp: String,
    level: &'static str,
    fields: Fields<'a>,
    target: &'static str,
}

#[derive(Serialize)]
struct Fields<'a> {
    message: &'a str,
}

fn json_line(message: &str) -> String {
    let mut timestamp = String::new();
    // Ignore the error: an event without a timestamp is still worth writing.
    let _ = Timestamp.format_time(&mut Writer::new(&mut timestamp));
    let event = Event { timestamp, level: "ERROR", fields: Fields { message }, target: "onnxd" };
    serde_json::to_string(&event).unwrap_or_default() + "\n"
}

/// Reads an environment variable; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    let value = env::var_os(name)?;
    // Keep a value that is not UTF-8, so that parsing rejects it.
    Some(value.to_string_lossy().into_owned()).filter(|value| !value.trim().is_empty())
}

/// Returns whether this is a level, or a target with a level. Span filters are left to the parser.
fn is_directive(part: &str) -> bool {
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_target = |text: &str| {
        !text.is_empty() && text.chars().all(|sign| sign.is_alphanumeric() || "_-:".contains(sign))
    };
    match part.rsplit_once('=') {
        _ if part.contains('[') => true,
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    }
}

fn filter(text: &str) -> Result<EnvFilter, FilterError> {
    let invalid = |reason: String| FilterError { filter: text.to_owned(), reason };
    // EnvFilter would take anything else for a target, and a mistyped level would silence the log.
    let mut parts = text.split(',').map(str::trim).filter(|part| !part.is_empty()).peekable();
    if parts.peek().is_none() {
        // EnvFilter would log errors only.
        return Err(invalid("the filter is empty".to_owned()));
    }
    if let Some(part) = parts.find(|part| !is_directive(part)) {
        return Err(invalid(format!("`{part}` is neither a level nor TARGET=LEVEL")));
    }
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(text)
        .map_err(|error| invalid(error.to_string()))
}

/// Logs panics like events. The default hook would block on a slow reader.
fn write_panics() {
    crate::stderr::open();
    panic::set_hook(Box::new(|what| {
        let trace = std::backtrace::Backtrace::capture();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let message = format!("thread {name} panicked: {what}\n{trace}");
        write_line(&message, &message);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_the_log_is_refused() {
        for text in [
            "info",
            "onnxd=debug",
            "warn,onnxd_worker=trace",
            "off",
            "INFO",
            "info,",
            "onnxd[serve{worker=1}]=debug",
        ] {
            filter(text).expect(text);
        }
        for text in [
            "",
            " ",
            ",",
            "onnxd=",
            "=info",
            "debgu",
            "onnxd=debgu",
            "info,onnxd",
            "onnxd=debug,verbose",
            "a::b",
            "=",
            "[",
            "info;debug",
            "info debug",
            "inf.",
            "onnxd=",
            "info,onnxd=",
        ] {
            let message = Error::from(filter(text).expect_err(text)).to_string();
            assert!(message.starts_with("ONNXD_LOG: "), "{message}");
            assert!(message.contains(&format!("{text:?}")), "{message}");
            assert!(message.contains("use a level (off, error,"), "{message}");
        }
    }

    #[test]
    fn an_unknown_format_is_refused_and_known_ones_are_named() {
        assert_eq!("json".parse::<Format>().unwrap(), Format::Json);
        let message = "xml".parse::<Format>().unwrap_err().to_string();
        for words in ["ONNXD_LOG_FORMAT", "--log-format", "\"xml\"", "text or json"] {
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_line_that_is_not_an_event_is_still_json() {
        let line = json_line("a \"quoted\"\nmessage");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["fields"]["message"], "a \"quoted\"\nmessage");
        assert_eq!(event["level"], "ERROR");
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }
}
