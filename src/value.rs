//! `SharedValue<T>`: a value that several processes read and change, with a lock around changes.
//!
//! Body of the object: the lock's 32-bit words, then the committed cell (`sync::cell`). The guard works on a private
//! copy, so there is no reference into shared bytes at all; what is `unsafe` here is where that copy lies.
//!
//! | killed | what others see |
//! |---|---|
//! | in `get` | nothing |
//! | while it waits for the lock | nothing |
//! | with the guard in hand, before its drop | the old value; the lock is taken over by the next who wants it |
//! | in the guard's drop, before the cell's version | as above |
//! | after that, before the unlock | the new value; the lock is taken over |

#![allow(unsafe_code, reason = "the guard's copy: words of its own or a box, chosen by the type's size")]

use crate::{
    error::{CreateError, HandleError, LockError},
    segment::{Kind, Object, Place, Segment, Stamp, handle, record::short_name},
    sync::{
        LockKind, RawLock, Robust, Unlocked,
        cell::{Committed, cell_words},
        kinds::Held,
    },
};
use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr, slice,
    sync::Arc,
    thread,
    time::Duration,
};

/// Values up to this size (and an alignment of 8) are copied into the guard itself, larger ones onto the heap.
const INLINE_WORDS: usize = 8;

/// A reader that was overtaken so often by writers asks for the lock once a round.
const READS_BEFORE_LOCK: u32 = 64;

/// Rounds after which a reader believes that the words are no longer written by rules.
const READS_AT_MOST: u32 = 1 << 20;

/// A value behind a lock (`multiprocessing.Value`), in memory that several processes share.
///
/// A handle: cheap to clone, `Send + Sync`, and a legal argument or result of a [`Pool`](crate::Pool) task, alone or
/// inside other types. The value goes when its last handle in any process goes, or its process dies.
///
/// Reads never wait and are never torn. A change is whole or did not happen, whoever is killed when: so the lock is
/// never poisoned.
///
/// `T` is any [`bytemuck::Pod`]: plain bytes without padding or pointers. Up to 8 bytes a value is one word; above it
/// is kept twice, and a version says which copy counts (double buffering under a sequence lock).
///
/// ```
/// let total = allmend::SharedValue::new(40)?;
/// *total.get_lock()? += 2;                // commits when the guard drops
/// assert_eq!(total.get(), 42);
/// # Ok::<(), allmend::Error>(())
/// ```
pub struct SharedValue<T: Pod, L: LockKind = Robust> {
    object: Arc<Object>,
    of: PhantomData<fn() -> (T, L)>,
}

impl<T: Pod> SharedValue<T> {
    /// A new value in the process's own segment.
    ///
    /// # Errors
    /// [`CreateError::Full`] if there is no room; the others when the segment cannot be made, or a forked child gets no
    /// place in it.
    pub fn new(value: T) -> Result<Self, CreateError> {
        Self::place(value)
    }

    /// A value without a lock, as `multiprocessing.Value(lock=False)`: `v.set(v.get() + 1)` in two processes loses
    /// updates, visibly and without undefined behaviour. For types of up to 8 bytes, which are never torn.
    ///
    /// Larger ones do not compile, and neither does a lock on one:
    ///
    /// ```compile_fail,E0080
    /// let wide = allmend::SharedValue::unlocked([0u8; 9]);
    /// ```
    ///
    /// ```compile_fail,E0599
    /// let guard = allmend::SharedValue::unlocked(0u64).unwrap().get_lock();
    /// ```
    ///
    /// # Errors
    /// As [`SharedValue::new`].
    pub fn unlocked(value: T) -> Result<SharedValue<T, Unlocked>, CreateError> {
        const { assert!(size_of::<T>() <= 8, "an unlocked value has at most 8 bytes") }
        SharedValue::place(value)
    }
}

impl<T: Pod, L: LockKind> SharedValue<T, L> {
    fn place(value: T) -> Result<Self, CreateError> {
        Self::place_in(&Segment::default_segment()?, value)
    }

