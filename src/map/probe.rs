//! Reading without a lock: nothing is written, nobody is waited for.
//!
//! # Why what is found is right
//!
//! *A hit out of line.* (1) slot (Acquire), (2) generation of its block (Acquire), (3) lengths, hash, key, value
//! (Relaxed), (4) fence Acquire, (5) slot again, (6) generation again, **in this order**. Blocks are written while their
//! generation is odd, and it is made odd after the slot has left them. So (6) says that the copy is of one life of the
//! block, and (5) that the slot named the block during that life: that it was committed. The other order would believe a
//! writer that died before its commit, when the heir uses its block for the same slot again.
//!
//! *A hit inline.* (1) THERE (Acquire), (2) keys and value (Relaxed), (3) fence Acquire, (4) THERE again. A pair is
//! written while its bit is not there, and each change of a bit changes the version.
//!
//! *A miss.* Entries move: to the bucket that a split adds, and towards the front of their chain. Both copy first, then
//! change a version (the number of buckets; that of the first bucket's NEXT), and then clear. So after a chain without
//! the key: fence Acquire, and both again. An overflow bucket that was taken away under us changed the version, too.
//!
//! *A hit in an overflow bucket* asks for that version, too: one that was taken away under us may be filled for a change
//! that does not count yet, or lead on to free ones, in which old entries lie.
//!
//! *A slot whose block is of another key* is passed only if (5) and (6) hold: a block that was used again under us says
//! nothing about the entry, which has got another block.
//!
//! | access | order | pairs with |
//! |---|---|---|
//! | number of buckets, NEXT, THERE, slot, generation: first look | Acquire | the Release of who committed |
//! | all else, slots that do not match too | Relaxed | ordered by those, and by the fence |
//! | fence after the copy, before second looks | Acquire | the writer's fence Release between what it changed first and what it writes over |
//! | second looks | Relaxed | ordered by the fence |
//!
//! Each loop is bounded: a chain by [`HOPS`], tries by [`TRIES`], after which the caller asks for the lock once a round.
//! A place or a bucket that is not there is believed (as [`Fault::Damaged`]) if its word stays what it was.

use super::{
    mutation::{Mutation, broken},
    shape::{
        BLOCK_HEADER, BUCKET, FREE_BIT, LINK_BITS, MOST_PLACE, NEXT, PAIRS, SLOTS, THERE, THERE_BITS,
        address, hash_of_tag, slot_tag, slot_word, tag,
    },
};
use crate::{
    atomic::{
        Acquire,
        Relaxed, // see the table
        Word64,
        fence,
    },
    segment::words::words_for,
};

/// Buckets of a chain: far more than any hash makes.
pub(super) const HOPS: usize = 1 << 10;
/// Tries between two questions for the lock.
const TRIES: usize = if cfg!(loom) { 3 } else { 64 };

/// Words of a bucket.
pub(super) type Bucket<'a> = &'a [Word64; BUCKET];

/// The words of one shard, wherever they lie.
pub(super) trait Memory {
    /// The number of its buckets.
    fn state(&self) -> &Word64;
    /// One of them.
    fn bucket(&self, b: u64) -> Option<Bucket<'_>>;
    /// The overflow bucket that a link (not 0) names.
    fn overflow(&self, link: u64) -> Option<Bucket<'_>>;
    /// The words from the beginning of a block to the end of its region.
    fn block(&self, place: u64) -> Option<&[Word64]>;
}

/// Why a look gave nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Writers were faster each time.
    Overtaken,
    /// The bytes are not what we write.
    Damaged,
}

/// What a try came to.
enum Try<X> {
    Sure(X),
    /// Something changed under it.
    Again,
    Damaged,
}

fn until_sure<X>(attempt: impl FnMut() -> Try<X>) -> Result<X, Fault> {
    let mut attempt = attempt;
    let mut damaged = 0;
    for _ in 0..TRIES {
        match attempt() {
            Try::Sure(x) => return Ok(x),
            Try::Again => {}
            Try::Damaged => damaged += 1,
        }
        crate::atomic::spin();
    }
    Err(if damaged == TRIES { Fault::Damaged } else { Fault::Overtaken })
}

