//! Where an array's elements are, and the one place where a claim that is held becomes a slice of them.
//!
//! Body of the object (`rows` is the segment's number of places for processes):
//!
//! | words | what |
//! |---|---|
//! | 32-bit, a line and one per row | head and entries of the claims (`sync::claims`) |
//! | 64-bit 0 | number of elements |
//! | 64-bit 8.. | spans of the claims, a line per row |
//! | behind, aligned as the elements need it | the elements |
//! | parts | of each entry: what its `update` has to undo |
//!
//! The argument for every slice here: a [`Loose`] claim, in a [`Hold`], in a [`Piece`] or alone, is made in this file only,
//! from a claim on exactly its elements, and the claim lasts as long as that. An exclusive claim excludes all other claims on any of its
//! elements, shared ones the exclusive ones: between processes by the table, between threads of this process by the private
//! record, which no other process can write (`sync::claims`, invariants 1 and 7). Elements are reached through these only.
//! So there is no second `&mut`, and none beside a `&`. After a freeze there is no exclusive claim any more (invariant 6),
//! and a hold for reading needs none. A hold that a forked child inherited is not its own: it gives no slice.
//!
//! Another process of the same user that does not follow the rules can write into the elements under a slice; that peers
//! are trusted so far is a stated limitation. `T: Pod`, so any bytes are a valid element.

#![allow(unsafe_code, reason = "from the claim that is held to the slice of its elements")]

use super::unlocked::to_bits;
use crate::atomic::{self, Relaxed, Release, Rule, Word8, Word16, Word32, Word64};
use crate::{
    error::{CreateError, LockError, Resource},
    os::liveness::DescriptorsLost,
    segment::{
        Object,
        object::thread_id,
        owner::Owner,
        words::{load_bytes, store_bytes, words_for},
    },
    sync::claims::{
        self, At, Claim, Claims, Deadline, LINE32, LINE64, Left, Mode, Record, Refused, Span, Table, Who,
        World,
    },
};
use bytemuck::Pod;
use std::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr::NonNull,
    slice,
    sync::Arc,
    thread,
    time::Duration,
};

const HEAD64: usize = 8;
const LINE: usize = 64;
const PAGE: usize = 4096;

/// The sizes of one array's body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) n32: usize,
    pub(super) n64: usize,
    pub(super) len: u32,
}

impl Layout {
    /// Of an array of `len` elements of `T`, with claims or without.
    pub(super) fn of<T: Pod>(len: usize, rows: usize) -> Result<Self, CreateError> {
        const { assert!(size_of::<T>() > 0, "elements without bytes") };
        const { assert!(align_of::<T>() <= PAGE, "elements are aligned to a page at most") };
        let Some(bytes) = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize / 2)
        else {
            return Err(CreateError::Full { bytes: u64::MAX, what: Resource::Segment });
        };
        let (1.., Ok(elements)) = (len, u32::try_from(len)) else {
            let what = if len == 0 {
                "an array without elements"
            } else {
                "an array of more than 2^32 - 1 elements"
            };
            return Err(CreateError::Invalid(what.into()));
        };
        let padding = if align_of::<T>() > LINE { align_of::<T>() } else { 0 };
        let n64 = HEAD64 + rows * LINE64 + words_for(bytes + padding);
        let n32 = if rows == 0 { 0 } else { (rows + 1) * LINE32 };
        Ok(Self { rows, n32, n64, len: elements })
    }
}

/// What this process knows of an array: kept in its [`Object`].
#[derive(Debug)]
pub(super) struct Body {
    record: Record,
    /// Words of the object's own; `None` without claims.
    table: Option<Table<'static>>,
    elements: NonNull<u8>,
    len: u32,
}

// SAFETY: the pointer leads into the mapping, which the object keeps that the body belongs to; what is done through it is
// the matter of `Hold`.
unsafe impl Send for Body {}
// SAFETY: as above.
unsafe impl Sync for Body {}

