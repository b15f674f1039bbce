//! The segment's bytes, as words at checked offsets: the one place where an offset becomes a reference.
//!
//! Every word is an atomic, so a reference to one is sound whatever other processes write there. Which offsets have
//! *memory* behind them is the business of `extents`; a wrong offset here is our own bug and panics.
#![allow(unsafe_code, reason = "from an offset to a reference")]

use crate::{
    atomic::{Word32, Word64},
    os::memory::Mapping,
};
use std::ptr::NonNull;

/// A mapped segment.
#[derive(Debug)]
pub(crate) struct Bytes(Mapping);

impl Bytes {
    pub(crate) fn new(mapping: Mapping) -> Self {
        Self(mapping)
    }

    /// Where they begin.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.base()
    }

    #[inline]
    fn at(&self, offset: u64, bytes: u64, align: u64) -> NonNull<u8> {
        let end = offset.checked_add(bytes);
        assert!(
            end.is_some_and(|end| end <= self.0.bytes() as u64) && offset.is_multiple_of(align),
            "offset {offset:#x} (+{bytes}) is outside of the segment"
        );
        // SAFETY: the result stays within the mapping, by the assertion.
        unsafe { self.0.base().add(offset as usize) }
    }

    /// The 64-bit word at `offset`.
    #[inline]
    pub(crate) fn w64(&self, offset: u64) -> &Word64 {
        // SAFETY: in bounds and aligned, by `at`; mapped as long as `self`; any bytes are a valid atomic.
        unsafe { self.at(offset, 8, 8).cast().as_ref() }
    }

    /// `len` 64-bit words from `offset`.
    #[inline]
    pub(crate) fn words64(&self, offset: u64, len: usize) -> &[Word64] {
        let start = self.at(offset, len as u64 * 8, 8);
        // SAFETY: in bounds and aligned, by `at`; mapped as long as `self`; any bytes are valid atomics.
        unsafe { std::slice::from_raw_parts(start.cast().as_ptr(), len) }
    }

    /// `len` 32-bit words from `offset`.
    #[inline]
    pub(crate) fn words32(&self, offset: u64, len: usize) -> &[Word32] {
        let start = self.at(offset, len as u64 * 4, 4);
        // SAFETY: in bounds and aligned, by `at`; mapped as long as `self`; any bytes are valid atomics.
        unsafe { std::slice::from_raw_parts(start.cast().as_ptr(), len) }
    }

    /// Where `word` is, if it is one of ours.
    pub(crate) fn offset_of(&self, word: &Word32) -> Option<u64> {
        (word.as_ptr() as usize)
            .checked_sub(self.0.base().as_ptr() as usize)
            .map(|d| d as u64)
            .filter(|&d| d < self.0.bytes() as u64)
    }
}
