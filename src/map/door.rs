//! Doors for this crate's own tests: what a map is made of, and, in builds with `cfg(allmend_crash)`, its engine without types.
//! Errors are panics.

use super::{SharedMap, engine::Engine, probe::Memory};
use crate::{
    atomic::Relaxed,
    codec::{Codec, Key},
    segment::Segment,
};
#[cfg(allmend_crash)]
use {
    super::{Cursor, shape::Shape},
    crate::segment::Stamp,
    std::collections::{BTreeMap, VecDeque},
};

/// A map in the process's own segment whose hash is always the same: it takes the same steps each time.
pub fn seeded<K: Key, V: Codec>(seeds: [u64; 2]) -> SharedMap<K, V> {
    let segment = Segment::default_segment().expect("a segment");
    SharedMap::over(Engine::create_seeded(&segment, &SharedMap::<K, V>::shape(), seeds).expect("a map"))
}

/// Recovers what has to be, and then: is each block and overflow bucket in use or free, once, and each length exact?
/// How many entries there are.
pub fn audit<K: Key, V: Codec>(map: &SharedMap<K, V>) -> (u64, bool) {
    let stats = map.engine.stats().expect("stats");
    (stats.entries, stats.sound)
}

/// How many buckets all shards have, without a lock.
pub fn buckets<K: Key, V: Codec>(map: &SharedMap<K, V>) -> u64 {
    let shards = 0..map.engine.layout().shards();
    shards.map(|index| map.engine.scanned(index).state().load(Relaxed)).sum()
}

/// Which shard has the key of these bytes.
pub fn shard_of<K: Key, V: Codec>(map: &SharedMap<K, V>, key: &[u8]) -> usize {
    map.engine.shard_number(key)
}

/// A map of bytes in the process's own segment. Panics on errors.
#[cfg(allmend_crash)]
#[derive(Clone, Debug)]
pub struct Map(Engine);

#[cfg(allmend_crash)]
impl Map {
    /// With keys and values of 8 bytes in the buckets, or with blocks.
    pub fn new(inline: bool) -> Self {
        let inline = inline.then_some((8, 8));
        let shape = Shape { inline, types: Stamp::NONE, expected: 0, max_bytes: 0 };
        let segment = Segment::default_segment().expect("a segment");
        Self(Engine::create_in(&segment, &shape).expect("a map"))
    }
    /// See the engine.
    pub fn get(&self, key: u64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.0.get(&key.to_ne_bytes(), &mut out).expect("get").then_some(out)
    }
    /// See the engine.
    pub fn insert(&self, key: u64, value: &[u8]) -> bool {
        self.0.insert(&key.to_ne_bytes(), value, None).expect("insert")
    }
    /// See the engine.
    pub fn remove(&self, key: u64) -> bool {
        self.0.remove(&key.to_ne_bytes(), None).expect("remove")
    }
    /// See the engine.
    pub fn compare_and_set(&self, key: u64, expected: Option<&[u8]>, new: Option<&[u8]>) -> bool {
        self.0.compare_and_set(&key.to_ne_bytes(), expected, new).expect("compare_and_set")
    }
    /// See the engine.
    pub fn fetch_add(&self, key: u64, n: u64) -> u64 {
        self.0.fetch_add8(&key.to_ne_bytes(), n).expect("fetch_add")
    }
    /// See the engine.
    pub fn clear(&self) {
        self.0.clear().expect("clear");
    }
    /// See the engine.
    pub fn len(&self) -> u64 {
        self.0.len()
    }
    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Which shard has the key.
    pub fn shard_of(&self, key: u64) -> usize {
        self.0.shard_number(&key.to_ne_bytes())
    }
    /// All entries by iteration; each key is given once.
    pub fn entries(&self) -> BTreeMap<u64, Vec<u8>> {
        let (mut found, mut batch) = (BTreeMap::new(), VecDeque::new());
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            cursor = self.0.scan(from, &mut batch).expect("scan");
            for (key, value) in batch.drain(..) {
                let key = u64::from_ne_bytes(key.try_into().expect("8 bytes"));
                assert!(found.insert(key, value).is_none(), "{key} was given twice");
            }
        }
        found
    }
    /// Recovers what has to be, and then: is each block and overflow bucket in use or free, once, and each length exact?
    /// How many entries there are.
    pub fn audit(&self) -> (u64, bool) {
        let stats = self.0.stats().expect("stats");
        (stats.entries, stats.sound)
    }
}
