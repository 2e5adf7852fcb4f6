//! Walks an ONNX file's protobuf and visits each tensor, because ONNX Runtime reports neither the type
//! of weights nor their files. Skips unneeded data, mainly weights, and trusts no length. Called by
//! checks and listings, in processes that may crash.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
};

/// Maximum nesting of messages. Each nested graph adds three levels.
const DEPTH_MAX: usize = 32;
/// Maximum fields read. A model has several per node.
const FIELDS_MAX: u32 = 16 << 20;
/// Maximum bytes of a string in a description of external data.
const TEXT_BYTES_MAX: u64 = 4096;

/// The key prefix of packed weights in a description of external data.
const PACKED: &str = "prepacked_";

/// A tensor of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tensor {
    /// The number of the element type in onnx.proto.
    pub(crate) element_type: u64,
    pub(crate) elements: u64,
    /// Whether it holds the indices of a sparse tensor.
    pub(crate) is_index: bool,
    pub(crate) external: Option<External>,
}

/// The location of a tensor's data outside the model file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct External {
    /// Path relative to the model's folder, as written in the file.
    pub(crate) location: String,
    /// The end offset of the tensor's data, or 0 if the file does not state it.
    pub(crate) end: u64,
    /// Offsets of weights packed for ONNX Runtime's kernels, if this is a compiled form.
    pub(crate) packed: Vec<u64>,
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    /// At this byte the file is not protobuf, ends early, or cannot be read.
    Damaged(u64),
    /// The file exceeds a limit on fields, nesting or strings.
    Limit,
    /// The visitor stopped the walk.
    Stopped,
}

type Walked<T = ()> = Result<T, WalkError>;

/// Calls `visit` with every tensor of a model: weights and node constants, including those in inner
/// graphs and functions. `visit` returns whether to continue.
pub(crate) fn walk(file: &File, visit: &mut dyn FnMut(Tensor) -> bool) -> Walked {
    let end = file.metadata().map_err(|_| WalkError::Damaged(0))?.len();
    walk_bytes(file, end, visit)
}

/// Like [`walk`], for any reader of `end` bytes.
pub(crate) fn walk_bytes(
    file: impl Read + Seek,
    end: u64,
    visit: &mut dyn FnMut(Tensor) -> bool,
) -> Walked {
    let mut walk = Walk { file: BufReader::new(file), at: 0, fields: 0, visit };
    walk.message(Message::Model, end, 0)
}

/// The messages that can contain tensors, named as in onnx.proto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    /// The indices of a sparse tensor.
    Indices,
}

impl Message {
    /// Returns the message type of a field, if it can contain tensors.
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

/// The state of a walk.
struct Walk<'a, F> {
    file: BufReader<F>,
    at: u64,
    fields: u32,
    visit: &'a mut dyn FnMut(Tensor) -> bool,
}

/// The value of a field.
enum Value {
    Number(u64),
    /// The length of the bytes that follow.
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
                (14, Value::Number(location)) => is_external |= location == 1,
                (_, Value::Number(_)) => {}
                (_, Value::Bytes(bytes)) => self.skip(bytes)?,
            }
        }
        external.end = offset.saturating_add(length);
        tensor.external = is_external.then_some(external);
        if (self.visit)(tensor) { Ok(()) } else { Err(WalkError::Stopped) }
    }

    /// Reads a key-value pair of strings.
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

    /// Reads the header of a field that must end by `end`, and its value if it is a number.
    fn field(&mut self, end: u64) -> Walked<(u64, Value)> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(WalkError::Limit);
        }
        let head = self.number(end)?;
        // Field number 0 is invalid; it appears in zeroed parts of a file.
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

    /// Reads a variable-length number, which must end by `end`.
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

/// Parses the offsets in `NAME|OFFSET;LENGTH;CHECKSUM|OFFSET;LENGTH;CHECKSUM`.
fn packed(value: &str) -> impl Iterator<Item = u64> {
    let parts = value.split('|').skip(1);
    parts.filter_map(|part| part.split(';').next().and_then(|offset| offset.parse().ok()))
}

#[cfg(test)]
#[path = "graph_tests.rs"]
pub(crate) mod tests;
