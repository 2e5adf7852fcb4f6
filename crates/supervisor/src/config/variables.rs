//! The `ONNXD_*` variables: empty ones are not set, unknown ones are reported, and lists are split.

use std::{env, ffi::OsStr};

use clap::{
    Arg, Command,
    builder::{self, Resettable},
};

/// Prefix of all variables.
const PREFIX: &str = "ONNXD_";

/// Variables that are not flags.
const OTHERS: [&str; 2] = [onnxd_telemetry::log::FILTER_VARIABLE, "ONNXD_SOURCE_CA_FILE"];
/// Variables that this program sets for itself, or that tests set. They are never suggested.
const INTERNAL: [&str; 9] = [
    "ONNXD_SUCCESSION_FDS",
    "ONNXD_PANIC_",
    "ONNXD_CRASH_POINT",
    "ONNXD_TEST_",
    "ONNXD_SIMULATION_SEED",
    "ONNXD_UPDATE_",
    "ONNXD_BUILD_ID",
    // Containers that are linked by Docker.
    "ONNXD_ENV_",
    "ONNXD_NAME",
];

/// Ignores the variable of an argument if it is empty, as `VARIABLE=` in a compose file makes it.
pub(crate) fn without_empty(argument: Arg) -> Arg {
    let is_empty = |variable: &OsStr| env::var_os(variable).is_some_and(|value| value.is_empty());
    match argument.get_env().is_some_and(is_empty) {
        true => argument.env(Resettable::<builder::OsStr>::Reset),
        false => argument,
    }
}

/// Returns a warning for each variable of this process whose name looks like a setting but is unknown.
/// `command` defines the settings.
pub(crate) fn unknown(command: &Command) -> Vec<String> {
    let variables = env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    });
    let mut warnings: Vec<String> =
        variables.filter_map(|(name, value)| warning(command, &name, &value)).collect();
    warnings.sort();
    warnings
}

fn warning(command: &Command, name: &str, value: &str) -> Option<String> {
    let flags = command.get_subcommands().flat_map(Command::get_arguments);
    let flags = flags.filter_map(|argument| argument.get_env()?.to_str());
    let mut known: Vec<&str> = flags.chain(OTHERS).collect();
    known.sort_unstable();
    known.dedup();
    let is_ours = name.to_ascii_uppercase().starts_with(PREFIX);
    let is_internal = INTERNAL.iter().any(|prefix| name.starts_with(prefix));
    if !is_ours || value.is_empty() || known.contains(&name) || is_internal {
        return None;
    }
    if is_service_link(name, value) {
        return None;
    }
    Some(match nearest(&known, name) {
        Some(near) => format!("unknown variable {name} is ignored, did you mean {near}?"),
        None => {
            format!("unknown variable {name} is ignored; `onnxd serve --help` lists the variables")
        }
    })
}

/// Returns whether Kubernetes or Docker set the variable for a service whose name begins with onnxd.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_of_port = |rest: &str| {
        let (port, protocol) = rest.split_once('_').unwrap_or((rest, ""));
        let protocol = protocol.split('_').next().unwrap_or_default();
        port.bytes().all(|byte| byte.is_ascii_digit()) && ["TCP", "UDP", "SCTP"].contains(&protocol)
    };
    let scheme = value.split_once("://").map(|(scheme, _)| scheme);
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && matches!(scheme, Some("tcp" | "udp" | "sctp"))
        || name.rsplit_once("_PORT_").is_some_and(|(_, rest)| is_of_port(rest))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_of_port(rest))
}

/// Returns the known name that is most like `name`, if a few typing errors explain the difference.
fn nearest<'a>(known: &[&'a str], name: &str) -> Option<&'a str> {
    let name = name.to_ascii_uppercase();
    let nearest = known.iter().min_by_key(|known| distance(&name, known)).copied()?;
    let length = name.len().max(nearest.len()) - PREFIX.len();
    (distance(&name, nearest) * 3 <= length).then_some(nearest)
}

