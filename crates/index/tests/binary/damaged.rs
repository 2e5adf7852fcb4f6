//! Damaged files and a full disk. Every answer is right, or an error that names cause and remedy; the
//! process lives on, and other collections are not affected.

use std::{
    fs,
    path::{Path, PathBuf},
};

use onnxd_proto::search::{
    Condition, Distance, DocumentId, Filter, FromIndex, IndexErrorKind, Query, Range, Shown,
    ToIndex,
};
use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::{TempDir, tempdir};

use crate::{
    process::{Index, document, query, settings},
    start,
};

/// Documents of the collection whose file is damaged.
const DOCUMENTS: u64 = 40;
/// Flipped bytes of each file.
const FLIPS: usize = 120;

fn vector(number: u64) -> Vec<f32> {
    (0..8).map(|place| ((number + 1) as f32 * (place as f32 + 0.7)).sin()).collect()
}

fn create(index: &mut Index, name: &str) {
    index.ask(&ToIndex::Create(name.into(), settings(Distance::Cosine)));
}

/// Adds documents, in several transactions.
fn fill(index: &mut Index, name: &str) {
    for number in 0..DOCUMENTS {
        let payload = format!("{{\"n\":{number}}}");
        let text = format!("text {number} {}", "x".repeat(200));
        let added = vec![(document(number, &text, &payload), vector(number))];
        assert_eq!(index.upsert(name, "v", added), FromIndex::Changed(1));
    }
}

/// Asks everything about a collection.
fn answers(index: &mut Index, name: &str) -> Vec<FromIndex> {
    let collection = || name.to_owned();
    let shown = || Shown { text: true, payload: true, vector: Some("v".into()) };
    let range = Range { gte: Some(10.0), lt: Some(20.0), ..Range::default() };
    let must = vec![Condition::Range("n".into(), range)];
    let filter = Filter { must, ..Filter::default() };
    let mut answers = vec![
        index.ask(&ToIndex::Scroll {
            collection: collection(),
            filter: Filter::default(),
            from: None,
            limit: 1000,
            shown: shown(),
        }),
        index.ask(&ToIndex::Count { collection: collection(), filter: filter.clone() }),
        index.ask(&ToIndex::Unembedded { collection: collection(), version: "v".into(), limit: 9 }),
    ];
    for id in 0..DOCUMENTS {
        let ids = vec![DocumentId::Number(id)];
        answers.push(index.ask(&ToIndex::Retrieve {
            collection: collection(),
            ids,
            shown: shown(),
        }));
    }
    for number in [3, 30] {
        for filter in [Filter::default(), filter.clone()] {
            let query = Query { filter, shown: shown(), ..query("v", 5) };
            answers.push(index.search(name, query, &vector(number)));
        }
    }
    answers
}

/// Removes what differs between runs.
fn without_time(answer: FromIndex) -> FromIndex {
    match answer {
        FromIndex::Hits { hits, source, .. } => FromIndex::Hits { hits, source, micros: 0 },
        other => other,
    }
}

