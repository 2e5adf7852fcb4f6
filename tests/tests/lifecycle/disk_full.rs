//! Full disks: the update is refused and leaves nothing behind, and serving continues.

use std::{fs::File, sync::Arc, time::Duration};

use e2e::{
    corpus::Corpus, disk::Disk, eventually, home::Home, load::Load, server::Server,
    small_disk::SmallDisk,
};

use crate::{served, tiny, variant_of};

/// Enough for about a dozen tiny versions.
const DISK_BYTES: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_update_and_serving_continues() {
    let home = Arc::new(Home::new());
    let small = match SmallDisk::mount(&home.state(), DISK_BYTES) {
        Ok(small) => small,
        Err(reason) => {
            eprintln!("SKIPPED: cannot mount a small disk: {reason}");
            return;
        }
    };
    let server = Server::builder().home(&home).model("m", &tiny("a")).start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    let disk = Disk::new(&home);
    let mut refused = 0;
    // A staged version takes about 40 pages, and its compiled form more. Wherever the disk fills
    // up, the update must succeed or fail as a whole.
    for pages in [0, 1, 8, 20, 30, 34, 36, 38, 40, 44, 60, 90] {
        let from = variant_of(&home, "b", &pages.to_string());
        let before = served(&server, "m").await;
        small.fill_but(pages);
        let result = load.update(&server, &from, "b").await;
        small.fill_but(0);
        load.more(4).await;
        match result {
            Ok(committed) => {
                // A number is never reused, even if its record could not be written.
                assert!(committed.generation > before.0, "{pages} pages");
                assert_eq!(served(&server, "m").await, (committed.generation, committed.version));
            }
            Err(refusal) => {
                assert_eq!(refusal.kind, "space", "{pages} pages: {refusal:?}");
                assert_eq!(served(&server, "m").await, before, "{pages} pages");
                refused += 1;
            }
        }
        eventually("leftovers are removed", Duration::from_secs(20), async || {
            disk.leftovers().is_empty().then_some(())
        })
        .await;
        let newest = disk.generations("m").pop_last();
        assert_eq!(newest, Some(served(&server, "m").await), "{pages} pages");
    }
    assert!(refused >= 3, "the disk was full only {refused} times");
    small.empty();
    load.update(&server, &variant_of(&home, "b", "last"), "b").await.unwrap();
    load.more(4).await;
    load.finish().await;
    let last = served(&server, "m").await;
    server.stop().await;

    let server = Server::builder().home(&home).model("m", &tiny("a")).start().await;
    assert_eq!(served(&server, "m").await, last);
    server.stop().await;
    drop(small);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enormous_sparse_file_is_refused_before_it_is_copied() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let from = variant_of(server.home(), "b", "enormous");
    // A sparse file takes no space.
    let file = File::options().write(true).open(from.join("model.onnx")).unwrap();
    file.set_len(100 << 30).unwrap();
    let timeout = Duration::from_secs(5);
    let refusal = tokio::time::timeout(timeout, server.update("m", Some(&from))).await;
    let refusal = refusal.expect("the file was copied").unwrap_err();
    assert!(["contract", "space"].contains(&refusal.kind.as_str()), "{refusal:?}");
    assert_eq!(served(&server, "m").await.0, 1);
    server.stop().await;
}
