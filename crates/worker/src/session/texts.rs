//! A graph for texts in ONNX Runtime: feeds tokens, padded to the longest text, and shows the one
//! output that is used. Which output that is, and what is made of it, is decided by the family.

use std::{fmt, path::Path};

use half::{bf16, f16};
use onnxd_proto::domain::tensor::{DataType, TensorSpec};
use ort::{
    session::OutputSelector,
    value::{DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, ValueType},
};

use super::{
    elements,
    error::{SessionError, load_failed, run_failed},
    inlets::{Inlet, Kind, Rows},
    interrupt::Options,
    runtime::{Form, Runtime},
};

/// The tokens of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Rows of the embedding table.
    pub(crate) ids: Vec<i64>,
    /// As long as `ids`; mostly zeros.
    pub(crate) type_ids: Vec<i64>,
    /// How many, from the first on, are attended to; mostly all.
    pub(crate) attended: usize,
}

impl Tokens {
    /// Tokens that are all attended to.
    pub(crate) fn of(ids: Vec<i64>, type_ids: Vec<i64>) -> Self {
        let attended = ids.len();
        Self { ids, type_ids, attended }
    }

    /// The first `length` tokens.
    pub(crate) fn cut(&self, length: usize) -> Self {
        let cut = |values: &[i64]| values.iter().copied().take(length).collect();
        let attended = self.attended.min(length);
        Self { ids: cut(&self.ids), type_ids: cut(&self.type_ids), attended }
    }
}

/// What is run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) texts: &'a [&'a Tokens],
    /// What fills up shorter texts.
    pub(crate) pad_id: i64,
    /// Where the positions of a text begin.
    pub(crate) first_position: i64,
    /// The values of the graph's switches, in the order of [`Session::switches`].
    pub(crate) switches: &'a [i64],
}

/// A loaded graph for texts.
pub(crate) struct Session {
    inner: ort::session::Session,
    inlets: Vec<Inlet>,
    outputs: Vec<TensorSpec>,
    /// Computes the one output that is used; `None` until one is selected.
    options: Option<Options>,
    output: String,
    /// What is fed, reused from run to run.
    rows: Rows,
    /// What came out, where that is not float32.
    converted: Vec<f32>,
}

