//! Memory inside a segment: extents, and blocks in them. No lock, no free list: what is free is what its word says.
//!
//! **Extent word** (one per MiB, in the extent table; low 3 bits are the tag):
//!
//! | tag | rest | meaning | who changes it |
//! |---|---|---|---|
//! | FREE | 0 | unused (its pages may stay) | anybody, by CAS to CLAIMED |
//! | CLAIMED | owner | being made into something | its owner; anybody, once that is dead |
//! | SLAB | class | equal blocks of `size(class)` bytes, for ever | nobody |
//! | RUN | n | first of `n` extents that are one block | who frees the block |
//! | TAIL | head | one of the others | who frees the block |
//!
//! **Block state word** (of a slab: in the table at the extent's start; of a run: in the run table, with its holders):
//!
//! | tag | rest | meaning |
//! |---|---|---|
//! | FREE | 0 | |
//! | PENDING | owner | being made, or (runs) being taken apart |
//! | LIVE | 0 | an object: see `keep` for how long |
//! | LIVE | number | PART: belongs to an object, and goes with it: see `tie` |
//! | DYING | owner | its owner believes that nobody keeps it, and looks once more |
//!
//! ```text
//! FREE --CAS--> PENDING(me) --store--> LIVE --CAS--> DYING(me) --CAS--> FREE        (slab)
//!                    ^                   ^--- CAS ------'  '--CAS--> PENDING(me) -> extents FREE   (run)
//! ```
//!
//! Invariants
//! 1. A claim is one CAS, and names the claimer: what a dead process claimed is found by scanning for its id.
//! 2. A block is LIVE only after its memory is committed and its record is whole.
//! 3. An owner id is never reused in practice (20-bit generation per slot), so a CAS from `X(dead)` cannot hit a
//!    later `X` of the same id.
//! 4. SLAB extents stay what they are, so an offset once valid for a class stays aligned to it: a stale handle
//!    reads a record, never the middle of one.
//!    The memory of a run becomes anything, so what a stale handle may *write* (state, holders) is in the run table,
//!    in a row that is never used for anything but the run that begins at that extent.
//! 5. Of a run, the head is published last and freed last; TAIL(h) words exist only while `h` is CLAIMED or RUN.
//!
//! Killed here? After a claim: CLAIMED or PENDING of a dead owner, freed by [`Extents::sweep_extent`] and `keep`.
//! Between the tails and the head of a run: the tails name a head that is CLAIMED by a dead owner, freed with it.
//! While a run is taken apart: PENDING of a dead owner, taken apart again from the start; each step is idempotent.
//!
//! Orderings: a claim is AcqRel (pairs with the Release that freed); publishing (SLAB, RUN, LIVE) is Release and pairs
//! with the Acquire of whoever reads the word before it touches what the word describes.

pub(crate) use super::state::State;
use super::{
    bytes::Bytes,
    layout::{EXTENT, Geometry, header},
    owner::Owner,
    record,
};
use crate::{
    atomic::{AcqRel, Acquire, Relaxed, Release, Word64},
    error::{CreateError, OsError, Resource},
    os::{liveness::Observer, memory},
};

/// Size classes of slab blocks: powers of two for objects, and some with room for a power of two behind a record,
/// which only parts ask for.
pub(super) const CLASSES: usize = OBJECT_CLASSES + PART_CLASSES;
const OBJECT_CLASSES: usize = 11;
const PART_CLASSES: usize = 4;
const SMALLEST: u64 = 128;
const SMALLEST_PART: u64 = 1024;
/// The largest record: see `layout::Geometry::record_bytes`.
const RECORD_ROOM: u64 = 192;

/// Bytes of a block of that class.
const fn size(class: u8) -> u64 {
    match (class as usize).checked_sub(OBJECT_CLASSES) {
        None => SMALLEST << class,
        Some(step) => (SMALLEST_PART << (2 * step)) + RECORD_ROOM,
    }
}

