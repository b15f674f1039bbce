//! Changing a shard, under its lock: each change counts from one store on.
//!
//! | change | before it | the store (Release) | after it |
//! |---|---|---|---|
//! | new pair | key, value in an unused pair | THERE | |
//! | new value of a pair, of 8 bytes in a block | | the value's word | |
//! | pair removed | | THERE | |
//! | new entry out of line | block filled, generation even | slot 0 -> word | |
//! | new value out of line | the same | slot old -> word | old block: generation odd, then free |
//! | removed out of line | | slot -> 0 | the same |
//! | no slot is free | overflow bucket filled with it | NEXT of the last bucket | |
//! | split | moving entries copied into bucket n, which nobody looks at | number of buckets n -> n + 1 | cleared in their old bucket, all of a bucket's pairs by one THERE |
//! | move to the front of a chain | copied | version in the first bucket's NEXT | cleared in the old place |
//! | empty overflow bucket at the end of a chain | | NEXT of the one before it: link and version | version in the first bucket's NEXT; then it is free |
//!
//! # Killed here?
//!
//! Before the store: nothing happened; what was filled is a block with an even generation that no slot names, an overflow
//! bucket that no chain has, entries in bucket n. After it: everything happened; what is left over is a block that no slot
//! names, entries in a bucket that is not theirs, or twice in one chain. Who inherits the lock takes all of that away
//! before anything else (`recovery`), so no change ever meets it, and readers pass it: they look where an entry belongs.
//!
//! Orderings: what was there before a fill was let go by a store that readers look at last (generation, THERE, a version);
//! fence Release between that and the first word of the fill. Under the lock everything is loaded Relaxed.

use super::{
    mutation::{Mutation, broken, unless},
    probe::{Bucket, HOPS, Memory, contents, is_of, pairs_of, slots_of},
    shape::{
        BLOCK_HEADER, BUCKET, FREE_BIT, LINK_BITS, LINK_VERSION, NEXT, PAIRS, SLOTS, THERE, THERE_BITS,
        THERE_VERSION, address, goes_to, slot_goes_to, slot_place, slot_word, split_source,
    },
};
use crate::{
    atomic::{
        self,
        Relaxed, // under the lock; see above
        Release,
        Rule,
        Word64,
        fence,
    },
    segment::words::{store_bytes, words_for},
};
use std::ops::Range;

/// Why a change was not made. Nothing is changed, unless it is [`Damaged`](Self::Damaged): then a part of it may be made, or
/// all of it but what follows, such as a split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// No room for so many bytes.
    Full(u64),
    /// The bytes are not what we write.
    Damaged,
    /// The kernel, or the segment, refused more room.
    #[cfg(not(loom))]
    Other(crate::CreateError),
}

/// Where a shard gets room. All of it under the lock, and derived: recovery makes it anew.
pub(super) trait Space: Memory {
    /// The hash of a pair's key.
    fn hash_of(&self, key: u64) -> u64;
    /// An overflow bucket that no chain has, with anything in it; as a link.
    fn take_overflow(&self) -> Result<u64, Refusal>;
    /// No chain has it any more.
    fn give_overflow(&self, link: u64);
    /// A block of at least so many words whose generation is odd.
    fn take_block(&self, words: u64) -> Result<u64, Refusal>;
    /// A block whose generation is odd, and that no slot names.
    fn give_block(&self, place: u64);
}

/// A pair or a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'a> {
    pub(super) bucket: Bucket<'a>,
    pub(super) index: usize,
}

/// What a key's chain has.
pub(super) enum Found<'a> {
    There(Spot<'a>),
    /// Not the key: the first unused place, if there is one, and the last bucket.
    Not(Option<Spot<'a>>, Bucket<'a>),
}

