//! `SharedMap<K, V>`: what users hold. Types become bytes here (`codec`), bytes become entries in `engine`.
//!
//! # Which way an operation goes
//!
//! | `K::SIZE` and `V::SIZE` | the entry | `get` |
//! |---|---|---|
//! | both known and at most 8 | key and value are one word each, in the bucket | one cache line, no bytes on the way |
//! | else | in a block of its own | bucket and block; the value is copied, checked, then decoded |
//!
//! Which of the two is known when the map's type is, so the other is not in the program.
//!
//! # User code
//!
//! Runs under no lock of the map: `encode` comes before the engine is asked, `decode` works on a private copy, closures
//! are called between a look and a commit that fails if the entry changed (`change.rs`).
//!
//! # Killed here?
//!
//! Each operation of this file is one of the engine's, which is one store; or a row of them (`extend`, `retain`, `clear`),
//! each whole by itself.

use super::{
    Cursor,
    engine::Engine,
    iter::{Iter, Keys, Values},
    shape::Shape,
};
use crate::{
    codec::{Codec, Key, Room, Scratch, Source},
    error::{CreateError, EncodeError, HandleError, MapError},
    segment::{Kind, Object, Place, Segment, Stamp, handle, record::short_name},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::HashMap, fmt, hash::Hash, marker::PhantomData, sync::Arc};

/// A dictionary in shared memory (`Manager().dict()`, without a server).
///
/// A handle: cheap to clone, `Send + Sync`, and a legal argument or result of a [`Pool`](crate::Pool) task, alone or inside
/// other types. The map goes when its last handle in any process goes, or its process dies.
///
/// Reads write nothing and wait for nobody. Each change is whole or did not happen, whoever is killed when; whoever comes
/// next goes on. `K` and `V` name encodings ([`Codec`]), so callers pass `&str` where `K` is `String`, and never an owned
/// key to look something up:
///
/// ```
/// use allmend::SharedMap;
///
/// let ages = SharedMap::<String, u32>::new()?;
/// assert_eq!(ages.insert("Ada", 36)?, None);
/// assert_eq!(ages.get("Ada")?, Some(36));
/// ages.update("Ada", |age| age.map(|years| years + 1))?;
/// assert_eq!(ages.remove("Ada")?, Some(37));
/// assert!(ages.is_empty());
/// # Ok::<(), allmend::Error>(())
/// ```
///
/// Entries whose key and value have at most 8 bytes each lie in the table itself. Larger ones lie in blocks that are used
/// again: a map that is overwritten stays the same size. It grows without a stop, up to its limit and to what the machine
/// has: then writes are [`MapError::Full`], and everything can still be read and removed.
///
/// In a manager that is [open for reading only](crate::ManagerBuilder::read_only) all reads work, also while others write;
/// everything else is `ReadOnly`. Nothing keeps the map there: when those who hold it have let it go, reads panic.
///
/// Limits: a key has at most 1 MiB, a value at most 1 GiB. One map is at home in one segment, so it is as large as that at
/// the most.
///
/// Linear hashing (Litwin 1980) over cache-line buckets, one lock per shard, optimistic reads; the hash is seeded for each
/// map.
#[doc(alias = "open_read_only")]
pub struct SharedMap<K: Key, V: Codec> {
    pub(super) engine: Engine,
    of: PhantomData<fn() -> (K, V)>,
}

