//! Claims on ranges of one array: shared or exclusive, excluding one another whichever thread of whichever process asks.
//!
//! Why it exists: workers write disjoint chunks of one array side by side, and read overlapping windows at once. One
//! lock would put them in a row, and a count of readers cannot be repaired when one of the counted dies. So each claim
//! is an entry with its owner's name in it, and who claims looks at all the entries of the others. No lock anywhere:
//! a process that is stopped keeps others out of nothing but what it holds, or was about to take when it was stopped.
//!
//! | file | what |
//! |---|---|
//! | `table` | the shared words, and ranges |
//! | `record` | what one process alone knows: which thread has which entry |
//! | `rows` | how a process comes by entries, and clears those of the dead |
//! | `marks` | what the dead leave |
//! | `bias` | readers that let one another in |
//! | `wait` | how long a claim is waited for |
//!
//! # The table
//!
//! | where | word | says |
//! |---|---|---|
//! | head | FROZEN | 1: no exclusive claim is granted any more |
//! | head | USED | rows `0..this` were ever used |
//! | head | SPLITS | raised whenever a part of a mark was put into an entry of its own |
//! | head | BIAS | BIASED (31): who reads need not look at others; owner (29..0): who said so, or is about to; 0 for nobody |
//! | row | owner | the process whose row it is: it alone makes and resets entries in it; 0 for nobody |
//! | entry | word | CONTENDED (31), EXCLUSIVE (30), owner (29..0); 0 for none |
//! | entry | held | 0 while it is not decided; the owner's process id once it holds |
//! | entry | span | start (high half) and end of the range; 0 for an empty one |
//!
//! A row's 32-bit words fill one cache line, its spans another: processes that read at the same time write no line in
//! common, and with the bias set they look at the head alone, which nobody writes then (source: Dice and Kogan, "BRAVO:
//! Biased Locking for Reader-Writer Locks", USENIX ATC 2019). A process takes a row at its first claim, and further ones
//! when its threads need more than 7 at a time. The first entry of its first row is the home of the thread that took the
//! row: no other uses it, so it takes no compare-exchange. A claim and release there, with the table empty, are two
//! locked instructions.
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
//! 6. FROZEN is stored while a shared claim on all elements is held, and looked at after the others' entries. A process
//!    believes it once it has seen none of its own threads claim exclusively, and never takes that back.
//! 7. Between threads of one process the private record decides, by the same protocol and the same fence: whatever stands
//!    in shared bytes, no two threads of a process are granted what excludes each other. A tag is written by the thread
//!    that has the entry; a free one is taken by a compare-exchange, save for the home entry, which only one thread takes.
//! 8. A mark is split (its middle is mended) in this order: what is behind becomes a mark of its own, SPLITS is raised, the
//!    old one is trimmed. Who looks around reads SPLITS before and after, and looks again if it was raised. So who sees
//!    the old one trimmed has seen the new one: either it knew SPLITS as raised before it looked, or it looks again.
//!    The new one's entry stays the mender's until it has trimmed.
//! 9. The bias is set in three steps: a name is stored in BIAS, all entries are looked at, and if none is exclusive that
//!    name becomes BIASED. Who claims exclusively reads BIAS behind its announcement, and ends a bias, or one that is
//!    about to be, before it looks at the others. So either it is seen and no bias set, or it sees the readers whom the
//!    bias let in. While a mark is there, there is none.
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
//! | a name in BIAS, then full fence | AcqRel, SeqCst | the announcement of an exclusive claim: invariant 9 |
//! | BIAS read by an exclusive claim, then full fence | Relaxed, SeqCst | a reader's fence, who read BIASED before another ended it |
//! | BIASED | AcqRel / Acquire | what those wrote whose entries were seen free |
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
//! | setting the bias | it is not set | the next to set it, or to end it |
//! | the bias has ended, exclusive claim undecided | who reads looks at others | others |
//! | sweeping a row | the row is a dead owner's again, entries of those who had it before in it | the next who meets one, or wants a row |
//!
//! # Not covered
//!
//! A mark over which several hold claims at the same time: who mends its middle moves what is behind into a mark of its
//! own, and the others, who were told of the one, do not clear the other. So that part is told once too often.
//!
//! A mark that another process has mended leaves its entry, an empty one, to the process whose row it is: until that claims
//! again with others there, all others look around at each claim.
//!
//! Fairness: a stream of overlapping readers can keep a writer waiting, as short sections of a lock can.

