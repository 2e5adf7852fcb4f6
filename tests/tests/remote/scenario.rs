//! What every kind of source must do under concurrent clients: the first start, updates by poll and by
//! notification, a rollback, a source that is away and comes back, and wrong credentials. All
//! responses must be 200 and come from a version that was published as a whole.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use e2e::{
    client::Client,
    corpus::Corpus,
    eventually,
    fixtures::{model, variant},
    home::Home,
    launch::{Builder, free_address},
    load::Load,
    server::Server,
};
use serde_json::json;

use crate::{
    files::{Files, read},
    kind::{Credentials, Hook, Kind},
    secrets::{self, CommandLines},
};

const SOON: Duration = Duration::from_secs(60);
const CLIENTS: usize = 8;
/// Pause between the files of an upload, in which onnxd checks the source.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks at the source every second.
const OFTEN: &str = "--poll=1";
/// Looks at the source only when it is notified.
const SELDOM: &str = "--poll=3600";
const SECRET: &str = "secret-of-notifications";

/// Runs the scenario.
pub(crate) async fn prove<K: Kind>(kind: K) {
    let mut scenario = Scenario { kind, home: Arc::new(Home::new()), published: 0 };
    scenario.publish(Duration::ZERO);
    scenario.refuse_first_start().await;
    scenario.poll_and_roll_back().await;
    scenario.restart_without_source().await;
    scenario.notify().await;
    scenario.refuse_credentials().await;
}

struct Scenario<K> {
    kind: K,
    home: Arc<Home>,
    /// Number of published versions. They alternate between two contents.
    published: u32,
}

impl<K: Kind> Scenario<K> {
    /// Without a durable generation, onnxd waits and says what to do.
    async fn refuse_first_start(&mut self) {
        let mut server = self.onnxd(OFTEN, Credentials::Wrong).spawn();
        let reason = eventually("a reason to wait", SOON, async || {
            let log = server.stderr();
            log.lines().find(|line| line.contains("waiting for the source")).map(str::to_owned)
        })
        .await;
        self.assert_explained(&reason);
        let mut client = Client::connect(server.address()).await.unwrap();
        assert_eq!(client.get("/v2/health/live").await.unwrap().status, 200);
        let ready = client.get("/v2/health/ready").await.unwrap();
        assert_eq!(ready.status, 503);
        secrets::assert_none("the health check", &ready.text());
        secrets::assert_none("the status", &format!("{:?}", server.status().await));
        secrets::assert_none("the log", &server.stderr());
        assert_eq!(server.terminate().await.code(), Some(0));
    }

    /// Starts from nothing, updates during a slow upload, rolls back, and loses its source.
    async fn poll_and_roll_back(&mut self) {
        let (server, processes) = self.start(OFTEN, Credentials::Right).await;
        let mut load = self.load(&server, "a").await;
        let start = load.now();
        let content = self.publish(PAUSE);
        load.follow(&server, start, 1, content).await;
        load.more(20).await;

        let start = load.now();
        let committed = server.rollback("m", None).await.unwrap();
        load.committed((start, load.now()), &committed, "a");
        server.source_checks("m", 2).await;
        let generation = server.status().await.model("m").generation;
        assert_eq!(generation, committed.generation, "an unchanged source undoes no rollback");

        self.take_away();
        let reason = server.source_error("m").await;
        assert!(reason.contains("localhost") || reason.contains("127.0.0.1"), "{reason}");
        load.more(20).await;
        assert_eq!(load.finish().await.generations, 3);
        self.stop(server, processes).await;
    }

    /// Serves the last generation, and the next version once the source is back.
    async fn restart_without_source(&mut self) {
        let (server, processes) = self.start(OFTEN, Credentials::Right).await;
        let mut load = self.load(&server, "a").await;
        server.source_error("m").await;
        load.more(20).await;
        let before = server.status().await.model("m").generation;
        for server in self.kind.servers() {
            server.start_again();
        }
        let start = load.now();
        let content = self.publish(Duration::ZERO);
        load.follow(&server, start, before, content).await;
        eventually("no error", SOON, async || {
            let state = server.status().await.model("m").source_state.clone().unwrap();
            state.error.is_none().then_some(())
        })
        .await;
        load.more(20).await;
        assert_eq!(load.finish().await.generations, 2);
        self.stop(server, processes).await;
    }

