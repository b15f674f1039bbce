//! The map of encoded keys and values: what the typed face calls.
//!
//! A write takes its shard's lock, lets the heir recover first, makes one change (`commit`) and counts it, and then, if
//! the shard is full enough, splits some buckets: an insert that was made stays made if there is no room for that.
//!
//! A read tries without the lock ([`probe`](super::probe)); overtaken 64 times, it asks for the lock once a round. If the
//! holder is stopped nothing changes, so the plain try succeeds.

use super::{
    commit::{
        Found, Refusal, Spot, add_block, add_pair, block_of, buckets, clear_spot, compact, find_block,
        find_pair, remove_block, replace_block, split_some, spots,
    },
    hold::{Holders, Locked, Locks, Stripe},
    probe::{Fault, Memory, contents, first_block, first_inline, get_block, get_inline},
    shape::{BUCKET, LONGEST_KEY, LONGEST_VALUE, Layout, STRIPES, Shape, row},
    shard::{Shard, hash_bytes, hash_word},
};
use crate::{
    atomic::{Relaxed, Release, Word64},
    codec::Room,
    error::{CreateError, HandleError, LockError, MapError, Resource},
    os::memory,
    segment::{
        Kind, Object, Segment,
        words::{load_bytes, words_for},
    },
};
use std::{sync::Arc, time::Duration};

/// Rounds after which a reader believes that the words are no longer written by rules.
const ROUNDS: u32 = 1 << 12;
/// Buckets of a shard with its first entry: a chunk of them.
const FIRST_BUCKETS: u64 = 16;
/// Buckets are split so many at a time: those that come and those that are split are neighbours, and all of them are on
/// their way from memory at once.
const STEP: u64 = 8;
/// Buckets are split when there are more entries than so many per so many buckets.
const LOAD_INLINE: (u64, u64) = (9, 5);
const LOAD_BLOCKS: (u64, u64) = (7, 2);

/// What is in a map, and what it takes.
#[cfg_attr(not(test), allow(dead_code, reason = "tests ask"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) entries: u64,
    /// Bytes of buckets and blocks.
    pub(crate) bytes: u64,
    pub(crate) shards: u64,
    pub(crate) buckets: u64,
    /// Bytes in blocks of entries, and in free blocks (not inline).
    pub(crate) used: u64,
    pub(crate) free: u64,
    /// Is each block and each overflow bucket either in use or free, once, and each length exact?
    pub(crate) sound: bool,
}

/// What a look saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    found: bool,
}

impl Seen {
    /// Was there an entry?
    pub(crate) fn found(&self) -> bool {
        self.found
    }
}

/// See the module. Cheap to clone; all clones of a process share one object.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    object: Arc<Object>,
    layout: Layout,
    seeds: [u64; 2],
    max_bytes: u64,
    holders: Holders,
}

impl From<Refusal> for MapError {
    #[cold]
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(_) | Refusal::Other(CreateError::Full { .. }) => MapError::Full,
            Refusal::Damaged => MapError::Damaged,
            Refusal::Other(other) => LockError::<std::convert::Infallible>::outside(other).into(),
        }
    }
}

impl Engine {
    /// A new map.
    pub(crate) fn create_in(segment: &Arc<Segment>, shape: &Shape) -> Result<Self, CreateError> {
        let random = memory::random_id()?;
        Self::create_seeded(segment, shape, [random as u64, (random >> 64) as u64])
    }