impl Body {
    /// Where the elements of `T` begin.
    fn at<T: Pod>(object: &Object, rows: usize) -> NonNull<u8> {
        let words = &object.w64()[HEAD64 + rows * LINE64..];
        let start: NonNull<Word64> = NonNull::from(words).cast();
        let padding = start.cast::<u8>().align_offset(align_of::<T>());
        // SAFETY: `Layout` has asked for so many bytes more than the elements have.
        unsafe { start.cast::<u8>().add(padding) }
    }

    fn new<T: Pod>(object: &Object, rows: usize, len: u32) -> Self {
        let spans: NonNull<[Word64]> = NonNull::from(&object.w64()[HEAD64..HEAD64 + rows * LINE64]);
        let words: NonNull<[Word32]> =
            NonNull::from(if rows == 0 { &[] } else { &object.w32()[..(rows + 1) * LINE32] });
        // SAFETY: they lie in the mapping, which `object` keeps, and the body goes before the object does: nothing of
        // the body is given out for longer than the body is borrowed.
        let spans = unsafe { spans.as_ref() };
        // SAFETY: as above.
        let words = unsafe { words.as_ref() };
        Self {
            record: Record::new(),
            table: Table::new(words, spans),
            elements: Self::at::<T>(object, rows),
            len,
        }
    }

    /// Of an object that has the words for `len` elements. A body that was made before keeps its length.
    #[inline]
    fn of<T: Pod>(object: &Object, rows: usize, len: u32) -> &Self {
        object.local(|| Self::new::<T>(object, rows, len))
    }

    /// The length that the object's words say, if it fits into the object.
    fn check<T: Pod>(object: &Object, rows: usize) -> Option<u32> {
        let len = object.w64().first()?.load(Relaxed);
        let layout = Layout::of::<T>(usize::try_from(len).ok()?, rows).ok()?;
        let fits = object.w32().len() >= layout.n32 && object.w64().len() >= layout.n64;
        fits.then_some(layout.len)
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The elements of an array without claims, each an atomic of its own width.
    pub(super) fn words<W: ElementWord>(&self) -> &[W] {
        // SAFETY: `Layout` has as many elements of this width, aligned, by the caller's assertions; any bytes are a valid
        // atomic; and nothing but atomics is ever made of them.
        unsafe { slice::from_raw_parts(self.elements.cast().as_ptr(), self.len as usize) }
    }

    #[inline(always)]
    pub(super) fn claims(&self) -> Claims<'_> {
        let table = self.table.expect("an array with claims has a line per row");
        Claims { table, record: &self.record }
    }
}

/// An array's object and what this process knows of it, kept together: the way from one to the other is a pointer.
#[derive(Debug, Clone)]
pub(super) struct Known {
    object: Arc<Object>,
    body: NonNull<Body>,
}

// SAFETY: an `Arc<Object>` and a reference into what it keeps; both types are `Send` and `Sync`.
unsafe impl Send for Known {}
// SAFETY: as above.
unsafe impl Sync for Known {}

impl UnwindSafe for Known {}
impl RefUnwindSafe for Known {}

impl Known {
    /// Of an object that was made for `len` elements.
    pub(super) fn new<T: Pod>(object: Arc<Object>, rows: usize, len: u32) -> Self {
        let body = NonNull::from(Body::of::<T>(&object, rows, len));
        Self { object, body }
    }

    /// Of an object that was opened. Its length is read once, checked, and then kept in this process, whatever is written
    /// there later. `None` if it does not fit.
    pub(super) fn open<T: Pod>(object: Arc<Object>, rows: usize) -> Option<Self> {
        let len = Body::check::<T>(&object, rows)?;
        Some(Self::new::<T>(object, rows, len))
    }

    #[inline(always)]
    pub(super) fn body(&self) -> &Body {
        // SAFETY: `Object::local` keeps it in place as long as the object, which `self` keeps.
        unsafe { self.body.as_ref() }
    }

    pub(super) fn object(&self) -> &Arc<Object> {
        &self.object
    }
}

