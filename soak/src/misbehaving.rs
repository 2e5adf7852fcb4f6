//! Misbehaving clients, and storms of well-behaved ones. Their answers belong to no model's
//! history, but they are counted and checked.

use std::{sync::Arc, time::Duration};

use e2e::{
    client::{self, Client},
    kinds::{self, Kind},
    random::Random,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{models::MODELS, probe::Transport, world::World};

/// Duration of a storm.
const STORM_DURATION: Duration = Duration::from_millis(700);
/// Rejected clients retry after this time, sooner than `retry-after` says.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Time that slow clients read before they disconnect.
const SLOW_READ_DURATION: Duration = Duration::from_secs(3);
/// Time limit for an invalid request.
const TIMEOUT: Duration = Duration::from_secs(40);
const EMBED: &str = "/embed";

/// Sends more texts than the queue holds, all to the first model.
pub(crate) async fn storm(world: &Arc<World>, clients: usize) {
    let model = MODELS[0].name;
    let texts = vec!["the model server answers a long request"; 32];
    let body = json!({"inputs": texts, "model": model});
    let end = world.now() + STORM_DURATION;
    world.ledger().event_counts().storm_begins(model);
    let tasks = (0..clients).map(|_| {
        let (world, body) = (Arc::clone(world), body.clone());
        tokio::spawn(async move {
            let mut client = world.server.client().await;
            while world.now() < end {
                match client.post(EMBED, &body).await {
                    Ok(response) => {
                        answered(&world, EMBED, response.status, &[200, 429]);
                        if response.status == 429 {
                            if response.header("retry-after").is_none() {
                                world.violated("429 without retry-after");
                            }
                            tokio::time::sleep(RETRY_PAUSE).await;
                        }
                    }
                    Err(error) => return lost(&world, EMBED, &error.to_string()),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        if let Err(error) = task.await {
            world.violated(&format!("a client of a storm: {error}"));
        }
    }
    world.ledger().event_counts().storm_ends(model);
}

/// Opens connections that close during their request or its body.
pub(crate) async fn disconnects(world: &Arc<World>, clients: usize, millis: u64) {
    let http = world.probes.iter().filter_map(|probe| match &probe.transport {
        Transport::Http(kind, request) => Some((kind, request)),
        Transport::Grpc(_) => None,
    });
    let all = http.cycle().skip(usize::try_from(millis).unwrap_or_default());
    for (number, (kind, request)) in all.take(clients).enumerate() {
        let mut bytes = head(world, request);
        bytes.extend_from_slice(&request.body);
        if number % 3 == 2 {
            bytes.truncate(bytes.len() - request.body.len() / 2);
        }
        let Some(mut stream) = connect(world).await else { return };
        *world.ledger().unknown.entry(kind.route()).or_default() += 1;
        let _ = stream.write_all(&bytes).await;
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// Reads a large response byte by byte and disconnects.
pub(crate) async fn slow_readers(world: &Arc<World>, clients: usize) {
    let mut request = Kind::EmbedAll.request(MODELS[0].name);
    let texts = vec!["the model server answers a long request"; 32];
    request.body = json!({"inputs": texts, "model": MODELS[0].name}).to_string().into();
    let mut streams = Vec::new();
    for _ in 0..clients {
        let Some(mut stream) = connect(world).await else { return };
        *world.ledger().unknown.entry(Kind::EmbedAll.route()).or_default() += 1;
        let _ = stream.write_all(&[&head(world, &request)[..], &request.body].concat()).await;
        streams.push(stream);
    }
    let end = world.now() + SLOW_READ_DURATION;
    while world.now() < end {
        for stream in &mut streams {
            let mut byte = [0; 16];
            let _ = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends requests that are invalid in one of several ways.
pub(crate) async fn bad_input(world: &Arc<World>, requests: usize, random: &mut Random) {
    for _ in 0..requests {
        let (route, path, body, allowed) = invalid(random);
        let request = kinds::HttpRequest {
            path,
            headers: vec![("content-type", "application/json".into())],
            body: body.into(),
        };
        let mut bytes = head(world, &request);
        bytes.extend_from_slice(&request.body);
        let raw = client::exchange(world.server.address(), &bytes, TIMEOUT).await;
        match raw.map(|raw| raw.status()) {
            Ok(Some(status)) => answered(world, route, status, allowed),
            Ok(None) => lost(world, route, "an invalid request got no answer"),
            Err(error) => lost(world, route, &error.to_string()),
        }
    }
}

type Invalid = (&'static str, String, String, &'static [u16]);

fn invalid(random: &mut Random) -> Invalid {
    let infer = Kind::RawTensor.route();
    let at = |model: &str| infer.replace("{model}", model);
    let embed = |body: String, allowed: &'static [u16]| (EMBED, EMBED.to_owned(), body, allowed);
    let tensor = |body: serde_json::Value| (infer, at("tensor"), body.to_string(), &[400][..]);
    let x = |shape: serde_json::Value, data: serde_json::Value| json!({"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]});
    match random.below(10) {
        0 => embed("{\"inputs\": ".into(), &[400, 422]),
        1 => embed("[".repeat(100_000), &[400, 422]),
        2 => embed(json!({"inputs": []}).to_string(), &[400, 422]),
        3 => embed(json!({"inputs": vec!["a"; 33]}).to_string(), &[413, 422]),
        4 => embed(json!({"inputs": "a", "model": "nobody"}).to_string(), &[404]),
        5 => embed(json!({"inputs": "a ".repeat(1_000_100)}).to_string(), &[413]),
        6 => embed(json!({"inputs": "a", "model": "tensor"}).to_string(), &[424]),
        7 => tensor(x(json!([u64::MAX, u64::MAX]), json!([1]))),
        8 => tensor(x(json!([2, 4]), json!([1, 2]))),
        _ => tensor(x(json!([1, 4]), json!(["a", "b", "c", "d"]))),
    }
}

/// Sends large tensors concurrently.
pub(crate) async fn large_bodies(world: &Arc<World>, requests: usize, mebibytes: usize) {
    let route = Kind::RawTensor.route();
    let numbers: Vec<f32> = vec![0.5; mebibytes << 18];
    let request = kinds::raw(&route.replace("{model}", "tensor"), &numbers);
    let tasks = (0..requests).map(|_| {
        let (world, request) = (Arc::clone(world), request.clone());
        tokio::spawn(async move {
            let Ok(mut client) = Client::connect(world.server.address()).await else {
                return world.violated("connection refused");
            };
            match request.send(&mut client).await {
                // All large bodies together may exceed the limit.
                Ok(response) => answered(&world, route, response.status, &[200, 429]),
                Err(error) => lost(&world, route, &error.to_string()),
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        if let Err(error) = task.await {
            world.violated(&format!("a large body: {error}"));
        }
    }
}

fn answered(world: &World, route: &'static str, status: u16, allowed: &[u16]) {
    let mut ledger = world.ledger();
    ledger.count(route, status);
    if !allowed.contains(&status) {
        ledger.violated(format!("{route} answered {status}, expected one of {allowed:?}"));
    } else if status != 200 {
        let reason = if status == 429 { "storm" } else { "invalid request" };
        *ledger.excused.entry((status, reason)).or_default() += 1;
    }
}

fn lost(world: &World, route: &'static str, why: &str) {
    *world.ledger().unknown.entry(route).or_default() += 1;
    world.violated(&format!("{route}: {why}"));
}

async fn connect(world: &World) -> Option<TcpStream> {
    match TcpStream::connect(world.server.address()).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            world.violated(&format!("connection refused: {error}"));
            None
        }
    }
}

fn head(world: &World, request: &kinds::HttpRequest) -> Vec<u8> {
    let mut head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        request.path,
        world.server.address(),
        request.body.len()
    );
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}
