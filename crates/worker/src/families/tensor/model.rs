//! A loaded model for tensors, and what tries it: samples of its inputs, since nobody but its
//! author knows what it is fed.

use std::{path::Path, sync::Arc};

use onnxd_proto::domain::{
    Refusal, Signature,
    cost::{CostTable, Measured, TEXTS},
    tensor::{DataType, TensorSpec, elements},
};
use tracing::warn;

use crate::{
    artifacts::{
        compiled::{self, Key},
        costs::{BUDGET, Costs},
        probes::{self, Probes},
    },
    families::{
        loaded::model_in,
        text::{microbatch::Company, task::Own},
    },
    process::cpu_time::CpuTime,
    session::{Form, Given, Runtime, SessionError, TensorOutput, TensorSession},
};

/// Sizes for axes of which the model says nothing, in the order in which they are tried.
const SIZES: [u64; 6] = [4, 1, 16, 32, 64, 224];
/// Elements of a sample. What is larger is not tried.
const SAMPLE_ELEMENTS_MAX: usize = 16 << 20;

/// A loaded model for tensors.
pub(crate) struct TensorModel {
    session: TensorSession,
    model_file: &'static str,
    form: Form,
    costs: Costs,
    /// Whether the version allows that requests run together.
    may_batch: bool,
    /// The size that axes of any size have in samples; `None` before one has worked.
    size: Option<u64>,
}

impl TensorModel {
    /// Loads the version in `dir` as it serves; see [`crate::families::LoadedVersion`].
    pub(crate) fn open_to_serve(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
    ) -> Result<Self, Refusal> {
        match Self::open_warm(runtime, dir, compiled, key) {
            Ok(Some(model)) => return Ok(model),
            Ok(None) => {}
            Err(refusal) => warn!(%refusal, "the plain model is loaded, not its compiled form"),
        }
        let mut model = Self::open(runtime, dir)?;
        // It warms the model; one that cannot be tried is not warm, and serves.
        if let Err(refusal) = model.probe() {
            warn!(%refusal, "a model for tensors is not warm");
        }
        Ok(model)
    }

    fn open_warm(
        runtime: &Runtime,
        dir: &Path,
        compiled: &Path,
        key: &Key,
    ) -> Result<Option<Self>, Refusal> {
        let found = compiled::find(compiled, key).zip(Probes::read(compiled));
        let Some((path, expected)) = found else { return Ok(None) };
        let mut model = Self::open_compiled(runtime, dir, &path)?;
        expected.require(&model.probe()?, model.model_file)?;
        if let Some(costs) = path.parent().and_then(Costs::read) {
            model.costs = costs;
        }
        Ok(Some(model))
    }

    /// Loads the version in `dir`.
    pub(crate) fn open(runtime: &Runtime, dir: &Path) -> Result<Self, Refusal> {
        let (model_file, model) = model_in(dir)?;
        Self::open_form(runtime, dir, &model, model_file, Form::Plain)
    }

    /// Loads the version in `dir` with the compiled `model` in the place of its own.
    pub(crate) fn open_compiled(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
    ) -> Result<Self, Refusal> {
        Self::open_form(runtime, dir, model, "the compiled model", Form::Compiled)
    }

    fn open_form(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
        model_file: &'static str,
        form: Form,
    ) -> Result<Self, Refusal> {
        let may_batch = Own::read(dir)?.batch.unwrap_or(true);
        let session =
            TensorSession::open(runtime, model, form).map_err(|error| error.refuse(model_file))?;
        // Until it is known that company changes nothing, each runs alone.
        let costs = Costs { company: Company::Alone, ..Costs::default() };
        Ok(Self { session, model_file, form, costs, may_batch, size: None })
    }

    /// What the model takes and gives.
    pub(crate) fn signature(&self) -> &Signature {
        self.session.signature()
    }

    /// Whether the compiled form is loaded.
    pub(crate) fn is_compiled(&self) -> bool {
        self.form == Form::Compiled
    }

    /// What runs cost. Requests run together if company is [`Company::Padded`].
    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Whether requests may run together along the first axis.
    pub(crate) fn batches(&self) -> bool {
        self.costs.company == Company::Padded
    }

