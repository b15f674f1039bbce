//! What the heir of a shard's lock does first: what a dead writer left half done goes, and what is derived is made anew.
//!
//! Only the number of buckets, the chains and the slots say what the map has. Everything else of a shard (its length,
//! free overflow buckets, free blocks) follows from them. So recovery is one walk over the chains and one over the
//! regions; it needs no log, and may be killed and begun again at any point: the lock keeps its mark until it is through.
//!
//! 1. An entry in a bucket that is not its own (a split was committed, its clearing was not) goes; so does the second of
//!    two equal ones in a chain (a move), and a slot that leads nowhere (damage).
//! 2. Blocks that no slot names become free: a fill that was not committed, a block that was replaced and not yet freed.
//! 3. Overflow buckets that no chain has become free.
//! 4. The length is counted.
//!
//! Readers never notice: nothing that they can find moves. What a dead writer had moved in a chain, or taken away from it,
//! it may not have told them: so each chain's version changes before anything of it goes.

use super::{
    commit::{Refusal, Space, Spot, buckets, bump, clear_spot, hash_in, spots},
    mutation::{Mutation, broken},
    probe::{HOPS, contents},
    shape::{FREE_BIT, LINK_BITS, NEXT, address, slot_place},
};
use crate::atomic::{Relaxed, Release};

/// What the chains have.
pub(super) trait Marks {
    /// `false` if it was there already.
    fn block(&mut self, place: u64) -> bool;
    /// `false` if it was there already.
    fn overflow(&mut self, link: u64) -> bool;
}

/// Point 1: walks all chains, marks what they have, gives the number of entries.
pub(super) fn settle<S: Space>(space: &S, inline: bool, marks: &mut impl Marks) -> Result<u64, Refusal> {
    let n = space.state().load(Relaxed);
    let mut entries = 0;
    for b in 0..n {
        // A chain that comes back to what another one has, or to itself, ends there.
        let mut last = space.bucket(b).ok_or(Refusal::Damaged)?;
        for hop in 0.. {
            let link = last[NEXT].load(Relaxed) & LINK_BITS;
            if link == 0 {
                break;
            }
            match space.overflow(link).filter(|_| hop < HOPS && marks.overflow(link)) {
                Some(bucket) => last = bucket,
                None => last[NEXT].store(last[NEXT].load(Relaxed) & !LINK_BITS, Release),
            }
        }
        let first = space.bucket(b).ok_or(Refusal::Damaged)?;
        if first[NEXT].load(Relaxed) & LINK_BITS != 0 && !broken(Mutation::RecoverWithoutVersion) {
            bump(first);
        }
        for bucket in buckets(space, b) {
            let bucket = bucket?;
            for spot in spots(bucket, inline) {
                if keeps(space, b, n, spot, inline, marks)? {
                    entries += 1;
                } else if !is_empty(spot, inline) {
                    clear_spot(spot, inline);
                }
            }
        }
    }
    Ok(entries)
}

fn is_empty(spot: Spot<'_>, inline: bool) -> bool {
    match inline {
        true => spot.bucket[super::shape::THERE].load(Relaxed) >> spot.index & 1 == 0,
        false => spot.slot().load(Relaxed) == 0,
    }
}

/// Is there an entry that belongs here?
fn keeps<S: Space>(
    space: &S,
    b: u64,
    n: u64,
    spot: Spot<'_>,
    inline: bool,
    marks: &mut impl Marks,
) -> Result<bool, Refusal> {
    let Ok(Some(hash)) = hash_in(space, spot, inline) else { return Ok(false) };
    if address(hash, n) != b && !broken(Mutation::RecoverWithoutClearing) {
        return Ok(false);
    }
    if inline {
        let key = spot.bucket[spot.index].load(Relaxed);
        // The first of two equal ones stays.
        for bucket in buckets(space, b) {
            let bucket = bucket?;
            for other in spots(bucket, true) {
                if std::ptr::eq(other.bucket, spot.bucket) && other.index == spot.index {
                    return Ok(true);
                }
                if !is_empty(other, true) && other.bucket[other.index].load(Relaxed) == key {
                    return Ok(false);
                }
            }
        }
        return Ok(true);
    }
    let place = slot_place(spot.slot().load(Relaxed));
    let block = space.block(place).filter(|block| contents(block).is_some());
    Ok(block.is_some_and(|block| block[0].load(Relaxed) & FREE_BIT == 0) && marks.block(place))
}
