//! `onnxd` itself is replaced while it serves: SIGUSR2, socket activation.

mod activation;
mod broken;
mod killed;
mod load;

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use e2e::{
    home::Home,
    launch::{self, Builder},
    processes::{self, Process, Signal},
    server::Server,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server and those that succeed it, one after the other.
struct Line {
    server: Server,
    home: Arc<Home>,
}

impl Line {
    async fn start(builder: Builder) -> Self {
        let home = builder.directories();
        Self { server: builder.start().await, home }
    }

    /// The process that holds the state directory, as it says itself.
    fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.home.state().join("lock")).expect("a lock");
        text.trim().parse().expect("a pid")
    }

    fn process(&self) -> Process {
        Process::find(self.pid()).expect("it runs")
    }

    fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Sends SIGUSR2 and waits until another process has taken over and the one before has ended.
    async fn succeed(&self) {
        let before = self.process();
        before.signal(Signal::SIGUSR2);
        e2e::eventually("a successor", PATIENCE, async || {
            (self.pid() != before.pid && !before.runs()).then_some(())
        })
        .await;
    }

    /// Waits until the log says something, from a place on.
    async fn says(&self, what: &str, from: usize) {
        e2e::eventually(what, PATIENCE, async || {
            self.server.stderr().get(from..)?.contains(what).then_some(())
        })
        .await;
    }

    /// Whether the admin socket answers.
    async fn administers(&self) -> bool {
        let socket = self.home.admin_socket();
        let arguments = ["status", "--json", "--admin-socket", socket.to_str().expect("a path")];
        launch::run(&self.home, &arguments).await.status.success()
    }

    /// Ends whoever serves now, and looks for what is left.
    async fn stop(mut self) {
        let last = self.process();
        last.signal(Signal::SIGTERM);
        e2e::eventually("the end", PATIENCE, async || (!last.runs()).then_some(())).await;
        self.nothing_is_left().await;
    }

    async fn nothing_is_left(&mut self) {
        e2e::eventually("the end of the first", PATIENCE, async || {
            (!self.server.runs()).then_some(())
        })
        .await;
        let mut left = self.home.leftovers(&BTreeSet::new());
        left.extend(self.home.staged());
        let run = self.home.admin_socket();
        let names = fs::read_dir(run.parent().expect("a parent")).expect("a directory");
        left.extend(names.flatten().map(|entry| entry.path().display().to_string()));
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Successors are no children of ours.
        for process in processes::mentioning(self.home.root()) {
            process.signal(Signal::SIGKILL);
        }
    }
}