/// After a chain without the key: was it the whole chain, and the right one?
#[inline(always)]
fn is_miss<M: Memory>(memory: &M, hash: u64, seen: (u64, u64, u64), first: Bucket<'_>) -> bool {
    let (n, b, next) = seen;
    if !broken(Mutation::MissWithoutFence) {
        fence(Acquire);
    }
    let now = memory.state().load(Relaxed);
    let moved = now != n && address(hash, now.max(1)) != b;
    (!moved || broken(Mutation::MissWithoutState))
        && (first[NEXT].load(Relaxed) == next || broken(Mutation::MissWithoutVersion))
}

/// After a hit and its fence: is `bucket` still of the chain that begins with `first`?
#[inline(always)]
fn is_of_chain(bucket: Bucket<'_>, first: Bucket<'_>, next: u64) -> bool {
    std::ptr::eq(bucket, first)
        || first[NEXT].load(Relaxed) == next
        || broken(Mutation::OverflowHitWithoutVersion)
}

// ---- inline ----

/// The value of `key`.
pub(super) fn get_inline<M: Memory>(memory: &M, hash: u64, key: u64) -> Result<Option<u64>, Fault> {
    match first_inline(memory, hash, key) {
        Some(found) => Ok(found),
        None => until_sure(|| try_inline(memory, hash, key)),
    }
}

/// The value of `key`, if the first bucket of its chain is enough to tell it, or that there is none: what most looks come to.
/// The rest is said by a whole look, which keeps this one short.
#[inline(always)]
pub(super) fn first_inline<M: Memory>(memory: &M, hash: u64, key: u64) -> Option<Option<u64>> {
    let first = First::of(memory, hash)?;
    match in_bucket(first.bucket, key) {
        Try::Sure(Some(value)) => Some(Some(value)),
        Try::Sure(None) if first.is_all(memory, hash) => Some(None),
        _ => None,
    }
}

/// The first bucket of a key's chain, and what led to it.
struct First<'a> {
    bucket: Bucket<'a>,
    /// The number of buckets, the bucket's own, its NEXT.
    seen: (u64, u64, u64),
}

impl<'a> First<'a> {
    /// Without buckets there is none, whatever lies there: a writer sees it so, too.
    #[inline(always)]
    fn of<M: Memory>(memory: &'a M, hash: u64) -> Option<Self> {
        let n = memory.state().load(Acquire);
        if n == 0 {
            return None;
        }
        let b = address(hash, n);
        let bucket = memory.bucket(b)?;
        Some(Self { bucket, seen: (n, b, bucket[NEXT].load(Acquire)) })
    }

    /// After a look at it without the key: is it the whole chain, and the right one?
    #[inline(always)]
    fn is_all<M: Memory>(&self, memory: &M, hash: u64) -> bool {
        self.seen.2 & LINK_BITS == 0 && is_miss(memory, hash, self.seen, self.bucket)
    }
}

/// The value of `key`, if it is in this bucket.
#[inline(always)]
fn in_bucket(bucket: Bucket<'_>, key: u64) -> Try<Option<u64>> {
    let there = bucket[THERE].load(Acquire);
    let hits = pairs_of(bucket, there, key);
    if hits == 0 {
        return Try::Sure(None);
    }
    let value = bucket[PAIRS + hits.trailing_zeros() as usize % PAIRS].load(Relaxed);
    if !broken(Mutation::HitWithoutFence) {
        fence(Acquire);
    }
    match bucket[THERE].load(Relaxed) == there || broken(Mutation::HitWithoutVersion) {
        true => Try::Sure(Some(value)),
        false => Try::Again,
    }
}

/// Which pairs of the bucket have this key, as bits. Without a branch per pair: which one it is cannot be foretold, and
/// a wrong guess would wait for the cache.
#[inline(always)]
pub(super) fn pairs_of(bucket: Bucket<'_>, there: u64, key: u64) -> u64 {
    let mut hits = 0;
    for (i, word) in bucket[..PAIRS].iter().enumerate() {
        hits |= u64::from(word.load(Relaxed) == key) << i;
    }
    hits & there & THERE_BITS
}

