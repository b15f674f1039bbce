//! `SharedArray<T>`: elements that several processes read and write in place, with claims on ranges of them.
//!
//! | file | what |
//! |---|---|
//! | `mod` | the handle: an array, or a slice of one |
//! | `hold` | where the elements are, and from a claim that is held to a slice; the one file with `unsafe` |
//! | `guards` | what users hold: guards, frozen arrays, several at once |
//! | `chunks` | chunks that workers claim, slices one after another |
//! | `unlocked` | elements without claims, each an atomic |
//!
//! A handle is `{object, start, len}`: a slice is the same type as the array. Which claims exclude which, and what a
//! killed process leaves, is the matter of `sync::claims`.
//!
//! | killed | what others see |
//! |---|---|
//! | in `new`, before the object is there | nothing; its memory is found by the sweep |
//! | reading, or waiting for a claim | nothing |
//! | with a guard to write in hand | a mark on its elements: the next to claim there is told |
//! | in `update`, before the elements change | nothing |
//! | in `update`, in the middle | the old elements: the next to claim there puts them back first |
//! | in `update`, after its commit (held = 0) | the new elements |
//! | with a chunk in hand | the chunk can be claimed again, and says so |

mod chunks;
mod guards;
mod hold;
mod unlocked;

pub use self::{
    chunks::{Chunk, Claims, Slices},
    guards::{ArrayGuard, FrozenArray, ReadGuard, lock_all, lock_all_timeout, try_lock_all},
};

use self::hold::{Body, Hold, Known, Layout};
use crate::{
    error::{ArrayError, CreateError, HandleError, LockError, LockResult},
    segment::{Kind, Object, Place, Segment, Stamp, handle, record::short_name},
    sync::{LockKind, Robust, Unlocked, claims::Mode},
};
use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    marker::PhantomData,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
    time::Duration,
};

const TRY: Option<Duration> = Some(Duration::ZERO);

/// Kinds of locks that arrays come with: [`Robust`] (the default), whose elements are claimed, and [`Unlocked`], whose
/// elements are atomics. Sealed. The kind is part of the type: a handle of the one does not arrive, nor open, as the other.
#[allow(private_bounds, reason = "sealed")]
pub trait ArrayKind: LockKind + Lies {}
impl ArrayKind for Robust {}
impl ArrayKind for Unlocked {}

/// How an array of a kind lies in its object.
pub(crate) trait Lies {
    const KIND: Kind;
    /// Has it a table of claims?
    const CLAIMS: bool;
}

impl Lies for Robust {
    const KIND: Kind = Kind::Array;
    const CLAIMS: bool = true;
}

impl Lies for Unlocked {
    const KIND: Kind = Kind::UnlockedArray;
    const CLAIMS: bool = false;
}

/// An array of plain data in shared memory (`multiprocessing.Array`, `numpy.memmap`), or a slice of one.
///
/// A handle: cheap to clone, `Send + Sync`, and a legal argument or result of a [`Pool`](crate::Pool) task. A slice is a
/// handle too, of the same type and with the same methods, which act on exactly its elements: disjoint slices never wait
/// for each other, and readers of overlapping ones neither.
///
/// No two `&mut [T]`, and none beside a `&[T]`, can meet, from whichever thread or process. A second claim of one thread
/// in its own way is [`LockError::Deadlock`].
///
/// If a process is killed while it writes in place, the next one that claims those elements is told:
/// [`LockError::Inherited`] carries the guard, which process it was, and which elements. [`update`](Self::update) instead
/// is all or nothing.
///
/// ```
/// use allmend::{Pool, SharedArray};
///
/// fn square((input, output): (SharedArray<f64>, SharedArray<f64>)) -> allmend::Result<()> {
///     for (out, x) in output.get_lock()?.iter_mut().zip(&*input.read()?) {
///         *out = x * x;
///     }
///     Ok(())
/// }
///
/// fn main() -> allmend::Result<()> {
///     let input = SharedArray::from_slice(&[1.0, 2.0, 3.0, 4.0])?;
///     let output = SharedArray::new(4)?;
///     for done in Pool::new(2)?.map(square, input.chunks(2).zip(output.chunks(2))) {
///         done??;
///     }
///     assert_eq!(output.to_vec()?, [1.0, 4.0, 9.0, 16.0]);
///     Ok(())
/// }
/// ```
pub struct SharedArray<T: Pod, L: ArrayKind = Robust> {
    object: Known,
    start: u32,
    len: u32,
    of: PhantomData<fn() -> (T, L)>,
}

