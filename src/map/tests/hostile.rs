//! Bytes that somebody else writes over, while operations run: an error or a value, and always an end.

use super::*;
use crate::{
    atomic::Word64,
    map::{
        probe::{Fault, Memory, get_block},
        shape::{CHUNKS, LOCK_STRIDE, OVERFLOW_CHUNKS, row},
        shard::hash_bytes,
    },
    segment::owner::OWNER_BITS,
};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

fn operations(engine: &Engine, salt: u64) {
    let mut out = Vec::new();
    for k in 0..40u64 {
        let key = (k * 7 % 64).to_ne_bytes();
        let _ = engine.get(&key, &mut out);
        let _ = match (k + salt) % 6 {
            0 => engine.insert(&key, &salt.to_ne_bytes(), Some(&mut out)),
            1 => engine.remove(&key, Some(&mut out)),
            2 => engine.compare_and_set(&key, Some(&key), None),
            3 => engine.fetch_add8(&key, 1).map(|_| true),
            4 => engine.insert(&key, &key, None),
            _ => engine.contains(&key),
        };
    }
    let (mut batch, mut cursor) = (VecDeque::new(), Some(Cursor::default()));
    for _ in 0..1 << 16 {
        let Some(from) = cursor else { break };
        cursor = engine.scan(from, &mut batch).unwrap_or(None);
        batch.clear();
    }
    let _ = engine.stats();
    let _ = engine.len();
}

fn filled(segment: &Arc<Segment>, inline: bool) -> Engine {
    let engine = engine(segment, INLINE.filter(|_| inline));
    for key in 0..64u64 {
        engine.insert(&key.to_ne_bytes(), &key.to_ne_bytes(), None).unwrap();
    }
    engine
}

/// The table of a map's parts, which is behind its words: through the segment's file.
struct Table {
    file: File,
    at: u64,
    parts: usize,
}

impl Table {
    fn of(engine: &Engine) -> Self {
        let object = engine.object();
        let file = object.segment().descriptor().unwrap().try_clone_to_owned().unwrap().into();
        let end = object.w64().as_ptr_range().end as u64;
        // Where in the file that is.
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let at = maps.lines().find_map(|line| {
            let (start, line) = line.split_once('-').unwrap();
            let (stop, line) = line.split_once(' ').unwrap();
            let offset = line.split(' ').nth(1).unwrap();
            (number(start) < end && end <= number(stop)).then(|| end - number(start) + number(offset))
        });
        Self { file, at: at.unwrap(), parts: object.parts() }
    }

    fn load(&self, part: usize) -> u64 {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, self.at + part as u64 * 8).unwrap();
        u64::from_ne_bytes(word)
    }

    fn store(&self, part: usize, word: u64) {
        self.file.write_all_at(&word.to_ne_bytes(), self.at + part as u64 * 8).unwrap();
    }

    /// Those parts that there are.
    fn used(&self) -> Vec<usize> {
        (0..self.parts).filter(|&part| self.load(part) != 0).collect()
    }
}

/// The bits of a table's word that say how long the part is.
const LENGTH: u64 = (1 << 30) - 1;

fn is_region(engine: &Engine, part: usize) -> bool {
    part % engine.layout().shard_parts() >= CHUNKS + OVERFLOW_CHUNKS
}

/// No lock of a shard is held, though this process lives.
fn all_locks_are_free(engine: &Engine) {
    for lock in engine.object().w32().chunks(LOCK_STRIDE).take(engine.layout().shards()) {
        assert_eq!(lock[0].load(Relaxed) & OWNER_BITS, 0, "a lock is held by nobody");
    }
}

#[test]
fn recovery_of_regions_without_length() {
    let segment = private();
    let engine = filled(&segment, false);
    let table = Table::of(&engine);
    for part in table.used() {
        assert_eq!(table.load(part) == 0, engine.object().part(part).is_none(), "the table is elsewhere");
        if is_region(&engine, part) {
            table.store(part, table.load(part) & !LENGTH);
        }
    }
    engine.recover_all();
    all_locks_are_free(&engine);
    is_sound(&engine, 0);
    // What was there is gone; the map goes on.
    for key in 0..64u64 {
        assert!(!engine.insert(&key.to_ne_bytes(), b"again", None).unwrap());
    }
    is_sound(&engine, 64);
}

/// The size of a new region follows from what there is, not from a word that says so.
#[test]
fn an_overwritten_count_of_bytes_takes_no_memory() {
    let segment = private();
    let (engine, same) = (filled(&segment, false), filled(&segment, false));
    for index in 0..engine.layout().shards() {
        let bytes = engine.scanned(index).row(row::BYTES);
        bytes.store(bytes.load(Relaxed) ^ 1 << 27, Relaxed);
    }
    for key in 0..2_000u64 {
        for engine in [&engine, &same] {
            engine.insert(&key.to_ne_bytes(), &[7; 100], None).unwrap();
        }
    }
    engine.recover_all();
    is_sound(&engine, 2_000);
    let (bytes, usual) = (engine.stats().unwrap().bytes, same.stats().unwrap().bytes);
    assert!(bytes < usual * 2, "{bytes} instead of {usual}");
}

