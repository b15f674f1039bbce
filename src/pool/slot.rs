//! The protocol of the pool over bare words: slots, and a ring through which they are handed out.
//!
//! # Who takes part
//!
//! * the *parent*, whose threads take turns behind a private lock: it fills slots, queues them, frees them, and acts
//!   for a dead worker (the *reaper*). Its death ends the pool, so its writes need no repair;
//! * *waiters*: threads of the parent that wait for one slot, without that lock;
//! * *workers*, each with an index of its own that is given to another process only after the first was reaped. They
//!   can die before any of their writes.
//!
//! # The state of a slot
//!
//! | bits | name | |
//! |---|---|---|
//! | 0..3 | kind | FREE 0, READY 1, RUNNING 2, DONE 3 |
//! | 3 | WAITER | somebody sleeps on this word, or is about to |
//! | 4..14 | worker | who claimed it; stays in DONE, so that the reaper finds wakes that a dead worker owed |
//! | 14..32 | lap | how often the slot was filled: a waiter sees that its task is over |
//!
//! ```text
//!          publish            claim                 finish
//!   FREE ----------> READY ----------> RUNNING|w ----------> DONE|w --+
//!    ^   (parent)      ^ | (worker w)      |   (w, or reaper)       ^ | free (parent)
//!    |                 +-------------------+                        | |
//!    |                   | requeue (reaper of w)                    | |
//!    |                   +------------------------------------------+ |
//!    |                     retract (parent)                           |
//!    +----------------------------------------------------------------+
//! ```
//!
//! The one CAS of `claim` is the claim and the crash record at once. There is no lock in the region. `retract`, when no
//! worker comes, is the same CAS by the parent: one of the two has the task.
//!
//! # The ring
//!
//! `entries[p % size]` names position `p`, a slot, and the slot's lap at that push, for positions `head <= p < tail`.
//! Only the parent pushes; anybody advances `head`, by one CAS `h -> h + 1`, after it saw that the slot of entry `h` is
//! not READY. Whether there is an entry at `head` is told by the entry itself, which names its position. So `tail` and
//! the last `head` that the parent saw are the parent's own, and their line does not travel.
//!
//! 1. *A READY slot has an entry at `head` or behind it, or its push is under way* (state first, then the entry, by the
//!    parent). Proof: `head` passes entry `h` only from `h`, by a thread that read that entry (Acquire, so it sees the
//!    READY of that push, or something later) and then a state that is not READY. So the slot was claimed or retracted
//!    since the push of `h`, and if it is READY again, a later push did that, whose entry is behind `h`.
//! 2. *An entry may be old*: its slot was retracted, or claimed through it by a worker that died before it advanced
//!    `head`, and has been filled again since. Then a worker claims through the old entry what a later entry stands for.
//!    This is a claim of a READY slot like any other: the state's Release/Acquire hands over the whole task, whichever
//!    entry led there. The later entry finds the slot not READY and is passed.
//!    So a worker may also claim without an entry: it looks at the slot that it had last, where the next task of a
//!    submitter that waits for each will appear, and saves the way over the entry ([`Ring::claim_in`]; only when it has
//!    just seen the ring empty, so that nothing is overtaken for long). After DONE it passes its entry, if that is at
//!    `head`, by the rule above. If it dies before, or the entry is not there yet, the next look passes it.
//! 3. *A failed claim proves nothing*: the word also changes when a waiter sets WAITER. `claim` looks at the new word;
//!    to advance `head` at once loses the task. (A prototype did; `Mutation::SkippingClaim` keeps the story.)
//!
//! The pushing parent has seen a `head` beyond an entry before it overwrites it; a worker with an old `head` sees that the
//! entry names a later position, and looks again. Positions in entries are counted modulo 2^30. Should a worker sleep
//! between two of its instructions for exactly so many pushes, it takes the later entry for the one it wanted, and then
//! claims a READY slot (2) or fails to advance: no harm.
//!
//! `head` carries nothing, so Relaxed is enough for it. The orderings that hand over a task are those of the state
//! (READY: Release -> claim: Acquire; DONE: Release -> waiter: Acquire); that of an entry (Release -> Acquire) is what
//! invariant 1 needs.
//!
//! # Cache lines
//!
//! A line that both sides write costs a transfer each time that the writer changes. A small task travels in three: its
//! entry (which nobody waits for, if the slot is claimed without it); the line of its state, which holds what every task
//! needs ([`Ring::line`]) and comes whole with the claim's CAS (a CAS that guesses the word from the entry, since a load
//! before it would fetch the line twice; `finish` guesses, too); and the line of its progress, with the first results. The
//! progress names the slot's lap, so the parent need not reset it, and a worker need not read it before its first commit.
//!
//! # Sleeping workers
//!
//! Who sleeps is a set of worker indices, never a count. A worker reads its bell, sets its bit, fences, looks once more
//! for work, and sleeps on its bell. Who pushed fences, takes one bit out of the set, changes that worker's bell and
//! wakes it. The two SeqCst fences are the two halves of one argument: either the worker's last look sees the push, or
//! the pusher sees the bit. A worker that leaves with a task in its hands and finds its bit taken was rung for a second
//! task: it passes the ring on if there is more to do. A bit or a ring that died with its worker is made good by the
//! reaper, which rings everybody.
//!
//! A submitter that finds no free slot sleeps on `room` in the same way; workers look at it after each DONE.
//!
//! # Killed here?
//!
//! | the worker dies | left behind | who repairs |
//! |---|---|---|
//! | before the claim CAS | nothing, or its bit in the sleepers | reaper clears the bit, rings all |
//! | after it, before `head` | an entry whose slot is not READY | the next look advances |
//! | while it runs | RUNNING\|w, progress says how far | reaper: item at fault fails, the rest is queued again, or DONE |
//! | before DONE | RUNNING\|w, all items committed | reaper: DONE |
//! | after DONE, before a wake | DONE\|w with WAITER, or `room` set | reaper wakes |
//! | the parent, anywhere | | the pool ends with it |
//!
//! Assumption: the reaper runs after the kernel has reported the death, and everything that the dead process wrote
//! happened before that (the model: a Release store by the dying thread, an Acquire load by the reaper).
//! All sleeps are bounded by the caller, which looks again; the model runs them unbounded, so that a wake which must
//! come and does not is a deadlock there.

