//! Reads `model.safetensors` of a module: matrices beside the graph, and tables of static models.
//! The file is mapped, so all workers share one copy in memory. Every error names the file. Called
//! by dense layers, layer norms and static tables.

use std::{
    fs::{self, File},
    io,
    ops::{Deref, Range},
    path::{Component, Path},
    sync::Arc,
};

use half::{bf16, f16};
use memmap2::Mmap;
use onnxd_proto::domain::{Refusal, RefusalKind};
use safetensors::{Dtype, tensor::Metadata};
use zerocopy::FromBytes;

use crate::families::text::files::json::{contract, require_content};

/// The file with a module's weights.
const FILE: &str = "model.safetensors";
/// Where older releases of sentence-transformers and model2vec store weights.
const PICKLED: &str = "pytorch_model.bin";

/// Maximum size of the header in bytes. A module has a handful of tensors of about 100 bytes each.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Maximum tensors in one file.
const TENSORS_MAX: usize = 4096;
/// Maximum elements to convert, which copies them: 1 GiB of `f32`.
const CONVERTED_MAX: usize = 1 << 28;

/// The tensors of one file.
#[derive(Debug)]
pub(crate) struct Weights {
    name: String,
    map: Arc<Mmap>,
    metadata: Metadata,
    /// The offset of the first tensor.
    start: usize,
}

/// One tensor: its type, shape and location in the file.
#[derive(Debug)]
pub(crate) struct Tensor {
    /// `FILE: tensor NAME`, for messages.
    name: String,
    map: Arc<Mmap>,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The elements of a tensor as `f32`: mapped if the file stores `f32`, else converted.
#[derive(Clone, Debug)]
pub(crate) struct Floats(Elements);

#[derive(Clone, Debug)]
enum Elements {
    Mapped(Arc<Mmap>, Range<usize>),
    Owned(Arc<[f32]>),
}

impl Weights {
    /// Maps the file in `folder`, a folder within `dir`; an empty name or `.` means `dir` itself.
    ///
    /// # Errors
    /// The file is missing or damaged, or its header is larger than any module's.
    pub(crate) fn open(dir: &Path, folder: &str) -> Result<Self, Refusal> {
        let name = inside(folder, FILE);
        if !Path::new(&name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(contract(format!("{name:?} is not a path within the version")));
        }
        let internal = |error: io::Error| RefusalKind::Internal.because(format!("{name}: {error}"));
        let path = dir.join(&name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(contract(format!("{name} is not a file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(missing(dir, folder));
            }
            Err(error) => return Err(internal(error)),
        }
        let file = File::open(&path).map_err(internal)?;
        let map = map(&file).map_err(internal)?;
        require_content(&name, &map)?;
        let (metadata, start) = header(&map).map_err(|cause| {
            contract(format!("{name} is not a valid safetensors file: {cause}"))
        })?;
        Ok(Self { name, map: Arc::new(map), metadata, start })
    }

    /// Returns the name of the file within the version, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the file has a tensor of this name.
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.metadata.info(tensor).is_some()
    }

    /// Returns the tensor of this name.
    ///
    /// # Errors
    /// The file has no such tensor.
    pub(crate) fn tensor(&self, tensor: &str) -> Result<Tensor, Refusal> {
        let Some(info) = self.metadata.info(tensor) else {
            return Err(contract(format!(
                "{}: tensor {tensor:?} is missing; the file has {}",
                self.name,
                self.tensor_names(),
            )));
        };
        // The header was checked against the length of the file, so these offsets are within it.
        let (start, end) = info.data_offsets;
        Ok(Tensor {
            name: format!("{}: tensor {tensor:?}", self.name),
            map: Arc::clone(&self.map),
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: self.start + start..self.start + end,
        })
    }

    /// Returns the elements of a tensor that must have this shape, as `source` requires.
    ///
    /// # Errors
    /// The tensor is missing, or its shape or type is wrong.
    pub(crate) fn floats(
        &self,
        tensor: &str,
        shape: &[usize],
        source: &str,
    ) -> Result<Floats, Refusal> {
        let tensor = self.tensor(tensor)?;
        if tensor.shape != shape {
            return Err(contract(format!(
                "{} has shape {:?}, but {source} needs {shape:?}",
                tensor.name, tensor.shape
            )));
        }
        tensor.floats()
    }

    /// Refuses a file with other tensors than these, since it belongs to another kind of module.
    ///
    /// # Errors
    /// The file has another tensor; the message names it.
    pub(crate) fn expect_only(&self, tensors: &[&str]) -> Result<(), Refusal> {
        let all = self.metadata.offset_keys();
        match all.iter().find(|name| !tensors.contains(&name.as_str())) {
            Some(name) => Err(contract(format!(
                "{}: unexpected tensor {name:?}; expected only {}",
                self.name,
                tensors.join(", ")
            ))),
            None => Ok(()),
        }
    }

    fn tensor_names(&self) -> String {
        const NAMED_MAX: usize = 8;
        let mut names = self.metadata.offset_keys();
        let rest = names.len().saturating_sub(NAMED_MAX);
        names.truncate(NAMED_MAX);
        match (names.join(", "), rest) {
            (names, 0) if names.is_empty() => "no tensors".into(),
            (names, 0) => names,
            (names, rest) => format!("{names} and {rest} more"),
        }
    }
}

impl Tensor {
    /// Returns the element type.
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the shape.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the file and the tensor, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the elements as stored in the file, little-endian.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// Returns the elements as `f32`. Aligned `f32` data stays in the mapped file.
    ///
    /// # Errors
    /// The type is not one for weights, or there are too many elements to convert.
    pub(crate) fn floats(&self) -> Result<Floats, Refusal> {
        // Only handmade files are unaligned.
        if self.dtype == Dtype::F32 && <[f32]>::ref_from_bytes(self.bytes()).is_ok() {
            return Ok(Floats(Elements::Mapped(Arc::clone(&self.map), self.range.clone())));
        }
        let elements = self.bytes().len() * 8 / self.dtype.bitsize();
        if elements > CONVERTED_MAX {
            return Err(contract(format!(
                "{} has {elements} elements, but {} tensors can have at most {CONVERTED_MAX}; save \
                 it as F32",
                self.name, self.dtype
            )));
        }
        let mut floats = Vec::with_capacity(elements);
        if !widen(self.dtype, self.bytes(), &mut floats) {
            return Err(self.unreadable("F32, F16, BF16, F64 or I8"));
        }
        Ok(Floats(Elements::Owned(floats.into())))
    }

