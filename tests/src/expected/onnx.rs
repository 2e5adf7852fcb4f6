//! Makes another version of a graph: the elements of each large tensor in reverse order. That
//! changes every answer and keeps all shapes, names and magnitudes, so that nothing else does.

use std::{fs, path::Path};

/// Tensors of fewer bytes stay as they are: scalars, shapes, frequencies of positions.
const MIN_BYTES: usize = 1024;
/// Wire bytes of `TensorProto.data_type`, and bytes of an element: FLOAT, UINT8, INT8, FLOAT16.
const TYPES: [([u8; 2], usize); 4] =
    [([0x10, 1], 4), ([0x10, 2], 1), ([0x10, 3], 1), ([0x10, 10], 2)];

/// Changes the weights of a graph's file, and says how many tensors it changed. Exporters write a
/// tensor's type, name and data one after the other; tensors in other files stay as they are.
///
/// # Panics
/// The disk refuses, or there is nothing to change.
pub fn change_weights(path: &Path) -> usize {
    let mut bytes = fs::read(path).unwrap();
    let (mut place, mut changed) = (0, 0);
    while let Some((width, data)) = tensor(&bytes, &mut place) {
        reverse(&mut bytes[data.clone()], width);
        place = data.end;
        changed += 1;
    }
    assert!(changed > 0, "{}: found no weights", path.display());
    fs::write(path, bytes).unwrap();
    changed
}

/// Changes the numbers of a file of little-endian float32 from `begin` on.
///
/// # Panics
/// The disk refuses.
pub fn change_floats(path: &Path, begin: usize) {
    let mut bytes = fs::read(path).unwrap();
    reverse(&mut bytes[begin..], 4);
    fs::write(path, bytes).unwrap();
}

/// Changes the numbers of a `model.safetensors`.
///
/// # Panics
/// It is none.
pub fn change_safetensors(path: &Path) {
    let head = fs::read(path).unwrap()[..8].try_into().unwrap();
    change_floats(path, 8 + usize::try_from(u64::from_le_bytes(head)).unwrap());
}

/// Adds a number to each element of the tensor of this name.
///
/// # Panics
/// The graph has no such tensor of float32.
pub fn add_to(path: &Path, name: &str, more: f32) {
    let mut bytes = fs::read(path).unwrap();
    let length = u8::try_from(name.len()).unwrap();
    let head = [&TYPES[0].0[..], &[0x42, length], name.as_bytes()].concat();
    let place = bytes.windows(head.len()).position(|window| window == head);
    let begin = place.unwrap_or_else(|| panic!("{} has no {name}", path.display())) + head.len();
    let (data, _) = field(&bytes, begin, 0x4a).unwrap();
    for element in bytes[data].as_chunks_mut::<4>().0 {
        *element = (f32::from_le_bytes(*element) + more).to_le_bytes();
    }
    fs::write(path, bytes).unwrap();
}

/// The next large tensor from `place` on: bytes of an element, and where the data is.
fn tensor(bytes: &[u8], place: &mut usize) -> Option<(usize, std::ops::Range<usize>)> {
    while *place + 4 < bytes.len() {
        let head = [bytes[*place], bytes[*place + 1]];
        *place += 1;
        let Some((_, width)) = TYPES.iter().find(|(wire, _)| *wire == head) else { continue };
        let width = *width;
        // Fields 8, the name, and 9, the data.
        let Some((name, data)) = field(bytes, *place + 1, 0x42) else { continue };
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

/// The content of a field of bytes, and where the next field begins.
fn field(bytes: &[u8], place: usize, tag: u8) -> Option<(std::ops::Range<usize>, usize)> {
    if *bytes.get(place)? != tag {
        return None;
    }
    let (mut length, mut shift, mut at) = (0_usize, 0, place + 1);
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
    for (place, element) in bytes.chunks_exact_mut(width).zip(elements.iter().rev()) {
        place.copy_from_slice(element);
    }
}