    /// A new value in that segment.
    pub(crate) fn place_in(segment: &Arc<Segment>, value: T) -> Result<Self, CreateError> {
        let mut prepared = Ok(());
        let init = |object: &Object| {
            prepared = L::prepare(object);
            Committed::new(object.w64(), size_of::<T>()).commit(bytemuck::bytes_of(&value));
        };
        let words = cell_words(size_of::<T>());
        let object = segment.create(L::VALUE, Stamp::of::<T>(), L::WORDS, words, init)?;
        prepared?;
        Ok(Self { object, of: PhantomData })
    }

    /// The value at that place, if there is one of this kind and type.
    pub(crate) fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        Self::from_object(segment.open(place, L::VALUE, (Stamp::of::<T>(), &short_name::<T>()))?)
    }

    /// An object of this kind and type, if it has the words for it.
    fn from_object(object: Arc<Object>) -> Result<Self, HandleError> {
        if object.w32().len() < L::WORDS || object.w64().len() < cell_words(size_of::<T>()) {
            return Err(HandleError::Malformed);
        }
        Ok(Self { object, of: PhantomData })
    }

    /// What the handle leads to.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    #[inline(always)]
    fn cell(&self) -> Committed<'_> {
        let words = if cell_words(size_of::<T>()) == 1 {
            slice::from_ref(self.object.first64())
        } else {
            self.object.w64()
        };
        Committed::new(words, size_of::<T>())
    }

    /// The last committed value. Never waits for a writer, living, stopped or dead.
    ///
    /// # Panics
    /// In a forked child, if its parent dropped the value before the child first used it. In a manager that is open for
    /// [reading only](crate::ManagerBuilder::read_only), which keeps nothing: if the value's last user dropped it.
    #[inline]
    pub fn get(&self) -> T {
        if self.object.holder_now().is_none() {
            return self.object.inherit_to_look(|| self.read());
        }
        self.read()
    }

    #[inline(always)]
    fn read(&self) -> T {
        let mut value = T::zeroed();
        if !self.cell().read_once(bytemuck::bytes_of_mut(&mut value)) {
            self.get_again(&mut value);
        }
        value
    }

    #[cold]
    fn get_again(&self, value: &mut T) {
        for round in 1..READS_AT_MOST {
            let value = bytemuck::bytes_of_mut(value);
            if self.cell().read_once(value) {
                return;
            }
            // If the holder of the lock is stopped or dead the version stands still, and the plain read succeeds.
            if round >= READS_BEFORE_LOCK
                && L::try_exclusive(&self.object, &mut || self.cell().read_locked(value))
            {
                return;
            }
            crate::atomic::spin();
        }
    }
}

impl<T: Pod, L: RawLock> SharedValue<T, L> {
    /// A new value with a lock of your choice: `SharedValue::<i64, RawSync>::with_lock(0)`. [`Robust`] is what
    /// [`new`](SharedValue::new) takes. With `RawSync` (feature `raw_sync`) who waits for a holder that died waits for ever:
    /// use time-outs.
    ///
    /// # Errors
    /// As [`SharedValue::new`].
    pub fn with_lock(value: T) -> Result<Self, CreateError> {
        Self::place(value)
    }

