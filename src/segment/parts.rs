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
//! whose state is PART; the record says which object and which word of its table. How the two come together and part, and
//! what becomes of them when a process dies in between, is in `tie`.
//!
//! A table word names a block whose memory is committed, and committed memory stays: who reads through an old word reads
//! bytes of something else, never a fault.
//!
//! Killed here? While an object is taken apart: it is PENDING of a dead owner, and who clears it frees the parts whose
//! records name it before it frees the object; each step is idempotent. The rest is told in `tie`.

use super::{
    Object, Segment,
    extents::{Block, State},
    keep::Keep,
    layout::header,
    names,
    object::Known,
    record,
    tie::{self, BlockCard, Kin, Settled},
};
use crate::{
    atomic::{self, Acquire, Relaxed, Rule, Word64},
    error::{CreateError, Resource},
    os::memory,
};

/// The unit of both numbers of a table word.
pub(super) const LINE: u64 = 64;
/// Parts of so many bytes are zeroed by the kernel, which is cheaper then.
const LARGE: u64 = 16 << 10;
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

    fn card_of(&self, block: &Block) -> BlockCard<'a> {
        BlockCard {
            state: self.extents.state(block),
            generation: self.record(block, record::GENERATION),
            object: self.record(block, record::SHAPE),
            life: self.record(block, record::REASONS),
            index: self.record(block, record::NAME),
        }
    }

    /// What a dead process left PENDING (`from` says whose): a part that is named stays, and anything else is freed.
    pub(super) fn settle(&self, block: &Block, from: State) {
        let settled = match atomic::broken(Rule::AskForTheParent) {
            true => Settled::Unnamed,
            false => tie::settle(self, block.at, self.card_of(block), from, self.me),
        };
        match settled {
            Settled::Stays => {}
            Settled::Mine => self.free_mine(block),
            Settled::Unnamed => {
                self.free_parts(block);
                self.extents.free(None, block, from, self.me);
            }
        }
    }

    /// A part whose object is gone is freed.
    pub(super) fn reclaim(&self, block: &Block) {
        if tie::reclaim(self, self.card_of(block), self.me) {
            self.free_mine(block);
        }
    }

    fn free_mine(&self, block: &Block) {
        self.extents.free(None, block, State::Pending(self.me), self.me);
    }

    /// Has the object in `block` room for parts?
    pub(super) fn may_have_parts(&self, block: &Block) -> bool {
        record::kind_and_parts(self.record(block, record::KIND).load(Relaxed)).1 > 0
    }

    /// Frees what belongs to the object in `block`, which is PENDING: nobody begins to hold it any more.
    pub(super) fn free_parts(&self, block: &Block) {
        tie::before_taking();
        for word in self.table(block).unwrap_or_default() {
            let word = word.load(Acquire);
            if word != 0
                && let Some(part) = self.extents.locate(Part::decode(word).at)
                && tie::take(self.card_of(&part), block.at, self.me)
            {
                self.free_mine(&part);
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
                Some(State::Part(_)) if knows => parts += 1,
                Some(State::Pending(_)) => {}
                _ => return Err(part.at),
            }
        }
        Ok(parts)
    }

    /// Does a PART belong to an object whose table names it? `None`: that object is just being taken apart.
    pub(super) fn is_part(&self, block: &Block) -> Option<bool> {
        let card = self.card_of(block);
        let Some(found) = self.extents.locate(card.object.load(Relaxed)) else { return Some(false) };
        match State::decode(self.extents.state(&found).load(Acquire)) {
            Some(State::Pending(_)) => None,
            _ => Some(tie::is_named(self, block.at, card)),
        }
    }
}

impl Kin for Keep<'_> {
    fn card(&self, at: u64) -> Option<BlockCard<'_>> {
        Some(self.card_of(&self.extents.locate(at)?))
    }

    fn table_word(&self, object: u64, index: u64) -> Option<&Word64> {
        self.table(&self.extents.locate(object)?)?.get(usize::try_from(index).ok()?)
    }

    fn named_by(&self, word: u64) -> u64 {
        Part::decode(word).at
    }

    fn count(&self) -> u64 {
        // Relaxed: unique is enough. The same counter as that of objects' generations.
        self.extents.bytes.w64(header::GENERATION).fetch_add(1, Relaxed)
    }
}