impl Deref for Known {
    type Target = Object;

    #[inline(always)]
    fn deref(&self) -> &Object {
        &self.object
    }
}

/// Words of which an unlocked array's elements are made: 8 to 64 bits.
pub(super) trait ElementWord {}
impl ElementWord for crate::atomic::Word8 {}
impl ElementWord for crate::atomic::Word16 {}
impl ElementWord for crate::atomic::Word32 {}
impl ElementWord for Word64 {}

/// What the claims of an array ask.
struct Around<'a>(&'a Object);

impl World for Around<'_> {
    type Lost = DescriptorsLost;

    fn is_alive(&self, owner: Owner) -> Result<bool, DescriptorsLost> {
        if atomic::broken(Rule::AskBeforeWaiting) {
            return Ok(true);
        }
        self.0.segment().is_alive(owner)
    }

    fn forget(&self, entry: At) {
        // If the table of parts was overwritten, the part stays where it is, for `verify` to say.
        let _ = self.0.detach_part(entry.index());
    }
}

/// Elements that are claimed, and nothing gives them back: see the head of the file. Made in this file only, and never
/// copied.
///
/// Without drop glue, and given back by value, on the cold paths too: nothing takes its address, so it lives in registers.
#[must_use = "it stays claimed until the process ends"]
#[derive(Debug)]
pub(super) struct Loose<'a, T> {
    object: NonNull<Object>,
    body: NonNull<Body>,
    /// Of exactly these elements; `None` if there are none.
    claim: Option<Claim>,
    /// Claims are recorded by thread.
    of: PhantomData<(&'a Known, *mut T)>,
}

/// An array, and the words of its chunks. Neither is ever exchanged.
#[derive(Debug)]
pub(super) struct Work {
    array: Known,
    words: Arc<Object>,
}

impl Work {
    pub(super) fn new(array: Known, words: Arc<Object>) -> Arc<Self> {
        Arc::new(Self { array, words })
    }

    #[inline(always)]
    pub(super) fn array(&self) -> &Known {
        &self.array
    }

    #[inline(always)]
    pub(super) fn words(&self) -> &Arc<Object> {
        &self.words
    }
}

/// As [`Loose`], of a chunk, whose word says so; it keeps the array and that word, and its drop gives it back.
pub(super) struct Piece<T> {
    held: Loose<'static, T>,
    of: ManuallyDrop<Arc<Work>>,
    chunk: u32,
    /// What the chunk's word says then.
    pub(super) says: u32,
}

/// As [`Loose`], with what the dead left there, and its drop gives it back. `OWNED`: it keeps the object itself.
#[derive(Debug)]
pub(super) struct Hold<'a, T: Pod, const OWNED: bool = false> {
    held: Loose<'a, T>,
    was_panicking: bool,
    /// Marks of the dead in it.
    left: ManuallyDrop<Option<Box<Marks>>>,
}

/// Marks of the dead, at least one.
#[derive(Debug)]
struct Marks(Vec<Left>);

/// A hold on its way through a call that is not inlined, for which it has no address to give.
pub(super) struct Parts<'a, T, const OWNED: bool> {
    held: Loose<'a, T>,
    was_panicking: bool,
    left: Option<Box<Marks>>,
}

const OF_ANOTHER: &str = "a guard that was inherited by a fork: the elements are its parent's";

impl<'a, T> Loose<'a, T> {
    #[inline(always)]
    fn new(object: &'a Known, claim: Option<Claim>) -> Self {
        Self { object: NonNull::from(&**object), body: object.body, claim, of: PhantomData }
    }

    #[inline(always)]
    fn object(&self) -> &Object {
        // SAFETY: from an `Arc` that the hold or the piece owns, or that is borrowed for longer than this lives.
        unsafe { self.object.as_ref() }
    }

    #[inline(always)]
    fn body(&self) -> &Body {
        // SAFETY: `Object::local` keeps it in place as long as the object.
        unsafe { self.body.as_ref() }
    }