use crate::atomic::{AcqRel, Acquire, Relaxed, Release, SeqCst, Word32, Word64, fence, spin};
use crate::os::futex;
use std::time::Duration;

const KIND: u32 = 0b111;
const FREE: u32 = 0;
const READY: u32 = 1;
const RUNNING: u32 = 2;
const DONE: u32 = 3;
const WAITER: u32 = 1 << 3;
const WORKER_SHIFT: u32 = 4;
const WORKER: u32 = MAX_WORKERS << WORKER_SHIFT;
const LAP_SHIFT: u32 = 14;

/// Worker indices are below this.
pub(crate) const MAX_WORKERS: u32 = (1 << 10) - 1;
/// Slots of a ring are at most this many.
pub(crate) const MAX_SLOTS: usize = 1 << 16;
/// Laps are counted modulo this.
pub(crate) const LAPS: u32 = 1 << (32 - LAP_SHIFT);

/// How often `claim` looks at entries that changed under it. Each such look means that another worker came forward, so
/// only overwritten bytes get there.
const LOOKS: u32 = 100_000;

/// A slot's state word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(u32);

impl State {
    fn ready(lap: u32) -> Self {
        State(READY | (lap % LAPS) << LAP_SHIFT)
    }
    fn claimed(self, worker: u32) -> Self {
        State((self.0 & !(KIND | WORKER)) | RUNNING | worker << WORKER_SHIFT)
    }
    fn finished(self) -> Self {
        State((self.0 & !KIND) | DONE)
    }
    fn queued_again(self) -> Self {
        State((self.0 & !(KIND | WORKER)) | READY)
    }
    fn waited_for(self) -> Self {
        State(self.0 | WAITER)
    }
    pub(crate) fn is_free(self) -> bool {
        self.0 & KIND == FREE
    }
    pub(crate) fn is_ready(self) -> bool {
        self.0 & KIND == READY
    }
    pub(crate) fn is_done(self) -> bool {
        self.0 & KIND == DONE
    }
    pub(crate) fn is_running_in(self, worker: u32) -> bool {
        self.0 & (KIND | WORKER) == RUNNING | worker << WORKER_SHIFT
    }
    #[cfg(not(loom))]
    fn is_running(self) -> bool {
        self.0 & KIND == RUNNING
    }
    #[cfg(not(loom))]
    pub(crate) fn worker(self) -> usize {
        ((self.0 & WORKER) >> WORKER_SHIFT) as usize
    }
    fn owes_wake_of(self, worker: u32) -> bool {
        self.0 & (KIND | WORKER | WAITER) == DONE | worker << WORKER_SHIFT | WAITER
    }
    fn has_waiter(self) -> bool {
        self.0 & WAITER != 0
    }
    pub(crate) fn lap(self) -> u32 {
        self.0 >> LAP_SHIFT
    }
}

