//! Sessions of text graphs: feeds tokens, padded to the longest text, and exposes one output. The
//! family decides which output, and what to make of it.

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
    graph_inputs::{GraphInput, Kind, Rows},
    interrupt::Options,
    runtime::{Form, Runtime},
};

/// The tokens of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Token ids.
    pub(crate) ids: Vec<i64>,
    /// Segment ids, as many as `ids`; mostly zeros.
    pub(crate) type_ids: Vec<i64>,
    /// Number of tokens, from the first, that are attended to; mostly all.
    pub(crate) attended: usize,
}

impl Tokens {
    /// Creates tokens that are all attended to.
    pub(crate) fn new(ids: Vec<i64>, type_ids: Vec<i64>) -> Self {
        let attended = ids.len();
        Self { ids, type_ids, attended }
    }

    /// Returns the first `length` tokens.
    pub(crate) fn cut(&self, length: usize) -> Self {
        let cut = |values: &[i64]| values.iter().copied().take(length).collect();
        let attended = self.attended.min(length);
        Self { ids: cut(&self.ids), type_ids: cut(&self.type_ids), attended }
    }
}

/// Texts to run together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) texts: &'a [&'a Tokens],
    /// The token that pads shorter texts.
    pub(crate) pad_id: i64,
    /// The position of the first token.
    pub(crate) first_position: i64,
    /// Values of the graph's switches, in the order of [`Session::switches`].
    pub(crate) switches: &'a [i64],
}

/// A loaded text graph.
pub(crate) struct Session {
    inner: ort::session::Session,
    inputs: Vec<GraphInput>,
    outputs: Vec<TensorSpec>,
    /// Options for runs that compute the selected output; `None` until one is selected.
    options: Option<Options>,
    output: String,
    /// Input values, reused across runs.
    rows: Rows,
    /// Output values, if the output is not float32.
    converted: Vec<f32>,
}

