//! The lock word: mutual exclusion between processes, any of which may be killed between any two instructions.
//!
//! Sources: Drepper, "Futexes are tricky"; std's `sys/sync/mutex/futex.rs`; the kernel's robust futexes, without their
//! list in user memory. What is new is who says that an owner is dead: not a count, not a pid, but [`Peers`].
//!
//! # The word
//!
//! | bits | name | says |
//! |---|---|---|
//! | 31 | CONTENDED | somebody may sleep: the unlock must wake one |
//! | 30 | POISON | an owner died in it, and nobody has repaired since |
//! | 29..0 | owner | who holds it (`segment::owner`), 0 for nobody |
//!
//! ```text
//!          lock                 notes that it sleeps
//!   0 ------------> owner ------------------------> owner|C
//!   ^                 | unlock                          | unlock, wake one
//!   +-----------------+---------------------------------+
//!
//!   P ------------> owner[|C]|P --- repair ---> owner[|C]
//!   ^                 | unlock while not repaired
//!   +-----------------+
//!
//!   dead[|C][|P] --- takeover ---> me|C|P             (a waiter)
//!   dead[|C][|P] --- notice -----> P, wake all        (a supervisor, `retire`)
//! ```
//!
//! Anything else (flags without an owner other than a bare P, an id that cannot be) was written by somebody who does
//! not follow these rules: [`Corrupt`], and nothing is ever stored over it.
//!
//! # Invariants
//!
//! 1. Every change is a compare-exchange from a word that was looked at. The owner part changes from 0 to oneself, from
//!    oneself to 0, or from an owner that was seen dead: a dead owner's id never comes back, so the last is safe
//!    however long the compare-exchange took.
//! 2. Who sleeps has seen CONTENDED in the word, and the futex compares it again: so whoever changes the owner after
//!    that finds CONTENDED there, and wakes.
//! 3. Who has slept takes the lock with CONTENDED set, because others may still sleep. At worst one wake too many.
//! 4. Who has slept and gives up wakes another: the last unlock may have woken the one who gives up, and whoever
//!    holds the lock now need not have CONTENDED.
//! 5. POISON leaves only by [`repair`], which is the holder's.
//! 6. No sleep is unbounded, and before each one the owner was asked for: the wake may have been spent on a waiter
//!    that died, or its sender may have died before it.
//!
//! # Orderings
//!
//! | access | order | pairs with |
//! |---|---|---|
//! | lock, 0 or P -> me | Acquire | the unlock's Release, or the notice's |
//! | unlock | Release | the lock's Acquire |
//! | takeover | Acquire | the unlock before the dead owner's lock (its compare-exchange continues that release sequence); what the dead owner itself wrote comes with [`Peers::is_alive`] |
//! | notice, dead -> P | Release | the lock's Acquire: it passes on what came with the news of the death |
//! | CONTENDED, repair | Relaxed | nobody: they say nothing about data, and as compare-exchanges they keep a release sequence whole |
//! | looks at the word | Relaxed | nobody: each is followed by a compare-exchange or a question |
//!
//! # Nobody sleeps for ever
//!
//! Let W sleep with the word at `o|C`. *If o lives and unlocks:* its compare-exchange found C (2) and wakes one. If that
//! is W, done. If it is V: V lives and takes the lock with C (3), so V's unlock wakes the next; or somebody barged in, V
//! sets C on their word and sleeps behind W; or V's time is over, and V wakes the next (4). Each unlock that finds C
//! shortens the queue by one. *If somebody in that
//! chain dies* (o in the section, o between unlock and wake, V after its wake): W's bound ends its sleep, W looks
//! again, finds the word free or its owner dead, and takes it. The notice of a supervisor makes that faster, never
//! more certain.
//!
//! # Killed here?
//!
//! | the process dies | the word | who goes on |
//! |---|---|---|
//! | before its compare-exchange | unchanged | others, as if it never came |
//! | after it set CONTENDED | a C too many | the unlock wakes for nothing, once |
//! | asleep | unchanged | others |
//! | holding | names a dead owner | the first to ask: takeover, `Inherited` |
//! | between unlock and wake | free, sleepers | a sleeper's bound, or the next unlock that finds C |
//! | woken, before it locks | free, sleepers | as above |
//! | giving up, before it wakes another | held, sleepers | as above |
//! | in a takeover | names the dead or the taker | the next to ask: POISON stays |
//! | in [`retire`], before the wake | P, sleepers | a sleeper's bound |
//!
//! # Waiting
//!
//! Spin first, about 3 us: 1, 2, 4, 8, 16, 32 pauses with a look between, then 64 single ones, so that the spin outlasts
//! a section of 1 us and its hand-over. Not on one CPU, and not for a `try`. Then ask, set CONTENDED and linger: spin 64
//! pauses more, up to four times while the word changes. A holder that unlocks and locks again at once would win each
//! time, as the word is in its cache; CONTENDED sends its unlock into the kernel to wake nobody, and meanwhile the lock is
//! ours. Then sleep 1 ms, doubling to 64, and after each sleep spin anew.
//! Asking before the *first* sleep matters: without it, a pool whose workers die faster than the time-out never gets
//! anywhere.
//!
//! # Not covered
//!
//! Fairness beyond that (a running thread beats a woken one), priorities, and a holder that is alive but stopped: without a
//! time-out one waits for it as long as it lives. An owner id comes back after 2^20 - 1 attaches to one slot.

