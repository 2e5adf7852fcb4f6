//! Walks through an ONNX file's protobuf and shows each tensor in it: ONNX Runtime says neither of
//! what type weights are nor which files they are in. Skips what it does not need, weights above
//! all, and trusts no length. Called by checks and listings, in processes that may be lost.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
};

/// Messages within messages. Graphs within graphs are three apart.
const DEPTH_MAX: usize = 32;
/// Fields that are read. A model has some for each of its nodes.
const FIELDS_MAX: u32 = 16 << 20;
/// Bytes of a text in a description of external data.
const TEXT_BYTES_MAX: u64 = 4096;

/// What the keys of arranged bytes in a description of external data begin with.
const PACKED: &str = "prepacked_";

/// A tensor of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tensor {
    /// The number of the element type in onnx.proto.
    pub(crate) element_type: u64,
    pub(crate) elements: u64,
    /// Whether it only says where the values of a sparse tensor stand.
    pub(crate) is_index: bool,
    pub(crate) external: Option<External>,
}

/// Where a tensor's bytes are, if they are not in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct External {
    /// Relative to the model's folder, as the file says.
    pub(crate) location: String,
    /// The first byte behind the tensor's, where the file says it.
    pub(crate) end: u64,
    /// Where ONNX Runtime has put what its kernels want instead of the bytes, if this is a compiled
    /// form.
    pub(crate) packed: Vec<u64>,
}

/// Why a file's tensors are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    /// It is not protobuf, ends early, or cannot be read, at this byte.
    Damaged(u64),
    /// It is larger or deeper than any model.
    Limit,
    /// The visitor has seen enough.
    Stopped,
}

type Walked<T = ()> = Result<T, WalkError>;

/// Shows `visit` every tensor of a model: weights, constants of nodes, and those of inner graphs and
/// functions. `visit` returns whether to go on.
pub(crate) fn walk(file: &File, visit: &mut dyn FnMut(Tensor) -> bool) -> Walked {
    let end = file.metadata().map_err(|_| WalkError::Damaged(0))?.len();
    walk_bytes(file, end, visit)
}

/// The same for anything that has `end` bytes.
pub(crate) fn walk_bytes(
    file: impl Read + Seek,
    end: u64,
    visit: &mut dyn FnMut(Tensor) -> bool,
) -> Walked {
    let mut walk = Walk { file: BufReader::new(file), at: 0, fields: 0, visit };
    walk.message(Message::Model, end, 0)
}

/// The messages that lead to tensors, by their names in onnx.proto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    /// A tensor of a sparse tensor.
    Indices,
}

impl Message {
    /// What is in a field, if tensors may be in there.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1) => {
                Some(Self::Tensor)
            }
            (Self::SparseTensor, 2) => Some(Self::Indices),
            _ => None,
        }
    }
}

/// A place in the file.
struct Walk<'a, F> {
    file: BufReader<F>,
    at: u64,
    fields: u32,
    visit: &'a mut dyn FnMut(Tensor) -> bool,
}

/// What a field holds.
enum Value {
    Number(u64),
    /// So many bytes follow.
    Bytes(u64),
}

