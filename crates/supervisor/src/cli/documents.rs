//! Generates documents from the definition of the command line: completions, man pages and the reference.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use onnxd_proto::exit::{ExitStatus, Failure};

use super::{Cli, command, leaves};
use crate::config::ServeArguments;

/// Date of the man pages. Set it when the help changes.
const MAN_DATE: &str = "2026-11-29";

const REFERENCE_HEAD: &str = "\
# Command-line reference

Generated from the definition of the command line. Do not edit it by hand: a test names the command that updates it.

A flag wins over its variable, the variable over the key of the file that `--config` names, and the key over the default.
";

/// Prints the OpenAPI document.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn openapi() -> Result<ExitStatus, Failure> {
    print(crate::api::openapi::document().as_bytes())
}

/// Prints completions for a shell.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn completions(shell: Shell) -> Result<ExitStatus, Failure> {
    print(&completions_of(shell))
}

fn completions_of(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "onnxd", &mut script);
    script
}

/// Prints the reference, which is docs/reference.md.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn reference() -> Result<ExitStatus, Failure> {
    print(reference_text().as_bytes())
}

/// Writes `onnxd.1` and a page for each command into a directory.
///
/// # Errors
/// The directory cannot be written to.
pub(crate) fn man(directory: &Path) -> Result<ExitStatus, Failure> {
    let failed = |error: io::Error| {
        Failure::refused(format!("cannot write man pages to {}: {error}", directory.display()))
    };
    fs::create_dir_all(directory).map_err(failed)?;
    for (name, page) in man_pages() {
        fs::write(directory.join(name), page).map_err(failed)?;
    }
    Ok(ExitStatus::Success)
}

fn print(text: &[u8]) -> Result<ExitStatus, Failure> {
    match io::stdout().write_all(text) {
        Ok(()) => Ok(ExitStatus::Success),
        // The reader closed the pipe, for example `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitStatus::Success),
        Err(error) => Err(Failure::internal(format!("cannot write to standard output: {error}"))),
    }
}

/// Returns the name and the text of each page.
fn man_pages() -> Vec<(String, String)> {
    let mut root = command().disable_help_subcommand(true);
    root.build();
    let shown = || root.get_subcommands().filter(|sub| !sub.is_hide_set());
    let inner =
        shown().flat_map(|sub| sub.get_subcommands().filter(|sub| sub.get_name() != "help"));
    shown().chain(inner).cloned().chain([root.clone()]).map(man_page).collect()
}

fn man_page(command: Command) -> (String, String) {
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command).date(MAN_DATE).source(concat!("onnxd ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    let written = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(
            |()| if has_subcommands { man.render_subcommands_section(&mut page) } else { Ok(()) },
        );
    debug_assert!(written.is_ok(), "writing to memory does not fail");
    let page = String::from_utf8_lossy(&page);
    // man(7) has no blank lines outside of examples, and no line breaks beside a blank line.
    let mut text = page.replace(".br\n\n.br\n", ".sp\n").replace("\n\n", "\n.sp\n");
    text.push_str(&after_help_page(&after));
    (man.get_filename(), text)
}

/// Returns a section for each `Heading:`, with its lines as they are.
fn after_help_page(after: &str) -> String {
    let mut text = String::new();
    for line in after.lines().filter(|line| !line.is_empty()) {
        match line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            Some(heading) => {
                if !text.is_empty() {
                    text.push_str(".fi\n");
                }
                let _ = writeln!(text, ".SH {}\n.nf", heading.to_uppercase());
            }
            None => {
                let _ = writeln!(
                    text,
                    "{}",
                    line.trim_start().replace('\\', "\\e").replace('-', "\\-")
                );
            }
        }
    }
    if !text.is_empty() {
        text.push_str(".fi\n");
    }
    text
}

/// Returns the Markdown of docs/reference.md.
fn reference_text() -> String {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut text = REFERENCE_HEAD.to_owned();
    for (name, leaf) in leaves(&root).iter().filter(|(_, leaf)| !leaf.is_hide_set()) {
        reference_command(&mut text, name, leaf);
    }
    let after = root.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    if let Some((_, codes)) = after.split_once("Exit codes:\n") {
        let _ = write!(text, "\n## Exit codes\n\n```text\n");
        codes.lines().for_each(|line| _ = writeln!(text, "{}", line.trim_start()));
        text.push_str("```\n");
    }
    text
}

fn reference_command(text: &mut String, name: &str, command: &Command) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    let about = about.unwrap_or_default();
    // The first paragraph has no full stop in the help.
    let about = match about.split_once("\n\n") {
        Some((summary, details)) => format!("{summary}.\n\n{details}"),
        None => format!("{about}."),
    };
    let usage = command.clone().render_usage().to_string();
    let _ = write!(text, "\n## `onnxd {name}`\n\n{}\n", prose(&about));
    let _ = write!(text, "\n```text\n{}\n\n", usage.trim_start_matches("Usage: "));
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    for example in after.lines().filter_map(|line| line.strip_prefix("  ")) {
        let _ = writeln!(text, "{example}");
    }
    text.push_str("```\n");
    let has_keys = name == "serve";
    let is_shown = |arg: &&Arg| {
        !arg.is_hide_set()
            && !matches!(
                arg.get_action(),
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong
            )
    };
    let shown: Vec<&Arg> = command.get_arguments().filter(is_shown).collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in &shown {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = write!(text, "\n### {heading}\n");
        }
        for arg in shown.iter().filter(|arg| arg.get_help_heading() == heading) {
            reference_argument(text, arg, has_keys);
        }
    }
}

