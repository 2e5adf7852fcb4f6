//! Answers the items of a group for tensor models. Items that can share a run are concatenated
//! along the first axis. Large items run on their own, without copying their tensors.

use std::{borrow::Cow, time::Instant};

use onnxd_proto::{
    domain::{
        Signature, Task,
        tensor::{DataType, TensorHead, TensorSpec, elements, split_bytes},
    },
    generation::Generation,
    limits::TENSORS_BYTES_MAX,
    wire::operation::{AnsweredItem, Item, Operation, Rejection},
};

use super::model::TensorModel;
use crate::{
    artifacts::costs::{Batching, Costs},
    families::group::{Group, Timings, malformed, number},
    process::{cpu_time::CpuTime, fault::Fault},
    session::{InputTensor, SessionError, TensorOutput},
};

/// Maximum bytes of an item that shares a run with others. Copying this much costs next to nothing.
const SHARED_ITEM_BYTES_MAX: usize = 256 * 1024;
/// Maximum rows of a run that several items share.
const SHARED_ROWS_MAX: u64 = 256;

/// An item whose tensors match the model's signature.
struct Ready<'a> {
    item: u32,
    inputs: Vec<InputTensor<'a>>,
    outputs: &'a [String],
}

/// Answers all items of a group.
pub(super) fn answer(
    group: &mut Group<'_>,
    parts: &[&[u8]],
    generation: Generation,
    (model, costs): (&mut TensorModel, &mut Costs),
) -> Result<(), Fault> {
    let request = group.request;
    let mut ready: Vec<Ready<'_>> = Vec::with_capacity(parts.len());
    for (index, (Item { operation, .. }, part)) in request.items.iter().zip(parts).enumerate() {
        let item = number(index);
        let Operation::Tensors { inputs, outputs } = operation else {
            group.reject(vec![item], Rejection::WrongTask(Task::Tensor))?;
            continue;
        };
        let tensors = cut(inputs, part)?;
        match check_fit(&tensors, outputs, model.signature()) {
            Ok(()) => ready.push(Ready { item, inputs: tensors, outputs }),
            Err(reason) => group.reject(vec![item], Rejection::Tensors(reason))?,
        }
    }
    let mut answering = Answering { group, generation, model, costs };
    // The oldest item is answered first.
    while !ready.is_empty() {
        let mut batch = vec![ready.remove(0)];
        if answering.costs.batching == Batching::Padded {
            let (mut rows, mut index) = (batch[0].rows(), 0);
            while let Some(other) = ready.get(index) {
                if rows + other.rows() <= SHARED_ROWS_MAX && batch[0].can_join(other) {
                    rows += other.rows();
                    batch.push(ready.remove(index));
                } else {
                    index += 1;
                }
            }
        }
        answering.run(&batch)?;
    }
    Ok(())
}

/// Splits an item's payload into its tensors.
fn cut<'a>(inputs: &'a [TensorHead], mut part: &'a [u8]) -> Result<Vec<InputTensor<'a>>, Fault> {
    let mut tensors = Vec::with_capacity(inputs.len());
    for head in inputs {
        let length = usize::try_from(head.bytes).unwrap_or(usize::MAX);
        let cut = part.split_at_checked(length);
        let (bytes, rest) =
            cut.ok_or_else(|| malformed("declares tensors that exceed their item"))?;
        let (datatype, shape) = (head.datatype, head.shape.clone());
        tensors.push(InputTensor { name: &head.name, datatype, shape, bytes: bytes.into() });
        part = rest;
    }
    if part.is_empty() {
        Ok(tensors)
    } else {
        Err(malformed("has an item longer than its tensors"))
    }
}

