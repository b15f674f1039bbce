//! Chunks of an array that workers claim, each done once; and slices one after another.
//!
//! Body of a `Claims` object: 64-bit words 0 to 3 are the length of a chunk, the array's place and generation, and the
//! number of chunks; then one 32-bit word per chunk:
//!
//! | word | says |
//! |---|---|
//! | 0 | to do |
//! | owner | claimed; if that process is dead, to do again |
//! | DONE | done |
//!
//! A chunk's word is written only under an exclusive claim on the chunk's elements, so plain stores do; looks without it
//! are hints. Killed with a chunk in hand: the word names a dead owner, and its elements are marked. Killed in `done`:
//! first the claim is settled (no mark: the elements are whole), then the word is stored, then the claim is released;
//! before the store the chunk is to be done again, after it it is done.

use super::{
    ArrayKind, Sent, SharedArray, TRY,
    hold::{self, Hold, Loose, Piece, Work},
};
use crate::{
    atomic::{Acquire, Private32, Relaxed, Word32},
    error::{CreateError, HandleError, LockError},
    segment::{Kind, Object, Stamp, handle, owner::Owner, record::short_name},
    sync::{
        Robust,
        claims::{Deadline, Mode},
    },
};
use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

/// A chunk that is ours: which, its claim, and the process that died in it.
type Claimed<'a, T> = (u32, Loose<'a, T>, Option<u32>);

const DONE: u32 = u32::MAX;
/// 64-bit words of the body.
const WORDS: usize = 4;

/// The chunks of an array that are still to do: each is handed to whoever asks first, and done once.
///
/// A handle: workers share it, as an argument of their tasks. A chunk whose worker is killed can be claimed again.
///
/// ```
/// # fn main() -> allmend::Result<()> {
/// let array = allmend::SharedArray::<u64>::new(1_000)?;
/// let claims = array.claims(128)?;
/// while let Some(mut chunk) = claims.claim()? { // in as many processes as you like
///     let start = chunk.start() as u64;
///     for (i, element) in chunk.iter_mut().enumerate() {
///         *element = start + i as u64;
///     }
///     chunk.done();
/// }
/// assert!(claims.is_done());
/// assert_eq!(array.get(999)?, 999);
/// # Ok(()) }
/// ```
pub struct Claims<T: Pod> {
    of: Arc<Work>,
    /// The slice: where it starts in the array, and its elements.
    slice: (u32, u32),
    /// Elements of a chunk.
    len: u32,
    count: u32,
    /// Where this handle looks first, only ever a hint: behind the chunk that it claimed last.
    next: Private32,
    elements: PhantomData<fn() -> T>,
}

impl<T: Pod> Claims<T> {
    /// `len` and `count` fit the array and the object.
    fn new(array: &SharedArray<T>, words: Arc<Object>, len: u32, count: u32) -> Self {
        Self {
            of: Work::new(array.object.clone(), words),
            slice: (array.start, array.len),
            len,
            count,
            next: Private32::new(0),
            elements: PhantomData,
        }
    }

    pub(super) fn place(array: &SharedArray<T>, len: usize) -> Result<Self, CreateError> {
        if len == 0 || array.is_empty() {
            return Err(CreateError::Invalid("chunks without elements".into()));
        }
        let len = len.min(array.len());
        let count = array.len().div_ceil(len);
        let place = array.object.place();
        let init = |object: &Object| {
            // Published with the object.
            for (word, value) in
                object.w64().iter().zip([len as u64, place.at, place.generation, count as u64])
            {
                word.store(value, Relaxed);
            }
        };
        let object =
            array.object.segment().create(Kind::Claims, Stamp::of::<T>(), count.max(16), WORDS, init)?;
        Ok(Self::new(array, object, len as u32, count as u32))
    }

    pub(super) fn words(&self) -> &Arc<Object> {
        self.of.words()
    }

    #[inline(always)]
    fn object(&self) -> &Object {
        self.of.words()
    }

    #[inline(always)]
    fn word(&self, chunk: u32) -> &Word32 {
        &self.object().w32()[chunk as usize]
    }

