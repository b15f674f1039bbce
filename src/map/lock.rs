//! Locks on keys, for sections of the user's own.
//!
//! A key's lock is one of a fixed number of lock words of the map, chosen by the key's hash: it needs no entry, and none
//! is made. Two keys may share one, so a section on one key may hold up one on another, never more than that. Plain reads and
//! writes ask for none of them, so who is stopped in a section holds up only who asks for the same lock.
//!
//! # Invariants
//!
//! 1. Several locks are taken in the order of their numbers, each once: two `lock_many` cannot wait for each other.
//! 2. A lock that was inherited keeps its mark until the guard is accepted (`Inherited::accept`), as an array's.
//!
//! Killed here? Each lock is a lock word of its own (`sync/word.rs`): the next who asks takes it over and is told. Of several,
//! some may be taken: so are they.

use super::{
    engine::Engine,
    face::{SharedMap, check_size},
    hold::Stripe,
};
use crate::{
    codec::{Codec, Key},
    error::{EncodeError, Inherited, LockError, LockResult, Marked},
};
use std::{
    fmt,
    marker::PhantomData,
    time::{Duration, Instant},
};

/// Holds one or several keys of a map, until it drops. See [`SharedMap::get_lock`].
///
/// It holds the keys for this thread. A panic or a kill in the section leaves what was written so far: after a kill the next
/// who asks is told ([`LockError::Inherited`]). In a forked child the guard of the parent holds nothing, and its drop does
/// nothing.
///
/// ```
/// let map = allmend::SharedMap::<String, u64>::new()?;
/// // Whoever died in the section may have written the one and not the other: mend that, and go on.
/// let guard = map.get_lock("n").or_else(|e| e.repair(|_| drop(map.remove("copy"))))?;
/// let n = map.fetch_add("n", 1)? + 1;
/// map.insert("copy", n)?;
/// drop(guard);
/// # Ok::<(), allmend::Error>(())
/// ```
#[must_use = "the keys are released when the guard drops"]
pub struct KeyGuard {
    engine: Engine,
    /// In the order of their numbers.
    held: Vec<Stripe>,
    /// A lock is held by a thread: sending its guard to another would break the record of which.
    not_send: PhantomData<*const ()>,
}