impl<F: Read + Seek> Walk<'_, F> {
    /// Reads a message that ends at `end`.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> Walked {
        if matches!(message, Message::Tensor | Message::Indices) {
            return self.tensor(message, end);
        }
        while self.at < end {
            let (number, value) = self.field(end)?;
            let Value::Bytes(length) = value else { continue };
            match message.field(number) {
                Some(inner) if depth < DEPTH_MAX => {
                    self.message(inner, self.at + length, depth + 1)?;
                }
                Some(_) => return Err(WalkError::Limit),
                None => self.skip(length)?,
            }
        }
        Ok(())
    }

    fn tensor(&mut self, message: Message, end: u64) -> Walked {
        let is_index = message == Message::Indices;
        let mut tensor = Tensor { elements: 1, is_index, ..Tensor::default() };
        let (mut external, mut is_external) = (External::default(), false);
        let (mut offset, mut length) = (0_u64, 0_u64);
        while self.at < end {
            match self.field(end)? {
                (1, Value::Number(size)) => tensor.elements = tensor.elements.saturating_mul(size),
                (1, Value::Bytes(bytes)) => {
                    let sizes_end = self.at + bytes;
                    while self.at < sizes_end {
                        tensor.elements = tensor.elements.saturating_mul(self.number(sizes_end)?);
                    }
                }
                (2, Value::Number(number)) => tensor.element_type = number,
                (13, Value::Bytes(bytes)) => {
                    is_external = true;
                    let (key, value) = self.entry(self.at + bytes)?;
                    match key.as_str() {
                        "location" => external.location = value,
                        "offset" => offset = value.parse().unwrap_or(0),
                        "length" => length = value.parse().unwrap_or(0),
                        key if key.starts_with(PACKED) => external.packed.extend(packed(&value)),
                        _ => {}
                    }
                }
                (14, Value::Number(place)) => is_external |= place == 1,
                (_, Value::Number(_)) => {}
                (_, Value::Bytes(bytes)) => self.skip(bytes)?,
            }
        }
        external.end = offset.saturating_add(length);
        tensor.external = is_external.then_some(external);
        if (self.visit)(tensor) { Ok(()) } else { Err(WalkError::Stopped) }
    }

    /// Reads a key and its value, two texts.
    fn entry(&mut self, end: u64) -> Walked<(String, String)> {
        let mut texts = [String::new(), String::new()];
        while self.at < end {
            match self.field(end)? {
                (number @ (1 | 2), Value::Bytes(bytes)) => {
                    let text = self.text(bytes)?;
                    texts[usize::from(number == 2)] = text;
                }
                (_, Value::Number(_)) => {}
                (_, Value::Bytes(bytes)) => self.skip(bytes)?,
            }
        }
        Ok(texts.into())
    }

    fn text(&mut self, bytes: u64) -> Walked<String> {
        if bytes > TEXT_BYTES_MAX {
            return Err(WalkError::Limit);
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.file.read_exact(&mut text).map_err(|_| WalkError::Damaged(self.at))?;
        self.at += bytes;
        String::from_utf8(text).map_err(|_| WalkError::Damaged(self.at))
    }

    /// Reads the head of a field that ends at `end` or before, and its value if that is a number.
    fn field(&mut self, end: u64) -> Walked<(u64, Value)> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(WalkError::Limit);
        }
        let head = self.number(end)?;
        // No field has this number; a hole in a file is full of them.
        if head >> 3 == 0 {
            return Err(WalkError::Damaged(self.at));
        }
        let value = match head & 7 {
            0 => Value::Number(self.number(end)?),
            1 => Value::Bytes(8),
            2 => Value::Bytes(self.number(end)?),
            5 => Value::Bytes(4),
            _ => return Err(WalkError::Damaged(self.at)),
        };
        match value {
            Value::Bytes(length) if length > end - self.at => Err(WalkError::Damaged(self.at)),
            value => Ok((head >> 3, value)),
        }
    }

    /// Reads a number of variable length, which ends at `end` or before.
    fn number(&mut self, end: u64) -> Walked<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            if self.at >= end {
                break;
            }
            let mut byte = [0];
            self.file.read_exact(&mut byte).map_err(|_| WalkError::Damaged(self.at))?;
            self.at += 1;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(WalkError::Damaged(self.at))
    }

    fn skip(&mut self, bytes: u64) -> Walked {
        let damaged = WalkError::Damaged(self.at);
        let distance = i64::try_from(bytes).map_err(|_| damaged)?;
        self.file.seek_relative(distance).map_err(|_| damaged)?;
        self.at += bytes;
        Ok(())
    }
}

/// The places in `NAME|PLACE;LENGTH;CHECKSUM|PLACE;LENGTH;CHECKSUM`.
fn packed(value: &str) -> impl Iterator<Item = u64> {
    let parts = value.split('|').skip(1);
    parts.filter_map(|part| part.split(';').next().and_then(|place| place.parse().ok()))
}

#[cfg(test)]
#[path = "graph_tests.rs"]
pub(crate) mod tests;
