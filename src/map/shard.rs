//! One shard over its object's words and parts: where its buckets, its overflow buckets and its blocks are, and how it
//! gets more of them.
//!
//! All room that is free is in lists: overflow buckets by their NEXT, blocks by their word 1, one list per class. New
//! room comes from chunks and regions, which are parts of the object (`segment/parts.rs`): attached one at a time, each
//! a fraction of what is there, so that a small map is small. A region is cut into blocks from its start: word 0 of it
//! rises after the block's own word 0 is there, so its blocks can be walked whatever happened.
//!
//! Killed here? All of this is derived (`recovery`); a part that was attached is in the object's table, and found there.
//! Orderings: under the lock, Relaxed. What readers follow is published in `commit`.
//!
//! A region that is one large block is given back to the segment when that becomes free. So its memory can come back as
//! another region: generations start at random, so that a reader which was in the old one does not meet its number again.

use super::{
    commit::{Refusal, Space, buckets, used_in},
    probe::{Bucket, Memory},
    recovery::Marks,
    shape::{
        CHUNKS, CLASS_BITS, CLASSES, FREE_BIT, LARGEST_REGION, LINK_BITS, Layout, MOST_BUCKETS, NEXT,
        OVERFLOW_CHUNKS, REGION_HEADER, REGIONS, chunk, chunk_of, class_for, class_words, overflow_chunk,
        place, place_parts, row,
    },
};
use crate::{
    CreateError,
    atomic::{
        Relaxed, // see above
        Word64,
    },
    os::memory,
    segment::Object,
};
use std::collections::HashMap;

/// A region's smallest size in bytes,
const SMALLEST_REGION: u64 = 1 << 10;
/// its share of what the shard has already,
const REGION_SHARE: u64 = 8;
/// and blocks of at least so many words get one of their own, given back when they are free,
const LARGE: u64 = (256 << 10) / 8;
/// as long as there are fewer than so many: beyond, they share regions as all others do, so that a shard runs out of
/// memory before it runs out of regions.
const OWN_REGIONS: usize = REGIONS / 2;
/// Words at the end of a region that are no room.
const LEFT_OVER: u64 = 8;

/// One shard of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shard<'a> {
    pub(super) object: &'a Object,
    pub(super) layout: Layout,
    pub(super) seeds: [u64; 2],
    /// The most bytes of the whole map.
    pub(super) max_bytes: u64,
    pub(super) index: usize,
}

const FOLD: u64 = 0x9e37_79b9_7f4a_7c15;
const FOLD_AGAIN: u64 = 0xd6e8_feb8_6659_fd93;

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hash of a word: two folded multiplications, the seeds between them.
#[inline(always)]
pub(super) fn hash_word(seeds: [u64; 2], key: u64) -> u64 {
    fold(fold(key ^ seeds[0], FOLD) ^ seeds[1], FOLD_AGAIN)
}

/// The hash of bytes: a folded multiplication for each 16 of them, and one for the length.
#[inline]
pub(super) fn hash_bytes(seeds: [u64; 2], key: &[u8]) -> u64 {
    let (pairs, tail) = key.as_chunks::<16>();
    let halves = |pair: &[u8; 16]| {
        let both = u128::from_ne_bytes(*pair);
        (both as u64, (both >> 64) as u64)
    };
    let mut hash = seeds[0];
    for pair in pairs {
        let (low, high) = halves(pair);
        hash = fold(hash ^ low, seeds[1] ^ high).wrapping_add(FOLD);
    }
    if !tail.is_empty() {
        let mut last = [0; 16];
        last[..tail.len()].copy_from_slice(tail);
        let (low, high) = halves(&last);
        hash = fold(hash ^ low, seeds[1] ^ high).wrapping_add(FOLD);
    }
    fold(hash ^ key.len() as u64, FOLD_AGAIN)
}

impl Memory for Shard<'_> {
    #[inline(always)]
    fn state(&self) -> &Word64 {
        &self.object.w64()[self.layout.line(self.index)]
    }

    #[inline(always)]
    fn bucket(&self, b: u64) -> Option<Bucket<'_>> {
        let (index, line) = chunk_of(b)?;
        self.object.lasting_line(self.chunks() + index, line)
    }

    #[inline(always)]
    fn overflow(&self, link: u64) -> Option<Bucket<'_>> {
        let (index, _, line) = overflow_chunk(link.wrapping_sub(1));
        if index >= OVERFLOW_CHUNKS {
            return None;
        }
        self.object.lasting_line(self.chunks() + CHUNKS + index, line)
    }

    #[inline(always)]
    fn block(&self, place: u64) -> Option<&[Word64]> {
        let (region, word) = place_parts(place);
        if region >= REGIONS || word < REGION_HEADER {
            return None;
        }
        self.object.part(self.region(region))?.get(word..)
    }
}

