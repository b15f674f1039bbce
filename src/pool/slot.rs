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
//!    ^   (parent)      ^   (worker w)      |   (w, or reaper)         | free (parent)
//!    |                 +-------------------+                          |
//!    |                   requeue (reaper of w)                        |
//!    +----------------------------------------------------------------+
//! ```
//!
//! The one CAS of `claim` is the claim and the crash record at once. There is no lock in the region.
//!
//! # The ring
//!
//! `entries[p % size] = p << 16 | slot`, for positions `head <= p < tail`. Only the parent pushes; anybody advances
//! `head`, by one CAS `h -> h + 1`, after it saw that the slot of entry `h` is not READY.
//!
//! 1. *A READY slot has an entry in `[head, tail)`, or its push is under way* (state first, then `tail`, by the parent).
//!    Proof: `head` passes entry `h` only from `h`, by a thread that read `tail > h` (Acquire, so it sees the READY of
//!    that push, or something later) and then a state that is not READY. So the slot was claimed since the push of `h`,
//!    and if it is READY again, a later push did that, whose entry is behind `h`.
//! 2. *An entry may be old*: its slot was claimed through it by a worker that died before it advanced `head`, and has
//!    been filled again since. Then a worker claims through the old entry what a later entry stands for. This is a
//!    claim of a READY slot like any other: the state's Release/Acquire hands over the whole task, whichever entry led
//!    there. The later entry finds the slot not READY and is passed.
//! 3. *A failed claim proves nothing*: the word also changes when a waiter sets WAITER. `claim` looks at the new word;
//!    to advance `head` at once loses the task. (A prototype did; `Mutation::SkippingClaim` keeps the story.)
//!
//! The pushing parent reads `head` before it overwrites an entry; a worker with an old `head` sees that the position in
//! the entry is another one, and looks again. `head` and `entries` carry no data of tasks, so Relaxed is enough for
//! them: the orderings that hand over a task are those of the state (READY: Release -> claim: Acquire; DONE: Release ->
//! waiter: Acquire), and that of `tail` (Release -> Acquire), which invariant 1 needs.
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

use crate::atomic::{AcqRel, Acquire, Ordering, Relaxed, Release, SeqCst, Word32, Word64, fence, spin};
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Items that are over; the next one runs.
    pub(crate) items: u32,
    /// Which of the result areas holds the records.
    pub(crate) area: u8,
    /// Bytes of records there.
    pub(crate) bytes: u64,
}

impl Progress {
    pub(crate) const MAX_ITEMS: u32 = 1 << 20;
    const BYTES_BITS: u32 = 42;

    pub(crate) fn bits(self) -> u64 {
        debug_assert!(self.items < Self::MAX_ITEMS && self.area < 4 && self.bytes >> Self::BYTES_BITS == 0);
        u64::from(self.items) << 44 | u64::from(self.area) << 42 | self.bytes
    }
    pub(crate) fn from_bits(bits: u64) -> Self {
        Progress {
            items: (bits >> 44) as u32,
            area: (bits >> Self::BYTES_BITS & 3) as u8,
            bytes: bits & ((1 << Self::BYTES_BITS) - 1),
        }
    }
}

