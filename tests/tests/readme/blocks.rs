//! Extracts commands and the output shown below them from a Markdown document. Pure.

/// A command of a `console` block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command<'text> {
    /// The line number, from 1.
    pub line: usize,
    /// The text after the prompt.
    pub text: &'text str,
    /// The lines below, up to the next command.
    pub output: Vec<&'text str>,
}

/// Block languages that also suggest commands. Documents must use `console` instead.
const OTHER_LANGUAGES: [&str; 6] = ["sh", "bash", "shell", "zsh", "shell-session", "terminal"];
const PROMPT: &str = "$ ";

/// Returns the commands of all `console` blocks.
///
/// # Errors
/// A command block has another language, or starts without a prompt.
pub(crate) fn commands(document: &str) -> Result<Vec<Command<'_>>, String> {
    let mut commands: Vec<Command<'_>> = Vec::new();
    // The language of the open block, and whether a command has been seen in it.
    let mut block: Option<(&str, bool)> = None;
    for (index, text) in document.lines().enumerate() {
        let line = index + 1;
        if let Some(fence) = text.trim_start().strip_prefix("```") {
            let language = fence.trim();
            if block.is_none() && OTHER_LANGUAGES.contains(&language) {
                return Err(format!("line {line}: use `console` instead of `{language}`"));
            }
            block = block.is_none().then_some((language, false));
            continue;
        }
        let Some(("console", has_command)) = &mut block else { continue };
        if let Some(text) = text.strip_prefix(PROMPT) {
            *has_command = true;
            commands.push(Command { line, text, output: Vec::new() });
        } else if *has_command && let Some(command) = commands.last_mut() {
            command.output.push(text);
        } else {
            return Err(format!("line {line}: a `console` block starts with `{PROMPT}`"));
        }
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_lines_below_them() {
        let document = "A\n```console\n$ a b\none\n\n$ c\n```\n$ text\n```text\n$ no\n```\n";
        let expected = [
            Command { line: 3, text: "a b", output: vec!["one", ""] },
            Command { line: 6, text: "c", output: vec![] },
        ];
        assert_eq!(commands(document).unwrap(), expected);
    }

    #[test]
    fn blocks_that_differ_are_found() {
        let error = commands("```console\n$ a\n```\n```console\nb\n```\n").unwrap_err();
        assert_eq!(error, "line 5: a `console` block starts with `$ `");
        let error = commands("```sh\na\n```\n").unwrap_err();
        assert_eq!(error, "line 1: use `console` instead of `sh`");
    }
}
