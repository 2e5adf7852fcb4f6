//! An embedding as it travels: from a request to the store and to the index in memory.

use onnxd_proto::search::{IndexError, IndexErrorKind, VECTOR_COMPONENTS_MAX};

/// Bytes of a token and its weight.
const ENTRY_BYTES: usize = 8;

/// The embedding of one text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Vector {
    Dense(Vec<f32>),
    /// Tokens with their weights, by token. No token occurs twice.
    Sparse(Vec<(u32, f32)>),
}

impl Vector {
    /// Returns the number of components, or 0 for a sparse vector.
    pub(crate) fn dimension(&self) -> usize {
        match self {
            Self::Dense(components) => components.len(),
            Self::Sparse(_) => 0,
        }
    }

    /// Returns the components of a dense vector.
    pub(crate) fn into_dense(self) -> Option<Vec<f32>> {
        match self {
            Self::Dense(components) => Some(components),
            Self::Sparse(_) => None,
        }
    }

    /// Returns whether all numbers are finite.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Self::Dense(components) => components.iter().all(|value| value.is_finite()),
            Self::Sparse(entries) => entries.iter().all(|(_, weight)| weight.is_finite()),
        }
    }

    /// Returns the bytes of all numbers.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Dense(components) => {
                components.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
            Self::Sparse(entries) => {
                let entry = |(token, weight): &(u32, f32)| {
                    [token.to_le_bytes(), weight.to_le_bytes()].concat()
                };
                entries.iter().flat_map(entry).collect()
            }
        }
    }

    /// Reads [`Vector::to_bytes`]. A dimension of 0 means a sparse vector.
    pub(crate) fn from_bytes(bytes: &[u8], dimension: usize) -> Self {
        match dimension {
            0 => Self::Sparse(read_entries(bytes)),
            _ => Self::Dense(read_components(bytes)),
        }
    }
}

fn read_components(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn read_entries(bytes: &[u8]) -> Vec<(u32, f32)> {
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let entry = |[a, b, c, d, e, f, g, h]: &[u8; ENTRY_BYTES]| {
        (u32::from_le_bytes([*a, *b, *c, *d]), f32::from_le_bytes([*e, *f, *g, *h]))
    };
    entries.iter().map(entry).collect()
}

/// Splits the payload of a request into this number of dense vectors, all of one dimension.
///
/// # Errors
/// The payload has another length, or the vectors are too long.
pub(crate) fn dense(payload: &[u8], count: usize) -> Result<Vec<Vector>, IndexError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let bytes = payload.len() / count;
    if bytes == 0 || bytes * count != payload.len() || !bytes.is_multiple_of(size_of::<f32>()) {
        return Err(invalid(format!("{} bytes are not {count} vectors", payload.len())));
    }
    if bytes / size_of::<f32>() > VECTOR_COMPONENTS_MAX {
        return Err(invalid(format!(
            "a vector has {} components; at most {VECTOR_COMPONENTS_MAX} are allowed",
            bytes / size_of::<f32>()
        )));
    }
    Ok(payload.chunks(bytes).map(|bytes| Vector::Dense(read_components(bytes))).collect())
}

/// Splits the payload of a request into this number of sparse vectors.
///
/// # Errors
/// The payload has another length, a vector is too long, or names a token twice.
pub(crate) fn sparse(mut payload: &[u8], count: usize) -> Result<Vec<Vector>, IndexError> {
    let cut = || invalid(format!("the payload does not hold {count} sparse vectors"));
    let mut vectors = Vec::new();
    for _ in 0..count {
        let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > VECTOR_COMPONENTS_MAX {
            return Err(invalid(format!(
                "a sparse vector has {length} tokens; at most {VECTOR_COMPONENTS_MAX} are allowed"
            )));
        }
        let (entries, rest) = rest.split_at_checked(length * ENTRY_BYTES).ok_or_else(cut)?;
        let mut entries = read_entries(entries);
        entries.sort_unstable_by_key(|(token, _)| *token);
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(invalid(format!("a sparse vector names token {} twice", pair[0].0)));
        }
        vectors.push(Vector::Sparse(entries));
        payload = rest;
    }
    if payload.is_empty() { Ok(vectors) } else { Err(cut()) }
}

fn invalid(message: String) -> IndexError {
    IndexErrorKind::Invalid.because(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_split_into_vectors() {
        let bytes: Vec<u8> =
            [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let expected = [Vector::Dense(vec![1.0, 2.0]), Vector::Dense(vec![3.0, 4.0])];
        assert_eq!(dense(&bytes, 2).unwrap(), expected);
        for (bytes, count) in [(&bytes[..], 3), (&bytes[..15], 1), (&[], 1)] {
            assert_eq!(dense(bytes, count).unwrap_err().kind, IndexErrorKind::Invalid);
        }
        assert_eq!(dense(&[], 0).unwrap(), []);
        assert!(dense(&vec![0; 4 * VECTOR_COMPONENTS_MAX + 4], 1).is_err());
    }

    fn payload(vectors: &[&[(u32, f32)]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entries in vectors {
            bytes.extend(u32::try_from(entries.len()).unwrap().to_le_bytes());
            bytes.extend(Vector::Sparse(entries.to_vec()).to_bytes());
        }
        bytes
    }

    #[test]
    fn payloads_are_split_into_sparse_vectors() {
        let bytes = payload(&[&[(7, 0.5), (3, 1.0)], &[]]);
        let expected = [Vector::Sparse(vec![(3, 1.0), (7, 0.5)]), Vector::Sparse(vec![])];
        assert_eq!(sparse(&bytes, 2).unwrap(), expected);
        let twice = payload(&[&[(7, 0.5), (7, 1.0)]]);
        let long = u32::try_from(VECTOR_COMPONENTS_MAX + 1).unwrap().to_le_bytes();
        let cases: [(&[u8], usize); 6] =
            [(&bytes, 1), (&bytes, 3), (&bytes[..9], 1), (&[1, 0], 1), (&twice, 1), (&long, 1)];
        for (bytes, count) in cases {
            assert_eq!(sparse(bytes, count).unwrap_err().kind, IndexErrorKind::Invalid);
        }
    }

    #[test]
    fn bytes_round_trip() {
        for vector in [Vector::Dense(vec![0.5, -1.0]), Vector::Sparse(vec![(1, 0.5), (9, 2.0)])] {
            assert_eq!(Vector::from_bytes(&vector.to_bytes(), vector.dimension()), vector);
        }
    }
}