    /// Checks at once when it is notified.
    async fn notify(&mut self) {
        let hook = Hook { address: free_address(), secret: SECRET };
        let file = |name: &str, text: &str| {
            let path = self.home.root().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let builder = self.onnxd(SELDOM, Credentials::Right);
        let builder = builder.argument("--admin-listen").argument(&hook.address.to_string());
        let builder = builder.argument("--admin-token-file");
        let builder = builder.argument(&file("token", "token-of-the-admin-interface"));
        let builder = builder.argument("--webhook-secret-file").argument(&file("secret", SECRET));
        let server = builder.start().await;
        let processes = CommandLines::of(server.pid());
        let mut load = self.load(&server, content_of(self.published)).await;
        let before = server.status().await.model("m").clone();

        let start = load.now();
        let content = self.publish(Duration::ZERO);
        let body = json!({"model": "m"});
        assert_eq!(hook.send_signed(&body, "another-secret-entirely").await.status, 401);
        load.more(20).await;
        let unchanged = server.status().await.model("m").clone();
        assert_eq!(unchanged.generation, before.generation);
        assert_eq!(unchanged.source_state.unwrap().checks, before.source_state.unwrap().checks);
        hook.notify(&body).await;
        load.follow(&server, start, before.generation, content).await;

        let start = load.now();
        let (files, content) = self.next();
        self.kind.publish_and_notify(&files, &hook).await;
        load.follow(&server, start, before.generation + 1, content).await;
        load.more(20).await;
        assert_eq!(load.finish().await.generations, 3);
        assert!(!server.stderr().contains(SECRET), "the log shows the secret");
        self.stop(server, processes).await;
    }

    /// Serves the last generation, and says what to do about the source.
    async fn refuse_credentials(&mut self) {
        let (server, processes) = self.start(OFTEN, Credentials::Wrong).await;
        let before = server.status().await.model("m").clone();
        let load = self.load(&server, content_of(self.published)).await;
        self.publish(Duration::ZERO);
        self.assert_explained(&server.source_error("m").await);
        let refusal = server.update("m", None).await.unwrap_err();
        assert_eq!(refusal.kind, "unauthorized");
        self.assert_explained(&refusal.message);
        load.more(20).await;
        assert_eq!(server.status().await.model("m").version, before.version);
        assert_eq!(load.finish().await.generations, 1);
        self.stop(server, processes).await;
    }

    /// Returns the files of the next version, and its content.
    fn next(&mut self) -> (Files, &'static str) {
        self.published += 1;
        let content = content_of(self.published);
        let directory = self.home.models().join(self.published.to_string());
        let name = format!("version {}", self.published);
        variant(&model("tiny").join(content), &directory, &name);
        (read(&directory), content)
    }

    /// Publishes the next version and returns its content.
    fn publish(&mut self, pause: Duration) -> &'static str {
        let (files, content) = self.next();
        self.kind.publish(&files, pause);
        content
    }

    fn take_away(&mut self) {
        for server in self.kind.servers() {
            server.stop();
        }
    }

    fn onnxd(&self, poll: &str, credentials: Credentials) -> Builder {
        let spec = format!("m={}", self.kind.source());
        let builder = Server::builder().home(&self.home).argument("--model").argument(&spec);
        // Secrets are more likely in the details.
        let builder = builder.argument(poll).variable("ONNXD_LOG", "debug");
        let variables = self.kind.variables(credentials).into_iter();
        variables.fold(builder, |builder, (name, value)| builder.variable(name, &value))
    }

    async fn start(&self, poll: &str, credentials: Credentials) -> (Server, CommandLines) {
        let server = self.onnxd(poll, credentials).start().await;
        let processes = CommandLines::of(server.pid());
        (server, processes)
    }

    /// Starts clients of a model that is serving `content`.
    async fn load(&self, server: &Server, content: &str) -> Load {
        Load::start(server, "m", Corpus::tiny(), content, CLIENTS).await
    }

    /// Stops onnxd and looks for passwords in all that it has shown.
    async fn stop(&self, server: Server, processes: CommandLines) {
        processes.finish();
        secrets::assert_none("the status", &format!("{:?}", server.status().await));
        secrets::assert_none("the log", &server.stderr());
        server.stop().await;
    }

    /// Checks that a reason names the source, the cause and the remedy, and no password.
    fn assert_explained(&self, reason: &str) {
        let is_refused = reason.contains("401") || reason.contains("403");
        assert!(is_refused && reason.contains(self.kind.remedy()), "{reason}");
        secrets::assert_none("the reason", reason);
    }
}

/// Returns the content of a version.
fn content_of(number: u32) -> &'static str {
    if number % 2 == 1 { "a" } else { "b" }
}
