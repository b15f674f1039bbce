//! Our contestant of the map table, through the crate's public face only.

use crate::maps::{Data, Keys, Plan, Store, seat};
use crate::{map_peers::WARM, peers};
use allmend::{Codec, Key, SharedMap};

/// What a key of the table is in a `SharedMap`.
pub trait AsKey: Data {
    /// The type of the map's keys.
    type Key: Key;
    /// As it is passed.
    fn key(&self) -> <Self::Key as Codec>::Ref<'_>;
}

impl AsKey for u64 {
    type Key = u64;
    #[inline]
    fn key(&self) -> u64 {
        *self
    }
}

impl AsKey for [u8; 16] {
    /// A string of any length, as the peers that are not Rust see it.
    type Key = Vec<u8>;
    #[inline]
    fn key(&self) -> &[u8] {
        self
    }
}

/// What a value of the table is in a `SharedMap`.
pub trait AsValue: Data {
    /// The type of the map's values.
    type Value: Codec<Owned = Self>;
    /// As it is passed.
    fn value(&self) -> <Self::Value as Codec>::Ref<'_>;
}

impl AsValue for u64 {
    type Value = u64;
    #[inline]
    fn value(&self) -> u64 {
        *self
    }
}

impl AsValue for [u8; 100] {
    type Value = [u8; 100];
    #[inline]
    fn value(&self) -> &[u8; 100] {
        self
    }
}

struct Ours<K: AsKey, V: AsValue>(SharedMap<K::Key, V::Value>);

impl<K: AsKey, V: AsValue + PartialEq> Store<K, V> for Ours<K, V> {
    #[inline(always)]
    fn get(&mut self, key: &K, value: &V) -> bool {
        self.0.get(key.key()).expect("a read").as_ref() == Some(value)
    }
    #[inline]
    fn put(&mut self, key: &K, value: &V) {
        self.0.set(key.key(), value.value()).expect("a write");
    }
}

/// One run: a new map, which the forked processes share.
pub fn run<K: AsKey, V: AsValue + PartialEq>(plan: &Plan, keys: &Keys<K>) -> Result<Vec<f64>, String> {
    let map = SharedMap::<K::Key, V::Value>::new().expect("a map");
    let parties = plan.parties;
    peers::in_phases(parties, parties, plan.limits, |i, phases| {
        let ours = Ours::<K, V>(map.clone());
        seat::<K, V, _>(phases, keys, i, (i, parties), ours, |map| map, WARM);
    })
}

/// Shared memory that a map of so many entries takes, over their number. Right as long as no larger map was there before.
pub fn bytes_per_entry(n: u64) -> f64 {
    let before = allmend::verify().expect("a healthy segment").committed;
    let map = SharedMap::<u64, u64>::new().expect("a map");
    for i in 0..n {
        map.set(u64::of(i), i).expect("a write");
    }
    let after = allmend::verify().expect("a healthy segment").committed;
    (after - before) as f64 / n as f64
}