/// How far a batch is: one word, so that one store commits an item and its result.
///
/// | bits | |
/// |---|---|
/// | 0..39 | 8-byte words of records |
/// | 39..41 | area |
/// | 41..61 | items |
/// | 61..64 | lap of the slot, modulo 8: a word of another lap means that this one has committed nothing |
///
/// Three bits are enough, as no lap ends without a commit (the parent makes one for a task that was taken back): the word is
/// of this lap or of the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Items that are over; the next one runs.
    pub(crate) items: u32,
    /// Which of the result areas holds the records.
    pub(crate) area: u8,
    /// Bytes of records there; a multiple of 8.
    pub(crate) bytes: u64,
}

impl Progress {
    pub(crate) const MAX_ITEMS: u32 = 1 << 20;
    const AREA_SHIFT: u32 = 39;
    const ITEMS_SHIFT: u32 = 41;
    const LAP_SHIFT: u32 = 61;

    pub(crate) fn bits(self, lap: u32) -> u64 {
        debug_assert!(
            self.items < Self::MAX_ITEMS && self.area < 4 && self.bytes >> (3 + Self::AREA_SHIFT) == 0
        );
        u64::from(lap) << Self::LAP_SHIFT
            | u64::from(self.items) << Self::ITEMS_SHIFT
            | u64::from(self.area) << Self::AREA_SHIFT
            | self.bytes >> 3
    }
    pub(crate) fn from_bits(bits: u64, lap: u32) -> Self {
        if bits >> Self::LAP_SHIFT != u64::from(lap % 8) {
            return Self::default();
        }
        Progress {
            items: (bits >> Self::ITEMS_SHIFT) as u32 & (Self::MAX_ITEMS - 1),
            area: (bits >> Self::AREA_SHIFT & 3) as u8,
            bytes: (bits & ((1 << Self::AREA_SHIFT) - 1)) << 3,
        }
    }
}

/// What stands in the ring: `1 + position` (30 bits) | lap (18) | slot (16). 0 is no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry(u64);

/// Where an entry is, seen from a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// It is the one at that head.
    Here,
    /// Of the round before: nothing was pushed to that place yet.
    Before,
    /// Of a later round: that head is old.
    After,
}

impl Entry {
    const POSITION_SHIFT: u32 = 34;
    const POSITIONS: u64 = 1 << 30;

    fn new(position: u64, lap: u32, slot: usize) -> Self {
        Entry(position.wrapping_add(1) << Self::POSITION_SHIFT | u64::from(lap % LAPS) << 16 | slot as u64)
    }
    fn seen_from(self, head: u64) -> Seen {
        match (self.0 >> Self::POSITION_SHIFT).wrapping_sub(head.wrapping_add(1)) % Self::POSITIONS {
            0 => Seen::Here,
            ahead if ahead < Self::POSITIONS / 2 => Seen::After,
            _ => Seen::Before,
        }
    }
    fn lap(self) -> u32 {
        (self.0 >> 16) as u32 % LAPS
    }
    fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// How often to look before a sleep, after so many looks in a row that ended in one: half as often each time, but every
/// eighth time as often as at first. Otherwise two who wait for each other would sleep for ever, since what is left of
/// their looks is shorter than a wake-up; and a try now and then costs little beside seven sleeps.
#[cfg(not(loom))]
pub(crate) fn spins_after(misses: u32, most: u32) -> u32 {
    if misses.is_multiple_of(8) { most } else { most >> misses.min(4) }
}

/// Where things lie. The same for all who take part. Reckoned once, as each step of a task asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    slots: usize,
    workers: usize,
    /// 64-bit words of each slot's task; the first is its progress.
    payload: usize,
    /// Places for entries: a power of two.
    entries: usize,
    entries_at: usize,
    payloads_at: usize,
}

// Words that different processes write lie on cache lines of their own (the model has no cache).
#[cfg(not(loom))]
const LINE32: usize = 16;
#[cfg(not(loom))]
const LINE64: usize = 8;
#[cfg(loom)]
const LINE32: usize = 1;
#[cfg(loom)]
const LINE64: usize = 1;

impl Shape {
    /// 64-bit words before the ring that belong to the caller (`wire.rs`).
    pub(crate) const HEADER: usize = if cfg!(loom) { 0 } else { 16 };

