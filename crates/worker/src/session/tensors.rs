//! A model for tensors in ONNX Runtime: any that takes and gives nothing but tensors.

use std::{borrow::Cow, fmt, path::Path};

use onnxd_proto::domain::{
    Signature,
    tensor::{AXES_MAX, DataType, TENSOR_NAME_BYTES_MAX, TENSORS_MAX, TensorSpec},
};
use ort::{
    session::{OutputSelector, SessionInputValue},
    value::{Outlet, ValueType},
};

use super::{
    elements,
    error::{SessionError, load_failed},
    interrupt::Options,
    runtime::{Form, Runtime},
};

/// A tensor that is fed.
#[derive(Clone, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) name: &'a str,
    pub(crate) datatype: DataType,
    pub(crate) shape: Vec<u64>,
    /// As many as type and shape say.
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// A tensor that came out.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) name: &'a str,
    pub(crate) datatype: DataType,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// A loaded model for tensors.
pub(crate) struct TensorSession {
    inner: ort::session::Session,
    signature: Signature,
    /// Whether the first axis of every input and output is any, and the same.
    rows: bool,
}

impl fmt::Debug for TensorSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorSession").field("signature", &self.signature).finish_non_exhaustive()
    }
}

impl TensorSession {
    /// Loads the model and sees whether its inputs and outputs can be sent.
    pub(crate) fn open(runtime: &Runtime, model: &Path, form: Form) -> Result<Self, SessionError> {
        let opened =
            runtime.builder(form, &[]).and_then(|mut builder| builder.commit_from_file(model));
        let inner = opened.map_err(load_failed)?;
        let specs = |outlets: &[Outlet]| outlets.iter().map(spec).collect::<Result<Vec<_>, _>>();
        let signature =
            Signature { inputs: specs(inner.inputs())?, outputs: specs(inner.outputs())? };
        for (what, specs) in [("inputs", &signature.inputs), ("outputs", &signature.outputs)] {
            if specs.is_empty() || specs.len() > TENSORS_MAX {
                return Err(SessionError::Contract(format!(
                    "the model has {} {what}, and 1 to {TENSORS_MAX} can be sent",
                    specs.len()
                )));
            }
        }
        let rows = first_axis(inner.inputs().iter().chain(inner.outputs()));
        Ok(Self { inner, signature, rows })
    }

    /// What the model takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Whether inputs could be put together along the first axis, as far as their shapes go.
    pub(crate) fn has_rows(&self) -> bool {
        self.rows
    }

    /// Runs the model for these outputs (none: all) and lets `read` see them before they are
    /// freed, in the order in which they were asked for.
    pub(crate) fn run<T>(
        &mut self,
        given: &[Given<'_>],
        wanted: &[String],
        read: impl FnOnce(&[Output<'_>]) -> T,
    ) -> Result<T, SessionError> {
        let mut fed: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(given.len());
        for tensor in given {
            let shape = tensor.shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX));
            let value = elements::feed(tensor.datatype, shape.collect(), &tensor.bytes)?;
            fed.push((tensor.name, value));
        }
        let Self { inner, signature, .. } = self;
        let all = || signature.outputs.iter().map(|spec| spec.name.as_str()).collect();
        let names: Vec<&str> = match wanted {
            [] => all(),
            wanted => wanted.iter().map(String::as_str).collect(),
        };
        let selector =
            names.iter().fold(OutputSelector::no_default(), |selector, name| selector.with(*name));
        let options = Options::new(selector)?;
        let outputs = options.run(|options| inner.run_with_options(fed, options))?;
        let mut out = Vec::with_capacity(names.len());
        for name in names {
            let value = outputs
                .get(name)
                .ok_or_else(|| SessionError::Contract(format!("the output {name} is missing")))?;
            let elements::Raw { datatype, shape, bytes } = elements::read(value)?;
            out.push(Output { name, datatype, shape, bytes });
        }
        Ok(read(&out))
    }
}

fn spec(outlet: &Outlet) -> Result<TensorSpec, SessionError> {
    let name = outlet.name();
    let wrong = |what: String| Err(SessionError::Contract(format!("{name:.80} {what}")));
    if name.len() > TENSOR_NAME_BYTES_MAX {
        return wrong(format!("has a name of more than {TENSOR_NAME_BYTES_MAX} bytes"));
    }
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return wrong("is no tensor".into());
    };
    if shape.len() > AXES_MAX {
        return wrong(format!("has {} axes, and at most {AXES_MAX} can be sent", shape.len()));
    }
    match elements::datatype(*ty) {
        Some(datatype) => Ok(TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }),
        None => wrong(format!("has elements of type {ty:?}, which cannot be sent")),
    }
}

/// Whether all have a first axis of any size under one name.
fn first_axis<'a>(mut outlets: impl Iterator<Item = &'a Outlet>) -> bool {
    let symbol = |outlet: &'a Outlet| match outlet.dtype() {
        ValueType::Tensor { shape, dimension_symbols, .. } if shape.first() == Some(&-1) => {
            dimension_symbols.first().cloned()
        }
        _ => None,
    };
    let Some(first) = outlets.next().and_then(symbol) else { return false };
    outlets.all(|outlet| symbol(outlet).as_ref() == Some(&first))
}
