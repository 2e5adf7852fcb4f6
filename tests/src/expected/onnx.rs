//! Derives a second version of a graph by reversing the elements of each large tensor. This changes
//! every answer and keeps all shapes, names and magnitudes.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Smaller tensors are kept: scalars, shapes, position frequencies.
const MIN_BYTES: usize = 1024;
/// Encoded `TensorProto.data_type` and element size of FLOAT, UINT8, INT8 and FLOAT16.
const TYPES: [([u8; 2], usize); 4] =
    [([0x10, 1], 4), ([0x10, 2], 1), ([0x10, 3], 1), ([0x10, 10], 2)];

/// Changes the weights in a model directory: its external data, graphs or tables.
///
/// # Panics
/// Panics on an I/O error, or if there are no weights to change.
pub fn change_version(directory: &Path) {
    let (mut data, mut graphs, mut tables) = (Vec::new(), Vec::new(), Vec::new());
    find(directory, &mut |path| match path.extension().and_then(OsStr::to_str) {
        Some("onnx_data") => data.push(path),
        Some("onnx") => graphs.push(path),
        Some("safetensors") => tables.push(path),
        _ => {}
    });
    data.iter().for_each(|path| change_floats(path));
    if data.is_empty() {
        graphs.iter().for_each(|path| _ = change_weights(path));
    }
    if graphs.is_empty() {
        tables.iter().for_each(|path| change_safetensors(path));
    }
}

fn find(directory: &Path, see: &mut impl FnMut(PathBuf)) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { find(&path, see) } else { see(path) }
    }
}

/// Changes the weights in a graph file and returns the number of changed tensors. Relies on
/// exporters writing a tensor's type, name and data in this order. Tensors in other files are kept.
fn change_weights(path: &Path) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let (mut position, mut changed) = (0, 0);
    while let Some((width, data)) = tensor(&bytes, &mut position) {
        reverse(&mut bytes[data.clone()], width);
        position = data.end;
        changed += 1;
    }
    assert!(changed > 0, "{}: found no weights", path.display());
    fs::write(path, bytes).unwrap();
    changed
}

/// Changes a file of little-endian float32 numbers.
fn change_floats(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    reverse(&mut bytes, 4);
    fs::write(path, bytes).unwrap();
}

/// Changes the floating-point tensors of a `model.safetensors`.
fn change_safetensors(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let head = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let begin = 8 + usize::try_from(head).unwrap();
    let tensors: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..begin]).unwrap();
    for tensor in tensors.values() {
        let width = match tensor["dtype"].as_str() {
            Some("F64") => 8,
            Some("F32") => 4,
            Some("F16" | "BF16") => 2,
            _ => continue,
        };
        let [from, to]: [usize; 2] =
            serde_json::from_value(tensor["data_offsets"].clone()).unwrap();
        reverse(&mut bytes[begin + from..begin + to], width);
    }
    fs::write(path, bytes).unwrap();
}

/// Adds `more` to each element of the tensor with this name.
///
/// # Panics
/// Panics if the graph has no such float32 tensor.
pub fn add_to(path: &Path, name: &str, more: f32) {
    let mut bytes = fs::read(path).unwrap();
    let length = u8::try_from(name.len()).unwrap();
    let head = [&TYPES[0].0[..], &[0x42, length], name.as_bytes()].concat();
    let found = bytes.windows(head.len()).position(|window| window == head);
    let begin =
        found.unwrap_or_else(|| panic!("{} has no tensor {name}", path.display())) + head.len();
    let (data, _) = field(&bytes, begin, 0x4a).unwrap();
    for element in bytes[data].as_chunks_mut::<4>().0 {
        *element = (f32::from_le_bytes(*element) + more).to_le_bytes();
    }
    fs::write(path, bytes).unwrap();
}

/// Returns the element size and data range of the next large tensor, starting at `position`.
fn tensor(bytes: &[u8], position: &mut usize) -> Option<(usize, std::ops::Range<usize>)> {
    while *position + 4 < bytes.len() {
        let head = [bytes[*position], bytes[*position + 1]];
        *position += 1;
        let Some((_, width)) = TYPES.iter().find(|(wire, _)| *wire == head) else { continue };
        let width = *width;
        // Field 8 is the name, field 9 the data.
        let Some((name, data)) = field(bytes, *position + 1, 0x42) else { continue };
        if !bytes[name].iter().all(u8::is_ascii_graphic) {
            continue;
        }
        let Some((range, _)) = field(bytes, data, 0x4a) else { continue };
        if range.len() >= MIN_BYTES && range.len().is_multiple_of(width) {
            return Some((width, range));
        }
    }
    None
}

/// Returns the content range of a bytes field and the start of the next field.
fn field(bytes: &[u8], position: usize, tag: u8) -> Option<(std::ops::Range<usize>, usize)> {
    if *bytes.get(position)? != tag {
        return None;
    }
    let (mut length, mut shift, mut at) = (0_usize, 0, position + 1);
    loop {
        let byte = *bytes.get(at)?;
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
    let end = at.checked_add(length).filter(|&end| end <= bytes.len())?;
    Some((at..end, end))
}

fn reverse(bytes: &mut [u8], width: usize) {
    let elements: Vec<Vec<u8>> = bytes.chunks_exact(width).map(<[u8]>::to_vec).collect();
    for (index, element) in bytes.chunks_exact_mut(width).zip(elements.iter().rev()) {
        index.copy_from_slice(element);
    }
}
