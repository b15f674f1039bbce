//! What users hold of an array: guards to write and to read, frozen arrays, several guards at once.
//!
//! Each is a [`Hold`], which is where the argument is. This file has no state of its own, so nothing to kill.

use super::{
    SharedArray, TRY,
    hold::{Hold, Parts},
};
use crate::{
    error::{ArrayError, Inherited, LockError, LockResult, Marked},
    sync::claims::Deadline,
};
use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
    sync::Arc,
    time::Duration,
};

/// How long a handle that arrives waits for threads of its process that are just being refused.
const A_MOMENT: Duration = Duration::from_secs(1);

/// A hold with a handle of its own.
pub(super) type Kept<T> = Hold<'static, T, true>;

/// The guard, in the error if there are marks in it.
#[inline(always)]
pub(super) fn told<T: Pod, G>(hold: Kept<T>, guard: impl Fn(Kept<T>) -> G) -> LockResult<G> {
    if hold.has_marks() {
        return Err(tell(hold.into_parts(), guard));
    }
    Ok(guard(hold))
}

#[cold]
#[inline(never)]
fn tell<T: Pod, G>(parts: Parts<'static, T, true>, guard: impl Fn(Kept<T>) -> G) -> LockError<G> {
    let hold = Hold::from_parts(parts);
    let (pid, range) = hold.inherited().expect("it has marks");
    LockError::Inherited(Inherited::new(guard(hold), pid, Some(range)))
}

/// What to say of a hold that is for work of our own.
#[cold]
#[inline(never)]
pub(super) fn marked<T: Pod>(parts: Parts<'_, T, false>) -> ArrayError {
    let (pid, range) = Hold::from_parts(parts).inherited().expect("it has marks");
    LockError::Inherited(Inherited::new((), pid, Some(range))).into()
}

/// Exclusive access to elements in place. Owns its handle, so that the guard of `a.slice(..)?` can be kept.
///
/// Drop unlocks. Dropped by a panic, or by the kill of its process, it leaves a mark: the next owner is told. In a forked
/// child the guard of the parent does nothing, and its use is a panic.
///
/// A claim is its thread's, so a guard, also one to read, is not `Send`. The handle is.
///
/// ```compile_fail,E0277
/// let guard = allmend::SharedArray::<u8>::new(5).unwrap().get_lock().unwrap();
/// std::thread::spawn(move || drop(guard));
/// ```
///
/// ```compile_fail,E0277
/// let guard = allmend::SharedArray::<u8>::new(5).unwrap().read().unwrap();
/// std::thread::spawn(move || drop(guard));
/// ```
#[must_use = "the lock is released when the guard drops"]
pub struct ArrayGuard<T: Pod>(Kept<T>);

/// Shared access to elements in place. Drop unlocks; a reader that is killed was never there. It cannot clear the mark of
/// a dead writer: [`Inherited::into_guard`](crate::Inherited::into_guard). In a forked child the guard of the parent does
/// nothing, and its use is a panic.
#[must_use = "the lock is released when the guard drops"]
pub struct ReadGuard<T: Pod>(Kept<T>);

impl<T: Pod> ArrayGuard<T> {
    #[inline(always)]
    pub(super) fn new(hold: Kept<T>) -> Self {
        Self(hold)
    }

    /// Elements, counted from the start of the slice, that owners before us may have left half changed: as
    /// [`Inherited::range`], until the guard is accepted.
    pub fn marked(&self) -> Option<Range<usize>> {
        self.0.inherited().map(|(_, range)| range)
    }
}

impl<T: Pod> ReadGuard<T> {
    #[inline(always)]
    pub(super) fn new(hold: Kept<T>) -> Self {
        Self(hold)
    }
}

impl<T: Pod> Marked for ArrayGuard<T> {
    fn clear_mark(&mut self) {
        self.0.repair();
    }
}

impl<T: Pod, const N: usize> Marked for [ArrayGuard<T>; N] {
    fn clear_mark(&mut self) {
        self.iter_mut().for_each(Marked::clear_mark);
    }
}

macro_rules! slices {
    ($($guard:ident)*) => {$(
        impl<T: Pod> Deref for $guard<T> {
            type Target = [T];
            #[inline]
            fn deref(&self) -> &[T] {
                self.0.elements()
            }
        }

        impl<T: Pod + fmt::Debug> fmt::Debug for $guard<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&**self, f)
            }
        }
    )*};
}
slices!(ArrayGuard ReadGuard);

impl<T: Pod> DerefMut for ArrayGuard<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.elements_mut()
    }
}

