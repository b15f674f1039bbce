//! The rules of this room that models break, one at a time: see `crate::mutation`.

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

crate::mutation::breaks!(pub(crate) Mutation);