/// The chain that begins with bucket `b`, bounded.
pub(super) fn buckets<M: Memory>(memory: &M, b: u64) -> impl Iterator<Item = Result<Bucket<'_>, Refusal>> {
    let mut next = Some(memory.bucket(b).ok_or(Refusal::Damaged));
    let mut hops = 0;
    std::iter::from_fn(move || {
        let this = next.take()?;
        if let Ok(bucket) = &this {
            let link = bucket[NEXT].load(Relaxed) & LINK_BITS;
            hops += 1;
            if link != 0 {
                let overflow = memory.overflow(link).filter(|_| hops < HOPS);
                next = Some(overflow.ok_or(Refusal::Damaged));
            }
        }
        Some(this)
    })
}

/// What is behind `bucket` in its chain; `hops` counts.
#[inline(always)]
fn behind<'a, M: Memory>(
    memory: &'a M,
    bucket: Bucket<'_>,
    hops: &mut usize,
) -> Result<Option<Bucket<'a>>, Refusal> {
    let link = bucket[NEXT].load(Relaxed) & LINK_BITS;
    if link == 0 {
        return Ok(None);
    }
    *hops += 1;
    memory.overflow(link).filter(|_| *hops < HOPS).map(Some).ok_or(Refusal::Damaged)
}

/// Looks for `hash`'s entry; `in_bucket` says where in a bucket it is. There is at least one bucket.
///
/// What most calls come to is short: as with a `get`, it says how many of them wait for their buckets at once.
#[inline(always)]
fn find<'a, M: Memory>(
    memory: &'a M,
    hash: u64,
    inline: bool,
    in_bucket: impl Fn(Bucket<'a>) -> Result<Option<usize>, Refusal>,
) -> Result<Found<'a>, Refusal> {
    let first = memory.bucket(address(hash, memory.state().load(Relaxed).max(1))).ok_or(Refusal::Damaged)?;
    if let Some(index) = in_bucket(first)? {
        return Ok(Found::There(Spot { bucket: first, index }));
    }
    match first[NEXT].load(Relaxed) & LINK_BITS {
        0 => Ok(Found::Not(unused_in(first, inline), first)),
        _ => find_behind(memory, first, inline, in_bucket),
    }
}

/// The same for the chain behind its first bucket.
#[inline(never)]
fn find_behind<'a, M: Memory>(
    memory: &'a M,
    first: Bucket<'a>,
    inline: bool,
    in_bucket: impl Fn(Bucket<'a>) -> Result<Option<usize>, Refusal>,
) -> Result<Found<'a>, Refusal> {
    let (mut unused, mut last, mut hops) = (unused_in(first, inline), first, 0);
    while let Some(bucket) = behind(memory, last, &mut hops)? {
        if let Some(index) = in_bucket(bucket)? {
            return Ok(Found::There(Spot { bucket, index }));
        }
        unused = unused.or_else(|| unused_in(bucket, inline));
        last = bucket;
    }
    Ok(Found::Not(unused, last))
}

/// Which places of a bucket have an entry, as bits.
#[inline(always)]
pub(super) fn used_in(bucket: Bucket<'_>, inline: bool) -> u64 {
    if inline {
        return bucket[THERE].load(Relaxed) & THERE_BITS;
    }
    let mut used = 0;
    for (i, slot) in bucket[..SLOTS].iter().enumerate() {
        used |= u64::from(slot.load(Relaxed) != 0) << i;
    }
    used
}

#[inline(always)]
fn unused_in(bucket: Bucket<'_>, inline: bool) -> Option<Spot<'_>> {
    let index = (!used_in(bucket, inline)).trailing_zeros() as usize;
    (index < if inline { PAIRS } else { SLOTS }).then_some(Spot { bucket, index })
}

fn fill_fence() {
    if !broken(Mutation::FillWithoutFence) {
        fence(Release);
    }
}

// ---- inline ----

#[inline(always)]
pub(super) fn find_pair<M: Memory>(memory: &M, hash: u64, key: u64) -> Result<Found<'_>, Refusal> {
    find(memory, hash, true, |bucket| {
        let hits = pairs_of(bucket, bucket[THERE].load(Relaxed), key);
        Ok((hits != 0).then_some(hits.trailing_zeros() as usize))
    })
}