impl Segment {
    /// Does a table word name a part of the object at `parent` that is as long as it says?
    fn look_up(&self, parent: u64, word: u64) -> bool {
        let (part, extents) = (Part::decode(word), self.extents());
        let Some(block) = extents.locate(part.at) else { return false };
        // Acquire: the block is what its extent says.
        let is_part = match State::decode(extents.state(&block).load(Acquire)) {
            Some(State::Part(_)) => self.bytes().w64(block.at + record::SHAPE * 8).load(Relaxed) == parent,
            // Its process is at it, or died there.
            Some(State::Pending(_)) => true,
            _ => false,
        };
        is_part && part.bytes + self.geometry().record_bytes() <= block.bytes
    }

    /// Makes the words of a part 0, which is PENDING of ours, and has them mapped at a few looks.
    fn zero_part(&self, word: u64) -> Result<(), CreateError> {
        let part = Part::decode(word);
        let at = part.at + self.geometry().record_bytes();
        Ok(memory::zero(|| self.observer.checked().ok(), at, part.bytes)?)
    }

    pub(super) fn part_words(&self, word: u64) -> &[Word64] {
        let part = Part::decode(word);
        self.bytes().words64(part.at + self.geometry().record_bytes(), (part.bytes / 8) as usize)
    }
}

fn damaged() -> CreateError {
    CreateError::Damaged("the table of an object's parts".into())
}

