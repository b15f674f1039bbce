//! Known ways to break the map's protocol, as `sync::mutation` has them for locks: each is a rule that is easy to lose,
//! and a model that must fail without it. In a real build [`broken`] is the constant `false`.

use crate::atomic::Ordering;

/// One rule, not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(loom), allow(dead_code, reason = "asked for in real builds, made only in models"))]
pub(super) enum Mutation {
    /// A hit does not look at the generation (or version) again.
    HitWithoutVersion,
    /// A reader does not fence between its copy and its second looks.
    HitWithoutFence,
    /// The generation is looked at before the slot.
    GenerationFirst,
    /// A miss does not look at the number of buckets again.
    MissWithoutState,
    /// A miss does not look at its chain's version again.
    MissWithoutVersion,
    /// A hit in an overflow bucket does not look at its chain's version again.
    OverflowHitWithoutVersion,
    /// A miss does not fence before it looks again.
    MissWithoutFence,
    /// A writer does not fence before it fills a block or pair that was used before.
    FillWithoutFence,
    /// A block's generation, or the word that says which pairs are there, releases nothing.
    RelaxedCommit,
    /// Entries move within a chain, and its version stays.
    MoveWithoutVersion,
    /// Recovery leaves what a split had moved in both buckets.
    RecoverWithoutClearing,
    /// Recovery changes no chain's version.
    RecoverWithoutVersion,
}

/// Is this rule broken in the model that runs now?
#[cfg(not(loom))]
#[inline(always)]
pub(super) const fn broken(_: Mutation) -> bool {
    false
}

/// `order`, unless the rule is broken.
#[inline(always)]
pub(super) fn unless(mutation: Mutation, order: Ordering) -> Ordering {
    if broken(mutation) { Ordering::Relaxed } else { order }
}

#[cfg(all(loom, test))]
pub(super) use model::breaking;
#[cfg(loom)]
pub(super) use model::broken;

#[cfg(loom)]
mod model {
    use super::Mutation;
    use std::cell::RefCell;

    // std's, not loom's: all threads of a model run on the one thread of their test, and shall share it.
    std::thread_local! {
        static BROKEN: RefCell<Vec<Mutation>> = const { RefCell::new(Vec::new()) };
    }

    pub(in crate::map) fn broken(mutation: Mutation) -> bool {
        BROKEN.with_borrow(|broken| broken.contains(&mutation))
    }

    /// Runs `f` with these rules broken.
    #[cfg(test)]
    pub(in crate::map) fn breaking<R>(mutations: &[Mutation], f: impl FnOnce() -> R) -> R {
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
