//! Tensor requests that run in one batch, and models for which that is not allowed.

use e2e::{
    client::Client,
    exposition::Exposition,
    fixtures::model,
    processes::{self, Signal},
    server::Server,
};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{
    assert_close, numbers, post,
    tensors::{float_request, infer},
};

const CLIENTS: usize = 16;
const TURNS: usize = 25;

/// Returns rows that differ for every client and turn.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
fn rows(client: usize, turn: usize) -> (usize, Vec<f32>) {
    let count = 1 + (client + turn) % 3;
    let seed = client * TURNS + turn;
    let value = |index: usize| ((seed * 13 + index * 7) % 101) as f32 / 25.0 - 2.0;
    (count, (0..count * 4).map(value).collect())
}

/// Starts clients of a tensor model whose answers `check_answer` checks.
fn clients(
    server: &Server,
    model: &'static str,
    check_answer: fn(&[f32], &Value),
) -> Vec<JoinHandle<()>> {
    let address = server.address();
    let one = |number| {
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.expect("a connection");
            for turn in 0..TURNS {
                let (count, x) = rows(number, turn);
                let body = float_request("x", &[count, 4], &x);
                let answer = post(&mut client, &infer(model), &body).await.json();
                assert_eq!(
                    answer["outputs"][0]["shape"][0], count,
                    "only the rows of this request"
                );
                check_answer(&x, &answer["outputs"][0]["data"]);
            }
        })
    };
    (0..CLIENTS).map(one).collect()
}

/// Checks a model that computes each row independently.
fn affine(x: &[f32], y: &Value) {
    assert_close(&numbers(y), &expected_rows(x), "rows of another request");
}

/// Computes the rows of `tensor_a`: y = x · W + b. W and b were derived from single-row answers.
fn expected_rows(x: &[f32]) -> Vec<f32> {
    let (basis, bias) = BASIS.get().expect("the basis is set");
    let row = |x: &[f32]| -> Vec<f32> {
        (0..3)
            .map(|column| {
                let product: f32 = (0..4).map(|index| x[index] * basis[index][column]).sum();
                product + bias[column]
            })
            .collect()
    };
    x.chunks(4).flat_map(row).collect()
}

static BASIS: std::sync::OnceLock<(Vec<Vec<f32>>, Vec<f32>)> = std::sync::OnceLock::new();

/// Checks that each row is reduced by the mean of its own request's rows.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
fn centered(x: &[f32], y: &Value) {
    let count = (x.len() / 4) as f32;
    let mean: Vec<f32> =
        (0..4).map(|column| x.iter().skip(column).step_by(4).sum::<f32>() / count).collect();
    let expected: Vec<f32> = x.iter().enumerate().map(|(index, x)| x - mean[index % 4]).collect();
    assert_close(&numbers(y), &expected, "the mean of other requests");
}

/// Returns the numbers of micro-batches and items of a model so far.
async fn counted(server: &Server, model: &str) -> (f64, f64) {
    let response = server.client().await.get("/metrics").await.expect("an answer");
    let text = Exposition::parse(&response.text()).expect("metrics");
    let labels = [("model", model)];
    (
        text.value("onnxd_batch_size_count", &labels),
        text.value("onnxd_queue_duration_seconds_count", &labels),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_share_runs_and_keep_their_own_rows() {
    let builder = Server::builder()
        .tolerates_stopped_workers()
        .workers(1)
        .model("tensor_a", &model("tiny/tensor_a"));
    let server = builder.start().await;
    let mut client = server.client().await;
    let mut alone = async |x: &[f32]| {
        let answer =
            post(&mut client, &infer("tensor_a"), &float_request("x", &[1, 4], x)).await.json();
        numbers(&answer["outputs"][0]["data"])
    };
    let bias = alone(&[0.0; 4]).await;
    let mut basis = Vec::new();
    for index in 0..4 {
        let mut x = [0.0; 4];
        x[index] = 1.0;
        let y = alone(&x).await;
        basis.push(y.iter().zip(&bias).map(|(y, bias)| y - bias).collect());
    }
    BASIS.set((basis, bias)).expect("once");
    let x = crate::tensors::reference_tensor("tensor_a", "x");
    assert_close(
        &expected_rows(&x),
        &crate::tensors::reference_tensor("tensor_a", "y"),
        "reference",
    );

    let (batches, items) = counted(&server, "tensor_a").await;
    let worker = server.settled().await.pids()[0];
    let pending = clients(&server, "tensor_a", affine);
    // Requests accumulate while the worker is stopped.
    for _ in 0..4 {
        processes::signal(worker, Signal::SIGSTOP);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        processes::signal(worker, Signal::SIGCONT);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for one in pending {
        one.await.expect("all answers are right");
    }
    let (after, all) = counted(&server, "tensor_a").await;
    let (ran, requested) = (after - batches, all - items);
    assert!((requested - 400.0).abs() < 0.5, "{requested} items");
    assert!(ran < requested, "{ran} runs of {requested} items: none were batched");
    println!("{requested} items in {ran} runs");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_mix_rows_never_get_rows_of_other_requests() {
    let builder = Server::builder()
        .tolerates_stopped_workers()
        .workers(1)
        .model("tensor_mean", &model("tiny/tensor_mean"));
    let server = builder.start().await;
    let worker = server.settled().await.pids()[0];
    let pending = clients(&server, "tensor_mean", centered);
    for _ in 0..4 {
        processes::signal(worker, Signal::SIGSTOP);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        processes::signal(worker, Signal::SIGCONT);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for one in pending {
        one.await.expect("all answers are right");
    }
    let (runs, items) = counted(&server, "tensor_mean").await;
    assert!((items - runs).abs() < 0.5, "{items} items in {runs} runs");
    server.stop().await;
}
