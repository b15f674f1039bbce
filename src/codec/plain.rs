//! Plain data as bytes: what serde would take element by element is one copy.
//!
//! Two uses of one type. As an argument of a task it is a wrapper that is built, around what is [`PlainData`]; in the type
//! of a container it is a marker around a `Pod`, and is never built (`types.rs`).

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, marker::PhantomData};

/// Plain data that travel to a task and back as bytes: one copy, where serde alone would visit each element.
///
/// For vectors and arrays of [`bytemuck::Pod`], and for single numbers. In a tuple or a structure, too.
///
/// ```
/// use allmend::Plain;
///
/// fn total(Plain(numbers): Plain<Vec<f64>>) -> f64 {
///     numbers.iter().sum()
/// }
/// assert_eq!(total(Plain(vec![0.5; 8])), 4.0);
/// ```
///
/// In the type of a container it marks a structure of yours that is [`Pod`](bytemuck::Pod), `SharedMap<u64, Plain<Point>>`:
/// callers pass `&Point` and get `Point`. (Vectors and arrays need no mark there.) See [`Codec`](crate::Codec).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Plain<T>(pub T);

/// What [`Plain`] may hold: what is nothing but its bytes.
///
/// For a type of your own: `as_bytes` gives all of the value, without a pointer in it, and `from_bytes` of these bytes gives
/// an equal value. Of any other bytes it gives some value or `None`; it does not panic, since bytes come from other
/// processes.
///
/// (There is no implementation for every `T: Pod`: it would exclude the one for vectors.)
pub trait PlainData: Sized {
    /// Its bytes.
    fn as_bytes(&self) -> &[u8];
    /// A copy out of bytes of any alignment; `None` if their number does not fit.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl<T: Pod> PlainData for Vec<T> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if size_of::<T>() == 0 || !bytes.len().is_multiple_of(size_of::<T>()) {
            return bytes.is_empty().then(Vec::new);
        }
        let mut all = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut all).copy_from_slice(bytes);
        Some(all)
    }
}

impl<T: Pod, const N: usize> PlainData for [T; N] {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut all = [T::zeroed(); N];
        let to: &mut [u8] = bytemuck::cast_slice_mut(&mut all);
        (to.len() == bytes.len()).then(|| to.copy_from_slice(bytes))?;
        Some(all)
    }
}

macro_rules! number {
    ($($n:ty)*) => {$(
        impl PlainData for $n {
            fn as_bytes(&self) -> &[u8] {
                bytemuck::bytes_of(self)
            }
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytemuck::try_pod_read_unaligned(bytes).ok()
            }
        }
    )*};
}
number!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

impl<T: PlainData> Serialize for Plain<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<'de, T: PlainData> Deserialize<'de> for Plain<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes<T>(PhantomData<fn() -> T>);
        impl<T: PlainData> de::Visitor<'_> for Bytes<T> {
            type Value = Plain<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the bytes of {}", std::any::type_name::<T>())
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                T::from_bytes(bytes).map(Plain).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }
        deserializer.deserialize_bytes(Bytes(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::serial::{decode, encode};

    #[test]
    fn bytes_come_back_at_any_alignment_and_only_whole() {
        for shift in 0..8 {
            let mut bytes = vec![0; shift];
            encode(&Plain(vec![1.5f64, -2.0]), &mut bytes).unwrap();
            assert_eq!(decode(&bytes[shift..]), Ok(Plain(vec![1.5f64, -2.0])));
            assert_eq!(decode(&bytes[shift..]), Ok(Plain([1.5f64, -2.0])));
            assert!(decode::<Plain<f64>>(&bytes[shift..]).is_err());
            assert!(decode::<Plain<[f64; 3]>>(&bytes[shift..]).is_err());
        }
        let mut bytes = Vec::new();
        encode(&Plain([1u8, 2, 3]), &mut bytes).unwrap();
        assert!(decode::<Plain<Vec<u16>>>(&bytes).is_err());
        assert_eq!(decode::<Plain<Vec<()>>>(&[0]), Ok(Plain(vec![])));
        assert!(decode::<Plain<Vec<()>>>(&bytes).is_err());
    }
}