/// Two collections, `docs` and `other`, the first with an alias. Everything is in the databases, or
/// everything is in the logs of transactions.
fn prepared(in_logs: bool) -> TempDir {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    create(&mut index, "other");
    fill(&mut index, "other");
    fill(&mut index, "docs");
    let aliases = vec![("now".to_owned(), "docs".to_owned())];
    assert_eq!(index.ask(&ToIndex::SetAliases(Vec::new(), aliases)), FromIndex::Done);
    if in_logs {
        // Closing would empty the logs.
        drop(index);
    } else {
        index.close();
        for name in ["catalog", "1", "2"] {
            let database = Connection::open(folder.path().join(name).with_extension("db")).unwrap();
            database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
    }
    folder
}

/// Copies a folder without what SQLite makes anew.
fn copied(folder: &Path) -> TempDir {
    let copy = tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    copy
}

/// Flips bytes of a file, each in a fresh copy, and checks all answers. Returns how many flips were
/// found.
fn flip(in_logs: bool, name: &str, places: impl Fn(&[u8]) -> Vec<usize>) -> usize {
    let folder = prepared(in_logs);
    let whole = fs::read(folder.path().join(name)).unwrap();
    let copy = copied(folder.path());
    let mut index = start(copy.path());
    let expected: Vec<_> = answers(&mut index, "now").into_iter().map(without_time).collect();
    let others: Vec<_> = answers(&mut index, "other").into_iter().map(without_time).collect();
    drop(index);
    let mut found = 0;
    for place in places(&whole) {
        let copy = copied(folder.path());
        let mut damaged = whole.clone();
        damaged[place] ^= 0x24;
        fs::write(copy.path().join(name), damaged).unwrap();
        let mut index = start(copy.path());
        let mut failed = false;
        let mut check = |answers: Vec<FromIndex>, expected: &[FromIndex], may_fail: bool| {
            for (answer, expected) in answers.into_iter().map(without_time).zip(expected) {
                match answer {
                    FromIndex::Failed(error) if may_fail => {
                        // A lost vector shows as one that has to be computed again.
                        let is_explained = match error.kind {
                            IndexErrorKind::Storage | IndexErrorKind::Damaged => {
                                error.message.contains("damaged")
                            }
                            IndexErrorKind::Version => true,
                            _ => false,
                        };
                        assert!(is_explained, "{name}, byte {place}: {error}");
                        failed = true;
                    }
                    FromIndex::Unembedded(..) if failed => {}
                    answer => assert!(answer == *expected, "{name}, byte {place}: another answer"),
                }
            }
        };
        let list = index.ask(&ToIndex::List);
        check(answers(&mut index, "now"), &expected, true);
        // Damage of one collection's file is no concern of the other.
        let may_fail = name.starts_with("catalog");
        check(answers(&mut index, "other"), &others, may_fail);
        if !may_fail {
            let FromIndex::Collections(list) = list else { panic!("unexpected {list:?}") };
            assert_eq!((list.len(), &list[1].damaged, list[1].documents), (2, &None, DOCUMENTS));
        }
        // Writing to what is damaged does not end the process either.
        let added = vec![(document(3, "new", "{}"), vector(3))];
        index.upsert("now", "v", added);
        assert_eq!(
            index.child.try_wait().unwrap(),
            None,
            "{name}, byte {place}: the process ended"
        );
        found += usize::from(failed);
    }
    found
}

/// Returns places all over a file, its header included.
fn everywhere(bytes: &[u8]) -> Vec<usize> {
    let step = (bytes.len() / FLIPS).max(1) | 1;
    (0..100).step_by(7).chain((0..bytes.len()).step_by(step)).collect()
}

/// Returns places of each class in the pages that are in use: headers of pages, pointers to cells,
/// and cells.
fn classes(bytes: &[u8]) -> Vec<usize> {
    const PAGE: usize = 4096;
    let mut places = Vec::new();
    for (number, page) in bytes.chunks_exact(PAGE).enumerate() {
        let start = number * PAGE;
        let header = if number == 0 { 100 } else { 0 };
        places.extend([0, 1, 4, 6, 8, 9].map(|place| start + header + place));
        let used = page.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        places.push(start + used);
        places.push(start + used.saturating_sub(9));
    }
    places
}

#[test]
fn flipped_bytes_of_a_collection_are_found_or_do_not_matter() {
    let found = flip(false, "1.db", everywhere);
    assert!(found > FLIPS / 4, "only {found} were found");
    assert!(flip(false, "1.db", classes) > 20);
}

#[test]
fn flipped_bytes_of_the_catalog_are_found_or_do_not_matter() {
    assert!(flip(false, "catalog.db", everywhere) > 5);
    assert!(flip(false, "catalog.db", classes) > 5);
}

#[test]
fn flipped_bytes_of_a_log_are_found() {
    // The last transaction cannot be told from one that a crash cut: it has fewer than 12 pages.
    let before_the_last = |bytes: &[u8]| {
        let end = bytes.len() - 12 * (4096 + 24);
        (0..32).step_by(3).chain((0..end).step_by((end / FLIPS) | 1)).collect::<Vec<_>>()
    };
    let found = flip(true, "1.db-wal", before_the_last);
    assert!(found > FLIPS, "only {found} were found");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the names and contents of all files but the lock.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = files(folder).into_iter().filter(|file| !file.ends_with("lock"));
    files.map(|file| (file.clone(), fs::read(&file).unwrap())).collect()
}

/// Checks that every request fails, names these files and the remedies, and changes nothing.
fn check_unknown(index: &mut Index, folder: &Path, names: &str) {
    let before = contents(folder);
    for message in [
        ToIndex::List,
        ToIndex::Names,
        ToIndex::Describe("docs".into()),
        ToIndex::Create("new".into(), settings(Distance::Cosine)),
        ToIndex::Drop("docs".into()),
        ToIndex::Count { collection: "docs".into(), filter: Filter::default() },
    ] {
        let answer = index.ask(&message);
        let FromIndex::Failed(error) = answer else { panic!("{message:?}: {answer:?}") };
        assert_eq!(error.kind, IndexErrorKind::Storage, "{message:?}");
        for part in [names, "restore catalog.db from a backup", "move these files away"] {
            assert!(error.message.contains(part), "{part}: {error}");
        }
    }
    assert!(contents(folder) == before, "a file was changed");
}

#[test]
fn a_lost_catalog_fails_every_request_until_it_is_restored() {
    let folder = prepared(false);
    let catalog = folder.path().join("catalog.db");
    let whole = fs::read(&catalog).unwrap();
    fs::remove_file(&catalog).unwrap();
    let mut index = start(folder.path());
    check_unknown(&mut index, folder.path(), ": 1.db, 2.db;");
    fs::write(&catalog, whole).unwrap();
    let FromIndex::Collections(list) = index.ask(&ToIndex::List) else { panic!("no list") };
    assert_eq!(list.len(), 2, "the process need not be started again");
    index.close();

    fs::remove_file(&catalog).unwrap();
    for name in ["1.db", "2.db"] {
        fs::rename(folder.path().join(name), folder.path().join(format!("away-{name}"))).unwrap();
    }
    let mut index = start(folder.path());
    assert_eq!(index.ask(&ToIndex::List), FromIndex::Collections(Vec::new()));
}

#[test]
fn a_catalog_older_than_a_collection_fails_every_request() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    fill(&mut index, "docs");
    index.close();
    let catalog = folder.path().join("catalog.db");
    let old = fs::read(&catalog).unwrap();
    let mut index = start(folder.path());
    create(&mut index, "other");
    fill(&mut index, "other");
    index.close();
    fs::write(&catalog, old).unwrap();
    // Another collection would get the number, and with it the documents.
    check_unknown(&mut start(folder.path()), folder.path(), ": 2.db;");
}