    /// Where the chunk begins in the array, and how many elements it has.
    #[inline(always)]
    fn bounds(&self, chunk: u32) -> (u32, u32) {
        let start = chunk * self.len;
        (self.slice.0 + start, self.len.min(self.slice.1 - start))
    }

    /// The next chunk that nobody has. `None` when all are done, or claimed by live processes. If a chunk is to do but its
    /// elements are locked (by [`SharedArray::get_lock`] or [`SharedArray::read`]), it waits for them.
    ///
    /// # Errors
    /// As [`SharedArray::get_lock`], but an inherited chunk is none: [`Chunk::inherited`].
    #[inline(always)]
    pub fn claim(&self) -> Result<Option<Chunk<T>>, LockError> {
        self.claim_within(None)
    }

    /// As [`claim`](Self::claim), without waiting for elements that are locked.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if the chunks that are to do are locked; else as `claim`.
    pub fn try_claim(&self) -> Result<Option<Chunk<T>>, LockError> {
        self.claim_within(TRY)
    }

    /// As [`claim`](Self::claim), waiting at most so long for elements that are locked.
    ///
    /// # Errors
    /// [`LockError::Timeout`] if the chunks that are to do are locked all that time; else as `claim`.
    pub fn claim_timeout(&self, timeout: Duration) -> Result<Option<Chunk<T>>, LockError> {
        self.claim_within(Some(timeout))
    }

    #[inline(always)]
    fn claim_within(&self, timeout: Option<Duration>) -> Result<Option<Chunk<T>>, LockError> {
        let claimed = match self.claim_next() {
            Some((chunk, claim)) => (chunk, claim, None),
            None => match self.search(timeout)? {
                Some(claimed) => claimed,
                None => return Ok(None),
            },
        };
        // Made in one place, from what fits into registers.
        let (chunk, held, inherited) = claimed;
        Ok(Some(Chunk { piece: held.into_piece(&self.of, chunk), slice: self.slice.0, inherited }))
    }

    /// The chunk behind the last one, if it is to do and there is nothing to wait for and nothing to tell.
    #[inline(always)]
    fn claim_next(&self) -> Option<(u32, Loose<'_, T>)> {
        self.object().holder_now()?; // before any look at its words: lost, they are another object's
        let next = self.next.load(Relaxed);
        let chunk = if next < self.count { next } else { 0 };
        let word = self.word(chunk);
        if word.load(Relaxed) != 0 {
            return None;
        }
        let (me, claim) = hold::claim_free::<T>(self.of.array(), self.bounds(chunk))?;
        if word.load(Relaxed) != 0 {
            claim.give_back(); // claimed and given back meanwhile, or done
            return None;
        }
        word.store(me.bits(), Relaxed);
        self.next.store(chunk + 1, Relaxed);
        Some((chunk, claim))
    }