    /// Locks, and gives a private copy to change. Waits as long as the lock's holder lives.
    ///
    /// If the holder died, the lock is taken over at once, and the value is the one that was committed last. (Not so with
    /// `RawSync`, which waits for the dead too.)
    ///
    /// # Errors
    /// [`LockError::Deadlock`] if this thread holds the lock already; [`LockError::Damaged`] if somebody overwrote
    /// the lock; [`LockError::ReadOnly`] in a manager that is open for reading only; [`LockError::DescriptorsLost`].
    ///
    /// In a forked child, when it first locks: [`LockError::TooManyProcesses`] and [`LockError::Os`] if there is no place
    /// for it in the segment, [`LockError::Gone`] if its parent dropped the value before. ([`LockError::Os`] also if the
    /// mutex of `RawSync` fails.)
    #[inline(always)]
    pub fn get_lock(&self) -> Result<ValueGuard<'_, T, L>, LockError> {
        self.lock(None)
    }

    /// As [`get_lock`](Self::get_lock), without waiting for a live holder.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process holds the lock; else as `get_lock`.
    #[inline(always)]
    pub fn try_get_lock(&self) -> Result<ValueGuard<'_, T, L>, LockError> {
        self.lock(Some(Duration::ZERO))
    }

    /// As [`get_lock`](Self::get_lock), waiting at most so long.
    ///
    /// # Errors
    /// [`LockError::Timeout`], with its process id, if a live process holds the lock all that time; else as `get_lock`.
    ///
    /// ```
    /// use allmend::{LockError, SharedValue};
    /// use std::time::Duration;
    ///
    /// let total = SharedValue::new(1)?;
    /// let guard = total.get_lock()?;
    /// let waits = std::thread::scope(|threads| {
    ///     threads.spawn(|| total.get_lock_timeout(Duration::from_millis(1)).map(drop)).join().unwrap()
    /// });
    /// assert_eq!(waits, Err(LockError::Timeout { owner: Some(std::process::id()) }));
    /// drop(guard);
    /// total.get_lock_timeout(Duration::from_millis(1))?.commit();
    /// # Ok::<(), allmend::Error>(())
    /// ```
    #[inline(always)]
    pub fn get_lock_timeout(&self, timeout: Duration) -> Result<ValueGuard<'_, T, L>, LockError> {
        self.lock(Some(timeout))
    }

    #[inline(always)]
    fn lock(&self, timeout: Option<Duration>) -> Result<ValueGuard<'_, T, L>, LockError> {
        // Not `acquire`: with a branch of its own the fast path stays in registers.
        let held = match L::acquire_free(&self.object) {
            Some(me) => Held { me, inherited: None },
            None => L::wait_for(&self.object, timeout)?,
        };
        Ok(ValueGuard {
            value: self,
            held,
            copy: Copy::of(self.cell()),
            written: false,
            was_panicking: thread::panicking(),
            not_send: PhantomData,
        })
    }

    /// Locks, writes, commits.
    ///
    /// # Errors
    /// As [`get_lock`](Self::get_lock).
    #[inline]
    pub fn set(&self, value: T) -> Result<(), LockError> {
        let held = L::acquire(&self.object, None)?;
        self.cell().commit(bytemuck::bytes_of(&value));
        L::release(&self.object, &held);
        Ok(())
    }

    /// Locks, lets `f` change the value, commits; gives what `f` gives. If `f` panics, nothing is changed.
    ///
    /// # Errors
    /// As [`get_lock`](Self::get_lock).
    #[inline(always)]
    pub fn update<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        self.get_lock().map(|mut guard| f(&mut guard))
    }
}

impl<T: Pod> SharedValue<T, Unlocked> {
    /// One plain store (releases).
    ///
    /// # Panics
    /// In a manager that is open for [reading only](crate::ManagerBuilder::read_only). In a forked child, when it first
    /// uses the value, if there is no place for it in the segment or its parent dropped the value before.
    #[inline]
    pub fn set(&self, value: T) {
        if self.object.holder_now().is_none() {
            self.object.inherit();
        }
        self.cell().commit(bytemuck::bytes_of(&value));
    }
}

/// The guard's copy: in words of its own, or on the heap if it is large. Which one is known when `T` is, so a small
/// copy lives in registers. No drop glue, for the same reason: the guard's drop frees.
struct Copy<T> {
    words: MaybeUninit<[u64; INLINE_WORDS]>,
    heap: *mut T,
}

impl<T: Pod> Copy<T> {
    const INLINE: bool = size_of::<T>() <= size_of::<[u64; INLINE_WORDS]>() && align_of::<T>() <= 8;

    /// The value as it is under the lock.
    #[inline(always)]
    fn of(cell: Committed<'_>) -> Self {
        let mut copy = Self { words: MaybeUninit::uninit(), heap: ptr::null_mut() };
        if Self::INLINE {
            let mut value = T::zeroed();
            cell.read_locked(bytemuck::bytes_of_mut(&mut value));
            // SAFETY: `T` fits into the words and needs no more than their alignment, by INLINE.
            unsafe { copy.words.as_mut_ptr().cast::<T>().write(value) };
        } else {
            let mut value = bytemuck::zeroed_box();
            cell.read_locked(bytemuck::bytes_of_mut(&mut *value));
            copy.heap = Box::into_raw(value);
        }
        copy
    }

