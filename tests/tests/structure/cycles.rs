//! Finds the cycles of a graph: its strongly connected components.

use std::collections::{BTreeMap, BTreeSet};

/// The successors of each node.
pub(crate) type Graph<T> = BTreeMap<T, BTreeSet<T>>;

/// Returns every set of two or more nodes that all reach each other.
pub(crate) fn cycles<T: Ord + Clone>(graph: &Graph<T>) -> Vec<BTreeSet<T>> {
    let reached: BTreeMap<&T, BTreeSet<&T>> =
        graph.keys().map(|node| (node, reachable(graph, node))).collect();
    let mut found: BTreeSet<BTreeSet<T>> = BTreeSet::new();
    for (node, from) in &reached {
        let back = from.iter().filter(|other| reached[**other].contains(node));
        let cycle: BTreeSet<T> = back.map(|other| (*other).clone()).collect();
        if cycle.len() > 1 {
            found.insert(cycle);
        }
    }
    found.into_iter().collect()
}

/// Returns all nodes reachable over one or more edges.
fn reachable<'a, T: Ord>(graph: &'a Graph<T>, node: &T) -> BTreeSet<&'a T> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&T> = graph[node].iter().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(&graph[next]);
        }
    }
    reached
}
