//! Readers that let one another in: invariant 9.
//!
//! While several processes read, an entry of the others is set at any time, and each would look at each. With the bias
//! set, a reader looks at the head only, which nobody writes then.

use super::{
    Claims, Mutation, broken,
    table::{BIAS, BIASED, ENTRIES, EXCLUSIVE, Span},
};
use crate::{
    atomic::{
        AcqRel,
        Acquire,
        Relaxed, // see the table of the protocol
        fence,
        fence_after_swap,
        fence_between_loads,
    },
    segment::owner::Owner,
};

/// A process sets the bias after so many claims to read that had to look around.
const READS: u32 = if cfg!(loom) { u32::MAX } else { 64 };

impl Claims<'_> {
    /// Is nobody in the way of a claim to read that is announced, by the bias? No answer is "no".
    #[inline(always)]
    pub(super) fn is_open(&self) -> bool {
        // Acquire: the elements of writers whom who set it has seen gone.
        if self.table.head[BIAS].load(Acquire) & BIASED == 0 {
            return false;
        }
        // Between threads of one process the record decides, whatever stands there: invariant 7.
        !self.writes_here()
    }

    /// Must an exclusive claim that is announced end the bias, or at least ask?
    #[inline(always)]
    pub(super) fn is_biased(&self) -> bool {
        let is_biased = self.table.head[BIAS].load(Relaxed) != 0;
        if !broken(Mutation::BiasWithoutFence) {
            fence_between_loads();
        }
        is_biased && !broken(Mutation::BiasKept)
    }

    /// Ends the bias, for an exclusive claim that is announced. Who was let in by it is seen from here on.
    pub(crate) fn end_bias(&self) {
        if self.is_biased() {
            self.table.head[BIAS].swap(0, AcqRel);
            fence_after_swap();
        }
    }

    /// A claim to read holds that had to look around.
    pub(super) fn has_looked_around(&self, me: Owner) {
        let reads = &self.record.reads;
        let count = reads.load(Relaxed) + 1;
        reads.store(count % READS, Relaxed);
        if count == READS {
            self.set_bias(me);
        }
    }

    /// Sets the bias, if nobody claims exclusively and there is no mark.
    #[cold]
    pub(crate) fn set_bias(&self, me: Owner) {
        if self.has_writers() && !broken(Mutation::BiasWithoutLook) {
            return; // as it seems: nothing is written, then
        }
        // One thread of the process at a time: so our name in the word says that it is this call's.
        self.locked(me, || {
            let bias = &self.table.head[BIAS];
            let seen = bias.load(Relaxed);
            let splits = self.table.splits();
            if seen & BIASED != 0 || bias.compare_exchange(seen, me.bits(), AcqRel, Relaxed).is_err() {
                return;
            }
            fence_after_swap();
            let nobody = !self.has_writers() || broken(Mutation::BiasWithoutLook);
            // Invariant 8.
            fence(Acquire);
            let now = if nobody && !self.table.has_split(splits) { me.bits() | BIASED } else { 0 };
            // Only from our name: an exclusive claim has perhaps ended it already. It was not seen.
            let _ = bias.compare_exchange(me.bits(), now, AcqRel, Relaxed);
        });
    }

    /// Is anybody here, or was, with whom readers must not be let in?
    fn has_writers(&self) -> bool {
        let lines = self.table.lines[..self.table.used()].iter().zip(self.table.spans);
        lines.flat_map(|(line, spans)| line[1..=ENTRIES].iter().zip(spans)).any(|(word, span)| {
            // Acquire: an exclusive claim's span is there, and what it wrote if it has gone.
            word.load(Acquire) & EXCLUSIVE != 0 && Span(span.load(Relaxed)) != Span::EMPTY
        })
    }
}