    #[inline(always)]
    fn get(&self) -> &T {
        let at = if Self::INLINE { self.words.as_ptr().cast::<T>() } else { self.heap };
        // SAFETY: `of` wrote a `T` to exactly this place, it is ours alone, and `free` comes last.
        unsafe { &*at }
    }

    #[inline(always)]
    fn get_mut(&mut self) -> &mut T {
        let at = if Self::INLINE { self.words.as_mut_ptr().cast::<T>() } else { self.heap };
        // SAFETY: as in `get`.
        unsafe { &mut *at }
    }

    /// Called once, at the very end.
    #[inline(always)]
    fn free(&mut self) {
        if !Self::INLINE {
            // SAFETY: made by `Box::into_raw` in `of`, and not used after this.
            drop(unsafe { Box::from_raw(self.heap) });
        }
    }
}

/// A private copy of the value, under the lock.
///
/// Drop commits it with one store and unlocks. A kill before that store changes nothing, and neither does a panic that
/// began after the lock was taken (a destructor that locks while it runs in an unwinding thread does commit). A guard
/// that was never written to commits nothing. In a forked child the guard of the parent does nothing.
#[must_use = "the lock is released when the guard drops"]
pub struct ValueGuard<'a, T: Pod, L: RawLock = Robust> {
    value: &'a SharedValue<T, L>,
    held: Held,
    copy: Copy<T>,
    written: bool,
    was_panicking: bool,
    /// A lock is held by a thread: sending its guard to another would break the record of which.
    not_send: PhantomData<*const T>,
}

impl<T: Pod, L: RawLock> ValueGuard<'_, T, L> {
    /// Commits and unlocks: drop, spelled out.
    ///
    /// ```
    /// let total = allmend::SharedValue::new(1)?;
    /// let mut guard = total.get_lock()?;
    /// *guard = 2;
    /// assert_eq!((*guard, total.get()), (2, 1), "not committed yet");
    /// guard.commit();
    /// assert_eq!(total.get(), 2);
    ///
    /// let mut guard = total.get_lock()?;
    /// *guard = 3;
    /// guard.discard();
    /// assert_eq!(total.get(), 2);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn commit(self) {}

    /// Unlocks without a change; see [`commit`](Self::commit).
    pub fn discard(mut self) {
        self.written = false;
    }

    /// The process that died holding this lock before us, if one did. The value is whole; this is for programs whose
    /// value describes something outside. 0 if it is not known which process it was. Told once, to whoever takes the
    /// lock first: that can also be a `set`, or a `get` that was overtaken by many writers.
    pub fn inherited(&self) -> Option<u32> {
        self.held.inherited
    }
}

impl<T: Pod, L: RawLock> Deref for ValueGuard<'_, T, L> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.copy.get()
    }
}

impl<T: Pod, L: RawLock> DerefMut for ValueGuard<'_, T, L> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.written = true;
        self.copy.get_mut()
    }
}

impl<T: Pod, L: RawLock> Drop for ValueGuard<'_, T, L> {
    #[inline(always)]
    fn drop(&mut self) {
        let object = &self.value.object;
        if self.held.is_ours(object) {
            if self.written && (self.was_panicking || !thread::panicking()) {
                self.value.cell().commit(bytemuck::bytes_of(self.copy.get()));
            }
            L::release(object, &self.held);
        }
        self.copy.free();
    }
}

impl<T: Pod + fmt::Debug, L: RawLock> fmt::Debug for ValueGuard<'_, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: Pod, L: LockKind> Clone for SharedValue<T, L> {
    fn clone(&self) -> Self {
        Self { object: Arc::clone(&self.object), of: PhantomData }
    }
}

/// Names the type, and does not look at the value: `T` need not be `Debug`.
impl<T: Pod, L: LockKind> fmt::Debug for SharedValue<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedValue<{}>", short_name::<T>())
    }
}

impl<T: Pod, L: LockKind> Serialize for SharedValue<T, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.object, serializer)
    }
}

impl<'de, T: Pod, L: LockKind> Deserialize<'de> for SharedValue<T, L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind: Kind = L::VALUE;
        let object = handle::deserialize(deserializer, kind, (Stamp::of::<T>(), &short_name::<T>()))?;
        Self::from_object(object).map_err(de::Error::custom)
    }
}
