//! Who holds something: the identity of an attached process, as it is stored in shared words.
//!
//! ```text
//!  29                   10 9        0
//! | generation (20 bits)  | slot (10) |      bits 31 and 30 belong to the word that names the owner
//! ```
//!
//! Slot 0 and generation 0 do not exist, so an owner is never 0 and a word of zeros names nobody. A slot that is
//! used again gets the next generation: a dead owner is not mistaken for the process that has its slot now. (After
//! 2^20 - 1 attaches to *one* slot an id comes back; slots are handed out in turn, so that this is far away.)
//!
//! Bytes from the other side become an owner by [`Owner::from_bits`] only. Whether the slot is in this segment's
//! table is for the table to say. Compiled in every build, loom included: no dependency.

use std::{fmt, num::NonZeroU32};

const SLOT_BITS: u32 = 10;
const GENERATION_BITS: u32 = 20;

/// The bits of a word that may name an owner.
pub(crate) const OWNER_BITS: u32 = (1 << (SLOT_BITS + GENERATION_BITS)) - 1;
/// The last slot; the first is 1.
pub(crate) const MAX_SLOT: u32 = (1 << SLOT_BITS) - 1;
/// The last generation; the first is 1.
pub(crate) const MAX_GENERATION: u32 = (1 << GENERATION_BITS) - 1;

/// One attached process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner(NonZeroU32);

#[allow(dead_code, reason = "each room asks what it needs")]
impl Owner {
    /// The process in `slot` (1 to [`MAX_SLOT`]), the `generation`-th one there (1 to [`MAX_GENERATION`]).
    pub(crate) const fn new(generation: u32, slot: u32) -> Option<Self> {
        if generation > MAX_GENERATION || slot > MAX_SLOT {
            return None;
        }
        Self::from_bits(generation << SLOT_BITS | slot)
    }

    /// What `bits` name, if it can be an owner.
    pub(crate) const fn from_bits(bits: u32) -> Option<Self> {
        match NonZeroU32::new(bits) {
            Some(id) if bits & !OWNER_BITS == 0 && bits & MAX_SLOT != 0 && bits >> SLOT_BITS != 0 => {
                Some(Self(id))
            }
            _ => None,
        }
    }

    /// What this process itself has stored in its own memory: an owner's bits, or 0.
    #[inline(always)]
    pub(crate) const fn from_private(bits: u32) -> Option<Self> {
        match NonZeroU32::new(bits) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// As it is stored: never 0.
    #[inline(always)]
    pub(crate) const fn id(self) -> NonZeroU32 {
        self.0
    }

    /// As it is stored.
    #[inline]
    pub(crate) const fn bits(self) -> u32 {
        self.0.get()
    }

    /// Its place in the process table, from 1.
    pub(crate) const fn slot(self) -> u32 {
        self.bits() & MAX_SLOT
    }

    /// How many had that place until then, itself included.
    pub(crate) const fn generation(self) -> u32 {
        self.bits() >> SLOT_BITS
    }

    /// The generation that follows `generation` in a slot; never 0, whatever was found there.
    pub(crate) const fn next_generation(generation: u32) -> u32 {
        match generation.wrapping_add(1) & MAX_GENERATION {
            0 => 1,
            next => next,
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({}.{})", self.slot(), self.generation())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn zeros_and_flags_name_nobody() {
        for bits in
            [0, 1, MAX_SLOT, 1 << SLOT_BITS, 1 << 30 | 1 << SLOT_BITS | 1, 1 << 31 | 1 << SLOT_BITS | 1]
        {
            assert_eq!(Owner::from_bits(bits), None, "{bits:#x}");
        }
        assert_eq!((Owner::new(0, 1), Owner::new(1, 0)), (None, None));
        assert_eq!((Owner::new(MAX_GENERATION + 1, 1), Owner::new(1, MAX_SLOT + 1)), (None, None));
    }

    #[test]
    fn parts_come_back() {
        for (generation, slot) in [(1, 1), (1, MAX_SLOT), (MAX_GENERATION, 1), (MAX_GENERATION, MAX_SLOT)] {
            let owner = Owner::new(generation, slot).unwrap();
            assert_eq!((owner.generation(), owner.slot()), (generation, slot));
            assert_eq!(Owner::from_bits(owner.bits()), Some(owner));
        }
    }

    #[test]
    fn generations_skip_zero() {
        assert_eq!(Owner::next_generation(0), 1);
        assert_eq!(Owner::next_generation(MAX_GENERATION), 1);
        assert_eq!(Owner::next_generation(u32::MAX), 1);
        assert_eq!(Owner::next_generation(41), 42);
    }
}
