//! Finds which modules of a crate import which others, from `use` trees and paths in code. Skips
//! tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// Maximum depth of re-exports; a longer chain indicates a bug in this test.
const REEXPORTS_MAX: usize = 8;

/// Paths and imports of a module.
#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    /// Paths used in the code.
    paths: Vec<Vec<String>>,
    /// Imported paths, by local name.
    imports: BTreeMap<String, Vec<String>>,
}

/// The sources of a crate.
#[derive(Debug)]
pub(crate) struct Sources {
    root: PathBuf,
    /// Modules by path, such as `models::store`; the root is the empty string.
    modules: BTreeMap<String, Module>,
}

/// The target of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A module of the same crate.
    Module(String),
    /// Another crate.
    Crate(String),
}

/// A use of a module or crate by another module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub from: String,
    pub to: Target,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Target::Module(to) | Target::Crate(to)) = &self.to;
        let shown = |module: &str| if module.is_empty() { "the root" } else { module }.to_owned();
        write!(f, "{} -> {}", shown(&self.from), shown(to))
    }
}

impl Sources {
    /// Reads the crate with this `src` folder, following its `mod` items.
    pub(crate) fn read(root: &Path) -> Self {
        let mut sources = Self { root: root.to_owned(), modules: BTreeMap::new() };
        let lib = root.join("lib.rs");
        let file = if lib.exists() { lib } else { root.join("main.rs") };
        sources.file("", &file, root);
        sources
    }

    /// Returns whether the module exists.
    pub(crate) fn has(&self, module: &str) -> bool {
        self.modules.contains_key(module)
    }

    /// Returns the file of a module, relative to `src`.
    pub(crate) fn file_of(&self, module: &str) -> &Path {
        let file = &self.modules[module].file;
        file.strip_prefix(&self.root).unwrap_or(file)
    }

    /// Returns every use of a module or crate by another module.
    pub(crate) fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for (from, module) in &self.modules {
            let targets = module.paths.iter().filter_map(|path| self.resolve(from, path, 0));
            let others = targets.filter(|to| *to != Target::Module(from.clone()));
            edges.extend(others.map(|to| Edge { from: from.clone(), to }));
        }
        edges
    }

    fn file(&mut self, module: &str, file: &Path, children: &Path) {
        let source =
            fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tokens = TokenStream::from_str(&source)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let own = self.modules.entry(module.to_owned()).or_default();
        file.clone_into(&mut own.file);
        self.walk(tokens, &Location { module, file, children });
    }

    fn walk(&mut self, tokens: TokenStream, location: &Location<'_>) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut attributes = Attributes::default();
        let mut at = 0;
        while at < tokens.len() {
            if let Some(group) = attribute(&tokens[at..]) {
                attributes.add(group);
                at += 2;
                continue;
            }
            if attributes.is_test {
                at += item_length(&tokens[at..]);
                attributes = Attributes::default();
                continue;
            }
            let seen = at;
            let word = word(&tokens[at]);
            let next = tokens.get(at + 1);
            at += match (word.as_deref(), next) {
                (Some("mod"), Some(name)) if self::word(name).is_some() => {
                    self.child(&tokens[at..], location, attributes.path.as_deref());
                    3
                }
                (Some("use"), _) => {
                    let length = item_length(&tokens[at..]);
                    let is_public = at > 0 && is_visibility(&tokens[at - 1]);
                    self.import(&tokens[at + 1..at + length - 1], is_public, location.module);
                    length
                }
                (Some(_), _) => {
                    let path = path(&tokens[at..]);
                    let length = (path.len() * 3).saturating_sub(2).max(1);
                    if path.len() > 1 {
                        self.modules
                            .entry(location.module.to_owned())
                            .or_default()
                            .paths
                            .push(path);
                    }
                    length
                }
                (None, _) => {
                    if let TokenTree::Group(group) = &tokens[at] {
                        self.walk(group.stream(), location);
                    }
                    1
                }
            };
            // Attributes come before visibility as well.
            if !is_visibility(&tokens[seen]) {
                attributes = Attributes::default();
            }
        }
    }

    /// Handles `mod NAME;` or `mod NAME { … }`.
    fn child(&mut self, tokens: &[TokenTree], location: &Location<'_>, path: Option<&str>) {
        let name = word(&tokens[1]).unwrap_or_default();
        let module = joined(location.module, &name);
        let folder = location.children.join(&name);
        if let Some(TokenTree::Group(body)) = tokens.get(2) {
            let own = self.modules.entry(module.clone()).or_default();
            location.file.clone_into(&mut own.file);
            let inside = Location { module: &module, file: location.file, children: &folder };
            self.walk(body.stream(), &inside);
            return;
        }
        let file = match path {
            Some(path) => location.file.parent().unwrap_or(location.file).join(path),
            None => [folder.join("mod.rs"), folder.with_extension("rs")]
                .into_iter()
                .find(|file| file.exists())
                .unwrap_or_else(|| panic!("{module} has no file")),
        };
        self.file(&module, &file, &folder);
    }

    /// Records the paths of a `use`. A re-export of a child is not a use, but is followed.
    fn import(&mut self, tree: &[TokenTree], is_public: bool, module: &str) {
        let mut leaves = Vec::new();
        use_tree(tree, &[], &mut leaves);
        let own = self.modules.entry(module.to_owned()).or_default();
        for (name, path) in leaves {
            let is_inside = path.first().is_some_and(|first| first != "crate" && first != "super");
            if !(is_public && is_inside) {
                own.paths.push(path.clone());
            }
            own.imports.insert(name, path);
        }
    }

    /// Resolves a path in this module.
    fn resolve(&self, module: &str, path: &[String], depth: usize) -> Option<Target> {
        assert!(depth < REEXPORTS_MAX, "{module}: {path:?} never ends");
        let mut rest = path;
        let mut at = module.to_owned();
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (String::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    at = parent(&at);
                    rest = &rest[1..];
                }
            }
            first if self.has(&joined(module, first)) => {}
            // Imported names were counted at their import.
            first if self.modules[module].imports.contains_key(first) && depth == 0 => {
                let import = &self.modules[module].imports[first];
                if import[..] != *path {
                    return None;
                }
                return external(first);
            }
            first => return external(first),
        }
        while let Some(child) = rest.first().map(|name| joined(&at, name))
            && self.has(&child)
        {
            at = child;
            rest = &rest[1..];
        }
        let import = rest.first().and_then(|name| self.modules[&at].imports.get(name));
        match import {
            Some(import) if at != module => self.resolve(&at, import, depth + 1),
            _ => Some(Target::Module(at)),
        }
    }
}

