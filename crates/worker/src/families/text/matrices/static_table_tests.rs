use std::fs;

use half::{bf16, f16};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::families::text::matrices::module_fixture::{self, Given, floats, numbers};

fn version(tensors: &[Given]) -> TempDir {
    module_fixture::version("", None, tensors)
}

fn open(tensors: &[Given]) -> Result<StaticTable, Refusal> {
    StaticTable::open(version(tensors).path(), "")
}

fn mean(table: &StaticTable, ids: &[u32]) -> Vec<f32> {
    let mut out = vec![7.0; 9];
    table.mean(ids, &mut out).unwrap();
    assert_eq!(out[..9], [7.0; 9], "what was there stays");
    out.split_off(9)
}

fn indices(name: &'static str, values: &[i64]) -> Given {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (name, Dtype::I64, vec![values.len()], bytes)
}

#[test]
fn text_is_the_mean_of_its_tokens_in_both_layouts() {
    for name in TABLES {
        let table = open(&[floats(name, &[3, 2], &[1.0, 2.0, 3.0, 4.0, -8.0, 0.5])]).unwrap();
        assert_eq!((table.dimension(), table.tokens()), (2, 3));
        assert_eq!(mean(&table, &[1]), [3.0, 4.0]);
        assert_eq!(mean(&table, &[0, 1]), [2.0, 3.0]);
        assert_eq!(mean(&table, &[2, 0, 2, 2]), [-5.75, 0.875]);
        assert_eq!(mean(&table, &[]), [0.0, 0.0]);
    }
}

#[test]
fn token_beyond_the_table_is_rejected() {
    let table = open(&[floats("embeddings", &[3, 1], &[1.0, 2.0, 3.0])]).unwrap();
    let mut out = vec![7.0];
    let rejection = table.mean(&[0, 3], &mut out).unwrap_err();
    assert_eq!(out, [7.0]);
    assert_eq!(rejection, Rejection::TokenId { id: 3, highest: 2 });
}

#[test]
fn narrow_tables_match_f32_tables() {
    let values: Vec<f32> = (-6_i8..6).map(f32::from).collect();
    let bytes = |each: fn(f32) -> Vec<u8>| values.iter().copied().flat_map(each).collect();
    #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
    let narrow: [(Dtype, Vec<u8>); 4] = [
        (Dtype::F16, bytes(|value| f16::from_f32(value).to_le_bytes().into())),
        (Dtype::BF16, bytes(|value| bf16::from_f32(value).to_le_bytes().into())),
        (Dtype::F64, bytes(|value| f64::from(value).to_le_bytes().into())),
        (Dtype::I8, bytes(|value| (value as i8).to_le_bytes().into())),
    ];
    let wide = open(&[floats("embeddings", &[4, 3], &values)]).unwrap();
    for (dtype, bytes) in narrow {
        let table = open(&[("embeddings", dtype, vec![4, 3], bytes)]).unwrap();
        for ids in [&[0_u32, 1, 2, 3][..], &[3, 3], &[]] {
            assert_eq!(mean(&table, ids), mean(&wide, ids), "{dtype}");
        }
    }
}

#[test]
fn shared_rows_use_the_weight_of_each_token() {
    let table = open(&[
        floats("embeddings", &[2, 1], &[10.0, 20.0]),
        floats("weights", &[3], &[0.5, 2.0, 1.0]),
        indices("mapping", &[1, 0, 1]),
    ])
    .unwrap();
    assert_eq!((table.dimension(), table.tokens()), (1, 3));
    assert_eq!(mean(&table, &[0]), [10.0]);
    assert_eq!(mean(&table, &[0, 1, 2]), [50.0 / 3.0]);
}

#[test]
fn invalid_table_is_refused() {
    let table = || floats("embeddings", &[2, 1], &[10.0, 20.0]);
    let cases: [(&[Given], &str); 8] = [
        (
            &[floats("x", &[1], &[1.0])],
            "expected a tensor embedding.weight (sentence-transformers)",
        ),
        (&[floats("embeddings", &[2], &[1.0, 2.0])], "has shape [2]"),
        (&[floats("embeddings", &[0, 2], &[])], "has shape [0, 2]"),
        (&[floats("embeddings", &[2, 0], &[])], "has shape [2, 0]"),
        (&[("embeddings", Dtype::BOOL, vec![1, 1], vec![1])], "has type BOOL"),
        (&[table(), indices("mapping", &[0, 2])], "refers to row 2 of a table with 2 rows"),
        (&[table(), indices("mapping", &[])], "expected one row number per token"),
        (&[table(), floats("weights", &[3], &[0.0; 3])], "has shape [3]"),
    ];
    for (tensors, expected) in cases {
        let message = open(tensors).unwrap_err().message;
        assert!(message.starts_with("model.safetensors: "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

proptest! {
    #[test]
    fn damaged_tables_never_panic(
        place in 0..240_usize, bytes in prop::collection::vec(any::<u8>(), 0..6), ids in prop::collection::vec(0..9_u32, 0..9),
    ) {
        let dir = version(&[
            floats("embeddings", &[3, 2], &numbers(6, 1)),
            floats("weights", &[4], &numbers(4, 2)),
            indices("mapping", &[0, 1, 2, 0]),
        ]);
        let path = dir.path().join("model.safetensors");
        let mut file = fs::read(&path).unwrap();
        let end = (place + bytes.len()).min(file.len());
        file.splice(place..end, bytes);
        fs::write(&path, file).unwrap();
        if let Ok(table) = StaticTable::open(dir.path(), "") {
            let _ = table.mean(&ids, &mut Vec::new());
        }
    }
}
