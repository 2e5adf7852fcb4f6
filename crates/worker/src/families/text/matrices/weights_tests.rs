use proptest::prelude::*;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::*;

/// Tensors by name, type, shape and bytes.
type Tensors<'a> = &'a [(&'a str, Dtype, &'a [usize], &'a [u8])];

fn bytes_of(tensors: Tensors<'_>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn folder(bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("2_Dense")).unwrap();
    fs::write(dir.path().join("2_Dense/model.safetensors"), bytes).unwrap();
    dir
}

fn refusal(bytes: &[u8]) -> String {
    Weights::open(folder(bytes).path(), "2_Dense").unwrap_err().message
}

/// Creates a file with this header followed by `rest` bytes.
fn raw(header: &str, rest: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; rest]].concat()
}

#[test]
fn every_type_of_weights_becomes_f32() {
    let f32s: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let f64s: Vec<u8> = [1.5_f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let halves = [f16::from_f32(1.5), f16::from_f32(-2.0)];
    let f16s: Vec<u8> = halves.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shorts = [bf16::from_f32(1.5), bf16::from_f32(-2.0)];
    let bf16s: Vec<u8> = shorts.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dir = folder(&bytes_of(&[
        ("a", Dtype::F32, &[2], &f32s),
        ("b", Dtype::F64, &[2], &f64s),
        ("c", Dtype::F16, &[2], &f16s),
        ("d", Dtype::BF16, &[2], &bf16s),
        ("e", Dtype::I8, &[2], &[1, 0xfe]),
        ("f", Dtype::BOOL, &[2], &[1, 0]),
    ]));
    for place in ["2_Dense", "2_Dense/", "./2_Dense"] {
        let weights = Weights::open(dir.path(), place).unwrap();
        for name in ["a", "b", "c", "d"] {
            assert_eq!(weights.floats(name, &[2], "config.json").unwrap()[..], [1.5, -2.0]);
        }
        assert_eq!(weights.floats("e", &[2], "config.json").unwrap()[..], [1.0, -2.0]);
        assert_eq!(
            weights.floats("f", &[2], "config.json").unwrap_err().message,
            "2_Dense/model.safetensors: tensor \"f\" has type BOOL; expected F32, F16, BF16, F64 or I8"
        );
    }
}

#[test]
fn indices_must_fit_an_id() {
    let good: Vec<u8> = [0_i64, 7].iter().flat_map(|value| value.to_le_bytes()).collect();
    let small: Vec<u8> = [3_i32, 4].iter().flat_map(|value| value.to_le_bytes()).collect();
    let bad: Vec<u8> = [0_i64, -1].iter().flat_map(|value| value.to_le_bytes()).collect();
    let large: Vec<u8> = (1_i64 << 32).to_le_bytes().to_vec();
    let dir = folder(&bytes_of(&[
        ("good", Dtype::I64, &[2], &good),
        ("small", Dtype::I32, &[2], &small),
        ("bad", Dtype::I64, &[2], &bad),
        ("large", Dtype::I64, &[1], &large),
        ("float", Dtype::F32, &[1], &[0; 4]),
    ]));
    let weights = Weights::open(dir.path(), "2_Dense").unwrap();
    let indices = |name| weights.tensor(name).unwrap().indices();
    assert_eq!(indices("good").unwrap(), [0, 7]);
    assert_eq!(indices("small").unwrap(), [3, 4]);
    for name in ["bad", "large", "float"] {
        assert!(indices(name).unwrap_err().message.contains(name));
    }
}

#[test]
fn missing_weights_are_named_and_pickles_explained() {
    let dir = tempfile::tempdir().unwrap();
    let open = |place| Weights::open(dir.path(), place).unwrap_err().message;
    assert!(open("").starts_with("model.safetensors is missing; "));
    assert!(open("2_Dense").starts_with("2_Dense/model.safetensors is missing; "));
    fs::create_dir(dir.path().join("2_Dense")).unwrap();
    fs::write(dir.path().join("2_Dense/pytorch_model.bin"), "PK").unwrap();
    assert!(open("2_Dense").starts_with(
        "2_Dense/model.safetensors is missing, and onnxd does not read 2_Dense/pytorch_model.bin"
    ));
    assert!(open("../2_Dense").contains("is not a path within the version"));
    assert!(open("/2_Dense").contains("is not a path within the version"));
    fs::create_dir(dir.path().join("2_Dense/model.safetensors")).unwrap();
    assert_eq!(open("2_Dense"), "2_Dense/model.safetensors is not a file");
}

#[test]
fn tensor_of_wrong_shape_or_name_is_refused() {
    let dir = folder(&bytes_of(&[("weight", Dtype::F32, &[1, 2], &[0; 8])]));
    let weights = Weights::open(dir.path(), "2_Dense").unwrap();
    assert_eq!(
        weights.floats("weight", &[2, 1], "2_Dense/config.json").unwrap_err().message,
        "2_Dense/model.safetensors: tensor \"weight\" has shape [1, 2], but 2_Dense/config.json needs [2, 1]"
    );
    assert_eq!(
        weights.tensor("linear.weight").unwrap_err().message,
        "2_Dense/model.safetensors: tensor \"linear.weight\" is missing; the file has weight"
    );
    assert_eq!(
        weights.expect_only(&["a", "b"]).unwrap_err().message,
        "2_Dense/model.safetensors: unexpected tensor \"weight\"; expected only a, b"
    );
}

#[test]
fn header_lengths_are_not_trusted() {
    assert!(refusal(b"").contains("shorter than 8 bytes"));
    assert!(refusal(&[0xff; 8]).contains("at most 1048576 are supported"));
    assert!(refusal(&[1 << 4, 0, 0, 0, 0, 0, 0, 0, b'{']).contains("ends within its header"));
    assert!(
        refusal(&raw("[1]", 0)).starts_with("2_Dense/model.safetensors is not a valid safetensors")
    );
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(refusal(&raw(one, 7)).contains("declares 8 bytes, but 7 follow"));
    assert!(refusal(&raw(one, 9)).contains("declares 8 bytes, but 9 follow"));
    let huge = r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#;
    assert!(refusal(&raw(huge, 8)).contains("overflow"));
}

/// Eight tensors whose lengths add up to nearly 2⁶⁴: adding the header's length overflows.
#[test]
fn tensors_that_fill_the_address_space_are_refused() {
    let each = (1_u64 << 61) - 8;
    let mut header = String::new();
    let mut start = 0_u64;
    for name in 0..8 {
        let end = start + each;
        header += &format!(
            r#"{}"{name}":{{"dtype":"U8","shape":[{each}],"data_offsets":[{start},{end}]}}"#,
            if name == 0 { "{" } else { "," }
        );
        start = end;
    }
    assert!(
        refusal(&raw(&format!("{header}}}"), 0)).contains("declares 18446744073709551552 bytes")
    );
    let names = (0..TENSORS_MAX)
        .map(|name| format!(r#","{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#));
    let many: String = names.collect();
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}{many}}}"#);
    assert!(refusal(&raw(&header, 0)).contains("it has 4097 tensors"));
}