impl<T: Pod> SharedArray<T> {
    /// `len` zeros, in the process's own segment.
    ///
    /// # Errors
    /// [`CreateError::Invalid`] without elements or with more than 2^32 - 1; [`CreateError::Full`] if there is no memory.
    pub fn new(len: usize) -> Result<Self, CreateError> {
        Self::place_in(&Segment::default_segment()?, len, |_| ())
    }

    /// A copy of `data`.
    ///
    /// # Errors
    /// As [`SharedArray::new`].
    pub fn from_slice(data: &[T]) -> Result<Self, CreateError> {
        Self::place_in(&Segment::default_segment()?, data.len(), |elements| elements.copy_from_slice(data))
    }

    /// A new one in that segment; `init` sees the elements, which are zero, before anybody else.
    pub(crate) fn place_in(
        segment: &Arc<Segment>,
        len: usize,
        init: impl FnOnce(&mut [T]),
    ) -> Result<Self, CreateError> {
        let array = Self::place(segment, len)?;
        let refused = |e| CreateError::of_new(e, "a new array that is claimed");
        init(
            Hold::take(&array.object, (0, array.len), Mode::Exclusive, TRY).map_err(refused)?.elements_mut(),
        );
        Ok(array)
    }

    #[inline(always)]
    fn hold(&self, mode: Mode, timeout: Option<Duration>) -> Result<guards::Kept<T>, LockError> {
        Hold::take_owned(&self.object, (self.start, self.len), mode, timeout)
    }

