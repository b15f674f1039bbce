//! The committed cell: a value in shared words whose every update is one store.
//!
//! Why: a process can be killed between any two stores. If one store alone decides which bytes are the value, a kill
//! before it changed nothing and a kill after it changed all: there is no half, nothing to repair, no poison.
//!
//! # Shape
//!
//! ```text
//! up to 8 bytes:  | value |                                      1 word
//! above:          | version | buffer 0: n words | buffer 1 |     1 + 2n words, n = bytes / 8 rounded up
//! ```
//!
//! The value is buffer `version % 2`; the other one is spare. All zeros is the value of zero bytes, so a fresh body
//! needs no initialisation.
//!
//! # Invariants
//!
//! 1. Only the holder of the lock writes. (Without a lock: see below.)
//! 2. The buffer that the version names is not written. A writer fills the spare one and then stores version + 1.
//! 3. So a copy of buffer `v % 2` is whole if no writer has begun version `v + 2`, and it is enough to see the
//!    version still at `v` afterwards.
//!
//! # Orderings
//!
//! | access | order | pairs with |
//! |---|---|---|
//! | writer: version + 1 | Release | reader's version Acquire: who sees the version sees its bytes |
//! | writer: fence before the spare buffer | Release | reader's fence: who saw one word of version `v + 2` sees version `v + 1` when it looks again, and drops its copy. (`v + 1` comes before the fence: own, or through the lock) |
//! | reader: fence after the copy | Acquire | as above |
//! | reader: version again | Relaxed | ordered by the fence before it |
//! | buffers | Relaxed | ordered by those |
//! | writer: version | Relaxed | the lock's Acquire: nobody else stores it meanwhile |
//!
//! # Killed here?
//!
//! | the writer dies | what is there | who repairs |
//! |---|---|---|
//! | before or in the spare buffer | the old value; the spare buffer holds anything | nobody: the next writer overwrites it |
//! | before the version | the old value | as above |
//! | after the version, before the unlock | the new value | nobody; the heir of the lock goes on |
//!
//! A dead reader leaves no trace. Cells without a lock use the same stores: up to 8 bytes nothing is torn; above,
//! writers that overlap can leave a mixture, which is defined and visible, as the caller asked for.
//! A hostile version only chooses a buffer: no value of it leads out of the words.

use super::mutation::{Mutation, broken, unless};
use crate::{
    atomic::{
        self,
        Acquire,
        Relaxed, // see the table
        Release,
        Rule,
        Word64,
        fence,
    },
    segment::words::{load_bytes, store_bytes, words_for},
};

/// Values up to this size are one word.
const ONE_WORD: usize = size_of::<u64>();

/// How many words a value of `bytes` bytes needs.
pub(crate) const fn cell_words(bytes: usize) -> usize {
    if bytes <= ONE_WORD { 1 } else { 1 + 2 * words_for(bytes) }
}

/// A value of a size that is known here, in words that were placed by somebody else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed<'a> {
    words: &'a [Word64],
    bytes: usize,
}

impl<'a> Committed<'a> {
    /// The cell in the first [`cell_words`] of `words`.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[inline]
    pub(crate) fn new(words: &'a [Word64], bytes: usize) -> Self {
        Self { words: &words[..cell_words(bytes)], bytes }
    }

    #[inline]
    fn version(&self) -> &'a Word64 {
        &self.words[0]
    }

    /// The buffer of `version`.
    #[inline]
    fn buffer(&self, version: u64) -> &'a [Word64] {
        let n = words_for(self.bytes);
        let begin = 1 + if version.is_multiple_of(2) { 0 } else { n };
        &self.words[begin..begin + n]
    }

    /// Copies the value, without the lock; `false` if a writer was faster, and then `out` holds anything.
    ///
    /// One try, without a loop or a wait. `out` is as long as the value.
    #[inline]
    #[must_use = "false says that the copy may be torn"]
    pub(crate) fn read_once(&self, out: &mut [u8]) -> bool {
        assert_eq!(out.len(), self.bytes);
        if self.bytes <= ONE_WORD {
            let value = self.words[0].load(Acquire).to_ne_bytes();
            out.copy_from_slice(&value[..self.bytes]);
            return true;
        }
        let version = self.version().load(unless(Mutation::RelaxedCommit, Acquire));
        load_bytes(self.buffer(version), out);
        if !broken(Mutation::ReadWithoutFence) {
            fence(Acquire);
        }
        self.version().load(Relaxed) == version
    }

    /// Copies the value under the lock, where no writer can interfere.
    #[inline]
    pub(crate) fn read_locked(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.bytes);
        if self.bytes <= ONE_WORD {
            // `Relaxed`: the lock's Acquire has ordered it.
            let value = self.words[0].load(Relaxed).to_ne_bytes();
            out.copy_from_slice(&value[..self.bytes]);
        } else {
            load_bytes(self.buffer(self.version().load(Relaxed)), out);
        }
    }

    /// Makes `value` the value: under the lock, or before anybody else knows the words.
    #[inline]
    pub(crate) fn commit(&self, value: &[u8]) {
        assert_eq!(value.len(), self.bytes);
        if self.bytes <= ONE_WORD {
            let mut word = [0; ONE_WORD];
            word[..self.bytes].copy_from_slice(value);
            self.words[0].store(u64::from_ne_bytes(word), unless(Mutation::RelaxedCommit, Release));
            return;
        }
        if atomic::broken(Rule::CommitIsOneStore) {
            return store_bytes(self.buffer(self.version().load(Relaxed)), value);
        }
        let next = self.version().load(Relaxed).wrapping_add(1);
        if !broken(Mutation::CommitWithoutFence) {
            fence(Release);
        }
        store_bytes(self.buffer(next), value);
        self.version().store(next, unless(Mutation::RelaxedCommit, Release));
    }
}
