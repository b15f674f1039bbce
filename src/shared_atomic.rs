//! `SharedAtomic<T>`: one word in shared memory that several processes change without a lock.
//!
//! Every type lives in a 64-bit word of which its own bits are the low ones; the others are nobody's and may hold
//! anything. Adding, subtracting and the bit operations work on the low bits alone whatever lies above, so they are
//! one instruction for all integers; what compares (exchange, minimum, maximum) and what is a float goes through a
//! loop of compare-and-exchange, which ends unless others keep changing the word.
//!
//! No `Ordering` parameters: loads acquire, stores release, everything else does both.
//!
//! Killed here? Each operation is one store. There is nothing between before and after.

use crate::{
    atomic::{AcqRel, Acquire, Release, Word64},
    error::{CreateError, HandleError},
    number::{Atomic, Bits, Number},
    segment::{Kind, Object, Place, Segment, Stamp, handle, record::short_name},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, marker::PhantomData, sync::Arc};

/// A counter or flag that several processes change without a lock: the fast path beside
/// [`SharedValue`](crate::SharedValue).
///
/// A process that is killed in an operation has done all of it or nothing.
///
/// ```
/// let hits = allmend::SharedAtomic::new(0u64)?;
/// hits.fetch_add(3);
/// assert_eq!(hits.load(), 3);
/// # Ok::<(), allmend::Error>(())
/// ```
pub struct SharedAtomic<T: Atomic> {
    object: Arc<Object>,
    of: PhantomData<fn() -> T>,
}

impl<T: Atomic> SharedAtomic<T> {
    fn expected() -> (Stamp, String) {
        (Stamp::of::<T>(), short_name::<T>())
    }

    /// A new one, in the process's own segment.
    ///
    /// # Errors
    /// [`CreateError::Full`] if there is no room; the others when the segment cannot be made, or a forked child gets no
    /// place in it.
    pub fn new(value: T) -> Result<Self, CreateError> {
        Self::place_in(&Segment::default_segment()?, value)
    }

    /// A new one in that segment.
    pub(crate) fn place_in(segment: &Arc<Segment>, value: T) -> Result<Self, CreateError> {
        let init = |object: &Object| word(object).store(value.to_word(), Release);
        let object = segment.create(Kind::Atomic, Stamp::of::<T>(), 0, 1, init)?;
        Ok(Self { object, of: PhantomData })
    }

    /// The atomic at that place, if there is one of this type.
    pub(crate) fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        let (stamp, name) = Self::expected();
        Self::from_object(segment.open(place, Kind::Atomic, (stamp, &name))?)
    }

    /// An object of this kind and type, if it has the word for it.
    fn from_object(object: Arc<Object>) -> Result<Self, HandleError> {
        if object.w64().is_empty() {
            return Err(HandleError::Malformed);
        }
        Ok(Self { object, of: PhantomData })
    }

    /// What the handle leads to.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    #[inline]
    fn word(&self) -> &Word64 {
        if self.object.holder_now().is_none() {
            self.object.inherit();
        }
        word(&self.object)
    }

    /// Reads (acquires).
    ///
    /// # Panics
    /// In a forked child, if its parent dropped the atomic before the child first used it. In a manager that is open for
    /// [reading only](crate::ManagerBuilder::read_only), which keeps nothing: if the atomic's last user dropped it.
    #[inline]
    pub fn load(&self) -> T {
        let read = || T::from_word(word(&self.object).load(Acquire));
        if self.object.holder_now().is_none() {
            return self.object.inherit_to_look(read);
        }
        read()
    }

    /// Writes (releases).
    ///
    /// # Panics
    /// In a manager that is open for [reading only](crate::ManagerBuilder::read_only). In a forked child, when it first
    /// uses the atomic, if there is no place for it in the segment or its parent dropped the atomic before.
    #[inline]
    pub fn store(&self, value: T) {
        self.word().store(value.to_word(), Release);
    }

    /// Writes, and gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    #[inline]
    pub fn swap(&self, value: T) -> T {
        T::from_word(self.word().swap(value.to_word(), AcqRel))
    }

    /// Writes `new` if the value is bitwise `current`: `Ok(old)`, or `Err(what was there)`, as std's.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        let mask = u64::MAX >> (64 - 8 * size_of::<T>() as u32);
        let mut seen = self.word().load(Acquire);
        loop {
            if (seen ^ current.to_word()) & mask != 0 {
                return Err(T::from_word(seen));
            }
            match self.word().compare_exchange(seen, new.to_word(), AcqRel, Acquire) {
                Ok(old) => return Ok(T::from_word(old)),
                Err(other) => seen = other, // perhaps only in bits that are not ours: look again
            }
        }
    }

    /// Replaces the value by `f` of it, as often as it takes; gives the old value. `f` may run several times.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    pub fn fetch_update(&self, mut f: impl FnMut(T) -> T) -> T {
        let mut seen = self.word().load(Acquire);
        loop {
            let new = f(T::from_word(seen)).to_word();
            match self.word().compare_exchange(seen, new, AcqRel, Acquire) {
                Ok(old) => return T::from_word(old),
                Err(other) => seen = other,
            }
        }
    }
}

