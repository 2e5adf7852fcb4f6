//! `cargo xtask docs`: checks the links in all documents, builds the book with mdBook, and checks
//! the links in the result. Fails on dead links and on mdBook warnings.

mod html;
mod links;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::{
    error::Error,
    layout::{Layout, shown},
    print_line, process,
};

/// The release to install, which the book is written for.
const MDBOOK_VERSION: &str = "0.5.4";

pub(crate) fn run(layout: &Layout) -> Result<ExitCode, Error> {
    report(links::faults(layout.workspace())?)?;
    let mdbook = mdbook(layout)?;
    // Otherwise a renamed chapter would remain, and links to it would still resolve.
    match fs::remove_dir_all(layout.book()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("cannot remove", &layout.book())(error));
        }
        _ => {}
    }
    build(layout, &mdbook)?;
    report(html::faults(&layout.book())?)?;
    print_line(&shown(&layout.book().join("index.html")));
    Ok(ExitCode::SUCCESS)
}

/// Returns the path of mdBook. Installs this release if it is missing.
fn mdbook(layout: &Layout) -> Result<PathBuf, Error> {
    let tools = layout.installed();
    let mdbook = tools.join("bin/mdbook");
    let version = Command::new(&mdbook).arg("--version").output();
    let is_right = |output: std::process::Output| {
        String::from_utf8_lossy(&output.stdout).trim().ends_with(MDBOOK_VERSION)
    };
    if version.is_ok_and(is_right) {
        return Ok(mdbook);
    }
    let status = process::cargo()
        .args(["install", "mdbook", "--locked", "--version", MDBOOK_VERSION])
        // Omit the server and the file watcher.
        .args(["--no-default-features", "--features", "search", "--root"])
        .arg(&tools)
        .status()
        .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
    let what = "cargo install mdbook".to_owned();
    if status.success() { Ok(mdbook) } else { Err(Error::Failed { what, status }) }
}

fn build(layout: &Layout, mdbook: &Path) -> Result<(), Error> {
    let output = Command::new(mdbook)
        .arg("build")
        .arg(layout.documents())
        .arg("--dest-dir")
        .arg(layout.book())
        .output()
        .map_err(Error::io("cannot start", mdbook))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        print_line(messages.trim_end());
        return Err(Error::Failed { what: "mdbook build".to_owned(), status: output.status });
    }
    report(warnings(&messages))
}

/// Returns the warnings and errors in mdBook's log.
fn warnings(log: &str) -> Vec<String> {
    let is_warning = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    log.lines().filter(is_warning).map(|line| format!("mdbook: {}", line.trim())).collect()
}

fn report(faults: Vec<String>) -> Result<(), Error> {
    if faults.is_empty() { Ok(()) } else { Err(Error::Documents { faults }) }
}

/// Returns the files below `folder` with this extension. Skips hidden folders and build output.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("cannot read", &folder))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if !path.is_dir() {
                files.extend((path.extension() == Some(extension.as_ref())).then_some(path));
            } else if name != "target" && (name == ".github" || !name.starts_with('.')) {
                folders.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Returns whether a link points to another site. These are not checked.
fn is_external(link: &str) -> bool {
    link.contains("://") || link.starts_with("mailto:")
}

/// Resolves a link in a document in `folder`, including `.` and `..`, without the file system.
fn resolved(folder: &Path, link: &str) -> PathBuf {
    let mut path = folder.to_owned();
    for part in link.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_mdbook_are_found() {
        let log = " INFO Book building has started\n WARN unclosed HTML tag\nERROR broken\n";
        assert_eq!(warnings(log), ["mdbook: WARN unclosed HTML tag", "mdbook: ERROR broken"]);
    }

    #[test]
    fn links_are_resolved_without_the_file_system() {
        assert_eq!(resolved(Path::new("/a/b"), "../c/./d.md"), Path::new("/a/c/d.md"));
        assert!(is_external("https://example.com/") && !is_external("a.md#b"));
    }
}