    /// The same with known seeds: for tests that need the same steps each time.
    pub(super) fn create_seeded(
        segment: &Arc<Segment>,
        shape: &Shape,
        seeds: [u64; 2],
    ) -> Result<Self, CreateError> {
        let layout = Layout {
            shard_bits: shape.shards().trailing_zeros(),
            inline: shape.inline.filter(|&(key, value)| key <= 8 && value <= 8),
        };
        let header = [seeds[0], seeds[1], layout.encode(), shape.max_bytes];
        let object = segment.create_with_parts(
            Kind::Map,
            shape.types,
            layout.words32(),
            layout.words64(),
            layout.parts(),
            |object| {
                for (word, value) in object.w64().iter().zip(header) {
                    word.store(value, Relaxed);
                }
            },
        )?;
        let holders = Holders::of(&object, layout);
        let engine = Self { object, layout, seeds, max_bytes: shape.max_bytes, holders };
        match engine.reserve(shape.expected) {
            Ok(()) => Ok(engine),
            Err(MapError::Full) => {
                let bytes = shape.expected.saturating_mul(16);
                Err(CreateError::Full { bytes, what: Resource::Segment })
            }
            Err(MapError::Lock(e)) => Err(CreateError::of_new(e, "a new map")),
            Err(_) => Err(CreateError::Damaged("a new map".into())),
        }
    }

    /// The map that an object is, with or without keys and values of these widths in the buckets.
    pub(crate) fn open(object: Arc<Object>, inline: Option<(u8, u8)>) -> Result<Self, HandleError> {
        let header: [u64; 4] = {
            let words = object.w64().first_chunk::<4>().ok_or(HandleError::Malformed)?;
            std::array::from_fn(|i| words[i].load(Relaxed))
        };
        let layout = Layout::decode(header[2]).filter(|layout| layout.inline == inline);
        let layout = layout.ok_or(HandleError::Malformed)?;
        let fits = object.w32().len() >= layout.words32()
            && object.w64().len() >= layout.words64()
            && object.parts() >= layout.parts();
        if !fits {
            return Err(HandleError::Malformed);
        }
        let holders = Holders::of(&object, layout);
        Ok(Self { object, layout, seeds: [header[0], header[1]], max_bytes: header[3], holders })
    }

