//! Models are updated while they are serving. Clients notice only the new generation.

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

/// Copies a tiny model to a directory that the test can change.
fn copy_of(home: &Home, name: &str) -> PathBuf {
    let directory = home.models().join("source");
    replace_model(&model(&format!("tiny/{name}")), &directory);
    directory
}
