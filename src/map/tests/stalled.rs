//! A reader that stands still between the first bucket of a chain and the next one, while a writer dies and its heir
//! recovers: it must neither miss what is there throughout, nor see what never was. And one for reading only that stands
//! still between two looks, while the map goes.

use super::{INLINE, all, engine, is_sound, private, shape};
use crate::{
    atomic::{Relaxed, Release, Word64},
    map::{
        commit::{self, Found, Space, Spot, add_block, add_pair, compact, find_block, find_pair},
        engine::Engine,
        probe::{Bucket, Fault, Memory, get_block, get_inline},
        shape::{LINK_BITS, NEXT, PAIRS, SLOTS, address, split_source},
        shard::{Shard, hash_bytes, hash_word},
    },
    segment::{Kind, Segment, named::NamedOptions},
};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Runs `then` once, when the reader has found an overflow bucket and not looked into it.
struct Standing<'a, F: FnOnce()> {
    shard: Shard<'a>,
    then: RefCell<Option<F>>,
}

impl<F: FnOnce()> Memory for Standing<'_, F> {
    fn state(&self) -> &Word64 {
        self.shard.state()
    }
    fn bucket(&self, b: u64) -> Option<Bucket<'_>> {
        self.shard.bucket(b)
    }
    fn overflow(&self, link: u64) -> Option<Bucket<'_>> {
        let bucket = self.shard.overflow(link);
        if let Some(then) = self.then.take() {
            then();
        }
        bucket
    }
    fn block(&self, place: u64) -> Option<&[Word64]> {
        self.shard.block(place)
    }
}

/// A chain of one more entry than fits into its first bucket, which the next split leaves alone.
struct Chain {
    engine: Engine,
    inline: bool,
    /// Their bucket, and entries of it: those of the map, and one more key.
    b: u64,
    keys: Vec<u64>,
}

impl Chain {
    fn new(inline: bool) -> Self {
        let engine = engine(&private(), if inline { INLINE } else { None });
        let of = |key: u64| {
            let shard = engine.scanned(0);
            let hash = hash(inline, shard, key);
            (hash >> (64 - engine.layout().shard_bits), address(hash, 16))
        };
        let count = if inline { PAIRS } else { SLOTS } + 2;
        let home = (0..).map(of).find(|home| home.1 != split_source(16)).unwrap();
        let keys: Vec<u64> = (0..).filter(|&key| of(key) == home).take(count).collect();
        for &key in &keys[..count - 1] {
            engine.insert(&key.to_le_bytes(), &key.to_le_bytes(), None).unwrap();
        }
        let chain = Self { engine, inline, b: home.1, keys };
        let next = chain.shard().bucket(chain.b).unwrap()[NEXT].load(Relaxed);
        assert_ne!(next & LINK_BITS, 0);
        chain
    }

    fn shard(&self) -> Shard<'_> {
        let any = self.engine.scanned(0);
        let hash = hash(self.inline, any, self.keys[0]);
        self.engine.scanned((hash >> (64 - self.engine.layout().shard_bits)) as usize)
    }

    /// The first key of the map, the one in the overflow bucket, and the one that is not there.
    fn names(&self) -> (u64, u64, u64) {
        (self.keys[0], self.keys[self.keys.len() - 2], self.keys[self.keys.len() - 1])
    }

    fn remove(&self, key: u64) {
        assert!(self.engine.remove(&key.to_le_bytes(), None).unwrap());
    }

    /// Looks for `key`, and stands still while `then` happens.
    fn get(&self, key: u64, then: impl FnOnce()) -> bool {
        let memory = Standing { shard: self.shard(), then: RefCell::new(Some(then)) };
        let hash = hash(self.inline, self.shard(), key);
        let found = match self.inline {
            true => get_inline(&memory, hash, key).unwrap().is_some(),
            false => get_block(&memory, hash, &key.to_le_bytes(), |_| Some(())).unwrap(),
        };
        assert!(memory.then.take().is_none(), "it stood nowhere");
        found
    }

    fn find<'a>(&self, shard: &'a Shard<'_>, key: u64) -> Found<'a> {
        let hash = hash(self.inline, *shard, key);
        match self.inline {
            true => find_pair(shard, hash, key),
            false => find_block(shard, hash, &key.to_le_bytes()),
        }
        .unwrap()
    }

    /// A new entry, put at a place that is perhaps none of its chain.
    fn put(&self, shard: &Shard<'_>, to: Spot<'_>, key: u64) {
        let hash = hash(self.inline, *shard, key);
        let bytes = key.to_le_bytes();
        match self.inline {
            true => add_pair(shard, Some(to), to.bucket, key, key),
            false => add_block(shard, Some(to), to.bucket, hash, &bytes, &bytes),
        }
        .unwrap();
    }
}

fn hash(inline: bool, shard: Shard<'_>, key: u64) -> u64 {
    match inline {
        true => hash_word(shard.seeds, key),
        false => hash_bytes(shard.seeds, &key.to_le_bytes()),
    }
}

#[test]
fn an_entry_whose_mover_died_is_not_missed() {
    for inline in [true, false] {
        let chain = Chain::new(inline);
        let (first, moving, _) = chain.names();
        let found = chain.get(moving, || {
            // Moved to the front: copied, and killed before the chain's version changed.
            chain.remove(first);
            let shard = chain.shard();
            let Found::There(from) = chain.find(&shard, moving) else { panic!("it is there") };
            let to = commit::spots(shard.bucket(chain.b).unwrap(), inline).next().unwrap();
            match inline {
                true => chain.put(&shard, to, moving),
                false => to.slot().store(from.slot().load(Relaxed), Release),
            }
            shard.recover().unwrap();
        });
        assert!(found, "inline: {inline}");
        is_sound(&chain.engine, chain.keys.len() - 2);
    }
}

