//! Parts: further blocks that belong to an object and go with it. So an object can grow without being moved.
//!
//! An object that was made with room for parts has a table at the end of its body, one word per part, 0 for none:
//!
//! ```text
//!  63            30 29            0
//! | at / 64         | bytes / 64   |      where the part's block is, and how much of it is the owner's to use
//! ```
//!
//! A part is a block with a record (its holder words stay unused: a late look through a stale handle may write there),
//! whose state is PART(object); the record says which object and which word of its table.
//!
//! ```text
//! attach:  FREE -> PENDING(me), record, contents; table word := part; state := PART(object)
//! detach:  PART(object) -> PENDING(me); table word := 0; FREE
//! ```
//!
//! Invariants
//! 1. A table word changes only under whatever excludes the object's other writers; it names a block whose memory is
//!    committed, and committed memory stays: who reads through an old word reads bytes of something else, never a fault.
//! 2. PART(o) says that `o` is LIVE (or DYING, or PENDING of who takes it apart) and that its table names the block.
//! 3. A part is freed only by who moved its state to PENDING(itself), which is one compare-exchange.
//!
//! Killed here? In `attach` before the table word: PENDING of a dead owner that nobody names: freed. After it: PENDING of
//! a dead owner that its object names: `settle` makes it a PART. In `detach` the same two cases, the other way round:
//! until the table word is 0 the part is still there. While an object is taken apart: it is PENDING of a dead owner, and
//! who clears it frees the parts that say PART(it) before it frees the object; each step is idempotent.
//!
//! `settle` (S) against the end of the object (E): S makes the block PART(o), fence, looks at `o` again; E makes `o`
//! PENDING, fence, looks at each part's state. The fences are SeqCst, so S sees the end or E sees the part; either
//! frees it, by compare-exchange. Orderings: the table word is Release and pairs with the Acquire of who looks it up; the
//! rest as in `extents`.

use super::{
    Object, Segment,
    extents::{Block, State},
    keep::Keep,
    object::Known,
    record,
};
use crate::{
    atomic::{self, AcqRel, Acquire, Relaxed, Release, Rule, SeqCst, Word64, fence},
    error::CreateError,
};

/// The unit of both numbers of a table word.
pub(super) const LINE: u64 = 64;
const LENGTH_BITS: u32 = 30;
const LENGTH: u64 = (1 << LENGTH_BITS) - 1;

/// A table word that is not 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) at: u64,
    pub(super) bytes: u64,
}

impl Part {
    /// `None` if it is too far away or too long for a table word.
    fn encode(self) -> Option<u64> {
        let (at, lines) = (self.at / LINE, self.bytes / LINE);
        (at < 1 << (u64::BITS - LENGTH_BITS) && lines <= LENGTH).then_some(at << LENGTH_BITS | lines)
    }

    #[inline(always)]
    pub(super) fn decode(word: u64) -> Self {
        Self { at: (word >> LENGTH_BITS) * LINE, bytes: (word & LENGTH) * LINE }
    }
}

