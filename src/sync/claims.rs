//! Claims on ranges of one array: shared or exclusive, excluding one another whichever thread of whichever process asks.
//!
//! Why it exists: workers write disjoint chunks of one array side by side, and read overlapping windows at once. One
//! lock would put them in a row, and a count of readers cannot be repaired when one of the counted dies. So each claim
//! is an entry with its owner's name in it, and who claims looks at all the entries of the others. No lock anywhere:
//! a process that is stopped keeps others out of nothing but what it holds, or was about to take when it was stopped.
//!
//! # The table
//!
//! | where | word | says |
//! |---|---|---|
//! | head | FROZEN | 1: no exclusive claim is granted any more |
//! | head | USED | rows `0..this` were ever used |
//! | head | SPLITS | raised whenever a part of a mark was put into an entry of its own |
//! | row | owner | the process whose row it is: it alone makes and resets entries in it; 0 for nobody |
//! | entry | word | CONTENDED (31), EXCLUSIVE (30), owner (29..0); 0 for none |
//! | entry | held | 0 while it is not decided; the owner's process id once it holds |
//! | entry | span | start (high half) and end of the range; 0 for an empty one |
//!
//! A row's 32-bit words fill one cache line, its spans another: processes that read at the same time write no line in
//! common. A process takes a row at its first claim, and further ones when its threads need more than 7 at a time. The
//! first entry of its first row is the home of the thread that took the row: no other uses it, so it takes no
//! compare-exchange. A claim and release there, with the table empty, are two locked instructions.
//!
//! ```text
//! 0 -- span, then word: announced --> look at all others --+-- nobody in the way --> held = pid: it is ours
//! ^                                                        |                            | held = 0, word = 0 , wake
//! +------------------- retreat, wait ----------------------+                            v
//! +-------------------------------------------------------------------------------------+
//! ```
//!
//! A **mark** is an entry that is exclusive and held, of an owner that is dead (or of NOBODY: its guard was dropped by a
//! panic). It is in nobody's way; who claims over it is told. It goes when its range is trimmed away by claimers that
//! have mended the elements.
//!
//! # Invariants
//!
//! 1. An entry is announced (span, then word), then fenced, then the others are looked at; it holds if none of them was
//!    in the way. Of two claims in each other's way, the one whose fence is later sees the other.
//! 2. An entry in the way is waited for only after a retreat, save for some looks by the one of two undecided claims
//!    whose owner has the smaller number, so that not both retreat for ever.
//! 3. Entry words are written by the process whose row it is, save for CONTENDED. A dead process's row passes on by one
//!    compare-exchange from its owner's name, which never comes back.
//! 4. The span of an entry that holds does not change. Trimming a mark's span (by a claimer that holds what it cuts off)
//!    can hit an entry that was made in its place meanwhile; so who has looked around looks at its own span once more.
//!    It sees the cut: it was granted after the trimmer released.
//! 5. An owner that dies undecided, or shared, was never there: no mark.
//! 6. FROZEN is stored while a shared claim on all elements is held, and looked at after the others' entries.
//! 7. Between threads of one process the private record decides, by the same protocol and the same fence: whatever stands
//!    in shared bytes, no two threads of a process are granted what excludes each other. A tag is written by the thread
//!    that has the entry; a free one is taken by a compare-exchange, save for the home entry, which only one thread takes.
//! 8. A mark is split (its middle is mended) in this order: what is behind becomes a mark of its own, SPLITS is raised, the
//!    old one is trimmed. Who looks around reads SPLITS before and after, and looks again if it was raised. So who sees
//!    the old one trimmed has seen the new one: either it knew SPLITS as raised before it looked, or it looks again.
//!    The new one's entry stays the mender's until it has trimmed.
//!
//! # Orderings
//!
//! | access | order | pairs with |
//! |---|---|---|
//! | announcing swap, then full fence | AcqRel, SeqCst | the other announcer's: invariant 1 |
//! | held = pid | Release, compiler fence | elements change behind it: who knows of the death |
//! | held = 0, word = 0 | Release | the Acquire of who looks at the word |
//! | look at a word | Acquire, or Relaxed before a fence | the announcing swap (its span is there), and the release |
//! | FROZEN | Release / Acquire | what was written before the freeze |
//! | SPLITS raised, mark trimmed | Release | a look's Acquire before, and its fence before the second: invariant 8 |
//! | a dead owner's | | comes with [`World::is_alive`], as in `word` |
//!
//! # Killed here?
//!
//! | the process dies | the table | who goes on |
//! |---|---|---|
//! | before its announcement | unchanged | others |
//! | a tag at home | unchanged: it is private | others |
//! | announced, undecided | names a dead owner, not held: no claim | others, once they have asked |
//! | shared | the same | others |
//! | exclusive, held | a mark | the next to claim there is told, with range and process id |
//! | between held = 0 and word = 0 | as if undecided: what it did was whole | others |
//! | word is 0, before the wake | free, sleepers | a sleeper's bound |
//! | repairing | what is not trimmed yet stays marked | the next to claim there |
//! | splitting, before held = pid | the mark, and an undecided entry of a dead owner: no claim | others |
//! | splitting, before the trim | two marks, one in the other | the next to claim there |
//! | sweeping a row | the row is a dead owner's again, entries of those who had it before in it | the next who meets one, or wants a row |
//!
//! # Not covered
//!
//! A mark over which several hold claims at the same time: who mends its middle moves what is behind into a mark of its
//! own, and the others, who were told of the one, do not clear the other. So that part is told once too often.
//!
//! Fairness: a stream of overlapping readers can keep a writer waiting, as short sections of a lock can.

