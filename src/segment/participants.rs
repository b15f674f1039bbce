//! The process table: who takes part in a segment, and how a process gets and loses its identity.
//!
//! A row of 16 words per slot:
//!
//! | word | holds |
//! |---|---|
//! | 0 | generation of the last owner of the slot |
//! | 1 | its process id, for display only |
//! | 2 | 1 while anything in the segment may carry this slot's mark (holder bits, claims, pins) |
//! | 8..16 | wait records: offset of a lock word / 4 (high 34 bits), owner it waits for (low 30 bits) |
//!
//! Whether an owner lives is not in the table: it is the OFD lock on byte `ALIVE + owner` (see `os::liveness`).
//!
//! **Attach** takes no lock in the segment: (1) lock byte `slot`: this is the slot's allocation; (2) if word 2 says
//! so, clear what the slot's last owner left; (3) generation += 1; (4) lock byte `ALIVE + owner`; (5) word 2 = 1,
//! process id; (6) anchor the description, close its descriptor.
//!
//! Invariants
//! 1. Marks of slot `s` are made only by the process that holds byte `s`, and cleared for a dead one only by a process
//!    that holds byte `s`: so a repair never races with a new owner of the slot or with another repair of it.
//! 2. Word 2 is 1 before the first mark and 0 only after the last is gone.
//!
//! Killed here? Before (3): the slot is free again. After: a generation is skipped, word 2 stays 1, and the next who
//! gets byte `s` clears the marks again; every step of that is idempotent.

use super::{bytes::Bytes, layout::Geometry, owner::Owner};
use crate::{
    atomic::{AcqRel, Acquire, Relaxed, Release, Word64},
    error::{CreateError, OsError},
    os::{
        liveness::{self, DescriptorsLost, Observer},
        memory::Anchor,
    },
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// Byte `ALIVE + owner` is locked as long as the owner lives. Far behind the end of every segment.
const ALIVE: u64 = 1 << 40;

const GENERATION: u64 = 0;
const PID: u64 = 1;
const MARKS: u64 = 2;
const WAITS: u64 = 8;
const WAIT_RECORDS: u64 = 8;
const OWNER_BITS: u64 = 30;

/// The table of one segment, for as long as a call lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Participants<'a> {
    pub(crate) bytes: &'a Bytes,
    pub(crate) geometry: &'a Geometry,
    pub(crate) observer: &'a Observer,
}

/// Where in the segment the process id of a slot's owner is.
pub(super) fn pid_at(geometry: &Geometry, slot: u32) -> u64 {
    geometry.row_at(slot) + PID * 8
}

/// The exclusive right to clear what the dead owners of a slot left. Given back on drop.
#[derive(Debug)]
pub(crate) struct DeadSlot {
    slot: u32,
    _description: OwnedFd,
}

impl DeadSlot {
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }
}

