//! Maps from outside, in one process: every operation beside a `HashMap`, limits, wrong types, iterating. What several
//! processes do to one map is in `map_processes.rs`.

mod watchdog;

use allmend::{
    Codec, CreateError, EncodeError, Error, HandleError, Key, KeyGuard, LockError, LockResult, MapError,
    Number, Plain, Pool, Resource, Serde, SharedMap,
};
use bytemuck::{Pod, Zeroable};
use proptest::prelude::*;
use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    hash::Hash,
    time::Duration,
};
use watchdog::Watchdog;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
struct Point {
    x: i32,
    y: i32,
}

#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
struct Config {
    name: String,
    rates: Vec<f32>,
}

// ---- against a model ----

#[derive(Clone, Debug)]
enum Op<K, V> {
    Get(K),
    Insert(K, V),
    Set(K, V),
    TryInsert(K, V),
    Remove(K),
    Update(K, Option<V>),
    GetOrInsert(K, V),
    CompareAndSet(K, Option<V>, Option<V>),
    Extend(Vec<(K, V)>),
    /// Keeps those whose key is not in the set.
    Retain(Vec<K>),
    Clear,
    Look,
}

fn ops<K, V>(
    key: impl Strategy<Value = K> + Clone + 'static,
    value: impl Strategy<Value = V> + Clone + 'static,
) -> impl Strategy<Value = Vec<Op<K, V>>>
where
    K: Clone + Debug + 'static,
    V: Clone + Debug + 'static,
{
    let (k, v) = (move || key.clone(), move || value.clone());
    let some = prop::option::of(v());
    let op = prop_oneof![
        4 => k().prop_map(Op::Get),
        8 => (k(), v()).prop_map(|(k, v)| Op::Insert(k, v)),
        4 => (k(), v()).prop_map(|(k, v)| Op::Set(k, v)),
        2 => (k(), v()).prop_map(|(k, v)| Op::TryInsert(k, v)),
        6 => k().prop_map(Op::Remove),
        4 => (k(), some.clone()).prop_map(|(k, v)| Op::Update(k, v)),
        2 => (k(), v()).prop_map(|(k, v)| Op::GetOrInsert(k, v)),
        3 => (k(), some.clone(), some).prop_map(|(k, old, new)| Op::CompareAndSet(k, old, new)),
        1 => prop::collection::vec((k(), v()), 0..40).prop_map(Op::Extend),
        1 => prop::collection::vec(k(), 0..4).prop_map(Op::Retain),
        1 => Just(Op::Clear),
        2 => Just(Op::Look),
    ];
    prop::collection::vec(op, 0..120)
}