/// A map with settings: [`SharedMap::builder`]. They are those of a new one, and stay as long as it does: a map that is
/// there already keeps its own.
///
/// ```
/// use allmend::{Manager, OpenError, SharedMap};
///
/// let manager = Manager::new()?;
/// let settings = || SharedMap::<String, u64>::builder().entries(1_000).max_bytes(16 << 20);
/// let scores = settings().create(&manager, "scores")?;
/// scores.insert("Ada", 3)?;
/// // Whoever comes first makes it; the others get the same one.
/// assert_eq!(settings().open_or_create(&manager, "scores")?.get("Ada")?, Some(3));
/// assert!(matches!(settings().create(&manager, "scores"), Err(OpenError::ObjectExists { .. })));
/// // Without a name, in the process's own segment.
/// assert!(settings().build()?.is_empty());
/// # Ok::<(), allmend::Error>(())
/// ```
#[must_use = "it makes nothing until `build`, `create` or `open_or_create`"]
pub struct MapBuilder<K: Key, V: Codec> {
    expected: u64,
    max_bytes: u64,
    of: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Codec> MapBuilder<K, V> {
    /// How many entries will come, about: a table for them is made at once, and more processes can write at a time. It
    /// grows beyond that all the same. 0, as without it: the table begins with the first entry.
    pub fn entries(mut self, expected: usize) -> Self {
        self.expected = expected as u64;
        self
    }

    /// The most bytes of shared memory for entries: for the table and for blocks, those that are free again too. Then writes
    /// are [`MapError::Full`]. Without it, the segment is the limit. What a map has without entries comes on top: 4 to 7 KiB
    /// for each of its 8 to 64 shards. A shard's first entry needs 1 KiB of table: below that the map stays empty.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// A map without a name, in the process's own segment.
    ///
    /// # Errors
    /// [`CreateError::Invalid`] for a limit of 0 bytes; [`CreateError::Full`] if there is no room for a table for that many
    /// entries, or the limit is too low for it; else as [`SharedMap::new`].
    pub fn build(self) -> Result<SharedMap<K, V>, CreateError> {
        self.check()?;
        self.place_in(&Segment::default_segment()?)
    }

    /// Can there be such a map?
    pub(crate) fn check(&self) -> Result<(), CreateError> {
        match self.max_bytes {
            0 => Err(CreateError::Invalid("a map of at most 0 bytes".into())),
            _ => Ok(()),
        }
    }

    /// A new map in that segment.
    pub(crate) fn place_in(&self, segment: &Arc<Segment>) -> Result<SharedMap<K, V>, CreateError> {
        // For the engine, 0 is no limit.
        let max_bytes = if self.max_bytes == u64::MAX { 0 } else { self.max_bytes };
        let shape = Shape { expected: self.expected, max_bytes, ..SharedMap::<K, V>::shape() };
        Ok(SharedMap::over(Engine::create_in(segment, &shape)?))
    }
}

impl<K: Key, V: Codec> SharedMap<K, V> {
    /// Bytes of key and value, if an entry is two words.
    pub(super) const INLINE: Option<(u8, u8)> = match (K::SIZE, V::SIZE) {
        (Some(key), Some(value)) if key <= 8 && value <= 8 => Some((key as u8, value as u8)),
        _ => None,
    };

    /// An empty map in the process's own segment, which grows as needed.
    ///
    /// # Errors
    /// [`CreateError::Full`] if there is no memory; the others when the segment cannot be made.
    pub fn new() -> Result<Self, CreateError> {
        Self::builder().build()
    }

    /// With a table for so many entries, and never more than so many bytes for entries: see [`MapBuilder`].
    ///
    /// # Errors
    /// As [`MapBuilder::build`].
    ///
    /// ```
    /// let small = allmend::SharedMap::<u64, u64>::with_capacity(1_000, 1 << 20)?;
    /// assert_eq!(small.len(), 0);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn with_capacity(entries: usize, max_bytes: u64) -> Result<Self, CreateError> {
        Self::builder().entries(entries).max_bytes(max_bytes).build()
    }

    /// For settings, and for a name in a [`Manager`](crate::Manager) together with them.
    pub fn builder() -> MapBuilder<K, V> {
        MapBuilder { expected: 0, max_bytes: u64::MAX, of: PhantomData }
    }

    pub(super) fn shape() -> Shape {
        Shape { inline: Self::INLINE, types: Self::expected().0, expected: 0, max_bytes: 0 }
    }

    /// What tells it from a map of other types: their sizes, where these are fixed, and their names.
    pub(crate) fn expected() -> (Stamp, String) {
        let size = |size: Option<usize>| size.map_or(0, |size| u32::try_from(size + 1).unwrap_or(u32::MAX));
        let name = Stamp::of::<(K, V)>().name;
        (Stamp { size: size(K::SIZE), align: size(V::SIZE), name }, short_name::<(K, V)>())
    }

