//! A successor takes over the collections, and no request fails.

use std::{fs, time::Duration};

use e2e::{
    eventually,
    processes::{self, Process, Signal},
    search::{index_processes, load::SearchLoad},
    server::Server,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use crate::{PLAN, TIMEOUT, builder, create, found, put, spaces, tiny};

/// Returns the process that has the state directory.
fn current(server: &Server) -> Process {
    let text = fs::read_to_string(server.home().state().join("lock")).expect("a lock");
    Process::find(text.trim().parse().expect("a pid")).expect("the process is running")
}

/// Replaces the supervisor and waits until the predecessor has exited.
async fn succeed(server: &Server) {
    let before = current(server);
    before.signal(Signal::SIGUSR2);
    eventually("a successor", TIMEOUT, async || {
        (current(server) != before && !before.runs()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn successions_under_search_load_fail_nothing() {
    let builder = builder();
    let home = builder.directories();
    let mut server = builder.start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    for round in 0..4 {
        load.more(40).await;
        succeed(&server).await;
        load.more(40).await;
        let (from, content) = if round % 2 == 0 { ("b", "b") } else { ("a", "a") };
        let start = load.now();
        let committed = server.update("m", Some(&tiny(from))).await.expect("an update");
        load.committed(start, &committed, content);
        let processes = index_processes(current(&server).pid);
        assert_eq!(processes.len(), 1, "{processes:?}");
    }
    load.more(40).await;
    load.finish(&server).await;
    let last = current(&server);
    last.signal(Signal::SIGTERM);
    eventually("the exit", TIMEOUT, async || (!last.runs() && !server.runs()).then_some(())).await;
    let left = processes::mentioning(home.root());
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_arrive_slowly_are_stored_during_a_succession() {
    let mut server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello world", "good day"]).await;

    let body = "{\"id\": 9, \"text\": \"a late document\"}\n";
    let (first, rest) = body.split_at(10);
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    let head = format!(
        "POST /collections/notes/documents HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{first}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("half a request");
    // The handler waits for the rest.
    time::sleep(Duration::from_millis(200)).await;
    let before = current(&server);
    before.signal(Signal::SIGUSR2);
    eventually("a successor", TIMEOUT, async || (current(&server) != before).then_some(())).await;
    time::sleep(Duration::from_secs(1)).await;
    stream.write_all(rest.as_bytes()).await.expect("the rest of the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut client = server.client().await;
    assert_eq!(found(&mut client, "notes", "a late document", 1).await.ids(), [9]);
    let last = current(&server);
    last.signal(Signal::SIGTERM);
    eventually("the exit", TIMEOUT, async || {
        (!last.runs() && !before.runs() && !server.runs()).then_some(())
    })
    .await;
}