    /// As [`Self::hold`], for work of our own: marks of the dead in it are an error.
    #[inline(always)]
    fn work(&self, (start, len): (u32, u32), mode: Mode) -> Result<Hold<'_, T>, ArrayError> {
        self.work_on((self.start + start, len), mode, None)
    }

    /// Elements of the whole array.
    #[inline(always)]
    fn work_on(
        &self,
        at: (u32, u32),
        mode: Mode,
        timeout: Option<Duration>,
    ) -> Result<Hold<'_, T>, ArrayError> {
        let hold = Hold::take(&self.object, at, mode, timeout)?;
        if hold.has_marks() { Err(guards::marked(hold.into_parts())) } else { Ok(hold) }
    }

    #[inline(always)]
    fn write(&self, timeout: Option<Duration>) -> LockResult<ArrayGuard<T>> {
        let hold = self.hold(Mode::Exclusive, timeout).map_err(LockError::widen)?;
        guards::told(hold, ArrayGuard::new)
    }

    #[inline(always)]
    fn share(&self, timeout: Option<Duration>) -> LockResult<ReadGuard<T>> {
        let hold = self.hold(Mode::Shared, timeout).map_err(LockError::widen)?;
        guards::told(hold, ReadGuard::new)
    }

    /// Locks these elements to write them in place. Waits as long as those who are in the way live.
    ///
    /// If this process is killed with the guard in hand, or the guard is dropped by a panic, the elements are marked, and
    /// the next to claim any of them is told.
    ///
    /// # Errors
    /// [`LockError::Inherited`], with the guard, if elements are marked; [`LockError::Deadlock`] if this thread holds any
    /// of them already; [`LockError::Frozen`]; [`LockError::TooManyClaims`]; [`LockError::Damaged`];
    /// [`LockError::DescriptorsLost`]; [`LockError::ReadOnly`] if the array's manager is open for reading only. In a forked
    /// child, which takes a place of its own when it first claims: [`LockError::TooManyProcesses`], [`LockError::Gone`] if
    /// its parent dropped the array before, [`LockError::Os`].
    #[inline(always)]
    pub fn get_lock(&self) -> LockResult<ArrayGuard<T>> {
        self.write(None)
    }

    /// As [`get_lock`](Self::get_lock), without waiting.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process is in the way; else as `get_lock`.
    pub fn try_get_lock(&self) -> LockResult<ArrayGuard<T>> {
        self.write(TRY)
    }

    /// As [`get_lock`](Self::get_lock), waiting at most so long.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if live processes are in the way all that time; else as `get_lock`.
    pub fn get_lock_timeout(&self, timeout: Duration) -> LockResult<ArrayGuard<T>> {
        self.write(Some(timeout))
    }

    /// Locks these elements to read them in place; readers share, and write no memory in common. A reader that is killed
    /// was never there.
    ///
    /// # Errors
    /// [`LockError::Inherited`], with the guard, if elements are marked: what they hold may be half a change, and the mark
    /// stays; [`LockError::Deadlock`] if this thread has any of them to write; else as [`get_lock`](Self::get_lock), but a
    /// frozen array can be read.
    #[inline(always)]
    pub fn read(&self) -> LockResult<ReadGuard<T>> {
        self.share(None)
    }

    /// As [`read`](Self::read), without waiting.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process writes there; else as `read`.
    pub fn try_read(&self) -> LockResult<ReadGuard<T>> {
        self.share(TRY)
    }

    /// As [`read`](Self::read), waiting at most so long.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if live processes write there all that time; else as `read`.
    pub fn read_timeout(&self, timeout: Duration) -> LockResult<ReadGuard<T>> {
        self.share(Some(timeout))
    }

    #[inline(always)]
    fn index(&self, index: usize) -> Result<u32, ArrayError> {
        match u32::try_from(index) {
            Ok(at) if at < self.len => Ok(at),
            _ => Err(ArrayError::Index { index, len: self.len() }),
        }
    }

    fn same_length(&self, given: usize) -> Result<(), ArrayError> {
        if given == self.len() { Ok(()) } else { Err(ArrayError::Length { given, len: self.len() }) }
    }

    /// One element: a claim to read it, so it is never torn.
    ///
    /// # Errors
    /// [`ArrayError::Index`]; [`ArrayError::Lock`] as [`read`](Self::read).
    #[inline(always)]
    pub fn get(&self, index: usize) -> Result<T, ArrayError> {
        Ok(self.work((self.index(index)?, 1), Mode::Shared)?.elements()[0])
    }

    /// Writes one element, under a claim on it. A kill leaves the old one or the new one.
    ///
    /// # Errors
    /// [`ArrayError::Index`]; [`ArrayError::Lock`] as [`get_lock`](Self::get_lock).
    #[inline(always)]
    pub fn set(&self, index: usize, value: T) -> Result<(), ArrayError> {
        let at = self.index(index)?;
        if size_of::<T>() > 8 || align_of::<T>() != size_of::<T>() {
            return self.slice_at(at, 1).update(|elements| elements[0] = value);
        }
        // Up to 8 bytes: one store, so there is no half of it, and no mark.
        self.work((at, 1), Mode::Undecided)?.store(value);
        Ok(())
    }

    /// Copies these elements out.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn to_vec(&self) -> Result<Vec<T>, ArrayError> {
        Ok(self.work((0, self.len), Mode::Shared)?.elements().to_vec())
    }

    /// Copies these elements to `out`, of the same length.
    ///
    /// # Errors
    /// [`ArrayError::Length`]; [`ArrayError::Lock`] as [`read`](Self::read).
    pub fn copy_to(&self, out: &mut [T]) -> Result<(), ArrayError> {
        self.same_length(out.len())?;
        out.copy_from_slice(self.work((0, self.len), Mode::Shared)?.elements());
        Ok(())
    }

    /// Copies `data`, of the same length, into these elements, in place. Killed in the middle, they are marked.
    ///
    /// # Errors
    /// [`ArrayError::Length`]; [`ArrayError::Lock`] as [`get_lock`](Self::get_lock).
    pub fn copy_from(&self, data: &[T]) -> Result<(), ArrayError> {
        self.same_length(data.len())?;
        self.work((0, self.len), Mode::Exclusive)?.elements_mut().copy_from_slice(data);
        Ok(())
    }

    /// Locks, lets `f` change a copy of these elements, and writes it back: all of `f`'s changes or none, whoever dies.
    /// If `f` panics, nothing is changed. Costs two copies, of which one is shared memory until the change is made.
    ///
    /// `f` has its elements as an argument. It can use others of the array; what claims one of these in `f` is
    /// [`LockError::Deadlock`].
    ///
    /// # Errors
    /// [`ArrayError::Create`] if there is no memory for the copy, and then nothing is changed; [`ArrayError::Lock`] as
    /// [`get_lock`](Self::get_lock).
    pub fn update<R>(&self, f: impl FnOnce(&mut [T]) -> R) -> Result<R, ArrayError> {
        let hold = self.work((0, self.len), Mode::Undecided)?;
        let mut copy = hold.elements().to_vec();
        let result = f(&mut copy);
        hold.replace(&copy)?;
        Ok(result)
    }

    /// Nobody writes to this array any more, in any process, whichever slice was given: waits for those who do. The handle
    /// that comes back derefs to these elements. Killed in it, the array is frozen or it is not, and nothing is marked.
    ///
    /// # Errors
    /// As [`read`](Self::read) of the whole array. With marks in it nothing is frozen: mend them first.
    ///
    /// ```
    /// use allmend::{ArrayError, LockError, SharedArray};
    ///
    /// let table = SharedArray::from_slice(&[1.0, 4.0, 9.0])?;
    /// let frozen = table.freeze()?;
    /// assert_eq!(frozen.iter().sum::<f64>(), 14.0);
    /// assert_eq!(table.set(0, 2.0), Err(ArrayError::Lock(LockError::Frozen)));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn freeze(&self) -> Result<FrozenArray<T>, ArrayError> {
        self.frozen(None)
    }

    /// As [`freeze`](Self::freeze), without waiting.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if a live process writes to the array; else as `freeze`.
    pub fn try_freeze(&self) -> Result<FrozenArray<T>, ArrayError> {
        self.frozen(TRY)
    }

    /// As [`freeze`](Self::freeze), waiting at most so long. Not in time, nothing is frozen.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if live processes write to the array all that time; else as `freeze`.
    pub fn freeze_timeout(&self, timeout: Duration) -> Result<FrozenArray<T>, ArrayError> {
        self.frozen(Some(timeout))
    }

    fn frozen(&self, timeout: Option<Duration>) -> Result<FrozenArray<T>, ArrayError> {
        // Open for reading only, nothing would keep the elements under the slice.
        self.object.segment().me().map_err(LockError::<()>::outside)?;
        if self.object.is_lost() {
            return Err(LockError::<()>::Gone.into());
        }
        self.freeze_within(timeout)?;
        Ok(FrozenArray::new(self.clone()))
    }

    fn freeze_within(&self, timeout: Option<Duration>) -> Result<(), ArrayError> {
        if !self.body().claims().is_frozen_here() {
            self.work_on((0, self.body().len()), Mode::Shared, timeout)?.freeze();
        }
        Ok(())
    }

    /// Was [`freeze`](Self::freeze) called, by anybody?
    ///
    /// # Panics
    /// If the array is gone: in a forked child, if its parent dropped it before the child first used it; in a manager that is
    /// open for reading only, if its last holder dropped it.
    pub fn is_frozen(&self) -> bool {
        let look = || self.body().claims().table.is_frozen();
        if self.object.holder_now().is_none() {
            return self.object.inherit_to_look(look);
        }
        look()
    }

    /// Entries of its claims that are not free.
    #[cfg(allmend_crash)]
    pub(crate) fn entries_in_use(&self) -> usize {
        self.body().claims().table.in_use()
    }

    /// Hands out chunks of `len` elements to whoever asks first: [`Claims`].
    ///
    /// Give the handle to a task of its own for each worker, with [`submit`](crate::Pool::submit): `map` may batch several
    /// such tasks into one worker.
    ///
    /// # Errors
    /// [`CreateError::Invalid`] for chunks without elements, or of an empty slice; else as [`SharedArray::new`].
    pub fn claims(&self, len: usize) -> Result<Claims<T>, CreateError> {
        Claims::place(self, len)
    }
}

