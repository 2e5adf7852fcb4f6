//! Well-behaved clients: they send requests without pauses or retries and report what they saw.

use std::{sync::Arc, time::Duration};

use e2e::{
    client::{Client, Response, Unanswered},
    history::{Outcome, Request},
    random::Random,
};

use crate::{
    ledger::RequestInfo,
    options::Lie,
    probe::{Connections, Probe},
    world::World,
};

/// One request in this many uses a new connection.
const RECONNECT_EVERY: u64 = 50;
/// One request in this many has a deadline shorter than the server's.
const SHORT_DEADLINE_EVERY: u64 = 100;
/// Tolerance above such a deadline.
const SHORT_GRACE: Duration = Duration::from_secs(10);
/// Sequence number at which a client with `--lie` starts to lie.
const LIE_AT: usize = 50;

/// One client.
pub(crate) struct SteadyClient {
    pub world: Arc<World>,
    pub number: usize,
    connections: Connections,
    pub random: Random,
    pub sequence: usize,
}

impl SteadyClient {
    /// Starts the client of this number.
    pub(crate) async fn start(world: &Arc<World>, number: usize) -> tokio::task::JoinHandle<()> {
        let connections = Connections::open(&world.server).await;
        let random = Random::new(world.options.seed ^ (number as u64 + 1).rotate_left(32));
        let client = Self { world: Arc::clone(world), number, connections, random, sequence: 0 };
        tokio::spawn(client.run())
    }

    async fn run(mut self) {
        let world = Arc::clone(&self.world);
        let weights: u64 = world.probes.iter().map(|probe| probe.weight).sum();
        while !world.stops() {
            let mut draw = self.random.below(weights);
            let fits = |probe: &&Probe| {
                let is = draw < probe.weight;
                draw = draw.saturating_sub(probe.weight);
                is
            };
            let Some(probe) = world.probes.iter().find(fits) else { continue };
            if self.random.below(RECONNECT_EVERY) == 0 && !self.connect().await {
                break;
            }
            let short = self.random.below(SHORT_DEADLINE_EVERY) == 0;
            let millis = short.then(|| 1 + self.random.below(300));
            if self.send(probe, millis).await.is_none() && !self.connect().await {
                break;
            }
        }
    }

    async fn connect(&mut self) -> bool {
        match Client::connect(self.connections.http.address()).await {
            Ok(client) => {
                self.connections.http = client;
                true
            }
            Err(error) => {
                self.world.violated(&format!("connection refused: {error}"));
                false
            }
        }
    }

    /// Sends one request, with a deadline in `millis` if set. Returns `None` if the connection was
    /// lost.
    async fn send(&mut self, probe: &Probe, millis: Option<u64>) -> Option<u16> {
        let info =
            RequestInfo { model: probe.model, route: probe.route(), short: millis.is_some() };
        let world = Arc::clone(&self.world);
        let many = if probe.is_large() { Some(world.many.lock().await) } else { None };
        let open = world.ledger().begin(probe.model, world.now());
        let within = millis.map(Duration::from_millis);
        let answer = probe.send(&mut self.connections, within).await;
        drop(many);
        let end = world.now();
        if within.is_some_and(|within| end - open.start > within + SHORT_GRACE) {
            world.violated(&format!("{info:?} took {:?}, deadline {within:?}", end - open.start));
        }
        let status = answer.as_ref().ok().map(|response| response.status);
        let (client, sequence, start) = (self.number, self.sequence, open.start);
        self.sequence += 1;
        let outcome = self.outcome(probe, answer);
        let request = Request { client, sequence, texts: 1, start, end, outcome };
        world.ledger().end(open, info, request);
        if world.options.lie == Some(Lie::Count) && self.number == 0 {
            world.ledger().count(info.route, 200);
        }
        if status == Some(429) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        status
    }

    fn outcome(&self, probe: &Probe, answer: Result<Response, Unanswered>) -> Outcome {
        let outcome = match answer {
            Ok(response) if response.status == 200 => probe.label(&response),
            Ok(response) if response.status == 429 && response.header("retry-after").is_none() => {
                Outcome::Lost("429 without retry-after".into())
            }
            Ok(response) => Outcome::Failed(response.status, response.text()),
            Err(Unanswered(reason)) => Outcome::Lost(reason),
        };
        match self.world.options.lie {
            Some(lie) if self.number == 0 && self.sequence >= LIE_AT => reported(lie, outcome),
            _ => outcome,
        }
    }
}

/// Falsifies an outcome in the requested way.
fn reported(lie: Lie, outcome: Outcome) -> Outcome {
    let Outcome::Answered(mut label) = outcome else { return outcome };
    match lie {
        Lie::Content => {
            label.content =
                label.content.map(|content| if content == "a" { "b" } else { "a" }.into());
        }
        Lie::Stale => label.generation = 1,
        Lie::Failure => return Outcome::Failed(503, "a lie".into()),
        Lie::Count => {}
    }
    Outcome::Answered(label)
}