use super::mutation::{Mutation, broken, unless};
use crate::{
    atomic::{
        Acquire,
        Relaxed, // see the table
        Release,
        Word32,
        spin,
    },
    os::futex,
    segment::owner::{OWNER_BITS, Owner},
};
use std::time::{Duration, Instant};

const CONTENDED: u32 = 1 << 31;
const POISON: u32 = 1 << 30;
const _: () =
    assert!(CONTENDED | POISON | OWNER_BITS == u32::MAX && CONTENDED ^ POISON ^ OWNER_BITS == u32::MAX);

const FREE: u32 = 0;

/// The doubling part of the spin ends with this many pauses,
const LONGEST_PAUSE: u32 = 32;
/// and this many single ones follow.
const SINGLE_PAUSES: u32 = 64;

/// So often a waiter spins with CONTENDED set before it sleeps.
const LINGERS: u32 = 4;

const FIRST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(64);

/// How long we have to have *slept* on a word that names us, while no thread of ours owned up to it, to call it
/// corrupt. The window between a lock's compare-exchange and its record is some instructions long.
const PATIENCE: Duration = Duration::from_secs(1);

/// A compare-exchange of an unlock fails only if a waiter sets CONTENDED meanwhile, which it does once. More is
/// somebody's game.
const UNLOCK_TRIES: u32 = 64;

/// With the time-out over, that many lost races for a free or dead owner's lock end the wait.
const LOST_RACES: u32 = 64;

/// What a waiter asks of the world around the word.
pub(crate) trait Peers {
    /// Why nothing can be said about anybody. The wait ends with it; nothing is taken.
    type Lost;

    /// Does `owner` live? It is not us.
    ///
    /// `Ok(false)` is for ever, and what `owner` wrote happens before it: Acquire, pairing with its death.
    fn is_alive(&self, owner: Owner) -> Result<bool, Self::Lost>;

    /// The word names this process. Which of its threads?
    fn holder(&self) -> Holder;

    /// Runs `sleep`, with {`word`, `expected`} in this process's wait records meanwhile: so that the one who sees
    /// `expected` die can [`retire`] the word.
    fn sleeping(&self, word: &Word32, expected: Owner, sleep: impl FnOnce());
}

/// Which thread of this process holds the lock, by the process's private record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// The one that asks.
    ThisThread,
    /// Another one.
    OtherThread,
    /// None, yet or any more.
    Nobody,
}

/// The lock is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an inherited lock may protect half an update: repair it, or report it"]
pub(crate) enum Acquired {
    /// Its last holder unlocked it, with whole data.
    Clean,
    /// A holder died in it and nobody has repaired since; the word says POISON until [`repair`].
    Inherited {
        /// Who, if we took it from them ourselves.
        dead: Option<Owner>,
    },
}