impl<'a> Participants<'a> {
    fn word(&self, slot: u32, word: u64) -> &'a Word64 {
        self.bytes.w64(self.geometry.row_at(slot) + word * 8)
    }

    /// Gets this process an identity, through a description that is its alone: the caller closes it. `clear(me)` is
    /// called if the slot's last owner left marks.
    pub(crate) fn attach(
        &self,
        description: BorrowedFd<'_>,
        clear: impl Fn(Owner),
    ) -> Result<(Owner, Anchor), CreateError> {
        let max = self.geometry.max_processes;
        // Relaxed: only spreads newcomers over the slots, so that generations do not wrap.
        let hint = self.bytes.w64(super::layout::header::SLOT_HINT).fetch_add(1, Relaxed) as u32;
        for slot in (0..max).map(|i| 1 + hint.wrapping_add(i) % max) {
            if !liveness::try_lock_byte(description, u64::from(slot))? {
                continue;
            }
            let generation = self.word(slot, GENERATION);
            // Relaxed: the kernel's file lock orders us behind the slot's last owner.
            let next = Owner::next_generation(generation.load(Relaxed) as u32);
            let Some(owner) = Owner::new(next, slot) else { continue };
            generation.store(u64::from(owner.generation()), Relaxed);
            if !liveness::try_lock_byte(description, ALIVE + u64::from(owner.bits()))? {
                continue; // somebody who is not of our kind holds it
            }
            let marks = self.word(slot, MARKS);
            if marks.load(Acquire) != 0 {
                clear(owner);
            }
            self.clear_waits(slot);
            marks.store(1, Release);
            self.word(slot, PID).store(u64::from(std::process::id()), Relaxed);
            return Ok((owner, Anchor::new(description)?));
        }
        Err(CreateError::TooManyProcesses { max })
    }

    /// Does `owner`, who is not `me`, live? `Ok(false)` is the licence to take over what it held.
    pub(crate) fn is_alive(&self, owner: Owner, me: Owner) -> Result<bool, DescriptorsLost> {
        if owner == me || self.observer.is_locked(ALIVE + u64::from(owner.bits()))? {
            return Ok(true);
        }
        // Before a death is believed: is this still our file, and do we see our own byte locked in it?
        self.observer.checked()?;
        if self.observer.is_locked(ALIVE + u64::from(me.bits()))? { Ok(false) } else { Err(DescriptorsLost) }
    }

    /// The process id that `owner` gave, if its row still speaks of it. For messages only.
    pub(crate) fn pid_of(&self, owner: Owner) -> Option<u32> {
        if owner.slot() > self.geometry.max_processes {
            return None;
        }
        let pid = self.word(owner.slot(), PID).load(Relaxed);
        let same = self.word(owner.slot(), GENERATION).load(Relaxed) == u64::from(owner.generation());
        u32::try_from(pid).ok().filter(|&pid| same && pid != 0)
    }

    /// The process id that the last owner of `slot` gave. For messages only.
    pub(crate) fn pid_in(&self, slot: u32) -> Option<u32> {
        if slot > self.geometry.max_processes {
            return None;
        }
        u32::try_from(self.word(slot, PID).load(Relaxed)).ok().filter(|&pid| pid != 0)
    }

    /// Slots whose owners are dead and left marks, each with the exclusive right to clear them.
    pub(crate) fn dead_slots(&self, me: Owner) -> impl Iterator<Item = DeadSlot> + 'a {
        let this = *self;
        (1..=this.geometry.max_processes).filter_map(move |slot| {
            if slot == me.slot() || this.word(slot, MARKS).load(Acquire) == 0 {
                return None;
            }
            // A look through the observer is cheap; only if it says "free" a description of our own is opened.
            if this.observer.is_locked(u64::from(slot)) != Ok(false) {
                return None;
            }
            let description = liveness::reopen(this.observer.checked().ok()?).ok()?;
            let locked = liveness::try_lock_byte(description.as_fd(), u64::from(slot));
            matches!(locked, Ok(true)).then_some(DeadSlot { slot, _description: description })
        })
    }

    fn clear_waits(&self, slot: u32) {
        for i in 0..WAIT_RECORDS {
            super::extents::clear(self.word(slot, WAITS + i));
        }
    }

    /// All marks of the slot are gone.
    pub(crate) fn cleared(&self, dead: &DeadSlot) {
        self.clear_waits(dead.slot);
        // Release: the clearing is seen by whoever attaches to the slot and loads this with Acquire.
        self.word(dead.slot, MARKS).store(0, Release);
    }

    /// May anything in the segment carry the mark of this slot?
    pub(crate) fn has_marks(&self, slot: u32) -> bool {
        slot <= self.geometry.max_processes && self.word(slot, MARKS).load(Acquire) != 0
    }

    /// How many processes live now.
    pub(crate) fn living(&self) -> Result<u32, OsError> {
        let alive = |slot: &u32| self.observer.is_locked(u64::from(*slot)) == Ok(true);
        Ok((1..=self.geometry.max_processes).filter(alive).count() as u32)
    }

    /// Notes that a thread of `me` is about to sleep on the lock word at `offset`, held by `owner`.
    pub(crate) fn note_wait(&self, me: Owner, offset: u64, owner: Owner) -> Option<u64> {
        let record = (offset / 4) << OWNER_BITS | u64::from(owner.bits());
        (0..WAIT_RECORDS).find(|i| {
            // AcqRel: the note is there before the sleep; pairs with the Acquire of `waits_for`.
            self.word(me.slot(), WAITS + i).compare_exchange(0, record, AcqRel, Relaxed).is_ok()
        })
    }

    /// That thread is awake again.
    pub(crate) fn forget_wait(&self, me: Owner, record: u64) {
        self.word(me.slot(), WAITS + record).store(0, Relaxed);
    }

    /// Offsets of lock words on which somebody waits for `dead`, and of those on which `dead` itself waited: it may
    /// have been the one that was woken. They come from shared bytes: check them.
    pub(crate) fn waits_for(&self, dead: Owner) -> Vec<u64> {
        let records = (1..=self.geometry.max_processes)
            .flat_map(|slot| (0..WAIT_RECORDS).map(move |i| (slot, WAITS + i)))
            .map(|(slot, word)| (slot, self.word(slot, word).load(Acquire)));
        records
            .filter(|&(slot, record)| {
                let expected = record & ((1 << OWNER_BITS) - 1);
                record != 0 && (slot == dead.slot() || expected == u64::from(dead.bits()))
            })
            .map(|(_, record)| (record >> OWNER_BITS) * 4)
            .collect()
    }
}