/// Checks that the model takes these tensors and has these outputs. The error says what is wrong.
fn check_fit(
    tensors: &[InputTensor<'_>],
    outputs: &[String],
    signature: &Signature,
) -> Result<(), String> {
    for spec in &signature.inputs {
        let mut named = tensors.iter().filter(|tensor| tensor.name == spec.name);
        let Some(first) = named.next() else {
            return Err(format!("input `{}` is missing", spec.name));
        };
        if named.next().is_some() {
            return Err(format!("input `{}` is given twice", spec.name));
        }
        matches(first, spec).map_err(|reason| format!("input `{}` {reason}", spec.name))?;
    }
    let names = |specs: &[TensorSpec]| {
        specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let is_in = |name: &str, specs: &[TensorSpec]| specs.iter().any(|spec| spec.name == name);
    if let Some(other) = tensors.iter().find(|tensor| !is_in(tensor.name, &signature.inputs)) {
        let known = names(&signature.inputs);
        return Err(format!("the model has no input `{}`; its inputs are {known}", other.name));
    }
    if let Some(other) = outputs.iter().find(|name| !is_in(name, &signature.outputs)) {
        let known = names(&signature.outputs);
        return Err(format!("the model has no output `{other}`; its outputs are {known}"));
    }
    let twice = |(index, name): &(usize, &String)| outputs[..*index].contains(name);
    match outputs.iter().enumerate().find(twice) {
        Some((_, name)) => Err(format!("output `{name}` is requested twice")),
        None => Ok(()),
    }
}

fn matches(tensor: &InputTensor<'_>, spec: &TensorSpec) -> Result<(), String> {
    if tensor.datatype != spec.datatype {
        return Err(format!(
            "has datatype {}, expected {}",
            tensor.datatype.name(),
            spec.datatype.name()
        ));
    }
    let agrees = |(&actual, &expected): (&u64, &i64)| {
        u64::try_from(expected).is_err() || i64::try_from(actual) == Ok(expected)
    };
    let same =
        tensor.shape.len() == spec.shape.len() && tensor.shape.iter().zip(&spec.shape).all(agrees);
    if !same {
        return Err(format!("has shape {:?}, expected {:?}", tensor.shape, spec.shape));
    }
    let elements = elements(&tensor.shape)
        .ok_or_else(|| format!("has a shape that is too large: {:?}", tensor.shape))?;
    match tensor.datatype.element_bytes() {
        Some(size) if elements.checked_mul(size) == Some(tensor.bytes.len()) => Ok(()),
        Some(size) => Err(format!(
            "has {} bytes, but its shape {:?} needs {elements} elements of {size} bytes",
            tensor.bytes.len(),
            tensor.shape
        )),
        None => split_bytes(&tensor.bytes, elements).map(drop),
    }
}

impl Ready<'_> {
    /// The size of the first axis.
    fn rows(&self) -> u64 {
        let rows = self.inputs.first().and_then(|tensor| tensor.shape.first());
        rows.copied().unwrap_or(1)
    }

    fn bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.bytes.len()).sum()
    }

    /// Returns whether two items can be concatenated along the first axis.
    fn can_join(&self, other: &Self) -> bool {
        let small = |ready: &Self| ready.bytes() <= SHARED_ITEM_BYTES_MAX && ready.rows() > 0;
        let is_compatible = |(a, b): (&InputTensor<'_>, &InputTensor<'_>)| {
            (a.name, a.datatype) == (b.name, b.datatype)
                && a.datatype != DataType::Bytes
                && a.shape.first() == self.inputs[0].shape.first()
                && b.shape.first() == other.inputs[0].shape.first()
                && a.shape.get(1..) == b.shape.get(1..)
        };
        small(self)
            && small(other)
            && self.outputs == other.outputs
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(is_compatible)
    }
}

struct Answering<'g, 's, 'm> {
    group: &'g mut Group<'s>,
    generation: Generation,
    model: &'m mut TensorModel,
    costs: &'m mut Costs,
}

