//! Checks the structure of the crates: which folder may import which, and which cycles are allowed.
//! Reads the sources without tests and comments.

mod cycles;
mod example;
mod rules;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use e2e::fixtures::workspace;

use crate::{
    cycles::{Graph, cycles},
    rules::{CYCLE_MAX, FORBIDDEN, LAYERS, ONLY},
    source::{Edge, Sources, Target},
};

/// Violations: by rule, their locations.
type Violations = BTreeMap<String, BTreeSet<String>>;

/// A crate, named by its folder.
struct Crate {
    name: String,
    sources: Sources,
    edges: BTreeSet<Edge>,
}

impl Crate {
    fn read(name: &str, root: &Path) -> Self {
        let sources = Sources::read(root);
        let edges = sources.edges();
        Self { name: name.to_owned(), sources, edges }
    }

    fn all() -> Vec<Self> {
        let folder = workspace().join("crates");
        let entries = std::fs::read_dir(&folder).expect("the crates can be listed").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.iter().map(|name| Self::read(name, &folder.join(name).join("src"))).collect()
    }

    /// Records every import from `from` to `to`.
    fn forbid(&self, from: &str, to: &str, broken: &mut Violations) {
        let hits = self.edges.iter().filter(|edge| {
            is_within(&edge.from, from)
                && match &edge.to {
                    Target::Module(module) => is_within(module, to),
                    Target::Crate(name) => to.strip_prefix("::") == Some(name),
                }
        });
        let shown: BTreeSet<String> = hits.map(ToString::to_string).collect();
        if !shown.is_empty() {
            let from = if from.is_empty() { "the crate" } else { from };
            broken.insert(format!("{}: {from} must not import {to}", self.name), shown);
        }
    }

    /// Returns the files that each file uses.
    fn graph(&self) -> Graph<&Path> {
        let mut graph = Graph::new();
        for edge in &self.edges {
            let from = self.sources.file_of(&edge.from);
            let uses = graph.entry(from).or_insert_with(BTreeSet::new);
            let Target::Module(to) = &edge.to else { continue };
            let to = self.sources.file_of(to);
            if to != from {
                uses.insert(to);
            }
            graph.entry(to).or_default();
        }
        graph
    }

    /// Returns the folder of a file; `foo.rs` belongs to `foo/` if that exists.
    fn folder(&self, file: &Path) -> PathBuf {
        let own = file.with_extension("");
        let is_folder = self.graph().keys().any(|other| other.starts_with(&own));
        if is_folder { own } else { file.parent().unwrap_or(file).to_owned() }
    }

    /// Records cycles that cross a folder or have too many files.
    fn cycles(&self, broken: &mut Violations) {
        for cycle in cycles(&self.graph()) {
            let folders: BTreeSet<PathBuf> = cycle.iter().map(|file| self.folder(file)).collect();
            let rule = if folders.len() > 1 {
                format!("{}: no cycle crosses a folder", self.name)
            } else if cycle.len() > CYCLE_MAX {
                format!("{}: no cycle has more than {CYCLE_MAX} files", self.name)
            } else {
                continue;
            };
            let files: Vec<String> = cycle.iter().map(|file| file.display().to_string()).collect();
            let shown = format!("{} files: {}", files.len(), files.join(" "));
            broken.entry(rule).or_default().insert(shown);
        }
    }
}

fn is_within(module: &str, folder: &str) -> bool {
    let rest = module.strip_prefix(folder);
    folder.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Applies all rules to a crate.
fn check(one: &Crate) -> Violations {
    let mut broken = Violations::new();
    let mut missing = |folder: &str| {
        if !one.sources.has(folder) {
            let rule = format!("{}: missing folder {folder}", one.name);
            broken.insert(rule, BTreeSet::from(["named in a rule".to_owned()]));
        }
    };
    let layers = LAYERS.iter().filter(|(name, _)| *name == one.name);
    let forbidden = || FORBIDDEN.iter().filter(|(name, ..)| *name == one.name);
    let only = || ONLY.iter().filter(|(name, ..)| *name == one.name);
    for (_, layers) in layers.clone() {
        layers.iter().flat_map(|layer| layer.iter()).for_each(|folder| missing(folder));
    }
    for (_, from, to) in forbidden() {
        let folders = to.iter().filter(|to| !to.starts_with("::"));
        folders.chain([from]).for_each(|folder| missing(folder));
    }
    only().for_each(|(_, _, folder)| missing(folder));
    for (_, layers) in layers {
        for (index, lower) in layers.iter().enumerate() {
            for (from, to) in lower.iter().flat_map(|from| {
                layers[..index].iter().flat_map(move |upper| upper.iter().map(move |to| (from, to)))
            }) {
                one.forbid(from, to, &mut broken);
            }
        }
    }
    for (_, from, to) in forbidden() {
        to.iter().for_each(|to| one.forbid(from, to, &mut broken));
    }
    for (_, import, folder) in only() {
        let others = one.edges.iter().filter(|edge| {
            edge.to == Target::Crate((*import).to_owned()) && !is_within(&edge.from, folder)
        });
        let shown: BTreeSet<String> = others.map(ToString::to_string).collect();
        if !shown.is_empty() {
            broken.insert(format!("{}: only {folder} imports {import}", one.name), shown);
        }
    }
    one.cycles(&mut broken);
    broken
}

#[test]
fn no_import_points_upward_and_no_cycle_crosses_folders() {
    let all: Violations = Crate::all().iter().flat_map(check).collect();
    let broken: Vec<String> = all
        .iter()
        .map(|(rule, locations)| {
            let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
            format!("{rule}\n    {}", locations.join("\n    "))
        })
        .collect();
    assert!(broken.is_empty(), "{} rules are broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_crate_is_read() {
    for one in Crate::all() {
        let graph = one.graph();
        assert!(graph.len() > 1, "{}: {graph:?}", one.name);
    }
    let names: BTreeSet<String> = Crate::all().into_iter().map(|one| one.name).collect();
    let ruled = LAYERS.iter().map(|(name, _)| name).chain(FORBIDDEN.iter().map(|(name, ..)| name));
    let unknown: Vec<_> = ruled.filter(|name| !names.contains(**name)).collect();
    assert!(unknown.is_empty(), "rules for crates that do not exist: {unknown:?}");
}