/// The location of tokens.
struct Location<'a> {
    module: &'a str,
    file: &'a Path,
    /// The folder of child modules.
    children: &'a Path,
}

#[derive(Default)]
struct Attributes {
    is_test: bool,
    path: Option<String>,
}

impl Attributes {
    fn add(&mut self, group: &Group) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let words = group.stream().to_string();
        match tokens.first().and_then(word).as_deref() {
            Some("cfg") => {
                let positive = words.replace("not (test)", "").replace("not(test)", "");
                self.is_test |=
                    positive.split(|mark: char| !mark.is_alphanumeric()).any(|word| word == "test");
            }
            Some("path") => {
                self.path = tokens.get(2).map(|path| path.to_string().replace('"', ""));
            }
            _ => {}
        }
    }
}

/// Returns the group of an outer attribute.
fn attribute(tokens: &[TokenTree]) -> Option<&Group> {
    match tokens {
        [TokenTree::Punct(hash), TokenTree::Group(group), ..]
            if hash.as_char() == '#' && group.delimiter() == Delimiter::Bracket =>
        {
            Some(group)
        }
        _ => None,
    }
}

/// Returns the number of tokens of the item, field, statement or match arm that starts here.
fn item_length(tokens: &[TokenTree]) -> usize {
    const ITEMS: [&str; 9] =
        ["fn", "struct", "enum", "impl", "mod", "trait", "const", "static", "type"];
    let words = || {
        tokens
            .iter()
            .map_while(|token| word(token).or_else(|| is_visibility(token).then(String::new)))
    };
    let is_use = words().any(|word| word == "use");
    let is_item = words().any(|word| ITEMS.contains(&word.as_str()));
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(mark) => {
            mark.as_char() == ';' || mark.as_char() == ',' && !is_item && !is_use
        }
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !is_use,
        _ => false,
    };
    tokens.iter().position(ends).map_or(tokens.len(), |end| end + 1)
}

fn is_visibility(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => {
            let inside = group.stream().to_string();
            group.delimiter() == Delimiter::Parenthesis
                && (["crate", "super"].contains(&inside.as_str()) || inside.starts_with("in "))
        }
        token => word(token).is_some_and(|word| word == "pub"),
    }
}

fn word(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    }
}

fn is_colons(tokens: &[TokenTree]) -> bool {
    let is_colon =
        |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ':');
    let is_joint =
        matches!(tokens.first(), Some(TokenTree::Punct(mark)) if mark.spacing() == Spacing::Joint);
    is_joint && tokens.iter().take(2).filter(|token| is_colon(token)).count() == 2
}

/// Reads a path such as `a::b::c`, as far as it consists of names.
fn path(tokens: &[TokenTree]) -> Vec<String> {
    let mut names: Vec<String> = tokens.first().and_then(word).into_iter().collect();
    let mut rest = tokens.get(1..).unwrap_or_default();
    while is_colons(rest)
        && let Some(name) = rest.get(2).and_then(word)
    {
        names.push(name);
        rest = &rest[3..];
    }
    names
}

/// Collects the leaves of a `use` tree: local name and path.
fn use_tree(tokens: &[TokenTree], before: &[String], leaves: &mut Vec<(String, Vec<String>)>) {
    let names = path(tokens);
    let mut full = [before, &names].concat();
    let rest = &tokens[(names.len() * 3).saturating_sub(2).min(tokens.len())..];
    let rest = if is_colons(rest) { &rest[2..] } else { rest };
    match rest.first() {
        Some(TokenTree::Group(group)) => {
            let inside: Vec<TokenTree> = group.stream().into_iter().collect();
            let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
            for tree in inside.split(is_comma).filter(|tree| !tree.is_empty()) {
                use_tree(tree, &full, leaves);
            }
        }
        Some(TokenTree::Ident(_)) => {
            let alias = rest.get(1).and_then(word).unwrap_or_default();
            leaves.push((alias, full));
        }
        // `*` or the end.
        _ => {
            if full.last().is_some_and(|last| last == "self") && full.len() > 1 {
                full.pop();
            }
            let name = if rest.is_empty() { full.last().cloned() } else { None };
            leaves.push((name.unwrap_or_default(), full));
        }
    }
}

fn external(name: &str) -> Option<Target> {
    let is_crate = name.starts_with(|first: char| first.is_ascii_lowercase());
    is_crate.then(|| Target::Crate(name.to_owned()))
}

fn joined(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

fn parent(module: &str) -> String {
    module.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned()
}
