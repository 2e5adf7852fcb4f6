//! The sandbox, seen from outside, and the lock on the directory.

use std::{fs, os::unix::fs::symlink, thread, time::Duration};

use onnxd_proto::search::{Distance, FromIndex, ToIndex};
use tempfile::tempdir;

use crate::{
    process::{document, hits, ids, query, settings},
    start,
};

#[test]
fn every_thread_is_filtered_and_unprivileged() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    assert_eq!(index.ask(&ToIndex::List), FromIndex::Collections(Vec::new()));
    let tasks = fs::read_dir(format!("/proc/{}/task", index.child.id())).unwrap();
    let statuses: Vec<String> = tasks
        .map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .collect();
    assert_eq!(statuses.len(), 5);
    for status in statuses {
        assert!(status.contains("Seccomp:\t2"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
}

#[test]
fn files_outside_the_directory_cannot_be_opened() {
    let (folder, outside) = (tempdir().unwrap(), tempdir().unwrap());
    let mut index = start(folder.path());
    index.ask(&ToIndex::Create("docs".into(), settings(Distance::Cosine)));
    index.close();
    // A collection whose file is elsewhere: SQLite follows the link, the kernel does not let it.
    let [path, elsewhere] = [&folder, &outside].map(|folder| folder.path().join("1.db"));
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    let mut index = start(folder.path());
    let answer = index.upsert("docs", "v", vec![(document(1, "a", "{}"), vec![1.0])]);
    let FromIndex::Failed(error) = answer else { panic!("unexpected {answer:?}") };
    assert!(error.message.contains("its file cannot be used"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "no log was made there");
}

#[test]
fn a_successor_waits_until_its_predecessor_has_exited() {
    let folder = tempdir().unwrap();
    let mut first = start(folder.path());
    first.ask(&ToIndex::Create("docs".into(), settings(Distance::Cosine)));
    let path = folder.path().to_owned();
    let second = thread::spawn(move || {
        let mut second = start(&path);
        ids(&hits(second.search("docs", query("v", 9), &[1.0])))
    });
    for number in 0..20 {
        let vector = vec![(document(number, "a", "{}"), vec![1.0])];
        assert_eq!(first.upsert("docs", "v", vector), FromIndex::Changed(1));
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!second.is_finished());
    first.close();
    // It opened the files after the last write.
    assert_eq!(second.join().unwrap(), (0..9).collect::<Vec<_>>());
}
