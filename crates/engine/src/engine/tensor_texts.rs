//! Texts as tensors: converts BYTES tensors and parameters of a request into items, and answers
//! into tensors. Pure.
//!
//! A text model accepts the parameters `prompt_name`, `input_type`, `truncate` and
//! `truncation_direction`, and the names of its switches. An embedder also accepts `normalize` and
//! `dimensions`, a model that labels tokens `aggregation_strategy`. Other names are ignored,
//! because the protocol and its clients define more.

use bytes::{BufMut, Bytes, BytesMut};
use onnxd_proto::{
    domain::{
        Facts, Output, Task,
        tensor::{DataType, elements, split_bytes},
    },
    limits::TENSORS_BYTES_MAX,
    wire::ask::{Aggregation, SPARSE_ENTRY_BYTES, Side, Switch, SwitchValue, Want},
};

use super::{
    EngineError,
    answer::Item,
    items::{items, pairs},
    labels::model_activation,
    options::{Purpose, TextOptions},
    scores::{activate, floats},
    signature::{EMBEDDING, ENTITIES, LENGTHS, QUERY, SCORE, SCORES, TEXT, signature},
    tensors::{Parameter, Tensor, TensorRequest, invalid},
    texts::Text,
};
use crate::dispatch::Input;

/// Maximum texts in one request.
const TEXTS_MAX: usize = 2048;
/// The callers' name for the texts.
const FIELD: &str = "inputs";

/// Builds the items of a request to a text model, and the options for tokenizing them.
///
/// # Errors
/// The tensors or parameters do not fit the model.
pub(super) fn inputs(
    request: &TensorRequest,
    facts: &Facts,
) -> Result<(TextOptions, Vec<Input>), EngineError> {
    check_names(request, facts)?;
    let options = options(request, facts)?;
    let texts = strings(request, TEXT)?;
    if texts.is_empty() || texts.len() > TEXTS_MAX {
        return Err(invalid(format!("a request must have 1 to {TEXTS_MAX} texts")));
    }
    let want = match facts.task {
        Task::Rerank => {
            let [query] = &strings(request, QUERY)?[..] else {
                return Err(invalid(format!("input `{QUERY}` must have exactly one element")));
            };
            let items = pairs(&query.clone().into(), texts.iter(), FIELD, &options)?;
            return Ok((options, items));
        }
        Task::Sparse => Want::Sparse,
        Task::MultiVector => Want::TokenEmbeddings,
        Task::Classify => Want::Scores,
        Task::TokenClassify => Want::Entities(aggregation(request)?),
        Task::Embed | Task::Tensor => Want::Embedding {
            normalize: flag(request, "normalize")?,
            dimensions: dimensions(request)?,
        },
    };
    if let Output::Dense { .. } | Output::Sparse { .. } = facts.output() {
        let row = facts.output().row_len() as usize * size_of::<f32>();
        check_output(texts.len(), texts.len().saturating_mul(row))?;
    }
    let texts = texts.into_iter().map(Text::Text).collect();
    let items = items(texts, FIELD, &options, want)?;
    Ok((options, items))
}

/// Checks the names and types of the inputs and the names of the requested outputs.
fn check_names(request: &TensorRequest, facts: &Facts) -> Result<(), EngineError> {
    let signature = signature(facts);
    let inputs: Vec<&str> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
    let is_valid = |input: &&Tensor| {
        inputs.contains(&input.name.as_str()) && input.datatype == DataType::Bytes
    };
    if let Some(input) = request.inputs.iter().find(|input| !is_valid(input)) {
        return Err(invalid(format!(
            "unexpected input `{}` of type {}; the model takes {} of type BYTES",
            input.name,
            input.datatype.name(),
            inputs.join(" and ")
        )));
    }
    let outputs: Vec<&str> = signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
    match request.outputs.iter().find(|name| !outputs.contains(&name.as_str())) {
        Some(other) => {
            let known = outputs.join(" and ");
            Err(invalid(format!("the model has no output `{other}`; available: {known}")))
        }
        None => Ok(()),
    }
}

