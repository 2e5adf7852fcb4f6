//! Requests for tensors that run together, and those that must not.

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
    tensors::{infer, of_floats},
};

const CLIENTS: usize = 16;
const TURNS: usize = 25;

/// Some rows that no other client and turn has.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
fn rows(client: usize, turn: usize) -> (usize, Vec<f32>) {
    let count = 1 + (client + turn) % 3;
    let seed = client * TURNS + turn;
    let value = |place: usize| ((seed * 13 + place * 7) % 101) as f32 / 25.0 - 2.0;
    (count, (0..count * 4).map(value).collect())
}

/// Clients that ask a model for numbers that `right` knows.
fn clients(server: &Server, model: &'static str, right: fn(&[f32], &Value)) -> Vec<JoinHandle<()>> {
    let address = server.address();
    let one = |number| {
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.expect("a connection");
            for turn in 0..TURNS {
                let (count, x) = rows(number, turn);
                let body = of_floats("x", &[count, 4], &x);
                let answer = post(&mut client, &infer(model), &body).await.json();
                assert_eq!(answer["outputs"][0]["shape"][0], count, "its own rows");
                right(&x, &answer["outputs"][0]["data"]);
            }
        })
    };
    (0..CLIENTS).map(one).collect()
}

/// What a model computes that gives each row alone.
fn affine(x: &[f32], y: &Value) {
    assert_close(&numbers(y), &expected_rows(x), "the rows of another request");
}

/// Of the rows of `tensor_a`: y = x · W + b, where W and b come from what it answers alone.
fn expected_rows(x: &[f32]) -> Vec<f32> {
    let (basis, bias) = BASIS.get().expect("it was asked before");
    let row = |x: &[f32]| -> Vec<f32> {
        (0..3)
            .map(|column| {
                let product: f32 = (0..4).map(|place| x[place] * basis[place][column]).sum();
                product + bias[column]
            })
            .collect()
    };
    x.chunks(4).flat_map(row).collect()
}

static BASIS: std::sync::OnceLock<(Vec<Vec<f32>>, Vec<f32>)> = std::sync::OnceLock::new();

/// Each row less the mean of its own request's rows.
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
fn centred(x: &[f32], y: &Value) {
    let count = (x.len() / 4) as f32;
    let mean: Vec<f32> =
        (0..4).map(|column| x.iter().skip(column).step_by(4).sum::<f32>() / count).collect();
    let expected: Vec<f32> = x.iter().enumerate().map(|(place, x)| x - mean[place % 4]).collect();
    assert_close(&numbers(y), &expected, "the mean of other requests");
}

/// Micro-batches and items of a model so far.
async fn counted(server: &Server, model: &str) -> (f64, f64) {
    let response = server.client().await.get("/metrics").await.expect("an answer");
    let text = Exposition::parse(&response.text()).expect("metrics");
    let of = [("model", model)];
    (
        text.value("onnxd_batch_size_count", &of),
        text.value("onnxd_queue_duration_seconds_count", &of),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_run_together_and_each_has_its_own_rows() {
    let builder =
        Server::builder().lets_workers_rest().workers(1).model("tensor_a", &model("tiny/tensor_a"));
    let server = builder.start().await;
    let mut client = server.client().await;
    let mut alone = async |x: &[f32]| {
        let answer =
            post(&mut client, &infer("tensor_a"), &of_floats("x", &[1, 4], x)).await.json();
        numbers(&answer["outputs"][0]["data"])
    };
    let bias = alone(&[0.0; 4]).await;
    let mut basis = Vec::new();
    for place in 0..4 {
        let mut x = [0.0; 4];
        x[place] = 1.0;
        let y = alone(&x).await;
        basis.push(y.iter().zip(&bias).map(|(y, bias)| y - bias).collect());
    }
    BASIS.set((basis, bias)).expect("once");
    let x = crate::tensors::known("tensor_a", "x");
    assert_close(&expected_rows(&x), &crate::tensors::known("tensor_a", "y"), "the expectation");

    let (batches, items) = counted(&server, "tensor_a").await;
    let worker = server.settled().await.pids()[0];
    let asking = clients(&server, "tensor_a", affine);
    // While the worker rests the requests come together.
    for _ in 0..4 {
        processes::signal(worker, Signal::SIGSTOP);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        processes::signal(worker, Signal::SIGCONT);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for one in asking {
        one.await.expect("all of its answers are right");
    }
    let (after, all) = counted(&server, "tensor_a").await;
    let (ran, asked) = (after - batches, all - items);
    assert!((asked - 400.0).abs() < 0.5, "{asked} items");
    assert!(ran < asked, "{ran} runs of {asked} items: none ran together");
    println!("{asked} items in {ran} runs");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_computes_over_all_rows_is_never_given_those_of_others() {
    let builder = Server::builder()
        .lets_workers_rest()
        .workers(1)
        .model("tensor_mean", &model("tiny/tensor_mean"));
    let server = builder.start().await;
    let worker = server.settled().await.pids()[0];
    let asking = clients(&server, "tensor_mean", centred);
    for _ in 0..4 {
        processes::signal(worker, Signal::SIGSTOP);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        processes::signal(worker, Signal::SIGCONT);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for one in asking {
        one.await.expect("all of its answers are right");
    }
    let (runs, items) = counted(&server, "tensor_mean").await;
    assert!((items - runs).abs() < 0.5, "{items} items in {runs} runs");
    server.stop().await;
}
