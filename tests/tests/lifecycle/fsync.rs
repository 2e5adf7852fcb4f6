//! Failing fsyncs: a version or record that may not be durable is never served, not even after a
//! restart. strace makes the calls fail.

use std::sync::Arc;

use e2e::{disk::Disk, home::Home, server::Server, tracer::Tracer};

use crate::{served, tiny, variant_of};

/// Files written by one thread, whose fsyncs fail.
enum Writing {
    /// A version: eight files, their two directories, and the parent of the version.
    Version,
    /// A record of an existing version: the file, the model's directory, and its parent.
    Record,
}

#[tokio::test(flavor = "multi_thread")]
async fn update_with_failing_fsync_is_refused_permanently() {
    use Writing::{Record, Version};
    let home = Arc::new(Home::new());
    let start = || Server::builder().home(&home).model("m", &tiny("a")).start();
    start().await.stop().await;
    let known = variant_of(&home, "b", "known");
    for (writing, number) in [(Version, 1), (Version, 11), (Record, 1), (Record, 2), (Record, 3)] {
        let server = start().await;
        let from = match writing {
            Version => variant_of(&home, "b", &number.to_string()),
            Record => {
                server.update("m", Some(&known)).await.unwrap();
                server.rollback("m", None).await.unwrap();
                known.clone()
            }
        };
        let before = served(&server, "m").await;
        let how = format!("error=EIO:when={number}");
        let Some(tracer) = Tracer::attach(&server, "fsync", &how).await else {
            eprintln!("SKIPPED: strace cannot attach");
            return server.stop().await;
        };
        let result = server.update("m", Some(&from)).await;
        tracer.detach();
        let refusal = result.expect_err("the fsync must fail");
        assert_eq!(refusal.kind, "internal", "{refusal:?}");
        assert!(refusal.message.contains("os error 5"), "{refusal:?}");
        assert_eq!(served(&server, "m").await, before);
        server.stop().await;

        let server = start().await;
        assert_eq!(served(&server, "m").await, before, "after {refusal:?}");
        assert_eq!(Disk::new(&home).leftovers(), [""; 0]);
        let next = server.update("m", Some(&tiny("a"))).await.unwrap();
        assert!(next.generation > before.0);
        server.stop().await;
    }
}