fn reference_argument(text: &mut String, arg: &Arg, has_keys: bool) {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (summary, details) = help.split_once("\n\n").unwrap_or((&help, ""));
    let (summary, default) = match summary.split_once(" [default: ") {
        Some((summary, default)) => (summary, default.strip_suffix(']')),
        None => (summary, None),
    };
    let mut defaults = arg.get_default_values().iter().filter_map(|value| value.to_str());
    let takes_value = !matches!(arg.get_action(), ArgAction::SetTrue);
    let default = default.or_else(|| defaults.next().filter(|_| takes_value));
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    let values = match arg {
        _ if !takes_value => String::new(),
        _ if arg.is_require_equals_set() => format!("[={values}]"),
        _ if arg.is_positional() => values,
        _ => format!(" {values}"),
    };
    let flag = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
    let _ = write!(text, "\n#### `{flag}{values}`\n\n{}.", prose(summary));
    let key = arg.get_long().filter(|long| has_keys && ServeArguments::is_key(long));
    let facts: Vec<String> = [
        arg.get_env().map(|name| format!("Variable `{}`", name.display())),
        key.map(|key| format!("key `{key}`")),
        default.map(|default| format!("default: {}", prose(default))),
    ]
    .into_iter()
    .flatten()
    .collect();
    text.push('\n');
    if !facts.is_empty() {
        let facts = facts.join(", ");
        let _ = write!(
            text,
            "\n{}.\n",
            facts.replacen(
                "default: ",
                if facts.starts_with("default") { "Default: " } else { "default: " },
                1
            )
        );
    }
    for paragraph in details.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        match paragraph.strip_prefix("Example: ") {
            Some(example) => _ = write!(text, "\nExample: `{example}`\n"),
            None => _ = write!(text, "\n{}\n", prose(paragraph)),
        }
    }
    let values = if takes_value { arg.get_possible_values() } else { Vec::new() };
    // Booleans have values without help, which their usage shows.
    if values.iter().any(|value| value.get_help().is_some()) {
        text.push('\n');
        for value in &values {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "- `{}`: {}", value.get_name(), prose(&help));
        }
    } else if arg.is_positional() && !values.is_empty() {
        let names: Vec<String> =
            values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(text, "\nOne of {}.\n", names.join(", "));
    }
}

/// Escapes emphasis and tags of Markdown.
fn prose(text: &str) -> String {
    text.replace('*', "\\*").replace('<', "\\<")
}

#[cfg(test)]
mod tests {
    use std::{env, path::PathBuf, process};

    use clap::ValueEnum;

    use super::*;

    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference.md");

    #[test]
    fn reference_document_matches_the_command_line() {
        let expected = reference_text();
        if env::var_os("ONNXD_UPDATE_DOCUMENTS").is_some() {
            fs::write(REFERENCE, &expected).unwrap();
        }
        let found = fs::read_to_string(REFERENCE).unwrap_or_default();
        assert!(
            found == expected,
            "docs/reference.md is out of date, run `ONNXD_UPDATE_DOCUMENTS=1 cargo test -p onnxd --lib reference_document`"
        );
        for part in [
            "`ONNXD_IDLE_CPUS`, key `idle-cpus`, default: at most 4.",
            "#### `--strict[=true|false]`",
        ] {
            assert!(expected.contains(part), "{part}");
        }
        assert!(!expected.contains("alone"), "hidden flags stay hidden");
    }

    #[test]
    fn every_shell_has_completions_for_every_command() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions_of(*shell)).unwrap();
            for part in ["onnxd", "rollback", "idle-cpus", "completions"] {
                assert!(script.contains(part), "{shell}: {part}");
            }
        }
    }

    #[test]
    fn man_pages_pass_mandoc() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        let commands = command();
        let visible = commands.get_subcommands().filter(|sub| !sub.is_hide_set());
        let mut pages: Vec<PathBuf> = visible
            .map(|sub| directory.path().join(format!("onnxd-{}.1", sub.get_name())))
            .collect();
        pages.push(directory.path().join("onnxd.1"));
        for page in &pages {
            let text = fs::read_to_string(page).unwrap();
            assert!(text.contains(".SH EXAMPLES"), "{}", page.display());
        }
        let mut mandoc = process::Command::new("mandoc");
        match mandoc.args(["-T", "lint", "-W", "warning"]).args(&pages).output() {
            Ok(output) => {
                let found = String::from_utf8_lossy(&output.stdout);
                assert!(found.is_empty() && output.status.success(), "{found}");
            }
            // Not installed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("mandoc: {error}"),
        }
    }
}