impl<T: Number> SharedAtomic<T> {
    /// Adds (integers wrap around) and gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    #[inline]
    pub fn fetch_add(&self, n: T) -> T {
        if T::WRAPS {
            T::from_word(self.word().fetch_add(n.to_word(), AcqRel))
        } else {
            self.fetch_update(|old| old.plus(n))
        }
    }

    /// Subtracts (integers wrap around) and gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    #[inline]
    pub fn fetch_sub(&self, n: T) -> T {
        if T::WRAPS {
            T::from_word(self.word().fetch_sub(n.to_word(), AcqRel))
        } else {
            self.fetch_update(|old| old.minus(n))
        }
    }

    /// The larger of both stays; gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    pub fn fetch_max(&self, n: T) -> T {
        self.fetch_update(|old| old.larger(n))
    }

    /// The smaller of both stays; gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    pub fn fetch_min(&self, n: T) -> T {
        self.fetch_update(|old| old.smaller(n))
    }
}

impl<T: Bits> SharedAtomic<T> {
    /// Keeps the bits that are in both; gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    #[inline]
    pub fn fetch_and(&self, n: T) -> T {
        T::from_word(self.word().fetch_and(n.to_word(), AcqRel))
    }

    /// Sets the bits of `n`; gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    #[inline]
    pub fn fetch_or(&self, n: T) -> T {
        T::from_word(self.word().fetch_or(n.to_word(), AcqRel))
    }

    /// Turns the bits of `n` over; gives the old value.
    ///
    /// # Panics
    /// As [`store`](Self::store).
    #[inline]
    pub fn fetch_xor(&self, n: T) -> T {
        T::from_word(self.word().fetch_xor(n.to_word(), AcqRel))
    }
}

#[inline(always)]
fn word(object: &Object) -> &Word64 {
    object.first64()
}

impl<T: Atomic> Clone for SharedAtomic<T> {
    fn clone(&self) -> Self {
        Self { object: Arc::clone(&self.object), of: PhantomData }
    }
}

impl<T: Atomic> fmt::Debug for SharedAtomic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple("SharedAtomic");
        match self.object.holder_now() {
            Some(_) => tuple.field(&self.load()).finish(),
            None => tuple.finish_non_exhaustive(), // a look can panic
        }
    }
}

impl<T: Atomic> Serialize for SharedAtomic<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.object, serializer)
    }
}

impl<'de, T: Atomic> Deserialize<'de> for SharedAtomic<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (stamp, name) = Self::expected();
        let object = handle::deserialize(deserializer, Kind::Atomic, (stamp, &name))?;
        Self::from_object(object).map_err(serde::de::Error::custom)
    }
}
