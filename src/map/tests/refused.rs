//! A split for whose entries the kernel gives no more room: the insert before it counts, and nothing is lost.

use super::{INLINE, engine, get, is_sound, private};
use crate::{
    CreateError,
    atomic::{Relaxed, Word64},
    map::{
        commit::{Refusal, Space, split},
        engine::Engine,
        probe::{Bucket, Memory},
        shape::{LINK_BITS, NEXT, PAIRS, SLOTS, address, split_source},
        shard::{Shard, hash_bytes, hash_word},
    },
};
use std::cell::Cell;

/// Gives so many overflow buckets, and then refuses.
struct Refusing<'a> {
    shard: Shard<'a>,
    left: Cell<u32>,
    why: Refusal,
}

impl Memory for Refusing<'_> {
    fn state(&self) -> &Word64 {
        self.shard.state()
    }
    fn bucket(&self, b: u64) -> Option<Bucket<'_>> {
        self.shard.bucket(b)
    }
    fn overflow(&self, link: u64) -> Option<Bucket<'_>> {
        self.shard.overflow(link)
    }
    fn block(&self, place: u64) -> Option<&[Word64]> {
        self.shard.block(place)
    }
}

impl Space for Refusing<'_> {
    fn hash_of(&self, key: u64) -> u64 {
        self.shard.hash_of(key)
    }
    fn take_overflow(&self) -> Result<u64, Refusal> {
        match self.left.get().checked_sub(1) {
            None => Err(self.why.clone()),
            Some(left) => {
                self.left.set(left);
                self.shard.take_overflow()
            }
        }
    }
    fn give_overflow(&self, link: u64) {
        self.shard.give_overflow(link);
    }
    fn take_block(&self, words: u64) -> Result<u64, Refusal> {
        self.shard.take_block(words)
    }
    fn give_block(&self, place: u64) {
        self.shard.give_block(place);
    }
}

/// A map with so many entries in a shard of 16 buckets, which all move to the next bucket of it; their keys.
fn full(inline: bool, count: usize) -> (Engine, Vec<[u8; 8]>) {
    let engine = engine(&private(), INLINE.filter(|_| inline));
    let seeds = engine.scanned(0).seeds;
    let moves = |key: &[u8; 8]| {
        let hash = if inline { hash_word(seeds, u64::from_ne_bytes(*key)) } else { hash_bytes(seeds, key) };
        let places = (address(hash, 16), address(hash, 17));
        hash >> (64 - engine.layout().shard_bits) == 0 && places == (split_source(16), 16)
    };
    let keys: Vec<_> = (0u64..).map(u64::to_ne_bytes).filter(moves).take(count).collect();
    for key in &keys {
        assert!(!engine.insert(key, key, None).unwrap());
    }
    (engine, keys)
}

#[test]
fn a_split_without_room_is_none() {
    for inline in [true, false] {
        // Two overflow buckets more than the first.
        let (engine, keys) = full(inline, if inline { PAIRS } else { SLOTS } * 2 + 1);
        let shard = engine.scanned(0);
        assert_eq!(shard.state().load(Relaxed), 16);
        assert_ne!(shard.bucket(split_source(16)).unwrap()[NEXT].load(Relaxed) & LINK_BITS, 0);
        shard.attach_bucket(16).unwrap();
        for (left, why) in [
            (0, Refusal::Full(64)),
            (1, Refusal::Full(64)),
            (0, Refusal::Other(CreateError::DescriptorsLost)),
            (1, Refusal::Other(CreateError::DescriptorsLost)),
        ] {
            let refusing = Refusing { shard, left: Cell::new(left), why: why.clone() };
            assert_eq!(split(&refusing, inline), Ok(false), "{why:?}");
            is_sound(&engine, keys.len());
        }
        let damaged = Refusing { shard, left: Cell::new(0), why: Refusal::Damaged };
        assert_eq!(split(&damaged, inline), Err(Refusal::Damaged));
        assert_eq!(split(&shard, inline), Ok(true));
        is_sound(&engine, keys.len());
        keys.iter().for_each(|key| assert_eq!(get(&engine, key).as_deref(), Some(&key[..])));
    }
}
