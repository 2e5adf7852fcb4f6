//! Records where each setting came from, so that errors can name the variable, or the file and line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Command, parser::ValueSource};
use onnxd_proto::exit::Failure;

use super::paths::{default_admin_socket, default_state_dir};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Flag,
    Variable(String),
    File {
        path: PathBuf,
        line: usize,
    },
    /// A default below the directory that a variable names.
    Default(&'static str),
}

/// The origin of every given setting, by the flag's name without dashes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Returns the origins of the flags of `command`: the command line or variables.
    pub(crate) fn new(command: &Command, matches: &ArgMatches) -> Self {
        let origin = |argument: &clap::Arg| {
            let origin = match matches.value_source(argument.get_id().as_str())? {
                ValueSource::CommandLine => Origin::Flag,
                ValueSource::EnvVariable => {
                    Origin::Variable(argument.get_env()?.to_str()?.to_owned())
                }
                _ => return None,
            };
            Some((argument.get_long()?.to_owned(), origin))
        };
        Self(command.get_arguments().filter_map(origin).collect())
    }

    /// Returns whether the value of a flag came from its variable.
    pub(super) fn is_variable(&self, flag: &str) -> bool {
        matches!(self.0.get(flag), Some(Origin::Variable(_)))
    }

    /// Adds the keys of a file with their lines. Flags and variables win.
    pub(super) fn add_file(&mut self, path: &Path, lines: BTreeMap<String, usize>) {
        for (key, line) in lines {
            self.0.entry(key).or_insert_with(|| Origin::File { path: path.to_owned(), line });
        }
    }

    /// Adds the variables on which the defaults of directories depend.
    pub(super) fn add_defaults(&mut self) {
        let state_dir = default_state_dir().ok().map(|(variable, _)| ("state-dir", variable));
        let socket = default_admin_socket().ok().map(|(variable, _)| ("admin-socket", variable));
        for (flag, variable) in state_dir.into_iter().chain(socket) {
            self.0.entry(flag.to_owned()).or_insert(Origin::Default(variable));
        }
    }

    /// Adds the origin to each flag in each line of the message, unless it came from the command line.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let lines: Vec<String> = failure.message.lines().map(|line| self.explained(line)).collect();
        Failure { message: lines.join("\n"), ..failure }
    }

    /// Returns `--FLAG` with its origin.
    pub(crate) fn name(&self, flag: &str) -> String {
        self.explained(&format!("--{flag}"))
    }

    fn explained(&self, message: &str) -> String {
        let mut explained = message.to_owned();
        for (flag, origin) in &self.0 {
            let origin = match origin {
                Origin::Flag => continue,
                Origin::Variable(name) => format!(" (set by {name})"),
                Origin::Default(name) => format!(" (default from ${name})"),
                Origin::File { path, line } => format!(" (set in {}:{line})", path.display()),
            };
            let is_part = |character: char| character.is_ascii_alphanumeric() || character == '-';
            let flag = format!("--{flag}");
            let end = explained.match_indices(&flag).find_map(|(at, _)| {
                let end = at + flag.len();
                let is_whole =
                    !explained[..at].ends_with(is_part) && !explained[end..].starts_with(is_part);
                is_whole.then_some(end)
            });
            if let Some(end) = end {
                explained.insert_str(end, &origin);
            }
        }
        explained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        let variable = |name: &str| Origin::Variable(name.to_owned());
        let mut origins = Origins(BTreeMap::from([
            ("listen".to_owned(), Origin::Flag),
            ("workers".to_owned(), variable("ONNXD_WORKERS")),
        ]));
        let lines = ["listen", "workers", "tls-key", "queue-limit"];
        let lines = lines.map(str::to_owned).into_iter().zip(1..).collect();
        origins.add_file(Path::new("/etc/onnxd.toml"), lines);
        origins
    }

    #[test]
    fn errors_name_the_variable_or_the_line_of_the_file() {
        for (message, explained) in [
            ("--workers: no", "--workers (set by ONNXD_WORKERS): no"),
            ("--queue-limit: no", "--queue-limit (set in /etc/onnxd.toml:4): no"),
            (
                "--workers: no\n--workers: never",
                "--workers (set by ONNXD_WORKERS): no\n--workers (set by ONNXD_WORKERS): never",
            ),
            // The flag wins over the file.
            ("--listen: no", "--listen: no"),
            ("--worker: no", "--worker: no"),
            ("--workers-max x--workers", "--workers-max x--workers"),
            (
                "--tls-cert FILE and --tls-key FILE",
                "--tls-cert FILE and --tls-key (set in /etc/onnxd.toml:3) FILE",
            ),
        ] {
            let failure = origins().explain(Failure::configuration(message));
            assert_eq!(failure.message, explained);
        }
        assert_eq!(origins().name("workers"), "--workers (set by ONNXD_WORKERS)");
    }
}
