//! What serde can do, as bytes: postcard's encoding, which is compact and has no schema.

use super::Codec;
use crate::{
    error::{EncodeError, HandleError},
    segment::handle,
};
use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// Marks, in the type of a container, a value that serde encodes: `SharedMap<String, Serde<Config>>`. Callers pass
/// `&Config`, and get `Config`. Never built.
///
/// Each read decodes, and each write encodes, so this is for values that are read whole. [`Plain`](super::Plain) is one copy.
/// Not a [`Key`](super::Key): one value may have several encodings.
///
/// What postcard cannot do is an error when it is written (`untagged`, `flatten`, values without a known length) or when
/// it is read; and handles can not be inside: nobody would keep what they name. See
/// [limitations](crate::docs::limitations#pool).
pub struct Serde<T>(PhantomData<fn() -> T>);

impl<T> fmt::Debug for Serde<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serde")
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec for Serde<T> {
    type Owned = T;
    type Ref<'a> = &'a T;

    fn borrow(owned: &T) -> &T {
        owned
    }
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // As in a result that nobody can keep: postcard's error has no text, so the typed cause comes beside it.
        let (encoded, failure) =
            handle::encode_result(|_| Err(HandleError::OutsidePool), 0, || encode(value, out));
        encoded.map_err(|e| EncodeError::new(failure.map_or_else(|| e.to_string(), |e| e.to_string())))
    }
    fn decode(bytes: &[u8]) -> Option<T> {
        decode(bytes).ok()
    }
}

/// Appends to a vector that stays ours when an element does not encode.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();
    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }
    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends the value's bytes.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> postcard::Result<()> {
    postcard::serialize_with_flavor(value, Append(out))
}

/// The whole of `bytes`, and nothing behind it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> postcard::Result<T> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}
