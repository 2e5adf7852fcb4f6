//! Large tensors: the cost of moving them from a client to ONNX Runtime and back, apart from the
//! run itself.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::{client::Client, fixtures::model, server::Server};
use hyper::Method;
use serde_json::json;

use crate::{
    options::Settings,
    report::{Report, Table, fixed},
    stats::{millis, ms},
};

/// Side lengths of the images in pixels. They are RGB in f32, so 640 is 4.9 MB.
const SIDES: [usize; 3] = [64, 224, 640];
/// Maximum time of a request outside the run, in units of one in-process copy of its input and
/// output.
const COPIES_MAX: f64 = 12.0;

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let server = Server::builder().model("image", &model("tiny/tensor_image")).start().await;
    let mut client = Client::connect(server.address()).await.map_err(|error| error.to_string())?;
    let mut table = Table::new("one image");
    let mut figures = Vec::new();
    for side in SIDES {
        let measured = measure(&mut client, side, settings.phase()).await?;
        let Measured { bytes, all, run, copy } = measured;
        let overhead = millis(all) - millis(run);
        let cells = [
            ("bytes", bytes.to_string()),
            ("p50 ms", ms(all)),
            ("run ms", ms(run)),
            ("overhead ms", fixed(overhead, 2)),
            ("copy ms", ms(copy)),
        ];
        table.row(format!("3x{side}x{side}"), cells);
        figures.push(json!({
            "side": side, "bytes": bytes, "p50_ms": millis(all), "run_ms": millis(run),
            "copy_ms": millis(copy),
        }));
        if side == SIDES[2] {
            report.at_most("tensors: 4.9 MB, copies", overhead / millis(copy), COPIES_MAX, "");
        }
    }
    table.print();
    report.figures("tensors", figures);
    server.stop().await;
    Ok(())
}

struct Measured {
    bytes: usize,
    /// Median of whole requests.
    all: Duration,
    /// Median time in ONNX Runtime.
    run: Duration,
    /// Median time to copy input and output.
    copy: Duration,
}

async fn measure(client: &mut Client, side: usize, length: Duration) -> Result<Measured, String> {
    let pixels: Vec<u8> = (0..3 * side * side)
        .flat_map(|index| (u16::try_from(index % 1000).unwrap_or(0) as f32).to_le_bytes())
        .collect();
    let json = json!({
        "inputs": [{ "name": "image", "datatype": "FP32", "shape": [1, 3, side, side],
            "parameters": { "binary_data_size": pixels.len() } }],
        "outputs": [{ "name": "copy", "parameters": { "binary_data": true } }],
    })
    .to_string();
    let headers = [("inference-header-content-length", json.len().to_string())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let body = Bytes::from([json.as_bytes(), &pixels].concat());
    let (mut all, mut run, mut copy) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < length || all.len() < 20 {
        let path = "/v2/models/image/infer";
        let sent = Instant::now();
        let answer = client.send_with(Method::POST, path, &headers, body.clone()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        all.push(sent.elapsed());
        if answer.status != 200 || answer.body[answer.body.len() - pixels.len()..] != pixels {
            return Err(format!("{side}: {} {}", answer.status, answer.text()));
        }
        let timing = answer.header("server-timing").unwrap_or_default();
        let infer = timing.rsplit_once("infer;dur=").and_then(|(_, ms)| ms.parse::<f64>().ok());
        run.push(Duration::from_secs_f64(infer.unwrap_or(0.0) / 1e3));
        let started = Instant::now();
        std::hint::black_box([&pixels[..], &pixels[..]].concat());
        copy.push(started.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (all, run, copy) = (median(all), median(run), median(copy));
    Ok(Measured { bytes: pixels.len(), all, run, copy })
}