    /// `None` if there cannot be such a ring.
    pub(crate) fn new(slots: usize, workers: usize, payload: usize) -> Option<Self> {
        let is_sound = (1..=MAX_SLOTS).contains(&slots)
            && (1..=MAX_WORKERS as usize).contains(&workers)
            && (1..1 << 16).contains(&payload);
        if !is_sound {
            return None;
        }
        let mut shape = Self { slots, workers, payload, entries: 0, entries_at: 0, payloads_at: 0 };
        // More entries than slots, so that entries which only wait to be passed never stop a push: between two looks of
        // the workers each slot is pushed at most once, and each worker may leave one passed entry behind.
        shape.entries = (2 * slots + workers).next_power_of_two();
        shape.entries_at = shape.sleepers_at() + shape.sleeper_words().next_multiple_of(LINE64);
        shape.payloads_at = shape.entries_at + shape.entries;
        Some(shape)
    }
    #[cfg(not(loom))]
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }
    #[cfg(not(loom))]
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }
    fn sleeper_words(&self) -> usize {
        self.workers.div_ceil(64)
    }
    fn tail_at(&self) -> usize {
        Self::HEADER + LINE64
    }
    fn head_seen_at(&self) -> usize {
        self.tail_at() + 1
    }
    fn sleepers_at(&self) -> usize {
        self.tail_at() + LINE64.max(2)
    }
    /// Where the task of `slot` begins among the 64-bit words.
    pub(crate) fn payload_at(&self, slot: usize) -> usize {
        self.payloads_at + slot * self.payload
    }
    pub(crate) fn words32(&self) -> usize {
        LINE32 * (1 + self.workers + self.slots)
    }
    pub(crate) fn words64(&self) -> usize {
        self.payload_at(self.slots)
    }
}

/// What a worker found.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// This slot is ours now, for this lap.
    Claimed {
        /// Which.
        slot: usize,
        /// How often it was filled.
        lap: u32,
    },
    /// Nothing to do.
    Empty,
    /// Not what a ring can be: somebody overwrote it.
    Damaged,
}

/// What a waiter found.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// The task is done, and its results are visible.
    Done,
    /// The slot has gone on to another task: somebody else took the results.
    Over,
    /// Not yet.
    NotYet,
}

/// The words of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring<'a> {
    w32: &'a [Word32],
    w64: &'a [Word64],
    shape: Shape,
}

impl<'a> Ring<'a> {
    /// `None` if there are not as many words as the shape needs.
    pub(crate) fn new(w32: &'a [Word32], w64: &'a [Word64], shape: Shape) -> Option<Self> {
        (w32.len() >= shape.words32() && w64.len() >= shape.words64()).then_some(Self { w32, w64, shape })
    }