/// What an extent word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    Free,
    Claimed(Owner),
    Slab(u8),
    Run(u64),
    Tail(u64),
}

impl Extent {
    pub(crate) fn encode(self) -> u64 {
        match self {
            Extent::Free => 0,
            Extent::Claimed(owner) => 1 | u64::from(owner.bits()) << 3,
            Extent::Slab(class) => 2 | u64::from(class) << 3,
            Extent::Run(n) => 3 | n << 3,
            Extent::Tail(head) => 4 | head << 3,
        }
    }

    /// `None` for a word that we never write.
    pub(crate) fn decode(word: u64) -> Option<Self> {
        let rest = word >> 3;
        match word & 7 {
            0 if rest == 0 => Some(Extent::Free),
            1 => u32::try_from(rest).ok().and_then(Owner::from_bits).map(Extent::Claimed),
            2 if rest < CLASSES as u64 => Some(Extent::Slab(rest as u8)),
            3 if rest > 0 => Some(Extent::Run(rest)),
            4 => Some(Extent::Tail(rest)),
            _ => None,
        }
    }
}

/// A place for an object: its state word, its record, and how much room there is from the record on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    /// Offset of the state word.
    pub(crate) state_at: u64,
    /// Offset of the holder bits.
    pub(crate) holders_at: u64,
    /// Offset of the record; the block's name in handles.
    pub(crate) at: u64,
    /// Bytes from `at` to the end of the block.
    pub(crate) bytes: u64,
    extent: u64,
    kind: BlockKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BlockKind {
    Slab(u8),
    Run(u64),
}

/// Blocks of a slab of `class`: how many, and where the first begins in its extent.
const fn slab(class: u8) -> (u64, u64) {
    let size = size(class);
    let mut n = EXTENT / (size + 8);
    loop {
        let first = (n * 8).next_multiple_of(64);
        if first + n * size <= EXTENT {
            return (n, first);
        }
        n -= 1;
    }
}

/// Where a run's record begins in its first extent.
const RUN_RECORD: u64 = 64;

/// The smallest class of objects with room for `bytes`.
fn class_for(bytes: u64) -> Option<u8> {
    (0..OBJECT_CLASSES as u8).find(|&class| size(class) >= bytes)
}

/// The smallest class at all with room for `bytes`.
fn class_for_part(bytes: u64) -> Option<u8> {
    (0..CLASSES as u8).filter(|&class| size(class) >= bytes).min_by_key(|&class| size(class))
}

/// What this process remembers of the allocator; only ever a hint.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    freed: [Vec<u64>; CLASSES],
    cursor: [Cursor; CLASSES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    extent: u64,
    index: u64,
}

const HINTS: usize = 4096;

/// The allocator of one segment, for as long as a call lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents<'a> {
    pub(crate) bytes: &'a Bytes,
    pub(crate) geometry: &'a Geometry,
    pub(crate) observer: &'a Observer,
}