impl Space for Shard<'_> {
    #[inline(always)]
    fn hash_of(&self, key: u64) -> u64 {
        hash_word(self.seeds, key)
    }

    fn take_overflow(&self) -> Result<u64, Refusal> {
        let free = self.row(row::FREE_OVERFLOW);
        let link = free.load(Relaxed);
        if link != 0 {
            let next = self.overflow(link).ok_or(Refusal::Damaged)?[NEXT].load(Relaxed) & LINK_BITS;
            free.store(next, Relaxed);
            return Ok(link);
        }
        let used = self.row(row::OVERFLOW_USED);
        let fresh = used.load(Relaxed);
        let (index, buckets, _) = overflow_chunk(fresh);
        if index >= OVERFLOW_CHUNKS {
            return Err(Refusal::Full(64));
        }
        self.attach(self.chunks() + CHUNKS + index, buckets * 64)?;
        used.store(fresh + 1, Relaxed);
        Ok(fresh + 1)
    }

    fn give_overflow(&self, link: u64) {
        let Some(bucket) = self.overflow(link) else { return };
        let free = self.row(row::FREE_OVERFLOW);
        let next = bucket[NEXT].load(Relaxed) & !LINK_BITS;
        bucket[NEXT].store(next | free.load(Relaxed) & LINK_BITS, Relaxed);
        free.store(link, Relaxed);
    }

    fn take_block(&self, words: u64) -> Result<u64, Refusal> {
        let class = class_for(words).ok_or(Refusal::Full(words * 8))?;
        if let Some(place) = self.pop(class)? {
            return Ok(place);
        }
        let words = class_words(class);
        let own = words >= LARGE && self.free_region().is_some_and(|region| region < OWN_REGIONS);
        if !own && let Some(place) = self.cut(class)? {
            return Ok(place);
        }
        match self.attach_region(words, own) {
            Ok(region) if own => {
                let of_its_own = self.region_words(region).and_then(|w| cut_from(w, words, class));
                of_its_own.map(|at| place(region, at)).ok_or(Refusal::Damaged)
            }
            Ok(region) => {
                self.cut_up();
                self.row(row::REGION).store(region as u64 + 1, Relaxed);
                self.cut(class)?.ok_or(Refusal::Damaged)
            }
            // No room for more: a larger free block does as well.
            Err(Refusal::Full(bytes)) => {
                for larger in class + 1..CLASSES {
                    if let Some(place) = self.pop(larger)? {
                        return Ok(place);
                    }
                }
                Err(Refusal::Full(bytes))
            }
            Err(other) => Err(other),
        }
    }

    fn give_block(&self, place: u64) {
        let Some(block) = self.block(place).filter(|block| block.len() > 1) else { return };
        let class = (block[0].load(Relaxed) & CLASS_BITS) as usize;
        let (region, word) = place_parts(place);
        if class >= CLASSES {
            return;
        }
        if class_words(class) >= LARGE && word == REGION_HEADER && self.is_alone(region, class) {
            if self.row(row::REGION).load(Relaxed) == region as u64 + 1 {
                self.row(row::REGION).store(0, Relaxed);
            }
            let bytes = self.part_bytes(self.region(region));
            if self.object.detach_part(self.region(region)).is_ok() {
                self.count_bytes(0, bytes);
                return;
            }
        }
        self.push(class, place, block);
    }
}

impl<'a> Shard<'a> {
    /// The same, known to be of an inline map where it is used.
    #[inline(always)]
    pub(super) fn inline(self) -> Self {
        let inline = Some(self.layout.inline.unwrap_or((8, 8)));
        Self { layout: Layout { inline, ..self.layout }, ..self }
    }

    /// The same, known to be of a map that is not inline.
    #[inline(always)]
    pub(super) fn out_of_line(self) -> Self {
        Self { layout: Layout { inline: None, ..self.layout }, ..self }
    }

    #[inline(always)]
    fn chunks(&self) -> usize {
        self.index * self.layout.shard_parts()
    }

