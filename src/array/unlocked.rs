//! Arrays without claims: each element is read and written as one atomic of its own width, and there is no slice of them.
//!
//! Killed here? Each operation is one store.

use super::{
    SharedArray,
    hold::{Body, ElementWord},
};
use crate::{
    atomic::{AcqRel, Acquire, Release, Word8, Word16, Word32, Word64},
    error::{ArrayError, CreateError},
    number::{Atomic, Number},
    segment::Segment,
    sync::Unlocked,
};
use bytemuck::Pod;
use std::sync::Arc;

impl<T: Pod> SharedArray<T> {
    /// `len` zeros without locks: each element is one atomic, of 1, 2, 4 or 8 bytes and aligned to its size.
    ///
    /// ```
    /// let counts = allmend::SharedArray::<u32>::unlocked(4)?;
    /// counts.fetch_add(2, 5)?;
    /// assert_eq!(counts.to_vec(), [0, 0, 5, 0]);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    ///
    /// Any other element type does not compile:
    ///
    /// ```compile_fail,E0080
    /// let wide = allmend::SharedArray::<[u8; 3]>::unlocked(4);
    /// ```
    ///
    /// # Errors
    /// As [`SharedArray::new`].
    pub fn unlocked(len: usize) -> Result<SharedArray<T, Unlocked>, CreateError> {
        SharedArray::place_unlocked(&Segment::default_segment()?, len)
    }
}

impl<T: Pod> SharedArray<T, Unlocked> {
    const FIT: () = assert!(
        matches!(size_of::<T>(), 1 | 2 | 4 | 8) && align_of::<T>() == size_of::<T>(),
        "elements of an unlocked array have 1, 2, 4 or 8 bytes, and are aligned to their size"
    );

    /// A new one in that segment.
    pub(crate) fn place_unlocked(segment: &Arc<Segment>, len: usize) -> Result<Self, CreateError> {
        const { Self::FIT };
        Self::place(segment, len)
    }

    /// Element `index`, as a word of its width.
    fn word<W: ElementWord>(&self, index: usize) -> Result<&W, ArrayError> {
        const { Self::FIT };
        if index >= self.len() {
            return Err(ArrayError::Index { index, len: self.len() });
        }
        let body: &Body = self.body();
        Ok(&body.words::<W>()[self.start() + index])
    }

    fn inherit(&self) {
        if self.object.holder_now().is_none() {
            self.object.inherit();
        }
    }

    /// A look, which a process can take that is no part of the segment.
    fn look<R>(&self, look: impl FnOnce() -> R) -> R {
        if self.object.holder_now().is_none() {
            return self.object.inherit_to_look(look);
        }
        look()
    }

    fn load(&self, index: usize) -> Result<u64, ArrayError> {
        Ok(match size_of::<T>() {
            1 => u64::from(self.word::<Word8>(index)?.load(Acquire)),
            2 => u64::from(self.word::<Word16>(index)?.load(Acquire)),
            4 => u64::from(self.word::<Word32>(index)?.load(Acquire)),
            _ => self.word::<Word64>(index)?.load(Acquire),
        })
    }

    /// One element, never torn (acquires).
    ///
    /// # Errors
    /// [`ArrayError::Index`].
    ///
    /// # Panics
    /// If the array is gone, as [`is_frozen`](SharedArray::is_frozen).
    pub fn get(&self, index: usize) -> Result<T, ArrayError> {
        self.look(|| self.load(index)).map(from_bits)
    }

    /// Writes one element (releases).
    ///
    /// # Errors
    /// [`ArrayError::Index`].
    ///
    /// # Panics
    /// In a manager that is open for reading only. In a forked child that gets no place of its own, or whose parent dropped
    /// the array before the child first used it.
    pub fn set(&self, index: usize, value: T) -> Result<(), ArrayError> {
        self.inherit();
        let bits = to_bits(value);
        match size_of::<T>() {
            1 => self.word::<Word8>(index)?.store(bits as u8, Release),
            2 => self.word::<Word16>(index)?.store(bits as u16, Release),
            4 => self.word::<Word32>(index)?.store(bits as u32, Release),
            _ => self.word::<Word64>(index)?.store(bits, Release),
        }
        Ok(())
    }

    /// Copies out, element by element: each is whole, all together are of no one moment.
    ///
    /// # Panics
    /// If the array is gone, as [`is_frozen`](SharedArray::is_frozen).
    pub fn to_vec(&self) -> Vec<T> {
        self.look(|| (0..self.len()).map_while(|i| self.load(i).ok()).map(from_bits).collect())
    }

    fn exchange(&self, index: usize, current: u64, new: u64) -> Result<Result<u64, u64>, ArrayError> {
        fn wide<W: Into<u64>>(result: Result<W, W>) -> Result<u64, u64> {
            result.map(Into::into).map_err(Into::into)
        }
        Ok(match size_of::<T>() {
            1 => wide(self.word::<Word8>(index)?.compare_exchange(current as u8, new as u8, AcqRel, Acquire)),
            2 => wide(self.word::<Word16>(index)?.compare_exchange(
                current as u16,
                new as u16,
                AcqRel,
                Acquire,
            )),
            4 => wide(self.word::<Word32>(index)?.compare_exchange(
                current as u32,
                new as u32,
                AcqRel,
                Acquire,
            )),
            _ => self.word::<Word64>(index)?.compare_exchange(current, new, AcqRel, Acquire),
        })
    }
}

impl<T: Pod + Atomic> SharedArray<T, Unlocked> {
    /// Writes `new` if the element is bitwise `current`: `Ok(old)`, or `Err(what was there)`, as
    /// [`SharedAtomic::compare_exchange`](crate::SharedAtomic::compare_exchange).
    ///
    /// # Errors
    /// [`ArrayError::Index`].
    ///
    /// # Panics
    /// As [`set`](Self::set).
    pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<Result<T, T>, ArrayError> {
        self.inherit();
        let done = self.exchange(index, to_bits(current), to_bits(new))?;
        Ok(done.map(from_bits).map_err(from_bits))
    }
}

impl<T: Pod + Number> SharedArray<T, Unlocked> {
    /// Adds to one element (integers wrap around) and gives the old value.
    ///
    /// # Errors
    /// [`ArrayError::Index`].
    ///
    /// # Panics
    /// As [`set`](Self::set).
    pub fn fetch_add(&self, index: usize, n: T) -> Result<T, ArrayError> {
        self.inherit();
        let mut seen = self.load(index)?;
        loop {
            let old: T = from_bits(seen);
            match self.exchange(index, seen, to_bits(old.plus(n)))? {
                Ok(_) => return Ok(old),
                Err(other) => seen = other,
            }
        }
    }
}

/// The low bytes of a word, in the machine's order, whichever that is.
pub(super) fn to_bits<T: Pod>(value: T) -> u64 {
    let bytes = bytemuck::bytes_of(&value);
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
        _ => bytes.try_into().map(u64::from_ne_bytes).expect("elements of at most 8 bytes"),
    }
}

fn from_bits<T: Pod>(bits: u64) -> T {
    match size_of::<T>() {
        1 => bytemuck::pod_read_unaligned(&[bits as u8]),
        2 => bytemuck::pod_read_unaligned(&(bits as u16).to_ne_bytes()),
        4 => bytemuck::pod_read_unaligned(&(bits as u32).to_ne_bytes()),
        _ => bytemuck::pod_read_unaligned(&bits.to_ne_bytes()),
    }
}
