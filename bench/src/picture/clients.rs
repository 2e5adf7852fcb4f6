//! Clients with one connection each that pause between requests and never retry. Unlike those of
//! [`crate::traffic`], they continue while the server is down.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{client::Client, random::Random};
use hyper::Method;
use tokio::{task::JoinHandle, time};

use crate::texts::Texts;

/// Mean pause between two requests of a client. Neither server is overloaded at that rate. Without
/// pauses, clients would send thousands of requests per second to a server that is down.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Time since the clients started.
    pub start: Duration,
    /// `None` if the request failed.
    pub answer: Option<Answer>,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub latency: Duration,
    /// The content that computed it.
    pub content: String,
}

/// Running clients.
pub(crate) struct Clients {
    begin: Instant,
    tasks: Vec<JoinHandle<Result<Vec<Sample>, String>>>,
}

impl Clients {
    /// Starts `count` clients that send requests for `length`.
    pub(crate) fn start(
        address: SocketAddr,
        texts: &Arc<Texts>,
        count: usize,
        length: Duration,
        seed: u64,
    ) -> Self {
        let begin = Instant::now();
        let start = |number| {
            let random = Random::new(seed.wrapping_add(number as u64));
            let texts = Arc::clone(texts);
            let sending = Sending { address, texts, random, begin, connection: None };
            tokio::spawn(sending.run(length))
        };
        Self { begin, tasks: (0..count).map(start).collect() }
    }

    /// The time from which samples count.
    pub(crate) fn begin(&self) -> Instant {
        self.begin
    }

    /// Waits until all clients have finished.
    ///
    /// # Errors
    /// An answer is of unknown content.
    pub(crate) async fn finish(self) -> Result<Vec<Sample>, String> {
        let mut samples = Vec::new();
        for task in self.tasks {
            samples.extend(task.await.map_err(|error| error.to_string())??);
        }
        Ok(samples)
    }
}

/// One client.
struct Sending {
    address: SocketAddr,
    texts: Arc<Texts>,
    random: Random,
    begin: Instant,
    connection: Option<Client>,
}

impl Sending {
    async fn run(mut self, length: Duration) -> Result<Vec<Sample>, String> {
        let mut samples = Vec::new();
        loop {
            time::sleep(PAUSE.mul_f64(self.random.exponential())).await;
            let start = self.begin.elapsed();
            if start >= length {
                return Ok(samples);
            }
            let place = self.random.below_len(self.texts.len());
            let body = self.send(place).await;
            let latency = self.begin.elapsed() - start;
            let content = body.map(|body| self.texts.content(place, &body)).transpose()?;
            let answer = content.map(|content| Answer { latency, content });
            samples.push(Sample { start, answer });
        }
    }

    /// Sends a request, over a new connection if the last one is closed. Returns `None` on a
    /// failure: a refused connection, one that closes during the request, or a status other than
    /// 200.
    async fn send(&mut self, place: usize) -> Option<bytes::Bytes> {
        let mut client = match self.connection.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => Client::connect(self.address).await.ok()?,
        };
        let answer = client.send(Method::POST, "/embed", self.texts.body(place)).await.ok()?;
        self.connection = Some(client);
        (answer.status == 200).then_some(answer.body)
    }
}