impl<'a> Spot<'a> {
    /// The word of a pair's value.
    pub(super) fn value(&self) -> &'a Word64 {
        &self.bucket[PAIRS + self.index]
    }

    /// A pair appears.
    #[inline(always)]
    fn put_pair(&self, key: u64, value: u64) {
        let there = &self.bucket[THERE];
        let before = there.load(Relaxed);
        let after = (before | 1 << self.index).wrapping_add(THERE_VERSION);
        if atomic::broken(Rule::CommitIsOneStore) {
            there.store(after, Release);
        }
        fill_fence();
        self.bucket[self.index].store(key, Relaxed);
        self.bucket[PAIRS + self.index].store(value, Relaxed);
        there.store(after, unless(Mutation::RelaxedCommit, Release));
    }

    /// A pair goes.
    pub(super) fn remove_pair(&self) {
        let there = &self.bucket[THERE];
        let before = there.load(Relaxed);
        there.store((before & !(1 << self.index)).wrapping_add(THERE_VERSION), Release);
    }

    /// The slot's word.
    pub(super) fn slot(&self) -> &'a Word64 {
        &self.bucket[self.index]
    }
}

/// Nothing is in it. Nobody looks for anything in it, but somebody may still be reading it.
fn wipe(bucket: Bucket<'_>, inline: bool) {
    fill_fence();
    if inline {
        let there = bucket[THERE].load(Relaxed);
        bucket[THERE].store((there & !THERE_BITS).wrapping_add(THERE_VERSION), Relaxed);
    } else {
        bucket[..SLOTS].iter().for_each(|slot| slot.store(0, Relaxed));
    }
    let next = bucket[NEXT].load(Relaxed);
    bucket[NEXT].store((next & !LINK_BITS).wrapping_add(LINK_VERSION), Relaxed);
}

/// Nothing is in bucket `b`, which is not counted yet; if it has memory.
pub(super) fn make_empty<M: Memory>(memory: &M, b: u64, inline: bool) -> Result<(), Refusal> {
    wipe(memory.bucket(b).ok_or(Refusal::Damaged)?, inline);
    Ok(())
}

/// Puts an entry into its chain, by `put` into a free place.
#[inline(always)]
fn add<'a, S: Space>(
    space: &'a S,
    unused: Option<Spot<'a>>,
    last: Bucket<'a>,
    inline: bool,
    put: impl FnOnce(Spot<'a>),
) -> Result<(), Refusal> {
    if let Some(spot) = unused {
        put(spot);
        return Ok(());
    }
    let (link, bucket) = empty_overflow(space, inline)?;
    put(Spot { bucket, index: 0 });
    let next = last[NEXT].load(Relaxed);
    last[NEXT].store(next & !LINK_BITS | link, Release);
    Ok(())
}

#[inline(never)]
fn empty_overflow<S: Space>(space: &S, inline: bool) -> Result<(u64, Bucket<'_>), Refusal> {
    let link = space.take_overflow()?;
    let bucket = space.overflow(link).ok_or(Refusal::Damaged)?;
    wipe(bucket, inline);
    Ok((link, bucket))
}

/// Puts a pair where [`find_pair`] found none.
#[inline(always)]
pub(super) fn add_pair<'a, S: Space>(
    space: &'a S,
    unused: Option<Spot<'a>>,
    last: Bucket<'a>,
    key: u64,
    value: u64,
) -> Result<(), Refusal> {
    add(space, unused, last, true, |spot| spot.put_pair(key, value))
}

// ---- out of line ----

pub(super) fn find_block<'a, M: Memory>(memory: &'a M, hash: u64, key: &[u8]) -> Result<Found<'a>, Refusal> {
    find(memory, hash, false, |bucket| {
        let mut hits = slots_of(bucket, hash);
        while hits != 0 {
            let index = hits.trailing_zeros() as usize;
            let block = memory.block(slot_place(bucket[index].load(Relaxed))).ok_or(Refusal::Damaged)?;
            if is_of(block, hash, key) {
                return Ok(Some(index));
            }
            hits &= hits - 1;
        }
        Ok(None)
    })
}