fn try_inline<M: Memory>(memory: &M, hash: u64, key: u64) -> Try<Option<u64>> {
    let n = memory.state().load(Acquire);
    if n == 0 {
        return Try::Sure(None);
    }
    let b = address(hash, n);
    let Some(first) = memory.bucket(b) else { return Try::Damaged };
    let first_next = first[NEXT].load(Acquire);
    let (mut bucket, mut next) = (first, first_next);
    for _ in 0..HOPS {
        match in_bucket(bucket, key) {
            Try::Sure(None) => {}
            // The fence is behind the copy.
            Try::Sure(_) if !is_of_chain(bucket, first, first_next) => return Try::Again,
            other => return other,
        }
        if next & LINK_BITS == 0 {
            return match is_miss(memory, hash, (n, b, first_next), first) {
                true => Try::Sure(None),
                false => Try::Again,
            };
        }
        let Some(overflow) = memory.overflow(next & LINK_BITS) else { return Try::Damaged };
        bucket = overflow;
        next = bucket[NEXT].load(Acquire);
    }
    Try::Damaged
}

// ---- out of line ----

/// The place in a slot's word, if its tag is the hash's and it is not empty.
#[inline(always)]
fn place_if(word: u64, hash: u64) -> Option<u64> {
    // With the same tag the place is left, less 1: that of an empty slot is 0, and wraps around.
    let left = word.wrapping_sub(slot_word(hash, 1));
    (left < MOST_PLACE).then_some(left.wrapping_add(1))
}

/// Which slots of the bucket have the hash's tag, as bits.
#[inline(always)]
pub(super) fn slots_of(bucket: Bucket<'_>, hash: u64) -> u64 {
    let words: [u64; SLOTS] = std::array::from_fn(|i| bucket[i].load(Relaxed));
    #[cfg(not(loom))]
    if tag(hash) != 0 {
        return crate::segment::lanes::tagged(words, tag(hash) as u32);
    }
    // An empty slot has tag 0, and one in 2^26 that are not.
    words.iter().rev().fold(0, |hits, &word| hits << 1 | u64::from(place_if(word, hash).is_some()))
}

/// Does the block say that it is of this key? Its words may change meanwhile.
#[inline(always)]
pub(super) fn is_of(block: &[Word64], hash: u64, key: &[u8]) -> bool {
    block.get(2).is_some_and(|of| of.load(Relaxed) == hash) && value_of(block, key).is_some()
}

/// The value, if the block says that it is of this key: how many bytes it has, and the words from there on, which may be
/// fewer than that.
#[inline(always)]
fn value_of<'a>(block: &'a [Word64], key: &[u8]) -> Option<(usize, &'a [Word64])> {
    let (head, value) = block.split_at_checked(BLOCK_HEADER + words_for(key.len()))?;
    let lengths = head[1].load(Relaxed);
    let same = lengths as u32 as usize == key.len() && is_key(&head[BLOCK_HEADER..], key);
    same.then_some(((lengths >> 32) as usize, value))
}

#[inline(always)]
fn is_key(words: &[Word64], key: &[u8]) -> bool {
    let (whole, tail) = key.as_chunks::<8>();
    let mut same =
        words.iter().zip(whole).all(|(word, bytes)| word.load(Relaxed) == u64::from_ne_bytes(*bytes));
    if !tail.is_empty() {
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        same &= words[whole.len()].load(Relaxed) == u64::from_ne_bytes(last);
    }
    same
}

/// Key and value of a block, as it says; `None` if that leads out of its region.
#[inline(always)]
pub(super) fn contents(block: &[Word64]) -> Option<(usize, usize, &[Word64], &[Word64])> {
    if block.len() < BLOCK_HEADER {
        return None;
    }
    let lengths = block[1].load(Relaxed);
    let (key, value) = (lengths as u32 as usize, (lengths >> 32) as usize);
    let words = &block[BLOCK_HEADER..];
    let (keys, words) = words.split_at_checked(words_for(key))?;
    Some((key, value, keys, words.get(..words_for(value))?))
}

/// A block, as the slot and its own first word said when it was looked at.
pub(super) struct Seen<'a> {
    slot: &'a Word64,
    word: u64,
    block: &'a [Word64],
    life: u64,
}