/// Returns how the texts of a request are tokenized.
fn options(request: &TensorRequest, facts: &Facts) -> Result<TextOptions, EngineError> {
    let side = match word(request, "truncation_direction")?.as_deref() {
        None => Side::Model,
        Some("right" | "Right") => Side::Right,
        Some("left" | "Left") => Side::Left,
        Some(_) => {
            return Err(invalid("parameter `truncation_direction` must be left or right"));
        }
    };
    let truncate = flag(request, "truncate")?.unwrap_or(true).then_some(side);
    let prompt = word(request, "prompt_name")?;
    let purpose = word(request, "input_type")?.map(|name| Purpose::new(name, "input_type"));
    let switch = |name: &String| {
        let value = match request.parameters.get(name)? {
            Parameter::Number(number) => SwitchValue::Number(*number),
            Parameter::Word(word) => SwitchValue::Word(word.clone()),
            _ => return Some(Err(wrong_type(name, "an integer or a string"))),
        };
        Some(Ok(Switch { name: name.clone(), value }))
    };
    let switches = facts.switches.iter().filter_map(|facts| switch(&facts.name));
    let switches = switches.collect::<Result<_, _>>()?;
    Ok(TextOptions { truncate, prompt, purpose, switches })
}

fn flag(request: &TensorRequest, name: &str) -> Result<Option<bool>, EngineError> {
    match request.parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(wrong_type(name, "true or false")),
    }
}

fn word(request: &TensorRequest, name: &str) -> Result<Option<String>, EngineError> {
    match request.parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Word(word)) => Ok(Some(word.clone())),
        Some(_) => Err(wrong_type(name, "a string")),
    }
}

fn dimensions(request: &TensorRequest) -> Result<Option<u32>, EngineError> {
    let name = "dimensions";
    let invalid_value = || wrong_type(name, "a positive integer");
    match request.parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Number(number)) => u32::try_from(*number)
            .ok()
            .filter(|&number| number > 0)
            .map(Some)
            .ok_or_else(invalid_value),
        Some(_) => Err(invalid_value()),
    }
}

fn aggregation(request: &TensorRequest) -> Result<Aggregation, EngineError> {
    let word = word(request, "aggregation_strategy")?;
    Ok(match word.as_deref() {
        None | Some("simple") => Aggregation::Simple,
        Some("none") => Aggregation::None,
        Some("first") => Aggregation::First,
        Some("average") => Aggregation::Average,
        Some("max") => Aggregation::Max,
        Some(_) => {
            let message =
                "parameter `aggregation_strategy` must be none, simple, first, average or max";
            return Err(invalid(message));
        }
    })
}

fn wrong_type(name: &str, expected: &str) -> EngineError {
    invalid(format!("parameter `{name}` must be {expected}"))
}

/// Checks the size of an output before it is built.
fn check_output(texts: usize, bytes: usize) -> Result<(), EngineError> {
    if bytes > TENSORS_BYTES_MAX {
        return Err(invalid(format!(
            "the outputs of {texts} texts total {bytes} bytes, at most {TENSORS_BYTES_MAX} are allowed; send fewer texts at once"
        )));
    }
    Ok(())
}

/// Returns the texts of one input.
fn strings(request: &TensorRequest, name: &str) -> Result<Vec<String>, EngineError> {
    let input = request.inputs.iter().find(|input| input.name == name);
    let input = input.ok_or_else(|| invalid(format!("missing input `{name}`")))?;
    let count = elements(&input.shape).unwrap_or(usize::MAX);
    let about = |reason: String| invalid(format!("input `{name}`: {reason}"));
    // Check before allocating for the claimed number.
    if count > TEXTS_MAX {
        return Err(about(format!("{count} texts, at most {TEXTS_MAX} are allowed")));
    }
    let text = |bytes: &[u8]| match String::from_utf8(bytes.to_vec()) {
        Ok(text) => Ok(text),
        Err(_) => Err(about("an element is not valid UTF-8".into())),
    };
    split_bytes(&input.data, count).map_err(about)?.into_iter().map(text).collect()
}