    pub(super) fn over(engine: Engine) -> Self {
        Self { engine, of: PhantomData }
    }

    /// A new map in that segment.
    pub(crate) fn place_in(segment: &Arc<Segment>) -> Result<Self, CreateError> {
        Self::builder().place_in(segment)
    }

    /// The map at that place, if there is one of these types.
    pub(crate) fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        let (stamp, name) = Self::expected();
        Self::from_object(segment.open(place, Kind::Map, (stamp, &name))?)
    }

    /// An object of this kind and these types, if its words are those of a map.
    fn from_object(object: Arc<Object>) -> Result<Self, HandleError> {
        Ok(Self::over(Engine::open(object, Self::INLINE)?))
    }

    /// What the handle leads to.
    pub(crate) fn object(&self) -> &Arc<Object> {
        self.engine.object()
    }

    // ---- one entry ----

    /// The value.
    ///
    /// Never waits for a writer, living, stopped or dead; gives what was committed last.
    ///
    /// # Errors
    /// [`MapError::Decode`] if the value's bytes are not those of a `V`; [`MapError::Encode`] if the key has no bytes;
    /// [`MapError::Damaged`] if somebody overwrote the map.
    ///
    /// # Panics
    /// If the map is gone. A handle keeps it, so that can be only where the manager is open for reading only, and in a
    /// forked child whose parent dropped its handle before the child used its own, or that has no place in the segment when
    /// all others have dropped theirs. So do all other reads.
    #[inline(always)] // what most looks come to: in a loop that is twice as fast as a call of it
    pub fn get(&self, key: K::Ref<'_>) -> Result<Option<V::Owned>, MapError> {
        if Self::INLINE.is_some() {
            let key = word::<K>(key)?;
            return self.engine.get8(key)?.map(|value| self.value_of(key, value)).transpose();
        }
        if V::AT_ONCE
            && let Some(key) = K::lying_in(&key)
            && let Some(found) = V::receive_at_once(&Entry { engine: &self.engine, key })
        {
            return Ok(found);
        }
        self.get_block(key)
    }

    /// The same, whatever it takes.
    #[inline]
    fn get_block(&self, key: K::Ref<'_>) -> Result<Option<V::Owned>, MapError> {
        let mut found = Ok(None);
        match K::with_bytes(key, |key| V::receive(&Entry { engine: &self.engine, key }, &mut found)) {
            Ok(()) => {}
            Err(e) => found = Err(e.into()),
        }
        found
    }

    /// The value into `out`, whose memory is used again: no allocation for a `String` or `Vec` that is large enough. `false`
    /// if there is none; then `out` stays as it was.
    ///
    /// # Errors
    /// As [`get`](Self::get); then `out` is any value.
    ///
    /// ```
    /// let map = allmend::SharedMap::<u64, String>::new()?;
    /// map.insert(1, "one")?;
    /// let mut text = String::with_capacity(100);
    /// assert!(map.get_into(1, &mut text)?);
    /// assert_eq!(text, "one");
    /// # Ok::<(), allmend::Error>(())
    /// ```
    #[inline]
    pub fn get_into(&self, key: K::Ref<'_>, out: &mut V::Owned) -> Result<bool, MapError> {
        if Self::INLINE.is_some() {
            return self.get(key).map(|found| found.map(|value| *out = value).is_some());
        }
        if V::AT_ONCE
            && let Some(key) = K::lying_in(&key)
            && let Some(found) = V::receive_at_once(&Entry { engine: &self.engine, key })
        {
            return Ok(found.map(|value| *out = value).is_some());
        }
        self.get_into_whole(key, out)
    }

    fn get_into_whole(&self, key: K::Ref<'_>, out: &mut V::Owned) -> Result<bool, MapError> {
        K::with_bytes(key, |key| {
            let mut bytes = Scratch::take();
            if !self.engine.get(key, &mut *bytes)? {
                return Ok(false);
            }
            match V::decode_into(&bytes, out) {
                true => Ok(true),
                false => Err(undecodable(key)),
            }
        })?
    }

    /// The value's bytes, as they are encoded, to `f`: a private copy, so `f` may take its time. `None` if there is no
    /// entry.
    ///
    /// # Errors
    /// [`MapError::Encode`], [`MapError::Damaged`].
    ///
    /// ```
    /// let map = allmend::SharedMap::<u64, Vec<u8>>::new()?;
    /// map.insert(1, b"one")?;
    /// assert_eq!(map.with(1, |bytes| bytes.len())?, Some(3));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn with<R>(&self, key: K::Ref<'_>, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, MapError> {
        if let Some((_, size)) = Self::INLINE {
            let found = self.engine.get8(word::<K>(key)?)?;
            return Ok(found.map(|value| f(&value.to_le_bytes()[..usize::from(size)])));
        }
        let mut bytes = Scratch::take();
        let found = K::with_bytes(key, |key| self.engine.get(key, &mut *bytes))??;
        Ok(found.then(|| f(&bytes)))
    }

    /// Is there an entry?
    ///
    /// # Errors
    /// [`MapError::Encode`], [`MapError::Damaged`].
    #[inline]
    pub fn contains_key(&self, key: K::Ref<'_>) -> Result<bool, MapError> {
        if Self::INLINE.is_some() {
            return self.engine.get8(word::<K>(key)?).map(|found| found.is_some());
        }
        K::with_bytes(key, |key| self.engine.contains(key))?
    }

    /// Inserts or replaces; gives the old value.
    ///
    /// One store makes it so: whoever reads has the old value or the new one, also if this process is killed in it.
    ///
    /// # Errors
    /// [`MapError::Full`], [`MapError::TooLarge`], [`MapError::Encode`]: then nothing is changed. [`MapError::Decode`] if the
    /// *old* bytes were none of a `V`; they are replaced all the same. [`MapError::ReadOnly`]; [`MapError::Lock`] if this
    /// process cannot take part; [`MapError::Damaged`].
    #[inline]
    pub fn insert(&self, key: K::Ref<'_>, value: V::Ref<'_>) -> Result<Option<V::Owned>, MapError> {
        if Self::INLINE.is_some() {
            let (key, value) = (word::<K>(key)?, word::<V>(value)?);
            let old = self.engine.insert8(key, value)?;
            return old.map(|old| self.value_of(key, old)).transpose();
        }
        self.with_entry(key, value, |key, value| {
            let mut old = Scratch::take();
            match self.engine.insert(key, value, Some(&mut old))? {
                true => decode::<V>(&old, key).map(Some),
                false => Ok(None),
            }
        })
    }

    /// Inserts or replaces, and says only whether there was an old value: saves copying and decoding it.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    #[inline]
    pub fn set(&self, key: K::Ref<'_>, value: V::Ref<'_>) -> Result<bool, MapError> {
        if Self::INLINE.is_some() {
            return self.engine.insert8(word::<K>(key)?, word::<V>(value)?).map(|old| old.is_some());
        }
        self.with_entry(key, value, |key, value| self.engine.insert(key, value, None))
    }

    /// Inserts if there is no entry, and gives `None`; else gives the value that is there, and does nothing.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn try_insert(&self, key: K::Ref<'_>, value: V::Ref<'_>) -> Result<Option<V::Owned>, MapError> {
        self.with_entry(key, value, |key, value| {
            let mut old = Scratch::take();
            match self.engine.try_insert(key, value, Some(&mut old))? {
                true => Ok(None),
                false => decode::<V>(&old, key).map(Some),
            }
        })
    }

    /// Removes; gives the old value.
    ///
    /// # Errors
    /// [`MapError::Decode`] if its bytes were none of a `V`: it is removed all the same. [`MapError::Encode`],
    /// [`MapError::ReadOnly`], [`MapError::Lock`], [`MapError::Damaged`].
    pub fn remove(&self, key: K::Ref<'_>) -> Result<Option<V::Owned>, MapError> {
        self.with_key(key, |key| {
            let mut old = Scratch::take();
            match self.engine.remove(key, Some(&mut old))? {
                true => decode::<V>(&old, key).map(Some),
                false => Ok(None),
            }
        })
    }

    // ---- many entries ----

    /// Inserts or replaces many, each as by [`set`](Self::set).
    ///
    /// # Errors
    /// The first of `set`; what came before it is inserted.
    ///
    /// ```
    /// let map = allmend::SharedMap::<u64, u64>::new()?;
    /// map.extend((0..10).map(|n| (n, n * 10)))?;
    /// assert_eq!(map.get(7)?, Some(70));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn extend<'a>(
        &self,
        entries: impl IntoIterator<Item = (K::Ref<'a>, V::Ref<'a>)>,
    ) -> Result<(), MapError> {
        entries.into_iter().try_for_each(|(key, value)| self.set(key, value).map(drop))
    }

    /// Keeps the entries for which `keep` says so, and removes the others. An entry that changed after `keep` saw it is
    /// shown to it again.
    ///
    /// # Errors
    /// The first of iterating or of removing; what came before it is removed.
    pub fn retain(&self, mut keep: impl FnMut(&K::Owned, &V::Owned) -> bool) -> Result<(), MapError> {
        for entry in self.iter() {
            let (key, value) = entry?;
            if !keep(&key, &value) {
                self.update(K::borrow(&key), |now| now.filter(|now| keep(&key, now)))?;
            }
        }
        Ok(())
    }

    /// Removes all that is there when it comes by. What others insert meanwhile may stay. Killed in it, some are removed.
    ///
    /// # Errors
    /// [`MapError::ReadOnly`], [`MapError::Lock`], [`MapError::Damaged`].
    pub fn clear(&self) -> Result<(), MapError> {
        self.engine.clear()
    }

    /// How many entries there are: exact when nobody writes.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn len(&self) -> usize {
        self.engine.len() as usize
    }

    /// Are there none?
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries, while others write: an entry that is there throughout comes exactly once, also if the map grows or
    /// shrinks meanwhile; one that comes or goes meanwhile may come or not. Each is read for itself: all together are no
    /// moment of the map.
    ///
    /// Holds nothing up, and owns its handle. An entry whose bytes do not decode is an error with its key, and the next
    /// call goes on behind it. After any other error it is at its end.
    ///
    /// # Panics
    /// Its `next`, as [`get`](Self::get).
    ///
    /// ```
    /// let map = allmend::SharedMap::<String, u64>::new()?;
    /// map.insert("one", 1)?;
    /// for entry in &map {
    ///     let (name, n) = entry?;
    ///     assert_eq!((name.as_str(), n), ("one", 1));
    /// }
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn iter(&self) -> Iter<K, V> {
        Iter::new(self.clone(), Cursor::default())
    }

    /// As [`iter`](Self::iter), from where another one stood ([`Iter::cursor`]), in this process or another. A cursor of
    /// another map begins anywhere in this one, or at its end.
    ///
    /// ```
    /// let map = allmend::SharedMap::<u64, u64>::new()?;
    /// map.extend((0..100).map(|n| (n, n)))?;
    /// let mut iter = map.iter();
    /// let mut seen = iter.by_ref().take(10).collect::<Result<std::collections::BTreeMap<_, _>, _>>()?;
    /// let cursor = iter.cursor().expect("90 are to come"); // plain data, to be kept or sent
    /// for entry in map.iter_from(cursor) {
    ///     seen.extend([entry?]);
    /// }
    /// assert!(seen.into_keys().eq(0..100));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn iter_from(&self, cursor: Cursor) -> Iter<K, V> {
        Iter::new(self.clone(), cursor)
    }

    /// All keys, panics and all as [`iter`](Self::iter).
    pub fn keys(&self) -> Keys<K, V> {
        Keys(self.iter())
    }

    /// All values, panics and all as [`iter`](Self::iter).
    pub fn values(&self) -> Values<K, V> {
        Values(self.iter())
    }

    /// A `HashMap` of all: what [`iter`](Self::iter) gives.
    ///
    /// # Errors
    /// The first of iterating.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn snapshot(&self) -> Result<HashMap<K::Owned, V::Owned>, MapError>
    where
        K::Owned: Eq + Hash,
    {
        self.iter().collect()
    }

    // ---- bytes ----

    /// The value whose word is in the table under `key`.
    #[inline]
    pub(super) fn value_of(&self, key: u64, value: u64) -> Result<V::Owned, MapError> {
        let (key_size, size) = Self::INLINE.unwrap_or((8, 8));
        decode::<V>(&value.to_le_bytes()[..usize::from(size)], &key.to_le_bytes()[..usize::from(key_size)])
    }

    /// The key's bytes to `f`, checked.
    pub(super) fn with_key<R>(
        &self,
        key: K::Ref<'_>,
        f: impl FnOnce(&[u8]) -> Result<R, MapError>,
    ) -> Result<R, MapError> {
        K::with_bytes(key, |key| {
            check_size::<K>(key)?;
            f(key)
        })?
    }

    /// The bytes of both to `f`, checked.
    pub(super) fn with_entry<R>(
        &self,
        key: K::Ref<'_>,
        value: V::Ref<'_>,
        f: impl FnOnce(&[u8], &[u8]) -> Result<R, MapError>,
    ) -> Result<R, MapError> {
        self.with_key(key, |key| {
            V::with_bytes(value, |value| {
                check_size::<V>(value)?;
                f(key, value)
            })?
        })
    }
}

