//! Checks the links of the built book. Finds what the sources do not show: links of included files,
//! and anchors that mdBook makes.

use std::{fs, path::Path};

use super::{files, is_external, resolved};
use crate::error::Error;

/// Returns a line for each dead link.
pub(super) fn faults(book: &Path) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    for page in files(book, "html")? {
        // Its links are relative to the address that was not found.
        if page.ends_with("404.html") {
            continue;
        }
        let text = fs::read_to_string(&page).map_err(Error::io("cannot read", &page))?;
        let folder = page.parent().unwrap_or(book);
        for link in targets(&text).filter(|link| !is_external(link)) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = if file.is_empty() { page.clone() } else { resolved(folder, file) };
            let shown = page.strip_prefix(book).unwrap_or(&page).display();
            if !path.exists() {
                faults.push(format!("{shown}: {link}: no such file"));
            } else if !anchor.is_empty() && !has_anchor(&path, anchor)? {
                faults.push(format!("{shown}: {link}: no such heading"));
            }
        }
    }
    Ok(faults)
}

/// Returns the values of `href`.
fn targets(html: &str) -> impl Iterator<Item = &str> {
    html.split(" href=\"").skip(1).filter_map(|rest| rest.split('"').next())
}

/// Returns whether a page has an element of this id, or forwards to another page.
fn has_anchor(page: &Path, anchor: &str) -> Result<bool, Error> {
    let text = fs::read_to_string(page).map_err(Error::io("cannot read", page))?;
    Ok(text.contains(&format!("id=\"{anchor}\"")) || text.contains("http-equiv=\"refresh\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_of_a_page_are_found() {
        let book = tempfile::tempdir().expect("a directory");
        let page =
            "<a href=\"b.html#x\"><a href=\"b.html#y\"><a href=\"c.html\"><a href=\"https://d\">";
        fs::write(book.path().join("a.html"), page).expect("a page");
        fs::write(book.path().join("b.html"), "<h1 id=\"x\">").expect("a page");
        let expected = ["a.html: b.html#y: no such heading", "a.html: c.html: no such file"];
        assert_eq!(faults(book.path()).expect("pages can be read"), expected);
    }
}