impl<'a> Extents<'a> {
    pub(crate) fn word(&self, index: u64) -> &'a Word64 {
        self.bytes.w64(self.geometry.extent_word_at(index))
    }

    pub(crate) fn state(&self, block: &Block) -> &'a Word64 {
        self.bytes.w64(block.state_at)
    }

    /// Extents that hold objects and were ever used.
    pub(crate) fn used(&self) -> std::ops::Range<u64> {
        // Relaxed: a hint of how far to look; extents beyond it are FREE, or belong to a process that is at it now.
        let used = self.bytes.w64(header::EXTENTS_USED).load(Relaxed);
        self.geometry.first_extent..used.clamp(self.geometry.first_extent, self.geometry.extents)
    }

    /// The block whose record is at `offset`, if there can be one. The offset may come from anywhere.
    pub(crate) fn locate(&self, offset: u64) -> Option<Block> {
        let extent = offset / EXTENT;
        if !(self.geometry.first_extent..self.geometry.extents).contains(&extent) {
            return None;
        }
        let within = offset % EXTENT;
        match Extent::decode(self.word(extent).load(Acquire))? {
            Extent::Slab(class) => {
                let (n, first) = slab(class);
                let size = size(class);
                let index = within.checked_sub(first)? / size;
                (index < n && first + index * size == within).then(|| self.slab_block(extent, class, index))
            }
            Extent::Run(n) if within == RUN_RECORD && n <= self.geometry.extents - extent => {
                Some(self.run_block(extent, n))
            }
            _ => None,
        }
    }

    /// The block that contains `offset`, anywhere in it.
    pub(crate) fn containing(&self, offset: u64) -> Option<Block> {
        let extent = offset / EXTENT;
        if !(self.geometry.first_extent..self.geometry.extents).contains(&extent) {
            return None;
        }
        match Extent::decode(self.word(extent).load(Acquire))? {
            Extent::Slab(class) => {
                let (n, first) = slab(class);
                let index = (offset % EXTENT).checked_sub(first)? / size(class);
                (index < n).then(|| self.slab_block(extent, class, index))
            }
            Extent::Run(_) => self.locate(extent * EXTENT + RUN_RECORD),
            Extent::Tail(head) if head < extent => self.locate(head * EXTENT + RUN_RECORD),
            _ => None,
        }
    }

    fn run_block(&self, head: u64, n: u64) -> Block {
        let row = self.geometry.run_row_at(head);
        Block {
            state_at: row,
            holders_at: row + 8,
            at: head * EXTENT + RUN_RECORD,
            bytes: n * EXTENT - RUN_RECORD,
            extent: head,
            kind: BlockKind::Run(n),
        }
    }

    fn slab_block(&self, extent: u64, class: u8, index: u64) -> Block {
        let (_, first) = slab(class);
        let size = size(class);
        Block {
            state_at: extent * EXTENT + index * 8,
            holders_at: extent * EXTENT + first + index * size + record::HOLDERS * 8,
            at: extent * EXTENT + first + index * size,
            bytes: size,
            extent,
            kind: BlockKind::Slab(class),
        }
    }

    /// All blocks of extent `index`, whatever their state.
    pub(crate) fn blocks(&self, index: u64) -> impl Iterator<Item = Block> + 'a {
        let this = *self;
        let (class, n) = match Extent::decode(self.word(index).load(Acquire)) {
            Some(Extent::Slab(class)) => (Some(class), slab(class).0),
            Some(Extent::Run(_)) => (None, 1),
            _ => (None, 0),
        };
        (0..n).filter_map(move |i| match class {
            Some(class) => Some(this.slab_block(index, class, i)),
            None => this.locate(index * EXTENT + RUN_RECORD),
        })
    }

    /// A PENDING(me) block with room for `bytes` from its record on. Its contents are anything.
    pub(crate) fn claim(&self, hints: &mut Hints, me: Owner, bytes: u64) -> Result<Block, CreateError> {
        self.claim_class(hints, me, class_for(bytes), bytes)
    }

    /// As [`Self::claim`], for a part.
    pub(crate) fn claim_part(&self, hints: &mut Hints, me: Owner, bytes: u64) -> Result<Block, CreateError> {
        self.claim_class(hints, me, class_for_part(bytes), bytes)
    }

    fn claim_class(
        &self,
        hints: &mut Hints,
        me: Owner,
        class: Option<u8>,
        bytes: u64,
    ) -> Result<Block, CreateError> {
        match class {
            Some(class) => self.claim_slab_block(hints, me, class),
            None => self.claim_run(me, bytes),
        }
    }

    fn try_claim(&self, block: &Block, me: Owner) -> bool {
        let word = self.state(block);
        // Relaxed look before the CAS: most blocks that are passed are not free.
        word.load(Relaxed) == State::Free.encode()
            && word
                .compare_exchange(State::Free.encode(), State::Pending(me).encode(), AcqRel, Relaxed)
                .is_ok()
    }

    fn claim_slab_block(&self, hints: &mut Hints, me: Owner, class: u8) -> Result<Block, CreateError> {
        let c = usize::from(class);
        while let Some(at) = hints.freed[c].pop() {
            if let Some(block) = self.locate(at)
                && block.kind == BlockKind::Slab(class)
                && self.try_claim(&block, me)
            {
                return Ok(block);
            }
        }
        let (n, _) = slab(class);
        let used = self.used();
        let start = hints.cursor[c];
        let first = start.extent.clamp(used.start, used.end);
        let laps = (first..used.end).map(|e| (e, if e == start.extent { start.index } else { 0 }));
        for (extent, from) in laps.chain((used.start..used.end.min(first + 1)).map(|e| (e, 0))) {
            if self.word(extent).load(Acquire) != Extent::Slab(class).encode() {
                continue;
            }
            for index in from..n {
                let block = self.slab_block(extent, class, index);
                if self.try_claim(&block, me) {
                    hints.cursor[c] = Cursor { extent, index: index + 1 };
                    return Ok(block);
                }
            }
        }
        let extent = self.claim_extents(me, 1)?;
        commit(self.observer, extent * EXTENT, EXTENT)
            .inspect_err(|_| self.release_extents(me, extent, 1))?;
        // An extent that was part of a run has anything in it; nobody else looks before SLAB is there.
        for word in self.bytes.words64(extent * EXTENT, n as usize) {
            clear(word);
        }
        // The first block is ours before anybody else can take it.
        let block = self.slab_block(extent, class, 0);
        self.state(&block).store(State::Pending(me).encode(), Relaxed);
        self.word(extent).store(Extent::Slab(class).encode(), Release);
        hints.cursor[c] = Cursor { extent, index: 1 };
        Ok(block)
    }

    /// The first of `n` neighbouring extents, all CLAIMED(me).
    fn claim_extents(&self, me: Owner, n: u64) -> Result<u64, CreateError> {
        let (free, mine) = (Extent::Free.encode(), Extent::Claimed(me).encode());
        let mut start = self.geometry.first_extent;
        while start.checked_add(n).is_some_and(|stop| stop <= self.geometry.extents) {
            if let Some(busy) = (start..start + n).rev().find(|&e| self.word(e).load(Relaxed) != free) {
                start = busy + 1;
                continue;
            }
            self.raise_used(start + n);
            let claim = |e: &u64| self.word(*e).compare_exchange(free, mine, AcqRel, Relaxed).is_err();
            match (start..start + n).find(claim) {
                None => return Ok(start),
                Some(lost) => {
                    self.release_extents(me, start, lost - start);
                    start = lost + 1;
                }
            }
        }
        Err(CreateError::Full { bytes: n * EXTENT, what: Resource::Segment })
    }

    /// Before a claim, so that whoever scans sees it.
    fn raise_used(&self, to: u64) {
        let used = self.bytes.w64(header::EXTENTS_USED);
        let mut now = used.load(Relaxed);
        while now < to {
            // Release: a scanner that finds the claim (Acquire) finds it within the range, too.
            match used.compare_exchange(now, to, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    fn release_extents(&self, me: Owner, start: u64, n: u64) {
        for e in start..start + n {
            let mine = Extent::Claimed(me).encode();
            let _ = self.word(e).compare_exchange(mine, Extent::Free.encode(), AcqRel, Relaxed);
        }
    }

    fn claim_run(&self, me: Owner, bytes: u64) -> Result<Block, CreateError> {
        let total =
            bytes.checked_add(RUN_RECORD).ok_or(CreateError::Full { bytes, what: Resource::Segment })?;
        let n = total.div_ceil(EXTENT);
        if n > self.geometry.extents {
            return Err(CreateError::Full { bytes, what: Resource::Segment });
        }
        let head = self.claim_extents(me, n)?;
        commit(self.observer, self.geometry.run_row_at(head), self.geometry.run_row_bytes())
            .and_then(|()| commit(self.observer, head * EXTENT, total))
            .inspect_err(|_| self.release_extents(me, head, n))?;
        let block = self.run_block(head, n);
        // The state word first: whoever sees RUN reads it.
        self.state(&block).store(State::Pending(me).encode(), Relaxed);
        for tail in head + 1..head + n {
            self.word(tail).store(Extent::Tail(head).encode(), Release);
        }
        self.word(head).store(Extent::Run(n).encode(), Release);
        Ok(block)
    }

    /// Gives up a block whose state is `from`, a state with our own id (or a dead one's, taken over).
    /// `false`: somebody changed it meanwhile.
    pub(crate) fn free(&self, hints: Option<&mut Hints>, block: &Block, from: State, me: Owner) -> bool {
        let word = self.state(block);
        match block.kind {
            BlockKind::Slab(class) => {
                let freed =
                    word.compare_exchange(from.encode(), State::Free.encode(), AcqRel, Relaxed).is_ok();
                if let Some(hints) = hints.filter(|_| freed) {
                    let hints = &mut hints.freed[usize::from(class)];
                    if hints.len() < HINTS {
                        hints.push(block.at);
                    }
                }
                freed
            }
            BlockKind::Run(_) => {
                let mine = State::Pending(me).encode();
                if from.encode() != mine
                    && word.compare_exchange(from.encode(), mine, AcqRel, Relaxed).is_err()
                {
                    return false;
                }
                let head = block.extent;
                // Ours now, so it stays what it is; the caller may have seen an older one in its place.
                let n = match Extent::decode(self.word(head).load(Acquire)) {
                    Some(Extent::Run(n)) if n <= self.geometry.extents - head => n,
                    _ => return false, // overwritten
                };
                for tail in (head + 1..head + n).rev() {
                    let word = self.word(tail);
                    let _ = word.compare_exchange(
                        Extent::Tail(head).encode(),
                        Extent::Free.encode(),
                        AcqRel,
                        Relaxed,
                    );
                }
                let _ = self.word(head).compare_exchange(
                    Extent::Run(n).encode(),
                    Extent::Free.encode(),
                    AcqRel,
                    Relaxed,
                );
                true
            }
        }
    }

    /// Frees extent `index` if it was claimed by a process of which `dead` says so. For repair only.
    pub(crate) fn sweep_extent(&self, index: u64, dead: impl Fn(Owner) -> bool) {
        let word = self.word(index).load(Acquire);
        let Some(Extent::Claimed(owner)) = Extent::decode(word) else { return };
        if !dead(owner) {
            return;
        }
        let head = Extent::Tail(index).encode();
        for tail in self.used() {
            if self.word(tail).load(Relaxed) == head {
                let _ = self.word(tail).compare_exchange(head, Extent::Free.encode(), AcqRel, Relaxed);
            }
        }
        let _ = self.word(index).compare_exchange(word, Extent::Free.encode(), AcqRel, Relaxed);
    }
}

/// Most words are zero already: those are not written.
pub(crate) fn clear(word: &Word64) {
    if word.load(Relaxed) != 0 {
        word.store(0, Relaxed);
    }
}

/// `fallocate`, with "no memory" as [`CreateError::Full`].
pub(crate) fn commit(observer: &Observer, offset: u64, bytes: u64) -> Result<(), CreateError> {
    let fd = observer.checked().map_err(|_| CreateError::DescriptorsLost)?;
    memory::commit(fd, offset, bytes).map_err(|e: OsError| match e.errno {
        libc::ENOSPC | libc::ENOMEM => CreateError::Full { bytes, what: Resource::Memory },
        libc::EFBIG => CreateError::Full { bytes, what: Resource::FileSize },
        _ => CreateError::Os(e),
    })
}
