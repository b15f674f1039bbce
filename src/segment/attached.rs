//! A segment as one process sees it, and what is private to this process: its part in each segment, and which objects
//! it holds there.
//!
//! What is private (how many handles an object has, the claim to a slot) is in [`Local`], behind one lock, taken before
//! each fork and released after it on both sides. No other process ever waits for it. Drops of segments and objects take it
//! too: nothing that may be the last handle is dropped under it.

use super::{
    bytes::Bytes,
    extents::{Block, Extents, Hints},
    keep::Keep,
    layout::Geometry,
    named::Named,
    object::Object,
    owner::Owner,
    participants::Participants,
    record,
};
use crate::{
    atomic::{Acquire, Private32, Relaxed, Release, Word32, Word64},
    error::{CreateError, OsError},
    os::{
        fork,
        liveness::{DescriptorsLost, Observer},
        memory::{Anchor, ForkAware},
    },
};
use rustix::fd::BorrowedFd;
use std::{
    cell::RefCell,
    collections::HashMap,
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// A mapped segment in which this process takes part.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(super) id: u128,
    pub(super) geometry: Geometry,
    pub(super) bytes: Bytes,
    pub(super) observer: Observer,
    /// Our owner id; 0 in a forked child that has not attached yet.
    pub(super) identity: ForkAware,
    /// Set once this is in [`Local`]. Before, it is dropped by an attach that failed, under the lock.
    pub(super) registered: Private32,
    /// What a segment with a name has besides.
    pub(super) named: Option<Named>,
}

/// What is private to this process.
#[derive(Default)]
pub(super) struct Local {
    /// Where objects go that were not put anywhere else.
    pub(super) default: Option<Arc<Segment>>,
    segments: HashMap<u128, Own>,
    /// Those that are open for reading only, beside the same for writing or alone.
    read_only: HashMap<u128, Own>,
}

/// Words of segments that are gone, to be used again: their pages are never unmapped. Locked under [`LOCAL`] only, so
/// nobody ever waits for it, and no fork comes between. Beside it, for the drop of what an attach that failed had made.
static SPARE: Mutex<Vec<ForkAware>> = Mutex::new(Vec::new());

fn spare() -> MutexGuard<'static, Vec<ForkAware>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Our part in one segment.
pub(super) struct Own {
    pub(super) segment: Weak<Segment>,
    /// The segment's word (of one open for reading only: its entry word): 0 in a forked child that has not attached,
    /// which has inherited no anchor.
    pub(super) identity: ForkAware,
    pub(super) anchor: Option<Anchor>,
    pub(super) objects: HashMap<u64, Held>,
    pub(super) hints: Hints,
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(anchor) = self.anchor.take()
            && self.identity.word().load(Relaxed) == 0
        {
            anchor.not_inherited();
        }
    }
}

/// An object that this process holds.
pub(super) struct Held {
    pub(super) generation: u64,
    /// How many [`Object`]s of it are not dropped yet: for a moment there may be two.
    pub(super) instances: usize,
    pub(super) object: Weak<Object>,
}

static LOCAL: Mutex<Option<Local>> = Mutex::new(None);

thread_local! {
    static OVER_FORK: RefCell<Option<MutexGuard<'static, Option<Local>>>> = const { RefCell::new(None) };
}

