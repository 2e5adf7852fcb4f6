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
    wire::ask::{AnsweredItem, Ask, Rejection},
};

use super::model::TensorModel;
use crate::{
    artifacts::costs::{Company, Costs},
    families::group::{Group, Timings, malformed, number},
    process::{cpu_time::CpuTime, fault::Fault},
    session::{Given, SessionError, TensorOutput},
};

/// Largest item, in bytes, that shares a run with others. Copying this much costs next to nothing.
const SHARED_ITEM_BYTES_MAX: usize = 256 * 1024;
/// Rows of one run that several items share.
const SHARED_ROWS_MAX: u64 = 256;

/// An item whose tensors match the model's signature.
struct Ready<'a> {
    item: u32,
    given: Vec<Given<'a>>,
    wanted: &'a [String],
}

/// Answers all items of a group.
pub(super) fn answer(
    group: &mut Group<'_>,
    parts: &[&[u8]],
    generation: Generation,
    (model, costs): (&mut TensorModel, &mut Costs),
) -> Result<(), Fault> {
    let asked = group.asked;
    let mut ready: Vec<Ready<'_>> = Vec::with_capacity(parts.len());
    for (place, (asked, part)) in asked.items.iter().zip(parts).enumerate() {
        let item = number(place);
        let Ask::Tensors { inputs, outputs } = &asked.ask else {
            group.reject(vec![item], Rejection::WrongTask(Task::Tensor))?;
            continue;
        };
        let given = cut(inputs, part)?;
        match check_fit(&given, outputs, model.signature()) {
            Ok(()) => ready.push(Ready { item, given, wanted: outputs }),
            Err(reason) => group.reject(vec![item], Rejection::Tensors(reason))?,
        }
    }
    let mut answering = Answering { group, generation, model, costs };
    // The oldest item is answered first.
    while !ready.is_empty() {
        let mut batch = vec![ready.remove(0)];
        if answering.costs.company == Company::Padded {
            let (mut rows, mut place) = (batch[0].rows(), 0);
            while let Some(other) = ready.get(place) {
                if rows + other.rows() <= SHARED_ROWS_MAX && batch[0].can_join(other) {
                    rows += other.rows();
                    batch.push(ready.remove(place));
                } else {
                    place += 1;
                }
            }
        }
        answering.run(&batch)?;
    }
    Ok(())
}

/// Splits an item's payload into its tensors.
fn cut<'a>(inputs: &'a [TensorHead], mut part: &'a [u8]) -> Result<Vec<Given<'a>>, Fault> {
    let mut given = Vec::with_capacity(inputs.len());
    for head in inputs {
        let length = usize::try_from(head.bytes).unwrap_or(usize::MAX);
        let cut = part.split_at_checked(length);
        let (bytes, rest) =
            cut.ok_or_else(|| malformed("declares tensors that exceed their item"))?;
        let (datatype, shape) = (head.datatype, head.shape.clone());
        given.push(Given { name: &head.name, datatype, shape, bytes: bytes.into() });
        part = rest;
    }
    if part.is_empty() { Ok(given) } else { Err(malformed("has an item longer than its tensors")) }
}

