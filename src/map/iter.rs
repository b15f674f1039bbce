//! Iterating while others write.
//!
//! The engine walks the table in an order that growth does not change (`engine::scan`), a chain at a time: a chain is copied
//! whole and checked, so its entries are of one moment. A [`Cursor`] says where the next chain begins. So an entry that is
//! there throughout is in exactly one of the chains that are seen, however often the table grew meanwhile.
//!
//! Nothing is held between two calls: no lock, no reference. Killed here? Nobody notices.

use super::{
    Cursor,
    face::{SharedMap, decode},
};
use crate::{
    codec::{Codec, Key},
    error::MapError,
};
use std::{collections::VecDeque, fmt, iter::FusedIterator};

/// Key and value, as bytes.
type Entry = (Vec<u8>, Vec<u8>);
/// A copy of one chain.
type Batch = VecDeque<Entry>;

/// All entries of a map: see [`SharedMap::iter`]. Owns its handle.
#[must_use = "iterators do nothing unless they are asked"]
pub struct Iter<K: Key, V: Codec> {
    map: SharedMap<K, V>,
    /// What was copied and not given yet.
    batch: Batch,
    /// Where that began, and how much of it was given.
    here: Cursor,
    /// Where the next one begins; `None` at the end.
    next: Option<Cursor>,
}

impl<K: Key, V: Codec> Iter<K, V> {
    pub(super) fn new(map: SharedMap<K, V>, from: Cursor) -> Self {
        Self { map, batch: Batch::new(), here: from, next: Some(from) }
    }

    /// Where it stands, for [`SharedMap::iter_from`]: what was given does not come again, except that of the few entries
    /// that lie together with the last one some may. `None` at the end.
    pub fn cursor(&self) -> Option<Cursor> {
        if self.batch.is_empty() { self.next } else { Some(self.here) }
    }

    /// The next entry, as bytes.
    fn next_bytes(&mut self) -> Option<Result<Entry, MapError>> {
        loop {
            if let Some(entry) = self.batch.pop_front() {
                return Some(Ok(entry));
            }
            self.here = self.next?;
            let batch = &mut self.batch;
            match self.map.engine.scan(self.here, batch) {
                Ok(next) => self.next = next,
                Err(e) => {
                    self.batch.clear();
                    self.next = None;
                    return Some(Err(e));
                }
            }
        }
    }
}

impl<K: Key, V: Codec> Iterator for Iter<K, V> {
    type Item = Result<(K::Owned, V::Owned), MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_bytes()?.and_then(|(key, value)| {
            let value = decode::<V>(&value, &key)?;
            Ok((decode::<K>(&key, &key)?, value))
        }))
    }
}

/// All keys of a map: see [`SharedMap::iter`].
#[must_use = "iterators do nothing unless they are asked"]
pub struct Keys<K: Key, V: Codec>(pub(super) Iter<K, V>);

impl<K: Key, V: Codec> Iterator for Keys<K, V> {
    type Item = Result<K::Owned, MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next_bytes()?.and_then(|(key, _)| decode::<K>(&key, &key)))
    }
}

/// All values of a map: see [`SharedMap::iter`].
#[must_use = "iterators do nothing unless they are asked"]
pub struct Values<K: Key, V: Codec>(pub(super) Iter<K, V>);

impl<K: Key, V: Codec> Iterator for Values<K, V> {
    type Item = Result<V::Owned, MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next_bytes()?.and_then(|(key, value)| decode::<V>(&value, &key)))
    }
}

impl<K: Key, V: Codec> FusedIterator for Iter<K, V> {}
impl<K: Key, V: Codec> FusedIterator for Keys<K, V> {}
impl<K: Key, V: Codec> FusedIterator for Values<K, V> {}

impl<K: Key, V: Codec> fmt::Debug for Iter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("map", &self.map).field("cursor", &self.cursor()).finish()
    }
}

impl<K: Key, V: Codec> fmt::Debug for Keys<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.0).finish()
    }
}

impl<K: Key, V: Codec> fmt::Debug for Values<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Values").field(&self.0).finish()
    }
}