/// A handle to elements that nobody writes any more: derefs to them without a lock.
///
/// Cheap to clone, `Send + Sync`, a legal argument or result of a task. Where it arrives, threads of that process that were
/// just about to be refused a claim are waited for, a second at most.
pub struct FrozenArray<T: Pod>(SharedArray<T>);

impl<T: Pod> FrozenArray<T> {
    pub(super) fn new(array: SharedArray<T>) -> Self {
        Self(array)
    }

    /// The handle, to slice or to send.
    pub fn array(&self) -> &SharedArray<T> {
        &self.0
    }
}

impl<T: Pod> Deref for FrozenArray<T> {
    type Target = [T];

    /// # Panics
    /// In a forked child, if its parent let the array go before the child first used it.
    #[inline]
    fn deref(&self) -> &[T] {
        super::hold::frozen(&self.0.object, (self.0.start, self.0.len))
    }
}

impl<T: Pod> Clone for FrozenArray<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Pod> fmt::Debug for FrozenArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenArray")
            .field("start", &self.0.start)
            .field("len", &self.0.len)
            .finish_non_exhaustive()
    }
}

impl<T: Pod> Serialize for FrozenArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for FrozenArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let array = SharedArray::deserialize(deserializer)?;
        // What the words say is not enough: nobody here may be writing.
        if !array.is_frozen() || array.freeze_within(Some(A_MOMENT)).is_err() {
            return Err(de::Error::custom(crate::HandleError::Malformed));
        }
        Ok(Self(array))
    }
}

/// Locks several slices to write, in an order that cannot deadlock with another `lock_all`, however the slices are given.
/// The guards come in the order of the slices.
///
/// # Errors
/// [`LockError::Inherited`], with all guards, if any elements are marked; [`LockError::Deadlock`] if two of the slices
/// overlap; else as [`SharedArray::get_lock`], with nothing locked.
///
/// ```
/// use allmend::{SharedArray, array::lock_all};
///
/// let (rows, sums) = (SharedArray::from_slice(&[1, 2, 3, 4])?, SharedArray::<i32>::new(2)?);
/// let [row, mut sum] = lock_all([&rows.slice(2..)?, &sums.slice(1..)?])?;
/// sum[0] = row.iter().sum();
/// drop((row, sum));
/// assert_eq!(sums.to_vec()?, [0, 7]);
/// # Ok::<(), allmend::Error>(())
/// ```
pub fn lock_all<T: Pod, const N: usize>(slices: [&SharedArray<T>; N]) -> LockResult<[ArrayGuard<T>; N]> {
    lock_all_within(slices, None)
}

/// As [`lock_all`], without waiting.
///
/// # Errors
/// [`LockError::Timeout`] if a live process is in the way of one, and then nothing is locked; else as `lock_all`.
pub fn try_lock_all<T: Pod, const N: usize>(slices: [&SharedArray<T>; N]) -> LockResult<[ArrayGuard<T>; N]> {
    lock_all_within(slices, TRY)
}

/// As [`lock_all`], waiting at most so long for all of them.
///
/// # Errors
/// [`LockError::Timeout`] if live processes are in the way all that time, and then nothing is locked; else as `lock_all`.
pub fn lock_all_timeout<T: Pod, const N: usize>(
    slices: [&SharedArray<T>; N],
    timeout: Duration,
) -> LockResult<[ArrayGuard<T>; N]> {
    lock_all_within(slices, Some(timeout))
}

fn lock_all_within<T: Pod, const N: usize>(
    slices: [&SharedArray<T>; N],
    timeout: Option<Duration>,
) -> LockResult<[ArrayGuard<T>; N]> {
    let deadline = Deadline::after(timeout);
    let mut order: [usize; N] = std::array::from_fn(|i| i);
    order.sort_by_key(|&i| {
        let object = slices[i].object();
        // The same order in all processes: names, not addresses.
        (
            object.segment().id(),
            object.place().at,
            object.place().generation,
            slices[i].start,
            Arc::as_ptr(object),
        )
    });
    let mut guards: [Option<ArrayGuard<T>>; N] = std::array::from_fn(|_| None);
    let mut first: Option<(u32, Option<Range<usize>>)> = None;
    for i in order {
        guards[i] = Some(match slices[i].write(deadline.left()) {
            Ok(guard) => guard,
            Err(LockError::Inherited(inherited)) => {
                let range = if N == 1 { inherited.range() } else { None };
                first.get_or_insert((inherited.pid(), range));
                inherited.into_guard()
            }
            Err(other) => return Err(other.map(|_| unreachable!("matched above"))),
        });
    }
    let guards = guards.map(|guard| guard.expect("each index once"));
    match first {
        None => Ok(guards),
        Some((pid, range)) => Err(LockError::Inherited(Inherited::new(guards, pid, range))),
    }
}