impl<'a> Keep<'a> {
    /// The table of the object in `block`, as its record says, if it fits into the block.
    fn table(&self, block: &Block) -> Option<&'a [Word64]> {
        let words = self.record(block, record::WORDS).load(Relaxed);
        let (_, parts) = record::kind_and_parts(self.record(block, record::KIND).load(Relaxed));
        let (n32, n64) = (words & u64::from(u32::MAX), words >> 32);
        let end = self.extents.geometry.record_bytes() + (n32 * 4).next_multiple_of(8) + n64 * 8;
        (parts <= n64 && end <= block.bytes)
            .then(|| self.extents.bytes.words64(block.at + end - parts * 8, parts as usize))
    }

    /// The object that a block's record speaks of, if that is there and its table names the block.
    fn parent(&self, block: &Block) -> Option<Block> {
        let parent = self.extents.locate(self.record(block, record::SHAPE).load(Relaxed))?;
        let state = State::decode(self.extents.state(&parent).load(Acquire));
        if !matches!(state, Some(State::Live | State::Dying(_))) {
            return None;
        }
        let index = usize::try_from(self.record(block, record::NAME).load(Relaxed)).ok()?;
        // Acquire: pairs with the Release of a detach.
        let word = self.table(&parent)?.get(index)?.load(Acquire);
        (word != 0 && Part::decode(word).at == block.at).then_some(parent)
    }

    /// What a dead process left PENDING (`from` says whose): a part that is named stays, and anything else is freed.
    pub(super) fn settle(&self, block: &Block, from: State) {
        if !atomic::broken(Rule::AskForTheParent)
            && let Some(parent) = self.parent(block)
        {
            let (word, part) = (self.extents.state(block), State::Part(parent.at));
            if word.compare_exchange(from.encode(), part.encode(), AcqRel, Relaxed).is_err() {
                return; // who has the object has moved on
            }
            fence(SeqCst);
            if self.parent(block) != Some(parent) {
                self.free_part(block, parent.at);
            }
            return;
        }
        self.free_parts(block);
        self.extents.free(None, block, from, self.me);
    }

    fn free_part(&self, block: &Block, parent: u64) {
        let (word, mine) = (self.extents.state(block), State::Pending(self.me));
        if word.compare_exchange(State::Part(parent).encode(), mine.encode(), AcqRel, Relaxed).is_ok() {
            self.extents.free(None, block, mine, self.me);
        }
    }

    /// Has the object in `block` room for parts?
    pub(super) fn may_have_parts(&self, block: &Block) -> bool {
        record::kind_and_parts(self.record(block, record::KIND).load(Relaxed)).1 > 0
    }

    /// Frees what belongs to the object in `block`, which is PENDING: nobody begins to hold it any more.
    pub(super) fn free_parts(&self, block: &Block) {
        fence(SeqCst);
        for word in self.table(block).unwrap_or_default() {
            let word = word.load(Acquire);
            if word != 0
                && let Some(part) = self.extents.locate(Part::decode(word).at)
            {
                self.free_part(&part, block.at);
            }
        }
    }

    /// Is each word of a LIVE object's table a part that knows its place, or on its way? How many there are, or where it
    /// is wrong.
    pub(super) fn check_parts(&self, block: &Block) -> Result<u64, u64> {
        let mut parts = 0;
        for (index, word) in self.table(block).unwrap_or_default().iter().enumerate() {
            let word = word.load(Acquire);
            if word == 0 {
                continue;
            }
            let part = Part::decode(word);
            let found = self.extents.locate(part.at).ok_or(block.at)?;
            let state = State::decode(self.extents.state(&found).load(Acquire));
            let knows = self.record(&found, record::SHAPE).load(Relaxed) == block.at
                && self.record(&found, record::NAME).load(Relaxed) == index as u64
                && part.bytes + self.extents.geometry.record_bytes() <= found.bytes;
            match state {
                Some(State::Part(parent)) if parent == block.at && knows => parts += 1,
                Some(State::Pending(_)) => {}
                _ => return Err(part.at),
            }
        }
        Ok(parts)
    }

    /// Does a PART belong to an object whose table names it? `None`: that object is just being taken apart.
    pub(super) fn is_part_of(&self, block: &Block, parent: u64) -> Option<bool> {
        let Some(found) = self.extents.locate(parent) else { return Some(false) };
        match State::decode(self.extents.state(&found).load(Acquire)) {
            Some(State::Pending(_)) => None,
            _ => Some(self.parent(block) == Some(found)),
        }
    }
}

impl Segment {
    /// Does a table word name a part of the object at `parent` that is as long as it says?
    fn look_up(&self, parent: u64, word: u64) -> bool {
        let (part, extents) = (Part::decode(word), self.extents());
        let Some(block) = extents.locate(part.at) else { return false };
        // Acquire: the block is what its extent says.
        let state = State::decode(extents.state(&block).load(Acquire));
        is_part_of(state, parent) && part.bytes + self.geometry().record_bytes() <= block.bytes
    }

