//! The record of an object: the words before its body, and what kinds there are.
//!
//! | word | holds |
//! |---|---|
//! | 0 | generation: unique in the life of the segment; what makes a handle to an older object stale |
//! | 1 | kind (low half), words of the table of parts at the end of the body |
//! | 2 | size (low half) and alignment of the type |
//! | 3 | hash of the type's name |
//! | 4 | 32-bit words (low half) and 64-bit words of the body |
//! | 5 | reasons: pin rows (by their class) and names that may keep it; who drops it last must look there |
//! | 6.. | holders: one bit per slot (of a run: in the run table instead) |
//!
//! Of a part (`tie`): 2 the object that it belongs to, 3 its place in that object's table, 5 that object's generation.
//!
//! Words 0 to 4 are written while the block is PENDING and do not change while it is LIVE; of 5 bits are only set, and the
//! entry once.

/// Word indices.
pub(crate) const GENERATION: u64 = 0;
pub(crate) const KIND: u64 = 1;
pub(crate) const SHAPE: u64 = 2;
pub(crate) const NAME: u64 = 3;
pub(crate) const WORDS: u64 = 4;
pub(crate) const REASONS: u64 = 5;
pub(crate) const HOLDERS: u64 = 6;

/// Low bits of REASONS: classes of pin rows of which one may name it.
pub(crate) const PIN_CLASSES: u64 = 24;
/// In REASONS: it may have names beside the first one.
pub(crate) const NAMES: u64 = 1 << PIN_CLASSES;
/// The rest of REASONS: where the entry of its first name was, as [`first_name`] packs it. 0: it had none.
pub(crate) const FIRST_NAME: u64 = u64::MAX << FIRST_NAME_SHIFT;
const FIRST_NAME_SHIFT: u64 = PIN_CLASSES + 1;

/// Bits of FIRST_NAME for the entry at that offset. 0: none that fits.
pub(crate) const fn first_name(entry: u64) -> u64 {
    let bits = (entry / 64) << FIRST_NAME_SHIFT;
    if entry_of(bits) == entry { bits } else { 0 }
}

/// The entry that FIRST_NAME speaks of.
pub(crate) const fn entry_of(reasons: u64) -> u64 {
    (reasons >> FIRST_NAME_SHIFT) * 64
}

/// What the kind's word says: the kind's number, and how many parts there can be.
pub(crate) const fn kind_and_parts(word: u64) -> (u64, u64) {
    (word & u32::MAX as u64, word >> 32)
}

/// What an object is. The numbers are part of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Kind {
    /// `SharedValue` with the robust lock.
    Value = 1,
    /// `SharedValue` without a lock.
    Unlocked = 2,
    /// `SharedAtomic`.
    Atomic = 3,
    /// `SharedValue` with the lock of crate raw_sync.
    #[cfg(feature = "raw_sync")]
    RawSyncValue = 4,
    /// A pool's slots and queue.
    PoolRing = 5,
    /// Bytes of a large argument or result.
    Buffer = 6,
    /// `SharedArray` with claims on ranges.
    Array = 7,
    /// `SharedArray` without.
    UnlockedArray = 8,
    /// The chunks of an array that are to do.
    Claims = 9,
    /// `SharedMap`.
    Map = 10,
    /// A name of an object: see `names`.
    Name = 14,
    /// The names of one bucket.
    NameList = 15,
}

impl Kind {
    /// As it is called in messages.
    pub(crate) fn describe(number: u64) -> &'static str {
        match number {
            1 => "a SharedValue",
            2 => "an unlocked SharedValue",
            3 => "a SharedAtomic",
            4 => "a SharedValue with raw_sync's lock",
            5 => "a pool",
            6 => "a buffer",
            7 => "a SharedArray",
            8 => "an unlocked SharedArray",
            9 => "the claims of a SharedArray",
            10 => "a SharedMap",
            14 => "a name",
            15 => "a list of names",
            _ => "no object that we know",
        }
    }
}

/// Size, alignment and name of a type, compared when a handle is decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) size: u32,
    pub(crate) align: u32,
    pub(crate) name: u64,
}

impl Stamp {
    /// For objects without an element type.
    pub(crate) const NONE: Self = Self { size: 0, align: 1, name: 0 };

    /// Of `T`: its name counts by the last segment of each path in it, so that a type may move between modules.
    pub(crate) fn of<T>() -> Self {
        const { assert!(size_of::<T>() <= u32::MAX as usize, "the type is too large") }
        Self { size: size_of::<T>() as u32, align: align_of::<T>() as u32, name: hash_of::<T>() }
    }

    pub(crate) fn shape(self) -> u64 {
        u64::from(self.size) | u64::from(self.align) << 32
    }
}

/// The parts of the type's name that are not paths, in order.
fn short_parts<T>() -> impl Iterator<Item = &'static str> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    std::any::type_name::<T>()
        .split_inclusive(move |c| !is_path(c))
        .map(|part| part.rsplit("::").next().unwrap_or(part))
}

/// The type's name without the paths in it.
pub(crate) fn short_name<T>() -> String {
    short_parts::<T>().collect()
}

/// FNV-1a of the short name: fixed across builds, and made without the string, since every new object asks.
fn hash_of<T>() -> u64 {
    let bytes = short_parts::<T>().flat_map(str::bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_paths_only() {
        assert_eq!(short_name::<Option<std::num::NonZeroU8>>(), "Option<NonZero<u8>>");
        assert_eq!(short_name::<[u64; 3]>(), "[u64; 3]");
        assert_ne!(Stamp::of::<i64>(), Stamp::of::<u64>());
    }
}
