//! A version's outputs for fixed inputs. The checker runs them once and stores the outputs beside the
//! compiled form. The next candidate is compared with them, and so is the compiled form whenever it is
//! loaded. Owns the fixed texts; each family decides which inputs it runs.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use onnxd_proto::{
    domain::{Drift, Refusal, RefusalKind},
    regular,
};
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

use super::compiled::INCOMPLETE_PREFIX;

/// The file's name, in the directory of a version's compiled forms.
const FILE: &str = "probes";
/// Maximum bytes of the file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Minimum cosine between two computations of the same embedding. Both run the same kernels, but
/// another form of the model, or padding, may change the order of a sum.
const SAME_COSINE_MIN: f64 = 0.9999;
/// Maximum relative difference in length between two computations of the same vector. Cosines alone
/// cannot compare single numbers.
const SAME_LENGTH: f64 = 0.01;
/// Length differences up to this always pass.
const SAME_LENGTH_MIN: f64 = 1e-3;
/// Maximum values kept of the outputs of a model that returns no embeddings.
const VALUES_MAX: usize = 65_536;

/// A text that every version must be able to embed.
pub(crate) const ORDINARY: &str = "What would happen to a request that arrives at that moment?";
/// Short and long, plain and unusual texts, as typed into a search or pasted. The second is longer than
/// most models accept.
pub(crate) const TEXTS: [&str; 16] = [
    ORDINARY,
    concat!(
        "The committee met for the third time on a rainy Tuesday to discuss how the old harbour ",
        "should be used once the ferries have moved to the new terminal. The architect presented ",
        "three plans. The first keeps the customs house, the cranes and the rails, and turns the ",
        "warehouses into workshops, a library and a school of music. The second removes all of it ",
        "except for the lighthouse and plants a park with four thousand trees, which would take ",
        "thirty years to grow and cost a third of the money. The third, which nobody liked, puts a ",
        "car park where the fish market was. Residents asked who would pay for the sea wall, when ",
        "the work would begin, whether the noise would stop at six, and what had become of the ",
        "promise to keep the swimming place open. The treasurer explained that the wall is paid by ",
        "the state, that the work begins in spring if the permits arrive, and that the promise ",
        "stands. A vote was postponed until the engineers have measured the depth of the basin, ",
        "the strength of the quay and the load that the ground can carry, because the last survey ",
        "dates from 1964 and was made by a company that no longer exists. Afterwards there was ",
        "coffee, and a long argument about the colour of the benches that was settled by a coin. ",
        "The minutes were taken by the youngest member, who drew a picture of the lighthouse in ",
        "the margin and wrote beneath it that some things are better left where they are. Copies ",
        "were sent to the mayor, the newspaper, the school, the harbour master and the museum."
    ),
    "a",
    "cat",
    "How do I reset my password?",
    "I forgot my login and cannot get into my account.",
    "9,787,426 people lived there in 2011; 3.14159 and -40 °C are numbers, too.",
    "Die Würde des Menschen ist unantastbar.",
    "東京は日本の首都です。",
    "Москва слезам не верит",
    "naïve café 🙂 ½ ①",
    "SELECT name, count(*) FROM users WHERE age > 30 GROUP BY name;",
    "fn main() { println!(\"{}\", (1..=10).product::<u64>()); }",
    "https://example.org/a/b?c=d&e=%20f#g",
    "no no no no no no no no no no no no no no no no no no no no no no no no",
    "The central bank raised interest rates by 0.25 percentage points to curb inflation.",
];
/// The little-endian header of the file, followed by one row of f32 per text.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    /// Digest of the texts. Probes of a build with other texts are not comparable.
    texts: [u8; 8],
    rows: le::U32,
    dimension: le::U32,
}

/// Embeddings of the fixed texts, all of length 1, or one row with another model's output values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Probes {
    dimension: usize,
    embeddings: Vec<f32>,
}