/// Runs the operations on a map and on a model; what each gives, and the whole state, must be the same.
fn same_as_a_hash_map<K, V>(ops: Vec<Op<K::Owned, V::Owned>>) -> Result<(), TestCaseError>
where
    K: Key,
    V: Codec,
    K::Owned: Clone + Eq + Hash + Debug,
    V::Owned: Clone + PartialEq + Debug,
{
    let map = SharedMap::<K, V>::new().unwrap();
    let mut model = HashMap::new();
    let (kb, vb) = (K::borrow, V::borrow);
    for op in ops {
        match op {
            Op::Get(k) => {
                prop_assert_eq!(map.get(kb(&k)).unwrap(), model.get(&k).cloned());
                prop_assert_eq!(map.contains_key(kb(&k)).unwrap(), model.contains_key(&k));
                let mut bytes = Vec::new();
                let expected = model.get(&k).map(|v| {
                    V::encode(vb(v), &mut bytes).unwrap();
                    bytes
                });
                prop_assert_eq!(map.with(kb(&k), <[u8]>::to_vec).unwrap(), expected);
            }
            Op::Insert(k, v) => {
                prop_assert_eq!(map.insert(kb(&k), vb(&v)).unwrap(), model.insert(k, v.clone()))
            }
            Op::Set(k, v) => {
                prop_assert_eq!(map.set(kb(&k), vb(&v)).unwrap(), model.insert(k, v.clone()).is_some())
            }
            Op::TryInsert(k, v) => {
                let there = model.get(&k).cloned();
                prop_assert_eq!(map.try_insert(kb(&k), vb(&v)).unwrap(), there);
                model.entry(k).or_insert(v);
            }
            Op::Remove(k) => prop_assert_eq!(map.remove(kb(&k)).unwrap(), model.remove(&k)),
            Op::Update(k, v) => {
                let mut seen = None;
                let new = map.update(kb(&k), |old| {
                    seen = old;
                    v.clone()
                });
                prop_assert_eq!(&new.unwrap(), &v);
                let old = match v {
                    Some(v) => model.insert(k, v),
                    None => model.remove(&k),
                };
                prop_assert_eq!(seen, old);
            }
            Op::GetOrInsert(k, v) => {
                let got = map.get_or_insert_with(kb(&k), || v.clone()).unwrap();
                prop_assert_eq!(&got, model.entry(k).or_insert(v));
            }
            Op::CompareAndSet(k, old, new) => {
                // Mostly what is there.
                let old = match (old, &new) {
                    (Some(other), None) => Some(other),
                    (Some(_), Some(_)) => model.get(&k).cloned(),
                    (None, _) => None,
                };
                let is_there = model.get(&k) == old.as_ref();
                let done = map.compare_and_set(kb(&k), old.as_ref().map(vb), new.as_ref().map(vb));
                prop_assert_eq!(done.unwrap(), is_there);
                match new {
                    Some(v) if is_there => drop(model.insert(k, v)),
                    None if is_there => drop(model.remove(&k)),
                    _ => {}
                }
            }
            Op::Extend(all) => {
                map.extend(all.iter().map(|(k, v)| (kb(k), vb(v)))).unwrap();
                model.extend(all);
            }
            Op::Retain(gone) => {
                map.retain(|k, _| !gone.contains(k)).unwrap();
                model.retain(|k, _| !gone.contains(k));
            }
            Op::Clear => {
                map.clear().unwrap();
                model.clear();
            }
            Op::Look => prop_assert_eq!(&map.snapshot().unwrap(), &model),
        }
        prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
    }
    prop_assert_eq!(&map.snapshot().unwrap(), &model);
    prop_assert_eq!(map.keys().count(), model.len());
    for (k, v) in &model {
        prop_assert_eq!(map.get(kb(k)).unwrap(), Some(v.clone()));
    }
    prop_assert!(map.values().all(|v| v.is_ok_and(|v| model.values().any(|w| *w == v))));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if long() { 2_000 } else { 96 }))]

    #[test]
    fn words(ops in ops(0u64..60, any::<u64>())) {
        same_as_a_hash_map::<u64, u64>(ops)?;
    }

    #[test]
    fn narrow_words(ops in ops(any::<(u8, bool)>().prop_map(|(a, b)| (a % 40, b)), any::<i16>())) {
        same_as_a_hash_map::<(u8, bool), i16>(ops)?;
    }

    #[test]
    fn a_set(ops in ops((0u32..60).prop_map(|n| char::from_u32('a' as u32 + n).unwrap_or('a')), Just(()))) {
        same_as_a_hash_map::<char, ()>(ops)?;
    }

    #[test]
    fn text(ops in ops("[a-c]{0,4}", "\\PC{0,30}")) {
        same_as_a_hash_map::<String, String>(ops)?;
    }

    #[test]
    fn bytes_of_many_sizes(ops in ops(prop::collection::vec(0u8..3, 0..4), prop::collection::vec(any::<u8>(), 0..900))) {
        same_as_a_hash_map::<Vec<u8>, Vec<u8>>(ops)?;
    }

    #[test]
    fn structures(ops in ops(
        (0i32..6, 0i32..6).prop_map(|(x, y)| Point { x, y }),
        ("[a-z]{0,9}", prop::collection::vec(-9f32..9.0, 0..5)).prop_map(|(name, rates)| Config { name, rates }),
    )) {
        same_as_a_hash_map::<Plain<Point>, Serde<Config>>(ops)?;
    }
}

fn long() -> bool {
    std::env::var_os("ALLMEND_LONG").is_some()
}

// ---- many entries ----

