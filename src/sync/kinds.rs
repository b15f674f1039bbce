//! Kinds of locks: what [`SharedValue`](crate::SharedValue) asks of a lock, and the three answers.
//!
//! | kind | lock | after its holder died |
//! |---|---|---|
//! | [`Robust`] | the lock word of `word` | taken over at once |
//! | [`Unlocked`] | none | |
//! | `RawSync` (feature `raw_sync`) | a pthread mutex through crate raw_sync | never free again: for comparison |
//!
//! The contract is [`RawLock`]: between `acquire` and `release` no other thread of any process is in between, except
//! that a process which died in between has left. Whoever implements it proves that once; the containers build on it.

use super::word::{self, Acquired, Holder, Peers, Refused};
use crate::{
    CreateError, LockError,
    atomic::{self, Rule, Word32},
    os::liveness::DescriptorsLost,
    segment::{Kind, Object, owner::Owner},
};
use std::{fmt, time::Duration};

/// What takes the lock of a [`SharedValue`](crate::SharedValue), if anything does. Sealed.
#[allow(private_bounds, reason = "sealed")]
pub trait LockKind: Placed + fmt::Debug + Send + Sync + 'static {}

/// A kind that excludes: from the moment a lock is given until it is given back, nobody else has it. Sealed.
#[allow(private_bounds, reason = "sealed")]
pub trait RawLock: LockKind + Excludes {}

/// The default: one futex word that names its owner, taken over when that dies.
///
/// After U. Drepper, "Futexes Are Tricky", and Linux's robust futexes, whose list in user memory it does without: who is
/// alive is asked of the kernel's file locks.
#[derive(Debug)]
pub enum Robust {}

/// No lock, as `multiprocessing.Value(lock=False)`: reads and writes are whole, updates can be lost.
#[derive(Debug)]
pub enum Unlocked {}

/// The lock of crate `raw_sync` (a process-shared pthread mutex), for comparison and for trusted peers only: who waits
/// for a dead holder waits for ever, its time-outs are unreliable, and overwritten bytes are undefined behaviour.
#[cfg(feature = "raw_sync")]
#[derive(Debug)]
pub enum RawSync {}

impl LockKind for Robust {}
impl LockKind for Unlocked {}
impl RawLock for Robust {}
#[cfg(feature = "raw_sync")]
impl LockKind for RawSync {}
#[cfg(feature = "raw_sync")]
impl RawLock for RawSync {}

/// How a kind lies in an object.
pub(crate) trait Placed {
    /// The kind of object that a value with this lock is.
    const VALUE: Kind;
    /// 32-bit words that the lock needs, at the start of the object's body.
    const WORDS: usize;

    /// Makes the lock in a new object, whose words are zero.
    fn prepare(object: &Object) -> Result<(), CreateError>;

    /// Runs `read` where no writer can be, if that is possible without waiting.
    fn try_exclusive(object: &Object, read: &mut dyn FnMut()) -> bool;
}

/// How a kind excludes.
pub(crate) trait Excludes: Placed {
    /// Takes the lock if it is free and there is nothing to say about it. `None` says nothing: ask [`Self::wait_for`].
    fn acquire_free(object: &Object) -> Option<Owner>;

    /// Takes the lock however long it takes, within the time-out; `None` waits as long as the holder lives.
    fn wait_for(object: &Object, timeout: Option<Duration>) -> Result<Held, LockError>;

    /// Both in a row. (Its own branch for the fast path, so that what that gives stays in registers.)
    #[inline(always)]
    fn acquire(object: &Object, timeout: Option<Duration>) -> Result<Held, LockError> {
        match Self::acquire_free(object) {
            Some(me) => Ok(Held { me, inherited: None }),
            None => Self::wait_for(object, timeout),
        }
    }

    /// Gives back what `acquire` gave to this process ([`Held::is_ours`]).
    fn release(object: &Object, held: &Held);
}

/// [`Placed::try_exclusive`] of a kind that excludes.
fn try_under_lock<L: Excludes>(object: &Object, read: &mut dyn FnMut()) -> bool {
    let held = L::acquire(object, Some(Duration::ZERO));
    if let Ok(held) = &held {
        read();
        L::release(object, held);
    }
    held.is_ok()
}

/// A lock that was acquired.
#[derive(Debug)]
#[must_use = "the lock stays taken until it is released"]
pub(crate) struct Held {
    /// As whom: a guard that a forked child inherited has another name in it.
    pub(crate) me: Owner,
    /// The process that died holding it, if one did since the last release; 0 if it is not known which.
    pub(crate) inherited: Option<u32>,
}

impl Held {
    /// Is this process (still) the one that acquired it?
    #[inline(always)]
    pub(crate) fn is_ours(&self, object: &Object) -> bool {
        object.me_now() == Some(self.me)
    }
}

/// An object's lock word asks its segment.
struct Around<'a> {
    object: &'a Object,
    me: Owner,
}