/// The output of a run.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    /// Values in row-major order.
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
    /// Loads a graph and recognizes its inputs and outputs. Selects no output yet.
    ///
    /// # Errors
    /// ONNX Runtime cannot load the graph, or an input is not supported.
    pub(crate) fn open(runtime: &Runtime, model: &Path, form: Form) -> Result<Self, SessionError> {
        Self::open_with(runtime, model, form, &[])
    }

    /// Loads a compiled graph whose runs also use these CPUs.
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
        let inner = opened.map_err(|error| load_failed(&error, model))?;
        let inputs: Vec<GraphInput> =
            inner.inputs().iter().map(GraphInput::new).collect::<Result<_, SessionError>>()?;
        if !inputs.iter().any(|input| input.kind == Kind::Ids) {
            return Err(SessionError::Contract("the graph lacks an input_ids input".into()));
        }
        let outputs = inner.outputs().iter().filter_map(spec).collect();
        Ok(Self {
            inner,
            inputs,
            outputs,
            options: None,
            output: String::new(),
            rows: Rows::default(),
            converted: Vec::new(),
        })
    }

    /// Returns the outputs that are tensors.
    pub(crate) fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// Returns a human-readable description of each input.
    pub(crate) fn describe_inputs(&self) -> Vec<String> {
        self.inputs.iter().map(GraphInput::describe).collect()
    }

    /// Returns the names of the graph's switches.
    pub(crate) fn switches(&self) -> Vec<String> {
        let switches = self.inputs.iter().filter(|input| input.kind == Kind::Switch);
        switches.map(|input| input.name.clone()).collect()
    }

    /// Returns whether the graph has an attention mask.
    pub(crate) fn is_masked(&self) -> bool {
        self.inputs.iter().any(|input| input.kind == Kind::Mask)
    }

    /// Returns whether the graph computes only the last position of a batch, so that only texts of
    /// equal length may run together.
    pub(crate) fn keeps_last_alone(&self) -> bool {
        self.inputs.iter().any(|input| input.kind == Kind::LogitsToKeep)
    }

    /// Selects the only output to compute from now on.
    ///
    /// # Errors
    /// ONNX Runtime is out of memory.
    pub(crate) fn select(&mut self, output: &str) -> Result<(), SessionError> {
        self.options = Some(Options::new(OutputSelector::no_default().with(output))?);
        output.clone_into(&mut self.output);
        Ok(())
    }

    /// Sets whether runs release unused memory to the system when they end.
    ///
    /// # Errors
    /// ONNX Runtime is out of memory.
    pub(crate) fn release_memory(&mut self, release: bool) -> Result<(), SessionError> {
        let outputs = OutputSelector::no_default().with(&self.output);
        let options = if release { Options::releasing(outputs) } else { Options::new(outputs) };
        self.options = Some(options?);
        Ok(())
    }

    /// Returns the length of a vector of the selected output, if the graph declares it.
    pub(crate) fn width(&self) -> Option<usize> {
        let output = self.outputs.iter().find(|output| output.name == self.output)?;
        output.shape.last().and_then(|&size| usize::try_from(size).ok())
    }

    /// Returns a human-readable description of the selected output and its type.
    pub(crate) fn describe_output(&self) -> String {
        let output = self.outputs.iter().find(|output| output.name == self.output);
        let datatype = output.map_or("", |output| output.datatype.name());
        format!("{} ({})", self.output, datatype.to_lowercase())
    }

    /// Returns the selected output.
    pub(crate) fn selected(&self) -> &str {
        &self.output
    }

    /// Runs texts, padded to the longest, and passes the output to `read` before it is freed.
    ///
    /// # Errors
    /// ONNX Runtime fails, or the output does not have one part per text.
    pub(crate) fn run<T>(
        &mut self,
        batch: &Batch<'_>,
        read: impl FnOnce(&Output<'_>) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        let Self { inner, inputs, options, output, rows, converted, .. } = self;
        let options = options.as_mut().ok_or_else(|| {
            SessionError::Contract("internal error: no output was selected".into())
        })?;
        rows.fill(batch.texts, batch.pad_id, batch.first_position);
        let (mut fed, mut switches) = (Vec::with_capacity(inputs.len()), batch.switches.iter());
        for input in inputs {
            let switch = match input.kind {
                Kind::Switch => switches.next().copied().unwrap_or_default(),
                _ => 0,
            };
            let name = input.name.clone();
            fed.push((name, input.feed(rows, switch)?));
        }
        let outputs = options.run(|options| inner.run_with_options(fed, options))?;
        let (shape, values) = floats(&outputs[0], converted)?;
        if shape.first() != Some(&batch.texts.len()) {
            let [texts, tokens] = rows.shape();
            return Err(SessionError::Contract(format!(
                "output {output} has shape {shape:?} for {texts} texts of {tokens} tokens"
            )));
        }
        read(&Output { values, shape: &shape })
    }
}

/// Returns the shape of an output and its values as f32, converted into `converted` if needed.
fn floats<'v>(
    value: &'v DynValue,
    converted: &'v mut Vec<f32>,
) -> Result<(Vec<usize>, &'v [f32]), SessionError> {
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(SessionError::Contract("the output is not a tensor".into()));
    };
    match ty {
        TensorElementType::Float32 => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(run_failed)?;
            Ok((sizes(shape), values))
        }
        TensorElementType::Float16 => convert::<f16>(value, converted, f16::to_f32),
        TensorElementType::Bfloat16 => convert::<bf16>(value, converted, bf16::to_f32),
        TensorElementType::Float64 => convert::<f64>(value, converted, narrow),
        ty => Err(SessionError::Contract(format!(
            "the output has unsupported elements of type {ty:?}"
        ))),
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

#[expect(clippy::cast_possible_truncation, reason = "answers are f32, which is precise enough")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn sizes(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect()
}

/// Returns the type and declared shape of an output, if it is a tensor of a supported type.
fn spec(outlet: &Outlet) -> Option<TensorSpec> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return None };
    let datatype: DataType = elements::datatype(*ty)?;
    Some(TensorSpec { name: outlet.name().to_owned(), datatype, shape: shape.to_vec() })
}