    #[inline(always)]
    fn span(&self) -> Span {
        self.claim.map_or(Span::EMPTY, |claim| claim.span)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        (self.span().end() - self.span().start()) as usize
    }

    #[inline(always)]
    fn check(&self) -> First<T> {
        let Some(claim) = &self.claim else { return First(NonNull::dangling()) };
        assert!(self.object().me_now() == Some(claim.me()), "{OF_ANOTHER}");
        // SAFETY: within the elements, by `claim`'s span and the checked length.
        First(unsafe { self.body().elements.cast::<T>().add(claim.span.start() as usize) })
    }

    /// The elements, to read.
    #[inline(always)]
    pub(super) fn elements(&self) -> &[T] {
        let at = self.check();
        // SAFETY: in bounds and aligned, by `Layout`; nobody writes, by the claim: see the head of the file.
        unsafe { slice::from_raw_parts(at.as_ptr(), self.len()) }
    }

    /// The elements, to write.
    #[inline(always)]
    pub(super) fn elements_mut(&mut self) -> &mut [T] {
        assert!(self.claim.is_none_or(|claim| claim.is_exclusive()), "a hold to read");
        let mut at = self.check();
        let at: *mut T = at.as_mut_ptr();
        // SAFETY: in bounds and aligned, by `Layout`; ours alone, by the claim: see the head of the file.
        unsafe { slice::from_raw_parts_mut(at, self.len()) }
    }

    /// A chunk of `of`, with a handle of its own.
    #[inline(always)]
    pub(super) fn into_piece(self, of: &Arc<Work>, chunk: u32) -> Piece<T> {
        let Loose { object, body, claim, .. } = self;
        assert!(object == NonNull::from(&*of.array), "a chunk of another array");
        Piece {
            held: Loose { object, body, claim, of: PhantomData },
            of: ManuallyDrop::new(Arc::clone(of)),
            chunk,
            says: 0,
        }
    }

    /// Gives it back, with nothing done.
    #[cold]
    pub(super) fn give_back(self) {
        give_back::<false>(self.object, self.body, self.claim, true, None);
    }
}

impl<T> Piece<T> {
    #[inline(always)]
    pub(super) fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Where it starts in the array.
    #[inline(always)]
    pub(super) fn start(&self) -> u32 {
        self.held.span().start()
    }

    /// The elements, to read.
    #[inline(always)]
    pub(super) fn elements(&self) -> &[T] {
        self.held.elements()
    }

    /// The elements, to write.
    #[inline(always)]
    pub(super) fn elements_mut(&mut self) -> &mut [T] {
        self.held.elements_mut()
    }
}

impl<T> Drop for Piece<T> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: nothing uses it after this.
        let of = unsafe { ManuallyDrop::take(&mut self.of) };
        end(of, self.held.claim, self.chunk, self.says);
    }
}

impl<'a, T: Pod> Hold<'a, T> {
    /// Claims elements `start..start + len`.
    #[inline(always)]
    pub(super) fn take(
        object: &'a Known,
        at: (u32, u32),
        mode: Mode,
        timeout: Option<Duration>,
    ) -> Result<Self, LockError> {
        let (claim, left) = claim::<T>(object, at, mode, timeout)?;
        Ok(Self::new(Loose::new(object, claim), left))
    }

    /// The claim, which stays claimed; `None` of no elements. Its marks are mended, or told.
    pub(super) fn into_loose(mut self) -> Option<Loose<'a, T>> {
        let claim = Some(self.held.claim.take()?);
        Some(Loose { claim, ..self.held })
    }
}

impl<T: Pod> Hold<'static, T, true> {
    /// As [`Hold::take`]; with a handle of its own to the object.
    #[inline(always)]
    pub(super) fn take_owned(
        object: &Known,
        at: (u32, u32),
        mode: Mode,
        timeout: Option<Duration>,
    ) -> Result<Self, LockError> {
        let (claim, left) = claim::<T>(object, at, mode, timeout)?;
        let kept = Arc::into_raw(Arc::clone(&object.object));
        let kept = NonNull::new(kept.cast_mut()).expect("of an `Arc`");
        Ok(Self::new(Loose { object: kept, body: object.body, claim, of: PhantomData }, left))
    }
}

