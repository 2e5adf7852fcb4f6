//! A full disk: writes are refused as a whole, and search and embedding go on.

use std::sync::Arc;

use e2e::{
    home::Home,
    search::{
        documents::{Asked, Documents},
        requests,
    },
    small_disk::SmallDisk,
};
use serde_json::json;

use crate::{builder, create, found, spaces};

/// Enough for the model and some thousand documents.
const DISK_BYTES: u64 = 12 << 20;
/// Documents of one write.
const AT_ONCE: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_search_goes_on() {
    let home = Arc::new(Home::new());
    let disk = match SmallDisk::mount(&home.state(), DISK_BYTES) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("SKIPPED: cannot mount a small disk: {reason}");
            return;
        }
    };
    let spaces = spaces(400).await;
    let server = builder().home(&home).start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    let mut documents = Documents::new(2000);
    let (mut refused, mut stored) = (0, 0);
    for (round, pages) in (0..).zip([400, 0, 1, 2, 4, 8, 16, 32, 64, 0, 128, 0]) {
        disk.fill_but(pages);
        let first = round * AT_ONCE / 2;
        let text = |id: u64| usize::try_from(id * 7 + round).expect("a small id") % 400;
        let ids: Vec<u64> = (first..first + AT_ONCE).collect();
        let now = std::time::Duration::from_secs(round);
        let changes: Vec<_> = ids.iter().map(|id| (*id, Some(text(*id)))).collect();
        let write = documents.begin(now, &changes);
        let texts = ids.iter().map(|id| (*id, spaces.text(text(*id))));
        let answer = requests::put(&mut client, "notes", texts).await.expect("an answer");
        if answer.status == 200 {
            documents.acknowledge(write, now);
            stored += 1;
        } else {
            let message = requests::error(&answer);
            assert_eq!(answer.status, 507, "{message}");
            let names = message.contains("disk is full; free space in the state directory");
            assert!(names, "{pages} pages: {message}");
            documents.refuse(write);
            refused += 1;
        }
        let expected: Vec<(u64, String)> =
            documents.current().map(|(id, text)| (id, spaces.text(text).to_owned())).collect();
        let exported = requests::export(&mut client, "notes").await;
        let exported: Vec<_> = exported.into_iter().map(|one| (one.id, one.text)).collect();
        assert!(exported == expected, "{pages} pages: nothing may be half done");
        let answer = found(&mut client, "notes", spaces.text(9), 20).await;
        let asked = Asked { query: 9, limit: 20, times: (now, now) };
        documents.check((&spaces, "a"), asked, &answer.hits).expect("an exact answer");
        let embedded = client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer");
        assert_eq!(embedded.status, 200);
    }
    assert!(refused >= 3 && stored >= 3, "{refused} refused, {stored} stored");
    disk.empty();
    let last = requests::put(&mut client, "notes", [(1999, "hello")]).await.expect("an answer");
    assert_eq!(last.status, 200, "{}", last.text());
    server.stop().await;

    let server = builder().home(&home).start().await;
    let stored = requests::export(&mut server.client().await, "notes").await;
    assert_eq!(stored.len(), documents.current().count() + 1);
    server.stop().await;
    drop(disk);
}