    #[inline(always)]
    fn region(&self, region: usize) -> usize {
        self.chunks() + CHUNKS + OVERFLOW_CHUNKS + region
    }

    fn is_region(&self, part: usize) -> bool {
        part >= self.region(0)
    }

    /// The words of a region, of which there are some, whatever the table of parts says.
    #[inline]
    fn region_words(&self, region: usize) -> Option<&'a [Word64]> {
        self.object.part(self.region(region)).filter(|words| words.len() > REGION_HEADER)
    }

    /// A word of what only the holder of the lock looks at.
    #[inline(always)]
    pub(super) fn row(&self, word: usize) -> &'a Word64 {
        &self.object.w64()[self.layout.row(self.index) + word]
    }

    fn part_bytes(&self, part: usize) -> u64 {
        self.object.part(part).map_or(0, |words| words.len() as u64 * 8)
    }

    /// Bytes of the shard's parts, by their table.
    fn bytes(&self) -> u64 {
        (0..self.layout.shard_parts()).map(|part| self.part_bytes(self.chunks() + part)).sum()
    }

    fn count_bytes(&self, more: u64, less: u64) {
        let bytes = self.row(row::BYTES);
        bytes.store(bytes.load(Relaxed).wrapping_add(more).saturating_sub(less), Relaxed);
    }

    /// Bytes of the parts of all shards: others may be changing theirs.
    pub(super) fn bytes_of_all(&self) -> u64 {
        (0..self.layout.shards())
            .map(|index| Shard { index, ..*self }.row(row::BYTES).load(Relaxed))
            .fold(0, u64::saturating_add)
    }

    /// Sees to it that there is a part.
    fn attach(&self, part: usize, bytes: u64) -> Result<(), Refusal> {
        match self.object.part(part) {
            Some([]) => return Err(Refusal::Damaged),
            Some(_) => return Ok(()),
            // Buckets stay. If this process knows them, the table's word was overwritten.
            None if !self.is_region(part) && self.object.lasting_line(part, 0).is_some() => {
                return Err(Refusal::Damaged);
            }
            None => {}
        }
        if self.max_bytes != 0 && self.bytes_of_all().saturating_add(bytes) > self.max_bytes {
            return Err(Refusal::Full(bytes));
        }
        match self.object.attach_part(part, bytes, |_| ()) {
            Ok(()) => {}
            Err(CreateError::Full { bytes, .. }) => return Err(Refusal::Full(bytes)),
            Err(other) => return Err(Refusal::Other(other)),
        }
        self.count_bytes(self.part_bytes(part), 0);
        Ok(())
    }

    /// Memory for bucket `b`.
    pub(super) fn attach_bucket(&self, b: u64) -> Result<(), Refusal> {
        if b >= MOST_BUCKETS {
            return Err(Refusal::Full(64));
        }
        let (index, buckets, _) = chunk(b);
        self.attach(self.chunks() + index, buckets * 64)
    }

    fn pop(&self, class: usize) -> Result<Option<u64>, Refusal> {
        let head = self.row(row::FREE + class);
        let place = head.load(Relaxed);
        if place == 0 {
            return Ok(None);
        }
        let block = self.block(place).filter(|block| block.len() as u64 >= class_words(class));
        let block = block.ok_or(Refusal::Damaged)?;
        let word = block[0].load(Relaxed);
        if word & CLASS_BITS != class as u64 || word & FREE_BIT == 0 {
            return Err(Refusal::Damaged);
        }
        head.store(block[1].load(Relaxed), Relaxed);
        Ok(Some(place))
    }

    fn push(&self, class: usize, place: u64, block: &[Word64]) {
        let head = self.row(row::FREE + class);
        block[1].store(head.load(Relaxed), Relaxed);
        head.store(place, Relaxed);
    }

    /// The region that blocks are cut from.
    fn open_region(&self) -> Result<Option<usize>, Refusal> {
        let Some(region) = self.row(row::REGION).load(Relaxed).checked_sub(1) else { return Ok(None) };
        usize::try_from(region).ok().filter(|&r| r < REGIONS).map(Some).ok_or(Refusal::Damaged)
    }

    /// A new block from the region that blocks are cut from, if there is room.
    fn cut(&self, class: usize) -> Result<Option<u64>, Refusal> {
        let Some(region) = self.open_region()? else { return Ok(None) };
        let words = self.region_words(region).ok_or(Refusal::Damaged)?;
        Ok(cut_from(words, class_words(class), class).map(|at| place(region, at)))
    }

    fn free_region(&self) -> Option<usize> {
        (0..REGIONS).find(|&r| self.object.part(self.region(r)).is_none())
    }

    /// The same, with nothing in its word of the table: what was overwritten there is given back, or passed.
    fn empty_region(&self, words: u64) -> Result<usize, Refusal> {
        for region in (0..REGIONS).filter(|&r| self.object.part(self.region(r)).is_none()) {
            match self.object.detach_part(self.region(region)) {
                Ok(()) => return Ok(region),
                Err(CreateError::Damaged(_)) => {}
                Err(other) => return Err(Refusal::Other(other)),
            }
        }
        Err(Refusal::Full(words * 8))
    }

    /// A region with room for a block of so many words, and perhaps for more.
    fn attach_region(&self, words: u64, own: bool) -> Result<usize, Refusal> {
        let index = self.empty_region(words)?;
        let need = (words + REGION_HEADER as u64) * 8;
        // What there really is: not the row's word, which a stray write can make anything.
        let share = if own { 0 } else { self.bytes() / REGION_SHARE };
        // A power of four, which fits into a block of the segment, or a number of MiB.
        let wish = match share.max(SMALLEST_REGION) {
            // More than a place can name: a shard of 128 GiB, which gets no more than it needs.
            share if share > LARGEST_REGION => 0,
            share if share > 1 << 16 => share >> 16 << 16,
            share => SMALLEST_REGION << ((63 - (share / SMALLEST_REGION).leading_zeros()) & !1),
        };
        let part = self.region(index);
        let seed = memory::random_id().map_err(|e| Refusal::Other(e.into()))? as u64;
        if own || self.attach(part, wish.max(need)).is_err() {
            self.attach(part, need)?;
        }
        let words = self.region_words(index).ok_or(Refusal::Damaged)?;
        words[1].store(seed, Relaxed);
        words[0].store(REGION_HEADER as u64, Relaxed);
        Ok(index)
    }

    /// Makes free blocks of what is left of the region that blocks were cut from.
    fn cut_up(&self) {
        let Ok(Some(region)) = self.open_region() else { return };
        let Some(words) = self.region_words(region) else { return };
        for class in (1..CLASSES).rev() {
            while let Some(at) = cut_from(words, class_words(class), class) {
                self.push(class, place(region, at), &words[at..]);
            }
        }
    }

    /// Is a block of this class all of the region?
    fn is_alone(&self, region: usize, class: usize) -> bool {
        let words = self.region_words(region).unwrap_or_default();
        let end = REGION_HEADER as u64 + class_words(class);
        words.first().is_some_and(|top| top.load(Relaxed) == end) && (words.len() as u64) < end + LEFT_OVER
    }

    /// All blocks of a region: where, and of which class. Ends where something is not what we write.
    fn blocks_of(words: &[Word64]) -> impl Iterator<Item = (usize, usize)> {
        let top = words.first().map_or(0, |top| top.load(Relaxed)).min(words.len() as u64);
        let mut at = REGION_HEADER as u64;
        std::iter::from_fn(move || {
            let class = (words.get(at as usize).filter(|_| at < top)?.load(Relaxed) & CLASS_BITS) as usize;
            let here = at;
            at += class_words(class.min(CLASSES - 1));
            (class < CLASSES && at <= top).then_some((here as usize, class))
        })
    }

    /// See `recovery`: what is derived, anew.
    pub(super) fn recover(&self) -> Result<(), Refusal> {
        let inline = self.layout.inline.is_some();
        let mut marked = Marked::default();
        let entries = super::recovery::settle(self, inline, &mut marked)?;
        // Overflow buckets.
        let top = marked.overflow.keys().max().copied().unwrap_or(0);
        self.row(row::FREE_OVERFLOW).store(0, Relaxed);
        self.row(row::OVERFLOW_USED).store(top, Relaxed);
        for link in (1..=top).filter(|link| !marked.overflow.contains_key(link)) {
            self.give_overflow(link);
        }
        // Blocks.
        if !inline {
            (0..CLASSES).for_each(|class| self.row(row::FREE + class).store(0, Relaxed));
            self.row(row::REGION).store(0, Relaxed);
            for region in 0..REGIONS {
                self.recover_region(region, &marked);
            }
        }
        self.row(row::BYTES).store(self.bytes(), Relaxed);
        self.row(row::LEN).store(entries, Relaxed);
        Ok(())
    }

    fn recover_region(&self, region: usize, marked: &Marked) {
        let Some(words) = self.region_words(region) else { return };
        let mut end = REGION_HEADER as u64;
        for (at, class) in Self::blocks_of(words) {
            end = at as u64 + class_words(class);
            if marked.blocks.contains_key(&place(region, at)) {
                continue;
            }
            let life = words[at].load(Relaxed);
            if life & FREE_BIT == 0 {
                words[at].store(life | FREE_BIT, Relaxed);
            }
            crate::atomic::fence(crate::atomic::Release); // as in `retire`
            self.push(class, place(region, at), &words[at..]);
        }
        if words[0].load(Relaxed) != end {
            // Not begun, or damaged behind that.
            words[0].store(end, Relaxed);
        }
        if words.len() as u64 >= end + LEFT_OVER {
            self.cut_up(); // of one before
            self.row(row::REGION).store(region as u64 + 1, Relaxed);
        }
    }

    /// Counts what is there, under the lock: bytes in entries' blocks, and in free ones; and whether everything is one or
    /// the other, once.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests ask"))]
    pub(super) fn audit(&self) -> Result<Audit, Refusal> {
        let inline = self.layout.inline.is_some();
        let mut marked = Marked::default();
        let mut places = 0; // before what does not belong there is cleared
        for b in 0..self.state().load(Relaxed) {
            for bucket in buckets(self, b) {
                places += u64::from(used_in(bucket?, inline).count_ones());
            }
        }
        let entries = super::recovery::settle(self, inline, &mut marked)?;
        let mut audit = Audit { entries, ..Audit::default() };
        audit.sound = self.row(row::LEN).load(Relaxed) == entries && places == entries;
        let mut link = self.row(row::FREE_OVERFLOW).load(Relaxed);
        while link != 0 && marked.overflow(link) {
            link = self.overflow(link).ok_or(Refusal::Damaged)?[NEXT].load(Relaxed) & LINK_BITS;
        }
        audit.sound &= link == 0;
        audit.sound &= marked.overflow.len() as u64 == self.row(row::OVERFLOW_USED).load(Relaxed);
        if inline {
            return Ok(audit);
        }
        let used = marked.blocks.clone();
        for class in 0..CLASSES {
            let mut place = self.row(row::FREE + class).load(Relaxed);
            while place != 0 && marked.block(place) {
                place = self.block(place).and_then(|b| b.get(1)).ok_or(Refusal::Damaged)?.load(Relaxed);
            }
            audit.sound &= place == 0;
        }
        for region in 0..REGIONS {
            for (at, class) in Self::blocks_of(self.region_words(region).unwrap_or_default()) {
                let at = place(region, at);
                match used.contains_key(&at) {
                    true => audit.used += class_words(class) * 8,
                    false => audit.free += class_words(class) * 8,
                }
                audit.sound &= marked.blocks.remove(&at).is_some();
            }
        }
        audit.sound &= marked.blocks.is_empty();
        Ok(audit)
    }
}

