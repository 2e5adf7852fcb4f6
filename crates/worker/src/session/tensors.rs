//! Sessions of tensor models: any model whose inputs and outputs are all tensors.

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

/// An input tensor.
#[derive(Clone, Debug)]
pub(crate) struct InputTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) datatype: DataType,
    pub(crate) shape: Vec<u64>,
    /// Raw bytes that match the type and shape.
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// An output tensor.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) name: &'a str,
    pub(crate) datatype: DataType,
    pub(crate) shape: Vec<u64>,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// A loaded tensor model.
pub(crate) struct TensorSession {
    inner: ort::session::Session,
    signature: Signature,
    /// Whether all inputs and outputs share a first axis of any size.
    rows: bool,
}

impl fmt::Debug for TensorSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorSession").field("signature", &self.signature).finish_non_exhaustive()
    }
}

impl TensorSession {
    /// Loads the model and checks that its inputs and outputs can be sent.
    pub(crate) fn open(runtime: &Runtime, model: &Path, form: Form) -> Result<Self, SessionError> {
        let opened =
            runtime.builder(form, &[]).and_then(|mut builder| builder.commit_from_file(model));
        let inner = opened.map_err(|error| load_failed(&error, model))?;
        let specs = |outlets: &[Outlet]| outlets.iter().map(spec).collect::<Result<Vec<_>, _>>();
        let signature =
            Signature { inputs: specs(inner.inputs())?, outputs: specs(inner.outputs())? };
        for (what, specs) in [("inputs", &signature.inputs), ("outputs", &signature.outputs)] {
            if specs.is_empty() || specs.len() > TENSORS_MAX {
                return Err(SessionError::Contract(format!(
                    "the model has {} {what}; expected 1 to {TENSORS_MAX}",
                    specs.len()
                )));
            }
        }
        let rows = first_axis(inner.inputs().iter().chain(inner.outputs()));
        Ok(Self { inner, signature, rows })
    }

    /// Returns the model's inputs and outputs.
    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Returns whether the shapes allow concatenating inputs along the first axis.
    pub(crate) fn has_rows(&self) -> bool {
        self.rows
    }

    /// Runs the model for these outputs, or for all if `wanted` is empty. Passes them to `read` in
    /// that order before they are freed.
    pub(crate) fn run<T>(
        &mut self,
        tensors: &[InputTensor<'_>],
        wanted: &[String],
        read: impl FnOnce(&[Output<'_>]) -> T,
    ) -> Result<T, SessionError> {
        let mut fed: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(tensors.len());
        for tensor in tensors {
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
                .ok_or_else(|| SessionError::Contract(format!("output {name} is missing")))?;
            let elements::Raw { datatype, shape, bytes } = elements::read(value)?;
            out.push(Output { name, datatype, shape, bytes });
        }
        Ok(read(&out))
    }
}

fn spec(outlet: &Outlet) -> Result<TensorSpec, SessionError> {
    let name = outlet.name();
    let unsupported = |what: String| Err(SessionError::Contract(format!("{name:.80} {what}")));
    if name.len() > TENSOR_NAME_BYTES_MAX {
        return unsupported(format!("has a name longer than {TENSOR_NAME_BYTES_MAX} bytes"));
    }
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return unsupported("is not a tensor".into());
    };
    if shape.len() > AXES_MAX {
        return unsupported(format!("has {} axes; the limit is {AXES_MAX}", shape.len()));
    }
    match elements::datatype(*ty) {
        Some(datatype) => Ok(TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }),
        None => unsupported(format!("has unsupported elements of type {ty:?}")),
    }
}

/// Returns whether all share a first axis of any size, by its name.
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