impl<'a, T: Pod, const OWNED: bool> Hold<'a, T, OWNED> {
    #[inline(always)]
    fn new(held: Loose<'a, T>, left: Option<Box<Marks>>) -> Self {
        Self { held, was_panicking: thread::panicking(), left: ManuallyDrop::new(left) }
    }

    #[inline(always)]
    pub(super) fn into_parts(self) -> Parts<'a, T, OWNED> {
        let mut hold = ManuallyDrop::new(self);
        // SAFETY: `hold` is not used after this, nor dropped.
        let left = unsafe { ManuallyDrop::take(&mut hold.left) };
        let Loose { object, body, claim, of } = hold.held;
        Parts { held: Loose { object, body, claim, of }, was_panicking: hold.was_panicking, left }
    }

    pub(super) fn from_parts(parts: Parts<'a, T, OWNED>) -> Self {
        let Parts { held, was_panicking, left } = parts;
        Self { held, was_panicking, left: ManuallyDrop::new(left) }
    }

    /// Are there marks of the dead in it?
    #[inline(always)]
    pub(super) fn has_marks(&self) -> bool {
        self.left.is_some()
    }

    /// The elements, to read.
    #[inline(always)]
    pub(super) fn elements(&self) -> &[T] {
        self.held.elements()
    }

    /// The elements, to write.
    #[inline(always)]
    pub(super) fn elements_mut(&mut self) -> &mut [T] {
        self.held.elements_mut()
    }

    /// Puts back what dead processes' updates had begun to change. All of it is in this claim.
    fn roll_back(&mut self, undo: &[Left]) {
        let Some(claim) = self.held.claim else { return };
        for mark in undo {
            let span = mark.span.common(self.held.span());
            let mut old = vec![T::zeroed(); (span.end() - span.start()) as usize];
            if let Some(words) = self.held.object().part(mark.at.index())
                && Undo::read(words, span, bytemuck::cast_slice_mut(&mut old))
            {
                let from = (span.start() - self.held.span().start()) as usize;
                overwrite(&mut self.elements_mut()[from..from + old.len()], &old);
            }
            self.held.body().claims().repair(
                &claim,
                thread_id(),
                slice::from_ref(mark),
                &Around(self.held.object()),
            );
        }
    }

    /// Writes the only element, of 1, 2, 4 or 8 bytes and aligned to them, by one store.
    #[inline(always)]
    pub(super) fn store(&mut self, value: T) {
        let [element] = self.elements_mut() else { unreachable!("a hold of one element") };
        let bits = to_bits(value);
        match size_of::<T>() {
            1 => as_word::<Word8, T>(element).store(bits as u8, Release),
            2 => as_word::<Word16, T>(element).store(bits as u16, Release),
            4 => as_word::<Word32, T>(element).store(bits as u32, Release),
            _ => as_word::<Word64, T>(element).store(bits, Release),
        }
    }

    /// What claims over marks report: which process died, and where, counted from the start of the hold.
    #[inline(always)]
    pub(super) fn inherited(&self) -> Option<(u32, std::ops::Range<usize>)> {
        self.left.as_ref().and_then(|left| first_and_hull(self.held.span(), &left.0))
    }

    #[inline(always)]
    fn with_claims(&self, f: impl FnOnce(Claims<'_>, &Claim)) {
        if let Some(claim) = &self.held.claim
            && self.held.object().me_now() == Some(claim.me())
        {
            f(self.held.body().claims(), claim);
        }
    }

    /// The marks in it go: the elements are whole.
    #[inline(always)]
    pub(super) fn repair(&mut self) {
        if let (Some(left), Some(claim)) = (self.left.take(), self.held.claim) {
            repair(self.held.object(), self.held.body(), claim, *left);
        }
    }

    /// What was done is whole: our death leaves no mark from here on.
    #[inline(always)]
    pub(super) fn settle(&self) {
        self.with_claims(|claims, claim| claims.settle(claim));
    }

    /// No exclusive claim is granted any more. This is a shared hold of all elements.
    pub(super) fn freeze(&self) {
        self.with_claims(|claims, _| claims.freeze());
    }

    /// Of an undecided hold: `new` replaces the elements, and whoever dies in it has changed nothing, or all.
    pub(super) fn replace(mut self, new: &[T]) -> Result<(), CreateError> {
        let Some(claim) = self.held.claim else { return Ok(()) };
        let index = claim.at().index();
        let span = claim.span;
        if !atomic::broken(Rule::UndoFirst) {
            let bytes: &[u8] = bytemuck::cast_slice(self.elements());
            self.held.object().detach_part(index)?;
            self.held
                .object()
                .attach_part(index, Undo::bytes(bytes.len()), |words| Undo::write(words, span, bytes))?;
        }
        self.with_claims(|claims, claim| claims.decide(claim)); // from here on our death is undone
        overwrite(self.elements_mut(), new);
        self.settle(); // the commit
        self.held.object().detach_part(index)
    }
}

