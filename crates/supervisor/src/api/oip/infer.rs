//! Inference on tensors, for models of every task.

use std::{collections::HashSet, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use onnxd_proto::{
    domain::{
        Facts, Task,
        tensor::{
            AXES_MAX, DataType, TENSOR_NAME_BYTES_MAX, TENSORS_MAX, TensorHead, elements,
            split_bytes,
        },
    },
    generation::Generation,
    limits::{TENSORS_BYTES_MAX, TEXT_BYTES_MAX},
    wire::ask::{Ask, Want},
};

use crate::api::oip::{QUERY, TEXT, Tensor, signature};
use crate::api::{
    error::{ApiError, Kind},
    inference::{Begun, Inference, TextOptions, find_model, require_task},
    inputs::TextOrIds,
    router::App,
    scores::{activate, floats},
    tei::rerank::pairs,
};
use onnxd_engine::{dispatch::Input, models::registry::Model};

/// Texts of one request.
const TEXTS_MAX: usize = 2048;
/// Elements of a BYTES tensor: each takes far more memory than the four bytes that it may have.
const STRINGS_MAX: usize = 1 << 20;
/// Bytes of a request's id.
const ID_BYTES_MAX: usize = 1024;
/// Every model can be asked in this way.
pub(super) const TASKS: [Task; 4] = [Task::Embed, Task::Classify, Task::Rerank, Task::Tensor];

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct InferRequest {
    /// The model's name.
    pub model: String,
    /// The generation that must answer, where one is named; "" is any.
    pub version: String,
    /// Comes back with the answer.
    pub id: Option<String>,
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that are wanted; none means all.
    pub outputs: Vec<String>,
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct InferResponse<'a> {
    pub inference: Inference<'a>,
    pub outputs: Vec<Tensor>,
}

/// The model of a request, which must serve the generation that the request names, if it names one.
///
/// # Errors
/// 404 where it is not served, or not that generation of it.
pub(crate) fn served<'a>(
    app: &'a App,
    name: &str,
    version: &str,
) -> Result<&'a Arc<Model>, ApiError> {
    let model = find_model(app, Some(name))?;
    if let Some((generation, _)) = model.serving() {
        require_version(model, version, generation)?;
    }
    Ok(model)
}

fn require_version(model: &Model, version: &str, served: Generation) -> Result<(), ApiError> {
    if version.is_empty() || version == served.to_string() {
        return Ok(());
    }
    let version: String = version.chars().take(40).collect();
    let message = format!(
        "version `{version}` of the model `{}` is not served; {served} is, and without a version the newest answers",
        model.name
    );
    let status = axum::http::StatusCode::NOT_FOUND;
    Err(ApiError::new(Kind::Validation, message).with_status(status).about("model"))
}

/// Has the model answer.
///
/// # Errors
/// The model is not served, the tensors do not fit it, or it failed.
pub(crate) async fn infer<'a>(
    app: &'a App,
    begun: Begun,
    request: InferRequest,
) -> Result<InferResponse<'a>, ApiError> {
    let model = served(app, &request.model, &request.version)?;
    check(&request)?;
    let begin = Instant::now();
    let record = app.ready(model, &TASKS, begun.timeout()).await?;
    // What its first use took is gone.
    let left = app.dispatch.time_allowed(begun.timeout()).saturating_sub(begin.elapsed());
    let begun = begun.within(left);
    let task = record.facts.task;
    let inputs = match task {
        Task::Tensor => vec![tensors(&request)?],
        _ => texts(&request, &record.facts)?,
    };
    let inference = begun.run(app, model, &[task], inputs).await?;
    require_version(model, &request.version, inference.answer.generation)?;
    let outputs = match task {
        Task::Tensor => raw(&inference)?,
        task => vec![numbers(&inference, task)],
    };
    Ok(InferResponse { inference, outputs })
}

fn wrong(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Validation, message).about("inputs")
}

