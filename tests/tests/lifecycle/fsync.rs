//! A disk that says it has not written: what is not surely durable never serves, not even after
//! a restart. strace makes the kernel say so.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use e2e::{disk::Disk, eventually, home::Home, processes::Signal, server::Server};
use nix::{sys::signal, unistd::Pid};

use crate::{served, tiny, variant_of};

/// strace, attached to a supervisor. Ended with a signal it lets go of it.
struct Tracer(Child);

impl Tracer {
    /// Lets the `number`th fsync of each thread from now on fail. None: there is no strace, or it may not.
    async fn attach(server: &Server, number: usize) -> Option<Self> {
        let log = server.home().root().join("strace");
        let inject = format!("inject=fsync:error=EIO:when={number}");
        let child = Command::new("strace")
            .args(["-f", "-q", "-e", "trace=fsync", "-e", &inject, "-o"])
            .arg(&log)
            .args(["-p", &server.pid().to_string()])
            .stderr(Stdio::null())
            .spawn();
        let mut tracer = Self(child.ok()?);
        let status = format!("/proc/{}/status", server.pid());
        let own = format!("TracerPid:\t{}\n", tracer.0.id());
        eventually("strace is attached or ends", Duration::from_secs(20), async || {
            let attached = std::fs::read_to_string(&status).is_ok_and(|text| text.contains(&own));
            (attached || tracer.0.try_wait().is_ok_and(|ended| ended.is_some())).then_some(attached)
        })
        .await
        .then_some(tracer)
    }

    fn detach(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        signal::kill(pid, Signal::SIGINT).expect("it runs");
        self.0.wait().expect("it ends");
    }
}

/// What is written to the disk by one thread, and which of its fsyncs fail.
enum Writing {
    /// A version: eight files, the two directories that hold them, and the one that holds it.
    Version,
    /// A record of a version that is kept: the file, the model's directory, that of all models.
    Record,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_writing_fails_is_refused_and_does_not_serve_after_a_restart() {
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
        let Some(tracer) = Tracer::attach(&server, number).await else {
            eprintln!("skipped: strace cannot be used");
            return server.stop().await;
        };
        let result = server.update("m", Some(&from)).await;
        tracer.detach();
        let refusal = result.expect_err("there is no such fsync");
        assert_eq!(refusal.kind, "internal", "{refusal:?}");
        assert!(refusal.message.contains("os error 5"), "{refusal:?}");
        assert_eq!(served(&server, "m").await, before);
        server.stop().await;

        let server = start().await;
        assert_eq!(served(&server, "m").await, before, "after {refusal:?}");
        assert_eq!(Disk::of(&home).leftovers(), [""; 0]);
        let next = server.update("m", Some(&tiny("a"))).await.unwrap();
        assert!(next.generation > before.0);
        server.stop().await;
    }
}
