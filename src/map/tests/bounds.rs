//! Where readers stop, and what leads nowhere, whatever others have written.

use super::{INLINE, engine, private};
use crate::{
    atomic::{Relaxed, Word64},
    error::MapError,
    map::{
        probe::{Fault, Memory, is_of},
        shape::{BLOCK_HEADER, LOCK_STRIDE, MOST_BUCKETS, REGION_HEADER, REGIONS, place},
    },
    segment::words::{store_bytes, words_for},
};
use std::cell::Cell;

#[test]
fn a_reader_that_is_always_overtaken_ends() {
    let segment = private();
    let engine = engine(&segment, INLINE);
    let looks = Cell::new(0);
    let seen = engine.looked(0, || {
        looks.set(looks.get() + 1);
        assert!(looks.get() < 1 << 20, "it looks for ever");
        Err::<(), _>(Fault::Overtaken)
    });
    assert_eq!(seen, Err(MapError::Damaged));
}

#[test]
fn a_reader_that_was_overtaken_looks_again_under_the_lock() {
    let segment = private();
    let engine = engine(&segment, INLINE);
    for shard in [0, engine.layout().shards() - 1] {
        let is_locked = || engine.object().w32()[shard * LOCK_STRIDE].load(Relaxed) != 0;
        let look = || if is_locked() { Ok(()) } else { Err(Fault::Overtaken) };
        assert_eq!(engine.looked(shard, look), Ok(()));
        assert!(!is_locked(), "it is let go");
        // Without it, if a writer has it all the time.
        let looks = Cell::new(0);
        let read_beside_a_writer = engine.write(&engine.scanned(shard), |shard| {
            Ok(engine.looked(shard.index, || {
                looks.set(looks.get() + 1);
                if looks.get() > 3 { Ok(()) } else { Err(Fault::Overtaken) }
            }))
        });
        assert_eq!(read_beside_a_writer, Ok(Ok(())));
    }
}

#[test]
fn a_shard_is_recovered_once() {
    let segment = private();
    let engine = engine(&segment, INLINE);
    engine.insert(&[1; 8], &[2; 8], None).unwrap();
    for shard in 0..engine.layout().shards() {
        let lock = &engine.object().w32()[shard * LOCK_STRIDE];
        let write = |panics: bool| {
            engine.write(&engine.scanned(shard), |_| {
                assert!(!panics, "under the lock");
                Ok(())
            })
        };
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| write(true)));
        assert!(panics.is_err() && lock.load(Relaxed) != 0, "the next one recovers");
        write(false).unwrap();
        assert_eq!(lock.load(Relaxed), 0, "and nobody after it");
    }
    assert_eq!(engine.len(), 1);
}

#[test]
fn places_that_are_none_lead_to_no_words() {
    let segment = private();
    let engine = engine(&segment, None);
    for key in 0..2_000u64 {
        engine.insert(&key.to_ne_bytes(), b"value", None).unwrap();
    }
    let shard = engine.scanned(0);
    assert!(shard.block(place(0, REGION_HEADER)).is_some());
    for word in (0..REGION_HEADER).step_by(2) {
        assert!(shard.block(place(0, word)).is_none(), "word {word} of the head of a region");
    }
    // Behind this shard's parts come those of the next one.
    assert!(engine.object().part(engine.layout().shard_parts()).is_some());
    assert!(shard.block(place(REGIONS, REGION_HEADER)).is_none(), "another shard's buckets");
    assert!(shard.bucket(MOST_BUCKETS).is_none());
    assert!(shard.overflow(0).is_none() && shard.overflow(u64::from(u32::MAX)).is_none());
}

/// Two keys of one hash are seldom, so no test of a whole map meets them.
#[test]
fn keys_of_one_hash_are_told_apart() {
    const HASH: u64 = 0x1234_5678_9abc_def0;
    for len in [1, 7, 8, 9, 16, 20] {
        let key: Vec<u8> = (1..=len).collect();
        let block: Vec<Word64> = (0..BLOCK_HEADER + words_for(key.len())).map(|_| Word64::new(0)).collect();
        block[1].store(u64::from(len), Relaxed);
        block[2].store(HASH, Relaxed);
        store_bytes(&block[BLOCK_HEADER..], &key);
        assert!(is_of(&block, HASH, &key));
        assert!(!is_of(&block, HASH ^ 1, &key));
        for byte in 0..key.len() {
            let mut other = key.clone();
            other[byte] ^= 0x80;
            assert!(!is_of(&block, HASH, &other), "byte {byte} of {len}");
        }
        let longer = [&key[..], &[0]].concat();
        assert!(!is_of(&block, HASH, &longer) && !is_of(&block, HASH, &key[1..]));
    }
}
