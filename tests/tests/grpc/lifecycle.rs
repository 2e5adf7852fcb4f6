//! Updates, succession and shutdown while clients call.

use std::time::{Duration, Instant};

use e2e::{
    corpus::Corpus,
    fixtures::model,
    grpc,
    processes::{Process, Signal},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Code;

use crate::{builder, bytes, client, floats, generation, raw, texts};

#[tokio::test(flavor = "multi_thread")]
async fn generations_never_decrease_and_match_the_content() {
    let server = builder(&[("m", "tiny/a")]).start().await;
    let corpus = Corpus::tiny();
    let (end, ended) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..4 {
        let (mut client, corpus) = (client(&server).await, corpus.clone());
        let ended = ended.clone();
        clients.spawn(async move {
            let (mut newest, mut answered) = (0, 0);
            while !*ended.borrow() {
                let request = texts("m", &[("text", &[&corpus.texts[index]])]);
                let answer = client.model_infer(request).await.unwrap();
                let generation = generation(&answer);
                assert!(generation >= newest, "{generation} after {newest}");
                let embedding = floats(&answer.get_ref().raw_output_contents[0]);
                let content = if generation % 2 == 1 { "a" } else { "b" };
                assert_eq!(corpus.content(&[index], &[embedding]).as_deref(), Ok(content));
                (newest, answered) = (generation, answered + 1);
            }
            (newest, answered)
        });
    }
    for content in ["b", "a", "b", "a", "b"] {
        server.update("m", Some(&model(&format!("tiny/{content}")))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    end.send_replace(true);
    while let Some(seen) = clients.join_next().await {
        let (newest, answered) = seen.unwrap();
        assert_eq!(newest, 6);
        assert!(answered > 20, "{answered}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sent_call_fails_during_successions() {
    let mut server = builder(&[("m", "tiny/a")]).start().await;
    let address = grpc::address(&server).await;
    let (end, ended) = tokio::sync::watch::channel(false);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let ended = ended.clone();
        // With a second thread, hyper's client may learn of the end of a connection just before it sends a
        // call, and report that call like one that was sent.
        clients.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let channel = grpc::connect(address).await;
                let (mut client, mut answered) = (grpc::Client::new(channel), 0);
                while !*ended.borrow() {
                    let answer = client.model_infer(texts("m", &[("text", &["a"])])).await;
                    match answer {
                        // Raised by the client: the connection closed before the call was sent.
                        Err(status) if status.code() == Code::Cancelled => {}
                        answer => {
                            assert_eq!(generation(&answer.unwrap()), 1);
                            answered += 1;
                        }
                    }
                }
                answered
            })
        });
    }
    let lock = server.home().state().join("lock");
    let pid = || std::fs::read_to_string(&lock).unwrap().trim().parse::<i32>().unwrap();
    for _ in 0..5 {
        let before = Process::find(pid()).unwrap();
        before.signal(Signal::SIGUSR2);
        e2e::eventually("a successor", crate::TIMEOUT, async || {
            (pid() != before.pid && !before.runs()).then_some(())
        })
        .await;
    }
    end.send_replace(true);
    while let Some(answered) = clients.join_next().await {
        assert!(answered.unwrap() > 20);
    }
    let last = Process::find(pid()).unwrap();
    last.signal(Signal::SIGTERM);
    e2e::eventually("the end", crate::TIMEOUT, async || (!last.runs()).then_some(())).await;
    server.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_accepted_calls_and_ends_streams() {
    let mut server = builder(&[("m", "tiny/tensor_slow")]).start().await;
    let request = || raw("m", &[("x", "FP32", &[2, 4], bytes(&[1.0; 8]))]);
    let idle = client(&server).await;
    let mut streaming = client(&server).await;
    let (requests, receiver) = mpsc::channel(1);
    requests.send(request()).await.unwrap();
    let stream = streaming.model_stream_infer(ReceiverStream::new(receiver)).await;
    let mut stream = stream.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().error_message, "");
    let mut calls = tokio::task::JoinSet::new();
    let busy = client(&server).await;
    for _ in 0..16 {
        let mut client = busy.clone();
        calls.spawn(async move { client.model_infer(request()).await });
    }
    // After one answer, the other calls have been accepted or soon will be.
    calls.join_next().await.unwrap().unwrap().unwrap();
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().unwrap();
    }
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert_eq!(server.wait().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop((requests, idle));
}