use super::mutation::{Mutation, broken, unless};
use crate::{
    atomic::{
        self,
        AcqRel,
        Acquire,
        Private32,
        Private64,
        Relaxed, // see the table
        Release,
        Rule,
        Word32,
        Word64,
        compiler_fence,
        fence,
        fence_after_swap,
        spin,
    },
    os::futex,
    segment::owner::{OWNER_BITS, Owner},
};
use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

const CONTENDED: u32 = 1 << 31;
const EXCLUSIVE: u32 = 1 << 30;
const _: () = assert!(CONTENDED | EXCLUSIVE | OWNER_BITS == u32::MAX && Claim::ALONE == EXCLUSIVE as u64);

/// Entries of a row. In models as few as they need.
const ENTRIES: usize = if cfg!(loom) { 2 } else { 7 };
/// An entry's number is below this, whatever is in a claim: no index needs a check.
const MASK: usize = ENTRIES.next_power_of_two() - 1;
const _: () = assert!(1 + ENTRIES + MASK < LINE32 && MASK < LINE64);
/// 32-bit words of a row, and of the head.
pub(crate) const LINE32: usize = if cfg!(loom) { 5 } else { 16 };
/// 64-bit words of a row.
pub(crate) const LINE64: usize = if cfg!(loom) { 2 } else { 8 };
/// Rows that one process uses at most: so many times [`ENTRIES`] claims at a time.
const OWN_ROWS: usize = if cfg!(loom) { 1 } else { 16 };

const FROZEN: usize = 0;
const USED: usize = 1;
const SPLITS: usize = 2;

/// The owner of a mark that a panic left: the last id there can be, which is not given out.
const NOBODY: u32 = OWNER_BITS;

/// Looks at an undecided entry before a retreat: invariant 2.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 64 };
/// Pauses of the spin before the first sleep.
const PAUSES: u32 = 128;
const FIRST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(32);
/// With the time-out over, that many lost races end the wait.
const LOST_RACES: u32 = 64;

/// A range of elements, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Span(u64);

impl Span {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn new(start: u32, end: u32) -> Self {
        if start >= end { Self::EMPTY } else { Self(u64::from(start) << 32 | u64::from(end)) }
    }

    /// As it is stored.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// What was stored, by whomever: any bits are some range, or none.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self::new((bits >> 32) as u32, bits as u32)
    }

    pub(crate) fn start(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn end(self) -> u32 {
        self.0 as u32
    }

    fn overlaps(self, other: Self) -> bool {
        self.start() < other.end() && other.start() < self.end()
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
    head: &'a [Word32; LINE32],
    lines: &'a [[Word32; LINE32]],
    spans: &'a [[Word64; LINE64]],
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct At {
    row: u16,
    entry: u16,
}

impl At {
    fn new(row: usize, entry: usize) -> Self {
        Self { row: row as u16, entry: entry as u16 } // a row per process: 1023 at most
    }

    #[inline(always)]
    fn entry(self) -> usize {
        usize::from(self.entry) & MASK
    }

    /// A number below `rows * 7`.
    pub(crate) fn index(self) -> usize {
        usize::from(self.row) * ENTRIES + usize::from(self.entry)
    }
}

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
    fn word(&self, at: At) -> &'a Word32 {
        &self.lines[usize::from(at.row)][1 + at.entry()]
    }

    #[inline(always)]
    fn held(&self, at: At) -> &'a Word32 {
        &self.lines[usize::from(at.row)][1 + ENTRIES + at.entry()]
    }

    #[inline(always)]
    fn span(&self, at: At) -> &'a Word64 {
        &self.spans[usize::from(at.row)][at.entry()]
    }

    /// Has [`Claims::freeze`] happened?
    #[inline(always)]
    pub(crate) fn is_frozen(&self) -> bool {
        self.head[FROZEN].load(Acquire) != 0
    }

    /// How often a mark was split, to ask before a look. Acquire: the new marks of all of them are there.
    #[inline(always)]
    fn splits(&self) -> u32 {
        self.head[SPLITS].load(Acquire)
    }

    /// Was one split since, as far as the trimmed marks that were seen since can tell? Behind an Acquire fence.
    #[inline(always)]
    fn has_split(&self, since: u32) -> bool {
        self.head[SPLITS].load(Relaxed) != since
    }

    /// Entries that are not free.
    #[cfg(allmend_crash)]
    pub(crate) fn in_use(&self) -> usize {
        let words = self.lines[..self.used()].iter().flat_map(|line| &line[1..=ENTRIES]);
        words.filter(|word| word.load(Relaxed) != 0).count()
    }

    #[inline(always)]
    fn used(&self) -> usize {
        (self.head[USED].load(Relaxed) as usize).min(self.lines.len())
    }
}