/// Cuts a block off a region.
fn cut_from(words: &[Word64], size: u64, class: usize) -> Option<usize> {
    let top = words.first()?.load(Relaxed);
    let end = top.checked_add(size).filter(|&end| end <= words.len() as u64)?;
    let at = usize::try_from(top).ok().filter(|&at| at >= REGION_HEADER)?;
    let generation = fold(words[1].load(Relaxed) ^ top, FOLD);
    // A look first: if the page is not mapped here yet, that maps its neighbours, too, and a write would not.
    std::hint::black_box(words[at].load(Relaxed));
    words[at].store(generation & !CLASS_BITS | FREE_BIT | class as u64, Relaxed);
    words[0].store(end, Relaxed);
    Some(at)
}

/// What an audit found.
#[cfg_attr(not(test), allow(dead_code, reason = "tests ask"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Audit {
    pub(super) entries: u64,
    /// Bytes in blocks of entries.
    pub(super) used: u64,
    /// Bytes in free blocks.
    pub(super) free: u64,
    /// Is everything derived as it follows from the slots?
    pub(super) sound: bool,
}

#[derive(Default)]
struct Marked {
    blocks: HashMap<u64, ()>,
    overflow: HashMap<u64, ()>,
}

impl Marks for Marked {
    fn block(&mut self, place: u64) -> bool {
        self.blocks.insert(place, ()).is_none()
    }
    fn overflow(&mut self, link: u64) -> bool {
        self.overflow.insert(link, ()).is_none()
    }
}