/// A [`Codec`] of somebody else may promise a size that it does not keep.
#[inline]
pub(super) fn check_size<C: Codec>(bytes: &[u8]) -> Result<(), EncodeError> {
    match C::SIZE {
        Some(size) if size != bytes.len() => {
            Err(EncodeError::new("it does not have the size that its type promises"))
        }
        _ => Ok(()),
    }
}

/// One of at most 8 bytes, as a word: padded with zeros.
#[inline(always)]
pub(super) fn word<C: Codec>(value: C::Ref<'_>) -> Result<u64, MapError> {
    C::with_bytes(value, |bytes| {
        check_size::<C>(bytes)?;
        let mut word = [0; 8];
        match word.get_mut(..bytes.len()) {
            Some(to) => to.copy_from_slice(bytes),
            None => return Err(EncodeError::new("it has more than 8 bytes").into()),
        }
        Ok(u64::from_le_bytes(word))
    })?
}

#[inline]
pub(super) fn decode<V: Codec>(value: &[u8], key: &[u8]) -> Result<V::Owned, MapError> {
    V::decode(value).ok_or_else(|| undecodable(key))
}

#[cold]
fn undecodable(key: &[u8]) -> MapError {
    MapError::Decode { key: key.to_vec() }
}

/// The value of a key.
struct Entry<'a> {
    engine: &'a Engine,
    key: &'a [u8],
}