mod bias;
mod marks;
mod record;
mod rows;
mod table;
mod wait;

pub(crate) use marks::Left;
pub(crate) use record::{Record, Who};
pub(crate) use table::{At, LINE32, LINE64, Span, Table};
#[cfg(not(loom))]
pub(crate) use {table::entries, wait::Deadline};

use self::{
    record::{FROZEN_HERE, NONE_GRANTED, OWN_ROWS, PARKED, Slots},
    table::{CONTENDED, ENTRIES, EXCLUSIVE, Entry, FROZEN},
    wait::{PAUSES, Wait},
};
use super::mutation::{Mutation, broken, unless};
use crate::{
    atomic::{
        self,
        AcqRel,
        Acquire,
        Private64,
        Relaxed, // see the table
        Release,
        Rule,
        SeqCst,
        Word32,
        compiler_fence,
        fence,
        fence_after_swap,
        spin,
    },
    os::futex,
    segment::owner::{OWNER_BITS, Owner},
};
use std::{num::NonZeroU64, time::Duration};

/// The owner of a mark that a panic left: the last id there can be, which is not given out.
const NOBODY: u32 = OWNER_BITS;

/// Looks at an undecided entry before a retreat: invariant 2.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 64 };

/// What a claimer asks of the world around the table.
pub(crate) trait World {
    /// Why nothing can be said about anybody.
    type Lost;

    /// Does `owner` live? As `word::Peers`: `Ok(false)` is for ever, and acquires what it wrote.
    fn is_alive(&self, owner: Owner) -> Result<bool, Self::Lost>;

    /// The entry of that number is about to be used for something else: what hangs on it goes.
    fn forget(&self, entry: At);
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

    /// Is it at the first entry of our first row?
    #[inline(always)]
    fn is_at_home(&self) -> bool {
        self.names.get() >> 48 == 0
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
        let Some((claim, entry)) = self.go_home(who, span, exclusive) else { return otherwise(None) };
        announce(&claim, entry);
        let frozen = || exclusive && self.is_frozen();
        let early = broken(Mutation::FrozenBeforeTheOthers);
        // Invariants 6 and 9. No branch between the looks: they wait at the same time.
        let free = match exclusive {
            true => {
                let frozen_early = early && frozen();
                let biased = self.is_biased();
                let alone = self.is_alone(&claim, entry);
                !(frozen_early | biased | !alone | (!early && frozen()))
            }
            false => self.is_open() || self.is_alone(&claim, entry),
        };
        if !(free & is_uncut(&claim, entry)) {
            return otherwise(Some(claim));
        }
        if mode != Mode::Undecided {
            self.decide_in(entry);
        }
        Some(claim)
    }

    /// Claims if nobody is in the way and there is nothing to say about it; goes on with what was announced, if anything
    /// was. `None` says nothing: ask [`Self::take`].
    pub(crate) fn take_on<W: World>(
        &self,
        who: Who,
        span: Span,
        mode: Mode,
        announced: Option<Claim>,
        world: &W,
    ) -> Option<Claim> {
        let mut left = Vec::new();
        let claim = match announced {
            Some(claim) => claim,
            None => self.enter(who, span, mode != Mode::Shared)?,
        };
        self.complete(who, &claim, mode, &[], &mut left).ok()?;
        debug_assert!(left.is_empty(), "no mark without somebody known to be dead");
        self.retire_ours(who.me, world); // so that the next finds the table empty again
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
        let at_home = self.go_home(who, span, exclusive).map(|(claim, _)| claim);
        let claim = at_home.or_else(|| self.allocate(who, span, exclusive))?;
        announce(&claim, self.table.entry(claim.at()));
        Some(claim)
    }