    fn room(&self) -> &'a Word32 {
        &self.w32[0]
    }
    fn bell(&self, worker: usize) -> &'a Word32 {
        &self.w32[LINE32 * (1 + worker)]
    }
    fn state_word(&self, slot: usize) -> &'a Word32 {
        &self.w32[LINE32 * (1 + self.shape.workers + slot)]
    }
    fn head(&self) -> &'a Word64 {
        &self.w64[Shape::HEADER]
    }
    // The next two are the parent's own: nobody else looks at them.
    fn tail(&self) -> &'a Word64 {
        &self.w64[self.shape.tail_at()]
    }
    fn head_seen(&self) -> &'a Word64 {
        &self.w64[self.shape.head_seen_at()]
    }
    fn sleepers(&self, worker: usize) -> (&'a Word64, u64) {
        (&self.w64[self.shape.sleepers_at() + worker / 64], 1 << (worker % 64))
    }
    fn entry(&self, position: u64) -> &'a Word64 {
        &self.w64[self.shape.entries_at + (position as usize & (self.shape.entries - 1))]
    }
    fn progress_word(&self, slot: usize) -> &'a Word64 {
        &self.w64[self.shape.payload_at(slot)]
    }
    /// The words that share the line of the slot's state.
    #[cfg(not(loom))]
    pub(crate) fn line(&self, slot: usize) -> &'a [Word32] {
        let at = LINE32 * (1 + self.shape.workers + slot);
        &self.w32[at + 1..at + LINE32]
    }
    /// The words of the task in `slot`, behind its progress.
    pub(crate) fn payload(&self, slot: usize) -> &'a [Word64] {
        let at = self.shape.payload_at(slot);
        &self.w64[at + 1..at + self.shape.payload]
    }

    /// Acquire: a kind that is read here comes with all that was written before it.
    pub(crate) fn state(&self, slot: usize) -> State {
        State(self.state_word(slot).load(Acquire))
    }

    /// Acquire pairs with the Release in `commit`: the records it counts are visible.
    pub(crate) fn progress(&self, slot: usize, lap: u32) -> Progress {
        Progress::from_bits(self.progress_word(slot).load(Acquire), lap)
    }

    /// Commits one or more items of a batch; their records were written before.
    pub(crate) fn commit(&self, slot: usize, lap: u32, progress: Progress) {
        self.progress_word(slot).store(progress.bits(lap), Release);
    }

    // --- the parent, behind its lock ---

    /// Queues a filled FREE slot for its next lap. `false`: no room in the ring, nothing was done.
    #[must_use]
    pub(crate) fn publish(&self, slot: usize, lap: u32) -> bool {
        let Some(tail) = self.place() else { return false };
        if broken(Mutation::EntryBeforeReady) {
            self.push(tail, slot, lap);
        }
        // Release: the task (payload, written Relaxed) is handed over by whichever claim reads this.
        self.state_word(slot).store(State::ready(lap).0, unless(Mutation::RelaxedReady, Release));
        self.push(tail, slot, lap);
        true
    }

    /// Queues what is left of a batch whose worker died. `false`: no room in the ring, or not the dead worker's slot;
    /// nothing was done.
    #[must_use]
    pub(crate) fn requeue(&self, slot: usize, dead: u32) -> bool {
        let Some(tail) = self.place() else { return false };
        // AcqRel: Release as in `publish`, with the new progress; Acquire continues the dead worker's writes.
        let Some(before) = self.change(slot, self.state(slot), dead, State::queued_again) else {
            return false;
        };
        self.push(tail, slot, before.lap());
        true
    }

    /// The next position, if there is room.
    fn place(&self) -> Option<u64> {
        let tail = self.tail().load(Relaxed); // only the parent writes it, and the head that it has seen
        let full = |head: u64| tail.wrapping_sub(head) >= self.shape.entries as u64;
        if full(self.head_seen().load(Relaxed)) {
            self.pass_claimed(tail);
            let head = self.head().load(Relaxed);
            self.head_seen().store(head, Relaxed);
            if full(head) {
                return None;
            }
        }
        Some(tail)
    }

    fn push(&self, tail: u64, slot: usize, lap: u32) {
        // Release: who sees this entry sees READY (invariant 1).
        self.entry(tail).store(Entry::new(tail, lap, slot).0, Release);
        self.tail().store(tail.wrapping_add(1), Relaxed);
    }

    /// Advances head past what is claimed already.
    fn pass_claimed(&self, tail: u64) {
        for _ in 0..self.shape.entries {
            let head = self.head().load(Relaxed);
            let entry = Entry(self.entry(head).load(Relaxed)); // our own
            let slot = entry.slot();
            if head >= tail
                || entry.seen_from(head) != Seen::Here
                || slot >= self.shape.slots
                || self.state(slot).is_ready()
            {
                return;
            }
            self.advance(head);
        }
    }

    /// Makes a DONE slot FREE, after its results were taken, and wakes who waited for it.
    pub(crate) fn free(&self, slot: usize, lap: u32) {
        let word = self.state_word(slot);
        // A load and a store are enough, and do not stop for the line: only the parent changes a DONE word.
        let before = State(word.load(Relaxed));
        // Release: a waiter that reads FREE (Acquire) sees what the parent noted before.
        word.store((lap % LAPS) << LAP_SHIFT | FREE, Release);
        if before.has_waiter() {
            futex::wake(word, u32::MAX);
        }
    }

    /// Takes a READY slot back, when there is nobody left to run it. The caller then frees it.
    pub(crate) fn retract(&self, slot: usize) -> bool {
        let word = self.state_word(slot);
        let mut now = self.state(slot);
        while now.is_ready() {
            if broken(Mutation::RetractSwaps) {
                word.swap(now.finished().0, AcqRel);
                return true;
            }
            // Acquire: nobody else has the task now. Release: DONE, as in `finish`.
            match word.compare_exchange(now.0, now.finished().0, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(other) => now = State(other),
            }
        }
        false
    }

    /// Wakes one sleeping worker, after a push.
    pub(crate) fn ring_one(&self) {
        fence(SeqCst); // pairs with the fence in `idle`: it sees the push, or we see its bit
        for word in 0..self.shape.sleeper_words() {
            let sleepers = &self.w64[self.shape.sleepers_at() + word];
            let mut set = sleepers.load(Relaxed);
            while set != 0 {
                let bit = set & set.wrapping_neg();
                // Release pairs with the Acquire at the end of `idle`: who finds its bit taken sees the push behind it.
                let before = sleepers.fetch_and(!bit, AcqRel);
                if before & bit != 0 {
                    let worker = word * 64 + bit.trailing_zeros() as usize;
                    if worker < self.shape.workers {
                        self.ring(worker);
                        return;
                    }
                }
                set = before & !bit;
            }
        }
    }

    /// Wakes all: the pool is closed, or a worker died that may have taken a ring with it.
    pub(crate) fn ring_all(&self) {
        for worker in 0..self.shape.workers {
            self.ring(worker);
        }
    }

    fn ring(&self, worker: usize) {
        // Release: what made us ring is visible to a worker whose bell has changed.
        self.bell(worker).fetch_add(1, Release);
        futex::wake(self.bell(worker), u32::MAX);
    }

    /// Slots that `dead` was running, if any.
    pub(crate) fn running_in(&self, dead: u32) -> impl Iterator<Item = usize> {
        let ring = *self;
        (0..ring.shape.slots).filter(move |&slot| ring.state(slot).is_running_in(dead))
    }

    /// Can what is under way be as the parent left it, or as workers changed it since? Who waits for a slot or for room
    /// would wait for ever on words that were overwritten so that nobody else stumbles over them.
    ///
    /// `pushes`: how often something was queued; `lap` of each slot that is under way; `is_there`: a worker of that
    /// index may live. For the parent, behind its lock, so that only workers change words meanwhile: READY to RUNNING to
    /// DONE, and head. (A RUNNING slot that its live worker knows nothing of is found by that worker, or here as its
    /// second one.)
    #[cfg(not(loom))]
    pub(crate) fn is_sound(
        &self,
        pushes: u64,
        lap: impl Fn(usize) -> Option<u32>,
        is_there: impl Fn(usize) -> bool,
    ) -> bool {
        let head = self.head().load(Acquire); // before the states: what is READY after it has an entry behind it
        let tail = self.tail().load(Relaxed); // our own
        if tail != pushes || head > tail || tail - head > self.shape.entries as u64 {
            return false;
        }
        let mut queued = vec![false; self.shape.slots];
        for position in head..tail {
            let entry = Entry(self.entry(position).load(Relaxed)); // our own
            match queued.get_mut(entry.slot()) {
                Some(queued) if entry.seen_from(position) == Seen::Here => *queued = true,
                _ => return false,
            }
        }
        let mut busy = vec![None; self.shape.workers];
        (0..self.shape.slots).all(|slot| {
            let Some(lap) = lap(slot) else { return true };
            let state = self.state(slot);
            let possible = if state.is_running() {
                let worker = state.worker();
                // Two at the same time, if the first still runs now.
                worker < self.shape.workers
                    && is_there(worker)
                    && !busy[worker]
                        .replace(slot)
                        .is_some_and(|other| self.state(other).is_running_in(worker as u32))
            } else {
                state.is_done() || state.is_ready() && queued[slot]
            };
            possible && state.lap() == lap % LAPS
        })
    }

    /// Gives the wakes that a dead worker owed. Its slots were finished or requeued before.
    pub(crate) fn pay_wakes_of(&self, dead: u32) {
        if broken(Mutation::WakesUnpaid) {
            return;
        }
        for slot in 0..self.shape.slots {
            if self.state(slot).owes_wake_of(dead) {
                futex::wake(self.state_word(slot), u32::MAX);
            }
        }
        let (sleepers, bit) = self.sleepers(dead as usize);
        sleepers.fetch_and(!bit, Relaxed); // a hint: the rings below reach everybody
        self.ring_all();
        self.wake_room();
    }

    /// Sleeps until a part of the queue has been worked off; `look` finds out whether there is room already.
    pub(crate) fn wait_for_room(&self, timeout: Duration, look: impl FnOnce() -> bool) {
        // To be woken for each single slot would cost a switch per task. The queue must never run dry, though.
        let (head, tail) = (self.head().load(Relaxed), self.tail().load(Relaxed));
        let part = (self.shape.slots as u64 / 4).min(tail.wrapping_sub(head));
        let wanted = head.wrapping_add(part) as u32 | 1 << 31;
        self.room().store(wanted, Relaxed);
        fence(SeqCst); // pairs with the fence in `finish`: it sees `wanted`, or we see its DONE
        if !look() {
            futex::wait(self.room(), wanted, timeout);
        }
    }

    #[cold]
    fn wake_room(&self) {
        if self.room().swap(0, Relaxed) != 0 {
            futex::wake(self.room(), u32::MAX);
        }
    }

    // --- waiters ---

    /// Waits for the task of `lap` in `slot`. May return `NotYet` early.
    pub(crate) fn wait(&self, slot: usize, lap: u32, spins: u32, timeout: Duration) -> Waited {
        let look = |state: State| match state {
            _ if state.lap() != lap % LAPS || state.is_free() => Waited::Over,
            _ if state.is_done() => Waited::Done,
            _ => Waited::NotYet,
        };
        let word = self.state_word(slot);
        let mut now = self.state(slot);
        for _ in 0..spins {
            match look(now) {
                Waited::NotYet => {
                    spin();
                    now = self.state(slot);
                }
                other => return other,
            }
        }
        loop {
            match look(now) {
                Waited::NotYet => {}
                other => return other,
            }
            if now.has_waiter() || timeout.is_zero() {
                break;
            }
            // Relaxed: the bit carries nothing, and a word with other news is read again with Acquire.
            match word.compare_exchange(now.0, now.waited_for().0, Relaxed, Acquire) {
                Ok(_) => {
                    now = now.waited_for();
                    break;
                }
                Err(other) => now = State(other),
            }
        }
        if !timeout.is_zero() {
            futex::wait(word, now.0, timeout);
        }
        look(self.state(slot))
    }

    // --- workers ---

    /// Takes the next task.
    pub(crate) fn claim(&self, me: u32) -> Look {
        for _ in 0..LOOKS {
            let head = self.head().load(Relaxed); // carries nothing; an old one is noticed below, or is benign (2)
            let entry = Entry(self.entry(head).load(Acquire)); // pairs with `push` (invariant 1)
            let slot = entry.slot();
            match entry.seen_from(head) {
                Seen::Before => return Look::Empty,
                Seen::Here if slot < self.shape.slots => {}
                Seen::Here | Seen::After => {
                    spin(); // an old head, whose entry has been overwritten
                    continue;
                }
            }
            // A guess. If it is wrong, the CAS gives the word.
            let mut now = State::ready(entry.lap());
            while now.is_ready() {
                // Acquire: the task. Relaxed on failure is not enough: the next try may be with that word.
                match self.state_word(slot).compare_exchange(now.0, now.claimed(me).0, Acquire, Acquire) {
                    Ok(_) => {
                        self.advance(head);
                        return Look::Claimed { slot, lap: now.lap() };
                    }
                    Err(_) if broken(Mutation::SkippingClaim) => break,
                    Err(other) => now = State(other), // invariant 3
                }
            }
            self.advance(head);
        }
        Look::Damaged
    }

    fn advance(&self, head: u64) {
        // Relaxed: head carries nothing. A failure means that somebody else did it.
        let _ = self.head().compare_exchange(head, head.wrapping_add(1), Relaxed, Relaxed);
    }

    /// Takes the task in `slot`, if there is one, without its entry (2). For a worker that has found the ring empty.
    pub(crate) fn claim_in(&self, me: u32, slot: usize) -> Look {
        let mut now = self.state(slot);
        while now.is_ready() {
            // Acquire: the task.
            match self.state_word(slot).compare_exchange(now.0, now.claimed(me).0, Acquire, Acquire) {
                Ok(_) => return Look::Claimed { slot, lap: now.lap() },
                Err(other) => now = State(other),
            }
        }
        Look::Empty
    }

    /// Advances head past the entry of a task that the caller has finished, if it is there: see [`Ring::claim_in`].
    fn pass_finished(&self, slot: usize, lap: u32) {
        let head = self.head().load(Relaxed);
        let entry = Entry(self.entry(head).load(Acquire)); // pairs with `push` (invariant 1)
        // Not READY is what counts (1). The rest spares us the lines of others, who pass their entries themselves.
        let ours = entry.slot() == slot && entry.lap() == lap % LAPS && !self.state(slot).is_ready();
        let passes = (ours || broken(Mutation::PassesOthers)) && !broken(Mutation::EntryKept);
        if entry.seen_from(head) == Seen::Here && passes {
            self.advance(head);
        }
    }

    /// Is there (perhaps) more in the ring?
    pub(crate) fn has_work(&self) -> bool {
        let head = self.head().load(Relaxed);
        Entry(self.entry(head).load(Acquire)).seen_from(head) != Seen::Before
    }

    /// RUNNING -> DONE, by the worker, or for it by its reaper, and the wakes that follow. `false`: the slot was not
    /// the worker's, so somebody overwrote it.
    #[must_use]
    pub(crate) fn finish(&self, slot: usize, lap: u32, worker: u32) -> bool {
        // A guess, as in `claim`: a load would fetch the line, from a waiter that spins on it, and the CAS once more.
        let guess = State::ready(lap).claimed(worker);
        let Some(before) = self.change(slot, guess, worker, State::finished) else { return false };
        if before.has_waiter() {
            futex::wake(self.state_word(slot), u32::MAX);
        }
        if broken(Mutation::PassesBeforeFence) {
            self.pass_finished(slot, lap);
        }
        fence(SeqCst); // pairs with the fence in `wait_for_room`
        // Behind the fence: a submitter that has counted our entry into `wanted`, and does not see DONE, has pushed it
        // before its own, so we see the entry. Before the look at `room`, which counts by head.
        if !broken(Mutation::PassesBeforeFence) {
            self.pass_finished(slot, lap);
        }
        let wanted = self.room().load(Relaxed);
        // The low 31 bits of a head; behind it if the difference is "negative".
        if wanted != 0 && (self.head().load(Relaxed) as u32).wrapping_sub(wanted) & 1 << 30 == 0 {
            self.wake_room();
        }
        true
    }

    /// Changes a RUNNING word of `worker`, keeping WAITER, which may come at any time. `now` may be a guess.
    fn change(&self, slot: usize, mut now: State, worker: u32, to: impl Fn(State) -> State) -> Option<State> {
        while now.is_running_in(worker) {
            if broken(Mutation::WaiterOverwritten) {
                self.state_word(slot).store(to(now).0, Release);
                return Some(now);
            }
            // Release: results and progress go with the new word. Acquire: for the reaper, who goes on with them.
            match self.state_word(slot).compare_exchange(now.0, to(now).0, AcqRel, Acquire) {
                Ok(_) => return Some(now),
                Err(other) => now = State(other),
            }
        }
        None
    }

    /// Looks once more for a task, and sleeps if there is none. `stay` is asked after the announcement: `false` when
    /// the worker is to leave.
    pub(crate) fn idle(&self, me: u32, timeout: Duration, stay: impl FnOnce() -> bool) -> Look {
        let bell = self.bell(me as usize);
        let heard = bell.load(Acquire); // before the bit: a ring after it changes the bell
        let (sleepers, bit) = self.sleepers(me as usize);
        sleepers.fetch_or(bit, Relaxed); // published by the fence
        fence(SeqCst); // pairs with the fence in `ring_one`
        let mut look = if broken(Mutation::SleepWithoutLook) { Look::Empty } else { self.claim(me) };
        if look == Look::Empty && stay() {
            futex::wait(bell, heard, timeout);
            look = self.claim(me);
        }
        // Acquire pairs with the Release of who took the bit: we see what it rang for.
        let rung = sleepers.fetch_and(!bit, Acquire) & bit == 0;
        if rung && matches!(look, Look::Claimed { .. }) && self.has_work() && !broken(Mutation::RingKept) {
            self.ring_one(); // rung for a second task while the first is in our hands
        }
        look
    }
}

/// Ways to break this protocol that the models must notice; nothing in a real build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(loom), allow(dead_code, reason = "asked for in real builds, made only in models"))]
enum Mutation {
    /// A claim that failed advances head, although the slot may be READY still.
    SkippingClaim,
    /// An entry counts before its slot is READY.
    EntryBeforeReady,
    /// READY hands nothing over.
    RelaxedReady,
    /// A worker sleeps without a look after its bit is set.
    SleepWithoutLook,
    /// A worker with a task in its hands keeps a ring that was for a second one.
    RingKept,
    /// DONE is stored over a WAITER that came meanwhile.
    WaiterOverwritten,
    /// A slot is taken back although a worker, or a waiter, has come to it meanwhile.
    RetractSwaps,
    /// The wakes that a dead worker owed are forgotten.
    WakesUnpaid,
    /// Who has finished a task passes whatever entry is at head.
    PassesOthers,
    /// Who claimed without an entry never passes it.
    EntryKept,
    /// It is passed when the submitter that sleeps may not have been seen to push it.
    PassesBeforeFence,
}

crate::mutation::breaks!(Mutation);

#[cfg(all(test, loom))]
#[path = "tests/loom_slot.rs"]
mod loom_slot;