#[test]
fn slots_that_name_no_place_are_damaged_at_once() {
    let segment = private();
    let engine = filled(&segment, false);
    let mut keys = Vec::new();
    let (mut batch, mut cursor) = (VecDeque::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        cursor = engine.scan(from, &mut batch).unwrap();
        keys.extend(batch.drain(..).map(|(key, _)| key));
    }
    assert!(!keys.is_empty());
    for index in 0..engine.layout().shards() {
        let shard = engine.scanned(index);
        for bucket in (0..shard.state().load(Relaxed)).filter_map(|b| shard.bucket(b)) {
            bucket[..SLOTS].iter().for_each(|slot| slot.store(slot.load(Relaxed) & !MOST_PLACE, Relaxed));
        }
    }
    for key in keys {
        let mut out = Vec::new();
        let hash = hash_bytes(engine.scanned(0).seeds, &key);
        let shard = engine.scanned((hash >> (64 - engine.layout().shard_bits)) as usize);
        // Not as of one that writers overtake, who is asked for again and again.
        assert_eq!(get_block(&shard, hash, &key, |_| Some(())), Err(Fault::Damaged));
        assert_eq!(engine.get(&key, &mut out), Err(MapError::Damaged));
        assert_eq!(engine.insert(&key, &key, None), Err(MapError::Damaged));
    }
    all_locks_are_free(&engine);
}

#[test]
fn a_panic_under_a_lock_lets_it_go() {
    for inline in [true, false] {
        let segment = private();
        let engine = filled(&segment, inline);
        for index in 0..engine.layout().shards() {
            let end = catch_unwind(AssertUnwindSafe(|| {
                engine.write(&engine.scanned(index), |shard| -> Result<(), _> {
                    shard.row(row::LEN).store(1 << 40, Relaxed);
                    panic!("of this test");
                })
            }));
            assert!(end.is_err());
        }
        all_locks_are_free(&engine);
        // The next one has recovered.
        is_sound(&engine, 64);
        operations(&engine, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 600 }))]
    #[test]
    fn overwritten_words(
        inline in any::<bool>(),
        writes in proptest::collection::vec((any::<usize>(), any::<u64>(), 0u32..64), 1..30),
    ) {
        let segment = private();
        let engine = filled(&segment, inline);
        for (i, (at, value, bits)) in writes.into_iter().enumerate() {
            let words = words(&engine);
            let word: &Word64 = words[at % words.len()];
            match i % 3 {
                0 => word.store(value, Relaxed),
                1 => word.store(word.load(Relaxed) ^ 1 << bits, Relaxed),
                _ => word.store(words[value as usize % words.len()].load(Relaxed), Relaxed),
            }
            operations(&engine, i as u64);
        }
        // Recovery of anything ends, too.
        engine.try_recover_all();
        operations(&engine, 0);
        all_locks_are_free(&engine);
    }

    /// The same where the map's parts are named.
    #[test]
    fn an_overwritten_table(
        inline in any::<bool>(),
        writes in proptest::collection::vec((any::<usize>(), any::<u64>(), 0u32..64), 1..10),
    ) {
        let segment = private();
        let engine = filled(&segment, inline);
        let table = Table::of(&engine);
        let all: Vec<(usize, u64)> = table.used().into_iter().map(|part| (part, table.load(part))).collect();
        for (i, (at, value, bits)) in writes.into_iter().enumerate() {
            let (part, word) = all[at % all.len()];
            let chunk = !is_region(&engine, part);
            let alike = |(other, _): &&(usize, u64)| is_region(&engine, *other) != chunk;
            let alike: Vec<_> = all.iter().filter(alike).collect();
            table.store(part, match (i + at) % 5 {
                0 => value,
                1 => word ^ 1 << bits,
                2 => (word & !LENGTH) | (value % ((word & LENGTH) + 1)),
                3 => word & !LENGTH,
                _ => alike[value as usize % alike.len()].1,
            });
            operations(&engine, i as u64);
            if value % 4 == 0 {
                engine.try_recover_all();
                operations(&engine, value);
            }
        }
        engine.try_recover_all();
        operations(&engine, 0);
        all_locks_are_free(&engine);
    }
}

/// The same with the overwriting in another thread, at any moment.
#[test]
fn overwritten_while_it_runs() {
    for inline in [true, false] {
        for round in 0..if cfg!(debug_assertions) { 4 } else { 40 } {
            let segment = private();
            let engine = filled(&segment, inline);
            let stop = crate::atomic::Private32::new(0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut random = round * 2 + 1u64;
                    while stop.load(Relaxed) == 0 {
                        let words = words(&engine);
                        for _ in 0..50 {
                            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            words[(random >> 20) as usize % words.len()]
                                .fetch_xor(1 << (random >> 58), Relaxed);
                        }
                    }
                });
                (0..20).for_each(|salt| operations(&engine, salt));
                stop.store(1, Relaxed);
            });
        }
    }
}