/// Where things lie. The same for all who take part; see [`Ring::new`] for the check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) slots: usize,
    pub(crate) workers: usize,
    /// 64-bit words of each slot's task; the first is its progress.
    pub(crate) payload: usize,
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

    pub(crate) fn is_sound(&self) -> bool {
        (1..=MAX_SLOTS).contains(&self.slots)
            && (1..=MAX_WORKERS as usize).contains(&self.workers)
            && (1..1 << 16).contains(&self.payload)
    }
    // More entries than slots, so that entries which only wait to be passed never stop a push: between two looks of the
    // workers each slot is pushed at most once, and each worker may leave one passed entry behind.
    fn entries(&self) -> usize {
        (2 * self.slots + self.workers).next_power_of_two()
    }
    fn sleeper_words(&self) -> usize {
        self.workers.div_ceil(64)
    }
    fn tail_at(&self) -> usize {
        Self::HEADER + LINE64
    }
    fn sleepers_at(&self) -> usize {
        Self::HEADER + 2 * LINE64
    }
    fn entries_at(&self) -> usize {
        self.sleepers_at() + self.sleeper_words().next_multiple_of(LINE64)
    }
    /// Where the task of `slot` begins among the 64-bit words.
    pub(crate) fn payload_at(&self, slot: usize) -> usize {
        self.entries_at() + self.entries() + slot * self.payload
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
    /// This slot is ours now.
    Claimed(usize),
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
        (shape.is_sound() && w32.len() >= shape.words32() && w64.len() >= shape.words64()).then_some(Self {
            w32,
            w64,
            shape,
        })
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
    fn tail(&self) -> &'a Word64 {
        &self.w64[self.shape.tail_at()]
    }
    fn sleepers(&self, worker: usize) -> (&'a Word64, u64) {
        (&self.w64[self.shape.sleepers_at() + worker / 64], 1 << (worker % 64))
    }
    fn entry(&self, position: u64) -> &'a Word64 {
        &self.w64[self.shape.entries_at() + (position as usize & (self.shape.entries() - 1))]
    }
    fn progress_word(&self, slot: usize) -> &'a Word64 {
        &self.w64[self.shape.payload_at(slot)]
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
    pub(crate) fn progress(&self, slot: usize) -> Progress {
        Progress::from_bits(self.progress_word(slot).load(Acquire))
    }

    /// Commits one or more items of a batch; their records were written before.
    pub(crate) fn commit(&self, slot: usize, progress: Progress) {
        self.progress_word(slot).store(progress.bits(), Release);
    }

    // --- the parent, behind its lock ---

    /// Queues a filled FREE slot for its next lap. `false`: no room in the ring, nothing was done.
    #[must_use]
    pub(crate) fn publish(&self, slot: usize, lap: u32) -> bool {
        let Some(tail) = self.place(slot) else { return false };
        if broken(Mutation::TailBeforeReady) {
            self.tail().store(tail + 1, Release);
        }
        // Release: the task (payload, written Relaxed) is handed over by whichever claim reads this.
        self.state_word(slot).store(State::ready(lap).0, unless(Mutation::RelaxedReady, Release));
        // Release: who reads this tail sees READY (invariant 1).
        self.tail().store(tail + 1, Release);
        true
    }

    /// Queues what is left of a batch whose worker died. `false`: no room in the ring, or not the dead worker's slot;
    /// nothing was done.
    #[must_use]
    pub(crate) fn requeue(&self, slot: usize, dead: u32) -> bool {
        let Some(tail) = self.place(slot) else { return false };
        // AcqRel: Release as in `publish`, with the new progress; Acquire continues the dead worker's writes.
        if self.change(slot, dead, State::queued_again).is_none() {
            return false;
        }
        self.tail().store(tail + 1, Release);
        true
    }

    /// Writes the next entry, before the tail that counts it.
    fn place(&self, slot: usize) -> Option<u64> {
        let tail = self.tail().load(Relaxed); // only the parent writes it
        let full = |head: u64| tail.wrapping_sub(head) >= self.shape.entries() as u64;
        if full(self.head().load(Relaxed)) {
            self.pass_claimed(tail);
            if full(self.head().load(Relaxed)) {
                return None;
            }
        }
        self.entry(tail).store(tail << 16 | slot as u64, Relaxed); // published by tail
        Some(tail)
    }

    /// Advances head past what is claimed already.
    fn pass_claimed(&self, tail: u64) {
        for _ in 0..self.shape.entries() {
            let head = self.head().load(Relaxed);
            let entry = self.entry(head).load(Relaxed);
            let slot = (entry & 0xffff) as usize;
            if head >= tail || entry >> 16 != head || slot >= self.shape.slots || self.state(slot).is_ready()
            {
                return;
            }
            self.advance(head);
        }
    }

    /// Makes a DONE slot FREE, after its results were taken, and wakes who waited for it.
    pub(crate) fn free(&self, slot: usize, lap: u32) {
        let word = self.state_word(slot);
        // AcqRel: a waiter that reads FREE (Acquire) sees what the parent noted before.
        let before = State(word.swap((lap % LAPS) << LAP_SHIFT | FREE, AcqRel));
        if before.has_waiter() {
            futex::wake(word, u32::MAX);
        }
    }

    /// Takes a READY slot back, when there is nobody left to run it. The caller then frees it.
    pub(crate) fn retract(&self, slot: usize) -> bool {
        let word = self.state_word(slot);
        let mut now = self.state(slot);
        while now.is_ready() {
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
            let tail = self.tail().load(Acquire); // pairs with the push (invariant 1)
            if head >= tail {
                return Look::Empty;
            }
            let entry = self.entry(head).load(Relaxed); // written before `tail`
            let slot = (entry & 0xffff) as usize;
            if entry >> 16 != head || slot >= self.shape.slots {
                spin(); // an old head, whose entry has been overwritten
                continue;
            }
            let mut now = self.state(slot);
            while now.is_ready() {
                // Acquire: the task. Relaxed on failure is not enough: the next try may be with that word.
                match self.state_word(slot).compare_exchange(now.0, now.claimed(me).0, Acquire, Acquire) {
                    Ok(_) => {
                        self.advance(head);
                        return Look::Claimed(slot);
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
        let _ = self.head().compare_exchange(head, head + 1, Relaxed, Relaxed);
    }

    /// Is there (perhaps) more in the ring?
    pub(crate) fn has_work(&self) -> bool {
        self.head().load(Relaxed) < self.tail().load(Acquire)
    }

    /// RUNNING -> DONE, by the worker, or for it by its reaper, and the wakes that follow. `false`: the slot was not
    /// the worker's, so somebody overwrote it.
    #[must_use]
    pub(crate) fn finish(&self, slot: usize, worker: u32) -> bool {
        let Some(before) = self.change(slot, worker, State::finished) else { return false };
        if before.has_waiter() {
            futex::wake(self.state_word(slot), u32::MAX);
        }
        fence(SeqCst); // pairs with the fence in `wait_for_room`
        let wanted = self.room().load(Relaxed);
        // The low 31 bits of a head; behind it if the difference is "negative".
        if wanted != 0 && (self.head().load(Relaxed) as u32).wrapping_sub(wanted) & 1 << 30 == 0 {
            self.wake_room();
        }
        true
    }

    /// Changes a RUNNING word of `worker`, keeping WAITER, which may come at any time.
    fn change(&self, slot: usize, worker: u32, to: impl Fn(State) -> State) -> Option<State> {
        let mut now = self.state(slot);
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
        if rung && matches!(look, Look::Claimed(_)) && self.has_work() && !broken(Mutation::RingKept) {
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
    TailBeforeReady,
    /// READY hands nothing over.
    RelaxedReady,
    /// A worker sleeps without a look after its bit is set.
    SleepWithoutLook,
    /// A worker with a task in its hands keeps a ring that was for a second one.
    RingKept,
    /// DONE is stored over a WAITER that came meanwhile.
    WaiterOverwritten,
    /// The wakes that a dead worker owed are forgotten.
    WakesUnpaid,
}

#[cfg(not(loom))]
#[inline(always)]
const fn broken(_: Mutation) -> bool {
    false
}

#[cfg(loom)]
fn broken(mutation: Mutation) -> bool {
    model::BROKEN.with(|broken| broken.get() == Some(mutation))
}

#[inline(always)]
fn unless(mutation: Mutation, order: Ordering) -> Ordering {
    if broken(mutation) { Relaxed } else { order }
}

#[cfg(loom)]
mod model {
    // std's, not loom's: all threads of a model run on the one thread of their test, and shall share it.
    std::thread_local! {
        pub(super) static BROKEN: std::cell::Cell<Option<super::Mutation>> = const { std::cell::Cell::new(None) };
    }
}

#[cfg(all(test, loom))]
#[path = "tests/loom_slot.rs"]
mod loom_slot;