#[test]
fn a_damaged_collection_can_be_deleted_and_made_again() {
    let folder = prepared(false);
    fs::write(folder.path().join("1.db"), "not a database at all, but some text".repeat(200))
        .unwrap();
    let mut index = start(folder.path());
    let FromIndex::Collections(list) = index.ask(&ToIndex::List) else { panic!("no list") };
    let damage = list[0].damaged.as_deref().unwrap();
    assert!(damage.contains("delete the collection and import its documents again"), "{damage}");
    assert_eq!(index.ask(&ToIndex::Drop("docs".into())), FromIndex::Done);
    create(&mut index, "docs");
    fill(&mut index, "docs");
    let FromIndex::Hits { hits, .. } = index.search("docs", query("v", 99), &vector(1)) else {
        panic!("no hits")
    };
    assert_eq!(hits.len() as u64, DOCUMENTS);
}

/// Limits the size of files: writing more fails, as on a full disk.
fn limit_files(index: &Index, bytes: Option<u64>) {
    let pid = Pid::from_raw(index.child.id().try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_what_is_there() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    fill(&mut index, "docs");
    let expected: Vec<_> = answers(&mut index, "docs").into_iter().map(without_time).collect();
    let size = fs::metadata(folder.path().join("1.db-wal")).unwrap().len();
    // The first limit cuts within a transaction.
    for room in [5000, 0] {
        limit_files(&index, Some(size + room));
        let text = "y".repeat(20_000);
        let added =
            vec![(document(3, &text, "{}"), vector(7)), (document(77, &text, "{}"), vector(8))];
        let answer = index.upsert("docs", "v", added.clone());
        let FromIndex::Failed(error) = answer else { panic!("unexpected {answer:?}") };
        assert_eq!(error.kind, IndexErrorKind::Storage);
        assert!(error.message.contains("file system of the state directory"), "{error}");
        let found: Vec<_> = answers(&mut index, "docs").into_iter().map(without_time).collect();
        assert!(found == expected, "a refused write changed something");
    }
    limit_files(&index, None);
    let added = vec![(document(77, "z", "{}"), vector(8))];
    assert_eq!(index.upsert("docs", "v", added), FromIndex::Changed(1));
    index.close();
    let mut index = start(folder.path());
    let FromIndex::Hits { hits, .. } = index.search("docs", query("v", 99), &vector(1)) else {
        panic!("no hits")
    };
    assert_eq!(hits.len() as u64, DOCUMENTS + 1);
}
