//! Bounded JSON lists. Parsing stops at the first element over the limit, so that a body does not
//! become many times larger in memory. Pure.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Deserializes a list of at most `MAX` elements.
///
/// # Errors
/// The list has more elements, or one is invalid.
pub(super) fn bounded_list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(BoundedList::<T, MAX>(PhantomData))
}

struct BoundedList<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for BoundedList<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    /// Clients that send all fields send null for unset ones.
    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = list.next_element()? {
            if all.len() == MAX {
                return Err(A::Error::custom(format!("the list has more than {MAX} elements")));
            }
            all.push(element);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_stops_at_the_limit() {
        let read = |json: &str| {
            bounded_list::<_, u8, 3>(&mut serde_json::Deserializer::from_str(json))
                .map_err(|e| e.to_string())
        };
        assert_eq!(read("[1,2,3]"), Ok(vec![1, 2, 3]));
        // The rest is not parsed: `x` is invalid.
        assert!(read("[1,2,3,4,x").unwrap_err().contains("more than 3"));
        assert_eq!(read("null"), Ok(vec![]));
        assert!(read("1").unwrap_err().contains("at most 3"));
    }
}