impl Peers for Around<'_> {
    type Lost = DescriptorsLost;

    fn is_alive(&self, owner: Owner) -> Result<bool, DescriptorsLost> {
        if atomic::broken(Rule::AskBeforeWaiting) {
            return Ok(true);
        }
        self.object.segment().is_alive(owner)
    }

    fn holder(&self) -> Holder {
        let holder = self.object.holder();
        if holder.is_me(self.me) {
            Holder::ThisThread
        } else if holder.is_set(self.me) {
            Holder::OtherThread
        } else {
            Holder::Nobody
        }
    }

    fn sleeping(&self, word: &Word32, expected: Owner, sleep: impl FnOnce()) {
        let segment = self.object.segment();
        let note = segment.note_wait(word, expected);
        sleep();
        if let Some(note) = note {
            segment.forget_wait(note);
        }
    }
}

#[inline(always)]
fn lock_word(object: &Object) -> &Word32 {
    object.first32() // `Placed::WORDS` of them were asked for, and checked where a handle arrives
}

impl Placed for Robust {
    const VALUE: Kind = Kind::Value;
    const WORDS: usize = 2;

    fn prepare(_: &Object) -> Result<(), CreateError> {
        Ok(()) // zero is free
    }

    fn try_exclusive(object: &Object, read: &mut dyn FnMut()) -> bool {
        try_under_lock::<Self>(object, read)
    }
}

impl Excludes for Robust {
    #[inline(always)]
    fn acquire_free(object: &Object) -> Option<Owner> {
        let me = object.holder_now()?;
        word::lock_free(lock_word(object), me).ok()?;
        object.holder().set(me);
        Some(me)
    }

    /// The lock is held or was inherited, or this is a forked child.
    #[cold]
    #[inline(never)]
    fn wait_for(object: &Object, timeout: Option<Duration>) -> Result<Held, LockError> {
        let me = object.segment().me().map_err(LockError::outside)?;
        if object.is_lost() {
            return Err(LockError::Gone);
        }
        match word::lock(lock_word(object), me, &Around { object, me }, timeout) {
            Ok(Acquired::Clean) => {
                object.holder().set(me);
                Ok(Held { me, inherited: None })
            }
            Ok(Acquired::Inherited { dead }) => inherit(object, me, dead),
            Err(refused) => Err(refusal(object, refused)),
        }
    }

    #[inline(always)]
    fn release(object: &Object, held: &Held) {
        object.holder().clear();
        // If the word was overwritten under us it stays as it is, and the next who locks is told.
        let _ = word::unlock(lock_word(object), held.me);
    }
}

/// A value is whole whoever died, so its lock is repaired as soon as it is inherited.
#[cold]
fn inherit(object: &Object, me: Owner, dead: Option<Owner>) -> Result<Held, LockError> {
    object.holder().set(me);
    let pid = dead.and_then(|dead| object.segment().pid_of(dead)).unwrap_or(0);
    match word::repair(lock_word(object), me) {
        Ok(()) => Ok(Held { me, inherited: Some(pid) }),
        Err(word::Corrupt) => {
            object.holder().clear();
            Err(LockError::Damaged)
        }
    }
}

#[cold]
fn refusal(object: &Object, refused: Refused<DescriptorsLost>) -> LockError {
    match refused {
        Refused::Deadlock => LockError::Deadlock,
        Refused::Timeout { owner } => {
            LockError::Timeout { owner: owner.and_then(|owner| object.segment().pid_of(owner)) }
        }
        Refused::Corrupt => LockError::Damaged,
        Refused::Lost(DescriptorsLost) => LockError::DescriptorsLost,
    }
}

impl Placed for Unlocked {
    const VALUE: Kind = Kind::Unlocked;
    const WORDS: usize = 0;

    fn prepare(_: &Object) -> Result<(), CreateError> {
        Ok(())
    }

    fn try_exclusive(_: &Object, _: &mut dyn FnMut()) -> bool {
        false
    }
}

#[cfg(feature = "raw_sync")]
mod raw_sync {
    use super::*;
    use crate::os::raw_mutex::{self, RawMutex};

    fn mutex(object: &Object) -> &RawMutex {
        object.local(|| RawMutex::existing(object.w32()))
    }

    impl Placed for RawSync {
        const VALUE: Kind = Kind::RawSyncValue;
        const WORDS: usize = raw_mutex::WORDS;

        fn prepare(object: &Object) -> Result<(), CreateError> {
            RawMutex::initialise(object.w32()).map_err(CreateError::Os)
        }

        fn try_exclusive(object: &Object, read: &mut dyn FnMut()) -> bool {
            try_under_lock::<Self>(object, read)
        }
    }

    impl Excludes for RawSync {
        fn acquire_free(_: &Object) -> Option<Owner> {
            None
        }

        fn wait_for(object: &Object, timeout: Option<Duration>) -> Result<Held, LockError> {
            let me = object.segment().me().map_err(LockError::outside)?;
            if object.is_lost() {
                return Err(LockError::Gone);
            }
            if object.holder().is_me(me) {
                return Err(LockError::Deadlock); // the mutex itself would hang
            }
            if !mutex(object).lock(timeout).map_err(LockError::Os)? {
                return Err(LockError::Timeout { owner: None });
            }
            object.holder().set(me);
            Ok(Held { me, inherited: None })
        }

        fn release(object: &Object, held: &Held) {
            debug_assert!(held.is_ours(object));
            object.holder().clear();
            mutex(object).unlock();
        }
    }
}