/// Checks that the model takes these tensors and has these outputs. The error says what is wrong.
fn check_fit(given: &[Given<'_>], wanted: &[String], signature: &Signature) -> Result<(), String> {
    for spec in &signature.inputs {
        let mut named = given.iter().filter(|given| given.name == spec.name);
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
    if let Some(other) = given.iter().find(|given| !is_in(given.name, &signature.inputs)) {
        let known = names(&signature.inputs);
        return Err(format!("the model has no input `{}`; its inputs are {known}", other.name));
    }
    if let Some(other) = wanted.iter().find(|name| !is_in(name, &signature.outputs)) {
        let known = names(&signature.outputs);
        return Err(format!("the model has no output `{other}`; its outputs are {known}"));
    }
    let twice = |(place, name): &(usize, &String)| wanted[..*place].contains(name);
    match wanted.iter().enumerate().find(twice) {
        Some((_, name)) => Err(format!("output `{name}` is requested twice")),
        None => Ok(()),
    }
}

fn matches(given: &Given<'_>, spec: &TensorSpec) -> Result<(), String> {
    if given.datatype != spec.datatype {
        return Err(format!(
            "has datatype {}, expected {}",
            given.datatype.name(),
            spec.datatype.name()
        ));
    }
    let agrees = |(&given, &wanted): (&u64, &i64)| {
        u64::try_from(wanted).is_err() || i64::try_from(given) == Ok(wanted)
    };
    let same =
        given.shape.len() == spec.shape.len() && given.shape.iter().zip(&spec.shape).all(agrees);
    if !same {
        return Err(format!("has shape {:?}, expected {:?}", given.shape, spec.shape));
    }
    let elements = elements(&given.shape)
        .ok_or_else(|| format!("has a shape that is too large: {:?}", given.shape))?;
    match given.datatype.element_bytes() {
        Some(size) if elements.checked_mul(size) == Some(given.bytes.len()) => Ok(()),
        Some(size) => Err(format!(
            "has {} bytes, but its shape {:?} needs {elements} elements of {size} bytes",
            given.bytes.len(),
            given.shape
        )),
        None => split_bytes(&given.bytes, elements).map(drop),
    }
}

impl Ready<'_> {
    /// The size of the first axis.
    fn rows(&self) -> u64 {
        let rows = self.given.first().and_then(|given| given.shape.first());
        rows.copied().unwrap_or(1)
    }

    fn bytes(&self) -> usize {
        self.given.iter().map(|given| given.bytes.len()).sum()
    }

    /// Returns whether two items can be concatenated along the first axis.
    fn can_join(&self, other: &Self) -> bool {
        let small = |ready: &Self| ready.bytes() <= SHARED_ITEM_BYTES_MAX && ready.rows() > 0;
        let alike = |(a, b): (&Given<'_>, &Given<'_>)| {
            (a.name, a.datatype) == (b.name, b.datatype)
                && a.datatype != DataType::Bytes
                && a.shape.first() == self.given[0].shape.first()
                && b.shape.first() == other.given[0].shape.first()
                && a.shape.get(1..) == b.shape.get(1..)
        };
        small(self)
            && small(other)
            && self.wanted == other.wanted
            && self.given.len() == other.given.len()
            && self.given.iter().zip(&other.given).all(alike)
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
        let (started, begun) = (Instant::now(), CpuTime::now());
        let sent = model.run(&single.given, single.wanted, |outputs| {
            let took = took(started, begun);
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
        let given = concatenate(batch, all_rows);
        let (started, begun) = (Instant::now(), CpuTime::now());
        let ran = self.model.run(&given, batch[0].wanted, |outputs| {
            split(outputs, &rows).map(|answers| (took(started, begun), answers))
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
fn concatenate<'a>(batch: &'a [Ready<'_>], rows: u64) -> Vec<Given<'a>> {
    let put = |(place, first): (usize, &'a Given<'_>)| {
        let all = batch.iter().flat_map(|ready| ready.given[place].bytes.iter().copied());
        let bytes: Vec<u8> = all.collect();
        let mut shape = first.shape.clone();
        shape[0] = rows;
        Given { name: first.name, datatype: first.datatype, shape, bytes: Cow::Owned(bytes) }
    };
    batch[0].given.iter().enumerate().map(put).collect()
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

fn took(started: Instant, begun: CpuTime) -> Timings {
    Timings { inference: started.elapsed(), cpu: begun.elapsed(), ..Timings::default() }
}

fn rejection(error: SessionError) -> Rejection {
    match error {
        SessionError::Input(reason) => Rejection::Tensors(reason),
        error => Rejection::Inference(error.to_string()),
    }
}