/// What a hold needs: the claim, and the marks in it.
type Claimed = (Option<Claim>, Option<Box<Marks>>);

/// Claims elements `start..start + len`.
#[inline(always)]
fn claim<T: Pod>(
    object: &Known,
    at: (u32, u32),
    mode: Mode,
    timeout: Option<Duration>,
) -> Result<Claimed, LockError> {
    match claim_at_once(object, at, mode) {
        Some(claim) => Ok((Some(claim), None)),
        None => claim_slowly::<T>(object, at, mode, timeout),
    }
}

/// Claims to write, as whom it says, if nobody is in the way and there is nothing to say about it. `None` says nothing.
#[inline(always)]
pub(super) fn claim_free<T: Pod>(object: &Known, at: (u32, u32)) -> Option<(Owner, Loose<'_, T>)> {
    let claim = claim_at_once(object, at, Mode::Exclusive)?;
    Some((claim.me(), Loose::new(object, Some(claim))))
}

#[inline(always)]
fn claim_at_once(object: &Known, (start, len): (u32, u32), mode: Mode) -> Option<Claim> {
    if len == 0 {
        return None;
    }
    // `start + len` is at most the array's length, by `SharedArray`'s checks.
    let span = Span::of(start, len);
    debug_assert!(span.end() <= object.body().len);
    let who = Who { me: object.me_now()?, thread: thread_id() };
    let claims = object.body().claims();
    claims.take_free(who, span, mode, |announced| claim_on(object, span, mode, announced))
}

/// [`Claims::take_on`], out of line.
#[inline(never)]
fn claim_on(object: &Known, span: Span, mode: Mode, announced: Option<Claim>) -> Option<Claim> {
    let me = announced.map(|claim| claim.me()).or_else(|| object.holder_now())?;
    let who = Who { me, thread: thread_id() };
    object.body().claims().take_on(who, span, mode, announced, &Around(object))
}

