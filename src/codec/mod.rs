//! How keys, values and items become bytes, and bytes become them again.
//!
//! ```text
//!   what a caller passes          bytes in shared memory             what a caller gets
//!   K::Ref  "key", 7, &point  --encode-->  length is known  --decode-->  K::Owned  String, u64, Point
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | the traits [`Codec`] and [`Key`] |
//! | `types` | the encodings of numbers, strings, vectors, arrays, tuples |
//! | `plain` | [`Plain`]: plain data as bytes, here and in arguments of tasks |
//! | `serial` | [`Serde`], and serde's encoding for whoever needs it |
//!
//! # Invariants
//!
//! 1. **Stable.** The bytes of a value depend on the value alone: not on the process, the build or the compiler.
//! 2. **Canonical.** Two values of a [`Key`] that are equal have the same bytes, and different values have different ones:
//!    so a key can be looked up by its bytes.
//! 3. **Total.** `decode` of any bytes gives a value or `None`: it does not panic, and does not read past them. What it
//!    gets is a private copy of bytes that anybody may have written.
//! 4. What `encode` wrote, `decode` reads, and gives the same value.
//!
//! No blanket implementation for every `T: Pod`: it would exclude the one for `String` ("upstream crates may add `Pod`").
//! So a type of one's own is named inside of [`Plain`] or [`Serde`], in the type of the container only: callers pass and
//! get `T`.
//!
//! Nothing shared is touched here: no state, nothing to kill.

mod plain;
pub(crate) mod serial;
mod types;

#[cfg(test)]
mod tests;

pub use self::{
    plain::{Plain, PlainData},
    serial::Serde,
};
use crate::error::EncodeError;
use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
};

/// A type in the place of `K` or `V` of a container. It names three things: the encoding, what callers pass (`Ref`, never
/// an allocation), and what they get (`Owned`).
///
/// | type | passed | got | its bytes |
/// |---|---|---|---|
/// | integers, floats | by value | the same | little-endian; `usize` and `isize` as 8 bytes |
/// | `bool` | by value | the same | one byte, 0 or 1 |
/// | `char` | by value | the same | as its `u32` |
/// | `()` | by value | the same | none |
/// | `String` | `&str` | `String` | UTF-8 |
/// | `Vec<T: Pod>`, `Vec<u8>` too | `&[T]` | `Vec<T>` | the elements as they lie in memory |
/// | `[T: Pod; N]`, [`Plain<T: Pod>`](Plain) | `&T` | `T` | as it lies in memory |
/// | [`Serde<T>`](Serde) | `&T` | `T` | postcard's |
/// | tuples of 2 to 4 of these | tuples | tuples | one after the other; before each but the last whose size varies, its length as `u32` |
///
/// All machines on which this crate runs are little-endian, so what lies in memory is that, too.
///
/// For a type of your own, [`Plain`] or [`Serde`] will do; an implementation by hand must keep invariants 1, 3 and 4 of
/// this table: stable, decodes anything without panicking, reads what it wrote. A wrong one gives wrong values or errors,
/// never undefined behaviour.
///
/// ```
/// use allmend::{Codec, EncodeError};
///
/// /// A day, as its number: 4 bytes.
/// struct Day;
///
/// impl Codec for Day {
///     type Owned = u32;
///     type Ref<'a> = u32;
///     const SIZE: Option<usize> = Some(4);
///     fn borrow(owned: &u32) -> u32 {
///         *owned
///     }
///     fn encode(day: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
///         out.extend(day.to_le_bytes());
///         Ok(())
///     }
///     fn decode(bytes: &[u8]) -> Option<u32> {
///         bytes.try_into().ok().map(u32::from_le_bytes)
///     }
/// }
/// let mut bytes = Vec::new();
/// Day::encode(20_000, &mut bytes)?;
/// assert_eq!(Day::decode(&bytes), Some(20_000));
/// # Ok::<(), EncodeError>(())
/// ```
pub trait Codec: 'static {
    /// What comes out.
    type Owned;

    /// What goes in.
    type Ref<'a>: Copy;

    /// How many bytes it has, if that is always the same. Up to 8 they lie in the container's own table.
    const SIZE: Option<usize> = None;

    /// An owned one as what goes in.
    fn borrow(owned: &Self::Owned) -> Self::Ref<'_>;

    /// Appends its bytes.
    ///
    /// # Errors
    /// [`EncodeError`] for what has no bytes: a handle inside of [`Serde`], something beyond 4 GiB in a tuple. What is in
    /// `out` then does not count.
    fn encode(value: Self::Ref<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// From its bytes; `None` if they are nobody's.
    fn decode(bytes: &[u8]) -> Option<Self::Owned>;

    /// As [`decode`](Self::decode), into one that is there already, whose memory is used again. `false`: these are no bytes
    /// of this type, and `out` is any value.
    fn decode_into(bytes: &[u8], out: &mut Self::Owned) -> bool {
        Self::decode(bytes).map(|value| *out = value).is_some()
    }

    /// What `source` reads, decoded, into `out`: `None` if it has nothing.
    #[doc(hidden)]
    #[inline]
    fn receive<S: Source>(source: &S, out: &mut Result<Option<Self::Owned>, S::Error>) {
        let mut bytes = Scratch::take();
        *out = source.read(&mut bytes.0).and_then(|found| match found {
            true => Self::decode(&bytes).map(Some).ok_or_else(|| source.undecodable()),
            false => Ok(None),
        });
    }

    /// Does [`receive_at_once`](Self::receive_at_once) ever give anything?
    #[doc(hidden)]
    const AT_ONCE: bool = false;

    /// What `source` has, if it can be told at once, in a few instructions and no memory but the value's own; `None` if not.
    #[doc(hidden)]
    #[inline(always)]
    fn receive_at_once<S: Source>(_: &S) -> Option<Option<Self::Owned>> {
        None
    }

    /// Its bytes, where they lie in the value as it is passed.
    #[doc(hidden)]
    #[inline(always)]
    fn lying_in<'v>(_: &'v Self::Ref<'_>) -> Option<&'v [u8]> {
        None
    }

    /// Gives its bytes to `f`: without a copy where they lie in the value.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    #[inline]
    fn with_bytes<R>(value: Self::Ref<'_>, f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
        let mut bytes = Scratch::take();
        Self::encode(value, &mut bytes.0)?;
        Ok(f(&bytes.0))
    }
}

