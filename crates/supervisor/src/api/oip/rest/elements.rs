//! Converts tensor elements between JSON, flat or nested, and raw bytes.

use std::fmt;

use bytes::Bytes;
use half::{bf16, f16};
use onnxd_proto::domain::tensor::{DataType, split_bytes};
use serde::{
    Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::api::numbers::{Finite, array};

/// Maximum nesting of lists; no tensor has more axes.
const DEPTH_MAX: usize = 17;

/// Returns the raw bytes of elements in JSON, which can be far longer than the JSON.
///
/// # Errors
/// An element does not fit the type, or the elements exceed `bytes_max`.
pub(crate) fn from_json(
    json: &RawValue,
    datatype: DataType,
    bytes_max: usize,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    Reader { datatype, depth: 0, bytes_max, bytes: &mut bytes }.deserialize(&mut deserializer)?;
    check_size(&bytes, bytes_max)?;
    Ok(bytes)
}

/// Checks the size after each element: a long list costs far more memory than its text.
fn check_size<E: Error>(bytes: &[u8], bytes_max: usize) -> Result<(), E> {
    if bytes.len() <= bytes_max {
        return Ok(());
    }
    Err(E::custom(format!(
        "the elements exceed the {bytes_max} bytes of the tensor's shape or limit"
    )))
}

/// Appends elements to `bytes`.
struct Reader<'b> {
    datatype: DataType,
    depth: usize,
    bytes_max: usize,
    bytes: &'b mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Reader<'_> {
    fn integer<E: Error>(&mut self, value: i128) -> Result<(), E> {
        macro_rules! push {
            ($type:ty) => {
                match <$type>::try_from(value) {
                    Ok(value) => self.bytes.extend_from_slice(&value.to_le_bytes()),
                    Err(_) => return Err(self.mismatch(&value)),
                }
            };
        }
        match self.datatype {
            DataType::Int8 => push!(i8),
            DataType::Int16 => push!(i16),
            DataType::Int32 => push!(i32),
            DataType::Int64 => push!(i64),
            DataType::Uint8 => push!(u8),
            DataType::Uint16 => push!(u16),
            DataType::Uint32 => push!(u32),
            DataType::Uint64 => push!(u64),
            DataType::Bool if value == 0 || value == 1 => self.bytes.push(u8::from(value == 1)),
            DataType::Bool | DataType::Bytes => return Err(self.mismatch(&value)),
            DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => {
                #[expect(clippy::cast_precision_loss, reason = "rounds to the nearest value")]
                return self.float(value as f64);
            }
        }
        Ok(())
    }

    fn float<E: Error>(&mut self, value: f64) -> Result<(), E> {
        #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest value")]
        let single = value as f32;
        let finite = match self.datatype {
            DataType::Fp64 => {
                self.bytes.extend_from_slice(&value.to_le_bytes());
                true
            }
            DataType::Fp32 => {
                self.bytes.extend_from_slice(&single.to_le_bytes());
                single.is_finite()
            }
            DataType::Fp16 => {
                let value = f16::from_f64(value);
                self.bytes.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            DataType::Bf16 => {
                let value = bf16::from_f64(value);
                self.bytes.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            // Clients with a single number type send integers as floats.
            _ if value.fract() == 0.0 && value.abs() < 9e15 => {
                #[expect(clippy::cast_possible_truncation, reason = "integral and small")]
                return self.integer(value as i128);
            }
            _ => false,
        };
        if finite { Ok(()) } else { Err(self.mismatch(&value)) }
    }

    fn mismatch<E: Error>(&self, value: &dyn fmt::Display) -> E {
        E::custom(format!("{value} is not a valid {} element", self.datatype.name()))
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements, or lists of them", self.datatype.name())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.datatype {
            DataType::Bool => self.bytes.push(value.into()),
            _ => return Err(self.mismatch(&value)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(mut self, value: i64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_u64<E: Error>(mut self, value: u64) -> Result<(), E> {
        self.integer(value.into())
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<(), E> {
        self.float(value)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match (self.datatype, u32::try_from(text.len())) {
            (DataType::Bytes, Ok(length)) => {
                self.bytes.extend_from_slice(&length.to_le_bytes());
                self.bytes.extend_from_slice(text.as_bytes());
                Ok(())
            }
            _ => Err(self.mismatch(&"a string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { datatype, depth, bytes_max, bytes } = self;
        if depth >= DEPTH_MAX {
            return Err(A::Error::custom("lists are nested deeper than a tensor has axes"));
        }
        let depth = depth + 1;
        while let Some(()) =
            list.next_element_seed(Reader { datatype, depth, bytes_max, bytes: &mut *bytes })?
        {
            check_size(bytes, bytes_max)?;
        }
        Ok(())
    }
}

/// The elements of a tensor, serialized as one flat array.
#[derive(Clone, Debug)]
pub(crate) struct Elements {
    pub datatype: DataType,
    /// Raw little-endian bytes.
    pub data: Bytes,
}

impl Serialize for Elements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        macro_rules! integers {
            ($type:ty) => {
                array(serializer, chunks(&self.data).map(<$type>::from_le_bytes))
            };
        }
        macro_rules! floats {
            ($type:ty) => {
                array(serializer, chunks(&self.data).map(|raw| Finite(<$type>::from_le_bytes(raw))))
            };
        }
        macro_rules! halves {
            ($type:ty) => {{
                let single = |raw| Finite(<$type>::from_le_bytes(raw).to_f32());
                array(serializer, chunks(&self.data).map(single))
            }};
        }
        match self.datatype {
            DataType::Bool => array(serializer, self.data.iter().map(|value| *value != 0)),
            DataType::Int8 => integers!(i8),
            DataType::Int16 => integers!(i16),
            DataType::Int32 => integers!(i32),
            DataType::Int64 => integers!(i64),
            DataType::Uint8 => integers!(u8),
            DataType::Uint16 => integers!(u16),
            DataType::Uint32 => integers!(u32),
            DataType::Uint64 => integers!(u64),
            DataType::Fp16 => halves!(f16),
            DataType::Bf16 => halves!(bf16),
            DataType::Fp32 => floats!(f32),
            DataType::Fp64 => floats!(f64),
            // Valid: the engine checks what workers send.
            DataType::Bytes => array(serializer, strings(&self.data).into_iter()),
        }
    }
}

fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

fn strings(data: &[u8]) -> Vec<String> {
    let mut count = 0;
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        rest = after.get(u32::from_le_bytes(*length) as usize..).unwrap_or_default();
        count += 1;
    }
    let split = split_bytes(data, count).unwrap_or_default();
    split.into_iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::numbers::{NotFinite, to_json};

    fn bytes(json: &str, datatype: DataType) -> Result<Vec<u8>, serde_json::Error> {
        from_json(&RawValue::from_string(json.into()).unwrap(), datatype, 1000)
    }

    fn json(datatype: DataType, data: &[u8]) -> String {
        let data = Bytes::copy_from_slice(data);
        serde_json::to_string(&Elements { datatype, data }).unwrap()
    }

    #[test]
    fn elements_of_every_type_round_trip() {
        for (datatype, written) in [
            (DataType::Bool, "[true,false]"),
            (DataType::Int8, "[-128,127]"),
            (DataType::Int16, "[-32768]"),
            (DataType::Int32, "[-2147483648]"),
            (DataType::Int64, "[-9223372036854775808,9223372036854775807]"),
            (DataType::Uint8, "[0,255]"),
            (DataType::Uint16, "[65535]"),
            (DataType::Uint32, "[4294967295]"),
            (DataType::Uint64, "[18446744073709551615]"),
            (DataType::Fp16, "[-0.5,65504.0]"),
            (DataType::Bf16, "[-0.5,3.0]"),
            (DataType::Fp32, "[0.1,-3.4028235e+38]"),
            (DataType::Fp64, "[0.1,1.7976931348623157e+308]"),
            (DataType::Bytes, r#"["a\"b","","é"]"#),
        ] {
            let raw = bytes(written, datatype).unwrap();
            let again = json(datatype, &raw);
            let same = bytes(&again, datatype).unwrap() == raw;
            assert!(same, "{} {written} {again}", datatype.name());
        }
    }

    #[test]
    fn nested_lists_are_flattened() {
        assert_eq!(bytes("[[1, 2], [3, 4]]", DataType::Uint8).unwrap(), [1, 2, 3, 4]);
        assert_eq!(bytes("[[[1]], 2.0, []]", DataType::Uint8).unwrap(), [1, 2]);
        let five = format!("[{}1]", "1,".repeat(1000));
        assert!(bytes(&five, DataType::Uint8).unwrap_err().to_string().contains("1000 bytes"));
        assert!(bytes(&format!("{}1{}", "[".repeat(40), "]".repeat(40)), DataType::Int8).is_err());
    }

    #[test]
    fn elements_of_the_wrong_type_are_rejected() {
        for (datatype, wrong) in [
            (DataType::Int8, "[128]"),
            (DataType::Uint8, "[-1]"),
            (DataType::Int32, "[1.5]"),
            (DataType::Int32, r#"["1"]"#),
            (DataType::Bool, "[2]"),
            (DataType::Fp32, "[1e39]"),
            (DataType::Fp16, "[1e6]"),
            (DataType::Fp32, "[null]"),
            (DataType::Fp32, "[true]"),
            (DataType::Bytes, "[1]"),
            (DataType::Fp32, r#"{"a": 1}"#),
        ] {
            assert!(bytes(wrong, datatype).is_err(), "{} {wrong}", datatype.name());
        }
        let data = Bytes::copy_from_slice(&f32::NAN.to_le_bytes());
        let nan = Elements { datatype: DataType::Fp32, data };
        assert_eq!(to_json(&nan, 0), Err(NotFinite));
    }
}