/// Returns how many characters must be inserted, removed or replaced (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, byte) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, wanted) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte != wanted);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[other.len()]
}

/// Splits the entries of a variable, which are separated by commas or line breaks. A `\,` is a comma
/// of the entry.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut entries = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let Some(entry) = entries.last_mut() else { break };
        match character {
            '\\' if rest.peek() == Some(&',') => entry.extend(rest.next()),
            ',' | '\n' => entries.push(String::new()),
            other => entry.push(other),
        }
    }
    let entries = entries.into_iter().map(|entry| entry.trim().to_owned());
    entries.filter(|entry| !entry.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use crate::config::ServeArguments;

    use super::*;

    fn command() -> Command {
        Command::new("onnxd").subcommand(ServeArguments::augment_args(Command::new("serve")))
    }

    #[test]
    fn misspelt_variable_is_reported_with_the_nearest_name() {
        let command = command();
        let warning = |name: &str, value: &str| warning(&command, name, value);
        for (name, near) in [
            ("ONNXD_WORKER", "ONNXD_WORKERS"),
            ("ONNXD_MODELS", "ONNXD_MODEL"),
            ("ONNXD_LOG_FROMAT", "ONNXD_LOG_FORMAT"),
            ("ONNXD_LOGS", "ONNXD_LOG"),
            ("ONNXD_ADMIN_SOKET", "ONNXD_ADMIN_SOCKET"),
            ("onnxd_workers", "ONNXD_WORKERS"),
        ] {
            let text = warning(name, "4").unwrap();
            assert_eq!(text, format!("unknown variable {name} is ignored, did you mean {near}?"));
        }
        let text = warning("ONNXD_QQQ", "4").unwrap();
        assert!(text.contains("ONNXD_QQQ") && text.contains("--help"), "{text}");
    }

    #[test]
    fn known_variables_and_service_links_are_silent() {
        let command = command();
        for (name, value) in [
            ("ONNXD_WORKERS", "4"),
            ("ONNXD_LOG", "info"),
            ("ONNXD_SOURCE_CA_FILE", "/ca"),
            ("ONNXD_TEST_MODELS", "/m"),
            ("ONNXD_PANIC_TASK", "x"),
            ("ONNXD_WORKER", ""),
            ("HOME", "/root"),
            ("ONNXD_PORT", "tcp://10.0.0.1:8080"),
            ("ONNXD_SERVICE_HOST", "10.0.0.1"),
            ("ONNXD_SERVICE_PORT", "8080"),
            ("ONNXD_SERVICE_PORT_HTTP", "8080"),
            ("ONNXD_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("ONNXD_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("ONNXD_PORT_8080_TCP_PORT", "8080"),
            ("ONNXD_PORT_53_UDP_PROTO", "udp"),
            ("ONNXD_GRPC_PORT_8081_TCP_PROTO", "tcp"),
            ("ONNXD_GRPC_SERVICE_HOST", "10.0.0.1"),
        ] {
            assert_eq!(warning(&command, name, value), None, "{name}");
        }
        assert!(warning(&command, "ONNXD_PORT", "8080").is_some());
        assert!(warning(&command, "ONNXD_PORT_NUMBER", "8080").is_some());
    }

    #[test]
    fn list_is_split_at_commas_that_are_not_escaped() {
        for (text, entries) in [
            ("a=/x", &["a=/x"][..]),
            ("a=/x,b=/y", &["a=/x", "b=/y"]),
            ("a=/x\\,y,b=/z", &["a=/x,y", "b=/z"]),
            ("\n  a=/x\n  b=/y\n", &["a=/x", "b=/y"]),
            ("a=/x,", &["a=/x"]),
            ("a=/x\\y\\", &["a=/x\\y\\"]),
            ("", &[]),
        ] {
            assert_eq!(split(text), entries, "{text:?}");
        }
    }
}
