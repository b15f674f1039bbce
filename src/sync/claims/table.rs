//! The shared words: ranges, entries, and where they are.

use super::Claim;
use crate::{
    atomic::{
        Acquire,
        Relaxed, // see the table of the protocol
        Word32,
        Word64,
    },
    segment::owner::OWNER_BITS,
};

pub(super) const CONTENDED: u32 = 1 << 31;
pub(super) const EXCLUSIVE: u32 = 1 << 30;
const _: () = assert!(CONTENDED | EXCLUSIVE | OWNER_BITS == u32::MAX && Claim::ALONE == EXCLUSIVE as u64);

/// Entries of a row. In models as few as they need.
pub(super) const ENTRIES: usize = if cfg!(loom) { 2 } else { 7 };
/// An entry's number is below this, whatever is in a claim: no index needs a check.
pub(super) const MASK: usize = ENTRIES.next_power_of_two() - 1;
const _: () = assert!(1 + ENTRIES + MASK < LINE32 && MASK < LINE64);
/// 32-bit words of a row, and of the head.
pub(crate) const LINE32: usize = if cfg!(loom) { 5 } else { 16 };
/// 64-bit words of a row.
pub(crate) const LINE64: usize = if cfg!(loom) { 2 } else { 8 };

pub(super) const FROZEN: usize = 0;
pub(super) const USED: usize = 1;
pub(super) const SPLITS: usize = 2;
pub(super) const BIAS: usize = 3;
/// The bias is set. Without it the word says who is about to set it.
pub(super) const BIASED: u32 = 1 << 31;

/// A range of elements, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span(pub(super) u64);

impl Span {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn new(start: u32, end: u32) -> Self {
        if start >= end { Self::EMPTY } else { Self(u64::from(start) << 32 | u64::from(end)) }
    }

    /// Elements `start..start + len`, of which there are some.
    #[cfg(not(loom))]
    #[inline(always)]
    pub(crate) fn of(start: u32, len: u32) -> Self {
        debug_assert!(len != 0 && start.checked_add(len).is_some());
        Self(u64::from(start) << 32 | u64::from(start.wrapping_add(len)))
    }

    pub(crate) fn start(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn end(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.start() < other.end() && other.start() < self.end()
    }
}

/// What an array's undo asks of a range.
#[cfg(not(loom))]
impl Span {
    /// As it is stored.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// What was stored, by whomever: any bits are some range, or none.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self::new((bits >> 32) as u32, bits as u32)
    }

    /// The smallest that has both.
    pub(crate) fn hull(self, other: Self) -> Self {
        match (self, other) {
            (Self::EMPTY, one) | (one, Self::EMPTY) => one,
            _ => Self::new(self.start().min(other.start()), self.end().max(other.end())),
        }
    }

    /// What both have.
    pub(crate) fn common(self, other: Self) -> Self {
        Self::new(self.start().max(other.start()), self.end().min(other.end()))
    }
}

/// The shared words of one array's claims.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a> {
    pub(super) head: &'a [Word32; LINE32],
    pub(super) lines: &'a [[Word32; LINE32]],
    pub(super) spans: &'a [[Word64; LINE64]],
}

/// An entry's words.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) line: &'a [Word32; LINE32],
    pub(super) spans: &'a [Word64; LINE64],
    /// Below [`ENTRIES`].
    pub(super) entry: usize,
}

impl<'a> Entry<'a> {
    #[inline(always)]
    pub(super) fn word(self) -> &'a Word32 {
        &self.line[1 + (self.entry & MASK)]
    }

    #[inline(always)]
    pub(super) fn held(self) -> &'a Word32 {
        &self.line[1 + ENTRIES + (self.entry & MASK)]
    }

    #[inline(always)]
    pub(super) fn span(self) -> &'a Word64 {
        &self.spans[self.entry & MASK]
    }
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct At {
    pub(super) row: u16,
    pub(super) entry: u16,
}

impl At {
    pub(super) fn new(row: usize, entry: usize) -> Self {
        Self { row: row as u16, entry: entry as u16 } // a row per process: 1023 at most
    }

    #[inline(always)]
    pub(super) fn entry(self) -> usize {
        usize::from(self.entry) & MASK
    }

    /// A number below `rows * 7`.
    pub(crate) fn index(self) -> usize {
        usize::from(self.row) * ENTRIES + usize::from(self.entry)
    }
}

#[cfg(not(loom))]
/// How many numbers [`At::index`] has in a table of so many rows.
pub(crate) const fn entries(rows: usize) -> usize {
    rows * ENTRIES
}

impl<'a> Table<'a> {
    /// A table in these words: one line and one per row of the first, one per row of the second.
    #[inline]
    pub(crate) fn new(w32: &'a [Word32], w64: &'a [Word64]) -> Option<Self> {
        let (head, lines) = w32.as_chunks().0.split_first()?;
        let spans = w64.as_chunks().0;
        Some(Self { head, lines, spans: spans.get(..lines.len())? })
    }

    #[inline(always)]
    pub(super) fn entry(&self, at: At) -> Entry<'a> {
        let row = usize::from(at.row);
        Entry { line: &self.lines[row], spans: &self.spans[row], entry: at.entry() }
    }

    #[inline(always)]
    pub(super) fn word(&self, at: At) -> &'a Word32 {
        self.entry(at).word()
    }

    #[inline(always)]
    pub(super) fn held(&self, at: At) -> &'a Word32 {
        self.entry(at).held()
    }

    #[inline(always)]
    pub(super) fn span(&self, at: At) -> &'a Word64 {
        self.entry(at).span()
    }

    /// Has [`Claims::freeze`] happened?
    #[inline(always)]
    pub(crate) fn is_frozen(&self) -> bool {
        self.head[FROZEN].load(Acquire) != 0
    }

    /// How often a mark was split, to ask before a look. Acquire: the new marks of all of them are there.
    #[inline(always)]
    pub(super) fn splits(&self) -> u32 {
        self.head[SPLITS].load(Acquire)
    }

    /// Was one split since, as far as the trimmed marks that were seen since can tell? Behind an Acquire fence.
    #[inline(always)]
    pub(super) fn has_split(&self, since: u32) -> bool {
        self.splits_now() != since
    }

    /// How many they are now. Behind an Acquire fence.
    #[inline(always)]
    pub(super) fn splits_now(&self) -> u32 {
        self.head[SPLITS].load(Relaxed)
    }

    /// Entries that are not free.
    #[cfg(allmend_crash)]
    pub(crate) fn in_use(&self) -> usize {
        let words = self.lines[..self.used()].iter().flat_map(|line| &line[1..=ENTRIES]);
        words.filter(|word| word.load(Relaxed) != 0).count()
    }

    #[inline(always)]
    pub(super) fn used(&self) -> usize {
        (self.head[USED].load(Relaxed) as usize).min(self.lines.len())
    }
}
