//! What holds for any bytes that reach the parsers of this crate; each function panics where it
//! does not. Called by the tests below, which also replay the seeds of `fuzz/`, and by the fuzz
//! targets there.

use bytes::Bytes;
use onnxd_proto::{
    domain::{
        Record,
        tensor::{AXES_MAX, DataType, TENSORS_MAX},
    },
    limits::TENSORS_BYTES_MAX,
};
use prost::Message;
use serde_json::value::RawValue;

use crate::{
    api::{
        grpc::{bounds::Bounded, contents, pb::ModelInferRequest},
        oip::rest::{
            binary,
            elements::{Elements, from_json},
        },
    },
    config::{self, ServeArguments},
    transport::keys,
};
use onnxd_engine::models::sources::checksums::Checksums;

/// Bytes of the two that say which part of a body is JSON, or of which type elements are.
type Head = [u8; 2];

/// An inference request with raw tensors after its JSON, whose length the first two bytes say, is
/// refused or has within bounds what its bytes are.
///
/// # Panics
/// It has more tensors, axes or bytes.
pub fn binary_tensors(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<{ size_of::<Head>() }>() else { return };
    let json_bytes = usize::from(u16::from_le_bytes(*head));
    // More than a body can have: there is no header then, and all of it is JSON.
    let json_bytes = (json_bytes < usize::from(u16::MAX)).then_some(json_bytes);
    let model = || ("m".to_owned(), String::new());
    let Ok((request, _)) = binary::request(model(), &Bytes::copy_from_slice(body), json_bytes)
    else {
        return;
    };
    let tensors = request.tensors;
    assert!(tensors.inputs.len() <= TENSORS_MAX && tensors.outputs.len() <= TENSORS_MAX);
    for input in &tensors.inputs {
        assert!(input.shape.len() <= AXES_MAX && input.data.len() <= TENSORS_BYTES_MAX);
    }
}

/// Elements in JSON, after a byte for their type and one for how many bytes they may become, are
/// refused or come out as they went in.
///
/// # Panics
/// They take more, or come out as something else.
pub fn json_tensors(bytes: &[u8]) {
    let Some((&[datatype, bytes_max], json)) = bytes.split_first_chunk::<{ size_of::<Head>() }>()
    else {
        return;
    };
    let datatype = DataType::ALL[usize::from(datatype) % DataType::ALL.len()];
    let bytes_max = usize::from(bytes_max) * 16;
    let json = str::from_utf8(json).ok().and_then(|json| serde_json::from_str(json).ok());
    let Some(json): Option<Box<RawValue>> = json else { return };
    let Ok(raw) = from_json(&json, datatype, bytes_max) else { return };
    assert!(raw.len() <= bytes_max, "{} bytes of at most {bytes_max}", raw.len());
    let elements = Elements { datatype, data: Bytes::copy_from_slice(&raw) };
    // What JSON cannot say may come of a number that is too large for a half-precision one.
    let Ok(printed) = serde_json::to_vec(&elements) else { return };
    let printed = serde_json::from_slice(&printed).expect("we print JSON");
    let again = from_json(printed, datatype, raw.len()).expect("we printed it");
    assert_eq!(raw, again, "{}", datatype.name());
}

/// An inference request of gRPC that is let through can be taken apart, and its elements become
/// the bytes that their type has.
///
/// # Panics
/// They become others.
pub fn grpc_tensors(bytes: &[u8]) {
    if ModelInferRequest::check(bytes).is_err() {
        return;
    }
    let Ok(request) = ModelInferRequest::decode(bytes) else { return };
    for input in request.inputs {
        let Some(datatype) = DataType::from_name(&input.datatype) else { continue };
        let contents = input.contents.unwrap_or_default();
        let count = contents::elements(&contents);
        if let (Ok(raw), Some(size)) = (contents::raw(datatype, contents), datatype.element_bytes())
        {
            assert_eq!(raw.len(), count * size, "{}", datatype.name());
        }
    }
}

/// What comes with a version and what is recorded of a generation is refused or understood: a
/// record that can be read is, written and read again, the same.
///
/// # Panics
/// It is not.
pub fn manifests(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = Checksums::parse(text);
    }
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let written = serde_json::to_vec(&record).expect("a record is JSON");
    let again: Record = serde_json::from_slice(&written).expect("we wrote it");
    assert_eq!(record, again);
}

/// A configuration file, its models and a file of keys are refused or understood.
///
/// # Panics
/// Never; whatever they call must not either.
pub fn configurations(bytes: &[u8]) {
    let _ = keys::parse(bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(arguments) = toml::from_str::<ServeArguments>(text) else { return };
    let _ = config::models::served(&arguments.model, &arguments.model_alias);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    type Property = fn(&[u8]);
    const PROMISES: [(&str, Property); 5] = [
        ("binary_tensors", binary_tensors),
        ("json_tensors", json_tensors),
        ("grpc_tensors", grpc_tensors),
        ("manifests", manifests),
        ("configurations", configurations),
    ];

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let seeds = fs::read_dir(&folder).unwrap().map(|seed| fs::read(seed.unwrap().path()));
        seeds.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn every_seed_upholds_the_invariants() {
        for (target, promise) in PROMISES {
            let seeds = seeds(target);
            assert!(!seeds.is_empty(), "{target}");
            seeds.iter().for_each(|seed| promise(seed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_keep_them(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            PROMISES.iter().for_each(|(_, promise)| promise(&bytes));
        }

        /// Nearly right bytes get further than random ones.
        #[test]
        fn damaged_seeds_keep_them(position: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            for (target, promise) in PROMISES {
                for mut seed in seeds(target) {
                    let at = position.index(seed.len());
                    seed[at] = byte;
                    promise(&seed);
                    promise(&seed[..cut.index(seed.len())]);
                }
            }
        }

        #[test]
        fn numbers_of_every_type_keep_them(
            datatype: u8,
            numbers in prop::collection::vec(prop_oneof![
                any::<f64>().prop_map(|number| number.to_string()),
                any::<i64>().prop_map(|number| number.to_string()),
                "-?[0-9]{1,30}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?",
                "\"[a-z\\\\\\PC]{0,5}\"",
                Just("true".to_owned()),
            ], 0..8),
        ) {
            let json = format!("[{}]", numbers.join(","));
            json_tensors(&[&[datatype, 255], json.as_bytes()].concat());
        }
    }
}