    #[cold]
    #[inline(never)]
    fn search(&self, timeout: Option<Duration>) -> Result<Option<Claimed<'_, T>>, LockError> {
        let deadline = Deadline::after(timeout);
        loop {
            if self.object().holder_now().is_none() {
                self.object().segment().me().map_err(LockError::outside)?;
            }
            if self.object().is_lost() {
                return Err(LockError::Gone);
            }
            let mut locked = None;
            let first = self.next.load(Relaxed).min(self.count);
            let all = (first..self.count).chain(0..first);
            // Acquire: of a chunk that is done, its elements are there.
            for chunk in all.filter(|&chunk| self.word(chunk).load(Acquire) == 0) {
                match self.take(chunk, TRY) {
                    Ok(Some(taken)) => {
                        self.next.store(chunk + 1, Relaxed);
                        return Ok(Some(taken));
                    }
                    Ok(None) => {}
                    Err(LockError::Timeout { .. }) => locked = Some(chunk),
                    Err(other) => return Err(other),
                }
            }
            let mut dead: Option<Owner> = None;
            for chunk in 0..self.count {
                let Some(owner) = Owner::from_bits(self.word(chunk).load(Acquire)) else { continue };
                if Some(owner) != dead {
                    let segment = self.object().segment();
                    if segment.is_alive(owner).map_err(|_| LockError::DescriptorsLost)? {
                        continue;
                    }
                    dead = Some(owner);
                }
                match self.take(chunk, TRY) {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => {}
                    Err(LockError::Timeout { .. }) => locked = Some(chunk),
                    Err(other) => return Err(other),
                }
            }
            // It may have been claimed meanwhile: then another round says what there is.
            let Some(chunk) = locked.filter(|&chunk| self.is_to_do(chunk)) else { return Ok(None) };
            if let Some(chunk) = self.take(chunk, deadline.left())? {
                return Ok(Some(chunk));
            }
        }
    }

    fn is_to_do(&self, chunk: u32) -> bool {
        match self.word(chunk).load(Acquire) {
            0 => true,
            word => Owner::from_bits(word)
                .is_some_and(|owner| self.object().segment().is_alive(owner) == Ok(false)),
        }
    }

    /// The chunk, if it is to do once its elements are ours.
    fn take(&self, chunk: u32, timeout: Option<Duration>) -> Result<Option<Claimed<'_, T>>, LockError> {
        let mut hold = Hold::<T>::take(self.of.array(), self.bounds(chunk), Mode::Exclusive, timeout)?;
        let word = self.word(chunk);
        // Relaxed: it is written under this claim.
        let seen = word.load(Relaxed);
        let owner = Owner::from_bits(seen);
        // Under its claim no live process has the chunk; one that is about to give it back has stored 0.
        if seen == DONE || owner.is_some_and(|owner| Some(owner) == self.object().me_now()) {
            return Ok(None);
        }
        let pid = |owner: Owner| self.object().segment().pid_of(owner).unwrap_or(0);
        let inherited = hold.inherited().map(|(pid, _)| pid).or(owner.map(pid));
        let Some(me) = self.object().me_now() else { return Err(LockError::Gone) };
        word.store(me.bits(), Relaxed);
        hold.repair(); // whoever dies in it now leaves the chunk's word, and a mark of its own
        Ok(hold.into_loose().map(|claim| (chunk, claim, inherited)))
    }

    /// Are all done?
    ///
    /// # Panics
    /// If it is gone, as [`SharedArray::is_frozen`].
    pub fn is_done(&self) -> bool {
        self.remaining() == 0
    }

    /// How many are not done yet, at this moment.
    ///
    /// # Panics
    /// As [`is_done`](Self::is_done).
    pub fn remaining(&self) -> usize {
        let look = || (0..self.count).filter(|&chunk| self.word(chunk).load(Acquire) != DONE).count();
        if self.object().holder_now().is_none() {
            return self.object().inherit_to_look(look);
        }
        look()
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.count as usize
    }
}

/// A chunk that is yours alone, in place.
///
/// [`done`](Chunk::done) marks it done. Drop without it, by a `?` or a panic, gives it back for another claim; so does a
/// kill. It owns its handle, so it can be returned and kept. In a forked child the chunk of the parent does nothing, and
/// its use is a panic.
///
/// ```
/// let array = allmend::SharedArray::<u8>::new(5)?;
/// let claims = array.claims(2)?;
/// drop(claims.claim()?); // to do again
/// let mut seen = Vec::new();
/// while let Some(mut chunk) = claims.claim()? {
///     if chunk.inherited().is_some() {
///         chunk.fill(0); // a process died in it: begin anew
///     }
///     chunk[0] = 1;
///     seen.push((chunk.index(), chunk.start(), chunk.len()));
///     chunk.done();
/// }
/// seen.sort();
/// assert_eq!(seen, [(0, 0, 2), (1, 2, 2), (2, 4, 1)]);
/// # Ok::<(), allmend::Error>(())
/// ```
///
/// A claim is its thread's: as all guards, a chunk is not `Send`.
///
/// ```compile_fail,E0277
/// let claims = allmend::SharedArray::<u8>::new(5).unwrap().claims(2).unwrap();
/// let chunk = claims.claim().unwrap().unwrap();
/// std::thread::spawn(move || chunk.done());
/// ```
#[must_use = "dropping it gives the chunk back"]
pub struct Chunk<T: Pod> {
    piece: Piece<T>,
    /// Where the slice starts in the array.
    slice: u32,
    inherited: Option<u32>,
}