#[test]
fn it_grows_and_forgets_nothing() {
    let _watchdog = Watchdog::new("grows");
    let n = if long() { 2_000_000 } else { 100_000 };
    let map = SharedMap::<u64, u64>::new().unwrap();
    for i in 0..n {
        assert_eq!(map.insert(i, i * 3).unwrap(), None);
    }
    assert_eq!(map.len(), n as usize);
    assert!((0..n).all(|i| map.get(i).unwrap() == Some(i * 3)));
    assert!((n..n + 1000).all(|i| map.get(i).unwrap().is_none()));
    let keys: BTreeSet<u64> = map.keys().map(Result::unwrap).collect();
    assert!(keys.into_iter().eq(0..n));
    for i in (0..n).filter(|i| i % 3 != 0) {
        assert_eq!(map.remove(i).unwrap(), Some(i * 3));
    }
    assert!((0..n).all(|i| map.contains_key(i).unwrap() == (i % 3 == 0)));
    assert_eq!(map.len(), n.div_ceil(3) as usize);
    map.clear().unwrap();
    assert!(map.is_empty() && map.iter().next().is_none());
    assert_eq!(map.insert(1, 2).unwrap(), None);

    let map = SharedMap::<String, Vec<u8>>::builder().entries(n as usize / 10).build().unwrap();
    let value = |i: u64| vec![i as u8; (i % 300) as usize];
    for i in 0..n / 10 {
        assert_eq!(map.insert(&i.to_string(), &value(i)).unwrap(), None);
    }
    assert!((0..n / 10).all(|i| map.get(&i.to_string()).unwrap() == Some(value(i))));
    assert_eq!(map.iter().count() as u64, n / 10);
}

/// What differs in one bit, or is longer by a zero, is another value.
#[test]
fn values_are_compared_whole() {
    let map = SharedMap::<u64, Vec<u8>>::new().unwrap();
    for len in [1usize, 7, 8, 9, 24, 61] {
        let value: Vec<u8> = (1..=len as u8).collect();
        map.insert(1, &value).unwrap();
        for byte in 0..len {
            let mut other = value.clone();
            other[byte] ^= 0x80;
            assert!(!map.compare_and_set(1, Some(&other), None).unwrap(), "byte {byte} of {len}");
        }
        for other in [&value[1..], &value[..len - 1], &[&value[..], &[0]].concat()] {
            assert!(!map.compare_and_set(1, Some(other), Some(b"lost")).unwrap(), "{other:?}, {len}");
        }
        assert!(map.compare_and_set(1, Some(&value), None).unwrap());
    }
    let numbers = SharedMap::<u64, u64>::new().unwrap();
    numbers.insert(1, 5).unwrap();
    assert!(!numbers.compare_and_set(1, Some(5 | 1 << 63), None).unwrap());
    assert!(!numbers.compare_and_set(1, Some(4), Some(6)).unwrap());
    assert_eq!(numbers.get(1).unwrap(), Some(5));
}

/// Iterators that stop in the middle go on from their cursor: nothing is lost, and only what lies together comes again.
#[test]
fn iterating_can_be_resumed() {
    let map = SharedMap::<u64, u64>::new().unwrap();
    map.extend((0..1000).map(|i| (i, i))).unwrap();
    let (mut seen, mut steps, mut iter) = (BTreeSet::new(), 0, map.iter());
    while let Some(cursor) = iter.cursor() {
        iter = map.iter_from(cursor);
        for entry in iter.by_ref().take(37) {
            seen.insert(entry.unwrap().0);
            steps += 1;
        }
        map.insert(10_000 + steps, 0).unwrap(); // it grows meanwhile
    }
    assert!((0..1000).all(|i| seen.contains(&i)));
    assert!(steps < 3_000, "{steps} for a thousand");
    let mut iter = map.iter();
    while iter.next().is_some() {}
    assert_eq!((iter.cursor(), iter.next().is_none()), (None, true));
    // A cursor from elsewhere begins somewhere, and gives what is there, once.
    let all = map.len();
    for place in [(0, 0), (0, 1 << 63), (3, u64::MAX), (7, 1 << 63), (64, 0), (u32::MAX, 12_345)] {
        let cursor = postcard::from_bytes(&postcard::to_stdvec(&place).unwrap()).unwrap();
        let entries: Vec<_> = map.iter_from(cursor).map(Result::unwrap).collect();
        assert!(entries.iter().all(|&(key, value)| map.get(key).unwrap() == Some(value)), "{place:?}");
        let keys: BTreeSet<u64> = entries.iter().map(|&(key, _)| key).collect();
        assert_eq!(keys.len(), entries.len(), "{place:?}");
        match place {
            (0, 0) => assert_eq!(keys.len(), all),
            (64.., _) => assert!(keys.is_empty()),
            _ => assert!(keys.len() < all),
        }
    }
}

