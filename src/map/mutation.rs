//! The rules of the map's protocol that models break, one at a time: see `crate::mutation`.

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
    /// The last bucket of a chain goes, and the version of the one before it stays.
    UnlinkWithoutVersion,
    /// Recovery leaves what a split had moved in both buckets.
    RecoverWithoutClearing,
    /// Recovery changes no chain's version.
    RecoverWithoutVersion,
}

crate::mutation::breaks!(pub(super) Mutation);