impl Probes {
    /// Returns probes of concatenated rows, one of `dimension` values per text.
    pub(crate) fn from_rows(dimension: usize, embeddings: Vec<f32>) -> Self {
        Self { dimension, embeddings }
    }

    /// Returns the probes of a model that returns no embeddings.
    pub(crate) fn from_values(mut values: Vec<f32>) -> Self {
        values.truncate(VALUES_MAX);
        for value in values.iter_mut().filter(|value| !value.is_finite()) {
            *value = if value.is_nan() { 0.0 } else { value.signum() };
        }
        Self { dimension: values.len().max(1), embeddings: values }
    }

    /// Returns the values of all rows.
    pub(crate) fn values(&self) -> &[f32] {
        &self.embeddings
    }

    /// Reads the probes of the version whose compiled forms are in `root`. Returns `None` if they are
    /// missing, damaged, or written by a build with other texts.
    pub(crate) fn read(root: &Path) -> Option<Self> {
        let bytes = regular::read(&path(root), FILE_BYTES_MAX).ok()?;
        let (header, rest) = Header::read_from_prefix(&bytes).ok()?;
        let dimension = usize::try_from(header.dimension.get()).ok()?;
        let rows = usize::try_from(header.rows.get()).ok()?;
        let length = rows.checked_mul(dimension)?.checked_mul(size_of::<f32>())?;
        if header.texts != texts_digest() || dimension == 0 || rest.len() != length {
            return None;
        }
        let values = rest.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        Some(Self { dimension, embeddings: values.collect() })
    }

    /// Writes the probes to the file read by [`Probes::read`].
    pub(crate) fn write(&self, root: &Path) -> io::Result<()> {
        let number = |count: usize| u32::try_from(count).map(Into::into).map_err(io::Error::other);
        let (rows, dimension) = (number(self.rows().len())?, number(self.dimension)?);
        let header = Header { texts: texts_digest(), rows, dimension };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(self.embeddings.iter().flat_map(|value| value.to_le_bytes()));
        let mut file = tempfile::Builder::new().prefix(INCOMPLETE_PREFIX).tempfile_in(root)?;
        file.write_all(&bytes)?;
        file.persist(path(root)).map(drop).map_err(|error| error.error)
    }

    /// Requires that a rerun over the first texts, or all of them, gives the same outputs.
    ///
    /// # Errors
    /// The outputs differ. The message names `file`, which produced them, and the cosine.
    pub(crate) fn require(&self, again: &Self, file: &str) -> Result<(), Refusal> {
        let mut pairs = self.rows().zip(again.rows());
        if again.rows().len() > 0 && pairs.all(|(a, b)| is_same(b, &a[..a.len().min(b.len())])) {
            return Ok(());
        }
        let drift = self.drift(again).map_or(0.0, |drift| drift.min_cosine);
        let message = format!("{file} returns a different output: cosine {drift:.6}");
        Err(RefusalKind::Checksum.because(message))
    }

    /// Returns the drift of `other` over the texts that both have, or `None` if the dimensions
    /// differ.
    pub(crate) fn drift(&self, other: &Self) -> Option<Drift> {
        if self.dimension != other.dimension {
            return None;
        }
        let (mut min, mut sum, mut probes) = (f64::INFINITY, 0.0, 0_u32);
        for (a, b) in self.rows().zip(other.rows()) {
            let cosine = cosine(a, b);
            min = min.min(cosine);
            sum += cosine;
            probes += 1;
        }
        (probes > 0).then(|| Drift {
            min_cosine: min,
            mean_cosine: sum / f64::from(probes),
            probes,
        })
    }

    fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.embeddings.chunks_exact(self.dimension.max(1))
    }
}

fn path(root: &Path) -> PathBuf {
    root.join(FILE)
}

