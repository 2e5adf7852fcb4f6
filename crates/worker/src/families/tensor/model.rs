//! A loaded tensor model and the trial that runs generated samples of its inputs.

use onnxd_proto::domain::{
    Refusal, RefusalKind, Signature,
    cost::{CostTable, Measured, TEXTS},
};

use super::sample::{numbers, sample};
use crate::{
    artifacts::{
        costs::{BUDGET, Batching, Costs},
        probes::{self, Probes},
    },
    families::family::Opening,
    process::cpu_time::CpuTime,
    session::{InputTensor, SessionError, TensorOutput, TensorSession},
};

/// Sizes to try for axes that the model leaves open, in this order.
const SIZES: [u64; 6] = [4, 1, 16, 32, 64, 224];

/// A loaded tensor model.
pub(super) struct TensorModel {
    session: TensorSession,
    model_file: String,
    /// Whether the version allows requests to share a run.
    may_batch: bool,
    /// The size of open axes in samples; `None` until one has worked.
    size: Option<u64>,
}

impl TensorModel {
    /// Opens a model.
    ///
    /// # Errors
    /// ONNX Runtime cannot load it, or an input or output is not a tensor.
    pub(super) fn open(opening: &Opening<'_>) -> Result<Self, Refusal> {
        let Opening { runtime, model_config, model, file, form, .. } = *opening;
        let Some(model) = model else {
            let message = "no .onnx file found; a tensor model needs one";
            return Err(RefusalKind::Contract.because(message));
        };
        let session =
            TensorSession::open(runtime, model, form).map_err(|error| error.refuse(file))?;
        let may_batch = model_config.batch.unwrap_or(true);
        Ok(Self { session, model_file: file.to_owned(), may_batch, size: None })
    }

    /// Returns the model's inputs and outputs.
    pub(super) fn signature(&self) -> &Signature {
        self.session.signature()
    }

    /// See [`TensorSession::run`].
    pub(super) fn run<T>(
        &mut self,
        tensors: &[InputTensor<'_>],
        wanted: &[String],
        read: impl FnOnce(&[TensorOutput<'_>]) -> T,
    ) -> Result<T, SessionError> {
        self.session.run(tensors, wanted, read)
    }

    /// Returns the outputs for a sample.
    ///
    /// # Errors
    /// No sample runs: the model needs an input that cannot be generated.
    pub(super) fn probe(&mut self) -> Result<Probes, Refusal> {
        let sizes = self.size.map_or_else(|| SIZES.to_vec(), |size| vec![size]);
        let mut last = None;
        for size in sizes {
            match self.run_sample(1, size, 1) {
                Ok(values) => {
                    self.size = Some(size);
                    return Ok(Probes::from_values(values.concat()));
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| SessionError::Contract("no sample fits".into()));
        Err(error.refuse(&format!("{} fails on every generated sample", self.model_file)))
    }

    /// Measures the costs of shared runs and decides whether requests may share them.
    pub(super) fn measure_costs(&mut self) -> Costs {
        let size = self.size.unwrap_or(SIZES[0]);
        let batching = match self.may_batch && self.is_batch_invariant(size) {
            true => Batching::Padded,
            false => Batching::Separate,
        };
        let (cpu_start, mut measured) = (CpuTime::now(), Measured::default());
        let rows = if batching == Batching::Padded { &TEXTS[..] } else { &TEXTS[..1] };
        for (row, &texts) in rows.iter().enumerate() {
            let mut least = None;
            for _ in 0..3 {
                if cpu_start.elapsed() > BUDGET {
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
        Costs { table: CostTable::from_measured(&measured), batching }
    }

    /// Returns whether two different samples have the same outputs together as each on its own. A
    /// model may compute across rows, whatever its shapes declare.
    fn is_batch_invariant(&mut self, size: u64) -> bool {
        if !self.session.has_rows() {
            return false;
        }
        let single = [1, 2].map(|seed| self.run_sample(1, size, seed));
        let [Ok(first), Ok(second)] = single else { return false };
        let Ok(together) = self.run_sample(2, size, 1) else { return false };
        let separate = first.iter().zip(&second);
        together.len() == first.len()
            && together.iter().zip(separate).all(|(together, (first, second))| {
                probes::is_same(together, &[&first[..], second].concat())
            })
    }

    /// Runs `rows` rows of a sample and returns each output as floats. The rows use the seeds from
    /// `seed` on.
    fn run_sample(
        &mut self,
        rows: u64,
        size: u64,
        seed: u64,
    ) -> Result<Vec<Vec<f32>>, SessionError> {
        let signature = self.session.signature().clone();
        let sample = |spec| sample(spec, rows, size, seed);
        let tensors: Option<Vec<InputTensor<'_>>> = signature.inputs.iter().map(sample).collect();
        let tensors =
            tensors.ok_or_else(|| SessionError::Contract("a sample is too large".into()))?;
        self.session.run(&tensors, &[], |outputs| outputs.iter().map(numbers).collect())
    }
}