/// The lock is not ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the lock was not taken"]
pub(crate) enum Refused<L> {
    /// This thread holds it already.
    Deadlock,
    /// A live process held it for the whole time.
    Timeout {
        /// Which one, when we gave up; `None` if others were faster each time.
        owner: Option<Owner>,
    },
    /// The word was overwritten. It was left as it is.
    Corrupt,
    /// Who is alive cannot be told.
    Lost(L),
}

/// The word does not name us as its holder, though we are: it was overwritten. It was left as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Corrupt;

/// A word as it was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u32);

/// What a word can say.
enum Says {
    /// Nobody holds it.
    Free,
    /// Somebody does.
    Held(Owner),
    /// Nothing that we wrote.
    Nonsense,
}

impl State {
    fn says(self) -> Says {
        match Owner::from_bits(self.0 & OWNER_BITS) {
            Some(owner) => Says::Held(owner),
            None if self.0 & !POISON == FREE => Says::Free,
            None => Says::Nonsense,
        }
    }

    fn names(self, owner: Owner) -> bool {
        self.0 & OWNER_BITS == owner.bits()
    }

    fn is_free(self) -> bool {
        self.0 & !POISON == FREE
    }

    fn is_poisoned(self) -> bool {
        self.0 & POISON != 0
    }

    fn is_contended(self) -> bool {
        self.0 & CONTENDED != 0
    }
}

/// Takes the lock for `me`.
///
/// Without a time-out it waits as long as the holder lives; with one of zero it is a `try`, which asks for the
/// holder's life all the same.
#[inline]
pub(crate) fn lock<P: Peers>(
    word: &Word32,
    me: Owner,
    peers: &P,
    timeout: Option<Duration>,
) -> Result<Acquired, Refused<P::Lost>> {
    match lock_free(word, me) {
        Ok(()) => Ok(Acquired::Clean),
        Err(found) => lock_slow(word, me, peers, timeout, State(found)),
    }
}

/// The fast path alone: takes a lock that is free and clean. Else what the word says.
#[inline(always)]
pub(crate) fn lock_free(word: &Word32, me: Owner) -> Result<(), u32> {
    word.compare_exchange(FREE, me.bits(), unless(Mutation::RelaxedLock, Acquire), Relaxed).map(drop)
}

#[cold]
fn lock_slow<P: Peers>(
    word: &Word32,
    me: Owner,
    peers: &P,
    timeout: Option<Duration>,
    found: State,
) -> Result<Acquired, Refused<P::Lost>> {
    let mut wait = Wait::new(timeout);
    let found = if wait.is_try() { found } else { spin_until_free(word, found) };
    let end = compete(word, me, peers, &mut wait, found);
    if end.is_err() && wait.has_slept && !broken(Mutation::GivesUpSilently) {
        futex::wake(word, 1); // invariant 4
    }
    end
}

