//! The engine against a plain `HashMap`, and what its bytes can be made to do.

mod bounds;
mod face;
mod refused;
mod stalled;

use super::{
    Cursor,
    engine::Engine,
    probe,
    shape::{BUCKET, MOST_PLACE, SLOTS, Shape, hash_of_tag, slot_word},
};
use crate::{
    atomic::{Relaxed, Word64},
    error::{CreateError, MapError},
    segment::{Segment, Stamp, named::NamedOptions},
};
use proptest::prelude::*;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

mod hostile;

const INLINE: Option<(u8, u8)> = Some((8, 8));

fn shape(inline: Option<(u8, u8)>) -> Shape {
    Shape { inline, types: Stamp::NONE, expected: 0, max_bytes: 0 }
}

fn engine(segment: &Arc<Segment>, inline: Option<(u8, u8)>) -> Engine {
    Engine::create_in(segment, &shape(inline)).unwrap()
}

fn private() -> Arc<Segment> {
    Segment::private().unwrap()
}

fn get(engine: &Engine, key: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    engine.get(key, &mut out).unwrap().then_some(out)
}

/// All entries by iteration: each key once.
fn all(engine: &Engine) -> HashMap<Vec<u8>, Vec<u8>> {
    let (mut found, mut batch) = (HashMap::new(), VecDeque::new());
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        cursor = engine.scan(from, &mut batch).unwrap();
        for (key, value) in batch.drain(..) {
            assert!(found.insert(key, value).is_none(), "a key was given twice");
        }
    }
    found
}

fn is_sound(engine: &Engine, entries: usize) {
    let stats = engine.stats().unwrap();
    assert!(stats.sound, "{stats:?}");
    assert_eq!((stats.entries, engine.len()), (entries as u64, entries as u64));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u16),
    TryInsert(u16, u16),
    Remove(u16),
    Swap(u16, u16),
    Add(u16, u8),
    Get(u16),
    Clear,
    Reserve(u16),
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let key = 0u16..300;
    let step = prop_oneof![
        20 => (key.clone(), any::<u16>()).prop_map(|(k, v)| Step::Insert(k, v)),
        4 => (key.clone(), any::<u16>()).prop_map(|(k, v)| Step::TryInsert(k, v)),
        8 => key.clone().prop_map(Step::Remove),
        4 => (key.clone(), any::<u16>()).prop_map(|(k, v)| Step::Swap(k, v)),
        4 => (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Add(k, v)),
        4 => key.prop_map(Step::Get),
        1 => Just(Step::Clear),
        1 => (0u16..2000).prop_map(Step::Reserve),
    ];
    proptest::collection::vec(step, 1..most)
}

/// Both layouts: how a number becomes bytes.
fn key_bytes(inline: bool, key: u16) -> Vec<u8> {
    match inline {
        true => u64::from(key).to_ne_bytes().to_vec(),
        false => vec![key as u8; usize::from(key % 40)].into_iter().chain(key.to_ne_bytes()).collect(),
    }
}

fn value_bytes(inline: bool, value: u16) -> Vec<u8> {
    match (inline, value % 4) {
        (true, _) | (false, 0) => u64::from(value).to_ne_bytes().to_vec(),
        _ => vec![value as u8; usize::from(value % 999)],
    }
}