/// What holds for tensors of every model.
fn check(request: &InferRequest) -> Result<(), ApiError> {
    if request.inputs.is_empty() {
        return Err(ApiError::new(Kind::Empty, "there are no inputs").about("inputs"));
    }
    if request.inputs.len() > TENSORS_MAX || request.outputs.len() > TENSORS_MAX {
        return Err(wrong(format!("there are at most {TENSORS_MAX} inputs and outputs")));
    }
    if request.id.as_ref().is_some_and(|id| id.len() > ID_BYTES_MAX) {
        let message = format!("`id` has more than {ID_BYTES_MAX} bytes");
        return Err(ApiError::new(Kind::Validation, message).about("id"));
    }
    let names = request.inputs.iter().map(|input| &input.name).chain(&request.outputs);
    if names.map(String::len).max() > Some(TENSOR_NAME_BYTES_MAX) {
        return Err(wrong(format!("a name has more than {TENSOR_NAME_BYTES_MAX} bytes")));
    }
    let inputs = request.inputs.iter().map(|input| input.name.as_str());
    if let Some(name) = twice(inputs) {
        return Err(wrong(format!("the input `{name}` is given twice")));
    }
    if let Some(name) = twice(request.outputs.iter().map(String::as_str)) {
        return Err(wrong(format!("the output `{name}` is asked for twice")));
    }
    let mut bytes = 0_usize;
    for Tensor { name, datatype, shape, data } in &request.inputs {
        if shape.len() > AXES_MAX {
            return Err(wrong(format!("the input `{name}` has more than {AXES_MAX} axes")));
        }
        let count = elements(shape)
            .ok_or_else(|| wrong(format!("the input `{name}` has a shape that no memory holds")))?;
        // A tensor without elements costs its sender nothing, but an output without its empty axis
        // would cost a worker as much as the other axes say.
        let others: u64 = shape.iter().filter(|&&size| size > 0).product();
        if count == 0 && others > TENSORS_BYTES_MAX as u64 {
            return Err(wrong(format!(
                "the input `{name}` is empty, and its other axes too large"
            )));
        }
        match datatype.element_bytes() {
            Some(size) if count.checked_mul(size) != Some(data.len()) => {
                return Err(wrong(format!(
                    "the input `{name}` has {} bytes, and its shape says {count} elements of {size}",
                    data.len()
                )));
            }
            None if count > STRINGS_MAX => {
                return Err(wrong(format!(
                    "the input `{name}` has {count} elements, at most {STRINGS_MAX} of BYTES are taken"
                )));
            }
            _ => bytes = bytes.saturating_add(data.len()),
        }
    }
    match bytes {
        bytes if bytes > TENSORS_BYTES_MAX => {
            let message =
                format!("the inputs have {bytes} bytes, at most {TENSORS_BYTES_MAX} are taken");
            Err(wrong(message).with_status(axum::http::StatusCode::PAYLOAD_TOO_LARGE))
        }
        _ => Ok(()),
    }
}

/// The first name that is there twice.
fn twice<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// The one item of a request to a model for tensors.
fn tensors(request: &InferRequest) -> Result<Input, ApiError> {
    let head = |input: &Tensor| {
        let bytes = u32::try_from(input.data.len()).map_err(|_| wrong("an input is too large"))?;
        let Tensor { name, datatype, shape, .. } = input.clone();
        Ok(TensorHead { name, datatype, shape, bytes })
    };
    let inputs = request.inputs.iter().map(head).collect::<Result<Vec<_>, ApiError>>()?;
    let ask = Ask::Tensors { inputs, outputs: request.outputs.clone() };
    Ok(Input { ask, parts: request.inputs.iter().map(|input| input.data.clone()).collect() })
}

/// The items of a request to a model for texts.
fn texts(request: &InferRequest, facts: &Facts) -> Result<Vec<Input>, ApiError> {
    let signature = signature(facts);
    for input in &request.inputs {
        let known = signature.inputs.iter().any(|spec| spec.name == input.name);
        if !known || input.datatype != DataType::Bytes {
            let names: Vec<&str> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(wrong(format!(
                "the input `{}` is {}; the model takes {} of BYTES",
                input.name,
                input.datatype.name(),
                names.join(" and ")
            )));
        }
    }
    if let Some(other) = request.outputs.iter().find(|name| **name != signature.outputs[0].name) {
        let known = &signature.outputs[0].name;
        return Err(wrong(format!("the model has no output `{other}`; it has {known}")));
    }
    let texts = strings(request, TEXT)?;
    if texts.is_empty() || texts.len() > TEXTS_MAX {
        return Err(wrong(format!("1 to {TEXTS_MAX} texts are taken at once")));
    }
    let options = TextOptions::cut();
    if facts.task == Task::Rerank {
        let [query] = &strings(request, QUERY)?[..] else {
            return Err(wrong(format!("the input `{QUERY}` must have one element")));
        };
        return pairs(&options, query.clone(), &texts, "inputs");
    }
    let want = match facts.task {
        Task::Embed => Want::Embedding { normalize: None, dimensions: None },
        _ => Want::Scores,
    };
    Ok(texts.into_iter().map(|text| options.item(TextOrIds::Text(text), want)).collect())
}