    pub(super) fn part_words(&self, word: u64) -> &[Word64] {
        let part = Part::decode(word);
        self.bytes().words64(part.at + self.geometry().record_bytes(), (part.bytes / 8) as usize)
    }
}

/// Can a block of that state be a part that `parent` names, for who reads? PENDING: its process is at it, or died there.
fn is_part_of(state: Option<State>, parent: u64) -> bool {
    match state {
        Some(State::Part(of)) => of == parent,
        Some(State::Pending(_)) => true,
        _ => false,
    }
}

#[allow(dead_code, reason = "each container as it needs")]
impl Object {
    /// Attaches a part of `bytes` bytes, rounded up to lines of 64. Its words are zero, and `init` may change that before
    /// anybody else sees them. The caller excludes the object's other writers, and sees to it that the place is empty.
    ///
    /// The words are 64-byte aligned.
    pub(crate) fn attach_part(
        &self,
        index: usize,
        bytes: u64,
        init: impl FnOnce(&[Word64]),
    ) -> Result<(), CreateError> {
        let segment = self.segment();
        let me = segment.me()?;
        let keep = segment.keep(me);
        let table = &self.table()[index];
        debug_assert_eq!(table.load(Relaxed), 0, "the place is taken");
        let record_bytes = segment.geometry().record_bytes();
        let wish = bytes.checked_add(record_bytes + LINE).ok_or(CreateError::Full { bytes })? - LINE;
        let block = segment.claim(me, wish, true)?;
        let Some(word) = (Part { at: block.at, bytes: bytes.next_multiple_of(LINE) }).encode() else {
            segment.extents().free(None, &block, State::Pending(me), me);
            return Err(CreateError::Full { bytes });
        };
        let set = |at, value| keep.record(&block, at).store(value, Relaxed);
        set(record::GENERATION, 0); // no handle has it
        set(record::KIND, 0);
        set(record::SHAPE, self.place().at);
        set(record::NAME, index as u64);
        set(record::WORDS, 0);
        set(record::REASONS, 0);
        let words = segment.part_words(word);
        words.iter().for_each(super::extents::clear);
        init(words);
        // Release: who sees the word sees the record and the contents.
        table.store(word, Release);
        // Release: who finds a PART finds it named.
        segment.extents().state(&block).store(State::Part(self.place().at).encode(), Release);
        Ok(())
    }

    /// Gives a part back. The caller excludes the object's other writers; readers may go on and read anything.
    pub(crate) fn detach_part(&self, index: usize) -> Result<(), CreateError> {
        let segment = self.segment();
        let me = segment.me()?;
        let (extents, table) = (segment.extents(), &self.table()[index]);
        let word = table.load(Acquire);
        let damaged = || CreateError::Damaged("the table of an object's parts".into());
        if word == 0 {
            return Ok(());
        }
        let block = extents.locate(Part::decode(word).at).ok_or_else(damaged)?;
        let state = extents.state(&block);
        // PART, or PENDING of a dead process until somebody settles it, which happens once. What is PENDING of a living
        // one is none of this object's, as the caller excludes the others: the table was overwritten.
        let mut tries = 3;
        loop {
            let seen = state.load(Acquire);
            let ours = match State::decode(seen) {
                Some(State::Part(of)) => of == self.place().at,
                Some(State::Pending(owner)) => {
                    owner != me && !segment.is_alive(owner).map_err(|_| CreateError::DescriptorsLost)?
                }
                _ => false,
            };
            if !ours || tries == 0 {
                return Err(damaged());
            }
            if state.compare_exchange(seen, State::Pending(me).encode(), AcqRel, Relaxed).is_ok() {
                break;
            }
            tries -= 1;
        }
        // Release: who finds the block free finds it unnamed.
        table.store(0, Release);
        extents.free(None, &block, State::Pending(me), me);
        Ok(())
    }