impl<T: Pod> Chunk<T> {
    /// Where it starts in the slice that the claims are on.
    pub fn start(&self) -> usize {
        (self.piece.start() - self.slice) as usize
    }

    /// Which of the chunks it is.
    pub fn index(&self) -> usize {
        self.piece.chunk() as usize
    }

    /// The process that died in it before us, if one did: its elements may be half done. 0 if it is not known any more
    /// which.
    pub fn inherited(&self) -> Option<u32> {
        self.inherited
    }

    /// It is done: nobody claims it again.
    #[inline(always)]
    pub fn done(mut self) {
        self.piece.says = DONE;
    }
}

impl<T: Pod> Deref for Chunk<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        self.piece.elements()
    }
}

impl<T: Pod> DerefMut for Chunk<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        self.piece.elements_mut()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Chunk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<T: Pod> Clone for Claims<T> {
    fn clone(&self) -> Self {
        let next = Private32::new(self.next.load(Relaxed));
        Self { of: Arc::clone(&self.of), next, ..*self }
    }
}

impl<T: Pod> fmt::Debug for Claims<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").field("count", &self.count).field("len", &self.len).finish_non_exhaustive()
    }
}

impl<T: Pod> Serialize for Claims<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ((Sent(self.of.array().object()), self.slice.0, self.slice.1), Sent(self.words()))
            .serialize(serializer)
    }
}

/// A claims object that has arrived.
struct Words<T>(Arc<Object>, PhantomData<fn() -> T>);

impl<'de, T: Pod> Deserialize<'de> for Words<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = (Stamp::of::<T>(), &*short_name::<T>());
        handle::deserialize(deserializer, Kind::Claims, expected)
            .map(|object| Self(object, Default::default()))
    }
}

impl<'de, T: Pod> Deserialize<'de> for Claims<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (array, Words(object, _)) = <(SharedArray<T>, Words<T>)>::deserialize(deserializer)?;
        let malformed = || de::Error::custom(HandleError::Malformed);
        let [len, at, generation, count] = match object.w64().get(..WORDS) {
            Some([a, b, c, d]) => [a, b, c, d].map(|word| word.load(Relaxed)),
            _ => return Err(malformed()),
        };
        let place = array.object.place();
        let sound = Arc::ptr_eq(array.object.segment(), object.segment())
            && (place.at, place.generation) == (at, generation)
            && (1..=u64::from(array.len)).contains(&len)
            && count == u64::from(array.len).div_ceil(len)
            && object.w32().len() as u64 >= count;
        if !sound {
            return Err(malformed());
        }
        Ok(Self::new(&array, object, len as u32, count as u32))
    }
}

/// Slices one after another: see [`SharedArray::chunks`] and [`SharedArray::windows`].
pub struct Slices<T: Pod, L: ArrayKind = Robust> {
    array: SharedArray<T, L>,
    len: usize,
    step: usize,
    next: usize,
    count: usize,
}

impl<T: Pod, L: ArrayKind> Slices<T, L> {
    pub(super) fn new(array: SharedArray<T, L>, len: usize, step: usize, count: usize) -> Self {
        Self { array, len, step, next: 0, count }
    }
}

impl<T: Pod, L: ArrayKind> Iterator for Slices<T, L> {
    type Item = SharedArray<T, L>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let start = self.next * self.step; // below the array's length, by `count`
        self.next += 1;
        let len = self.len.min(self.array.len() - start);
        Some(self.array.slice_at(start as u32, len as u32))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count - self.next, Some(self.count - self.next))
    }
}

impl<T: Pod, L: ArrayKind> ExactSizeIterator for Slices<T, L> {}

impl<T: Pod, L: ArrayKind> Clone for Slices<T, L> {
    fn clone(&self) -> Self {
        Self { array: self.array.clone(), ..*self }
    }
}

impl<T: Pod, L: ArrayKind> fmt::Debug for Slices<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slices")
            .field("array", &self.array)
            .field("left", &self.len())
            .finish_non_exhaustive()
    }
}