    /// Returns the elements as indices.
    ///
    /// # Errors
    /// The type is not an integer, or an element is negative or exceeds `u32`.
    pub(crate) fn indices(&self) -> Result<Vec<u32>, Refusal> {
        let wide = |value: i64| u32::try_from(value).ok();
        let indices: Option<Vec<u32>> = match self.dtype {
            Dtype::I64 => {
                chunks(self.bytes()).map(|value| wide(i64::from_le_bytes(value))).collect()
            }
            Dtype::I32 => {
                chunks(self.bytes()).map(|value| wide(i32::from_le_bytes(value).into())).collect()
            }
            _ => return Err(self.unreadable("I64 or I32")),
        };
        indices.ok_or_else(|| {
            contract(format!(
                "{} has an index that is out of range; expected 0 to 4294967295",
                self.name
            ))
        })
    }

    /// Returns the refusal of a tensor with an unknown element type.
    pub(crate) fn unreadable(&self, expected: &str) -> Refusal {
        contract(format!("{} has type {}; expected {expected}", self.name, self.dtype))
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Elements::Mapped(map, range) => <[f32]>::ref_from_bytes(&map[range.clone()])
                .expect("checked when the tensor was read, and maps do not move"),
            Elements::Owned(values) => values,
        }
    }
}

/// Appends the elements in `bytes` to `out`; returns `false` if this type is not one for weights.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) -> bool {
    match dtype {
        Dtype::F32 => out.extend(chunks(bytes).map(f32::from_le_bytes)),
        Dtype::F16 => out.extend(chunks(bytes).map(|value| f16::from_le_bytes(value).to_f32())),
        Dtype::BF16 => out.extend(chunks(bytes).map(|value| bf16::from_le_bytes(value).to_f32())),
        #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest, as torch does")]
        Dtype::F64 => out.extend(chunks(bytes).map(|value| f64::from_le_bytes(value) as f32)),
        Dtype::I8 => out.extend(bytes.iter().map(|&value| f32::from(value.cast_signed()))),
        _ => return false,
    }
    true
}

/// Returns the path of `file` in a module's folder, for messages.
pub(crate) fn inside(folder: &str, file: &str) -> String {
    match folder.trim_start_matches("./").trim_end_matches('/') {
        "" | "." => file.into(),
        folder => format!("{folder}/{file}"),
    }
}

fn missing(dir: &Path, folder: &str) -> Refusal {
    let (name, pickled) = (inside(folder, FILE), inside(folder, PICKLED));
    if !dir.join(&pickled).exists() {
        return contract(format!(
            "{name} is missing; PyTorch weights are not supported: save the model again with a \
             current sentence-transformers"
        ));
    }
    contract(format!(
        "{name} is missing, and onnxd does not read {pickled}, because a pickle can run code; load \
         the model with a current sentence-transformers and save it again: python -c \"from \
         sentence_transformers import SentenceTransformer; \
         SentenceTransformer('DIR').save('DIR')\""
    ))
}

fn chunks<const BYTES: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; BYTES]> {
    bytes.as_chunks().0.iter().copied()
}

/// Returns the header and the offset of the tensors, if both lengths match the file's.
fn header(bytes: &[u8]) -> Result<(Metadata, usize), String> {
    let (prefix, rest) =
        bytes.split_first_chunk().ok_or("it is shorter than 8 bytes; download it again")?;
    let length = u64::from_le_bytes(*prefix);
    if length > HEADER_BYTES_MAX {
        return Err(format!(
            "its header has {length} bytes, but at most {HEADER_BYTES_MAX} are supported"
        ));
    }
    let length = usize::try_from(length).map_err(|error| error.to_string())?;
    let (header, tensors) =
        rest.split_at_checked(length).ok_or("it ends within its header; download it again")?;
    // Not `SafeTensors::deserialize`: its check of the file's length overflows.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    let count = metadata.offset_keys().len();
    if count > TENSORS_MAX {
        return Err(format!("it has {count} tensors, but at most {TENSORS_MAX} are supported"));
    }
    if metadata.data_len() != tensors.len() {
        return Err(format!(
            "its header declares {} bytes, but {} follow; download it again",
            metadata.data_len(),
            tensors.len()
        ));
    }
    Ok((metadata, bytes.len() - tensors.len()))
}

#[allow(unsafe_code)] // The only code of the worker that maps files.
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes must not change while they are mapped. A version in the state directory is
    // immutable: a new version is a new directory, and versions are unlinked, never truncated.
    // `onnxd check` relies on its caller not to modify the directory.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