fn run(inline: bool, steps: Vec<Step>) {
    let segment = private();
    let engine = engine(&segment, INLINE.filter(|_| inline));
    let mut model = HashMap::<Vec<u8>, Vec<u8>>::new();
    let (key, value) = (|k| key_bytes(inline, k), |v| value_bytes(inline, v));
    for step in steps {
        let mut old = Vec::new();
        match step {
            Step::Insert(k, v) => {
                let was = engine.insert(&key(k), &value(v), Some(&mut old)).unwrap();
                assert_eq!(was.then_some(old), model.insert(key(k), value(v)));
            }
            Step::TryInsert(k, v) => {
                let put = engine.try_insert(&key(k), &value(v), Some(&mut old)).unwrap();
                assert_eq!((!put).then_some(old), model.get(&key(k)).cloned());
                model.entry(key(k)).or_insert(value(v));
            }
            Step::Remove(k) => {
                let was = engine.remove(&key(k), Some(&mut old)).unwrap();
                assert_eq!(was.then_some(old), model.remove(&key(k)));
            }
            Step::Swap(k, v) => {
                let wrong = model.get(&key(k)).map(|now| [&now[..], b"x"].concat());
                let wrong = wrong.as_deref().or(Some(b"".as_slice()));
                if !inline {
                    assert!(!engine.compare_and_set(&key(k), wrong, None).unwrap());
                }
                let now = model.get(&key(k)).cloned();
                let new = (v % 3 != 0).then(|| value(v));
                assert!(engine.compare_and_set(&key(k), now.as_deref(), new.as_deref()).unwrap());
                match new {
                    Some(new) => drop(model.insert(key(k), new)),
                    None => drop(model.remove(&key(k))),
                }
            }
            Step::Add(k, n) => {
                let before = model.get(&key(k)).cloned().unwrap_or(vec![0; 8]);
                let Ok(before) = <[u8; 8]>::try_from(before) else {
                    assert_eq!(engine.fetch_add8(&key(k), n.into()), Err(MapError::Damaged));
                    continue;
                };
                let before = u64::from_ne_bytes(before);
                assert_eq!(engine.fetch_add8(&key(k), n.into()), Ok(before));
                model.insert(key(k), (before + u64::from(n)).to_ne_bytes().to_vec());
            }
            Step::Get(k) => assert_eq!(get(&engine, &key(k)), model.get(&key(k)).cloned()),
            Step::Clear => {
                engine.clear().unwrap();
                model.clear();
            }
            Step::Reserve(n) => engine.reserve(n.into()).unwrap(),
        }
    }
    for k in 0..300 {
        assert_eq!(get(&engine, &key(k)), model.get(&key(k)).cloned());
        assert_eq!(engine.contains(&key(k)).unwrap(), model.contains_key(&key(k)));
    }
    assert_eq!(all(&engine), model);
    is_sound(&engine, model.len());
    // Recovery of a whole map changes nothing.
    engine.recover_all();
    assert_eq!(all(&engine), model);
    is_sound(&engine, model.len());
    drop(engine);
    let report = segment.verify().unwrap();
    assert_eq!((report.objects, report.parts, report.busy), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 40 } else { 400 }))]
    #[test]
    fn inline_is_a_hash_map(steps in steps(600)) {
        run(true, steps);
    }

    #[test]
    fn out_of_line_is_a_hash_map(steps in steps(600)) {
        run(false, steps);
    }

    /// Also the tag that empty slots have.
    #[test]
    fn the_slots_of_a_tag_are_those_that_have_it(
        slots in prop::collection::vec(prop::option::of((0u64..4, 1u64..=MOST_PLACE)), SLOTS),
        tag in 0u64..4,
    ) {
        let hash = hash_of_tag;
        let word = |slot: Option<(u64, u64)>| slot.map_or(0, |(tag, place)| slot_word(hash(tag), place));
        let bucket: [Word64; BUCKET] =
            std::array::from_fn(|i| Word64::new(slots.get(i).map_or(u64::MAX, |&slot| word(slot))));
        let expected = (0..SLOTS).filter(|&i| slots[i].is_some_and(|slot| slot.0 == tag));
        prop_assert_eq!(probe::slots_of(&bucket, hash(tag)), expected.map(|i| 1 << i).sum::<u64>());
    }
}

#[test]
fn it_grows_and_every_key_is_there() {
    for inline in [true, false] {
        let segment = private();
        let engine = engine(&segment, INLINE.filter(|_| inline));
        let n = 30_000u64;
        for key in 0..n {
            let key = key.to_ne_bytes();
            assert!(!engine.insert(&key, &key, None).unwrap());
        }
        for key in 0..n {
            assert_eq!(get(&engine, &key.to_ne_bytes()), Some(key.to_ne_bytes().to_vec()));
            assert!(!engine.contains(&(key + n).to_ne_bytes()).unwrap());
        }
        assert_eq!(all(&engine).len() as u64, n);
        is_sound(&engine, n as usize);
        let stats = engine.stats().unwrap();
        println!("inline {inline}: {} bytes per entry, {} buckets", stats.bytes / n, stats.buckets);
        engine.clear().unwrap();
        is_sound(&engine, 0);
        assert!(all(&engine).is_empty());
    }
}

