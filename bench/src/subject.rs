//! The server that is measured: started with one content, taught two, and updated between them.

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
    control::{Called, Control, Load},
    texts::{Corpus, Texts},
};

/// Names of the two contents.
const CONTENTS: [&str; 2] = ["one", "two"];
/// All workers switch within this time after a commit as long as there are requests.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// What is no longer served is freed within this time.
const FREED: Duration = Duration::from_millis(500);

/// Two model directories under one name.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub model: &'static str,
    pub directories: [PathBuf; 2],
}

impl Pair {
    /// MiniLM and its variant.
    pub(crate) fn minilm() -> Self {
        let directories = ["minilm", "minilm-variant"].map(fixtures::model);
        Self { model: "minilm", directories }
    }

    /// Two models that are so small that updates cost more than answers.
    pub(crate) fn tiny() -> Self {
        Self { model: "tiny", directories: ["tiny/a", "tiny/b"].map(fixtures::model) }
    }

    /// A supervisor of the first one.
    pub(crate) fn builder(&self, workers: usize) -> Builder {
        Server::builder().model(self.model, &self.directories[0]).workers(workers)
    }
}

/// A running server whose contents are known.
pub(crate) struct Subject {
    pub server: Server,
    pub control: Control,
    pub texts: Arc<Texts>,
    pub pair: Pair,
    /// The last commit.
    pub serving: Committed,
    /// By version, the name of its content.
    pub contents: BTreeMap<String, String>,
}

impl Subject {
    /// Starts it, and leaves it serving the second content with both kept and compiled.
    pub(crate) async fn start(pair: Pair, workers: usize, seed: u64) -> Result<Self, String> {
        let server = pair.builder(workers).start().await;
        let texts = Texts::new(seed, pair.model, Corpus::Short);
        Self::of(server, pair, texts).await
    }

    /// The same with a server that runs already, and other texts.
    pub(crate) async fn of(server: Server, pair: Pair, mut texts: Texts) -> Result<Self, String> {
        let control = Control::of(&server, pair.model);
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

    /// Stops it and starts it again with the same state.
    pub(crate) async fn restart(self, workers: usize) -> Self {
        let home = Arc::clone(self.server.home());
        self.server.stop().await;
        let server = self.pair.builder(workers).home(&home).start().await;
        Self { server, ..self }
    }

    /// Updates to whichever of the two directories is not served.
    pub(crate) async fn update(&mut self, load: Load) -> Result<Called, String> {
        let next = usize::from(self.content() == CONTENTS[0]);
        let directory = self.pair.directories[next].clone();
        let called = self.control.update(&directory, load).await?;
        self.took(called, CONTENTS[next])
    }

    /// Updates to a directory whose content nobody has seen before.
    pub(crate) async fn update_to(&mut self, fresh: &mut Fresh) -> Result<Called, String> {
        fresh.change()?;
        let called = self.control.update(&fresh.directory, Load::Ahead).await?;
        self.took(called, CONTENTS[1])
    }

    /// Goes back to the version before.
    pub(crate) async fn rollback(&mut self) -> Result<Called, String> {
        let next = usize::from(self.content() == CONTENTS[0]);
        let called = self.control.rollback().await?;
        self.took(called, CONTENTS[next])
    }

    fn took(&mut self, called: Called, content: &str) -> Result<Called, String> {
        let refused = |refusal: &e2e::admin::Refusal| format!("refused: {refusal:?}");
        self.serving = called.result.as_ref().map_err(refused)?.clone();
        self.contents.insert(self.serving.version.clone(), content.to_owned());
        Ok(called)
    }

    fn content(&self) -> &str {
        self.contents.get(&self.serving.version).map_or(CONTENTS[0], String::as_str)
    }

    /// A source of contents that nobody has seen.
    pub(crate) fn fresh(&self) -> Result<Fresh, String> {
        Fresh::new(self.server.home(), &self.pair.directories[1])
    }

    /// Waits until every worker serves the last commit, and what was before it is freed. Workers
    /// switch when they are asked something, so they are.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let begin = Instant::now();
        while !self.control.switched(self.serving.generation).await {
            if begin.elapsed() > SETTLE_MAX {
                return Err(format!(
                    "not all workers serve generation {}",
                    self.serving.generation
                ));
            }
            self.touch_all().await?;
        }
        tokio::time::sleep(FREED).await;
        Ok(())
    }

    /// Has every worker answer something.
    pub(crate) async fn touch_all(&self) -> Result<(), String> {
        let asking = (0..8).map(|place| {
            let (address, body) = (self.server.address(), self.texts.body(place));
            tokio::spawn(async move {
                let client = e2e::client::Client::connect(address).await;
                let mut client = client.map_err(|error| error.to_string())?;
                let answer = client.send(hyper::Method::POST, "/embed", body).await;
                answer.map(|_| ()).map_err(|error| error.to_string())
            })
        });
        for answer in asking.collect::<Vec<_>>() {
            answer.await.map_err(|error| error.to_string())??;
        }
        Ok(())
    }

    /// The pids of its workers.
    pub(crate) async fn worker_pids(&self) -> Vec<i32> {
        self.control.status().await.pids()
    }
}

/// A model directory that becomes another version without becoming another model.
pub(crate) struct Fresh {
    directory: PathBuf,
}

impl Fresh {
    fn new(home: &Home, like: &Path) -> Result<Self, String> {
        let directory = home.models().join("fresh");
        fixtures::replace_model(like, &directory);
        Ok(Self { directory })
    }

    /// One more line end behind the JSON.
    fn change(&mut self) -> Result<(), String> {
        let path = self.directory.join("config.json");
        let name = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(name)?;
        file.write_all(b"\n").map_err(name)
    }
}
