//! What one process alone knows of an array's claims: which thread has which entry.

use super::table::MASK;
use crate::{
    atomic::{Private32, Private64},
    segment::owner::{OWNER_BITS, Owner},
};

/// Rows that one process uses at most: so many times [`ENTRIES`] claims at a time.
pub(super) const OWN_ROWS: usize = if cfg!(loom) { 1 } else { 16 };

/// What only this process knows of an array's claims: which thread has which entry.
#[derive(Debug)]
pub(crate) struct Record {
    /// Held by a thread that takes a row: the process's name, so that a forked child does not wait for its parent.
    pub(super) lock: Private32,
    /// As whom the rest was written. Of another name (the parent's, after a fork) it says nothing.
    pub(super) of: Private32,
    pub(super) pid: Private32,
    /// Whose home the first entry of our first row is, see [`Who::name`]: no other thread uses it, nor writes its slot.
    pub(super) home: Private64,
    /// Of a freeze: 0, [`NONE_GRANTED`] or [`FROZEN_HERE`]. It stays in a forked child.
    pub(super) frozen: Private32,
    /// Claims to read, since the last of them that looked around set the bias: `bias`.
    pub(super) reads: Private32,
    /// How many rows are ours,
    pub(super) count: Private32,
    /// and which.
    pub(super) rows: [Private32; OWN_ROWS],
    pub(super) slots: [Slots; OWN_ROWS],
}

/// This process grants no exclusive claim any more.
pub(super) const NONE_GRANTED: u32 = 1;
/// And none of its threads has one: the elements can be read in place.
pub(super) const FROZEN_HERE: u32 = 2;

/// No thread's tag.
pub(super) const PARKED: u64 = u64::MAX;

/// The entries of one of our rows, as this process knows them.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
pub(super) struct Slots {
    /// The thread that has it, times two, plus one if exclusive; 0 if it is free, [`PARKED`] while that is found out.
    pub(super) tags: [Private64; MASK + 1],
    pub(super) spans: [Private64; MASK + 1],
}

impl Record {
    pub(crate) fn new() -> Self {
        let word = || Private32::new(0);
        let slots = || std::array::from_fn(|_| Private64::new(0));
        Self {
            lock: word(),
            of: word(),
            pid: word(),
            home: Private64::new(0),
            count: word(),
            frozen: word(),
            reads: word(),
            rows: std::array::from_fn(|_| word()),
            slots: std::array::from_fn(|_| Slots { tags: slots(), spans: slots() }),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) me: Owner,
    /// A number of this thread, not 0, below 2^34.
    pub(crate) thread: u64,
}

impl Who {
    /// One name for both, never 0: a record that a fork has copied names nobody here.
    #[inline(always)]
    pub(super) fn name(self) -> u64 {
        self.thread << OWNER_BITS.count_ones() | u64::from(self.me.bits())
    }

    #[inline(always)]
    pub(super) fn tag(self, exclusive: bool) -> u64 {
        self.thread << 1 | u64::from(exclusive)
    }
}
