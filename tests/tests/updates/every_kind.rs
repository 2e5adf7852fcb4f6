//! Requests of every kind to models of every task while all models are updated concurrently.

use std::{collections::BTreeMap, time::Duration};

use e2e::{
    client::Client,
    corpus::Corpus,
    fixtures::model,
    kinds::Kind,
    load::Load,
    processes::{self, Signal},
    server::Server,
};

/// The models and the kinds of requests sent to them.
const MODELS: [(&str, &str, &[Kind]); 4] = [
    ("embed", "", &Kind::OF_EMBEDDERS),
    ("classify", "classify_", &Kind::OF_CLASSIFIERS),
    ("rerank", "rerank_", &Kind::OF_RERANKERS),
    ("tensor", "tensor_", &Kind::OF_TENSORS),
];
/// Rounds of updates; each one updates all models concurrently.
const ROUNDS: usize = 12;

type Answers = Vec<(Kind, BTreeMap<String, Vec<f32>>)>;

/// Learns the answers of both contents of a model and leaves content a serving.
async fn learn(server: &Server, name: &str, prefix: &str, kinds: &[Kind]) -> Answers {
    let mut answers: Answers = kinds.iter().map(|&kind| (kind, BTreeMap::new())).collect();
    let mut client = server.client().await;
    for content in ["a", "b"] {
        let from = model(&format!("tiny/{prefix}{content}"));
        server.update(name, Some(&from)).await.expect("an update");
        for (kind, known) in &mut answers {
            known.insert(content.into(), kind.learn(&mut client, name).await);
        }
    }
    for (kind, known) in &answers {
        assert_ne!(known["a"], known["b"], "{kind:?}: both contents answer the same");
    }
    server.update(name, Some(&model(&format!("tiny/{prefix}a")))).await.expect("an update");
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_updates_of_all_tasks_fail_no_request() {
    let mut builder = Server::builder();
    for (name, prefix, _) in MODELS {
        builder = builder.model(name, &model(&format!("tiny/{prefix}a")));
    }
    let server = builder.start().await;
    let mut loads = Vec::new();
    for (name, prefix, kinds) in MODELS {
        let answers = learn(&server, name, prefix, kinds).await;
        let mut load = Load::start(&server, name, Corpus::default(), "a", 0).await;
        for (kind, known) in answers {
            load.join_with_kind(&server, kind, known).await;
        }
        loads.push(load);
    }
    for round in 0..ROUNDS {
        let content = ["b", "a"][round % 2];
        let how = ["--load", ["ahead", "lazy"][round / 2 % 2]];
        let update = async |load: &mut Load, prefix: &str| {
            let from = model(&format!("tiny/{prefix}{content}"));
            load.update_with(&server, &from, content, &how).await.unwrap();
        };
        let [embed, classify, rerank, tensor] = &mut loads[..] else { unreachable!() };
        tokio::join!(
            update(embed, MODELS[0].1),
            update(classify, MODELS[1].1),
            update(rerank, MODELS[2].1),
            update(tensor, MODELS[3].1),
        );
        if round % 4 == 3 {
            let pids = server.worker_pids().await;
            processes::signal(pids[round % pids.len()], Signal::SIGKILL);
        }
        for load in &loads {
            load.more(10).await;
        }
    }
    for load in loads {
        let summary = load.finish().await;
        assert!(summary.generations > ROUNDS / 2, "{summary:?}");
        assert!(summary.answered >= 10 * ROUNDS, "{summary:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_has_one_generation_under_constant_updates() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let answers = learn(&server, "m", "", &[Kind::OpenAi]).await;
    let mut load = Load::start(&server, "m", Corpus::default(), "a", 0).await;
    for (kind, known) in answers {
        load.join_with_kind(&server, kind, known).await;
    }
    for round in 0..60 {
        let content = ["b", "a"][round % 2];
        load.update(&server, &model(&format!("tiny/{content}")), content).await.unwrap();
    }
    load.more(3).await;
    let summary = load.finish().await;
    assert!(summary.longest < Duration::from_secs(20), "{summary:?}");
    // A request for one text does not wait for the large ones.
    let mut client = Client::connect(server.address()).await.unwrap();
    Kind::Embed.learn(&mut client, "m").await;
    server.stop().await;
}
