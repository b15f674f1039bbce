//! Known ways to break the protocols of this room.
//!
//! A model is worth what its mutations cost: a checker that passes on a broken protocol says nothing about the right
//! one. So each rule that is easy to lose has a name here, the code asks [`broken`] where it keeps the rule, and
//! `tests/` breaks one at a time and demands that a model fails, with the failure that the rule prevents. In a real
//! build [`broken`] is the constant `false` and nothing of this is left.

use crate::atomic::Ordering;

/// One rule, not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(loom), allow(dead_code, reason = "asked for in real builds, made only in models"))]
pub(crate) enum Mutation {
    /// A takeover that stores, in place of a compare-exchange from exactly the dead owner.
    TakeoverByStore,
    /// The lock's compare-exchange acquires nothing.
    RelaxedLock,
    /// The unlock's releases nothing.
    RelaxedUnlock,
    /// A sleep without a bound.
    UnboundedSleep,
    /// Who has slept takes the lock without CONTENDED.
    ContendedDropped,
    /// Who gives up after a sleep wakes nobody.
    GivesUpSilently,
    /// An unlock forgets that the data were not repaired.
    PoisonDropped,
    /// An unlock wakes nobody.
    UnlockWithoutWake,
    /// The notice of a death wakes, but leaves the word as it was.
    NoticeWithoutChange,
    /// The notice of a death releases nothing.
    RelaxedNotice,
    /// A commit does not fence before it overwrites the older buffer.
    CommitWithoutFence,
    /// A commit's version says nothing about the bytes.
    RelaxedCommit,
    /// A reader does not fence between its copy and the second look at the version.
    ReadWithoutFence,
    /// A claim is announced, and the others are looked at without a fence in between.
    ClaimWithoutFence,
    /// A claim's release releases nothing.
    RelaxedRelease,
    /// A claimer looks whether the array is frozen before it looks at the others.
    FrozenBeforeTheOthers,
    /// A claimer does not look at its own range again.
    OwnSpanBelieved,
    /// A mark is trimmed in the middle before it is said that a part of it has moved.
    SplitCountedLate,
    /// A process believes a shared word that the array is frozen, and does not look at its own threads.
    FreezeBelieved,
    /// An exclusive claim leaves the readers' bias as it is.
    BiasKept,
    /// Who sets the bias does not look whether anybody is there who writes.
    BiasWithoutLook,
    /// Who has seen no bias looks at the others without a fence in between.
    BiasWithoutFence,
}

/// Is this rule broken in the model that runs now?
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn broken(_: Mutation) -> bool {
    false
}

/// `order`, unless the rule is broken.
#[inline(always)]
pub(crate) fn unless(mutation: Mutation, order: Ordering) -> Ordering {
    if broken(mutation) { Ordering::Relaxed } else { order }
}

#[cfg(all(loom, test))]
pub(crate) use model::breaking;
#[cfg(loom)]
pub(crate) use model::broken;

#[cfg(loom)]
mod model {
    use super::Mutation;
    use std::cell::RefCell;

    // std's, not loom's: all threads of a model run on the one thread of their test, and shall share it.
    std::thread_local! {
        static BROKEN: RefCell<Vec<Mutation>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn broken(mutation: Mutation) -> bool {
        BROKEN.with_borrow(|broken| broken.contains(&mutation))
    }

    /// Runs `f` with these rules broken.
    #[cfg(test)]
    pub(crate) fn breaking<R>(mutations: &[Mutation], f: impl FnOnce() -> R) -> R {
        struct Mend;
        impl Drop for Mend {
            fn drop(&mut self) {
                BROKEN.with_borrow_mut(Vec::clear);
            }
        }
        let _mend = Mend;
        BROKEN.with_borrow_mut(|broken| broken.extend(mutations));
        f()
    }
}