/// What a run computed.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    /// In the order of the shape, the last axis first.
    pub(crate) values: &'a [f32],
    /// The first axis is the texts.
    pub(crate) shape: &'a [usize],
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Session {
    /// Loads a graph and looks at its inputs and outputs. No output is selected yet.
    ///
    /// # Errors
    /// ONNX Runtime cannot load it, or an input cannot be fed.
    pub(crate) fn open(runtime: &Runtime, model: &Path, form: Form) -> Result<Self, SessionError> {
        Self::open_with(runtime, model, form, &[])
    }

    /// Loads a compiled graph for runs that are spread over these CPUs, too.
    ///
    /// # Errors
    /// See [`Session::open`].
    pub(crate) fn open_wide(
        runtime: &Runtime,
        model: &Path,
        helpers: &[u16],
    ) -> Result<Self, SessionError> {
        Self::open_with(runtime, model, Form::Compiled, helpers)
    }

    fn open_with(
        runtime: &Runtime,
        model: &Path,
        form: Form,
        helpers: &[u16],
    ) -> Result<Self, SessionError> {
        let opened =
            runtime.builder(form, helpers).and_then(|mut builder| builder.commit_from_file(model));
        let inner = opened.map_err(load_failed)?;
        let inlets: Vec<Inlet> =
            inner.inputs().iter().map(Inlet::of).collect::<Result<_, SessionError>>()?;
        if !inlets.iter().any(|inlet| inlet.kind == Kind::Ids) {
            return Err(SessionError::Contract("the graph has no input input_ids".into()));
        }
        let outputs = inner.outputs().iter().filter_map(spec).collect();
        Ok(Self {
            inner,
            inlets,
            outputs,
            options: None,
            output: String::new(),
            rows: Rows::default(),
            converted: Vec::new(),
        })
    }

    /// The outputs that are tensors.
    pub(crate) fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// What is fed, for people.
    pub(crate) fn describe_inputs(&self) -> Vec<String> {
        self.inlets.iter().map(Inlet::describe).collect()
    }

    /// Names of the numbers that change what the graph computes.
    pub(crate) fn switches(&self) -> Vec<String> {
        let switches = self.inlets.iter().filter(|inlet| inlet.kind == Kind::Switch);
        switches.map(|inlet| inlet.name.clone()).collect()
    }

    /// Whether the graph can be told what is padding.
    pub(crate) fn is_masked(&self) -> bool {
        self.inlets.iter().any(|inlet| inlet.kind == Kind::Mask)
    }

    /// Whether the graph gives its output for the last place of a batch alone, so that only texts of
    /// equal length may run together.
    pub(crate) fn keeps_last_alone(&self) -> bool {
        self.inlets.iter().any(|inlet| inlet.kind == Kind::LogitsToKeep)
    }

    /// Computes this output, and no other, from now on.
    ///
    /// # Errors
    /// ONNX Runtime has no memory for it.
    pub(crate) fn select(&mut self, output: &str) -> Result<(), SessionError> {
        self.options = Some(Options::new(OutputSelector::no_default().with(output))?);
        output.clone_into(&mut self.output);
        Ok(())
    }

    /// Has runs give memory that is not used back to the system when they end, or keep it again.
    ///
    /// # Errors
    /// ONNX Runtime has no memory for it.
    pub(crate) fn release_memory(&mut self, release: bool) -> Result<(), SessionError> {
        let outputs = OutputSelector::no_default().with(&self.output);
        let options = if release { Options::releasing(outputs) } else { Options::new(outputs) };
        self.options = Some(options?);
        Ok(())
    }

    /// Numbers of a vector of the output that is computed, where the graph declares them.
    pub(crate) fn width(&self) -> Option<usize> {
        let output = self.outputs.iter().find(|output| output.name == self.output)?;
        output.shape.last().and_then(|&size| usize::try_from(size).ok())
    }

    /// The output that is computed and its type, for people.
    pub(crate) fn describe_output(&self) -> String {
        let output = self.outputs.iter().find(|output| output.name == self.output);
        let datatype = output.map_or("", |output| output.datatype.name());
        format!("{} ({})", self.output, datatype.to_lowercase())
    }

    /// The output that is computed.
    pub(crate) fn selected(&self) -> &str {
        &self.output
    }

    /// Runs texts, padded to the longest, and lets `read` see the output before it is freed.
    ///
    /// # Errors
    /// ONNX Runtime fails, or the output does not have one part for each text.
    pub(crate) fn run<T>(
        &mut self,
        batch: &Batch<'_>,
        read: impl FnOnce(&Output<'_>) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        let Self { inner, inlets, options, output, rows, converted, .. } = self;
        let options = options
            .as_mut()
            .ok_or_else(|| SessionError::Contract("no output was selected".into()))?;
        rows.fill(batch.texts, batch.pad_id, batch.first_position);
        let (mut fed, mut switches) = (Vec::with_capacity(inlets.len()), batch.switches.iter());
        for inlet in inlets {
            let switch = match inlet.kind {
                Kind::Switch => switches.next().copied().unwrap_or_default(),
                _ => 0,
            };
            let name = inlet.name.clone();
            fed.push((name, inlet.feed(rows, switch)?));
        }
        let outputs = options.run(|options| inner.run_with_options(fed, options))?;
        let (shape, values) = floats(&outputs[0], converted)?;
        if shape.first() != Some(&batch.texts.len()) {
            let [texts, tokens] = rows.shape();
            return Err(SessionError::Contract(format!(
                "the output {output} has the shape {shape:?} for {texts} texts of {tokens} tokens"
            )));
        }
        read(&Output { values, shape: &shape })
    }
}

/// The shape of an output, and its values as f32; `converted` holds them where they are others.
fn floats<'v>(
    value: &'v DynValue,
    converted: &'v mut Vec<f32>,
) -> Result<(Vec<usize>, &'v [f32]), SessionError> {
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(SessionError::Contract("the output is no tensor".into()));
    };
    match ty {
        TensorElementType::Float32 => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(run_failed)?;
            Ok((sizes(shape), values))
        }
        TensorElementType::Float16 => convert::<f16>(value, converted, f16::to_f32),
        TensorElementType::Bfloat16 => convert::<bf16>(value, converted, bf16::to_f32),
        TensorElementType::Float64 => convert::<f64>(value, converted, narrow),
        ty => Err(SessionError::Contract(format!("the output has elements of type {ty:?}"))),
    }
}

fn convert<'v, T: PrimitiveTensorElementType + Copy>(
    value: &DynValue,
    converted: &'v mut Vec<f32>,
    to_float: impl Fn(T) -> f32,
) -> Result<(Vec<usize>, &'v [f32]), SessionError> {
    let (shape, values) = value.try_extract_tensor::<T>().map_err(run_failed)?;
    converted.clear();
    converted.extend(values.iter().map(|&value| to_float(value)));
    Ok((sizes(shape), converted))
}

#[expect(clippy::cast_possible_truncation, reason = "an answer has f32, which are near enough")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn sizes(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect()
}

/// Type and declared shape of an output, if it is a tensor of a type that we know.
fn spec(outlet: &Outlet) -> Option<TensorSpec> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return None };
    let datatype: DataType = elements::datatype(*ty)?;
    Some(TensorSpec { name: outlet.name().to_owned(), datatype, shape: shape.to_vec() })
}
