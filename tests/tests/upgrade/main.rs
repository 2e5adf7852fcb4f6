//! Upgrades of onnxd while it is serving: SIGUSR2 and socket activation.

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

const TIMEOUT: Duration = Duration::from_secs(60);

/// A server and its successors.
struct Succession {
    server: Server,
    home: Arc<Home>,
}

impl Succession {
    async fn start(builder: Builder) -> Self {
        let home = builder.directories();
        Self { server: builder.start().await, home }
    }

    /// Returns the pid in the lock file of the state directory.
    fn pid(&self) -> i32 {
        let text = fs::read_to_string(self.home.state().join("lock")).expect("a lock");
        text.trim().parse().expect("a pid")
    }

    fn process(&self) -> Process {
        Process::find(self.pid()).expect("the process is running")
    }

    fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Sends SIGUSR2 and waits until a successor has taken over and the predecessor has exited.
    async fn succeed(&self) {
        let before = self.process();
        before.signal(Signal::SIGUSR2);
        e2e::eventually("a successor", TIMEOUT, async || {
            (self.pid() != before.pid && !before.runs()).then_some(())
        })
        .await;
    }

    /// Waits until the log contains `what` after the offset `from`.
    async fn wait_for_log(&self, what: &str, from: usize) {
        e2e::eventually(what, TIMEOUT, async || {
            self.server.stderr().get(from..)?.contains(what).then_some(())
        })
        .await;
    }

    /// Returns whether the admin socket answers.
    async fn answers_admin(&self) -> bool {
        let socket = self.home.admin_socket();
        let arguments = ["status", "--json", "--admin-socket", socket.to_str().expect("a path")];
        launch::run(&self.home, &arguments).await.status.success()
    }

    /// Stops the current process and checks that nothing is left behind.
    async fn stop(mut self) {
        let last = self.process();
        last.signal(Signal::SIGTERM);
        e2e::eventually("the exit", TIMEOUT, async || (!last.runs()).then_some(())).await;
        self.assert_no_leftovers().await;
    }

    async fn assert_no_leftovers(&mut self) {
        e2e::eventually("the exit of the first process", TIMEOUT, async || {
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

impl Drop for Succession {
    fn drop(&mut self) {
        // Successors are not our children.
        for process in processes::mentioning(self.home.root()) {
            process.signal(Signal::SIGKILL);
        }
    }
}