impl Object {
    /// Attaches a part of `bytes` bytes, rounded up to lines of 64. Its words are zero, and `init` may change that before
    /// anybody else sees them. The caller excludes the object's other writers, and knows of no part in that place.
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
        if table.load(Relaxed) != 0 {
            return Err(damaged()); // the caller knows of no part there: what it says was overwritten
        }
        let record_bytes = segment.geometry().record_bytes();
        let wish = bytes
            .checked_add(record_bytes + LINE)
            .ok_or(CreateError::Full { bytes, what: Resource::Segment })?
            - LINE;
        let block = segment.claim(me, wish, true)?;
        let Some(word) = (Part { at: block.at, bytes: bytes.next_multiple_of(LINE) }).encode() else {
            segment.extents().free(None, &block, State::Pending(me), me);
            return Err(CreateError::Full { bytes, what: Resource::Segment });
        };
        let set = |at, value| keep.record(&block, at).store(value, Relaxed);
        names::begin_life(keep.record(&block, record::GENERATION), 0); // no handle has it
        set(record::KIND, 0);
        set(record::SHAPE, self.place().at);
        set(record::NAME, index as u64);
        set(record::WORDS, 0);
        set(record::REASONS, self.place().generation);
        let words = segment.part_words(word);
        if bytes < LARGE || segment.zero_part(word).is_err() {
            words.iter().for_each(super::extents::clear);
        }
        init(words);
        tie::tie(&keep, keep.card_of(&block), table, word);
        Ok(())
    }

    /// Gives a part back. The caller excludes the object's other writers; readers may go on and read anything.
    pub(crate) fn detach_part(&self, index: usize) -> Result<(), CreateError> {
        let segment = self.segment();
        let me = segment.me()?;
        let (extents, table) = (segment.extents(), &self.table()[index]);
        let word = table.load(Acquire);
        if word == 0 {
            return Ok(());
        }
        let block = extents.locate(Part::decode(word).at).ok_or_else(damaged)?;
        let is_alive = |owner| segment.is_alive(owner).map_err(|_| CreateError::DescriptorsLost);
        let card = segment.keep(me).card_of(&block);
        if !tie::untie(card, (self.place().at, index as u64), table, me, is_alive)? {
            return Err(damaged());
        }
        extents.free(None, &block, State::Pending(me), me);
        Ok(())
    }

    /// The words of a part; `None` if there is none, or if the table's word is nothing that we wrote.
    #[inline(always)]
    pub(crate) fn part(&self, index: usize) -> Option<&[Word64]> {
        let (word, known) = self.table_word(index)?;
        match known {
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
    use crate::segment::{Kind, Stamp, owner::Owner};
    use proptest::prelude::*;
    use std::{cell::Cell, sync::Arc};

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

    /// Acts once, before the second look at an object.
    struct Stopped<'a> {
        keep: Keep<'a>,
        looks: Cell<u32>,
        act: &'a dyn Fn(),
    }

    impl Kin for Stopped<'_> {
        fn card(&self, at: u64) -> Option<BlockCard<'_>> {
            self.looks.set(self.looks.get() + 1);
            if self.looks.get() == 2 {
                (self.act)();
            }
            self.keep.card(at)
        }
        fn table_word(&self, object: u64, index: u64) -> Option<&Word64> {
            self.keep.table_word(object, index)
        }
        fn named_by(&self, word: u64) -> u64 {
            self.keep.named_by(word)
        }
        fn count(&self) -> u64 {
            self.keep.count()
        }
    }

    fn block_of(segment: &Segment, owner: &Object, index: usize) -> Block {
        segment.extents().locate(Part::decode(owner.table()[index].load(Relaxed)).at).unwrap()
    }

    /// Who settles a part stood still between its two compare-exchanges. Meanwhile the part was detached, and its block
    /// was attached again: that was freed, while the table named it.
    #[test]
    fn a_part_that_was_attached_meanwhile_is_not_freed() {
        const BYTES: u64 = 3 << 20; // a run: the next one begins at the same place
        let segment = Segment::private().unwrap();
        let dead = State::Pending(Owner::new(1, 100).unwrap());
        let settle = |block: &Block, act: &dyn Fn()| {
            let keep = segment.keep(segment.me().unwrap());
            segment.extents().state(block).store(dead.encode(), Relaxed); // killed before its last write
            let stopped = Stopped { keep, looks: Cell::new(0), act };
            let settled = tie::settle(&stopped, block.at, keep.card_of(block), dead, keep.me);
            assert_eq!((settled, stopped.looks.get()), (Settled::Stays, 2));
        };
        let owner = object(&segment, 2);
        owner.attach_part(0, BYTES, |_| ()).unwrap();
        let block = block_of(&segment, &owner, 0);
        settle(&block, &|| {
            owner.detach_part(0).unwrap();
            owner.attach_part(1, BYTES, |words| words[0].store(7, Relaxed)).unwrap();
            assert_eq!(block_of(&segment, &owner, 1), block);
        });
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.parts, report.busy), (1, 1, 0));
        assert_eq!(owner.part(1).unwrap()[0].load(Relaxed), 7);
        drop(owner);

        // The same where the object ends, and another one begins in its place.
        let large =
            |parts| segment.create_with_parts(Kind::Buffer, Stamp::NONE, 0, 1 << 17, parts, |_| ()).unwrap();
        let first = large(1);
        first.attach_part(0, BYTES, |_| ()).unwrap();
        let (place, block) = (first.place(), block_of(&segment, &first, 0));
        let (first, second) = (Cell::new(Some(first)), Cell::new(None));
        settle(&block, &|| {
            drop(first.take());
            let next = large(2);
            assert_eq!(next.place().at, place.at);
            next.attach_part(1, BYTES, |_| ()).unwrap();
            assert_eq!(block_of(&segment, &next, 1), block);
            second.set(Some(next));
        });
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.parts, report.busy), (1, 1, 0));
    }

    /// Who settles a part was killed between its two compare-exchanges, and the object ended just before the first one.
    #[test]
    fn a_part_whose_object_is_gone_is_freed_by_who_clears_the_dead() {
        for bytes in [64, 3 << 20] {
            let segment = Segment::private().unwrap();
            let keep = segment.keep(segment.me().unwrap());
            let (owner, other) = (object(&segment, 1), object(&segment, 1));
            owner.attach_part(0, bytes, |_| ()).unwrap();
            other.attach_part(0, bytes, |_| ()).unwrap();
            let block = block_of(&segment, &owner, 0);
            let dead = Owner::new(1, 100).unwrap();
            segment.extents().state(&block).store(State::Pending(dead).encode(), Relaxed);
            drop(owner);
            segment.extents().state(&block).store(State::part(keep.count()).encode(), Relaxed);
            assert!(segment.verify().is_err());
            let _next = object(&segment, 1); // in the place of the one that is gone
            keep.clear_slot(dead.slot());
            let report = segment.verify().unwrap();
            assert_eq!((report.objects, report.parts, report.busy), (2, 1, 0));
        }
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