/// The texts of one input.
fn strings(request: &InferRequest, name: &str) -> Result<Vec<String>, ApiError> {
    let input = request.inputs.iter().find(|input| input.name == name);
    let input = input.ok_or_else(|| wrong(format!("the input `{name}` is missing")))?;
    let count = elements(&input.shape).unwrap_or(usize::MAX);
    let said = |said: String| wrong(format!("the input `{name}`: {said}"));
    // Before anything is made of what claims to be many.
    if count > TEXTS_MAX {
        return Err(said(format!("{count} texts, at most {TEXTS_MAX} are taken at once")));
    }
    let text = |bytes: &[u8]| match String::from_utf8(bytes.to_vec()) {
        Ok(text) if text.len() <= TEXT_BYTES_MAX / 2 => Ok(text),
        Ok(text) => Err(said(format!(
            "a text has {} bytes, at most {} are taken",
            text.len(),
            TEXT_BYTES_MAX / 2
        ))),
        Err(_) => Err(said("an element is no text in UTF-8".into())),
    };
    split_bytes(&input.data, count).map_err(said)?.into_iter().map(text).collect()
}

/// The outputs of a model for tensors.
fn raw(inference: &Inference<'_>) -> Result<Vec<Tensor>, ApiError> {
    let [item] = &inference.answer.items[..] else {
        return Err(ApiError::new(Kind::Backend, "the answer has no outputs"));
    };
    let mut rest = item.bytes.clone();
    let output = |head: &TensorHead| {
        let TensorHead { name, datatype, shape, bytes } = head.clone();
        Tensor { name, datatype, shape, data: rest.split_to((bytes as usize).min(rest.len())) }
    };
    Ok(item.outputs.iter().map(output).collect())
}

/// The one output of a model for texts.
fn numbers(inference: &Inference<'_>, task: Task) -> Tensor {
    let facts = &inference.record.facts;
    let mut data = BytesMut::new();
    for item in &inference.answer.items {
        if task == Task::Embed {
            data.extend_from_slice(&item.bytes);
            continue;
        }
        let mut scores = floats(&item.bytes);
        activate(&mut scores, facts.activation);
        scores.iter().for_each(|score| data.extend_from_slice(&score.to_le_bytes()));
    }
    let rows = inference.answer.items.len() as u64;
    let shape = match task {
        Task::Rerank => vec![rows],
        _ => vec![rows, facts.dimension.into()],
    };
    let name = signature(facts).outputs.swap_remove(0).name;
    Tensor { name, datatype: DataType::Fp32, shape, data: data.freeze() }
}

/// What the generation is whose inputs a raw body is for; see the binary tensor data extension.
///
/// # Errors
/// As [`infer`].
pub(crate) async fn only_input(
    app: &App,
    begun: Begun,
    name: &str,
    data: Bytes,
) -> Result<Tensor, ApiError> {
    let model = find_model(app, Some(name))?;
    let facts = app.ready(model, &TASKS, begun.timeout()).await?.facts.clone();
    require_task(model, &[facts.task])?;
    let signature = signature(&facts);
    let [spec] = &signature.inputs[..] else {
        return Err(wrong("a raw body is for models with one input"));
    };
    let size = spec.datatype.element_bytes();
    let count = match size {
        Some(size) if data.len().is_multiple_of(size) => (data.len() / size) as u64,
        // The whole body is one element, without its length.
        None => 1,
        Some(size) => return Err(wrong(format!("{} bytes are no elements of {size}", data.len()))),
    };
    let mut known = spec.shape.iter().filter_map(|&axis| u64::try_from(axis).ok());
    // A shape that no memory holds is no shape of a body.
    let fixed = known.try_fold(1_u64, u64::checked_mul).unwrap_or(0);
    let free = spec.shape.iter().filter(|&&axis| axis < 0).count();
    if free > 1 || fixed == 0 || count % fixed != 0 || free == 0 && count != fixed {
        return Err(wrong(format!(
            "{count} elements do not make the shape {:?}; a raw body is for inputs with at most one axis of any size",
            spec.shape
        )));
    }
    let axis = |&axis: &i64| u64::try_from(axis).unwrap_or(count / fixed);
    let shape = spec.shape.iter().map(axis).collect();
    let data = match size {
        Some(_) => data,
        None => {
            let length = u32::try_from(data.len()).map_err(|_| wrong("the body is too long"))?;
            [&length.to_le_bytes(), &data[..]].concat().into()
        }
    };
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}