#[test]
fn a_small_map_is_small() {
    for inline in [true, false] {
        let segment = private();
        let engine = engine(&segment, INLINE.filter(|_| inline));
        for key in 0..10u64 {
            engine.insert(&key.to_ne_bytes(), &key.to_ne_bytes(), None).unwrap();
        }
        let words = (engine.object().w64().len() + engine.object().parts()) as u64 * 8;
        let stats = engine.stats().unwrap();
        let bytes = stats.bytes + words + engine.object().w32().len() as u64 * 4;
        // 100 KiB with 8 shards; a machine with more cores has more.
        assert!(bytes / stats.shards < (100 << 10) / 8, "{bytes} in {} shards", stats.shards);
    }
}

#[test]
fn overwriting_with_any_size_stays_the_same_size() {
    let segment = private();
    let engine = engine(&segment, None);
    let mut random = 1u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 33
    };
    let value = vec![7u8; 4000];
    let mut write = |times: u32| {
        for _ in 0..times {
            let key = (next() % 100).to_ne_bytes();
            engine.insert(&key, &value[..(next() % 4000) as usize], None).unwrap();
        }
        engine.stats().unwrap().bytes
    };
    let before = write(30_000);
    assert!(write(30_000) <= before + before / 8);
    is_sound(&engine, 100);
}

#[test]
fn large_values_come_and_go() {
    let segment = private();
    let engine = engine(&segment, None);
    let empty = segment.verify().unwrap().parts;
    for round in 0..20u8 {
        let value = vec![round; 3 << 20];
        engine.insert(b"large", &value, None).unwrap();
        assert_eq!(get(&engine, b"large"), Some(value));
    }
    assert!(engine.stats().unwrap().bytes < 16 << 20);
    engine.remove(b"large", None).unwrap();
    assert!(segment.verify().unwrap().parts <= empty + 2, "what is free goes back");
    is_sound(&engine, 0);
}

#[test]
fn a_shard_takes_more_large_values_than_it_has_regions() {
    let segment = private();
    let engine = engine(&segment, None);
    let seeds = engine.scanned(0).seeds;
    let of_one_shard = |key: &u64| super::shard::hash_bytes(seeds, &key.to_ne_bytes()) >> 58 == 0;
    let keys: Vec<u64> = (0..).filter(of_one_shard).take(super::shape::REGIONS + 20).collect();
    let value = vec![7; 260 << 10];
    let mut bytes = 0;
    for _ in 0..2 {
        for key in &keys {
            engine.insert(&key.to_ne_bytes(), &value, None).unwrap();
        }
        is_sound(&engine, keys.len());
        let now = engine.stats().unwrap().bytes;
        assert!(bytes == 0 || now <= bytes, "{bytes}, then {now}");
        bytes = now;
        assert_eq!(get(&engine, &keys[keys.len() - 1].to_ne_bytes()).as_ref(), Some(&value));
        engine.recover_all();
        is_sound(&engine, keys.len());
        engine.clear().unwrap();
        is_sound(&engine, 0);
    }
}