/// A fixed working set that is overwritten with values of random sizes stays the same size.
#[test]
fn memory_is_used_again() {
    let _watchdog = Watchdog::new("soak");
    let rounds = if long() { 400 } else { 12 };
    // 1 MiB of values on the average; the limit is what is asked for, so that nothing else of the process counts.
    let map = SharedMap::<u64, Vec<u8>>::with_capacity(0, 12 << 20).unwrap();
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for round in 0..rounds {
        for _ in 0..10_000 {
            let (key, len) = (random() % 1_000, random() % 2_100);
            match random() % 8 {
                0 => drop(map.remove(key).unwrap()),
                _ => drop(map.set(key, &vec![key as u8; len as usize]).unwrap()),
            }
        }
        assert!(map.len() <= 1_000, "round {round}");
        assert!(map.iter().all(|e| e.is_ok_and(|(k, v)| v.iter().all(|&b| b == k as u8))));
    }
}

// ---- limits and bad input ----

#[test]
fn full_is_met_and_left_again() {
    let _watchdog = Watchdog::new("full");
    for len in [10usize, 5_000] {
        let map = SharedMap::<u64, Vec<u8>>::with_capacity(0, 2 << 20).unwrap();
        let value = |i: u64| vec![i as u8; len];
        let mut n = 0;
        let refused = loop {
            match map.insert(n, &value(n)) {
                Ok(old) => assert_eq!(old, None),
                Err(e) => break e,
            }
            n += 1;
        };
        assert_eq!(refused, MapError::Full);
        assert!(n as usize * len > 100_000, "{n} entries of {len} bytes");
        assert_eq!((map.len() as u64, map.get(n).unwrap()), (n, None));
        assert!((0..n).all(|i| map.get(i).unwrap() == Some(value(i))));
        assert_eq!(map.iter().count() as u64, n);
        for i in 0..n / 2 {
            assert_eq!(map.remove(i).unwrap(), Some(value(i)));
        }
        for i in 0..n / 4 {
            assert_eq!(map.insert(i, &value(i + 1)).unwrap(), None, "{i} of {n}");
        }
        assert_eq!(map.len() as u64, n - n / 2 + n / 4);
        map.clear().unwrap();
        assert_eq!(map.insert(0, &value(7)).unwrap(), None);
    }
}

#[test]
fn sizes_that_cannot_be() {
    let refused = SharedMap::<u64, u64>::with_capacity(0, 0).map(drop);
    assert!(matches!(refused, Err(CreateError::Invalid(_))), "{refused:?}");
    let refused = SharedMap::<u64, u64>::with_capacity(usize::MAX, u64::MAX).map(drop);
    assert_eq!(refused, Err(CreateError::Full { bytes: u64::MAX, what: Resource::Segment }));
    let refused = SharedMap::<u64, u64>::with_capacity(100_000, 100_000).map(drop);
    assert_eq!(
        refused,
        Err(CreateError::Full { bytes: 1_600_000, what: Resource::Segment }),
        "a table larger than its limit"
    );
    // Without entries to come there is no table yet: 1 KiB with a shard's first.
    let none = SharedMap::<u64, u64>::with_capacity(0, 1_023).unwrap();
    assert_eq!((none.insert(1, 1), none.get(1), none.len()), (Err(MapError::Full), Ok(None), 0));
    let one = SharedMap::<u64, u64>::with_capacity(0, 1_024).unwrap();
    assert_eq!((one.insert(1, 1), one.get(1), one.len()), (Ok(None), Ok(Some(1)), 1));
    let map = SharedMap::<String, Vec<u8>>::with_capacity(0, u64::MAX).unwrap();
    assert_eq!(map.insert("", &[]).unwrap(), None, "an empty key and an empty value are one of each");
    assert_eq!(map.get("").unwrap(), Some(vec![]));
    let long_key = "k".repeat(2 << 20);
    let too_large = map.insert(&long_key, b"v").unwrap_err();
    assert_eq!(too_large, MapError::TooLarge { bytes: 2 << 20, limit: 1 << 20 });
    assert_eq!(map.get(&long_key).unwrap(), None);
    assert_eq!(map.remove(&long_key).unwrap(), None);
    // Pages that nobody touches: it is refused by its length.
    let long_value = vec![0; (1 << 30) + 1];
    let too_large = MapError::TooLarge { bytes: (1 << 30) + 1, limit: 1 << 30 };
    assert_eq!(map.insert("", &long_value), Err(too_large.clone()));
    assert_eq!(map.set("", &long_value), Err(too_large.clone()));
    assert_eq!(map.try_insert("new", &long_value), Err(too_large.clone()));
    assert_eq!(map.compare_and_set("", Some(&[]), Some(&long_value)), Err(too_large.clone()));
    let mut long_value = Some(long_value);
    assert_eq!(map.update("", |_| long_value.take()), Err(too_large));
    assert_eq!((map.len(), map.get("").unwrap()), (1, Some(vec![])));
}