impl Source for Entry<'_> {
    type Error = MapError;

    #[inline]
    fn read(&self, room: &mut impl Room) -> Result<bool, MapError> {
        self.engine.get(self.key, room)
    }

    #[inline(always)]
    fn read_at_once(&self, room: &mut impl Room) -> Option<bool> {
        self.engine.get_at_once(self.key, room)
    }

    #[cold]
    fn undecodable(&self) -> MapError {
        undecodable(self.key)
    }
}

impl<K: Key, V: Codec> IntoIterator for &SharedMap<K, V> {
    type Item = Result<(K::Owned, V::Owned), MapError>;
    type IntoIter = Iter<K, V>;

    fn into_iter(self) -> Iter<K, V> {
        self.iter()
    }
}

impl<K: Key, V: Codec> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { engine: self.engine.clone(), of: PhantomData }
    }
}

impl<K: Key, V: Codec> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_struct("SharedMap");
        map.field("types", &short_name::<(K, V)>());
        match self.engine.object().holder_now() {
            Some(_) => map.field("len", &self.len()).finish(),
            None => map.finish_non_exhaustive(), // a look can panic
        }
    }
}

impl<K: Key, V: Codec> fmt::Debug for MapBuilder<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapBuilder")
            .field("entries", &self.expected)
            .field("max_bytes", &self.max_bytes)
            .finish()
    }
}

impl<K: Key, V: Codec> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(self.object(), serializer)
    }
}

impl<'de, K: Key, V: Codec> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (stamp, name) = Self::expected();
        let object = handle::deserialize(deserializer, Kind::Map, (stamp, &name))?;
        Self::from_object(object).map_err(de::Error::custom)
    }
}