extern "C" fn before_fork() {
    // A thread that is past its destructors forks without the lock: nothing better can be done for it. And two
    // threads that came first at the same time have registered us twice.
    let _ = OVER_FORK.try_with(|stash| {
        stash.borrow_mut().get_or_insert_with(|| LOCAL.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

extern "C" fn after_fork() {
    let _ = OVER_FORK.try_with(|stash| drop(stash.take()));
}

pub(super) fn local() -> Result<MutexGuard<'static, Option<Local>>, CreateError> {
    // No `OnceLock`: a child that was forked while another thread was in it would wait for that thread for ever.
    static HOOKED: Private32 = Private32::new(0);
    if HOOKED.load(Acquire) == 0 {
        fork::at_fork(before_fork, after_fork)?;
        HOOKED.store(1, Release);
    }
    Ok(LOCAL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Local {
    fn of(&mut self, read_only: bool) -> &mut HashMap<u128, Own> {
        if read_only { &mut self.read_only } else { &mut self.segments }
    }

    pub(super) fn own(&mut self, segment: &Segment) -> Option<&mut Own> {
        self.of(segment.is_read_only()).get_mut(&segment.id)
    }

    /// The segment of that id, if this process has it, for writing or for reading only.
    pub(super) fn find(&mut self, id: u128, read_only: bool) -> Option<Arc<Segment>> {
        self.of(read_only).get(&id)?.segment.upgrade()
    }

    /// From now on this process has it, and its drop takes it out again.
    pub(super) fn register(&mut self, segment: &Arc<Segment>, own: Own) {
        segment.registered.store(1, Relaxed);
        self.of(segment.is_read_only()).insert(segment.id, own);
    }

    pub(super) fn identity(&mut self) -> Result<ForkAware, OsError> {
        let spare = spare().pop();
        spare.map_or_else(ForkAware::new, Ok)
    }
}

impl Segment {
    /// This process's name in the segment. Attaches anew in a forked child.
    #[inline]
    pub(crate) fn me(&self) -> Result<Owner, CreateError> {
        match self.me_now() {
            Some(me) => Ok(me),
            None => self.attach_again(),
        }
    }

    /// As [`Self::me`], `None` in a forked child that has not attached yet.
    #[inline(always)]
    pub(crate) fn me_now(&self) -> Option<Owner> {
        // Acquire: in a forked child, pairs with `attach_again`, which marks what is lost before.
        Owner::from_private(self.identity.word().load(Acquire))
    }

    /// The word behind [`Self::me_now`].
    pub(super) fn identity(&self) -> &'static Private32 {
        self.identity.word()
    }

    /// What tells this segment from all others.
    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    /// The segment of that id, if this process takes part in it.
    pub(crate) fn by_id(id: u128) -> Option<Arc<Self>> {
        local().ok()?.as_ref()?.segments.get(&id)?.segment.upgrade()
    }

    /// How many processes can take part at a time.
    pub(crate) fn places(&self) -> u32 {
        self.geometry.max_processes
    }

    /// Do its descriptors still lead to it? Nobody may have closed them, but code that closes all does.
    pub(crate) fn has_descriptors(&self) -> bool {
        self.observer.is_there() || self.observer.checked().is_ok()
    }

    /// To hand to a child: for mapping and reopening only.
    pub(crate) fn descriptor(&self) -> Result<BorrowedFd<'_>, CreateError> {
        self.observer.checked().map_err(|_| CreateError::DescriptorsLost)
    }

    pub(super) fn participants(&self) -> Participants<'_> {
        Participants { bytes: &self.bytes, geometry: &self.geometry, observer: &self.observer }
    }

    pub(super) fn extents(&self) -> Extents<'_> {
        Extents { bytes: &self.bytes, geometry: &self.geometry, observer: &self.observer }
    }

    pub(super) fn keep(&self, me: Owner) -> Keep<'_> {
        Keep { extents: self.extents(), me }
    }

    /// A word of the header, for tests.
    #[cfg(test)]
    pub(super) fn header_word(&self, at: u64) -> u64 {
        self.bytes.w64(at).load(Relaxed)
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of address space: no more memory than that.
    pub(crate) fn reserved(&self) -> u64 {
        self.geometry.reserve
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Does `owner` live? `Ok(false)` is the licence to take over what it held.
    pub(crate) fn is_alive(&self, owner: Owner) -> Result<bool, DescriptorsLost> {
        let me = self.me().map_err(|_| DescriptorsLost)?;
        self.participants().is_alive(owner, me)
    }

    /// Its process id, for messages.
    pub(crate) fn pid_of(&self, owner: Owner) -> Option<u32> {
        self.participants().pid_of(owner)
    }

    /// Notes that this thread is about to sleep on `word`, which `owner` holds. For [`Self::forget_wait`].
    pub(crate) fn note_wait(&self, word: &Word32, owner: Owner) -> Option<u64> {
        let offset = self.bytes.offset_of(word)?;
        self.participants().note_wait(self.me_now()?, offset, owner)
    }

    /// This thread is awake again.
    pub(crate) fn forget_wait(&self, record: u64) {
        if let Some(me) = self.me_now() {
            self.participants().forget_wait(me, record);
        }
    }

    /// The lock words on which somebody sleeps because `dead` held them: 32-bit words of objects, checked.
    pub(crate) fn words_awaited_from(&self, dead: Owner) -> Vec<&Word32> {
        let extents = self.extents();
        let word = |offset: u64| {
            let block = extents.containing(offset)?;
            let body = block.at + self.geometry.record_bytes();
            let (w32, _) = self.body(&block)?;
            let index = usize::try_from(offset.checked_sub(body)? / 4).ok()?;
            w32.get(index).filter(|_| offset.is_multiple_of(4))
        };
        self.participants().waits_for(dead).into_iter().filter_map(word).collect()
    }

    /// The words of a block's body, as its record says, if they fit into the block.
    pub(super) fn body(&self, block: &Block) -> Option<(&[Word32], &[Word64])> {
        let words = self.bytes.w64(block.at + record::WORDS * 8).load(Relaxed);
        let (n32, n64) = (words & u64::from(u32::MAX), words >> 32);
        let end = self.geometry.record_bytes() + (n32 * 4).next_multiple_of(8) + n64 * 8;
        (end <= block.bytes).then(|| self.body_words(block, n32, n64))
    }

    pub(super) fn body_words(&self, block: &Block, n32: u64, n64: u64) -> (&[Word32], &[Word64]) {
        let at = block.at + self.geometry.record_bytes();
        let at64 = at + (n32 * 4).next_multiple_of(8);
        (self.bytes.words32(at, n32 as usize), self.bytes.words64(at64, n64 as usize))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let word = self.entered().unwrap_or(self.identity);
        if self.registered.load(Relaxed) == 0 {
            // An attach that failed: its caller has the lock.
            word.word().store(0, Release);
            spare().push(word);
            return;
        }
        let Ok(mut local) = local() else { return };
        let local = local.get_or_insert_default();
        // Another thread may have joined the same segment anew between the last handle and here.
        if local.own(self).is_some_and(|own| ptr::eq(own.segment.as_ptr(), self)) {
            // The anchor goes with the record of our part, and with it our slot.
            local.of(self.is_read_only()).remove(&self.id);
        }
        if let Some(named) = &self.named {
            named.leave(&self.observer);
        }
        word.word().store(0, Release);
        spare().push(word);
    }
}