    /// The words of a part; `None` if there is none, or if the table's word is nothing that we wrote.
    #[inline(always)]
    pub(crate) fn part(&self, index: usize) -> Option<&[Word64]> {
        // Acquire: the part is whole.
        let word = self.table().get(index)?.load(Acquire);
        match self.known(index) {
            Some(known) if known.word() == word => Some(known.words()),
            _ => self.part_slow(index, word).map(Known::words),
        }
    }

    /// Line `line` of a part that is never detached: without a look at the table once it is known.
    #[inline(always)]
    pub(crate) fn lasting_line(&self, index: usize, line: u64) -> Option<&[Word64; 8]> {
        match self.known(index) {
            Some(known) => known.line(line),
            None => self.first_look(index)?.line(line),
        }
    }

    #[cold]
    #[inline(never)]
    fn first_look(&self, index: usize) -> Option<Known<'_>> {
        self.part_slow(index, self.table().get(index)?.load(Acquire))
    }

    #[cold]
    #[inline(never)]
    fn part_slow(&self, index: usize, word: u64) -> Option<Known<'_>> {
        (word != 0 && self.segment().look_up(self.place().at, word)).then(|| self.know(index, word))
    }
}

/// An object with parts in the process's own segment, for tests that kill processes. Panics on errors, if it does not
/// say otherwise.
#[cfg(allmend_crash)]
#[derive(Clone, Debug)]
pub struct Parts(std::sync::Arc<Object>);