/// Converts the answers of a text model into its outputs, or the requested ones in that order.
///
/// # Errors
/// The outputs are too large, or a worker's answer is malformed.
pub(super) fn outputs(
    facts: &Facts,
    items: &[Item],
    wanted: &[String],
) -> Result<Vec<Tensor>, EngineError> {
    let rows = items.len() as u64;
    let output = facts.output();
    let tensor = |name: &str, shape: Vec<u64>, data: Bytes| Tensor {
        name: name.to_owned(),
        datatype: DataType::Fp32,
        shape,
        data,
    };
    let all = match output {
        Output::MultiVector { dimension } => multi_vector(items, dimension as usize)?,
        Output::Sparse { dimension } => {
            let data = dense(items, dimension as usize)?;
            vec![tensor(EMBEDDING, vec![rows, dimension.into()], data)]
        }
        Output::TokenScores { .. } => vec![entities(items)?],
        Output::Scores { .. } => {
            let (data, shape) = (activated(items, facts), vec![rows, output.row_len().into()]);
            match facts.task {
                Task::Rerank => vec![tensor(SCORE, vec![rows], data)],
                _ => vec![tensor(SCORES, shape, data)],
            }
        }
        Output::Dense { .. } | Output::Tensors => {
            // A request may ask for fewer components.
            let row = items.first().map_or(0, |item| item.bytes.len() / size_of::<f32>());
            let data: BytesMut = items.iter().flat_map(|item| item.bytes.iter().copied()).collect();
            vec![tensor(EMBEDDING, vec![rows, row as u64], data.freeze())]
        }
    };
    if wanted.is_empty() {
        return Ok(all);
    }
    let by_name = |name: &String| all.iter().find(|tensor| tensor.name == *name).cloned();
    Ok(wanted.iter().filter_map(by_name).collect())
}

fn activated(items: &[Item], facts: &Facts) -> Bytes {
    let activation = model_activation(facts);
    let mut data = BytesMut::new();
    for item in items {
        let mut scores = floats(&item.bytes);
        activate(&mut scores, activation);
        scores.iter().for_each(|score| data.put_f32_le(*score));
    }
    data.freeze()
}

/// Returns one row of the whole vocabulary per text.
fn dense(items: &[Item], vocabulary: usize) -> Result<Bytes, EngineError> {
    let row = vocabulary.saturating_mul(size_of::<f32>());
    check_output(items.len(), items.len().saturating_mul(row))?;
    let mut data = BytesMut::zeroed(items.len() * row);
    for (item, row) in items.iter().zip(data.chunks_exact_mut(row.max(1))) {
        let weights = row.as_chunks_mut::<4>().0;
        for entry in item.bytes.as_chunks::<SPARSE_ENTRY_BYTES>().0 {
            let [a, b, c, d, weight @ ..] = *entry;
            let token = u32::from_le_bytes([a, b, c, d]) as usize;
            *weights.get_mut(token).ok_or(EngineError::NoOutputs)? = weight;
        }
    }
    Ok(data.freeze())
}

/// Returns the vectors of each text, padded with rows of zeros, and their numbers.
fn multi_vector(items: &[Item], dimension: usize) -> Result<Vec<Tensor>, EngineError> {
    let row = dimension * size_of::<f32>();
    let longest = items.iter().map(|item| item.bytes.len()).max().unwrap_or(0);
    check_output(items.len(), items.len().saturating_mul(longest))?;
    let mut data = BytesMut::with_capacity(items.len() * longest);
    let mut lengths = BytesMut::new();
    for item in items {
        let bytes = item.bytes.len();
        if row == 0 || !bytes.is_multiple_of(row) {
            return Err(EngineError::NoOutputs);
        }
        data.extend_from_slice(&item.bytes);
        data.put_bytes(0, longest - bytes);
        lengths.put_i32_le(i32::try_from(bytes / row).map_err(|_| EngineError::NoOutputs)?);
    }
    let rows = items.len() as u64;
    let shape = vec![rows, (longest / row.max(1)) as u64, dimension as u64];
    let (datatype, data) = (DataType::Fp32, data.freeze());
    let embedding = Tensor { name: EMBEDDING.to_owned(), datatype, shape, data };
    let (datatype, shape, data) = (DataType::Int32, vec![rows], lengths.freeze());
    Ok(vec![embedding, Tensor { name: LENGTHS.to_owned(), datatype, shape, data }])
}

/// Returns a JSON list of [`onnxd_proto::wire::ask::Entity`] per text.
fn entities(items: &[Item]) -> Result<Tensor, EngineError> {
    let bytes = items.iter().map(|item| item.bytes.len() + size_of::<u32>()).sum();
    check_output(items.len(), bytes)?;
    let mut data = BytesMut::with_capacity(bytes);
    for item in items {
        data.put_u32_le(u32::try_from(item.bytes.len()).map_err(|_| EngineError::NoOutputs)?);
        data.extend_from_slice(&item.bytes);
    }
    let (datatype, shape) = (DataType::Bytes, vec![items.len() as u64]);
    Ok(Tensor { name: ENTITIES.to_owned(), datatype, shape, data: data.freeze() })
}

#[cfg(test)]
#[path = "tensor_texts_tests.rs"]
mod tests;