impl<K: Key, V: Codec> SharedMap<K, V> {
    /// Locks a key, there or not, for a section of your own that spans several calls. Holds up only who asks for it, too;
    /// plain reads and writes, [`update`](Self::update) among them, go on.
    ///
    /// Keys share a fixed number of locks: while you hold one, ask for others by [`lock_many`](Self::lock_many) only, together
    /// with it, or two processes may wait for each other.
    ///
    /// # Errors
    /// [`LockError::Inherited`]: you have it, and the last holder died in its section. [`LockError::Deadlock`] if this thread
    /// holds it already, perhaps by another key. [`LockError::ReadOnly`], [`LockError::Damaged`],
    /// [`LockError::DescriptorsLost`], [`LockError::TooManyProcesses`], [`LockError::Gone`], [`LockError::Os`].
    /// [`LockError::Encode`] if the key has no bytes.
    ///
    /// ```
    /// let map = allmend::SharedMap::<String, u64>::new()?;
    /// let guard = map.get_lock("a")?;
    /// let n = map.get("a")?.unwrap_or(0);
    /// map.insert("a", n + 1)?; // nobody else who locks "a" is in between
    /// drop(guard);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn get_lock(&self, key: K::Ref<'_>) -> LockResult<KeyGuard> {
        self.lock_one(key, None)
    }

    /// As [`get_lock`](Self::get_lock), without waiting for a live holder.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process holds it; else as `get_lock`.
    pub fn try_get_lock(&self, key: K::Ref<'_>) -> LockResult<KeyGuard> {
        self.lock_one(key, Some(Duration::ZERO))
    }

    /// As [`get_lock`](Self::get_lock), waiting at most so long.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process holds it all that time; else as `get_lock`.
    pub fn get_lock_timeout(&self, key: K::Ref<'_>, timeout: Duration) -> LockResult<KeyGuard> {
        self.lock_one(key, Some(timeout))
    }

    /// Locks several keys, in an order in which no two calls wait for each other.
    ///
    /// # Errors
    /// As [`get_lock`](Self::get_lock); then none is held, except in [`LockError::Inherited`], where all are.
    ///
    /// ```
    /// let accounts = allmend::SharedMap::<u64, i64>::new()?;
    /// accounts.extend([(1, 100), (2, 0)])?;
    /// let both = accounts.lock_many([2, 1])?;
    /// accounts.fetch_add(1, -30)?;
    /// accounts.fetch_add(2, 30)?;
    /// drop(both);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn lock_many<'a>(&self, keys: impl IntoIterator<Item = K::Ref<'a>>) -> LockResult<KeyGuard> {
        self.lock_all(keys, None)
    }

    /// As [`lock_many`](Self::lock_many), without waiting for a live holder.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process holds one of them; else as `lock_many`.
    pub fn try_lock_many<'a>(&self, keys: impl IntoIterator<Item = K::Ref<'a>>) -> LockResult<KeyGuard> {
        self.lock_all(keys, Some(Duration::ZERO))
    }

    /// As [`lock_many`](Self::lock_many), waiting at most so long for all together.
    ///
    /// # Errors
    /// [`LockError::Timeout`]; else as `lock_many`.
    pub fn lock_many_timeout<'a>(
        &self,
        keys: impl IntoIterator<Item = K::Ref<'a>>,
        timeout: Duration,
    ) -> LockResult<KeyGuard> {
        self.lock_all(keys, Some(timeout))
    }

    fn lock_one(&self, key: K::Ref<'_>, timeout: Option<Duration>) -> LockResult<KeyGuard> {
        let stripe = self.stripe_of(key)?;
        self.lock_stripes(vec![stripe], timeout)
    }

    fn stripe_of(&self, key: K::Ref<'_>) -> Result<usize, EncodeError> {
        K::with_bytes(key, |key| {
            check_size::<K>(key)?;
            Ok(self.engine.stripe_of(key))
        })?
    }

    /// The same for the key's bytes.
    pub(super) fn lock_key(&self, key: &[u8], timeout: Option<Duration>) -> LockResult<KeyGuard> {
        self.lock_stripes(vec![self.engine.stripe_of(key)], timeout)
    }

    fn lock_all<'a>(
        &self,
        keys: impl IntoIterator<Item = K::Ref<'a>>,
        timeout: Option<Duration>,
    ) -> LockResult<KeyGuard> {
        let stripes: Result<Vec<_>, _> = keys.into_iter().map(|key| self.stripe_of(key)).collect();
        let mut stripes = stripes?;
        stripes.sort_unstable();
        stripes.dedup(); // invariant 1
        self.lock_stripes(stripes, timeout)
    }

    fn lock_stripes(&self, stripes: Vec<usize>, timeout: Option<Duration>) -> LockResult<KeyGuard> {
        let begin = Instant::now();
        let mut guard = KeyGuard { engine: self.engine.clone(), held: Vec::new(), not_send: PhantomData };
        let mut died = None;
        for stripe in stripes {
            let left = timeout.map(|timeout| timeout.saturating_sub(begin.elapsed()));
            // On an error, those that we have go with the guard.
            let held = self.engine.lock_stripe(stripe, left).map_err(|e| e.map(|never| match never {}))?;
            died = died.or(held.inherited);
            guard.held.push(held);
        }
        match died {
            None => Ok(guard),
            Some(pid) => Err(LockError::Inherited(Inherited::new(guard, pid, None))),
        }
    }
}

impl Marked for KeyGuard {
    fn clear_mark(&mut self) {
        for held in &self.held {
            self.engine.repair_stripe(held);
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        for held in self.held.drain(..).rev() {
            self.engine.unlock_stripe(&held);
        }
    }
}

impl fmt::Debug for KeyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGuard").field("locks", &self.held.len()).finish()
    }
}