/// What only this process knows of an array's claims: which thread has which entry.
#[derive(Debug)]
pub(crate) struct Record {
    /// Held by a thread that takes a row: the process's name, so that a forked child does not wait for its parent.
    lock: Private32,
    /// As whom the rest was written. Of another name (the parent's, after a fork) it says nothing.
    of: Private32,
    pid: Private32,
    /// Whose home the first entry of our first row is, see [`Who::name`]: no other thread uses it, nor writes its slot.
    home: Private64,
    /// How many rows are ours,
    count: Private32,
    /// and which.
    rows: [Private32; OWN_ROWS],
    slots: [Slots; OWN_ROWS],
}

/// The entries of one of our rows, as this process knows them.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
struct Slots {
    /// The thread that has it, times two, plus one if exclusive; 0 if it is free.
    tags: [Private64; MASK + 1],
    spans: [Private64; MASK + 1],
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
            rows: std::array::from_fn(|_| word()),
            slots: std::array::from_fn(|_| Slots { tags: slots(), spans: slots() }),
        }
    }
}

/// What a claimer asks of the world around the table.
pub(crate) trait World {
    /// Why nothing can be said about anybody.
    type Lost;

    /// Does `owner` live? As `word::Peers`: `Ok(false)` is for ever, and acquires what it wrote.
    fn is_alive(&self, owner: Owner) -> Result<bool, Self::Lost>;

    /// The entry of that number is about to be used for something else: what hangs on it goes.
    fn forget(&self, entry: At);
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
    fn name(self) -> u64 {
        self.thread << OWNER_BITS.count_ones() | u64::from(self.me.bits())
    }

    #[inline(always)]
    fn tag(self, exclusive: bool) -> u64 {
        self.thread << 1 | u64::from(exclusive)
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// With others that read.
    Shared,
    /// Alone.
    Exclusive,
    /// Alone, and not marked if we die, until [`Claims::decide`].
    Undecided,
}

/// A claim that holds. Two registers, also as an `Option`: the fast paths keep it in them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The owner (29..0), [`Claim::ALONE`], the row (47..32), the entry (51..48), which of our rows it is (59..52).
    names: NonZeroU64,
    pub(crate) span: Span,
}

impl Claim {
    const ALONE: u64 = 1 << 30;

    #[inline(always)]
    fn new(me: Owner, (own, row, entry): (usize, usize, usize), span: Span, exclusive: bool) -> Self {
        let place = (row as u64 & 0xffff) | (entry as u64) << 16 | (own as u64) << 20;
        let names = NonZeroU64::from(me.id()) | place << 32 | if exclusive { Self::ALONE } else { 0 };
        Self { names, span }
    }

    /// As whom: in a forked child it is somebody else's.
    #[inline(always)]
    pub(crate) fn me(&self) -> Owner {
        Owner::from_private(self.names.get() as u32 & OWNER_BITS).expect("made of one")
    }

    /// Where its entry is.
    #[inline(always)]
    pub(crate) fn at(&self) -> At {
        At { row: (self.names.get() >> 32) as u16, entry: (self.names.get() >> 48) as u16 & 0xf }
    }

    /// Which of our rows.
    #[inline(always)]
    fn own(&self) -> usize {
        (self.names.get() >> 52) as usize
    }

    #[inline(always)]
    pub(crate) fn is_exclusive(&self) -> bool {
        self.names.get() & Self::ALONE != 0
    }

    /// What its entry says while it is ours.
    #[inline(always)]
    fn word(&self) -> u32 {
        self.names.get() as u32 & (OWNER_BITS | EXCLUSIVE)
    }
}

/// A mark that lies in a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    owner: u32,
    pub(crate) at: At,
    /// The process that died, or whose guard a panic dropped.
    pub(crate) pid: u32,
    /// All of it, also what lies outside of the claim.
    pub(crate) span: Span,
}

/// The claim is not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused<L> {
    /// This thread holds a claim that is in its own way.
    Deadlock,
    /// Somebody was in the way the whole time.
    Timeout {
        /// Who, when we gave up.
        owner: Owner,
    },
    /// No exclusive claims any more.
    Frozen,
    /// No entry is free.
    TooMany,
    /// The table was overwritten.
    Corrupt,
    /// Who is alive cannot be told.
    Lost(L),
}

/// Why one try did not end in a claim.
enum Obstacle {
    /// This process needs a (further) row.
    NoEntry,
    /// Somebody is there.
    Entry(At, Owner),
    /// Our own entry was changed under us, or a mark split: invariants 4 and 8.
    Again,
    Deadlock,
    Frozen,
    Corrupt,
}

/// The protocol, for as long as a call lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claims<'a> {
    pub(crate) table: Table<'a>,
    pub(crate) record: &'a Record,
}