#[cfg(allmend_crash)]
impl Parts {
    /// With room for so many.
    pub fn new(parts: usize) -> Self {
        let segment = Segment::default_segment().expect("a segment");
        let (kind, stamp) = (super::Kind::Buffer, super::Stamp::NONE);
        Self(segment.create_with_parts(kind, stamp, 4, 3, parts, |_| ()).expect("an object"))
    }
    /// A part whose first and last word are `stamp`.
    pub fn attach(&self, index: usize, bytes: u64, stamp: u64) {
        let init = |words: &[Word64]| [0, words.len() - 1].map(|i| words[i].store(stamp, Relaxed));
        self.0.attach_part(index, bytes, |words| _ = init(words)).expect("attach");
    }
    /// See the object.
    pub fn detach(&self, index: usize) -> Result<(), CreateError> {
        self.0.detach_part(index)
    }
    /// The first and the last word of a part.
    pub fn ends(&self, index: usize) -> Option<[u64; 2]> {
        self.0.part(index).map(|words| [0, words.len() - 1].map(|i| words[i].load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Kind, Stamp};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn object(segment: &Arc<Segment>, parts: usize) -> Arc<Object> {
        segment.create_with_parts(Kind::Buffer, Stamp::NONE, 4, 3, parts, |_| ()).unwrap()
    }

    #[test]
    fn a_part_is_zero_and_aligned_and_goes_with_its_object() {
        let segment = Segment::private().unwrap();
        let owner = object(&segment, 3);
        assert_eq!((owner.w64().len(), owner.table().len()), (3, 3));
        for (index, bytes) in [(0, 100), (1, 65_536), (2, 3 << 20)] {
            assert!(owner.part(index).is_none());
            owner.attach_part(index, bytes, |words| words[1].store(7, Relaxed)).unwrap();
            let words = owner.part(index).unwrap();
            assert!(words.len() as u64 * 8 >= bytes);
            assert_eq!(words.as_ptr() as usize % 64, 0);
            assert_eq!((words[0].load(Relaxed), words[1].load(Relaxed)), (0, 7));
            words.iter().for_each(|w| w.store(u64::MAX, Relaxed));
        }
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.parts, report.busy), (1, 3, 0));
        owner.detach_part(1).unwrap();
        assert!(owner.part(1).is_none());
        owner.attach_part(1, 65_536, |words| assert!(words.iter().all(|w| w.load(Relaxed) == 0))).unwrap();
        drop(owner);
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.parts, report.busy), (0, 0, 0));
    }

    #[test]
    fn a_power_of_two_fits_without_waste() {
        let segment = Segment::private().unwrap();
        let owner = object(&segment, 5);
        for (index, bytes) in [1024, 4096, 16384, 65536, 1 << 20].into_iter().enumerate() {
            owner.attach_part(index, bytes, |_| ()).unwrap();
            let got = owner.part(index).unwrap().len() as u64 * 8;
            assert_eq!(got, bytes);
            let block =
                segment.extents().locate(Part::decode(owner.table()[index].load(Relaxed)).at).unwrap();
            assert!(block.bytes <= bytes + 192 || bytes >= 1 << 20, "{bytes}: {}", block.bytes);
        }
    }

    #[test]
    fn a_table_that_was_overwritten_names_nothing() {
        let segment = Segment::private().unwrap();
        let (owner, other) = (object(&segment, 2), object(&segment, 1));
        other.attach_part(0, 64, |_| ()).unwrap();
        owner.attach_part(0, 64, |_| ()).unwrap();
        for word in [1, u64::MAX, other.table()[0].load(Relaxed), ((owner.place().at / 64) << 30) | 1] {
            owner.table()[1].store(word, Relaxed);
            assert!(owner.part(1).is_none(), "{word:#x}");
            assert!(owner.detach_part(1).is_err());
            assert!(segment.verify().is_err());
        }
        // Longer than its block.
        let word = owner.table()[0].load(Relaxed);
        owner.table()[1].store(0, Relaxed);
        owner.table()[0].store(word | 0xffff, Relaxed);
        assert!(owner.part(0).is_none());
        owner.table()[0].store(word, Relaxed);
        assert!(segment.verify().is_ok());
    }

    #[test]
    fn too_much_is_full_and_leaves_nothing() {
        let segment = Segment::private().unwrap();
        let owner = object(&segment, 1);
        for bytes in [1 << 50, u64::MAX, u64::MAX - 100] {
            assert!(matches!(owner.attach_part(0, bytes, |_| ()), Err(CreateError::Full { .. })));
        }
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.parts, report.busy), (1, 0, 0));
    }

    proptest! {
        #[test]
        fn any_table_word_is_a_place_and_a_length_or_comes_back(word in any::<u64>(), at in 0u64..1 << 45, bytes in 0u64..1 << 40) {
            let part = Part::decode(word);
            prop_assert_eq!(part.encode(), Some(word));
            prop_assert!(part.at.is_multiple_of(LINE) && part.at < 1 << 40 && part.bytes <= LENGTH * LINE);
            let part = Part { at: at / LINE * LINE, bytes: bytes / LINE * LINE };
            match part.encode() {
                Some(word) => prop_assert_eq!(Part::decode(word), part),
                None => prop_assert!(part.at >= 1 << 40 || part.bytes > LENGTH * LINE),
            }
        }

        #[test]
        fn parts_keep_what_was_written(
            steps in proptest::collection::vec((0usize..2, 0usize..4, 1u64..200_000), 1..40)
        ) {
            let segment = Segment::private().unwrap();
            let owners = [object(&segment, 4), object(&segment, 4)];
            let mut model = [[0u64; 4]; 2];
            for (i, (o, index, bytes)) in steps.into_iter().enumerate() {
                if model[o][index] == 0 {
                    let stamp = i as u64 + 1;
                    owners[o].attach_part(index, bytes, |w| w.iter().for_each(|w| w.store(stamp, Relaxed))).unwrap();
                    model[o][index] = stamp;
                } else {
                    owners[o].detach_part(index).unwrap();
                    model[o][index] = 0;
                }
                for (owner, model) in owners.iter().zip(&model) {
                    for (index, &stamp) in model.iter().enumerate() {
                        let words = owner.part(index);
                        prop_assert_eq!(words.is_some(), stamp != 0);
                        prop_assert!(words.unwrap_or_default().iter().all(|w| w.load(Relaxed) == stamp));
                    }
                }
                let parts = model.iter().flatten().filter(|&&m| m != 0).count() as u64;
                let report = segment.verify().unwrap();
                prop_assert_eq!((report.objects, report.parts, report.busy), (2, parts, 0));
            }
        }
    }
}