#[test]
fn an_entry_that_never_counted_is_not_seen() {
    for inline in [true, false] {
        for dies_before_the_version in [true, false] {
            let chain = Chain::new(inline);
            let (_, last, absent) = chain.names();
            let found = chain.get(absent, || {
                chain.remove(last);
                let shard = chain.shard();
                if dies_before_the_version {
                    let first = shard.bucket(chain.b).unwrap();
                    let next = first[NEXT].load(Relaxed);
                    first[NEXT].store(next & !LINK_BITS, Release);
                    shard.recover().unwrap();
                } else {
                    compact(&shard, chain.b, inline).unwrap();
                }
                // The bucket that the reader stands before, filled for an insert that dies before its one store.
                let link = shard.take_overflow().unwrap();
                let bucket = shard.overflow(link).unwrap();
                chain.put(&shard, Spot { bucket, index: 0 }, absent);
            });
            assert!(!found, "inline: {inline}");
            chain.shard().recover().unwrap();
            assert!(!chain.engine.contains(&absent.to_le_bytes()).unwrap());
            is_sound(&chain.engine, chain.keys.len() - 2);
        }
    }
}

/// Copies an entry to the first unused place of a bucket that has one.
fn copy(chain: &Chain, shard: &Shard<'_>, from: Spot<'_>, to: Bucket<'_>) {
    let unused = |spot: &Spot<'_>| commit::hash_in(shard, *spot, chain.inline).unwrap().is_none();
    let to = commit::spots(to, chain.inline).find(unused).unwrap();
    match chain.inline {
        true => chain.put(shard, to, from.bucket[from.index].load(Relaxed)),
        false => to.slot().store(from.slot().load(Relaxed), Release),
    }
}

#[test]
fn an_iteration_gives_once_what_lies_in_two_places() {
    for inline in [true, false] {
        // A split that counts, by a writer that is stopped before it clears.
        let chain = Chain::new(inline);
        let shard = chain.shard();
        let n = shard.state().load(Relaxed);
        chain.remove(chain.names().0);
        let moves = |&key: &u64| {
            let hash = hash(inline, shard, key);
            let of_shard = hash >> (64 - chain.engine.layout().shard_bits);
            let places = (address(hash, n), address(hash, n + 1));
            of_shard as usize == shard.index && places == (split_source(n), n)
        };
        for key in (1 << 32..).filter(moves).take(2) {
            chain.engine.insert(&key.to_le_bytes(), &[1; 8], None).unwrap();
        }
        assert_eq!(shard.state().load(Relaxed), n);
        let entries = chain.engine.len() as usize;
        shard.attach_bucket(n).unwrap();
        for bucket in commit::buckets(&shard, split_source(n)) {
            for spot in commit::spots(bucket.unwrap(), inline) {
                let hash = commit::hash_in(&shard, spot, inline).unwrap();
                if hash.is_some_and(|hash| address(hash, n + 1) == n) {
                    copy(&chain, &shard, spot, shard.bucket(n).unwrap());
                }
            }
        }
        shard.state().store(n + 1, Release);
        assert_eq!(all(&chain.engine).len(), entries, "inline: {inline}");
        shard.recover().unwrap();
        is_sound(&chain.engine, entries);
        // A move to the front, by one that is stopped before it clears.
        let chain = Chain::new(inline);
        let (first, moving, _) = chain.names();
        chain.remove(first);
        let shard = chain.shard();
        let Found::There(from) = chain.find(&shard, moving) else { panic!("it is there") };
        copy(&chain, &shard, from, shard.bucket(chain.b).unwrap());
        assert_eq!(all(&chain.engine).len(), chain.keys.len() - 2, "inline: {inline}");
        shard.recover().unwrap();
        is_sound(&chain.engine, chain.keys.len() - 2);
    }
}

#[test]
fn a_map_that_goes_between_two_looks_is_gone() {
    for inline in [true, false] {
        let name = format!("map-stalled-{}", std::process::id());
        let segment = Segment::create_named(&name, &NamedOptions::default()).unwrap();
        let to_look = NamedOptions { read_only: true, ..NamedOptions::default() };
        let seen = Segment::open_named(&name, &to_look).unwrap();
        let shape = shape(INLINE.filter(|_| inline));
        let map = Engine::create_in(&segment, &shape).unwrap();
        let object = seen.open(map.object().place(), Kind::Map, (shape.types, "")).unwrap();
        let reader = Engine::open(object, shape.inline).unwrap();
        assert_eq!(reader.looked(0, || Ok(1)), Ok(1));
        // Overtaken the first time; then the map goes, and its memory becomes another one.
        let (mut looks, mut map, mut other) = (0, Some(map), None);
        let end = catch_unwind(AssertUnwindSafe(|| {
            reader.looked(0, || {
                looks += 1;
                if looks == 1 {
                    return Err(Fault::Overtaken);
                }
                drop(map.take());
                other.get_or_insert_with(|| Engine::create_in(&segment, &shape).unwrap());
                Ok(2)
            })
        }));
        let text = end.expect_err("what it saw is another map's");
        let text = text.downcast_ref::<String>().expect("words");
        assert!(text.starts_with("the object is gone"), "{text}");
        assert_eq!(other.unwrap().object().place().at, reader.object().place().at);
        drop(reader);
        segment.unlink().unwrap();
    }
}