impl<'a> Seen<'a> {
    /// What `slot`, which had the right tag, names.
    #[inline(always)]
    fn at<M: Memory>(memory: &'a M, slot: &'a Word64, hash: u64) -> Try<Self> {
        let word = slot.load(Acquire);
        let place = place_if(word, hash);
        if place.is_none() && (word == 0 || slot_tag(word) != tag(hash)) {
            return Try::Again;
        }
        // With the tag and no place it is nothing that we write.
        if let Some(block) = place.and_then(|place| memory.block(place))
            && let Some(generation) = block.first()
        {
            let life = generation.load(Acquire);
            if life & FREE_BIT == 0 {
                return Try::Sure(Self { slot, word, block, life });
            }
        }
        fence(Acquire);
        if slot.load(Relaxed) == word { Try::Damaged } else { Try::Again }
    }

    /// Its words.
    #[inline(always)]
    pub(super) fn block(&self) -> &'a [Word64] {
        self.block
    }

    /// Is what was read of it since what was there?
    #[inline(always)]
    pub(super) fn holds(&self) -> bool {
        if !broken(Mutation::HitWithoutFence) {
            fence(Acquire);
        }
        let again = || self.slot.load(Acquire) == self.word;
        let same = || self.block[0].load(Relaxed) == self.life || broken(Mutation::HitWithoutVersion);
        match broken(Mutation::GenerationFirst) {
            false => again() && same(),
            true => same() && again(),
        }
    }
}

/// Looks at a slot, which had the right tag.
#[inline(always)]
fn look<M: Memory>(
    memory: &M,
    slot: &Word64,
    hash: u64,
    accept: impl Fn(&[Word64]) -> bool,
    take: &mut impl FnMut(&[Word64]) -> Option<()>,
) -> Try<bool> {
    let seen = match Seen::at(memory, slot, hash) {
        Try::Sure(seen) => seen,
        Try::Again => return Try::Again,
        Try::Damaged => return Try::Damaged,
    };
    let found = accept(seen.block());
    let taken = !found || take(seen.block()).is_some();
    match (seen.holds(), taken) {
        (false, _) => Try::Again,
        (true, false) => Try::Damaged,
        (true, true) => Try::Sure(found),
    }
}

/// Whether `key` is there; if so, `take` had its block last.
pub(super) fn get_block<M: Memory>(
    memory: &M,
    hash: u64,
    key: &[u8],
    mut take: impl FnMut(&[Word64]) -> Option<()>,
) -> Result<bool, Fault> {
    match first_block(memory, hash, key) {
        Some(None) => return Ok(false),
        Some(Some((seen, _))) if take(seen.block()).is_some() && seen.holds() => return Ok(true),
        _ => {}
    }
    until_sure(|| try_block(memory, hash, key, &mut take))
}

/// A block that says that it is of the key; how many bytes its value has, and the words from there on.
pub(super) type Hit<'a> = (Seen<'a>, (usize, &'a [Word64]));

/// The block of `key`, if the first slot with its tag in the first bucket of its chain has it; or that there is none, if no
/// slot there has its tag and that is the whole chain. That is what most looks come to. It counts if what is copied of it
/// [holds](Seen::holds). Its value has so many bytes, which are in these words if there are as many.
#[inline(always)]
pub(super) fn first_block<'a, M: Memory>(memory: &'a M, hash: u64, key: &[u8]) -> Option<Option<Hit<'a>>> {
    let first = First::of(memory, hash)?;
    let hits = slots_of(first.bucket, hash);
    if hits == 0 {
        return first.is_all(memory, hash).then_some(None);
    }
    let slot = &first.bucket[hits.trailing_zeros() as usize % BUCKET];
    let Try::Sure(seen) = Seen::at(memory, slot, hash) else {
        return None;
    };
    // The whole key is compared, so its hash says nothing more.
    let value = value_of(seen.block(), key)?;
    Some(Some((seen, value)))
}