/// Until the lock is ours, or we give up.
fn compete<P: Peers>(
    word: &Word32,
    me: Owner,
    peers: &P,
    wait: &mut Wait,
    found: State,
) -> Result<Acquired, Refused<P::Lost>> {
    let mut seen = found;
    loop {
        let owner = match seen.says() {
            Says::Held(owner) => owner,
            Says::Nonsense => return Err(Refused::Corrupt),
            Says::Free => {
                let mine = me.bits() | seen.0 & POISON | wait.contended();
                match word.compare_exchange(seen.0, mine, unless(Mutation::RelaxedLock, Acquire), Relaxed) {
                    Ok(_) if seen.is_poisoned() => return Ok(Acquired::Inherited { dead: None }),
                    Ok(_) => return Ok(Acquired::Clean),
                    Err(found) => seen = wait.lost_race(found)?,
                }
                continue;
            }
        };
        if owner == me {
            match peers.holder() {
                Holder::ThisThread => return Err(Refused::Deadlock),
                Holder::OtherThread => wait.doubted = Duration::ZERO,
                Holder::Nobody if wait.doubted >= PATIENCE => return Err(Refused::Corrupt),
                Holder::Nobody => {}
            }
        } else {
            wait.doubted = Duration::ZERO;
            if !peers.is_alive(owner).map_err(Refused::Lost)? {
                match take_over(word, seen, me) {
                    Ok(()) => return Ok(Acquired::Inherited { dead: Some(owner) }),
                    Err(found) => seen = wait.lost_race(found)?,
                }
                continue;
            }
        }
        // A live holder. By invariant 2 the word says CONTENDED before we sleep on it.
        let bound = wait.bound().ok_or(Refused::Timeout { owner: Some(owner) })?;
        let contended = seen.0 | CONTENDED;
        if !seen.is_contended()
            && let Err(found) = word.compare_exchange(seen.0, contended, Relaxed, Relaxed)
        {
            seen = State(found);
            continue;
        }
        if wait.may_linger() {
            seen = spin_while(word, State(contended));
            if seen.0 != contended {
                continue;
            }
        }
        let begin = futex::now();
        peers.sleeping(word, owner, || futex::wait(word, contended, bound));
        wait.slept(bound, begin);
        seen = spin_until_free(word, State(word.load(Relaxed)));
    }
}

/// Makes a dead owner's lock ours; else what is there instead.
fn take_over(word: &Word32, seen: State, me: Owner) -> Result<(), u32> {
    let mine = me.bits() | CONTENDED | POISON;
    if broken(Mutation::TakeoverByStore) {
        word.store(mine, Release);
        return Ok(());
    }
    word.compare_exchange(seen.0, mine, Acquire, Relaxed).map(drop)
}

/// Looks at the word until it is not `expected` any more, or long enough; what was seen last.
fn spin_while(word: &Word32, expected: State) -> State {
    for _ in 0..SINGLE_PAUSES {
        spin();
        let seen = State(word.load(Relaxed));
        if seen != expected {
            return seen;
        }
    }
    expected
}

/// Looks at the word until it is free or it makes no sense to go on; what was seen last.
fn spin_until_free(word: &Word32, found: State) -> State {
    if !futex::may_spin() || found.is_free() {
        return found;
    }
    let doubling = std::iter::successors(Some(1), |&n| Some(n * 2)).take_while(|&n| n <= LONGEST_PAUSE);
    let mut seen = found;
    for pauses in doubling.chain((0..SINGLE_PAUSES).map(|_| 1)) {
        for _ in 0..pauses {
            spin();
        }
        seen = State(word.load(Relaxed));
        if seen.is_free() {
            break;
        }
    }
    seen
}

/// One wait for the lock.
struct Wait {
    timeout: Option<Duration>,
    /// `None` also if it is further away than the clock goes.
    deadline: Option<Instant>,
    next_sleep: Duration,
    has_slept: bool,
    /// How long we have slept on a word that names us without anybody's confirmation.
    doubted: Duration,
    lost_races: u32,
    /// Since the last sleep.
    lingered: u32,
}

impl Wait {
    fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            deadline: timeout.and_then(|timeout| futex::now().checked_add(timeout)),
            next_sleep: FIRST_SLEEP,
            has_slept: false,
            doubted: Duration::ZERO,
            lost_races: 0,
            lingered: 0,
        }
    }

    /// May it spin with CONTENDED set, once more before the next sleep?
    fn may_linger(&mut self) -> bool {
        let may = self.lingered < LINGERS && futex::may_spin();
        self.lingered += 1;
        may
    }

    fn is_try(&self) -> bool {
        self.timeout == Some(Duration::ZERO)
    }

    /// How long the next sleep may be; `None` if the time is over.
    fn bound(&self) -> Option<Duration> {
        if broken(Mutation::UnboundedSleep) {
            return Some(Duration::MAX);
        }
        let Some(deadline) = self.deadline else { return Some(self.next_sleep) };
        let left = deadline.saturating_duration_since(futex::now());
        (!left.is_zero()).then_some(left.min(self.next_sleep))
    }

    /// After a sleep of at most `bound`. A stop of the whole process counts as one sleep, however long it was.
    fn slept(&mut self, bound: Duration, begin: Instant) {
        (self.has_slept, self.lingered) = (true, 0);
        self.doubted += futex::now().saturating_duration_since(begin).min(bound);
        self.next_sleep = (self.next_sleep * 2).min(LONGEST_SLEEP);
    }

    /// CONTENDED, if we have to take the lock with it: invariant 3.
    fn contended(&self) -> u32 {
        if self.has_slept && !broken(Mutation::ContendedDropped) { CONTENDED } else { 0 }
    }

    /// The word was changed to `found` under us. That is somebody's progress, but not ours: with the time-out over
    /// we do not race for ever.
    fn lost_race<L>(&mut self, found: u32) -> Result<State, Refused<L>> {
        self.lost_races += 1;
        if self.lost_races > LOST_RACES && self.deadline.is_some_and(|deadline| deadline <= futex::now()) {
            return Err(Refused::Timeout { owner: None });
        }
        Ok(State(found))
    }
}