/// The same, whoever is in the way.
#[cold]
#[inline(never)]
fn claim_slowly<T: Pod>(
    object: &Known,
    (start, len): (u32, u32),
    mode: Mode,
    timeout: Option<Duration>,
) -> Result<Claimed, LockError> {
    if len == 0 {
        return Ok((None, None));
    }
    let (span, exclusive) = (Span::new(start, start + len), mode != Mode::Shared);
    let claims = object.body().claims();
    let me = object.segment().me().map_err(LockError::outside)?;
    if object.is_lost() {
        return Err(LockError::Gone);
    }
    let who = Who { me, thread: thread_id() };
    let all = Span::new(0, object.body().len);
    let deadline = Deadline::after(timeout);
    let (mut wide, mut alone) = (span, exclusive);
    loop {
        // Nothing is marked by our death before the elements are ours to give away.
        let asked = if alone { Mode::Undecided } else { Mode::Shared };
        let (claim, left) = claims
            .take(who, wide, asked, &Around(object), deadline.left())
            .map_err(|refused| refusal(object, refused))?;
        let (undo, left): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|mark| Undo::is_of::<T>(object, mark, all));
        if undo.is_empty() && (wide, alone) == (span, exclusive) {
            if mode == Mode::Exclusive {
                claims.decide(&claim);
            }
            return Ok((Some(claim), (!left.is_empty()).then(|| Box::new(Marks(left)))));
        }
        // An update is undone as a whole, by who has all of it alone: a mark of a part of it would be older than
        // what others write there meanwhile.
        let hull = undo.iter().fold(wide, |hull, mark| hull.hull(mark.span.common(all)));
        if hull == wide && alone {
            let mut whole = Hold::<T>::new(Loose::new(object, Some(claim)), None);
            whole.was_panicking = true;
            whole.roll_back(&undo);
            (wide, alone) = (span, exclusive);
        } else {
            claims.release(&claim);
            (wide, alone) = (hull, true);
        }
    }
}

/// Copies elements in; with a kill point before each, in builds that have them.
fn overwrite<T: Pod>(elements: &mut [T], by: &[T]) {
    if !cfg!(allmend_crash) {
        return elements.copy_from_slice(by);
    }
    for (element, by) in elements.iter_mut().zip(by) {
        atomic::step();
        *element = *by;
    }
}

/// Elements of an array that is frozen.
#[inline]
pub(super) fn frozen<T: Pod>(object: &Known, (start, len): (u32, u32)) -> &[T] {
    if object.holder_now().is_none() {
        object.inherit();
    }
    // SAFETY: within the elements: handles are checked where they are made, and where they arrive.
    let first = unsafe { object.body().elements.cast::<T>().add(start as usize) };
    // SAFETY: nobody writes after a freeze, and `object` keeps the elements.
    unsafe { slice::from_raw_parts(first.as_ptr(), len as usize) }
}

/// An element of one word, as that.
fn as_word<W: ElementWord, T: Pod>(element: &mut T) -> &W {
    let at: NonNull<W> = NonNull::from(element).cast();
    assert!(size_of::<W>() == size_of::<T>() && at.is_aligned());
    // SAFETY: of this width, aligned to it, and borrowed by nobody else; any bytes are a valid atomic.
    unsafe { at.as_ref() }
}

/// The first element of a hold.
struct First<T>(NonNull<T>);

impl<T> First<T> {
    fn as_ptr(&self) -> *const T {
        self.0.as_ptr()
    }

    fn as_mut_ptr(&mut self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Pod, const OWNED: bool> Drop for Hold<'_, T, OWNED> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: nothing reads them after this.
        let left = unsafe { ManuallyDrop::take(&mut self.left) };
        let Loose { object, body, claim, .. } = self.held;
        give_back::<OWNED>(object, body, claim, self.was_panicking, left);
    }
}

/// The drop of a hold: out of line, so that no place that is left by a panic takes the hold's address.
#[inline(never)]
fn give_back<const OWNED: bool>(
    at: NonNull<Object>,
    body: NonNull<Body>,
    claim: Option<Claim>,
    was_panicking: bool,
    left: Option<Box<Marks>>,
) {
    // SAFETY: as in `Loose::object`.
    let object = unsafe { at.as_ref() };
    if let Some(claim) = claim
        && object.me_now() == Some(claim.me())
    {
        // SAFETY: as in `Loose::body`.
        let claims = unsafe { body.as_ref() }.claims();
        if claim.is_exclusive() && !was_panicking && thread::panicking() {
            claims.abandon(&claim);
        } else {
            claims.release(&claim);
        }
    }
    if let Some(left) = left {
        forget(left);
    }
    if OWNED {
        // SAFETY: from `Arc::into_raw` in `take_owned`, and nothing goes through the pointer after this.
        drop(unsafe { Arc::from_raw(at.as_ptr()) });
    }
}