/// Promises 4 bytes, and keeps to it only if it likes the value.
struct Liar;

impl Codec for Liar {
    type Owned = u32;
    type Ref<'a> = u32;
    const SIZE: Option<usize> = Some(4);
    fn borrow(owned: &u32) -> u32 {
        *owned
    }
    fn encode(value: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match value {
            13 => return Err(EncodeError::new("not this one")),
            99 => out.extend([0; 99]),
            5 => out.extend([0; 5]),
            _ => out.extend(value.to_le_bytes()),
        }
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Option<u32> {
        bytes.try_into().ok().map(u32::from_le_bytes).filter(|&n| n != 666)
    }
}
impl Key for Liar {}

#[test]
fn a_codec_that_breaks_its_word_is_an_error() {
    let map = SharedMap::<Liar, u64>::new().unwrap();
    for bad in [13, 99, 5] {
        assert!(matches!(map.insert(bad, 1), Err(MapError::Encode(_))), "{bad}");
        assert!(matches!(map.get(bad), Err(MapError::Encode(_))), "{bad}");
        let locks =
            [map.get_lock(bad), map.try_get_lock(bad), map.lock_many([1, bad]), map.try_lock_many([bad])];
        for lock in locks {
            assert!(matches!(lock, Err(LockError::Encode(_))), "{bad}: {lock:?}");
        }
    }
    assert_eq!(why_not(map.get_lock(13)), Some(LockError::Encode(EncodeError::new("not this one"))));
    drop(map.try_get_lock(1).unwrap());
    let map = SharedMap::<String, Liar>::new().unwrap();
    for bad in [13, 99, 5] {
        assert!(matches!(map.insert("a", bad), Err(MapError::Encode(_))), "{bad}");
        assert!(matches!(map.compare_and_set("a", Some(bad), None), Err(MapError::Encode(_))), "{bad}");
        assert!(matches!(map.update("a", |_| Some(bad)), Err(MapError::Encode(_))), "{bad}");
    }
    assert!(map.is_empty());
    // What does not decode is an error with its key, wherever it is met, and can be replaced and removed.
    map.set("bad", 666).unwrap();
    map.set("good", 1).unwrap();
    let error = MapError::Decode { key: b"bad".to_vec() };
    assert_eq!(map.get("bad"), Err(error.clone()));
    assert_eq!(map.get_into("bad", &mut 0), Err(error.clone()));
    assert_eq!(map.update("bad", |_| unreachable!()), Err(error.clone()));
    assert_eq!(map.snapshot(), Err(error.clone()));
    let (good, bad): (Vec<_>, Vec<_>) = map.iter().partition(Result::is_ok);
    assert_eq!((good, bad), (vec![Ok(("good".to_owned(), 1))], vec![Err(error.clone())]));
    assert_eq!(map.keys().filter(Result::is_ok).count(), 2);
    assert_eq!(map.with("bad", <[u8]>::len), Ok(Some(4)));
    assert_eq!(map.remove("bad"), Err(error), "gone, and it is said what was in it");
    assert_eq!((map.get("bad"), map.len()), (Ok(None), 1));
}

fn length(map: SharedMap<String, u64>) -> Result<usize, Error> {
    map.fetch_add("worker", 1)?;
    Ok(map.len())
}

fn make(_: ()) -> Result<SharedMap<String, u64>, Error> {
    let map = SharedMap::new()?;
    map.insert("made", 1)?;
    Ok(map)
}

#[test]
fn handles_travel_to_workers_and_back() {
    let _watchdog = Watchdog::new("handles");
    let pool = Pool::new(2).unwrap();
    let map = SharedMap::<String, u64>::new().unwrap();
    assert_eq!(pool.submit(length, map.clone()).result().unwrap(), Ok(1));
    assert_eq!(map.get("worker").unwrap(), Some(1));
    let made = pool.submit(make, ()).result().unwrap().unwrap();
    assert_eq!(made.snapshot().unwrap(), HashMap::from([("made".to_owned(), 1)]));
    // A handle inside of a value would be kept by nobody.
    let nested = SharedMap::<u64, Serde<Option<SharedMapInside>>>::new().unwrap();
    match nested.insert(1, &Some(SharedMapInside(map))) {
        Err(MapError::Encode(e)) => assert_eq!(e.why, HandleError::OutsidePool.to_string()),
        other => panic!("{other:?}"),
    }
    assert!(nested.insert(1, &None).is_ok());
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct SharedMapInside(SharedMap<String, u64>);

// ---- locks ----

fn why_not(result: LockResult<KeyGuard>) -> Option<LockError<()>> {
    result.map(drop).map_err(LockError::release).err()
}

#[test]
fn key_locks() {
    let _watchdog = Watchdog::new("locks");
    let map = SharedMap::<u64, u64>::new().unwrap();
    let guard = map.get_lock(1).unwrap();
    assert_eq!(why_not(map.get_lock(1)), Some(LockError::Deadlock));
    assert_eq!(why_not(map.try_get_lock(1)), Some(LockError::Deadlock));
    // Plain operations go on, in other threads, too.
    map.insert(1, 1).unwrap();
    assert_eq!(map.update(1, |n| n.map(|n| n + 1)).unwrap(), Some(2));
    let theirs = map.clone();
    std::thread::spawn(move || {
        let by_us = LockError::Timeout { owner: Some(std::process::id()) };
        assert_eq!(why_not(theirs.try_get_lock(1)), Some(by_us.clone()));
        let late = theirs.get_lock_timeout(1, Duration::from_millis(5)).map(drop);
        assert!(matches!(late, Err(LockError::Timeout { .. })));
        assert_eq!(why_not(theirs.try_lock_many([3, 1, 2])), Some(by_us));
        let late = theirs.lock_many_timeout([3, 1, 2], Duration::from_millis(5)).map(drop);
        assert!(matches!(late, Err(LockError::Timeout { .. })));
        assert_eq!(theirs.fetch_add(1, 5).unwrap(), 2);
    })
    .join()
    .unwrap();
    drop(guard);
    // Many, some of them twice: all are free afterwards.
    let all = map.lock_many((0..2_000).chain(0..10)).unwrap();
    assert_eq!(why_not(map.get_lock(77)), Some(LockError::Deadlock));
    drop(all);
    for key in 0..2_000 {
        drop(map.try_get_lock(key).unwrap());
    }
    drop(map.try_lock_many(0..2_000).unwrap());
    drop(map.lock_many([]).unwrap());
}

/// Threads that lock overlapping sets in all orders neither wait for ever nor lose anything.
#[test]
fn many_locks_do_not_wait_for_each_other() {
    let _watchdog = Watchdog::new("many locks");
    let map = SharedMap::<u64, i64>::new().unwrap();
    map.extend((0..8).map(|i| (i, 1_000))).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let map = &map;
            scope.spawn(move || {
                for i in 0..300u64 {
                    let (a, b) = ((i + thread) % 8, (i * 3 + thread * 5) % 8);
                    let guard = map.lock_many([a, b]).unwrap();
                    let (from, to) = (map.get(a).unwrap().unwrap(), map.get(b).unwrap().unwrap());
                    if a != b {
                        map.insert(a, from - 1).unwrap();
                        map.insert(b, to + 1).unwrap();
                    }
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(map.values().map(Result::unwrap).sum::<i64>(), 8_000);
}

/// `update` runs its closure under no lock of the map: it may use the map, and panic.
#[test]
fn a_value_that_somebody_else_made_meanwhile_is_the_one() {
    let (map, words) = (SharedMap::<String, String>::new().unwrap(), SharedMap::<u64, u64>::new().unwrap());
    let theirs = map.get_or_insert_with("key", || {
        map.insert("key", "theirs").unwrap();
        "mine".to_owned()
    });
    assert_eq!(theirs.unwrap(), "theirs");
    let theirs = words.get_or_insert_with(1, || {
        words.insert(1, 2).unwrap();
        3
    });
    assert_eq!(theirs.unwrap(), 2);
}

#[test]
fn an_update_may_use_the_map_and_panic() {
    let _watchdog = Watchdog::new("update");
    let map = SharedMap::<u64, u64>::new().unwrap();
    map.insert(1, 10).unwrap();
    let mut calls = 0;
    let new = map.update(1, |old| {
        calls += 1;
        if calls < 3 {
            map.fetch_add(1, 1).unwrap(); // somebody else was faster
        }
        map.insert(2, 5).unwrap();
        old.map(|n| n * 2)
    });
    assert_eq!((new.unwrap(), calls), (Some(24), 3));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| map.update(1, |_| panic!("no"))));
    assert!(panicked.is_err());
    assert_eq!(map.get(1).unwrap(), Some(24));
    map.insert(1, 1).unwrap();
    assert_eq!(map.update(3, |old| old).unwrap(), None);
    // Lost again and again: after eight times it goes on under the key's lock, and gets there.
    let mut rounds = 0;
    map.update(1, |old| {
        rounds += 1;
        if [8, 9].contains(&rounds) {
            let refused = std::thread::scope(|scope| scope.spawn(|| why_not(map.try_get_lock(1))).join());
            let by_us = LockError::Timeout { owner: Some(std::process::id()) };
            assert_eq!(refused.unwrap(), (rounds > 8).then_some(by_us), "round {rounds}");
        }
        if rounds < 40 {
            map.fetch_add(1, 1).unwrap();
        }
        old
    })
    .unwrap();
    assert_eq!((rounds, map.get(1).unwrap()), (40, Some(40)));
    drop(map.try_get_lock(1).unwrap());
}

/// What is said of numbers is said of maps of numbers.
fn count<V: Number>(one: V, two: V) {
    let map = SharedMap::<u8, V>::new().unwrap();
    assert_eq!(map.insert(1, one).unwrap(), None);
    assert_eq!(map.fetch_add(1, one).unwrap(), one);
    assert_eq!(map.get(1).unwrap(), Some(two));
}

#[test]
fn numbers_add() {
    count(1i8, 2);
    count(1u32, 2);
    count(1u64, 2);
    count(1f32, 2.0);
    count(-0.5f64, -1.0);
    let map = SharedMap::<u8, u16>::new().unwrap();
    assert_eq!(map.fetch_add(1, 65_535).unwrap(), 0);
    assert_eq!(map.fetch_add(1, 2).unwrap(), 65_535);
    assert_eq!(map.get(1).unwrap(), Some(1));
    let map = SharedMap::<u8, i64>::new().unwrap();
    assert_eq!(map.fetch_add(1, -3).unwrap(), 0);
    assert_eq!(map.fetch_add(1, i64::MAX).unwrap(), -3);
    assert_eq!(map.fetch_add(1, 4).unwrap(), i64::MAX - 3);
    assert_eq!(map.get(1).unwrap(), Some(i64::MIN));
    let map = SharedMap::<String, f64>::new().unwrap();
    assert_eq!(map.fetch_add("a", 0.5).unwrap(), 0.0);
    assert_eq!(map.fetch_add("a", 0.25).unwrap(), 0.5);
    let map = SharedMap::<String, u64>::new().unwrap();
    assert_eq!(map.fetch_add("a", u64::MAX).unwrap(), 0);
    assert_eq!(map.fetch_add("a", 3).unwrap(), u64::MAX);
    assert_eq!(map.get("a").unwrap(), Some(2));
}

/// Handles of one map, however many, are one map; a map that is dropped is gone.
#[test]
fn threads_share_a_map() {
    let _watchdog = Watchdog::new("threads");
    let map = SharedMap::<u64, u64>::new().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let map = map.clone();
            scope.spawn(move || {
                for i in 0..4_000u64 {
                    map.fetch_add(i % 100, 1).unwrap();
                    map.update(100 + i % 10, |n| Some(n.unwrap_or(0) + 1)).unwrap();
                }
            });
        }
    });
    assert!((0..100).all(|key| map.get(key).unwrap() == Some(160)));
    assert!((100..110).all(|key| map.get(key).unwrap() == Some(1_600)));
    assert_eq!(format!("{map:?}"), "SharedMap { types: \"(u64, u64)\", len: 110 }");
}