impl<T: Pod, L: ArrayKind> SharedArray<T, L> {
    fn rows(segment: &Segment) -> usize {
        if L::CLAIMS { segment.places() as usize } else { 0 }
    }

    fn place(segment: &Arc<Segment>, len: usize) -> Result<Self, CreateError> {
        let layout = Layout::of::<T>(len, Self::rows(segment))?;
        let init = |object: &Object| object.w64()[0].store(len as u64, crate::atomic::Relaxed); // published with the object
        let parts = if L::CLAIMS { hold::parts(layout.rows) } else { 0 };
        let object =
            segment.create_with_parts(L::KIND, Stamp::of::<T>(), layout.n32, layout.n64, parts, init)?;
        let object = Known::new::<T>(object, layout.rows, layout.len);
        Ok(Self { object, start: 0, len: layout.len, of: PhantomData })
    }

    /// The array at that place, if there is one of this kind and type.
    pub(crate) fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        Self::from_object(segment.open(place, L::KIND, (Stamp::of::<T>(), &short_name::<T>()))?)
    }

    /// An object of this kind and type, if it has the words for it.
    fn from_object(object: Arc<Object>) -> Result<Self, HandleError> {
        let rows = Self::rows(object.segment());
        let object = Known::open::<T>(object, rows).ok_or(HandleError::Malformed)?;
        let len = object.body().len();
        Ok(Self { object, start: 0, len, of: PhantomData })
    }

    /// What the handle leads to.
    pub(crate) fn object(&self) -> &Arc<Object> {
        self.object.object()
    }

    fn body(&self) -> &Body {
        self.object.body()
    }

    /// `start` and `len` are within this slice.
    fn slice_at(&self, start: u32, len: u32) -> Self {
        Self { object: self.object.clone(), start: self.start + start, len, of: PhantomData }
    }

    /// Elements in this slice.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Has it no elements? Arrays have some; a slice may have none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where this slice begins in its array.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// A part of it, as a handle to lock, to read, or to send to a task.
    ///
    /// # Errors
    /// [`ArrayError::Range`] if it is not within this slice.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Self, ArrayError> {
        let len = self.len();
        let past = |bound: usize| bound.saturating_add(1); // of `usize::MAX` it is out of range either way
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => past(start),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => past(end),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => len,
        };
        let Range { start: from, end: to } = start..end;
        if from > to || to > len {
            return Err(ArrayError::Range { start, end, len });
        }
        Ok(self.slice_at(from as u32, (to - from) as u32)) // both at most `len`, which has 32 bits
    }

    /// Disjoint slices of `len` elements, the last one shorter.
    ///
    /// # Panics
    /// If `len` is 0, as std's.
    pub fn chunks(&self, len: usize) -> Slices<T, L> {
        assert!(len > 0, "chunks without elements");
        Slices::new(self.clone(), len, len, self.len().div_ceil(len))
    }

    /// Overlapping slices of `len` elements, one every `step`; none if the array is shorter.
    ///
    /// # Panics
    /// If `len` or `step` is 0.
    pub fn windows(&self, len: usize, step: usize) -> Slices<T, L> {
        assert!(len > 0 && step > 0, "windows without elements, or without an end");
        let count = self.len().checked_sub(len).map_or(0, |rest| rest / step + 1);
        Slices::new(self.clone(), len, step, count)
    }
}