fn texts_digest() -> [u8; 8] {
    let mut digest = Sha256::new();
    for text in TEXTS {
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    let digest = digest.finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

/// Returns whether two vectors are computations of the same result.
pub(crate) fn is_same(a: &[f32], b: &[f32]) -> bool {
    let length =
        |vector: &[f32]| vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let (long, short) = (length(a).max(length(b)), length(a).min(length(b)));
    let difference = long - short;
    let near = difference <= SAME_LENGTH_MIN || difference <= SAME_LENGTH * long;
    // The direction of a near-zero vector is meaningless.
    a.len() == b.len() && near && (long <= SAME_LENGTH_MIN || cosine(a, b) >= SAME_COSINE_MIN)
}

/// Returns the cosine of two vectors of the same dimension. Two zero vectors have cosine 1; a zero
/// vector and another, or vectors that are not finite, have cosine 0. Never NaN.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut a_squared, mut b_squared) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        dot += a * b;
        a_squared += a * a;
        b_squared += b * b;
    }
    let lengths = a_squared.sqrt() * b_squared.sqrt();
    if lengths > 0.0 && lengths.is_finite() {
        (dot / lengths).clamp(-1.0, 1.0)
    } else if a_squared == 0.0 && b_squared == 0.0 {
        1.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn probes(rows: &[[f32; 2]]) -> Probes {
        Probes { dimension: 2, embeddings: rows.concat() }
    }

    #[test]
    fn probes_are_read_back_and_damaged_files_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Probes::read(dir.path()), None);
        let written = probes(&[[0.6, -0.8]; TEXTS.len()]);
        written.write(dir.path()).unwrap();
        assert_eq!(Probes::read(dir.path()), Some(written));
        let file = path(dir.path());
        let bytes = fs::read(&file).unwrap();
        let huge = [&bytes[..12], &[0xff; 4], &bytes[16..]].concat();
        let many = [&bytes[..8], &[0xff; 4], &bytes[12..]].concat();
        let other_texts = [&[0; 8], &bytes[8..]].concat();
        for damaged in [&bytes[..bytes.len() - 1], &bytes[..11], &[], &huge, &many, &other_texts] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(Probes::read(dir.path()), None);
        }
    }

    #[test]
    fn drift_is_the_minimum_and_mean_cosine_of_common_texts() {
        let (x, y, zeros) = ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0]);
        let drift = probes(&[x, x, x]).drift(&probes(&[x, y, [-2.0, 0.0]])).unwrap();
        assert_eq!((drift.min_cosine, drift.mean_cosine, drift.probes), (-1.0, 0.0, 3));
        let drift = probes(&[zeros, zeros]).drift(&probes(&[zeros, x, y])).unwrap();
        assert_eq!((drift.min_cosine, drift.mean_cosine, drift.probes), (0.0, 0.5, 2));
        let wide = Probes { dimension: 4, embeddings: vec![1.0; 4] };
        assert_eq!(wide.drift(&probes(&[x, x])), None);
    }

    #[test]
    fn same_vectors_agree_in_direction_and_length() {
        assert!(is_same(&[1.0, 2.0], &[1.001, 2.001]));
        assert!(!is_same(&[1.0, 2.0], &[2.0, 4.0]));
        assert!(!is_same(&[1.0], &[-1.0]) && !is_same(&[3.0], &[4.0]) && is_same(&[3.0], &[3.01]));
        assert!(is_same(&[1e-5], &[-1e-5]), "near-zero vectors are the same");
        let expected = Probes::from_values(vec![3.0, 4.0, f32::NAN]);
        assert!(expected.require(&Probes::from_values(vec![3.0]), "x").is_ok());
        assert!(expected.require(&Probes::from_values(vec![3.3]), "x").is_err());
    }

    #[test]
    fn cosine_is_always_a_number() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[f32::MAX, f32::MIN], &[f32::MAX, f32::MIN]), 1.0);
        for value in [f32::NAN, f32::INFINITY, f32::MIN_POSITIVE] {
            assert!((-1.0..=1.0).contains(&cosine(&[value, 1.0], &[1.0, value])), "{value}");
        }
    }
}