impl Claims<'_> {
    /// Claims if the table is empty save for us. Else `otherwise` says, from what is announced: [`Self::take_on`].
    #[inline(always)]
    pub(crate) fn take_free(
        &self,
        who: Who,
        span: Span,
        mode: Mode,
        otherwise: impl Fn(Option<Claim>) -> Option<Claim>,
    ) -> Option<Claim> {
        let exclusive = mode != Mode::Shared;
        let Some(claim) = self.go_home(who, span, exclusive) else { return otherwise(None) };
        self.announce(&claim);
        let frozen = || exclusive && self.table.is_frozen();
        let early = broken(Mutation::FrozenBeforeTheOthers);
        // Invariants 6 and 4.
        if early && frozen() || !self.is_alone(&claim) || !early && frozen() || !self.is_uncut(&claim) {
            return otherwise(Some(claim));
        }
        if mode != Mode::Undecided {
            self.decide(&claim);
        }
        Some(claim)
    }

    /// Claims if nobody is in the way and there is nothing to say about it; goes on with what was announced, if anything
    /// was. `None` says nothing: ask [`Self::take`].
    pub(crate) fn take_on(
        &self,
        who: Who,
        span: Span,
        mode: Mode,
        announced: Option<Claim>,
    ) -> Option<Claim> {
        let mut left = Vec::new();
        let claim = match announced {
            Some(claim) => claim,
            None => self.enter(who, span, mode != Mode::Shared)?,
        };
        self.complete(who, &claim, mode, &[], &mut left).ok()?;
        debug_assert!(left.is_empty(), "no mark without somebody known to be dead");
        Some(claim)
    }

    /// Claims `span`, which is not empty. Gives the marks in it.
    ///
    /// Without a time-out it waits as long as those in the way live; with one of zero it is a `try`.
    pub(crate) fn take<W: World>(
        &self,
        who: Who,
        span: Span,
        mode: Mode,
        world: &W,
        timeout: Option<Duration>,
    ) -> Result<(Claim, Vec<Left>), Refused<W::Lost>> {
        let mut wait = Wait::new(timeout);
        let mut dead = vec![NOBODY];
        loop {
            let mut left = Vec::new();
            match self.attempt(who, span, mode, &dead, &mut left) {
                Ok(claim) => return Ok((claim, left)),
                Err(Obstacle::NoEntry) => self.grow(who, world)?,
                Err(Obstacle::Entry(at, owner)) => {
                    if self.wait_for(at, owner, who.me, world, &mut wait)? {
                        dead.push(owner.bits());
                    }
                }
                Err(Obstacle::Again) => wait.lost_race(who.me)?,
                Err(Obstacle::Deadlock) => return Err(Refused::Deadlock),
                Err(Obstacle::Frozen) => return Err(Refused::Frozen),
                Err(Obstacle::Corrupt) => return Err(Refused::Corrupt),
            }
        }
    }

    fn attempt(
        &self,
        who: Who,
        span: Span,
        mode: Mode,
        dead: &[u32],
        left: &mut Vec<Left>,
    ) -> Result<Claim, Obstacle> {
        let claim = self.enter(who, span, mode != Mode::Shared).ok_or(Obstacle::NoEntry)?;
        self.complete(who, &claim, mode, dead, left).map(|()| claim)
    }

    /// An entry of ours, announced.
    fn enter(&self, who: Who, span: Span, exclusive: bool) -> Option<Claim> {
        let claim = self.go_home(who, span, exclusive).or_else(|| self.allocate(who, span, exclusive))?;
        self.announce(&claim);
        Some(claim)
    }

    /// From here on others see the claim.
    #[inline(always)]
    fn announce(&self, claim: &Claim) {
        self.table.span(claim.at()).store(claim.span.0, Relaxed);
        self.table.word(claim.at()).swap(claim.word(), AcqRel);
        if !broken(Mutation::ClaimWithoutFence) {
            fence_after_swap(); // invariant 1
        }
    }

    /// Is every other entry free, ours and others'? Asked for a claim at home; no answer is "no".
    #[inline(always)]
    fn is_alone(&self, claim: &Claim) -> bool {
        let any_of = |words: &[Word32]| words.iter().fold(0, |any, word| any | word.load(Relaxed));
        let (record, home) = (self.record, usize::from(claim.at().row));
        let splits = self.table.splits();
        // Rows of ours that hold more than this claim: only the first is looked at here.
        let mut any = u64::from(record.count.load(Relaxed) ^ 1);
        any |= record.slots[0].tags[1..ENTRIES].iter().fold(0, |any, tag| any | tag.load(Relaxed));
        for (row, line) in self.table.lines[..self.table.used()].iter().enumerate() {
            any |= u64::from(any_of(&line[2..=ENTRIES]));
            if row != home {
                any |= u64::from(line[1].load(Relaxed));
            }
        }
        // Pairs with the release of each of them.
        fence(Acquire);
        any |= u64::from(self.table.has_split(splits)); // invariant 8
        any == 0 || atomic::broken(Rule::LookAtOthers)
    }

    /// Invariant 4.
    #[inline(always)]
    fn is_uncut(&self, claim: &Claim) -> bool {
        self.table.span(claim.at()).load(Relaxed) == claim.span.0 || broken(Mutation::OwnSpanBelieved)
    }

    /// From the announcement until the claim holds, or is released.
    fn complete(
        &self,
        who: Who,
        claim: &Claim,
        mode: Mode,
        dead: &[u32],
        left: &mut Vec<Left>,
    ) -> Result<(), Obstacle> {
        let exclusive = claim.is_exclusive();
        let mut looks = 0;
        let mut splits;
        loop {
            splits = self.table.splits();
            let frozen_too_early = broken(Mutation::FrozenBeforeTheOthers) && self.table.is_frozen();
            let looked =
                if atomic::broken(Rule::LookAtOthers) { Ok(()) } else { self.look(who, claim, dead, left) };
            match looked {
                Ok(()) if exclusive && broken(Mutation::FrozenBeforeTheOthers) => {
                    if !frozen_too_early {
                        break;
                    }
                    self.release(claim);
                    return Err(Obstacle::Frozen);
                }
                Ok(()) if exclusive && self.table.is_frozen() => {
                    self.release(claim);
                    return Err(Obstacle::Frozen);
                }
                Ok(()) => break,
                Err(Obstacle::Entry(at, owner)) if looks < LOOKS && self.gives_way(at, owner, claim) => {
                    looks += 1;
                    left.clear();
                    spin();
                }
                Err(obstacle) => {
                    self.release(claim);
                    return Err(obstacle);
                }
            }
        }
        // Invariant 4.
        if !self.is_uncut(claim) {
            self.release(claim);
            return Err(Obstacle::Again);
        }
        // Marks that others trimmed while we looked around: what is in our way cannot change any more.
        left.retain_mut(|mark| self.is_still_there(mark, claim));
        // Invariant 8.
        fence(Acquire);
        if self.table.has_split(splits) {
            self.release(claim);
            return Err(Obstacle::Again);
        }
        if mode != Mode::Undecided {
            self.decide(claim);
        }
        Ok(())
    }

    /// The home entry, for the thread whose home it is: nobody else writes its slot, so this needs no compare-exchange.
    #[inline(always)]
    fn go_home(&self, who: Who, span: Span, exclusive: bool) -> Option<Claim> {
        let record = self.record;
        if record.home.load(Acquire) != who.name() {
            return None;
        }
        let claim = Claim::new(who.me, (0, record.rows[0].load(Relaxed) as usize, 0), span, exclusive);
        let (tag, own) = self.slot(&claim);
        if tag.load(Relaxed) != 0 || self.table.word(claim.at()).load(Relaxed) != 0 {
            return None; // in use, or a mark
        }
        own.store(span.0, Relaxed);
        // Relaxed, as the span: announced by the swap of the entry's word, and its fence.
        tag.store(who.tag(exclusive), Relaxed);
        Some(claim)
    }

    /// An entry of ours for this thread, not announced yet.
    fn allocate(&self, who: Who, span: Span, exclusive: bool) -> Option<Claim> {
        let record = self.record;
        if record.of.load(Acquire) != who.me.bits() {
            return None;
        }
        let count = (record.count.load(Acquire) as usize).min(OWN_ROWS);
        for own in 0..count {
            let row = record.rows[own].load(Relaxed) as usize;
            for entry in usize::from(own == 0)..ENTRIES {
                let claim = Claim::new(who.me, (own, row, entry), span, exclusive);
                let ((tag, own), word) = (self.slot(&claim), self.table.word(claim.at()));
                // An entry whose word is not 0 though no thread has it is a mark, until it is swept.
                if tag.load(Relaxed) != 0 || word.load(Relaxed) != 0 {
                    continue;
                }
                // Acquire: the last thread that had it is done with the entry.
                if tag.compare_exchange(0, who.tag(exclusive), AcqRel, Relaxed).is_err() {
                    continue;
                }
                if word.load(Relaxed) != 0 {
                    tag.store(0, Release); // between the looks it became a mark
                    continue;
                }
                own.store(span.0, Relaxed); // announced by the swap of the entry's word, and its fence
                return Some(claim);
            }
        }
        None
    }

    /// The tag and the span of a claim in the private record.
    #[inline(always)]
    fn slot(&self, claim: &Claim) -> (&Private64, &Private64) {
        let slots = &self.record.slots[claim.own() % OWN_ROWS];
        (&slots.tags[claim.at().entry()], &slots.spans[claim.at().entry()])
    }

    /// Is anybody in the way?
    fn look(&self, who: Who, claim: &Claim, dead: &[u32], left: &mut Vec<Left>) -> Result<(), Obstacle> {
        let record = self.record;
        let count = (record.count.load(Acquire) as usize).min(OWN_ROWS);
        for (own, slots) in record.slots[..count].iter().enumerate() {
            for (entry, (tag, span)) in slots.tags[..ENTRIES].iter().zip(&slots.spans).enumerate() {
                // Acquire: pairs with the release of a slot.
                let tag = tag.load(Acquire);
                if tag == 0
                    || !(claim.is_exclusive() || tag & 1 != 0)
                    || (own, entry) == (claim.own(), claim.at().entry())
                    || !Span(span.load(Relaxed)).overlaps(claim.span)
                {
                    continue;
                }
                if tag >> 1 == who.thread {
                    return Err(Obstacle::Deadlock);
                }
                let row = record.rows[own].load(Relaxed) as usize;
                return Err(Obstacle::Entry(At::new(row, entry), who.me));
            }
        }
        for (row, line) in self.table.lines[..self.table.used()].iter().enumerate() {
            for (entry, word) in line[1..=ENTRIES].iter().enumerate() {
                let seen = word.load(Acquire);
                if seen != 0 {
                    self.look_at(At::new(row, entry), seen, who, claim, dead, left)?;
                }
            }
        }
        Ok(())
    }

    fn look_at(
        &self,
        at: At,
        seen: u32,
        who: Who,
        claim: &Claim,
        dead: &[u32],
        left: &mut Vec<Left>,
    ) -> Result<(), Obstacle> {
        let owner = Owner::from_bits(seen & OWNER_BITS).ok_or(Obstacle::Corrupt)?;
        if owner == who.me || !(claim.is_exclusive() || seen & EXCLUSIVE != 0) {
            return Ok(()); // what is ours was looked at in the record
        }
        let span = Span(self.table.span(at).load(Relaxed));
        if !span.overlaps(claim.span) {
            return Ok(());
        }
        if !dead.contains(&owner.bits()) {
            return Err(Obstacle::Entry(at, owner));
        }
        let pid = self.table.held(at).load(Relaxed);
        // Acquire, and the word once more: if its row was swept meanwhile, these may be another's.
        if pid != 0
            && seen & EXCLUSIVE != 0
            && self.table.word(at).load(Acquire) & !CONTENDED == seen & !CONTENDED
        {
            left.push(Left { owner: owner.bits(), at, pid, span });
        }
        Ok(())
    }

    /// Is a mark that was seen in the claim still one, and which elements has it now?
    fn is_still_there(&self, mark: &mut Left, claim: &Claim) -> bool {
        mark.span = Span(self.table.span(mark.at).load(Acquire));
        let word = self.table.word(mark.at).load(Acquire) & !CONTENDED;
        word == mark.owner | EXCLUSIVE && mark.span.overlaps(claim.span)
    }

    /// Of two that are undecided, does the other one retreat? Invariant 2.
    fn gives_way(&self, at: At, owner: Owner, claim: &Claim) -> bool {
        let (mine, theirs) = ((claim.me().bits(), claim.at().index()), (owner.bits(), at.index()));
        mine < theirs && self.table.held(at).load(Relaxed) == 0
    }

    /// The claim is held: from now on our death leaves a mark.
    #[inline]
    pub(crate) fn decide(&self, claim: &Claim) {
        // Release: what undoes the change is there before.
        self.table.held(claim.at()).store(self.record.pid.load(Relaxed), Release);
        // And no element is written before it: a kill comes between two instructions of the compiled code.
        compiler_fence();
    }

    /// What was done is whole: our death leaves no mark any more.
    #[inline]
    pub(crate) fn settle(&self, claim: &Claim) {
        self.table.held(claim.at()).store(0, Release);
    }

    /// Gives a claim back.
    #[inline(always)]
    pub(crate) fn release(&self, claim: &Claim) {
        // Release: killed behind it, all elements are written.
        self.table.held(claim.at()).store(0, Release);
        let word = self.table.word(claim.at());
        if word.compare_exchange(claim.word(), 0, unless(Mutation::RelaxedRelease, Release), Relaxed).is_err()
        {
            self.replace(*claim, 0);
        }
        // Release: the entry is free before a thread of ours finds it so.
        self.slot(claim).0.store(0, Release);
    }

    /// Gives a claim up in the middle of a change: it becomes a mark, if it was decided.
    #[cold]
    pub(crate) fn abandon(self, claim: Claim) {
        if self.table.held(claim.at()).load(Relaxed) == 0 {
            return self.release(&claim);
        }
        self.replace(claim, NOBODY | EXCLUSIVE);
        self.slot(&claim).0.store(0, Release);
    }

    /// The word of a claim that somebody waits for, or that somebody overwrote: then it stays as it is.
    #[cold]
    fn replace(self, claim: Claim, by: u32) {
        let (word, mine) = (self.table.word(claim.at()), claim.word());
        let order = unless(Mutation::RelaxedRelease, Release);
        if word.compare_exchange(mine, by, order, Relaxed).is_err()
            && word.compare_exchange(mine | CONTENDED, by, order, Relaxed).is_ok()
        {
            futex::wake(word, u32::MAX);
        }
    }

    /// Waits until the entry that is in our way changes. `true` if its owner is dead.
    fn wait_for<W: World>(
        &self,
        at: At,
        owner: Owner,
        me: Owner,
        world: &W,
        wait: &mut Wait,
    ) -> Result<bool, Refused<W::Lost>> {
        let word = self.table.word(at);
        let seen = word.load(Relaxed);
        if seen & OWNER_BITS != owner.bits() {
            wait.lost_race(owner)?;
            spin();
            return Ok(false);
        }
        if !wait.is_try() && !wait.has_slept && futex::may_spin() {
            for _ in 0..PAUSES {
                if word.load(Relaxed) & !CONTENDED != seen & !CONTENDED {
                    return Ok(false);
                }
                spin();
            }
        }
        if owner != me && !world.is_alive(owner).map_err(Refused::Lost)? {
            let row = usize::from(at.row);
            // Perhaps of one that died while it swept.
            if let Some(of) = Owner::from_bits(self.table.lines[row][0].load(Relaxed))
                && of != me
                && (of == owner || !world.is_alive(of).map_err(Refused::Lost)?)
            {
                self.locked(me, || self.sweep(row, of, me, world));
            }
            return Ok(true);
        }
        let bound = wait.bound().ok_or(Refused::Timeout { owner })?;
        let contended = seen | CONTENDED;
        if seen != contended && word.compare_exchange(seen, contended, Relaxed, Relaxed).is_err() {
            wait.lost_race(owner)?;
            return Ok(false);
        }
        futex::wait(word, contended, bound);
        wait.slept();
        Ok(false)
    }

    /// Clears a dead process's row of all that is not a mark, if it is still theirs. Under the private lock: until the
    /// end the row is ours, but not for our threads.
    fn sweep<W: World>(&self, row: usize, dead: Owner, me: Owner, world: &W) -> bool {
        let owner = &self.table.lines[row][0];
        if broken(Mutation::TakeoverByStore) {
            owner.store(dead.bits(), Relaxed);
        }
        // From exactly the dead one's name: a row that has passed on since is not touched.
        let ours = owner.compare_exchange(dead.bits(), me.bits(), AcqRel, Relaxed).is_ok();
        if ours {
            for entry in 0..ENTRIES {
                self.clear(At::new(row, entry), true, world);
            }
            owner.store(0, Release);
        }
        ours
    }

    /// Resets an entry of a row of ours that no thread of ours has: one that says nothing any more, or, in a row that was
    /// just taken (`dead`: those who had it before are), one that is no mark.
    fn clear<W: World>(&self, at: At, dead: bool, world: &W) {
        let (word, held) = (self.table.word(at), self.table.held(at));
        let mut seen = word.load(Acquire);
        let empty = self.table.span(at).load(Acquire) == 0;
        let is_mark = seen & EXCLUSIVE != 0 && held.load(Relaxed) != 0;
        if seen == 0 || !(empty || dead && !is_mark) {
            return;
        }
        world.forget(at);
        held.store(0, Relaxed);
        // Only CONTENDED can come in between, once.
        while let Err(found) = word.compare_exchange(seen, 0, Release, Relaxed) {
            if found & !CONTENDED != seen & !CONTENDED {
                return;
            }
            seen = found;
        }
        if seen & CONTENDED != 0 {
            futex::wake(word, u32::MAX);
        }
    }

    /// A (further) row for this process; or the record is made ours, after a fork.
    #[cold]
    fn grow<W: World>(&self, who: Who, world: &W) -> Result<(), Refused<W::Lost>> {
        self.locked(who.me, || self.grow_locked(who, world))
    }

    /// Rows of this process change hands under its private lock: one thread at a time.
    fn locked<R>(&self, me: Owner, f: impl FnOnce() -> R) -> R {
        let record = self.record;
        loop {
            let holder = record.lock.load(Relaxed);
            // A holder of another name is the process that forked this one: it is not here.
            if holder != me.bits()
                && record.lock.compare_exchange(holder, me.bits(), Acquire, Relaxed).is_ok()
            {
                break;
            }
            spin();
        }
        let result = f();
        record.lock.store(0, Release);
        result
    }

    fn grow_locked<W: World>(&self, who: Who, world: &W) -> Result<(), Refused<W::Lost>> {
        let (record, me) = (self.record, who.me);
        if record.of.load(Relaxed) != me.bits() {
            record.home.store(0, Relaxed);
            record.count.store(0, Relaxed);
            for tag in record.slots.iter().flat_map(|slots| &slots.tags) {
                tag.store(0, Relaxed);
            }
            record.pid.store(std::process::id(), Relaxed);
            record.of.store(me.bits(), Release);
        }
        let count = record.count.load(Relaxed) as usize;
        let mine = |row: usize| (0..count).any(|own| record.rows[own].load(Relaxed) as usize == row);
        let mut free = false;
        for own in 0..count {
            let row = record.rows[own].load(Relaxed) as usize;
            for (entry, tag) in record.slots[own].tags[..ENTRIES].iter().enumerate() {
                // Nobody else writes the slot of a thread's home.
                let anothers = (own, entry) == (0, 0) && record.home.load(Relaxed) != who.name();
                // Entries that were marks, and are mended.
                if !anothers && tag.compare_exchange(0, u64::MAX, AcqRel, Relaxed).is_ok() {
                    self.clear(At::new(row, entry), false, world);
                    free |= self.table.word(At::new(row, entry)).load(Relaxed) == 0;
                    tag.store(0, Release);
                }
            }
        }
        if free {
            return Ok(());
        }
        if count == OWN_ROWS {
            return Err(Refused::TooMany);
        }
        let row = self.take_row(me, world, mine)?;
        record.rows[count].store(row as u32, Relaxed);
        // Release: the row's number is there.
        record.count.store(count as u32 + 1, Release);
        if count == 0 {
            record.home.store(who.name(), Release);
        }
        Ok(())
    }

    /// A row that has a free entry: ours from before, nobody's, a dead process's, or a new one.
    fn take_row<W: World>(
        &self,
        me: Owner,
        world: &W,
        mine: impl Fn(usize) -> bool,
    ) -> Result<usize, Refused<W::Lost>> {
        let (used, lines) = (self.table.used(), self.table.lines);
        let has_free = |row: usize| lines[row][1..=ENTRIES].iter().any(|word| word.load(Relaxed) == 0);
        let take = |row: usize| {
            let owner = &lines[row][0];
            let seen = owner.load(Relaxed);
            let ours = match seen {
                0 => owner.compare_exchange(0, me.bits(), AcqRel, Relaxed).is_ok(),
                _ => seen == me.bits() && !mine(row),
            };
            if ours {
                for entry in 0..ENTRIES {
                    self.clear(At::new(row, entry), true, world);
                }
                if has_free(row) {
                    return true;
                }
                owner.store(0, Release);
            }
            false
        };
        if let Some(row) = (0..used).find(|&row| take(row)) {
            return Ok(row);
        }
        for (row, line) in lines[..used].iter().enumerate() {
            let owner = Owner::from_bits(line[0].load(Relaxed)).filter(|&owner| owner != me);
            if let Some(owner) = owner
                && !world.is_alive(owner).map_err(Refused::Lost)?
                && self.sweep(row, owner, me, world)
                && take(row)
            {
                return Ok(row);
            }
        }
        for row in used..lines.len() {
            // Before anything stands in the row: invariant 1 is about rows that are looked at.
            self.raise_used(row + 1);
            if take(row) {
                return Ok(row);
            }
        }
        Err(Refused::TooMany)
    }

    fn raise_used(&self, to: usize) {
        let used = &self.table.head[USED];
        let mut now = used.load(Relaxed);
        while (now as usize) < to {
            match used.compare_exchange(now, to as u32, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// The elements of an exclusive claim are whole again: `left`, which came with it, is trimmed by them.
    pub(crate) fn repair(&self, claim: &Claim, thread: u64, left: &[Left]) {
        for mark in left {
            let span = self.table.span(mark.at);
            let mut now = span.load(Relaxed);
            // Each failure is another claimer's cut.
            for _ in 0..LOST_RACES {
                let seen = self.table.word(mark.at).load(Acquire) & !CONTENDED;
                let mut rest = Span(now);
                if seen != mark.owner | EXCLUSIVE || !rest.overlaps(claim.span) {
                    break;
                }
                let (before, behind) =
                    (Span::new(rest.start(), claim.span.start()), Span::new(claim.span.end(), rest.end()));
                let other = match (before != Span::EMPTY, behind != Span::EMPTY) {
                    // In the middle: what is behind becomes a mark of its own, first. Without room for it all stays.
                    (true, true) => match self.add_mark(claim.me(), thread, mark, behind) {
                        Some(other) => Some(other),
                        None => break,
                    },
                    _ => None,
                };
                if other.is_some() && !broken(Mutation::SplitCountedLate) {
                    self.table.head[SPLITS].fetch_add(1, Release); // invariant 8
                }
                rest = if before != Span::EMPTY { before } else { behind };
                let trimmed = span.compare_exchange(now, rest.0, AcqRel, Relaxed);
                if let Some(other) = other {
                    if broken(Mutation::SplitCountedLate) {
                        self.table.head[SPLITS].fetch_add(1, Release);
                    }
                    if trimmed.is_err() {
                        self.table.span(other.at()).store(0, Relaxed);
                    }
                    // Only now: until here no thread of ours has made anything else of the entry.
                    self.slot(&other).0.store(0, Release);
                }
                match trimmed {
                    Ok(_) => break,
                    Err(found) => now = found,
                }
            }
        }
    }

    /// `span` of `mark` as a mark of its own, in a row of ours. The caller gives the slot back.
    fn add_mark(&self, me: Owner, thread: u64, mark: &Left, span: Span) -> Option<Claim> {
        let claim = self.allocate(Who { me, thread }, Span::EMPTY, false)?;
        self.table.span(claim.at()).store(span.0, Relaxed);
        self.table.word(claim.at()).swap(mark.owner | EXCLUSIVE, AcqRel);
        // Last: killed before it, no entry says that it is held by whoever has it next.
        self.table.held(claim.at()).store(mark.pid, Release);
        Some(claim)
    }

    /// No exclusive claim is granted after this store. The caller holds a shared claim on all elements.
    pub(crate) fn freeze(&self) {
        self.table.head[FROZEN].store(1, Release);
    }
}

/// One wait for a claim.
struct Wait {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    next_sleep: Duration,
    has_slept: bool,
    lost_races: u32,
}

impl Wait {
    fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            deadline: timeout.and_then(|timeout| futex::now().checked_add(timeout)),
            next_sleep: FIRST_SLEEP,
            has_slept: false,
            lost_races: 0,
        }
    }

    fn is_try(&self) -> bool {
        self.timeout == Some(Duration::ZERO)
    }

    /// How long the next sleep may be; `None` if the time is over.
    fn bound(&self) -> Option<Duration> {
        let Some(deadline) = self.deadline else { return Some(self.next_sleep) };
        let left = deadline.saturating_duration_since(futex::now());
        (!left.is_zero()).then_some(left.min(self.next_sleep))
    }

    fn slept(&mut self) {
        self.has_slept = true;
        self.next_sleep = (self.next_sleep * 2).min(LONGEST_SLEEP);
    }

    /// What was in the way has changed under us. That is somebody's progress, but not ours.
    fn lost_race<L>(&mut self, owner: Owner) -> Result<(), Refused<L>> {
        self.lost_races += 1;
        if self.lost_races > LOST_RACES && self.deadline.is_some_and(|deadline| deadline <= futex::now()) {
            return Err(Refused::Timeout { owner });
        }
        Ok(())
    }
}