/// The block of an entry, by its slot.
pub(super) fn block_of<'a, M: Memory>(memory: &'a M, spot: Spot<'_>) -> Result<&'a [Word64], Refusal> {
    let block = memory.block(slot_place(spot.slot().load(Relaxed))).ok_or(Refusal::Damaged)?;
    contents(block).map(|_| block).ok_or(Refusal::Damaged)
}

/// A block with this entry in it, that no slot names yet.
fn fill<S: Space>(space: &S, hash: u64, key: &[u8], value: &[u8]) -> Result<u64, Refusal> {
    let (of_key, of_value) = (words_for(key.len()), words_for(value.len()));
    let place = space.take_block((BLOCK_HEADER + of_key + of_value) as u64)?;
    let block = space.block(place).filter(|block| block.len() >= BLOCK_HEADER + of_key + of_value);
    let block = block.ok_or(Refusal::Damaged)?;
    let odd = block[0].load(Relaxed);
    fill_fence();
    block[1].store(key.len() as u64 | (value.len() as u64) << 32, Relaxed);
    block[2].store(hash, Relaxed);
    store_bytes(&block[BLOCK_HEADER..], key);
    store_bytes(&block[BLOCK_HEADER + of_key..], value);
    block[0].store((odd | FREE_BIT).wrapping_add(FREE_BIT), unless(Mutation::RelaxedCommit, Release));
    Ok(place)
}

/// A block that no slot names any more.
fn retire<S: Space>(space: &S, place: u64) {
    let Some(generation) = space.block(place).and_then(<[_]>::first) else { return };
    let life = generation.load(Relaxed);
    // Release: who sees it odd sees the slot without it.
    generation.store(life | FREE_BIT, Release);
    fill_fence();
    space.give_block(place);
}

/// Puts an entry where [`find_block`] found none.
pub(super) fn add_block<'a, S: Space>(
    space: &'a S,
    unused: Option<Spot<'a>>,
    last: Bucket<'a>,
    hash: u64,
    key: &[u8],
    value: &[u8],
) -> Result<(), Refusal> {
    let place = fill(space, hash, key, value)?;
    let put = |spot: Spot<'_>| spot.slot().store(slot_word(hash, place), Release);
    add(space, unused, last, false, put).inspect_err(|_| retire(space, place))
}

/// Gives an entry another value.
pub(super) fn replace_block<S: Space>(
    space: &S,
    spot: Spot<'_>,
    hash: u64,
    key: &[u8],
    value: &[u8],
) -> Result<(), Refusal> {
    let old = slot_place(spot.slot().load(Relaxed));
    if atomic::broken(Rule::CommitIsOneStore)
        && let Some((_, len, _, words)) = contents(block_of(space, spot)?)
        && len == value.len()
    {
        store_bytes(words, value);
        return Ok(());
    }
    let place = fill(space, hash, key, value)?;
    spot.slot().store(slot_word(hash, place), Release);
    retire(space, old);
    Ok(())
}

/// The entry goes.
pub(super) fn remove_block<S: Space>(space: &S, spot: Spot<'_>) {
    let old = slot_place(spot.slot().load(Relaxed));
    spot.slot().store(0, Release);
    retire(space, old);
}

// ---- growth ----

/// The hash of what is in a place; `None` if nothing is.
pub(super) fn hash_in<S: Space>(space: &S, spot: Spot<'_>, inline: bool) -> Result<Option<u64>, Refusal> {
    if inline {
        let there = spot.bucket[THERE].load(Relaxed) >> spot.index & 1 != 0;
        return Ok(there.then(|| space.hash_of(spot.bucket[spot.index].load(Relaxed))));
    }
    match spot.slot().load(Relaxed) {
        0 => Ok(None),
        word => {
            let block = space.block(slot_place(word)).filter(|block| block.len() >= BLOCK_HEADER);
            Ok(Some(block.ok_or(Refusal::Damaged)?[2].load(Relaxed)))
        }
    }
}

