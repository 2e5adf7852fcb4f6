//! The measured server: started with one content, updated to the second, then switched between
//! both.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{admin::Committed, fixtures, home::Home, launch::Builder, server::Server};

use crate::{
    control::{CallResult, Control, Load},
    texts::{Corpus, Texts},
};

/// Names of the two contents.
pub(crate) const CONTENTS: [&str; 2] = ["one", "two"];
/// Maximum time for all workers to switch after a commit under load.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Time after which a retired version has been freed.
const FREE_TIME: Duration = Duration::from_millis(500);

/// Two model directories that serve under one name.
#[derive(Clone, Debug)]
pub(crate) struct ModelPair {
    pub model: &'static str,
    pub directories: [PathBuf; 2],
}

impl ModelPair {
    /// Returns MiniLM and its variant.
    pub(crate) fn minilm() -> Self {
        let directories = ["minilm", "minilm-variant"].map(fixtures::model);
        Self { model: "minilm", directories }
    }

    /// Returns two tiny models, for which updates cost more than requests.
    pub(crate) fn tiny() -> Self {
        Self { model: "tiny", directories: ["tiny/a", "tiny/b"].map(fixtures::model) }
    }

    /// Returns a builder for a server of the first directory.
    pub(crate) fn builder(&self, workers: usize) -> Builder {
        Server::builder().model(self.model, &self.directories[0]).workers(workers)
    }
}

/// A running server with known contents.
pub(crate) struct Subject {
    pub server: Server,
    pub control: Control,
    pub texts: Arc<Texts>,
    pub pair: ModelPair,
    /// The last commit.
    pub serving: Committed,
    /// Content names by version.
    pub contents: BTreeMap<String, String>,
}

impl Subject {
    /// Starts a server and leaves it serving the second content, with both kept and compiled.
    pub(crate) async fn start(pair: ModelPair, workers: usize, seed: u64) -> Result<Self, String> {
        let server = pair.builder(workers).start().await;
        let texts = Texts::new(seed, pair.model, Corpus::Short);
        Self::prepare(server, pair, texts).await
    }

    /// Prepares a server that is already running, with the given texts.
    pub(crate) async fn prepare(
        server: Server,
        pair: ModelPair,
        mut texts: Texts,
    ) -> Result<Self, String> {
        let control = Control::new(&server, pair.model);
        let mut client = server.client().await;
        texts.learn(CONTENTS[0], &mut client).await?;
        let first = server.status().await.model(pair.model).version.clone();
        let called = control.update(&pair.directories[1], Load::Ahead).await?;
        let serving = called.result.map_err(|refusal| format!("{refusal:?}"))?;
        texts.learn(CONTENTS[1], &mut client).await?;
        let contents =
            [first, serving.version.clone()].into_iter().zip(CONTENTS.map(str::to_owned));
        let contents = contents.collect();
        Ok(Self { server, control, texts: Arc::new(texts), pair, serving, contents })
    }

    /// Restarts the server with the same state.
    pub(crate) async fn restart(self, workers: usize) -> Self {
        let home = Arc::clone(self.server.home());
        self.server.stop().await;
        let server = self.pair.builder(workers).home(&home).start().await;
        Self { server, ..self }
    }

    /// Updates to the directory that is not serving.
    pub(crate) async fn update(&mut self, load: Load) -> Result<CallResult, String> {
        let next = usize::from(self.content() == CONTENTS[0]);
        let directory = self.pair.directories[next].clone();
        let called = self.control.update(&directory, load).await?;
        self.record(called, CONTENTS[next])
    }

    /// Updates to a directory with content that is new to the server.
    pub(crate) async fn update_to(
        &mut self,
        fresh: &mut FreshVersions,
    ) -> Result<CallResult, String> {
        fresh.change()?;
        let called = self.control.update(&fresh.directory, Load::Ahead).await?;
        self.record(called, CONTENTS[1])
    }

    /// Rolls back to the previous version.
    pub(crate) async fn rollback(&mut self) -> Result<CallResult, String> {
        let next = usize::from(self.content() == CONTENTS[0]);
        let called = self.control.rollback().await?;
        self.record(called, CONTENTS[next])
    }

    fn record(&mut self, called: CallResult, content: &str) -> Result<CallResult, String> {
        let refused = |refusal: &e2e::admin::Refusal| format!("refused: {refusal:?}");
        self.serving = called.result.as_ref().map_err(refused)?.clone();
        self.contents.insert(self.serving.version.clone(), content.to_owned());
        Ok(called)
    }

    fn content(&self) -> &str {
        self.contents.get(&self.serving.version).map_or(CONTENTS[0], String::as_str)
    }

    /// Returns a source of contents that are new to the server.
    pub(crate) fn fresh(&self) -> Result<FreshVersions, String> {
        FreshVersions::new(self.server.home(), &self.pair.directories[1])
    }

    /// Waits until every worker serves the last commit and the previous version is freed. Sends
    /// requests meanwhile, because workers switch only when they have work.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let start = Instant::now();
        while !self.control.switched(self.serving.generation).await {
            if start.elapsed() > SETTLE_MAX {
                return Err(format!(
                    "not all workers serve generation {}",
                    self.serving.generation
                ));
            }
            self.touch_all().await?;
        }
        tokio::time::sleep(FREE_TIME).await;
        Ok(())
    }

    /// Sends enough requests to reach every worker.
    pub(crate) async fn touch_all(&self) -> Result<(), String> {
        let requests = (0..8).map(|index| {
            let (address, body) = (self.server.address(), self.texts.body(index));
            tokio::spawn(async move {
                let client = e2e::client::Client::connect(address).await;
                let mut client = client.map_err(|error| error.to_string())?;
                let answer = client.send(hyper::Method::POST, "/embed", body).await;
                answer.map(|_| ()).map_err(|error| error.to_string())
            })
        });
        for answer in requests.collect::<Vec<_>>() {
            answer.await.map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    /// Returns the pids of the workers.
    pub(crate) async fn worker_pids(&self) -> Vec<i32> {
        self.control.status().await.pids()
    }
}

/// A model directory that becomes a new version of the same model with every change.
pub(crate) struct FreshVersions {
    directory: PathBuf,
}

impl FreshVersions {
    fn new(home: &Home, like: &Path) -> Result<Self, String> {
        let directory = home.models().join("fresh");
        fixtures::replace_model(like, &directory);
        Ok(Self { directory })
    }

    /// Appends a line break to the JSON, which changes the digest only.
    fn change(&mut self) -> Result<(), String> {
        let path = self.directory.join("config.json");
        let name = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(name)?;
        file.write_all(b"\n").map_err(name)
    }
}
