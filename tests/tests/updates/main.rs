//! Models are replaced while they serve, and nobody notices but by the generation.

mod commands;
mod every_kind;
mod refused;
mod restart;
mod rollback;
mod under_load;

use std::path::PathBuf;

use e2e::{
    fixtures::{model, replace_model},
    home::Home,
};

/// A model directory of the test's own that holds a copy of a tiny model.
fn copy_of(home: &Home, name: &str) -> PathBuf {
    let directory = home.models().join("source");
    replace_model(&model(&format!("tiny/{name}")), &directory);
    directory
}