    /// For handles.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    #[inline(always)]
    fn locks(&self) -> Locks<'_> {
        Locks { object: &self.object, layout: self.layout, holders: &self.holders }
    }

    #[inline(always)]
    fn shard(&self, index: usize) -> Shard<'_> {
        Shard {
            object: &self.object,
            layout: self.layout,
            seeds: self.seeds,
            max_bytes: self.max_bytes,
            index,
        }
    }

    #[inline(always)]
    fn shard_of(&self, hash: u64) -> Shard<'_> {
        self.shard((hash >> (64 - self.layout.shard_bits)) as usize)
    }

    #[inline(always)]
    fn hash(&self, key: &[u8]) -> u64 {
        match self.layout.inline {
            Some(_) => hash_word(self.seeds, word(key)),
            None => hash_bytes(self.seeds, key),
        }
    }

    fn width(&self) -> usize {
        self.layout.inline.map_or(0, |(_, value)| usize::from(value))
    }

    fn check(&self, key: &[u8], value: &[u8]) -> Result<(), MapError> {
        let (longest_key, longest_value) = match self.layout.inline {
            Some((key, value)) => (usize::from(key), usize::from(value)),
            None => (LONGEST_KEY, LONGEST_VALUE),
        };
        if key.len() > longest_key {
            return Err(MapError::TooLarge { bytes: key.len(), limit: longest_key });
        }
        if value.len() > longest_value {
            return Err(MapError::TooLarge { bytes: value.len(), limit: longest_value });
        }
        Ok(())
    }

    // ---- reading ----

    /// A look without a lock: as [`Object::inherit_to_look`] in a forked child.
    #[inline(always)]
    fn looking<R>(&self, look: impl FnOnce() -> R) -> R {
        match self.object.holder_now() {
            Some(_) => look(),
            None => self.object.inherit_to_look(look),
        }
    }

    /// Tries until one is not overtaken.
    #[cold]
    #[inline(never)]
    fn insist<R>(
        &self,
        shard: usize,
        first: Fault,
        mut look: impl FnMut() -> Result<R, Fault>,
    ) -> Result<R, MapError> {
        let mut fault = first;
        for _ in 0..ROUNDS {
            if fault == Fault::Damaged {
                return Err(MapError::Damaged);
            }
            // If the holder of the lock is stopped or dead nothing changes, and the plain look succeeds.
            let locked = Locked::take(self.locks(), shard, Some(Duration::ZERO));
            // As the first time: others may have let the map go since.
            let seen = self.looking(&mut look);
            if let Ok(locked) = locked {
                // An inherited lock keeps its mark: the next writer recovers.
                locked.release();
            }
            match seen {
                Ok(found) => return Ok(found),
                Err(again) => fault = again,
            }
        }
        Err(MapError::Damaged)
    }

    /// The value of a key, both of at most 8 bytes: of an inline map. No allocation.
    ///
    /// What most calls come to is short and in the caller's code: how many of them are under way at once, each waiting for
    /// its bucket, is a matter of their instructions.
    #[inline(always)]
    pub(crate) fn get8(&self, key: u64) -> Result<Option<u64>, MapError> {
        debug_assert!(self.layout.inline.is_some());
        let hash = hash_word(self.seeds, key);
        if self.object.holder_now().is_some()
            && let Some(found) = first_inline(&self.shard_of(hash).inline(), hash, key)
        {
            return Ok(found);
        }
        self.get8_whole(key)
    }

    /// The same, whatever it takes.
    #[cold]
    #[inline(never)]
    fn get8_whole(&self, key: u64) -> Result<Option<u64>, MapError> {
        let hash = hash_word(self.seeds, key);
        let shard = self.shard_of(hash);
        match self.looking(|| get_inline(&shard, hash, key)) {
            Ok(found) => Ok(found),
            Err(fault) => self.insist(shard.index, fault, || get_inline(&shard, hash, key)),
        }
    }

    /// Copies the value of `key` into `out`. `false`: there is none, and `out` is what it was, or anything.
    #[inline]
    pub(crate) fn get(&self, key: &[u8], out: &mut impl Room) -> Result<bool, MapError> {
        self.read(key, &mut Copied(out))
    }

    /// The same, if that can be done at once: see [`Self::get8`]. `None` if not.
    #[inline(always)]
    pub(crate) fn get_at_once(&self, key: &[u8], out: &mut impl Room) -> Option<bool> {
        self.read_at_once(key, &mut Copied(out))
    }

    /// Is `key` there?
    #[inline]
    pub(crate) fn contains(&self, key: &[u8]) -> Result<bool, MapError> {
        self.read(key, &mut Passed)
    }

    #[inline]
    fn read(&self, key: &[u8], take: &mut impl Take) -> Result<bool, MapError> {
        match self.read_at_once(key, take) {
            Some(found) => Ok(found),
            None => self.read_whole(key, take),
        }
    }

    #[inline(always)]
    fn read_at_once(&self, key: &[u8], take: &mut impl Take) -> Option<bool> {
        if self.layout.inline.is_some() || self.object.holder_now().is_none() {
            return None;
        }
        let hash = hash_bytes(self.seeds, key);
        let shard = self.shard_of(hash).out_of_line();
        match first_block(&shard, hash, key)? {
            None => Some(false),
            Some((seen, (len, words))) => {
                take.take(Value::Words(words, len))?;
                seen.holds().then_some(true)
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn read_whole(&self, key: &[u8], take: &mut impl Take) -> Result<bool, MapError> {
        if let Some((longest, width)) = self.layout.inline {
            if key.len() > usize::from(longest) {
                return Ok(false);
            }
            let found = self.get8(word(key))?;
            found.map(|value| take.take(Value::Word(value, usize::from(width))));
            return Ok(found.is_some());
        }
        let hash = hash_bytes(self.seeds, key);
        let shard = self.shard_of(hash);
        let mut look = || get_block(&shard, hash, key, |block| taken(block, take));
        match self.looking(&mut look) {
            Ok(found) => Ok(found),
            Err(fault) => self.insist(shard.index, fault, look),
        }
    }

    /// How many entries there are: exact when nobody writes.
    pub(crate) fn len(&self) -> u64 {
        self.looking(|| {
            let shards = 0..self.layout.shards();
            shards.map(|index| self.shard(index).row(row::LEN).load(Relaxed)).fold(0, u64::wrapping_add)
        })
    }

    // ---- writing ----

    /// Runs `change` under the lock of a shard, after recovery if the lock was inherited. If it panics, the next one recovers.
    #[inline(always)]
    pub(super) fn write<R>(
        &self,
        shard: &Shard<'_>,
        change: impl FnOnce(&Shard<'_>) -> Result<R, Refusal>,
    ) -> Result<R, MapError> {
        let locked = Locked::take(self.locks(), shard.index, None)?;
        if locked.inherited.is_some()
            && let Err(e) = self.recover(shard, &locked)
        {
            locked.release();
            return Err(e);
        }
        let done = change(shard);
        locked.release();
        Ok(done?)
    }

    #[cold]
    fn recover(&self, shard: &Shard<'_>, locked: &Locked<'_>) -> Result<(), MapError> {
        if !crate::atomic::broken(crate::atomic::Rule::RecoverFirst) {
            shard.recover()?;
        }
        Ok(locked.repair()?)
    }

    #[inline(always)]
    fn count(shard: &Shard<'_>, delta: i64) {
        let len = shard.row(row::LEN);
        len.store(len.load(Relaxed).wrapping_add_signed(delta), Relaxed);
    }

    /// The first buckets, if there are none yet.
    #[inline(always)]
    fn begin(shard: &Shard<'_>) -> Result<(), Refusal> {
        match shard.state().load(Relaxed) {
            0 => Self::begin_now(shard),
            _ => Ok(()),
        }
    }

    #[cold]
    fn begin_now(shard: &Shard<'_>) -> Result<(), Refusal> {
        shard.attach_bucket(0)?;
        shard.state().store(FIRST_BUCKETS, Release);
        Ok(())
    }

    /// After an insert: some more buckets, if it is time and there is room.
    #[inline(always)]
    fn grow(&self, shard: &Shard<'_>) -> Result<(), Refusal> {
        let (entries, per) = if self.layout.inline.is_some() { LOAD_INLINE } else { LOAD_BLOCKS };
        let (n, len) = (shard.state().load(Relaxed), shard.row(row::LEN).load(Relaxed));
        match len.saturating_mul(per) <= n.saturating_mul(entries) {
            true => Ok(()),
            false => self.grow_now(shard, n),
        }
    }

    #[cold]
    #[inline(never)]
    fn grow_now(&self, shard: &Shard<'_>, n: u64) -> Result<(), Refusal> {
        match shard.attach_bucket(n) {
            Ok(()) => {}
            Err(Refusal::Damaged) => return Err(Refusal::Damaged),
            Err(_) => return Ok(()),
        }
        // Not beyond what is attached.
        let (_, buckets, at) = super::shape::chunk(n);
        split_some(shard, n..n + STEP.min(buckets - at), self.layout.inline.is_some())
    }

    /// Decides what becomes of `key` when its value is seen, in one change. `decide` is ours, never the user's code.
    /// `true`: it was there.
    #[inline]
    fn change<'v>(
        &self,
        key: &[u8],
        decide: impl FnOnce(Option<Value<'_>>) -> Change<'v>,
    ) -> Result<bool, MapError> {
        let hash = self.hash(key);
        let shard = self.shard_of(hash);
        self.write(&shard, |shard| {
            if self.layout.inline.is_some() {
                self.change_pair(shard, hash, word(key), decide)
            } else {
                self.change_block(shard, hash, key, decide)
            }
        })
    }

    fn change_pair<'v>(
        &self,
        shard: &Shard<'_>,
        hash: u64,
        key: u64,
        decide: impl FnOnce(Option<Value<'_>>) -> Change<'v>,
    ) -> Result<bool, Refusal> {
        if shard.state().load(Relaxed) == 0 {
            let Change::To(value) = decide(None) else { return Ok(false) };
            Self::begin(shard)?;
            return self.insert_pair(shard, find_pair(shard, hash, key)?, key, word(value));
        }
        match find_pair(shard, hash, key)? {
            Found::There(spot) => {
                let old = spot.value().load(Relaxed);
                match decide(Some(Value::Word(old, self.width()))) {
                    Change::Nothing => {}
                    Change::To(value) => spot.value().store(word(value), Release),
                    Change::Add(n) => {
                        spot.value().store(old.wrapping_add(n), Release);
                    }
                    Change::Gone => {
                        spot.remove_pair();
                        Self::count(shard, -1);
                    }
                }
                Ok(true)
            }
            not => match decide(None) {
                Change::To(value) => self.insert_pair(shard, not, key, word(value)),
                _ => Ok(false),
            },
        }
    }

    #[inline(always)]
    fn insert_pair(
        &self,
        shard: &Shard<'_>,
        found: Found<'_>,
        key: u64,
        value: u64,
    ) -> Result<bool, Refusal> {
        let Found::Not(unused, last) = found else { return Err(Refusal::Damaged) };
        add_pair(shard, unused, last, key, value)?;
        Self::count(shard, 1);
        self.grow(shard)?;
        Ok(false)
    }

    fn change_block<'v>(
        &self,
        shard: &Shard<'_>,
        hash: u64,
        key: &[u8],
        decide: impl FnOnce(Option<Value<'_>>) -> Change<'v>,
    ) -> Result<bool, Refusal> {
        if shard.state().load(Relaxed) == 0 {
            let Change::To(value) = decide(None) else { return Ok(false) };
            Self::begin(shard)?;
            return self.insert_block(shard, find_block(shard, hash, key)?, hash, key, value);
        }
        match find_block(shard, hash, key)? {
            Found::There(spot) => {
                self.change_found(shard, spot, hash, key, decide)?;
                Ok(true)
            }
            not => match decide(None) {
                Change::To(value) => self.insert_block(shard, not, hash, key, value),
                _ => Ok(false),
            },
        }
    }

    fn change_found<'v>(
        &self,
        shard: &Shard<'_>,
        spot: Spot<'_>,
        hash: u64,
        key: &[u8],
        decide: impl FnOnce(Option<Value<'_>>) -> Change<'v>,
    ) -> Result<(), Refusal> {
        let block = block_of(shard, spot)?;
        let (_, len, _, words) = contents(block).ok_or(Refusal::Damaged)?;
        match decide(Some(Value::Words(words, len))) {
            Change::Nothing => Ok(()),
            // A word is changed in place: that is one store.
            Change::To(value) if value.len() == len && len == 8 => {
                words[0].store(word(value), Release);
                Ok(())
            }
            Change::To(value) => replace_block(shard, spot, hash, key, value),
            Change::Add(n) => {
                let (Some(value), 8) = (words.first(), len) else { return Err(Refusal::Damaged) };
                value.store(value.load(Relaxed).wrapping_add(n), Release);
                Ok(())
            }
            Change::Gone => {
                remove_block(shard, spot);
                Self::count(shard, -1);
                Ok(())
            }
        }
    }

    fn insert_block(
        &self,
        shard: &Shard<'_>,
        found: Found<'_>,
        hash: u64,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, Refusal> {
        let Found::Not(unused, last) = found else { return Err(Refusal::Damaged) };
        add_block(shard, unused, last, hash, key, value)?;
        Self::count(shard, 1);
        self.grow(shard)?;
        Ok(false)
    }

    /// Puts a value; the one before into `old`. `true`: there was one.
    pub(crate) fn insert(
        &self,
        key: &[u8],
        value: &[u8],
        old: Option<&mut Vec<u8>>,
    ) -> Result<bool, MapError> {
        self.check(key, value)?;
        self.change(key, |found| {
            if let (Some(found), Some(old)) = (found, old) {
                found.copy(old);
            }
            Change::To(value)
        })
    }

    /// As [`Self::insert`] of an inline map, with words.
    #[inline(always)]
    pub(crate) fn insert8(&self, key: u64, value: u64) -> Result<Option<u64>, MapError> {
        let hash = hash_word(self.seeds, key);
        let shard = self.shard_of(hash);
        self.write(&shard, |shard| {
            Self::begin(shard)?;
            match find_pair(shard, hash, key)? {
                Found::There(spot) => {
                    let old = spot.value().load(Relaxed);
                    spot.value().store(value, Release);
                    Ok(Some(old))
                }
                not => {
                    self.insert_pair(shard, not, key, value)?;
                    Ok(None)
                }
            }
        })
    }

    /// Puts a value if there is none, else copies the one that is there into `old`. `true`: it was put.
    pub(crate) fn try_insert(
        &self,
        key: &[u8],
        value: &[u8],
        old: Option<&mut Vec<u8>>,
    ) -> Result<bool, MapError> {
        self.check(key, value)?;
        let found = self.change(key, |found| match (found, old) {
            (Some(found), Some(old)) => {
                found.copy(old);
                Change::Nothing
            }
            (Some(_), None) => Change::Nothing,
            (None, _) => Change::To(value),
        })?;
        Ok(!found)
    }

    /// Takes an entry away; its value into `old`. `true`: there was one.
    pub(crate) fn remove(&self, key: &[u8], old: Option<&mut Vec<u8>>) -> Result<bool, MapError> {
        if self.check(key, &[]).is_err() {
            return Ok(false);
        }
        self.change(key, |found| {
            if let (Some(found), Some(old)) = (found, old) {
                found.copy(old);
            }
            Change::Gone
        })
    }

    /// A look that [`Self::commit_if`] can build on; the value into `old`.
    pub(crate) fn look(&self, key: &[u8], old: &mut Vec<u8>) -> Result<Seen, MapError> {
        Ok(Seen { found: self.get(key, old)? })
    }

    /// Makes what was made from a look count, if what was seen (`old`) is there, or is there again. `true`: it does.
    pub(crate) fn commit_if(
        &self,
        seen: &Seen,
        key: &[u8],
        old: &[u8],
        new: Option<&[u8]>,
    ) -> Result<bool, MapError> {
        self.compare_and_set(key, seen.found.then_some(old), new)
    }

    /// If the value of `key` is `expected` (`None`: not there), makes it `new`. `true`: it was, and is.
    pub(crate) fn compare_and_set(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, MapError> {
        self.check(key, new.unwrap_or_default())?;
        let mut done = false;
        self.change(key, |found| {
            let same = match (found, expected) {
                (None, None) => true,
                (Some(found), Some(expected)) => found.is(expected),
                _ => false,
            };
            done = same;
            match (same, new) {
                (false, _) => Change::Nothing,
                (true, Some(new)) => Change::To(new),
                (true, None) => Change::Gone,
            }
        })?;
        Ok(done)
    }

    /// Adds to a value of 8 bytes, wrapping around, or puts it where there is none (that counts as 0); gives the one
    /// before. One change.
    pub(crate) fn fetch_add8(&self, key: &[u8], n: u64) -> Result<u64, MapError> {
        let bytes = n.to_ne_bytes();
        self.check(key, &bytes)?;
        let mut before = Some(0);
        self.change(key, |found| match found {
            None => Change::To(&bytes),
            Some(found) => {
                before = found.word();
                if before.is_some() { Change::Add(n) } else { Change::Nothing }
            }
        })?;
        before.ok_or(MapError::Damaged)
    }

    /// Takes all entries away, one by one; entries that come meanwhile may stay.
    pub(crate) fn clear(&self) -> Result<(), MapError> {
        let inline = self.layout.inline.is_some();
        for index in 0..self.layout.shards() {
            let mut b = 0;
            // Some buckets at a time, so that nobody waits for all.
            while self.write(&self.shard(index), |shard| {
                let n = shard.state().load(Relaxed);
                for b in b..n.min(b + 256) {
                    clear_bucket(shard, b, inline)?;
                }
                b += 256;
                Ok(b < n)
            })? {}
        }
        Ok(())
    }

    /// Gets the memory for so many entries now.
    pub(crate) fn reserve(&self, entries: u64) -> Result<(), MapError> {
        if entries == 0 {
            return Ok(());
        }
        let (most, per) = if self.layout.inline.is_some() { LOAD_INLINE } else { LOAD_BLOCKS };
        let each = entries.div_ceil(self.layout.shards() as u64);
        let each = each + each / 16; // shards are not equally full
        let wanted = each.saturating_mul(per).div_ceil(most).max(FIRST_BUCKETS);
        // Not to be found out by taking all memory that there is.
        let bytes = wanted.saturating_mul(self.layout.shards() as u64 * BUCKET as u64 * 8);
        if bytes > self.object.segment().reserved() {
            return Err(MapError::Full);
        }
        for index in 0..self.layout.shards() {
            self.write(&self.shard(index), |shard| {
                let mut b = 0;
                while b < wanted {
                    shard.attach_bucket(b)?;
                    b += super::shape::chunk(b).1;
                }
                let n = shard.state().load(Relaxed);
                if shard.row(row::LEN).load(Relaxed) == 0 && n < wanted {
                    // Nothing is in any bucket, but a split that found no room may have left something in bucket n.
                    super::commit::make_empty(shard, n, self.layout.inline.is_some())?;
                    shard.state().store(wanted, Release);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Counts what is there, shard by shard, and looks whether it adds up.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests ask"))]
    pub(crate) fn stats(&self) -> Result<Stats, MapError> {
        let mut stats = Stats { shards: self.layout.shards() as u64, sound: true, ..Stats::default() };
        for index in 0..self.layout.shards() {
            self.write(&self.shard(index), |shard| {
                let audit = shard.audit()?;
                stats.entries += audit.entries;
                stats.used += audit.used;
                stats.free += audit.free;
                stats.sound &= audit.sound;
                stats.buckets = stats.buckets.saturating_add(shard.state().load(Relaxed));
                stats.bytes = stats.bytes.saturating_add(shard.row(row::BYTES).load(Relaxed));
                Ok(())
            })?;
        }
        Ok(stats)
    }

    /// As after a death in each shard's lock.
    #[cfg(test)]
    pub(super) fn try_recover_all(&self) -> Vec<Result<(), MapError>> {
        let all = 0..self.layout.shards();
        all.map(|index| self.write(&self.shard(index), |shard| shard.recover())).collect()
    }

    #[cfg(test)]
    pub(super) fn recover_all(&self) {
        self.try_recover_all().into_iter().for_each(|done| done.unwrap());
    }

    #[cfg(any(allmend_crash, allmend_steps))]
    pub(super) fn shard_number(&self, key: &[u8]) -> usize {
        self.shard_of(self.hash(key)).index
    }

    // ---- key locks ----

    /// Which key lock is `key`'s.
    pub(crate) fn stripe_of(&self, key: &[u8]) -> usize {
        (self.hash(key) >> 40) as usize % STRIPES
    }

    /// Takes a key lock: it keeps out others who take it, and nobody else.
    pub(crate) fn lock_stripe(&self, stripe: usize, timeout: Option<Duration>) -> Result<Stripe, LockError> {
        Stripe::take(self.locks(), stripe, timeout)
    }

    /// Clears the mark of a dead owner.
    pub(crate) fn repair_stripe(&self, held: &Stripe) {
        held.repair(self.locks());
    }

    /// Gives a key lock back. In a forked child the parent's does nothing.
    pub(crate) fn unlock_stripe(&self, held: &Stripe) {
        held.release(self.locks());
    }

    // ---- for `scan` ----

    pub(super) fn scanned(&self, index: usize) -> Shard<'_> {
        self.shard(index)
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn looked<R>(
        &self,
        shard: usize,
        mut look: impl FnMut() -> Result<R, Fault>,
    ) -> Result<R, MapError> {
        match self.looking(&mut look) {
            Ok(found) => Ok(found),
            Err(fault) => self.insist(shard, fault, look),
        }
    }
}

/// What becomes of a value that a look finds. No closures: they are not inlined, and the value would go through memory.
trait Take {
    /// `None` if it is not whole.
    fn take(&mut self, value: Value<'_>) -> Option<()>;
}

/// Into the room that it needs, if that can be had.
struct Copied<'a, R>(&'a mut R);

impl<R: Room> Take for Copied<'_, R> {
    #[inline(always)]
    fn take(&mut self, value: Value<'_>) -> Option<()> {
        match value {
            Value::Words(words, len) => {
                if let Some(room) = self.0.room(len) {
                    load_bytes(words.get(..words_for(len))?, room);
                }
            }
            Value::Word(value, len) => {
                let len = len.min(8);
                if let Some(room) = self.0.room(len) {
                    room.copy_from_slice(&value.to_ne_bytes()[..len]);
                }
            }
        }
        Some(())
    }
}

/// It was there: that is all.
struct Passed;

impl Take for Passed {
    #[inline(always)]
    fn take(&mut self, _: Value<'_>) -> Option<()> {
        Some(())
    }
}

/// The value of a block; `None` if the block is not what we write.
#[inline(always)]
fn taken(block: &[Word64], take: &mut impl Take) -> Option<()> {
    let (_, len, _, words) = contents(block)?;
    take.take(Value::Words(words, len))
}

fn clear_bucket(shard: &Shard<'_>, b: u64, inline: bool) -> Result<(), Refusal> {
    for bucket in buckets(shard, b) {
        for spot in spots(bucket?, inline) {
            if super::commit::hash_in(shard, spot, inline)?.is_none() {
                continue;
            }
            match inline {
                true => clear_spot(spot, true),
                false => remove_block(shard, spot),
            }
            Engine::count(shard, -1);
        }
    }
    compact(shard, b, inline)
}

/// What becomes of an entry.
enum Change<'v> {
    Nothing,
    To(&'v [u8]),
    Add(u64),
    Gone,
}

/// A value where it is.
#[derive(Clone, Copy)]
enum Value<'a> {
    /// A word, of which so many bytes count.
    Word(u64, usize),
    /// Words, of which so many bytes count: in a look at once there may be fewer words than that, or more.
    Words(&'a [Word64], usize),
}

impl Value<'_> {
    fn copy(self, out: &mut Vec<u8>) {
        match self {
            Value::Word(word, len) => {
                out.clear();
                out.extend_from_slice(&word.to_ne_bytes()[..len.min(8)]);
            }
            Value::Words(words, len) => {
                out.clear();
                out.resize(len, 0);
                load_bytes(&words[..words_for(len)], out);
            }
        }
    }

    /// Under the lock.
    fn is(self, bytes: &[u8]) -> bool {
        match self {
            Value::Word(value, len) => len == bytes.len() && value == word(bytes),
            Value::Words(words, len) => {
                len == bytes.len()
                    && bytes.chunks(8).zip(words).all(|(bytes, found)| found.load(Relaxed) == word(bytes))
            }
        }
    }

    fn word(self) -> Option<u64> {
        match self {
            Value::Word(word, _) => Some(word),
            Value::Words(words, len) => words.first().filter(|_| len == 8).map(|word| word.load(Relaxed)),
        }
    }
}

/// At most 8 bytes as a word, padded with zeros behind.
#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    u64::from_ne_bytes(word)
}
