//! Read, change, write: user code between a look and a commit.
//!
//! ```text
//!   look: value, and a token that names this very state of the entry  <------+
//!   the user's closure, under no lock                                        | the entry changed:
//!   commit: the shard's lock, is the entry as the token says? one store  ----+ again
//! ```
//!
//! Who loses [`TRIES`] times takes the key's lock (`lock.rs`), which all who lost that often take: so these go one by one,
//! and each of them meets only those that came just now. It waits for that lock only for [`PATIENCE`]: its holder may be
//! stopped, may be a user with a long section, or may wait for us; and then it tries without.
//!
//! Killed here? Before the commit nothing happened. The key's lock is taken over by the next, and has nothing to mend.

use super::face::{SharedMap, check_size, decode, word};
use crate::{
    codec::{Codec, Key, Scratch},
    error::{LockError, MapError},
    number::Number,
};
use std::time::Duration;

/// Lost races before the key's lock.
const TRIES: usize = 8;
/// How long one waits for it.
const PATIENCE: Duration = Duration::from_millis(5);
/// A commit that is refused so often in a row, and each look finds the same value again: nobody was faster, but words were
/// overwritten, and a look does not see what a writer sees.
const REFUSALS: u32 = 1 << 10;

impl<K: Key, V: Codec> SharedMap<K, V> {
    /// Reads, changes and writes as one step: `f` gets the value (`None`: no entry) and says what it shall be (`None`:
    /// none). Gives the new value.
    ///
    /// `f` runs under no lock of the map, so it may use the map; and again if somebody else was faster. (After eight lost
    /// races it runs under this key's [lock](Self::get_lock), if that is free within some milliseconds: it shall not lock
    /// keys itself. Plain reads and writes of others go on all the while; who asks for that lock waits for `f`.) Killed or
    /// panicking before the end, nothing is changed.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), and [`MapError::Decode`] if there is a value whose bytes are none of a `V`: then `f` was
    /// not called with it.
    ///
    /// ```
    /// let stock = allmend::SharedMap::<String, u32>::new()?;
    /// stock.insert("apples", 1)?;
    /// let take = |n: Option<u32>| n.and_then(|n| n.checked_sub(1)).filter(|&n| n > 0);
    /// assert_eq!(stock.update("apples", take)?, None);
    /// assert!(!stock.contains_key("apples")?);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn update(
        &self,
        key: K::Ref<'_>,
        mut f: impl FnMut(Option<V::Owned>) -> Option<V::Owned>,
    ) -> Result<Option<V::Owned>, MapError> {
        self.with_key(key, |key| {
            let mut old = Scratch::take();
            let (mut refused, mut refusals) = (None, 0);
            let mut attempt = || -> Result<Option<Option<V::Owned>>, MapError> {
                let seen = self.engine.look(key, &mut old)?;
                let new = f(seen.found().then(|| decode::<V>(&old, key)).transpose()?);
                let done = match &new {
                    None => self.engine.commit_if(&seen, key, &old, None),
                    Some(value) => V::with_bytes(V::borrow(value), |bytes| {
                        check_size::<V>(bytes)?;
                        self.engine.commit_if(&seen, key, &old, Some(bytes))
                    })?,
                };
                if done? {
                    return Ok(Some(new));
                }
                let found = seen.found().then(|| old.to_vec());
                refusals = if refused.as_ref() == Some(&found) { refusals + 1 } else { 0 };
                refused = Some(found);
                if refusals < REFUSALS { Ok(None) } else { Err(MapError::Damaged) }
            };
            loop {
                for _ in 0..TRIES {
                    if let Some(new) = attempt()? {
                        return Ok(new);
                    }
                }
                // Held to the end of this round, whatever its last owner left: nothing here is half done.
                let turn = self.lock_key(key, Some(PATIENCE));
                match &turn {
                    Ok(_) | Err(LockError::Inherited(_)) => {}
                    // Ours already, or somebody's for longer.
                    Err(LockError::Deadlock | LockError::Timeout { .. }) => {}
                    Err(_) => return Err(turn.map(drop).unwrap_err().into()),
                }
                for _ in 0..TRIES {
                    if let Some(new) = attempt()? {
                        return Ok(new);
                    }
                }
            }
        })
    }

    /// The value, or, if there is none, what `f` makes: all callers get the one that won. `f` runs under no lock, and what
    /// it made is dropped if somebody else was faster.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    ///
    /// ```
    /// let map = allmend::SharedMap::<u64, String>::new()?;
    /// assert_eq!(map.get_or_insert_with(1, || "one".to_owned())?, "one");
    /// assert_eq!(map.get_or_insert_with(1, || unreachable!())?, "one");
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn get_or_insert_with(
        &self,
        key: K::Ref<'_>,
        f: impl FnOnce() -> V::Owned,
    ) -> Result<V::Owned, MapError> {
        if let Some(value) = self.get(key)? {
            return Ok(value);
        }
        let made = f();
        Ok(self.try_insert(key, V::borrow(&made))?.unwrap_or(made))
    }

    /// Writes `new` if `current` is there, compared by their bytes; `None` is "no entry" on both sides. Was it there?
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    ///
    /// ```
    /// let map = allmend::SharedMap::<String, u64>::new()?;
    /// assert!(map.compare_and_set("leader", None, Some(1))?);
    /// assert!(!map.compare_and_set("leader", None, Some(2))?);
    /// assert!(map.compare_and_set("leader", Some(1), None)?);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    #[doc(alias = "compare_exchange")]
    pub fn compare_and_set(
        &self,
        key: K::Ref<'_>,
        current: Option<V::Ref<'_>>,
        new: Option<V::Ref<'_>>,
    ) -> Result<bool, MapError> {
        self.with_key(key, |key| {
            with_value::<V, _>(current, |current| {
                with_value::<V, _>(new, |new| self.engine.compare_and_set(key, current, new))
            })
        })
    }
}

impl<K: Key, V: Number> SharedMap<K, V> {
    /// Adds to a number (no entry is 0; integers wrap around), and gives the old one. One step, as
    /// [`SharedAtomic::fetch_add`](crate::SharedAtomic::fetch_add).
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    ///
    /// ```
    /// let counts = allmend::SharedMap::<String, u64>::new()?;
    /// for word in "the cat and the dog".split(' ') {
    ///     counts.fetch_add(word, 1)?;
    /// }
    /// assert_eq!(counts.get("the")?, Some(2));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn fetch_add(&self, key: K::Ref<'_>, n: V) -> Result<V, MapError> {
        if V::WRAPS && V::SIZE == Some(8) {
            let n = word::<V>(n)?;
            return self.with_key(key, |key| {
                let old = self.engine.fetch_add8(key, n)?;
                decode::<V>(&old.to_le_bytes(), key)
            });
        }
        let mut old = V::from_word(0);
        self.update(key, |now| {
            old = now.unwrap_or(V::from_word(0));
            Some(old.plus(n))
        })?;
        Ok(old)
    }
}

fn with_value<V: Codec, R>(
    value: Option<V::Ref<'_>>,
    f: impl FnOnce(Option<&[u8]>) -> Result<R, MapError>,
) -> Result<R, MapError> {
    match value {
        None => f(None),
        Some(value) => V::with_bytes(value, |bytes| {
            check_size::<V>(bytes)?;
            f(Some(bytes))
        })?,
    }
}
