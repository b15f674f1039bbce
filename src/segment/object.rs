//! An object as one process sees it: where its words are, and what only this process knows of it.
//!
//! There is one [`Object`] per object and process, however many handles and threads: they share it through an `Arc`,
//! and its drop takes this process's holder bit away.
#![allow(
    unsafe_code,
    reason = "words of the mapping, kept as pointers so that the fast paths need no look-up"
)]

use super::{
    Segment,
    keep::Place,
    owner::{OWNER_BITS, Owner},
    parts::{LINE, Part},
};
use crate::{
    atomic::{AcqRel, Acquire, Private32, Private64, Relaxed, Word32, Word64, fence},
    error::CreateError,
};
use std::{
    cell::Cell,
    fmt,
    panic::{RefUnwindSafe, UnwindSafe},
    ptr::NonNull,
    sync::Arc,
};

/// See the module.
pub(crate) struct Object {
    segment: Arc<Segment>,
    place: Place,
    /// The segment's word, once more: the fast path of a lock is as short as its chain of loads.
    identity: &'static Private32,
    w32: NonNull<[Word32]>,
    w64: NonNull<[Word64]>,
    /// See `parts`: the table, and which of its words were found good.
    table: NonNull<[Word64]>,
    known: Box<[Private64]>,
    /// Where the words of a part would begin whose block is at offset 0.
    origin: *const u8,
    /// The first of each, or a word of our own where there is none: the fast paths do not look at lengths.
    first32: NonNull<Word32>,
    first64: NonNull<Word64>,
    holder: Holder,
    lost: Private32,
    /// See [`Object::local`]: the address of a box, or 0.
    local: Private64,
}

// A panic leaves no object half changed: shared words change by whole operations, and locks of values are not poisoned.
impl UnwindSafe for Object {}
impl RefUnwindSafe for Object {}

// SAFETY: the pointers lead into the mapping, which `segment` keeps, and only to atomics.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

/// Which thread of this process holds the object's lock: the word in shared memory names the process only.
///
/// One word, `thread << 30 | owner`, so that it is one store on each side of the lock; 0 for nobody. A record that was
/// inherited by a fork has the parent's owner id in it, and speaks of nobody here.
#[derive(Debug, Default)]
pub(crate) struct Holder(Private64);

impl Holder {
    #[inline(always)]
    fn of_this_thread(owner: Owner) -> u64 {
        thread_id() << OWNER_BITS.count_ones() | u64::from(owner.bits())
    }

    /// Written right after the lock word named `owner`.
    #[inline(always)]
    pub(crate) fn set(&self, owner: Owner) {
        // Relaxed: the lock word orders this between threads; who does not hold the lock only compares.
        self.0.store(Self::of_this_thread(owner), Relaxed);
    }

    /// Written right before the lock word is let go.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    /// Does this thread hold it, as `owner`?
    pub(crate) fn is_me(&self, owner: Owner) -> bool {
        self.0.load(Relaxed) == Self::of_this_thread(owner)
    }

    /// Does any thread of this process hold it, as `owner`?
    pub(crate) fn is_set(&self, owner: Owner) -> bool {
        self.0.load(Relaxed) & u64::from(OWNER_BITS) == u64::from(owner.bits())
    }
}

/// A number for this thread, never 0, never used again in this process.
#[inline]
pub(crate) fn thread_id() -> u64 {
    thread_local! {
        static ID: Cell<u64> = const { Cell::new(0) };
    }
    #[cold]
    fn first() -> u64 {
        static NEXT: Private64 = Private64::new(1);
        let id = NEXT.fetch_add(1, Relaxed); // only uniqueness counts
        ID.with(|cell| cell.set(id));
        id
    }
    match ID.with(Cell::get) {
        0 => first(),
        id => id,
    }
}

const LOST: &str =
    "the object was dropped by the process that forked this one, or what keeps it was overwritten";

/// Words for objects that have none.
static NOWHERE: (Word32, Word64) = (Word32::new(0), Word64::new(0));