/// A [`Codec`] by whose bytes something can be found: equal values have the same bytes, different values different ones.
///
/// Not for floats (`0.0 == -0.0`, with other bytes) and not for [`Serde`] (what is in a `HashSet` has many orders).
/// `Plain<T>` needs `T: Eq`, which must mean that all bytes are equal, as a derived one does.
pub trait Key: Codec {}

/// Something that reads the bytes of a value.
#[doc(hidden)]
pub trait Source {
    /// Why it could not.
    type Error;

    /// Reads them into the last room that it asked for: it may ask more than once. `false`: there are none.
    ///
    /// # Errors
    /// Its own.
    fn read(&self, room: &mut impl Room) -> Result<bool, Self::Error>;

    /// The same, if that can be done at once: short enough to be part of who calls it. `None` if not.
    fn read_at_once(&self, room: &mut impl Room) -> Option<bool>;

    /// The bytes are those of no value.
    fn undecodable(&self) -> Self::Error;
}

/// Where the bytes of a value are read into.
#[doc(hidden)]
pub trait Room {
    /// Room for so many, with anything in it; `None` if the value cannot have so many, whatever they are.
    fn room(&mut self, len: usize) -> Option<&mut [u8]>;
}

impl Room for Vec<u8> {
    #[inline]
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.len() != len {
            self.clear();
            self.resize(len, 0);
        }
        Some(self)
    }
}

/// Of a value that is nothing but its bytes.
struct Exactly<'a> {
    bytes: &'a mut [u8],
    fits: bool,
}

impl Room for Exactly<'_> {
    #[inline(always)]
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.fits = len == self.bytes.len();
        self.fits.then_some(&mut *self.bytes)
    }
}

/// The largest such value that is received at once: it goes through registers.
const AT_ONCE: usize = 256;

/// [`Codec::receive_at_once`] of such a type.
#[inline(always)]
fn receive_small<T: bytemuck::Pod, S: Source>(source: &S) -> Option<Option<T>> {
    let mut value = T::zeroed();
    let mut room = Exactly { bytes: bytemuck::bytes_of_mut(&mut value), fits: false };
    match source.read_at_once(&mut room)? {
        true => room.fits.then_some(Some(value)),
        false => Some(None),
    }
}

/// [`Codec::receive`] of such a type: where the value lies at last, its bytes are read to.
#[inline(always)]
fn receive_plain<T: bytemuck::Pod, S: Source>(source: &S, out: &mut Result<Option<T>, S::Error>) {
    let value = blank(out);
    let mut room = Exactly { bytes: bytemuck::bytes_of_mut(value), fits: false };
    match source.read_at_once(&mut room) {
        Some(true) if room.fits => {}
        Some(false) => *out = Ok(None),
        _ => receive_whole(source, out),
    }
}

#[cold]
#[inline(never)]
fn receive_whole<T: bytemuck::Pod, S: Source>(source: &S, out: &mut Result<Option<T>, S::Error>) {
    let value = blank(out);
    let mut room = Exactly { bytes: bytemuck::bytes_of_mut(value), fits: false };
    match source.read(&mut room) {
        Ok(true) if room.fits => {}
        Ok(true) => *out = Err(source.undecodable()),
        Ok(false) => *out = Ok(None),
        Err(e) => *out = Err(e),
    }
}

#[inline(always)]
fn blank<T: bytemuck::Pod, E>(out: &mut Result<Option<T>, E>) -> &mut T {
    *out = Ok(Some(T::zeroed()));
    match out {
        Ok(Some(value)) => value,
        _ => unreachable!("it was just put there"),
    }
}

/// Bytes to encode into that are used again by this thread: what is looked up often shall not allocate.
pub(crate) struct Scratch(Vec<u8>);

thread_local! {
    static FREE: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

impl Scratch {
    /// What is kept between two uses.
    const KEPT_BYTES: usize = 1 << 16;

    /// An empty one.
    pub(crate) fn take() -> Self {
        // In the destructor of another thread-local ours may be gone: then it is a new vector.
        Self(FREE.try_with(Cell::take).ok().flatten().unwrap_or_default())
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.capacity() <= Self::KEPT_BYTES {
            self.0.clear();
            let bytes = std::mem::take(&mut self.0);
            let _ = FREE.try_with(|free| free.set(Some(bytes)));
        }
    }
}