/// All places of a bucket.
pub(super) fn spots(bucket: Bucket<'_>, inline: bool) -> impl Iterator<Item = Spot<'_>> {
    (0..if inline { PAIRS } else { SLOTS }).map(move |index| Spot { bucket, index })
}

fn copy_to(from: Spot<'_>, to: Spot<'_>, inline: bool) {
    if inline {
        to.put_pair(from.bucket[from.index].load(Relaxed), from.value().load(Relaxed));
    } else {
        to.slot().store(from.slot().load(Relaxed), Release);
    }
}

pub(super) fn clear_spot(spot: Spot<'_>, inline: bool) {
    match inline {
        true => spot.remove_pair(),
        false => spot.slot().store(0, Release),
    }
}

/// Which entries of a bucket go to bucket `n` when there are `n` buckets, as bits. Without a branch per place, and without a
/// look at blocks: since all entries of a chain are where they belong, what the slot's tag says of the hash is enough.
#[inline(always)]
fn moving_in<S: Space>(space: &S, bucket: Bucket<'_>, n: u64, inline: bool) -> u64 {
    let mut moving = 0;
    if inline {
        for (i, key) in bucket[..PAIRS].iter().enumerate() {
            moving |= u64::from(goes_to(space.hash_of(key.load(Relaxed)), n)) << i;
        }
    } else {
        for (i, slot) in bucket[..SLOTS].iter().enumerate() {
            moving |= u64::from(slot_goes_to(slot.load(Relaxed), n)) << i;
        }
    }
    moving & used_in(bucket, inline)
}

/// Adds the next buckets, which have memory already, as long as there is room for their overflow.
pub(super) fn split_some<S: Space>(space: &S, new: Range<u64>, inline: bool) -> Result<(), Refusal> {
    // First a look at all of them, so that the waits for memory overlap. What is there does not matter yet.
    let (mut seen, mut chains) = (0, 0);
    for n in new.clone() {
        let source = space.bucket(split_source(n)).ok_or(Refusal::Damaged)?;
        chains |= source[NEXT].load(Relaxed) & LINK_BITS;
        seen |= space.bucket(n).ok_or(Refusal::Damaged)?[NEXT].load(Relaxed);
    }
    if chains != 0 {
        for n in new.clone() {
            let source = space.bucket(split_source(n)).ok_or(Refusal::Damaged)?;
            if let Some(bucket) = behind(space, source, &mut 0)? {
                seen |= bucket[NEXT].load(Relaxed);
            }
        }
    }
    std::hint::black_box(seen);
    for _ in new {
        if !split(space, inline)? {
            break;
        }
    }
    Ok(())
}

/// Adds a bucket, which has memory already. `false`: there was no room for its overflow, or none to be had, and nothing is
/// changed.
pub(super) fn split<S: Space>(space: &S, inline: bool) -> Result<bool, Refusal> {
    let n = space.state().load(Relaxed);
    let source = space.bucket(split_source(n)).ok_or(Refusal::Damaged)?;
    let target = space.bucket(n).ok_or(Refusal::Damaged)?;
    wipe(target, inline); // a split that was killed may have left something
    let (mut last, mut bucket, mut hops) = (target, source, 0);
    loop {
        let mut moving = moving_in(space, bucket, n, inline);
        while moving != 0 {
            let from = Spot { bucket, index: moving.trailing_zeros() as usize };
            moving &= moving - 1;
            let unused = unused_in(last, inline);
            match add(space, unused, last, inline, |to| copy_to(from, to, inline)) {
                Ok(()) => {}
                Err(Refusal::Damaged) => return Err(Refusal::Damaged),
                Err(_) => {
                    give_chain(space, target);
                    return Ok(false);
                }
            }
            if unused.is_none() {
                last = space.overflow(last[NEXT].load(Relaxed) & LINK_BITS).ok_or(Refusal::Damaged)?;
            }
        }
        match behind(space, bucket, &mut hops)? {
            Some(next) => bucket = next,
            None => break,
        }
    }
    if atomic::broken(Rule::CopyBeforeClearing) {
        clear_moved(space, source, n, inline)?;
    }
    space.state().store(n + 1, Release);
    // Each clearing is a Release, behind the store of the number.
    clear_moved(space, source, n, inline)?;
    compact(space, split_source(n), inline)?;
    Ok(true)
}

/// Takes away from bucket `source` what belongs to bucket `n`.
fn clear_moved<S: Space>(space: &S, source: Bucket<'_>, n: u64, inline: bool) -> Result<(), Refusal> {
    let (mut bucket, mut hops) = (source, 0);
    loop {
        let mut moved = moving_in(space, bucket, n, inline);
        if inline && moved != 0 {
            let there = &bucket[THERE];
            there.store((there.load(Relaxed) & !moved).wrapping_add(THERE_VERSION), Release);
        } else {
            while moved != 0 {
                bucket[moved.trailing_zeros() as usize].store(0, Release);
                moved &= moved - 1;
            }
        }
        match behind(space, bucket, &mut hops)? {
            Some(next) => bucket = next,
            None => return Ok(()),
        }
    }
}

/// All overflow buckets of a chain that nobody looks at.
fn give_chain<S: Space>(space: &S, first: Bucket<'_>) {
    let mut link = first[NEXT].load(Relaxed) & LINK_BITS;
    for _ in 0..HOPS {
        let Some(bucket) = space.overflow(link).filter(|_| link != 0) else { return };
        let next = bucket[NEXT].load(Relaxed) & LINK_BITS;
        space.give_overflow(link);
        link = next;
    }
}

/// Moves entries from the end of a chain to the front, and gives back the overflow buckets that it does not need.
#[inline(always)]
pub(super) fn compact<S: Space>(space: &S, b: u64, inline: bool) -> Result<(), Refusal> {
    let first = space.bucket(b).ok_or(Refusal::Damaged)?;
    match first[NEXT].load(Relaxed) & LINK_BITS {
        0 => Ok(()),
        _ => compact_chain(space, b, first, inline),
    }
}

#[inline(never)]
fn compact_chain<S: Space>(space: &S, b: u64, first: Bucket<'_>, inline: bool) -> Result<(), Refusal> {
    for _ in 0..HOPS {
        let link = first[NEXT].load(Relaxed) & LINK_BITS;
        if link == 0 {
            return Ok(());
        }
        // The last bucket, and the one before it.
        let (mut before, mut last_link) = (first, link);
        let mut last = space.overflow(link).ok_or(Refusal::Damaged)?;
        for _ in 0..HOPS {
            match last[NEXT].load(Relaxed) & LINK_BITS {
                0 => break,
                link => {
                    (before, last, last_link) = (last, space.overflow(link).ok_or(Refusal::Damaged)?, link)
                }
            }
        }
        let mut used = used_in(last, inline);
        while used != 0 {
            let from = Spot { bucket: last, index: used.trailing_zeros() as usize };
            used &= used - 1;
            let mut unused = None;
            for bucket in buckets(space, b) {
                let bucket = bucket?;
                if std::ptr::eq(bucket, last) {
                    break;
                }
                unused = unused.or_else(|| unused_in(bucket, inline));
            }
            let Some(to) = unused else { return Ok(()) };
            copy_to(from, to, inline);
            bump(first);
            clear_spot(from, inline);
        }
        // Of the first bucket, its version changes by the same store: killed behind it, nobody else would change it, and who
        // stands in the bucket that went would not see that it was filled again.
        let more = if broken(Mutation::UnlinkWithoutVersion) { 0 } else { LINK_VERSION };
        let next = before[NEXT].load(Relaxed);
        before[NEXT].store((next & !LINK_BITS).wrapping_add(more), Release);
        bump(first);
        space.give_overflow(last_link);
    }
    Ok(())
}

/// Readers of this chain who find nothing look again. Before what they may have missed goes.
pub(super) fn bump(first: Bucket<'_>) {
    if !broken(Mutation::MoveWithoutVersion) {
        let next = first[NEXT].load(Relaxed);
        first[NEXT].store(next.wrapping_add(LINK_VERSION), Release);
    }
    fence(Release);
}

const _: () = assert!(PAIRS * 2 + 2 == BUCKET && SLOTS + 1 == BUCKET);