impl Object {
    /// `w64` ends with the table of `parts` words.
    pub(super) fn new(
        segment: &Arc<Segment>,
        place: Place,
        w32: &[Word32],
        w64: &[Word64],
        parts: usize,
    ) -> Self {
        let (w64, table) = w64.split_at(w64.len() - parts);
        Self {
            segment: Arc::clone(segment),
            place,
            identity: segment.identity(),
            w32: NonNull::from(w32),
            w64: NonNull::from(w64),
            table: NonNull::from(table),
            known: table.iter().map(|_| Private64::new(0)).collect(),
            origin: segment.bytes().start().as_ptr().wrapping_add(segment.geometry().record_bytes() as usize),
            first32: NonNull::from(w32.first().unwrap_or(&NOWHERE.0)),
            first64: NonNull::from(w64.first().unwrap_or(&NOWHERE.1)),
            holder: Holder::default(),
            lost: Private32::new(0),
            local: Private64::new(0),
        }
    }

    /// Where it lives.
    #[inline]
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// As whom this process takes part; `None` in a forked child that has not attached yet.
    #[inline(always)]
    pub(crate) fn me_now(&self) -> Option<Owner> {
        // Acquire: in a forked child, pairs with `attach_again`, which marks what is lost before.
        Owner::from_private(self.identity.load(Acquire))
    }

    /// Its name within the segment.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The 32-bit words of its body, 64-byte aligned: lock words and what can be slept on.
    #[inline]
    pub(crate) fn w32(&self) -> &[Word32] {
        // SAFETY: made from a slice of the mapping, which `self.segment` keeps as long as `self`.
        unsafe { self.w32.as_ref() }
    }

    /// The 64-bit words of its body, without the table of its parts.
    #[inline]
    pub(crate) fn w64(&self) -> &[Word64] {
        // SAFETY: made from a slice of the mapping, which `self.segment` keeps as long as `self`.
        unsafe { self.w64.as_ref() }
    }

    /// For how many parts it has room.
    pub(crate) fn parts(&self) -> usize {
        self.table.len()
    }

    /// The table of its parts.
    #[inline(always)]
    pub(super) fn table(&self) -> &[Word64] {
        // SAFETY: made from a slice of the mapping, which `self.segment` keeps as long as `self`.
        unsafe { self.table.as_ref() }
    }