#[test]
fn full_is_an_error_and_everything_stays() {
    for inline in [true, false] {
        let segment = private();
        let shape = Shape { max_bytes: 200 << 10, ..shape(INLINE.filter(|_| inline)) };
        let engine = Engine::create_in(&segment, &shape).unwrap();
        let mut n = 0u64;
        let error = loop {
            match engine.insert(&n.to_ne_bytes(), &n.to_ne_bytes(), None) {
                Ok(_) => n += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(error, MapError::Full);
        assert!(n > 500, "{n}");
        assert!(engine.stats().unwrap().bytes <= shape.max_bytes);
        for key in 0..n {
            assert_eq!(get(&engine, &key.to_ne_bytes()), Some(key.to_ne_bytes().to_vec()));
            engine.insert(&key.to_ne_bytes(), &(!key).to_ne_bytes(), None).unwrap();
        }
        is_sound(&engine, n as usize);
        for key in 0..n {
            assert!(engine.remove(&key.to_ne_bytes(), None).unwrap());
        }
        is_sound(&engine, 0);
        assert!(!engine.insert(&n.to_ne_bytes(), b"12345678", None).unwrap(), "there is room again");
    }
}

#[test]
fn limits_are_errors() {
    let segment = private();
    let blocks = engine(&segment, None);
    let long = vec![0; super::shape::LONGEST_KEY + 1];
    assert!(matches!(blocks.insert(&long, b"", None), Err(MapError::TooLarge { .. })));
    blocks.insert(&long[1..], b"1", None).unwrap();
    assert_eq!(get(&blocks, &long[1..]), Some(b"1".to_vec()));
    let pairs = engine(&segment, INLINE);
    assert!(matches!(pairs.insert(&[0; 9], &[0; 8], None), Err(MapError::TooLarge { .. })));
    let damaged = |inline| Engine::open(Arc::clone(pairs.object()), inline).is_err();
    assert!(damaged(None) && damaged(Some((8, 4))) && !damaged(INLINE));
    drop((blocks, pairs));
    // In a small segment, which is soon full: in this one it would take all memory of the machine first.
    let options = NamedOptions { reserve: Some(16 << 20), ..NamedOptions::default() };
    let small = Segment::private_of(&options).unwrap();
    let too_many = Shape { expected: u64::MAX, ..shape(INLINE) };
    assert!(matches!(Engine::create_in(&small, &too_many), Err(CreateError::Full { .. })));
    let report = small.verify().unwrap();
    assert_eq!((report.objects, report.parts, report.busy), (0, 0, 0));
    let report = segment.verify().unwrap();
    assert_eq!((report.objects, report.parts, report.busy), (0, 0, 0));
}

#[test]
fn every_key_that_stays_is_given_once_while_the_map_grows() {
    for inline in [true, false] {
        let segment = private();
        let engine = engine(&segment, INLINE.filter(|_| inline));
        for key in 0..500u64 {
            engine.insert(&key.to_ne_bytes(), b"12345678", None).unwrap();
        }
        let (mut seen, mut batch, mut fresh) = (HashMap::new(), VecDeque::new(), 500u64);
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            cursor = engine.scan(from, &mut batch).unwrap();
            for (key, _) in batch.drain(..) {
                *seen.entry(u64::from_ne_bytes(key.try_into().unwrap())).or_insert(0) += 1;
            }
            for _ in 0..if fresh < 6_000 { 40 } else { 0 } {
                engine.insert(&fresh.to_ne_bytes(), b"abcdefgh", None).unwrap();
                fresh += 1;
            }
        }
        assert!((0..500).all(|key| seen.get(&key) == Some(&1)), "inline {inline}");
        assert!(seen.values().all(|&times| times == 1));
    }
}

#[test]
fn threads_of_one_process_share_it() {
    for inline in [true, false] {
        let segment = private();
        let engine = engine(&segment, INLINE.filter(|_| inline));
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let engine = &engine;
                scope.spawn(move || {
                    for i in 0..4_000u64 {
                        engine.fetch_add8(&(i % 16).to_ne_bytes(), 1).unwrap();
                        let own = (1000 + thread * 10_000 + i).to_ne_bytes();
                        engine.insert(&own, &own, None).unwrap();
                        assert_eq!(get(engine, &own), Some(own.to_vec()));
                        if i % 3 == 0 {
                            assert!(engine.remove(&own, None).unwrap());
                        }
                    }
                });
            }
        });
        let sum: u64 = (0..16u64)
            .map(|k| u64::from_ne_bytes(get(&engine, &k.to_ne_bytes()).unwrap().try_into().unwrap()))
            .sum();
        assert_eq!(sum, 16_000);
        is_sound(&engine, 16 + 4 * (4_000 - 1334));
    }
}

/// Words of the whole map, for tests that write over them.
fn words(engine: &Engine) -> Vec<&crate::atomic::Word64> {
    let object = engine.object();
    let parts = (0..object.parts()).filter_map(|part| object.part(part));
    object.w64().iter().chain(parts.flatten()).filter(|word| word.load(Relaxed) != 0).collect()
}