/// As [`give_back`], for [`Piece`]. Also while a panic runs: what was done is whole, or is to be done again, which its word
/// says.
#[inline(never)]
fn end(of: Arc<Work>, claim: Option<Claim>, chunk: u32, says: u32) {
    // In a forked child nothing happens: the chunk is its parent's.
    if let Some(claim) = claim
        && of.array.me_now() == Some(claim.me())
    {
        let word = &of.words.w32()[chunk as usize];
        // Release: who finds it done finds its elements.
        of.array.body().claims().end(&claim, || word.store(says, Release));
    }
}

#[cold]
#[inline(never)]
fn forget(left: Box<Marks>) {
    drop(left);
}

#[cold]
#[inline(never)]
fn repair(object: &Object, body: &Body, claim: Claim, left: Marks) {
    if object.me_now() == Some(claim.me()) {
        body.claims().repair(&claim, thread_id(), &left.0, &Around(object));
    }
}

/// Who left the first of the marks, and the smallest range with all of them that lies in `span`, counted from its start.
#[cold]
fn first_and_hull(span: Span, left: &[Left]) -> Option<(u32, std::ops::Range<usize>)> {
    let common = |mark: &Left| mark.span.common(span);
    let start = left.iter().map(|mark| common(mark).start()).min()?;
    let end = left.iter().map(|mark| common(mark).end()).max()?;
    Some((left.first()?.pid, (start - span.start()) as usize..(end - span.start()) as usize))
}

/// What an update has to put back: word 0 the span, then the elements' bytes.
struct Undo;

impl Undo {
    fn bytes(elements: usize) -> u64 {
        (words_for(elements) as u64 + 1) * 8
    }

    fn write(words: &[Word64], span: Span, bytes: &[u8]) {
        words[0].store(span.bits(), Relaxed);
        store_bytes(&words[1..], bytes);
    }

    /// Says a mark's entry how to undo all of it? If not (of a guard, or if the words were overwritten), the mark is told.
    fn is_of<T: Pod>(object: &Object, mark: &Left, all: Span) -> bool {
        let span = mark.span.common(all);
        object.part(mark.at.index()).is_some_and(|words| {
            let bytes = (span.end() - span.start()) as usize * size_of::<T>();
            Undo::place(words, span, bytes).is_some()
        })
    }

    /// The bytes of `part` of what was written; `false` if that is not there.
    fn read(words: &[Word64], part: Span, out: &mut [u8]) -> bool {
        let Some((words, from)) = Undo::place(words, part, out.len()) else { return false };
        let mut whole = vec![0; from % 8 + out.len()];
        load_bytes(&words[from / 8..], &mut whole);
        out.copy_from_slice(&whole[from % 8..]);
        true
    }

    /// The words with the elements' bytes, and at which byte those of `part` begin, which are `bytes` many.
    fn place(words: &[Word64], part: Span, bytes: usize) -> Option<(&[Word64], usize)> {
        let (head, words) = words.split_first()?;
        let span = Span::from_bits(head.load(Relaxed));
        let count = (part.end() - part.start()) as usize;
        if span.common(part) != part || count == 0 {
            return None;
        }
        let size = bytes / count;
        let all = (span.end() - span.start()) as usize * size;
        (words_for(all) <= words.len()).then_some((words, (part.start() - span.start()) as usize * size))
    }
}

#[cold]
fn refusal(object: &Object, refused: Refused<DescriptorsLost>) -> LockError {
    match refused {
        Refused::Deadlock => LockError::Deadlock,
        Refused::Timeout { owner } => LockError::Timeout { owner: object.segment().pid_of(owner) },
        Refused::Frozen => LockError::Frozen,
        Refused::TooMany => LockError::TooManyClaims,
        Refused::Corrupt => LockError::Damaged,
        Refused::Lost(DescriptorsLost) => LockError::DescriptorsLost,
    }
}

/// How many parts an array with claims may have: one of each entry.
pub(super) const fn parts(rows: usize) -> usize {
    claims::entries(rows)
}