    /// What this process found good of the table's word for a part, if it has looked.
    #[inline(always)]
    pub(super) fn known(&self, index: usize) -> Option<Known<'_>> {
        // Relaxed: the word says all, and its words were looked at before it came here.
        match self.known.get(index)?.load(Relaxed) {
            0 => None,
            word => Some(Known { object: self, word }),
        }
    }

    /// The table's word for a part, and what is [known](Self::known) of it. `None` if the table has no such part.
    #[inline(always)]
    pub(super) fn table_word(&self, index: usize) -> Option<(u64, Option<Known<'_>>)> {
        let known = self.known.get(index)?.load(Relaxed); // as above
        // SAFETY: the table has as many words as `known`: see `new`.
        let word = unsafe { self.table().get_unchecked(index) };
        // Acquire: the part is whole.
        let word = word.load(Acquire);
        Some((word, (known != 0).then_some(Known { object: self, word: known })))
    }

    /// From now on, `word` (not 0) is [`Self::known`].
    ///
    /// # Panics
    /// If it does not lead into the segment.
    pub(super) fn know(&self, index: usize, word: u64) -> Known<'_> {
        let known = Known { object: self, word };
        // Checked here once, for all uses of `Known`.
        let words = self.segment.part_words(word);
        assert!(std::ptr::eq(words.as_ptr(), known.start()) && words.len() == known.len());
        self.known[index].store(word, Relaxed);
        known
    }

    /// The first 32-bit word: the lock, if the object has one.
    #[inline(always)]
    pub(crate) fn first32(&self) -> &Word32 {
        // SAFETY: made from a reference into the mapping, which `self.segment` keeps, or to a static.
        unsafe { self.first32.as_ref() }
    }

    /// The first 64-bit word: the value, if the object is one of at most 8 bytes.
    #[inline(always)]
    pub(crate) fn first64(&self) -> &Word64 {
        // SAFETY: as above.
        unsafe { self.first64.as_ref() }
    }

    /// Who of this process holds its lock.
    #[inline]
    pub(crate) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Something that only this process knows of the object, made at first use. Two threads that come first may make two,
    /// of which one is dropped: no lock, which a child that is forked meanwhile would find held for ever.
    pub(crate) fn local<X: std::any::Any + Send + Sync>(&self, make: impl FnOnce() -> X) -> &X {
        let mut address = self.local.load(Acquire);
        if address == 0 {
            let made: *mut Local = Box::into_raw(Box::new(Box::new(make())));
            address = made.expose_provenance() as u64;
            // Release: what was made goes with its address.
            if let Err(other) = self.local.compare_exchange(0, address, AcqRel, Acquire) {
                // SAFETY: from `into_raw`, and nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                address = other;
            }
        }
        let local: *const Local = std::ptr::with_exposed_provenance(address as usize);
        // SAFETY: the address of a box that is dropped with `self`.
        let local = unsafe { &*local };
        local.downcast_ref().expect("each kind of object keeps one type here")
    }

    /// As whom this process holds the object. `None` in a forked child that has not attached yet, and in one whose
    /// parent let the object go before that: the words may be another object's by now.
    #[inline(always)]
    pub(crate) fn holder_now(&self) -> Option<Owner> {
        self.me_now().filter(|_| !self.is_lost())
    }

    /// If [`Self::holder_now`] is `None`, before a write: a forked child takes part, and gets a hold of its own.
    ///
    /// # Panics
    /// If its parent let the object go before that, or if there is no place for the child: the words may be another
    /// object's then.
    #[cold]
    pub(crate) fn inherit(&self) {
        let attached = self.segment.me();
        assert!(attached != Err(CreateError::ReadOnly), "the object is open here for reading only");
        assert!(attached.is_ok(), "this forked process has no place in the segment: {attached:?}");
        assert!(!self.is_lost(), "{LOST}");
    }

    /// If [`Self::holder_now`] is `None`, around a look: as [`Self::inherit`], but without a place the child can look
    /// as long as others keep the object. So can everybody in a segment that is open for reading only.
    ///
    /// # Panics
    /// If the object is gone, before or after, or (of a named segment) all who took part in it are.
    #[cold]
    pub(crate) fn inherit_to_look<R>(&self, look: impl FnOnce() -> R) -> R {
        let gone = match self.segment.me() {
            Ok(_) => {
                assert!(!self.is_lost(), "{LOST}");
                return look();
            }
            Err(CreateError::Removed) => panic!("{}", CreateError::Removed),
            Err(CreateError::ReadOnly) => {
                "the object is gone: it is open here for reading only, which keeps nothing"
            }
            Err(_) => LOST,
        };
        assert!(self.segment.is_there(self.place), "{gone}");
        let seen = look();
        fence(Acquire); // what was seen came before this second question
        assert!(self.segment.is_there(self.place), "{gone}");
        seen
    }

    /// This process was forked, and its parent let the object go before it was used here.
    #[inline(always)]
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Relaxed) != 0
    }

    pub(super) fn set_lost(&self) {
        self.lost.store(1, Relaxed);
    }
}

/// A part that was looked up: no look at the table, the segment's size or the part's block is needed any more.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    object: &'a Object,
    word: u64,
}

impl<'a> Known<'a> {
    /// The table's word.
    #[inline(always)]
    pub(super) fn word(self) -> u64 {
        self.word
    }

    #[inline(always)]
    fn start(self) -> *const Word64 {
        self.object.origin.wrapping_add(Part::decode(self.word).at as usize).cast()
    }

    #[inline(always)]
    fn len(self) -> usize {
        (Part::decode(self.word).bytes / 8) as usize
    }

    #[inline(always)]
    pub(super) fn words(self) -> &'a [Word64] {
        // SAFETY: in the mapping, by the check in `know`, from which alone a `Known` comes; the object keeps the mapping;
        // any bytes are valid atomics.
        unsafe { std::slice::from_raw_parts(self.start(), self.len()) }
    }

    /// Line `line` of 64 bytes.
    #[inline(always)]
    pub(super) fn line(self, line: u64) -> Option<&'a [Word64; 8]> {
        if line >= Part::decode(self.word).bytes / LINE {
            return None;
        }
        let start = self.start().wrapping_byte_add((line * LINE) as usize);
        // SAFETY: as above, and within the part, which is whole lines.
        Some(unsafe { &*start.cast() })
    }
}

type Local = Box<dyn std::any::Any + Send + Sync>;

impl Drop for Object {
    fn drop(&mut self) {
        let local = self.local.load(Acquire);
        if local != 0 {
            // SAFETY: from `into_raw` in `local`, and nobody has a reference into it any more.
            drop(unsafe { Box::<Local>::from_raw(std::ptr::with_exposed_provenance_mut(local as usize)) });
        }
        self.segment.dropped(self.place);
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("at", &self.place.at)
            .field("generation", &self.place.generation)
            .finish()
    }
}