fn try_block<M: Memory>(
    memory: &M,
    hash: u64,
    key: &[u8],
    take: &mut impl FnMut(&[Word64]) -> Option<()>,
) -> Try<bool> {
    let n = memory.state().load(Acquire);
    if n == 0 {
        return Try::Sure(false);
    }
    let b = address(hash, n);
    let Some(first) = memory.bucket(b) else { return Try::Damaged };
    let first_next = first[NEXT].load(Acquire);
    let (mut bucket, mut next) = (first, first_next);
    for _ in 0..HOPS {
        let mut hits = slots_of(bucket, hash);
        while hits != 0 {
            let slot = &bucket[hits.trailing_zeros() as usize % BUCKET];
            match look(memory, slot, hash, |block| is_of(block, hash, key), take) {
                Try::Sure(true) if is_of_chain(bucket, first, first_next) => return Try::Sure(true),
                Try::Sure(true) => return Try::Again,
                Try::Sure(false) => hits &= hits - 1,
                other => return other,
            }
        }
        if next & LINK_BITS == 0 {
            return match is_miss(memory, hash, (n, b, first_next), first) {
                true => Try::Sure(false),
                false => Try::Again,
            };
        }
        let Some(overflow) = memory.overflow(next & LINK_BITS) else { return Try::Damaged };
        bucket = overflow;
        next = bucket[NEXT].load(Acquire);
    }
    Try::Damaged
}

// ---- whole chains ----

/// An entry of a chain: its hash can be told from it.
pub(super) enum Entry<'a> {
    Pair(u64, u64),
    Block(&'a [Word64]),
}

/// All entries of the chain that `hash` leads to, and how many low bits of the hash are theirs. `each` may be called for
/// entries of a try that is then dropped: `begin` says so, and how many bits it is this time. It gets what lies there:
/// also what a split has moved away and not cleared yet (of other bits), and twice what is being moved to the front.
pub(super) fn chain<M: Memory>(
    memory: &M,
    hash: u64,
    inline: bool,
    mut begin: impl FnMut(u32),
    mut each: impl FnMut(Entry<'_>) -> Option<()>,
) -> Result<u32, Fault> {
    until_sure(|| {
        let n = memory.state().load(Acquire);
        if n == 0 {
            return Try::Sure(0);
        }
        let b = address(hash, n);
        let bits = super::shape::width(b, n);
        begin(bits);
        let Some(first) = memory.bucket(b) else { return Try::Damaged };
        let first_next = first[NEXT].load(Acquire);
        let (mut bucket, mut next) = (first, first_next);
        for _ in 0..HOPS {
            let seen = match inline {
                true => pairs(bucket, &mut each),
                false => blocks(memory, bucket, &mut each),
            };
            match seen {
                Try::Sure(()) => {}
                Try::Again => return Try::Again,
                Try::Damaged => return Try::Damaged,
            }
            if next & LINK_BITS == 0 {
                let same = is_miss(memory, hash, (n, b, first_next), first);
                // A split of this very bucket leaves some entries here: with other bits.
                let now = memory.state().load(Relaxed);
                return match same && (now == n || super::shape::width(b, now.max(1)) == bits) {
                    true => Try::Sure(bits),
                    false => Try::Again,
                };
            }
            let Some(overflow) = memory.overflow(next & LINK_BITS) else { return Try::Damaged };
            bucket = overflow;
            next = bucket[NEXT].load(Acquire);
        }
        Try::Damaged
    })
}

fn pairs(bucket: Bucket<'_>, each: &mut impl FnMut(Entry<'_>) -> Option<()>) -> Try<()> {
    let there = bucket[THERE].load(Acquire);
    let pairs: [_; PAIRS] =
        std::array::from_fn(|i| (bucket[i].load(Relaxed), bucket[PAIRS + i].load(Relaxed)));
    fence(Acquire);
    if bucket[THERE].load(Relaxed) != there {
        return Try::Again;
    }
    for (i, (key, value)) in pairs.into_iter().enumerate() {
        if there >> i & 1 != 0 && each(Entry::Pair(key, value)).is_none() {
            return Try::Damaged;
        }
    }
    Try::Sure(())
}

fn blocks<M: Memory>(
    memory: &M,
    bucket: Bucket<'_>,
    each: &mut impl FnMut(Entry<'_>) -> Option<()>,
) -> Try<()> {
    for slot in &bucket[..SLOTS] {
        let word = slot.load(Acquire);
        if word == 0 {
            continue;
        }
        let hash = hash_of_tag(slot_tag(word)); // only its tag counts
        match look(memory, slot, hash, |_| true, &mut |block| each(Entry::Block(block))) {
            Try::Sure(_) => {}
            Try::Again => return Try::Again,
            Try::Damaged => return Try::Damaged,
        }
    }
    Try::Sure(())
}