/// Gives the lock back. POISON stays if the holder has not called [`repair`].
#[inline(always)]
pub(crate) fn unlock(word: &Word32, me: Owner) -> Result<(), Corrupt> {
    match word.compare_exchange(me.bits(), FREE, unless(Mutation::RelaxedUnlock, Release), Relaxed) {
        Ok(_) => Ok(()),
        Err(found) => unlock_slow(word, me, State(found)),
    }
}

#[cold]
fn unlock_slow(word: &Word32, me: Owner, mut seen: State) -> Result<(), Corrupt> {
    for _ in 0..UNLOCK_TRIES {
        if !seen.names(me) {
            return Err(Corrupt);
        }
        let free = if broken(Mutation::PoisonDropped) { FREE } else { seen.0 & POISON };
        match word.compare_exchange(seen.0, free, unless(Mutation::RelaxedUnlock, Release), Relaxed) {
            Ok(_) => {
                if seen.is_contended() && !broken(Mutation::UnlockWithoutWake) {
                    futex::wake(word, 1);
                }
                return Ok(());
            }
            Err(found) => seen = State(found),
        }
    }
    Err(Corrupt)
}

/// The holder's word that the data are whole again: POISON goes.
pub(crate) fn repair(word: &Word32, me: Owner) -> Result<(), Corrupt> {
    let mut seen = State(word.load(Relaxed));
    for _ in 0..UNLOCK_TRIES {
        if !seen.names(me) {
            return Err(Corrupt);
        }
        match word.compare_exchange(seen.0, seen.0 & !POISON, Relaxed, Relaxed) {
            Ok(_) => return Ok(()),
            Err(found) => seen = State(found),
        }
    }
    Err(Corrupt)
}

/// The notice of a death: a lock that `dead` holds becomes P. All who sleep there look again, also if `dead` did not
/// hold it (it may have died between its unlock and its wake, or between being woken and locking).
///
/// The caller knows of the death as [`Peers::is_alive`] would say it, with Acquire. `true` if the lock was theirs.
pub(crate) fn retire(word: &Word32, dead: Owner) -> bool {
    let mut seen = State(word.load(Relaxed));
    let mut retired = false;
    // Only waiters change a dead owner's word: CONTENDED once, or a takeover.
    for _ in 0..UNLOCK_TRIES {
        if !seen.names(dead) || broken(Mutation::NoticeWithoutChange) {
            break;
        }
        match word.compare_exchange(seen.0, POISON, unless(Mutation::RelaxedNotice, Release), Relaxed) {
            Ok(_) => {
                retired = true;
                break;
            }
            Err(found) => seen = State(found),
        }
    }
    futex::wake(word, u32::MAX);
    retired
}

/// Who holds it at this moment.
#[cfg(all(test, not(loom)))]
pub(crate) fn holder(word: &Word32) -> Result<Option<Owner>, Corrupt> {
    match State(word.load(Relaxed)).says() {
        Says::Free => Ok(None),
        Says::Held(owner) => Ok(Some(owner)),
        Says::Nonsense => Err(Corrupt),
    }
}
