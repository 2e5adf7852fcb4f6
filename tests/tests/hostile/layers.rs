//! A registry whose image has one layer: links, paths that climb, and lengths that lie.

use flate2::{Compression, write::GzEncoder};
use std::io::Write;

use crate::{double::Reply, sha256};

const REGULAR: u8 = b'0';
const HARD_LINK: u8 = b'1';
const SYMBOLIC_LINK: u8 = b'2';

/// Answers a request below `/v2/IMAGE/m/`, where the image's name says what its layer contains.
pub(crate) fn answer(path: &str) -> Reply {
    let Some((image, path)) = path.split_once("/m/") else { return Reply::status(404) };
    let layer = match image {
        "symlink" => entry("models/model.onnx", SYMBOLIC_LINK, 0),
        "hardlink" => entry("models/model.onnx", HARD_LINK, 0),
        // The second entry would be written through the first.
        "folderlink" => {
            [entry("models/onnx", SYMBOLIC_LINK, 0), entry("models/onnx/model.onnx", REGULAR, 0)]
                .concat()
        }
        "climbing" => entry("models/../../../../escaped", REGULAR, 0),
        "claim" => entry("models/model.onnx", REGULAR, 20_000_000_000),
        _ => return Reply::status(404),
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&[&layer[..], &[0; 1024]].concat()).expect("memory");
    let layer = gzip.finish().expect("memory");
    let digest = sha256(&layer);
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": [{
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": format!("sha256:{digest}"), "size": layer.len(),
    }]})
    .to_string();
    match path.split_once('/') {
        Some(("manifests", _)) => Reply::ok(manifest),
        Some(("blobs", blob)) if blob == format!("sha256:{digest}") => Reply::ok(layer),
        _ => Reply::status(404),
    }
}

/// Returns the header of a tar entry without content; see tar(5).
fn entry(path: &str, kind: u8, bytes: u64) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(100, b"0000644\0");
    put(124, format!("{bytes:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    if kind != REGULAR {
        put(157, b"/etc/passwd");
    }
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.to_vec()
}
