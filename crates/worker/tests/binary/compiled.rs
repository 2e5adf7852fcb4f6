//! Compiled forms: when they are built, recognized as damaged, used, and ignored.

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

/// Builds a compiled form of tiny/a.
fn compiled() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(compile(&model("tiny/a"), root.path())["rebuilt"], true);
    root
}

fn is_rebuilt(root: &Path) -> bool {
    compile(&model("tiny/a"), root)["rebuilt"].as_bool().unwrap()
}

/// Serves tiny/a. Returns whether the worker uses the form in `root`, and an embedding.
fn serve(root: &Path) -> (bool, Vec<Embedded>) {
    let mut supervisor = Supervisor::start();
    supervisor.link_compiled("tiny-a", root);
    supervisor.commit(1, "tiny/a");
    let (compiled, _) = supervisor.wait_until_ready();
    (compiled, supervisor.embed(&["How big is London"]))
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn compiled_form_computes_the_same_as_the_plain_model() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().join("compiled/tiny-a");
    let outcome = Check::for_model("tiny/a").with("--compiled-dir", &root).run();
    assert_eq!(outcome.passed, ["load", "shapes", "compile"]);
    assert_eq!(outcome.accepted().not_compiled, None);
    assert!(!is_rebuilt(&root));
    let (compiled, embedded) = serve(&root);
    assert!(compiled);
    assert_eq!(embedded, Supervisor::serving("tiny/a").embed(&["How big is London"]));
}

#[test]
fn version_with_external_weights_is_compiled() {
    let root = tempfile::tempdir().unwrap();
    let outcome = Check::for_model("tiny/external").with("--compiled-dir", root.path()).run();
    assert_eq!(outcome.accepted().not_compiled, None);
}

#[test]
fn truncated_form_is_not_served_and_is_rebuilt() {
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
fn single_bit_error_is_found_before_workers_start() {
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
fn form_with_other_results_is_not_served() {
    let root = compiled();
    let path = compiled_form(root.path()).join("weights.bin");
    let bytes = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    overwrite(&path, 0, &vec![0; bytes]);
    let (compiled, embedded) = serve(root.path());
    assert!(!compiled);
    assert_eq!(embedded, Supervisor::serving("tiny/a").embed(&["How big is London"]));
}

#[test]
fn form_of_another_machine_or_killed_process_is_replaced() {
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
fn form_without_probes_is_not_served_and_is_rebuilt() {
    let root = compiled();
    fs::remove_file(root.path().join("probes")).unwrap();
    assert!(!serve(root.path()).0);
    assert!(is_rebuilt(root.path()));
    assert!(serve(root.path()).0);
}

#[test]
fn unwritable_form_does_not_refuse_the_version() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let root = file.path().join("compiled");
    let outcome = Check::for_model("tiny/a").with("--compiled-dir", &root).run();
    assert_eq!(outcome.passed, ["load", "shapes"]);
    let reason = outcome.accepted().not_compiled.unwrap();
    assert!(reason.contains("Not a directory"), "{reason}");
    assert_eq!(compile(&model("tiny/a"), &root), json!({ "not_compiled": reason }));
}

#[test]
fn failed_compile_is_reported_and_leaves_no_files() {
    let root = tempfile::tempdir().unwrap();
    for name in ["tiny/truncated", "tiny"] {
        let Value::String(reason) = &compile(&model(name), root.path())["not_compiled"] else {
            panic!("{name} is compiled");
        };
        assert!(reason.contains("model.onnx"), "{reason}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