#[test]
fn unaligned_weights_are_copied() {
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
    let mut bytes = raw(header, 1);
    bytes.extend(2.5_f32.to_le_bytes());
    let dir = folder(&bytes);
    let weights = Weights::open(dir.path(), "2_Dense").unwrap();
    assert_eq!(weights.floats("b", &[1], "config.json").unwrap()[..], [2.5]);
}

/// Reading everything that the bytes declare must not panic, whatever they are.
fn read_all(bytes: &[u8]) {
    let dir = folder(bytes);
    let Ok(weights) = Weights::open(dir.path(), "2_Dense") else { return };
    for name in weights.metadata.offset_keys() {
        let tensor = weights.tensor(&name).unwrap();
        let _ = tensor.indices();
        if let Ok(floats) = tensor.floats() {
            assert_eq!(floats.len(), tensor.shape().iter().product::<usize>());
        }
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        place: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6), keep: prop::sample::Index,
    ) {
        let mut file = bytes_of(&[
            ("linear.weight", Dtype::F32, &[3, 2], &[7; 24]),
            ("mapping", Dtype::I64, &[2], &[1; 16]),
            ("halves", Dtype::F16, &[5], &[9; 10]),
        ]);
        let at = place.index(file.len());
        let end = (at + bytes.len()).min(file.len());
        file.splice(at..end, bytes);
        read_all(&file);
        read_all(&file[..keep.index(file.len())]);
    }
}