    /// A run of so many requests has taken so long.
    pub(crate) fn observe(&mut self, requests: usize, micros: f32) {
        self.costs.table.observe(requests, 0, micros);
    }

    /// The model's file, for messages.
    pub(crate) fn model_file(&self) -> &'static str {
        self.model_file
    }

    /// See [`TensorSession::run`].
    pub(crate) fn run<T>(
        &mut self,
        given: &[Given<'_>],
        wanted: &[String],
        read: impl FnOnce(&[TensorOutput<'_>]) -> T,
    ) -> Result<T, SessionError> {
        self.session.run(given, wanted, read)
    }

    /// The numbers that come out for a sample.
    ///
    /// # Errors
    /// No sample runs: the model needs something that cannot be guessed.
    pub(crate) fn probe(&mut self) -> Result<Probes, Refusal> {
        let sizes = self.size.map_or_else(|| SIZES.to_vec(), |size| vec![size]);
        let mut last = None;
        for size in sizes {
            match self.run_sample(1, size, 1) {
                Ok(values) => {
                    self.size = Some(size);
                    return Ok(Probes::of_values(values.concat()));
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| SessionError::Contract("no sample fits".into()));
        Err(error.refuse(&format!("{} runs with no sample", self.model_file)))
    }

    /// Whether requests may run together, and what runs of several cost.
    pub(crate) fn measure_costs(&mut self) -> Result<Costs, Refusal> {
        let size = self.size.unwrap_or(SIZES[0]);
        let company = match self.may_batch && self.same_together(size) {
            true => Company::Padded,
            false => Company::Alone,
        };
        let (begun, mut measured) = (CpuTime::now(), Measured::default());
        let rows = if company == Company::Padded { &TEXTS[..] } else { &TEXTS[..1] };
        for (row, &texts) in rows.iter().enumerate() {
            let mut least = None;
            for _ in 0..3 {
                if begun.elapsed() > BUDGET {
                    break;
                }
                let run = CpuTime::now();
                if self.run_sample(texts.into(), size, 1).is_err() {
                    break;
                }
                let took = run.elapsed().as_secs_f32() * 1e6;
                least = Some(least.map_or(took, |least: f32| least.min(took)));
            }
            measured[row][0] = least;
        }
        Ok(Costs { table: CostTable::from_measured(&measured), company })
    }

    /// Whether two different samples give the same in one run as each alone. A model may compute
    /// something over all rows, whatever its shapes say.
    fn same_together(&mut self, size: u64) -> bool {
        if !self.session.has_rows() {
            return false;
        }
        let alone = [1, 2].map(|seed| self.run_sample(1, size, seed));
        let [Ok(first), Ok(second)] = alone else { return false };
        let Ok(together) = self.run_sample(2, size, 1) else { return false };
        let apart = first.iter().zip(&second);
        together.len() == first.len()
            && together.iter().zip(apart).all(|(together, (first, second))| {
                probes::is_same(together, &[&first[..], second].concat())
            })
    }

    /// Runs `rows` rows of a sample, made from `seed` and the numbers after it; gives each output
    /// as numbers.
    fn run_sample(
        &mut self,
        rows: u64,
        size: u64,
        seed: u64,
    ) -> Result<Vec<Vec<f32>>, SessionError> {
        let signature = self.session.signature().clone();
        let sample = |spec| sample(spec, rows, size, seed);
        let given: Option<Vec<Given<'_>>> = signature.inputs.iter().map(sample).collect();
        let given = given.ok_or_else(|| SessionError::Contract("a sample is too large".into()))?;
        self.session.run(&given, &[], |outputs| outputs.iter().map(numbers).collect())
    }
}

/// A sample of an input: floats between -1 and 1, and zeros and ones where numbers may be places in
/// a table. Each row is another, made from a seed of its own; those of an even seed are a hundred
/// times larger, since what scales a run by its largest number changes the others little else.
fn sample(spec: &TensorSpec, rows: u64, size: u64, seed: u64) -> Option<Given<'_>> {
    let axis = |(place, &axis): (usize, &i64)| match u64::try_from(axis) {
        Ok(axis) => axis,
        Err(_) if place == 0 => rows,
        Err(_) => size,
    };
    let shape: Vec<u64> = spec.shape.iter().enumerate().map(axis).collect();
    let count = elements(&shape).filter(|&count| count <= SAMPLE_ELEMENTS_MAX)?;
    let per_row = (count as u64 / rows.max(1)).max(1);
    let values = (0..count as u64).map(|place| {
        let (row, column) = (place / per_row, place % per_row);
        let row_seed = seed.wrapping_add(row);
        let scale = if row_seed.is_multiple_of(2) { 100.0 } else { 1.0 };
        float(row_seed, column) * scale
    });
    let bytes: Vec<u8> = match spec.datatype {
        DataType::Fp32 => values.flat_map(f32::to_le_bytes).collect(),
        DataType::Fp64 => values.map(f64::from).flat_map(f64::to_le_bytes).collect(),
        DataType::Fp16 => {
            values.map(half::f16::from_f32).flat_map(half::f16::to_le_bytes).collect()
        }
        DataType::Bf16 => {
            values.map(half::bf16::from_f32).flat_map(half::bf16::to_le_bytes).collect()
        }
        // An element of no bytes.
        DataType::Bytes => vec![0; count * 4],
        whole => {
            let size = whole.element_bytes().unwrap_or(1);
            let first = |value: f32| u8::from(value > 0.0);
            let element =
                |value| std::iter::once(first(value)).chain(std::iter::repeat_n(0, size - 1));
            values.flat_map(element).collect()
        }
    };
    Some(Given { name: &spec.name, datatype: spec.datatype, shape, bytes: bytes.into() })
}

/// A number between -1 and 1 that looks like any other: SplitMix64 (Steele, Lea and Flood, 2014).
#[expect(clippy::cast_precision_loss, reason = "24 bits fit exactly")]
fn float(seed: u64, place: u64) -> f32 {
    let mut mixed = (seed << 32 ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
}

/// An output's elements as numbers; texts count by their bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "compared roughly"
)]
fn numbers(output: &TensorOutput<'_>) -> Vec<f32> {
    let bytes = &output.bytes[..];
    match output.datatype {
        DataType::Bool | DataType::Uint8 | DataType::Bytes => {
            bytes.iter().map(|&value| f32::from(value)).collect()
        }
        DataType::Int8 => bytes.iter().map(|&value| f32::from(value.cast_signed())).collect(),
        DataType::Int16 => each(bytes, |value| f32::from(i16::from_le_bytes(value))),
        DataType::Uint16 => each(bytes, |value| f32::from(u16::from_le_bytes(value))),
        DataType::Int32 => each(bytes, |value| i32::from_le_bytes(value) as f32),
        DataType::Uint32 => each(bytes, |value| u32::from_le_bytes(value) as f32),
        DataType::Int64 => each(bytes, |value| i64::from_le_bytes(value) as f32),
        DataType::Uint64 => each(bytes, |value| u64::from_le_bytes(value) as f32),
        DataType::Fp16 => each(bytes, |value| half::f16::from_le_bytes(value).to_f32()),
        DataType::Bf16 => each(bytes, |value| half::bf16::from_le_bytes(value).to_f32()),
        DataType::Fp32 => each(bytes, f32::from_le_bytes),
        DataType::Fp64 => each(bytes, |value| f64::from_le_bytes(value) as f32),
    }
}

fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|value| number(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[i64], datatype: DataType) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.into() }
    }

    #[test]
    fn a_sample_has_the_shape_of_its_input_and_each_row_is_another() {
        let spec = spec(&[-1, 3, -1], DataType::Fp32);
        let two = sample(&spec, 2, 4, 1).unwrap();
        assert_eq!((&two.shape[..], two.bytes.len()), (&[2, 3, 4][..], 2 * 12 * 4));
        let [first, second] = [1, 2].map(|seed| sample(&spec, 1, 4, seed).unwrap().bytes);
        assert_ne!(first, second);
        assert_eq!(*two.bytes, [&first[..], &second[..]].concat());
        assert!((0..1000).all(|place| float(3, place).abs() <= 1.0));
    }

    #[test]
    fn a_sample_that_would_take_too_much_memory_is_not_made() {
        assert!(sample(&spec(&[-1, i64::MAX, 9], DataType::Int8), 1, 4, 1).is_none());
        assert!(sample(&spec(&[1 << 30], DataType::Int8), 1, 4, 1).is_none());
    }
}
