//! Compiled forms: when they are made, found to be damaged, used, and not used.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    checker::{Check, compile, compiled_form},
    fixtures::model,
    supervisor::{Embedded, Supervisor},
};

/// A compiled form of tiny/a.
fn compiled() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(compile(&model("tiny/a"), root.path())["rebuilt"], true);
    root
}

fn is_rebuilt(root: &Path) -> bool {
    compile(&model("tiny/a"), root)["rebuilt"].as_bool().unwrap()
}

/// Whether a worker that serves tiny/a uses what is in `root`, and what it makes of a text.
fn serve(root: &Path) -> (bool, Vec<Embedded>) {
    let mut supervisor = Supervisor::start();
    supervisor.link_compiled("tiny-a", root);
    supervisor.commit(1, "tiny/a");
    let (compiled, _) = supervisor.get_ready();
    (compiled, supervisor.embed(&["How big is London"]))
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_checked_version_has_a_compiled_form_that_computes_what_the_plain_model_does() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().join("compiled/tiny-a");
    let outcome = Check::of_model("tiny/a").with("--compiled-dir", &root).run();
    assert_eq!(outcome.passed, ["load", "shapes", "compile"]);
    assert_eq!(outcome.accepted().not_compiled, None);
    assert!(!is_rebuilt(&root));
    let (compiled, embedded) = serve(&root);
    assert!(compiled);
    assert_eq!(embedded, Supervisor::serving("tiny/a").embed(&["How big is London"]));
}

#[test]
fn a_version_with_weights_in_a_file_of_their_own_is_compiled_too() {
    let root = tempfile::tempdir().unwrap();
    let outcome = Check::of_model("tiny/external").with("--compiled-dir", root.path()).run();
    assert_eq!(outcome.accepted().not_compiled, None);
}

#[test]
fn a_form_that_is_cut_short_is_not_loaded_and_is_made_again() {
    for file in ["weights.bin", "model.onnx", "MANIFEST"] {
        let root = compiled();
        let path = compiled_form(root.path()).join(file);
        let bytes = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(path).unwrap().set_len(bytes / 2).unwrap();
        assert!(!serve(root.path()).0, "{file}");
        assert!(is_rebuilt(root.path()), "{file}");
        assert!(serve(root.path()).0, "{file}");
    }
}

#[test]
fn one_bit_that_is_wrong_is_found_before_workers_start() {
    let root = compiled();
    let path = compiled_form(root.path()).join("weights.bin");
    let mut byte = [0];
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    file.read_exact_at(&mut byte, 70_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 70_000).unwrap();
    assert!(is_rebuilt(root.path()));
    assert!(!is_rebuilt(root.path()));
}

#[test]
fn a_form_that_computes_something_else_is_not_served() {
    let root = compiled();
    let path = compiled_form(root.path()).join("weights.bin");
    let bytes = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    overwrite(&path, 0, &vec![0; bytes]);
    let (compiled, embedded) = serve(root.path());
    assert!(!compiled);
    assert_eq!(embedded, Supervisor::serving("tiny/a").embed(&["How big is London"]));
}

#[test]
fn a_form_of_another_machine_or_of_a_killed_process_is_replaced() {
    let root = compiled();
    let other = root.path().join("0123456789abcdef");
    fs::rename(compiled_form(root.path()), &other).unwrap();
    fs::create_dir(root.path().join("making-x")).unwrap();
    fs::write(root.path().join("making-y"), "").unwrap();
    assert!(!serve(root.path()).0);
    assert!(is_rebuilt(root.path()));
    assert!(serve(root.path()).0);
    let left = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = left.partition(|path| path.is_dir());
    assert_eq!(dirs, [compiled_form(root.path())]);
    assert_eq!(files, [root.path().join("probes")]);
}

#[test]
fn a_form_without_anything_to_compare_it_with_is_not_served_and_is_made_again() {
    let root = compiled();
    fs::remove_file(root.path().join("probes")).unwrap();
    assert!(!serve(root.path()).0);
    assert!(is_rebuilt(root.path()));
    assert!(serve(root.path()).0);
}

#[test]
fn where_no_form_can_be_written_the_version_is_accepted_and_the_reason_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let root = file.path().join("compiled");
    let outcome = Check::of_model("tiny/a").with("--compiled-dir", &root).run();
    assert_eq!(outcome.passed, ["load", "shapes"]);
    let reason = outcome.accepted().not_compiled.unwrap();
    assert!(reason.contains("Not a directory"), "{reason}");
    assert_eq!(compile(&model("tiny/a"), &root), json!({ "not_compiled": reason }));
}

#[test]
fn compiling_what_cannot_be_loaded_is_told_and_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    for name in ["tiny/truncated", "tiny"] {
        let Value::String(reason) = &compile(&model(name), root.path())["not_compiled"] else {
            panic!("{name} is compiled");
        };
        assert!(reason.contains("model.onnx"), "{reason}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
