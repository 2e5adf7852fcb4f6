//! Refusals and their status codes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::{exposition::Exposition, server::Server};
use http_body_util::Full;
use hyper::{HeaderMap, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Request, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    builder, bytes, channel, client, grpc_address,
    pb::{
        InferTensorContents, ModelInferRequest, ModelReadyRequest, ServerLiveRequest,
        model_infer_request::InferInputTensor,
    },
    raw, refused, requested_output,
};

fn good() -> ModelInferRequest {
    raw("m", &[("x", "FP32", &[1, 4], bytes(&[1.0; 4]))])
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_get_a_code_and_a_message() {
    let server = builder(&[("m", "tiny/tensor_a"), ("t", "tiny/a")]).start().await;
    let mut client = client(&server).await;
    let both = InferTensorContents { fp32_contents: vec![1.0; 4], ..Default::default() };
    let mut with_both = good();
    with_both.inputs[0].contents = Some(both);
    let half = raw("m", &[("x", "FP16", &[1, 4], Bytes::from_static(&[0; 8]))]);
    let bad_text = raw("t", &[("text", "BYTES", &[1], Bytes::from_static(b"\x01\0\0\0\xff"))]);
    for (request, code, reason) in [
        (ModelInferRequest { model_name: "nobody".into(), ..good() }, Code::NotFound, "nobody"),
        (ModelInferRequest { model_version: "9".into(), ..good() }, Code::NotFound, "9"),
        (
            ModelInferRequest { raw_input_contents: vec![], ..good() },
            Code::InvalidArgument,
            "0 bytes",
        ),
        (ModelInferRequest { inputs: vec![], ..good() }, Code::InvalidArgument, "0 inputs"),
        (
            ModelInferRequest { outputs: vec![requested_output("z")], ..good() },
            Code::InvalidArgument,
            "z",
        ),
        (ModelInferRequest { id: "i".repeat(2000), ..good() }, Code::InvalidArgument, "id"),
        (raw("m", &[("z", "FP32", &[1], bytes(&[1.0]))]), Code::InvalidArgument, "`x` is missing"),
        (raw("m", &[("x", "FP32", &[1, 4], bytes(&[1.0]))]), Code::InvalidArgument, "4 bytes"),
        (raw("m", &[("x", "FP32", &[1, 3], bytes(&[1.0; 3]))]), Code::InvalidArgument, "x"),
        (half, Code::InvalidArgument, "x"),
        (with_both, Code::InvalidArgument, "contents"),
        (bad_text, Code::InvalidArgument, "UTF-8"),
    ] {
        let (found, message) = refused(client.model_infer(request).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(reason), "{reason}: {message}");
    }
    client.model_infer(good()).await.unwrap();
    server.stop().await;
}

/// Sends a call whose deadline only the server enforces, and returns the response headers.
async fn send_raw(server: &Server, message: &ModelInferRequest, timeout: &str) -> HeaderMap {
    let stream = TcpStream::connect(grpc_address(server).await).await.expect("a connection");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("a handshake");
    tokio::spawn(connection);
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a short message");
    let body = [&[0], &length.to_be_bytes()[..], &message].concat();
    let request =
        hyper::Request::post("http://localhost/inference.GRPCInferenceService/ModelInfer")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .body(Full::new(Bytes::from(body)));
    let answer = sender.send_request(request.expect("a request")).await;
    answer.expect("an answer").headers().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_and_header_deadlines_are_enforced() {
    let server = builder(&[("m", "tiny/tensor_slow")]).start().await;
    let mut client = client(&server).await;
    let request = || Request::new(raw("m", &[("x", "FP32", &[2, 4], bytes(&[1.0; 8]))]));
    client.model_infer(request()).await.unwrap();
    let mut short = request();
    short.metadata_mut().insert("x-request-timeout-ms", "1".parse().unwrap());
    assert_eq!(refused(client.model_infer(short).await).0, Code::DeadlineExceeded);
    let mut invalid = request();
    invalid.metadata_mut().insert("x-request-timeout-ms", "soon".parse().unwrap());
    assert_eq!(refused(client.model_infer(invalid).await).0, Code::InvalidArgument);
    // The tonic client would enforce the deadline itself.
    let start = Instant::now();
    let headers = send_raw(&server, &request().into_inner(), "1m").await;
    assert_eq!(headers.get("grpc-status").unwrap(), "4", "{headers:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let headers = send_raw(&server, &request().into_inner(), "1 minute").await;
    assert_eq!(headers.get("grpc-status").unwrap(), "3", "{headers:?}");
    let mut streamed = Request::new(tokio_stream::pending());
    streamed.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut answers = client.model_stream_infer(streamed).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn costly_messages_are_refused_and_others_are_served() {
    let server = builder(&[("m", "tiny/tensor_a")]).start().await;
    let mut client = client(&server).await;
    let large = raw("m", &[("x", "FP32", &[1, 4], Bytes::from(vec![0; 80 << 20]))]);
    assert_eq!(refused(client.model_infer(large).await).0, Code::OutOfRange);
    let many = ModelInferRequest { inputs: vec![InferInputTensor::default(); 1 << 20], ..good() };
    assert_eq!(refused(client.model_infer(many).await).0, Code::OutOfRange);
    let name = "m".repeat(1 << 20);
    let question = ModelReadyRequest { name, version: String::new() };
    assert_eq!(refused(client.model_ready(question).await).0, Code::OutOfRange);
    // An undecodable message.
    let mut grpc = Grpc::new(channel(&server).await);
    grpc.ready().await.unwrap();
    let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
    // Invalid UTF-8 in place of a name.
    let invalid = InvalidRequest { model_name: Bytes::from_static(&[0xff; 4]) };
    let codec = ProstCodec::<InvalidRequest, InvalidRequest>::default();
    let answer = grpc.unary(Request::new(invalid), path, codec).await;
    assert_eq!(refused(answer).0, Code::InvalidArgument);
    client.model_infer(good()).await.unwrap();
    server.stop().await;
}

#[derive(Clone, PartialEq, Message)]
struct InvalidRequest {
    #[prost(bytes = "bytes", tag = "1")]
    model_name: Bytes,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_states_when_to_retry() {
    let builder = builder(&[("m", "tiny/tensor_slow")]).argument("--queue-limit").argument("256");
    let server = builder.workers(1).start().await;
    let client = client(&server).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut client = crate::client(&server).await;
        for _ in 0..120 {
            let mut client = client.clone();
            calls.spawn(async move {
                client.model_infer(raw("m", &[("x", "FP32", &[2, 4], bytes(&[1.0; 8]))])).await
            });
        }
        client.server_live(crate::pb::ServerLiveRequest {}).await.unwrap();
    }
    drop(client);
    let (mut answered, mut busy) = (0, 0);
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Ok(_) => answered += 1,
            Err(status) if status.code() == Code::ResourceExhausted => {
                let pause = status.metadata().get("retry-after-ms").unwrap();
                assert!(pause.to_str().unwrap().parse::<u64>().unwrap() > 0);
                busy += 1;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
    assert!(answered >= 256 && busy > 0, "{answered} {busy}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_answered_are_not_malformed() {
    let server = builder(&[("m", "tiny/tensor_a")]).start().await;
    let mut client = client(&server).await;
    for _ in 0..5 {
        assert!(client.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
        client.model_infer(good()).await.unwrap();
        let unknown = ModelInferRequest { model_name: "nobody".into(), ..good() };
        assert_eq!(refused(client.model_infer(unknown).await).0, Code::NotFound);
    }
    let text = server.client().await.get("/metrics").await.unwrap().text();
    let metrics = Exposition::parse(&text).unwrap();
    for reason in ["too_large", "invalid"] {
        let count = metrics.value("onnxd_requests_malformed_total", &[("reason", reason)]);
        assert!(count < 0.5, "{reason}: {count}");
    }
    assert!(!server.stderr().contains("malformed request"), "{}", server.stderr());
    server.stop().await;
}