impl<T: Pod, L: ArrayKind> Clone for SharedArray<T, L> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), ..*self }
    }
}

impl<T: Pod, L: ArrayKind> fmt::Debug for SharedArray<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedArray")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// An object on its way.
struct Sent<'a>(&'a Arc<Object>);

impl Serialize for Sent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(self.0, serializer)
    }
}

/// An array that has arrived.
struct Arrived<T: Pod, L: ArrayKind>(SharedArray<T, L>);

impl<'de, T: Pod, L: ArrayKind> Deserialize<'de> for Arrived<T, L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = handle::deserialize(deserializer, L::KIND, (Stamp::of::<T>(), &short_name::<T>()))?;
        SharedArray::from_object(object).map(Arrived).map_err(de::Error::custom)
    }
}

impl<T: Pod, L: ArrayKind> Serialize for SharedArray<T, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Sent(self.object()), self.start, self.len).serialize(serializer)
    }
}

impl<'de, T: Pod, L: ArrayKind> Deserialize<'de> for SharedArray<T, L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Arrived(whole), start, len) = <(Arrived<T, L>, u32, u32)>::deserialize(deserializer)?;
        // The bytes may be anybody's: the slice is checked against the object.
        match start.checked_add(len) {
            Some(end) if end <= whole.len => Ok(whole.slice_at(start, len)),
            _ => Err(de::Error::custom(HandleError::Malformed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Relaxed;

    /// Encodes as a task's argument, and decodes as another's.
    fn travels<A: Serialize, B: for<'de> Deserialize<'de>>(value: &A) -> Result<B, Option<HandleError>> {
        let (bytes, _kept, failure) = handle::encode_argument(|| postcard::to_stdvec(value));
        assert_eq!(failure, None);
        let (decoded, failure) = handle::decode(
            |id| Segment::by_id(id).ok_or(HandleError::UnknownSegment),
            || postcard::from_bytes(&bytes.unwrap()),
        );
        decoded.map_err(|_| failure)
    }

    #[test]
    fn what_arrives_is_checked_against_the_object() {
        let array = SharedArray::from_slice(&[1u32, 2, 3, 4]).unwrap();
        let slice = array.slice(1..3).unwrap();
        let back: SharedArray<u32> = travels(&slice).unwrap();
        assert_eq!(back.to_vec().unwrap(), [2, 3]);
        let wrong = |e: Option<HandleError>| matches!(e, Some(HandleError::WrongType { .. }));
        assert!(travels::<_, SharedArray<f32>>(&slice).is_err_and(wrong));
        assert!(travels::<_, SharedArray<u32, Unlocked>>(&slice).is_err_and(wrong));
        for (start, len) in [(0u32, 5u32), (4, 1), (u32::MAX, 2), (5, 0)] {
            let forged = (Sent(array.object()), start, len);
            assert!(travels::<_, SharedArray<u32>>(&forged).is_err(), "{start} {len}");
        }
        assert!(
            travels::<_, SharedArray<u32>>(&(Sent(array.object()), 4u32, 0u32)).is_ok_and(|a| a.is_empty())
        );
        let claims = slice.claims(1).unwrap();
        assert_eq!(travels::<_, Claims<u32>>(&claims).unwrap().count(), 2);
        assert!(travels::<_, FrozenArray<u32>>(&slice).is_err(), "not frozen");
        let other = array.slice(..).unwrap().claims(1).unwrap();
        assert!(
            travels::<_, Claims<u32>>(&(&slice, Sent(other.words()))).is_err(),
            "chunks of another slice"
        );
    }

    #[test]
    fn a_stray_store_freezes_nothing_under_a_guard() {
        let array = SharedArray::<u64>::new(4).unwrap();
        let mut guard = array.get_lock().unwrap();
        array.object.w32()[0].store(1, Relaxed); // the claims' FROZEN
        let frozen = std::thread::scope(|s| {
            s.spawn(|| array.freeze_within(Some(Duration::ZERO)).is_ok()).join().unwrap()
        });
        assert!(!frozen, "a slice to read beside one to write");
        guard[0] = 7;
        drop(guard);
        assert_eq!(array.freeze().unwrap()[0], 7);
        array.object.w32()[0].store(0, Relaxed);
        assert!(matches!(array.try_get_lock(), Err(LockError::Frozen)), "it reads in place");
        // One that was frozen by its own process, and by nothing else.
        let array = SharedArray::<u64>::new(4).unwrap();
        let frozen = array.freeze().unwrap();
        array.object.w32()[0].store(0, Relaxed);
        assert!(matches!(array.try_get_lock(), Err(LockError::Frozen)), "beside {frozen:?}");
    }

    #[test]
    fn an_object_whose_length_was_overwritten_is_refused() {
        let array = SharedArray::from_slice(&[1u64; 4]).unwrap();
        let (segment, place) = (Arc::clone(array.object.segment()), array.object.place());
        assert_eq!(SharedArray::<u64>::open_in(&segment, place).unwrap().len(), 4);
        for len in [0, 1 << 20, u64::MAX] {
            array.object.w64()[0].store(len, crate::atomic::Relaxed);
            assert_eq!(
                SharedArray::<u64>::from_object(Arc::clone(array.object())).err(),
                Some(HandleError::Malformed)
            );
        }
        assert_eq!(array.to_vec().unwrap(), [1; 4], "who has it open goes on");
    }
}