    /// Is every other entry free, ours and others'? Asked for a claim at home; no answer is "no".
    #[inline(always)]
    fn is_alone(&self, claim: &Claim, entry: Entry<'_>) -> bool {
        let (record, home) = (self.record, usize::from(claim.at().row));
        let splits = self.table.splits();
        // Rows of ours that hold more than this claim: only the first is looked at here.
        let mut any = u64::from(record.count.load(Relaxed) ^ 1);
        any |= record.slots[0].tags[1..ENTRIES].iter().fold(0, |any, tag| any | tag.load(Relaxed));
        any |= u64::from(any_of(&entry.line[2..=ENTRIES]));
        let used = self.table.used();
        if used > 1 || home != 0 {
            any |= u64::from(any_of_others(&self.table.lines[..used], home));
        }
        // Pairs with the release of each of them.
        fence(Acquire);
        any |= u64::from(self.table.splits_now() ^ splits); // invariant 8
        any == 0 || atomic::broken(Rule::LookAtOthers)
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
        if exclusive {
            self.end_bias();
        } else if self.is_open() && is_uncut(claim, self.table.entry(claim.at())) {
            self.decide(claim);
            return Ok(());
        }
        let mut looks = 0;
        let mut splits;
        loop {
            splits = self.table.splits();
            let frozen_too_early = broken(Mutation::FrozenBeforeTheOthers) && self.is_frozen();
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
                Ok(()) if exclusive && self.is_frozen() => {
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
        if !is_uncut(claim, self.table.entry(claim.at())) {
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
        if mode == Mode::Shared {
            self.has_looked_around(who.me);
        }
        Ok(())
    }

    /// The home entry, for the thread whose home it is: nobody else writes its slot, so this needs no compare-exchange.
    /// The name says more: who has it has taken a row as this process, which has made sure that the array is there.
    #[inline(always)]
    fn go_home(&self, who: Who, span: Span, exclusive: bool) -> Option<(Claim, Entry<'_>)> {
        let record = self.record;
        if record.home.load(Acquire) != who.name() {
            return None;
        }
        let row = record.rows[0].load(Relaxed) as usize;
        let entry = Entry { line: self.table.lines.get(row)?, spans: self.table.spans.get(row)?, entry: 0 };
        let Slots { tags: [tag, ..], spans: [own, ..] } = &record.slots[0];
        if tag.load(Relaxed) | u64::from(entry.word().load(Relaxed)) != 0 {
            return None; // in use, or a mark
        }
        own.store(span.0, Relaxed);
        // Relaxed, as the span: announced by the swap of the entry's word, and its fence.
        tag.store(who.tag(exclusive), Relaxed);
        Some((Claim::new(who.me, (0, row, 0), span, exclusive), entry))
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
                if matches!(tag, 0 | PARKED)
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

    /// Of two that are undecided, does the other one retreat? Invariant 2.
    fn gives_way(&self, at: At, owner: Owner, claim: &Claim) -> bool {
        let (mine, theirs) = ((claim.me().bits(), claim.at().index()), (owner.bits(), at.index()));
        mine < theirs && self.table.held(at).load(Relaxed) == 0
    }

    /// The claim is held: from now on our death leaves a mark.
    pub(crate) fn decide(&self, claim: &Claim) {
        self.decide_in(self.table.entry(claim.at()));
    }

    #[inline(always)]
    fn decide_in(&self, entry: Entry<'_>) {
        // Release: what undoes the change is there before.
        entry.held().store(self.record.pid.load(Relaxed), Release);
        // And no element is written before it: a kill comes between two instructions of the compiled code.
        compiler_fence();
    }

    /// What was done is whole: our death leaves no mark any more.
    pub(crate) fn settle(&self, claim: &Claim) {
        // Release: killed behind it, all elements are written.
        self.table.held(claim.at()).store(0, Release);
    }

    /// Gives a claim back.
    #[inline(always)]
    pub(crate) fn release(&self, claim: &Claim) {
        self.end(claim, || ());
    }

    /// Gives a claim back, and `say`s between the two that what was done is whole.
    #[inline(always)]
    pub(crate) fn end(&self, claim: &Claim, say: impl FnOnce()) {
        let row = usize::from(claim.at().row);
        match self.table.lines.get(row) {
            Some(line) if claim.is_at_home() => {
                let tag = &self.record.slots[0].tags[0];
                give_back(&line[1], &line[1 + ENTRIES], tag, claim.word(), say);
            }
            _ => {
                let entry = self.table.entry(claim.at());
                give_back_elsewhere(entry.word(), entry.held(), self.slot(claim).0, claim.word(), say);
            }
        }
    }

    /// Gives a claim up in the middle of a change: it becomes a mark, if it was decided.
    #[inline(always)]
    pub(crate) fn abandon(&self, claim: &Claim) {
        let entry = self.table.entry(claim.at());
        abandon(entry.word(), claim.word(), entry.held(), self.slot(claim).0);
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
                self.locked(me, || self.sweep(row, of.bits(), me, world));
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

    /// No exclusive claim is granted after this. The caller holds a shared claim on all elements.
    pub(crate) fn freeze(&self) {
        self.record.frozen.store(FROZEN_HERE, Release);
        self.table.head[FROZEN].store(1, Release);
    }

    /// Is the array frozen, so that no thread of this process writes, whatever stands in the shared words? `false` says
    /// nothing: then [`Self::freeze`] makes sure. Invariant 7.
    pub(crate) fn is_frozen_here(&self) -> bool {
        let frozen = &self.record.frozen;
        if frozen.load(Acquire) == FROZEN_HERE {
            return true;
        }
        if !self.table.is_frozen() {
            return false;
        }
        // Not over what another thread has made sure of.
        let _ = frozen.compare_exchange(0, NONE_GRANTED, Relaxed, Relaxed);
        // Pairs with the fence of an announcement: we see its tag, or it sees this.
        fence(SeqCst);
        let is_sure = !self.writes_here() || broken(Mutation::FreezeBelieved);
        if is_sure {
            frozen.store(FROZEN_HERE, Release);
        }
        is_sure
    }

    /// Is there an exclusive claim of this process, perhaps not granted?
    #[inline(always)]
    fn writes_here(&self) -> bool {
        let count = (self.record.count.load(Acquire) as usize).min(OWN_ROWS);
        let tags = self.record.slots[..count].iter().flat_map(|slots| &slots.tags[..ENTRIES]);
        let any = tags.fold(0, |any, tag| any | tag.load(Relaxed));
        // Pairs with the release of each of them.
        fence(Acquire);
        any & 1 != 0
    }

    /// Is no exclusive claim granted any more? Invariant 6.
    #[inline(always)]
    fn is_frozen(&self) -> bool {
        self.table.is_frozen() | (self.record.frozen.load(Relaxed) != 0)
    }
}

/// Is any of these entries not free?
#[inline(always)]
fn any_of(words: &[Word32]) -> u32 {
    words.iter().fold(0, |any, word| any | word.load(Relaxed))
}

/// Is any entry of these rows not free, save for those of one of them?
#[inline(never)]
fn any_of_others(lines: &[[Word32; LINE32]], but: usize) -> u32 {
    let others = lines.iter().enumerate().filter(|(row, _)| *row != but);
    others.fold(0, |any, (_, line)| any | any_of(&line[1..=ENTRIES]))
}

/// From here on others see the claim.
#[inline(always)]
fn announce(claim: &Claim, entry: Entry<'_>) {
    entry.span().store(claim.span.0, Relaxed);
    entry.word().swap(claim.word(), AcqRel);
    if !broken(Mutation::ClaimWithoutFence) {
        fence_after_swap(); // invariant 1
    }
}

/// Invariant 4.
#[inline(always)]
fn is_uncut(claim: &Claim, entry: Entry<'_>) -> bool {
    entry.span().load(Relaxed) == claim.span.0 || broken(Mutation::OwnSpanBelieved)
}

/// [`Claims::end`], of an entry whose word is `mine`.
#[inline(always)]
fn give_back(word: &Word32, held: &Word32, tag: &Private64, mine: u32, say: impl FnOnce()) {
    // Release: killed behind it, all elements are written.
    held.store(0, Release);
    say();
    let order = unless(Mutation::RelaxedRelease, Release);
    if word.compare_exchange(mine, 0, order, Relaxed).is_err() {
        return replace(word, mine, 0, tag);
    }
    // Release: the entry is free before a thread of ours finds it so.
    tag.store(0, Release);
}

/// The same, out of line.
#[inline(never)]
fn give_back_elsewhere(word: &Word32, held: &Word32, tag: &Private64, mine: u32, say: impl FnOnce()) {
    give_back(word, held, tag, mine, say);
}

/// [`Claims::abandon`], of an entry whose word is `mine`.
#[cold]
#[inline(never)]
fn abandon(word: &Word32, mine: u32, held: &Word32, tag: &Private64) {
    let is_decided = held.load(Relaxed) != 0;
    replace(word, mine, if is_decided { NOBODY | EXCLUSIVE } else { 0 }, tag);
}

/// The word of a claim that somebody waits for, or that somebody overwrote: then it stays as it is. Then its slot goes.
#[cold]
#[inline(never)]
fn replace(word: &Word32, mine: u32, by: u32, tag: &Private64) {
    let order = unless(Mutation::RelaxedRelease, Release);
    if word.compare_exchange(mine, by, order, Relaxed).is_err()
        && word.compare_exchange(mine | CONTENDED, by, order, Relaxed).is_ok()
    {
        futex::wake(word, u32::MAX);
    }
    // Release: as in `give_back`.
    tag.store(0, Release);
}