impl Answering<'_, '_, '_> {
    fn run(&mut self, batch: &[Ready<'_>]) -> Result<(), Fault> {
        let [single] = batch else { return self.run_joined(batch) };
        let Self { group, generation, model, costs } = self;
        let (started, cpu_start) = (Instant::now(), CpuTime::now());
        let sent = model.run(&single.inputs, single.outputs, |outputs| {
            let took = took(started, cpu_start);
            let bytes: usize = outputs.iter().map(|output| output.bytes.len()).sum();
            if bytes > TENSORS_BYTES_MAX {
                let reason = format!(
                    "the outputs have {bytes} bytes, more than the limit of {TENSORS_BYTES_MAX}; \
                     request fewer outputs or rows"
                );
                return (took, group.reject(vec![single.item], Rejection::Inference(reason)));
            }
            let heads = outputs.iter().map(|output| head(output, output.shape.clone())).collect();
            let payload: Vec<&[u8]> = outputs.iter().map(|output| &output.bytes[..]).collect();
            let items = vec![answered(single.item, bytes, heads)];
            (took, group.send(*generation, items, took, &payload))
        });
        match sent {
            Ok((took, sent)) => {
                costs.table.observe(1, 0, took.cpu.as_secs_f32() * 1e6);
                sent
            }
            Err(error) => group.reject(vec![single.item], rejection(error)),
        }
    }

    fn run_joined(&mut self, batch: &[Ready<'_>]) -> Result<(), Fault> {
        let rows: Vec<u64> = batch.iter().map(Ready::rows).collect();
        let all_rows: u64 = rows.iter().sum();
        let tensors = concatenate(batch, all_rows);
        let (started, cpu_start) = (Instant::now(), CpuTime::now());
        let ran = self.model.run(&tensors, batch[0].outputs, |outputs| {
            split(outputs, &rows).map(|answers| (took(started, cpu_start), answers))
        });
        // Run each item on its own, so that it gets its own answer or error.
        let Ok(Some((took, answers))) = ran else {
            return batch.iter().try_for_each(|ready| self.run(std::slice::from_ref(ready)));
        };
        self.costs.table.observe(batch.len(), 0, took.cpu.as_secs_f32() * 1e6);
        let items = batch.iter().zip(&answers);
        let items =
            items.map(|(ready, (heads, bytes))| answered(ready.item, bytes.len(), heads.clone()));
        let payload: Vec<&[u8]> = answers.iter().map(|(_, bytes)| &bytes[..]).collect();
        self.group.send(self.generation, items.collect(), took, &payload)
    }
}

/// Concatenates the tensors of all items along the first axis.
fn concatenate<'a>(batch: &'a [Ready<'_>], rows: u64) -> Vec<InputTensor<'a>> {
    let put = |(index, first): (usize, &'a InputTensor<'_>)| {
        let all = batch.iter().flat_map(|ready| ready.inputs[index].bytes.iter().copied());
        let bytes: Vec<u8> = all.collect();
        let mut shape = first.shape.clone();
        shape[0] = rows;
        InputTensor { name: first.name, datatype: first.datatype, shape, bytes: Cow::Owned(bytes) }
    };
    batch[0].inputs.iter().enumerate().map(put).collect()
}

/// Splits the outputs into the parts of the items, which have `rows` rows each. Returns `None` if
/// the outputs have a different number of rows than the inputs, or are too large to send together.
fn split(outputs: &[TensorOutput<'_>], rows: &[u64]) -> Option<Vec<(Vec<TensorHead>, Vec<u8>)>> {
    let all_rows: u64 = rows.iter().sum();
    // Outputs too large for one frame are answered one by one.
    if outputs.iter().map(|output| output.bytes.len()).sum::<usize>() > TENSORS_BYTES_MAX {
        return None;
    }
    let mut answers: Vec<(Vec<TensorHead>, Vec<u8>)> = vec![Default::default(); rows.len()];
    for output in outputs {
        let row_bytes = output.bytes.len() as u64 / all_rows;
        if output.shape.first() != Some(&all_rows) || output.datatype == DataType::Bytes {
            return None;
        }
        let mut rest = &output.bytes[..];
        for ((heads, bytes), &rows) in answers.iter_mut().zip(rows) {
            let length = usize::try_from(rows * row_bytes).ok()?;
            let (own, others) = rest.split_at_checked(length)?;
            rest = others;
            let mut shape = output.shape.clone();
            shape[0] = rows;
            heads.push(TensorHead { bytes: number(own.len()), ..head(output, shape) });
            bytes.extend_from_slice(own);
        }
    }
    Some(answers)
}

fn head(output: &TensorOutput<'_>, shape: Vec<u64>) -> TensorHead {
    let (name, datatype) = (output.name.to_owned(), output.datatype);
    let bytes = u32::try_from(output.bytes.len()).unwrap_or(u32::MAX);
    TensorHead { name, datatype, shape, bytes }
}

fn answered(item: u32, bytes: usize, outputs: Vec<TensorHead>) -> AnsweredItem {
    AnsweredItem { item, tokens: 0, bytes: number(bytes), outputs }
}

fn took(started: Instant, cpu_start: CpuTime) -> Timings {
    Timings { inference: started.elapsed(), cpu: cpu_start.elapsed(), ..Timings::default() }
}

fn rejection(error: SessionError) -> Rejection {
    match error {
        SessionError::Input(reason) => Rejection::Tensors(reason),
        error => Rejection::Inference(error.to_string()),
    }
}
