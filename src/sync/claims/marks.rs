//! What the dead leave: ranges whose elements nobody has made whole yet.

use super::table::{At, CONTENDED, EXCLUSIVE, SPLITS, Span};
use super::{Claim, Claims, Mutation, Who, World, broken, wait::LOST_RACES};
use crate::{
    atomic::{
        AcqRel,
        Acquire,
        Relaxed, // see the table of the protocol
        Release,
    },
    segment::owner::Owner,
};

/// A mark that lies in a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    pub(super) owner: u32,
    pub(crate) at: At,
    /// The process that died, or whose guard a panic dropped.
    pub(crate) pid: u32,
    /// All of it, also what lies outside of the claim.
    pub(crate) span: Span,
}

impl Claims<'_> {
    /// Is a mark that was seen in the claim still one, and which elements has it now?
    pub(super) fn is_still_there(&self, mark: &mut Left, claim: &Claim) -> bool {
        mark.span = Span(self.table.span(mark.at).load(Acquire));
        let word = self.table.word(mark.at).load(Acquire) & !CONTENDED;
        word == mark.owner | EXCLUSIVE && mark.span.overlaps(claim.span)
    }

    /// The elements of an exclusive claim are whole again: `left`, which came with it, is trimmed by them.
    pub(crate) fn repair<W: World>(&self, claim: &Claim, thread: u64, left: &[Left], world: &W) {
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
            if span.load(Relaxed) == 0 {
                self.retire(mark.at, claim.me(), world);
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
}
