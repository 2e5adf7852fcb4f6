//! A model for texts in ONNX Runtime: feeds tokens, padded to the longest text, and shows what
//! comes out.

use std::{fmt, mem, path::Path};

use ort::{
    session::{OutputSelector, SessionInputValue},
    value::TensorRef,
};

use super::{
    contract::{Head, Input, accept_inputs, choose_output},
    error::{SessionError, load_failed, run_failed},
    interrupt::Options,
    runtime::{Form, Runtime},
};

/// The tokens of one text. All of them are attended to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Rows of the embedding table.
    pub ids: Vec<i64>,
    /// As long as `ids`; mostly zeros.
    pub type_ids: Vec<i64>,
}

impl Tokens {
    /// The first `length` tokens.
    pub(crate) fn cut(&self, length: usize) -> Self {
        let cut = |values: &[i64]| values.iter().copied().take(length).collect();
        Self { ids: cut(&self.ids), type_ids: cut(&self.type_ids) }
    }
}

/// A loaded model for texts.
pub(crate) struct Session {
    inner: ort::session::Session,
    inputs: Vec<Input>,
    /// Computes the one output that is used.
    options: Options,
    output: String,
    pooled: bool,
    /// What is fed, reused from run to run.
    buffers: Buffers,
}

#[derive(Debug, Default)]
struct Buffers {
    ids: Vec<i64>,
    mask: Vec<i64>,
    type_ids: Vec<i64>,
}

/// What a run computed, for every text `rows` rows of `dimension` components.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) values: &'a [f32],
    /// The tokens of the longest text, or 1 where the model pools by itself.
    pub(crate) rows: usize,
    pub(crate) dimension: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Session {
    /// Loads the model and sees whether it is one for texts.
    pub(crate) fn open(
        runtime: &Runtime,
        model: &Path,
        form: Form,
        head: Head,
    ) -> Result<Self, SessionError> {
        Self::open_with(runtime, model, (form, head), &[])
    }

    /// Loads a compiled model for runs that are spread over these CPUs, too.
    pub(crate) fn open_wide(
        runtime: &Runtime,
        model: &Path,
        head: Head,
        helpers: &[u16],
    ) -> Result<Self, SessionError> {
        Self::open_with(runtime, model, (Form::Compiled, head), helpers)
    }

    fn open_with(
        runtime: &Runtime,
        model: &Path,
        (form, head): (Form, Head),
        helpers: &[u16],
    ) -> Result<Self, SessionError> {
        let opened =
            runtime.builder(form, helpers).and_then(|mut builder| builder.commit_from_file(model));
        let inner = opened.map_err(load_failed)?;
        let inputs = accept_inputs(inner.inputs())?;
        let (output, pooled) = choose_output(inner.outputs(), head)?;
        let options = Options::new(OutputSelector::no_default().with(&output))?;
        Ok(Self { inner, inputs, options, output, pooled, buffers: Buffers::default() })
    }

    /// Whether the model pools by itself.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }

    /// Whether the model can be told what is padding.
    pub(crate) fn is_masked(&self) -> bool {
        self.inputs.contains(&Input::Mask)
    }

    /// Gives back the memory that earlier runs took, by a run of one token: what the next run needs
    /// can then be told from it.
    pub(crate) fn release_memory(&mut self) -> Result<(), SessionError> {
        let releasing = Options::releasing(OutputSelector::no_default().with(&self.output))?;
        let options = mem::replace(&mut self.options, releasing);
        let token = Tokens { ids: vec![0], type_ids: vec![0] };
        let ran = self.run(&[&token], 0, |_| ());
        self.options = options;
        ran
    }

    /// Runs texts, padded with `pad_id` to the longest, and lets `read` see the output before it
    /// is freed.
    pub(crate) fn run<T>(
        &mut self,
        texts: &[&Tokens],
        pad_id: i64,
        read: impl FnOnce(&Output<'_>) -> T,
    ) -> Result<T, SessionError> {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let shape = [texts.len(), longest];
        self.buffers.fill(texts, longest, pad_id);
        let mut fed: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(Input::ALL.len());
        for input in &self.inputs {
            let values = self.buffers.of(*input);
            let tensor = TensorRef::from_array_view((shape, values)).map_err(run_failed)?;
            fed.push((input.name(), tensor.into()));
        }
        let Self { inner, options, .. } = self;
        let outputs = options.run(|options| inner.run_with_options(fed, options))?;
        let (dimensions, values) = outputs[0].try_extract_tensor::<f32>().map_err(run_failed)?;
        let size = |place: usize| usize::try_from(dimensions[place]).unwrap_or(0);
        let (rows, dimension) = match dimensions.len() {
            3 if !self.pooled && [size(0), size(1)] == shape => (shape[1], size(2)),
            2 if self.pooled && size(0) == shape[0] => (1, size(1)),
            _ => (0, 0),
        };
        if dimension == 0 {
            return Err(SessionError::Contract(format!(
                "the output {} has the shape {dimensions} for {} texts of {} tokens",
                self.output, shape[0], shape[1]
            )));
        }
        Ok(read(&Output { values, rows, dimension }))
    }
}

impl Buffers {
    fn fill(&mut self, texts: &[&Tokens], longest: usize, pad_id: i64) {
        self.ids.clear();
        self.mask.clear();
        self.type_ids.clear();
        for (text, end) in texts.iter().zip((1..).map(|row| row * longest)) {
            self.ids.extend_from_slice(&text.ids);
            self.type_ids.extend_from_slice(&text.type_ids);
            self.mask.resize(self.ids.len(), 1);
            self.ids.resize(end, pad_id);
            self.type_ids.resize(end, 0);
            self.mask.resize(end, 0);
        }
    }

    fn of(&self, input: Input) -> &[i64] {
        match input {
            Input::Ids => &self.ids,
            Input::Mask => &self.mask,
            Input::TypeIds => &self.type_ids,
        }
    }
}
