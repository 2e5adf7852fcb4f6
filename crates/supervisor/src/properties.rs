//! Invariants of this crate's parsers for arbitrary bytes. Each function panics if its invariant is violated. Called
//! by the fuzz targets in `fuzz/`, and by the tests below, which also replay their seeds.

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
use onnxd_proto::domain::Checksums;

/// First bytes of a fuzz input: parameters of the parser.
type Head = [u8; 2];

/// Checks that an inference request with raw tensors is refused or within the limits. The first two bytes are the
/// length of its JSON.
///
/// # Panics
/// A parsed request exceeds a limit on tensors, axes or bytes.
pub fn binary_tensors(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<{ size_of::<Head>() }>() else { return };
    let json_bytes = usize::from(u16::from_le_bytes(*head));
    // The largest value stands for a request without that length, which is all JSON.
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

/// Checks that elements in JSON are refused or survive a round trip. The first byte selects the datatype, the second
/// the limit on bytes.
///
/// # Panics
/// The elements exceed the limit or change.
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
    assert!(raw.len() <= bytes_max, "{} bytes exceed {bytes_max}", raw.len());
    let elements = Elements { datatype, data: Bytes::copy_from_slice(&raw) };
    // A number too large for half precision becomes infinite, which JSON cannot represent.
    let Ok(printed) = serde_json::to_vec(&elements) else { return };
    let printed = serde_json::from_slice(&printed).expect("printed elements are JSON");
    let again = from_json(printed, datatype, raw.len()).expect("printed elements parse");
    assert_eq!(raw, again, "{}", datatype.name());
}

/// Checks that the elements of an accepted gRPC inference request have the size of their datatype.
///
/// # Panics
/// They have another size.
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

/// Checks that files of checksums and records of generations are refused or parsed, and that records survive a round
/// trip.
///
/// # Panics
/// A record changes.
pub fn manifests(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = Checksums::parse(text);
    }
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let written = serde_json::to_vec(&record).expect("records serialize to JSON");
    let again: Record = serde_json::from_slice(&written).expect("written records parse");
    assert_eq!(record, again);
}

/// Checks that configuration files, their models and files of keys are refused or parsed.
///
/// # Panics
/// A parser panics.
pub fn configurations(bytes: &[u8]) {
    let _ = keys::parse(bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(arguments) = ServeArguments::from_toml(text) else { return };
    let _ = config::models::parse(&arguments.models.model, &arguments.models.model_alias);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    type Property = fn(&[u8]);
    const PROPERTIES: [(&str, Property); 5] = [
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
    fn every_seed_satisfies_the_properties() {
        for (target, property) in PROPERTIES {
            let seeds = seeds(target);
            assert!(!seeds.is_empty(), "{target}");
            seeds.iter().for_each(|seed| property(seed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_satisfy_the_properties(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            PROPERTIES.iter().for_each(|(_, property)| property(&bytes));
        }

        /// Almost valid bytes get further into the parsers than random ones.
        #[test]
        fn damaged_seeds_satisfy_the_properties(index: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            for (target, property) in PROPERTIES {
                for mut seed in seeds(target) {
                    let at = index.index(seed.len());
                    seed[at] = byte;
                    property(&seed);
                    property(&seed[..cut.index(seed.len())]);
                }
            }
        }

        #[test]
        fn numbers_of_every_datatype_satisfy_the_properties(
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
