//! Where everything is in a segment, and whether bytes are one of ours.
//!
//! ```text
//! 0         header            magic, version, id, sizes; counters on lines of their own
//! 4096      process table     one row of 128 bytes per slot, slot 0 unused
//!           extent table      one word per extent of 1 MiB
//!           name table        one word per bucket of names: see `names`
//!           pin table         rows of 64 bytes, given memory as they are used
//!           run table         one row per extent, given memory as they are used: see `extents`
//! 1 MiB * k extents           blocks and runs: see `extents`
//! reserve   end               address space; memory comes extent by extent
//! ```
//!
//! The geometry follows from two numbers, `reserve` and `max_processes`, so an attacher checks those and computes the
//! rest; nothing else in the header is used as an address.
//!
//! Invariants: (1) words 1..=5 never change after `magic` was stored; (2) `magic` is stored last, with Release, so who
//! loads it with Acquire sees a whole header. Killed before that store: nobody else has the file yet (it is a memfd, or
//! has no name). (3) Of a named segment words 0 to 6 keep their places in all versions: they say whether it may be swept.

use super::names::BUCKETS;
use crate::{
    error::{CreateError, Resource},
    os::memory,
};

/// First word of a segment.
pub(crate) const MAGIC: u64 = u64::from_ne_bytes(*b"allmend\x1a");
/// Changes with every change of this layout.
pub(crate) const VERSION: u64 = 4;

/// Unit of growth: memory is found and accounted for in extents of this many bytes.
pub(crate) const EXTENT: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Bytes of a row of the process table: two cache lines, the second for wait records.
pub(crate) const ROW: u64 = 128;
/// Bytes of a row of the pin table.
pub(crate) const PIN_ROW: u64 = 64;
/// Rows of the pin table.
pub(crate) const PIN_ROWS: u64 = 1 << 16;

/// Offsets of the header's words.
pub(crate) mod header {
    pub(crate) const MAGIC: u64 = 0;
    pub(crate) const VERSION: u64 = 8;
    pub(crate) const ID: u64 = 16; // two words
    pub(crate) const RESERVE: u64 = 32;
    pub(crate) const MAX_PROCESSES: u64 = 40;
    /// Of a named segment: 1 if it stays when the last process leaves.
    pub(crate) const PERSIST: u64 = 48;
    /// The next object's generation, or number of a tie between an object and a part.
    pub(crate) const GENERATION: u64 = 64;
    /// Where the next attacher begins to look for a slot.
    pub(crate) const SLOT_HINT: u64 = 128;
    /// Extents `0..this` have been used at least once.
    pub(crate) const EXTENTS_USED: u64 = 192;
    /// Pin rows `0..this` have memory.
    pub(crate) const PINS_COMMITTED: u64 = 256;
    /// Pin rows `0..this` have been used at least once.
    pub(crate) const PINS_USED: u64 = 264;
    /// Where the next who pins begins to look for a row.
    pub(crate) const PIN_HINT: u64 = 272;
    /// Of a named segment: bytes of its name, and these.
    pub(crate) const NAME_BYTES: u64 = 512;
    pub(crate) const NAME: u64 = 520;
}

/// Most processes of one segment: the slot part of an owner id has 10 bits, and slot 0 is reserved.
pub(crate) const MOST_PROCESSES: u32 = 1023;

const fn holder_words(max_processes: u32) -> u64 {
    max_processes as u64 / 64 + 1
}

/// Bytes of a row of the run table.
const fn run_row(max_processes: u32) -> u64 {
    ((1 + holder_words(max_processes)) * 8).next_multiple_of(32)
}

/// The offsets of one segment's parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    /// Bytes of address space, a multiple of [`EXTENT`].
    pub(crate) reserve: u64,
    /// Slots are `1..=max_processes`.
    pub(crate) max_processes: u32,
    /// The extent table.
    pub(crate) extents_at: u64,
    /// The name table.
    pub(crate) names_at: u64,
    /// The pin table.
    pub(crate) pins_at: u64,
    /// The run table.
    pub(crate) runs_at: u64,
    /// Index of the first extent that holds objects; those before it hold the tables.
    pub(crate) first_extent: u64,
    /// Index behind the last extent.
    pub(crate) extents: u64,
}

impl Geometry {
    /// `None` if no segment can have these sizes.
    pub(crate) fn new(reserve: u64, max_processes: u32) -> Option<Self> {
        if !(1..=MOST_PROCESSES).contains(&max_processes)
            || !reserve.is_multiple_of(EXTENT)
            || reserve > isize::MAX as u64
        {
            return None;
        }
        let extents = reserve / EXTENT;
        let extents_at = (PAGE + (u64::from(max_processes) + 1) * ROW).next_multiple_of(PAGE);
        let names_at = (extents_at + extents * 8).next_multiple_of(PAGE);
        let pins_at = names_at + BUCKETS * 8;
        let runs_at = pins_at + PIN_ROWS * PIN_ROW;
        let runs_end = runs_at + extents * run_row(max_processes);
        let first_extent = runs_end.div_ceil(EXTENT);
        (first_extent < extents).then_some(Self {
            reserve,
            max_processes,
            extents_at,
            names_at,
            pins_at,
            runs_at,
            first_extent,
            extents,
        })
    }

    /// What a process without wishes gets: as much address space as the machine has memory, within the limits.
    pub(crate) fn default_private() -> Result<Self, CreateError> {
        let wish = memory::physical_memory().clamp(1 << 30, 1 << 36);
        let reserve = wish.min(memory::file_size_limit()) / EXTENT * EXTENT;
        Self::new(reserve, super::DEFAULT_MAX_PROCESSES)
            .ok_or(CreateError::Full { bytes: wish, what: Resource::FileSize })
    }

    /// The row of `slot`.
    pub(crate) fn row_at(&self, slot: u32) -> u64 {
        debug_assert!(slot <= self.max_processes);
        PAGE + u64::from(slot) * ROW
    }

    /// The table word of extent `index`.
    pub(crate) fn extent_word_at(&self, index: u64) -> u64 {
        debug_assert!(index < self.extents);
        self.extents_at + index * 8
    }

    /// The word of a bucket of names.
    pub(crate) fn bucket_at(&self, index: u64) -> u64 {
        debug_assert!(index < BUCKETS);
        self.names_at + index * 8
    }

    /// The row of pin `index`.
    pub(crate) fn pin_at(&self, index: u64) -> u64 {
        debug_assert!(index < PIN_ROWS);
        self.pins_at + index * PIN_ROW
    }

    /// The row of the run that begins at extent `index`: a state word, then holder bits.
    pub(crate) fn run_row_at(&self, index: u64) -> u64 {
        debug_assert!(index < self.extents);
        self.runs_at + index * run_row(self.max_processes)
    }

    /// Bytes of a row of the run table.
    pub(crate) fn run_row_bytes(&self) -> u64 {
        run_row(self.max_processes)
    }

    /// Words of a holder bitmap: one bit per slot.
    pub(crate) fn holder_words(&self) -> u64 {
        holder_words(self.max_processes)
    }

    /// Bytes of an object's record, which lies before its body.
    pub(crate) fn record_bytes(&self) -> u64 {
        ((super::record::HOLDERS + self.holder_words()) * 8).next_multiple_of(64)
    }
}
