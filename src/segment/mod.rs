//! Segments: bytes that several processes share, the objects in them, and who takes part.
//!
//! ```text
//! mod            attach, create, open: the face of the room      object   an object as one process sees it
//! layout         where everything is                             handle   objects by serde, inside the pool's wire
//! bytes          from an offset to a word                        verify   is every byte free, or reachable once
//! participants   who takes part, and who died                    owner    the number that names a process
//! extents        memory and blocks                               record   the words before an object's body
//! keep           how long an object lives                        words    bytes in and out of words
//! parts          further blocks of an object
//! named          segments that have a name in /dev/shm           census   a list of them, and a sweep
//! names          names as words: the protocol                    directory  names of objects in a segment
//! ```
//!
//! What is private to a process (how many handles it has, its claim to a slot) is in [`Local`], behind one lock, taken
//! before each fork and released after it on both sides. No other process ever waits for it.

mod names;
pub(crate) mod owner;
pub(crate) mod words;

#[cfg(not(loom))]
mod bytes;
#[cfg(not(loom))]
pub(crate) mod census;
#[cfg(not(loom))]
pub(crate) mod directory;
#[cfg(not(loom))]
mod extents;
#[cfg(not(loom))]
pub(crate) mod handle;
#[cfg(not(loom))]
mod keep;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
pub(crate) mod named;
#[cfg(not(loom))]
pub(crate) mod object;
#[cfg(not(loom))]
mod participants;
#[cfg(not(loom))]
mod parts;
#[cfg(not(loom))]
pub(crate) mod record;
#[cfg(not(loom))]
mod verify;

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(not(loom))]
pub(crate) use self::{
    attached::Segment,
    keep::{PinChain, Place},
    object::{Holder, Object},
    record::{Kind, Stamp},
};
#[cfg(not(loom))]
pub use self::{census::SegmentInfo, verify::Report};

/// Places for processes in a private segment: what fits into two words of holder bits. More cost every object.
#[cfg(not(loom))]
const DEFAULT_MAX_PROCESSES: u32 = 127;

#[cfg(not(loom))]
mod attached {
    use super::{
        bytes::Bytes,
        extents::{Block, Extents, Hints, State},
        keep::{Keep, PinChain, Place},
        layout::{EXTENT, Geometry, MAGIC, VERSION, header},
        named::{self, Named, NamedOptions},
        names,
        object::Object,
        owner::Owner,
        participants::Participants,
        record::{self, Kind, Stamp},
    };
    use crate::{
        atomic::{self, Acquire, Private32, Relaxed, Release, Rule},
        error::{CreateError, HandleError, OpenError, OsError},
        os::{
            fork,
            liveness::{self, DescriptorsLost, Observer},
            memory::{self, Anchor, ForkAware, Mapping},
        },
    };
    use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::{
        cell::RefCell,
        collections::HashMap,
        ptr,
        sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    };

    /// A mapped segment in which this process takes part.
    #[derive(Debug)]
    pub(crate) struct Segment {
        pub(in crate::segment) id: u128,
        pub(in crate::segment) geometry: Geometry,
        pub(in crate::segment) bytes: Bytes,
        pub(in crate::segment) observer: Observer,
        /// Our owner id; 0 in a forked child that has not attached yet.
        pub(in crate::segment) identity: ForkAware,
        /// Set once this is in [`Local`]. Before, it is dropped by an attach that failed, under the lock.
        pub(in crate::segment) registered: Private32,
        /// What a segment with a name has besides.
        pub(in crate::segment) named: Option<Named>,
    }

    /// What is private to this process.
    #[derive(Default)]
    pub(in crate::segment) struct Local {
        /// Where objects go that were not put anywhere else.
        default: Option<Arc<Segment>>,
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
    pub(in crate::segment) struct Own {
        segment: Weak<Segment>,
        /// The segment's word (of one open for reading only: its entry word): 0 in a forked child that has not attached,
        /// which has inherited no anchor.
        identity: ForkAware,
        anchor: Option<Anchor>,
        objects: HashMap<u64, Held>,
        hints: Hints,
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

    /// What can be said of an object without opening it.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub(crate) struct Described {
        pub(crate) kind: u64,
        /// Of its type.
        pub(crate) size: u32,
        pub(crate) align: u32,
        /// Of its body.
        pub(crate) bytes: u64,
        /// Process ids of who holds it.
        pub(crate) users: Vec<u32>,
    }

    /// An object that this process holds.
    struct Held {
        generation: u64,
        /// How many [`Object`]s of it are not dropped yet: for a moment there may be two.
        instances: usize,
        object: Weak<Object>,
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

    pub(in crate::segment) fn local() -> Result<MutexGuard<'static, Option<Local>>, CreateError> {
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

        fn own(&mut self, segment: &Segment) -> Option<&mut Own> {
            self.of(segment.is_read_only()).get_mut(&segment.id)
        }

        /// The segment of that id, if this process has it, for writing or for reading only.
        pub(in crate::segment) fn find(&mut self, id: u128, read_only: bool) -> Option<Arc<Segment>> {
            self.of(read_only).get(&id)?.segment.upgrade()
        }

        /// From now on this process has it, and its drop takes it out again.
        pub(in crate::segment) fn register(&mut self, segment: &Arc<Segment>, own: Own) {
            segment.registered.store(1, Relaxed);
            self.of(segment.is_read_only()).insert(segment.id, own);
        }

        pub(in crate::segment) fn identity(&mut self) -> Result<ForkAware, OsError> {
            let spare = spare().pop();
            spare.map_or_else(ForkAware::new, Ok)
        }
    }

    impl Segment {
        /// The process's own private segment, made at first use; in a worker the pool's.
        pub(crate) fn default_segment() -> Result<Arc<Self>, CreateError> {
            let mut local = local()?;
            let local = local.get_or_insert_default();
            if let Some(segment) = &local.default {
                return Ok(Arc::clone(segment));
            }
            let (segment, own) = Self::create_default_size(local)?;
            local.register(&segment, own);
            local.default = Some(Arc::clone(&segment));
            Ok(segment)
        }

        /// A further private segment, reached through its handles and its descriptor only.
        pub(crate) fn private() -> Result<Arc<Self>, CreateError> {
            Self::create_and_register(Self::create_default_size)
        }

        /// As [`Self::private`], of that size, and for so many processes.
        pub(crate) fn private_of(options: &NamedOptions) -> Result<Arc<Self>, OpenError> {
            let geometry = named::geometry_for(options)?;
            Ok(Self::create_and_register(|local| Self::create_private(geometry, local))?)
        }

        fn create_and_register(
            create: impl FnOnce(&mut Local) -> Result<(Arc<Self>, Own), CreateError>,
        ) -> Result<Arc<Self>, CreateError> {
            let mut local = local()?;
            let local = local.get_or_insert_default();
            let (segment, own) = create(local)?;
            local.register(&segment, own);
            Ok(segment)
        }

        fn create_default_size(local: &mut Local) -> Result<(Arc<Self>, Own), CreateError> {
            let mut geometry = Geometry::default_private()?;
            loop {
                match Self::create_private(geometry, local) {
                    // Less address space than memory (RLIMIT_AS): half of it may do.
                    Err(CreateError::Os(OsError { errno: libc::ENOMEM | libc::EFBIG, .. })) => {
                        let half = geometry.reserve / 2 / EXTENT * EXTENT;
                        geometry = Geometry::new(half, geometry.max_processes)
                            .ok_or(CreateError::Full { bytes: geometry.reserve })?;
                    }
                    other => return other,
                }
            }
        }

        fn create_private(geometry: Geometry, local: &mut Local) -> Result<(Arc<Self>, Own), CreateError> {
            let fd = memory::create_sealed(geometry.reserve)?;
            let segment = Self {
                id: memory::random_id()?,
                geometry,
                bytes: Bytes::new(Mapping::new(fd.as_fd(), geometry.reserve as usize)?),
                observer: Observer::open(fd.as_fd())?,
                identity: local.identity()?,
                registered: Private32::new(0),
                named: None,
            };
            segment.write_header()?;
            segment.finish_header();
            segment.take_part(liveness::reopen(fd.as_fd())?.as_fd())
        }

        /// All of a new segment's header but the magic.
        pub(in crate::segment) fn write_header(&self) -> Result<(), CreateError> {
            super::extents::commit(&self.observer, 0, self.geometry.pins_at)?;
            let header = |at, value| self.bytes.w64(at).store(value, Relaxed);
            header(header::VERSION, VERSION);
            header(header::ID, self.id as u64);
            header(header::ID + 8, (self.id >> 64) as u64);
            header(header::RESERVE, self.geometry.reserve);
            header(header::MAX_PROCESSES, u64::from(self.geometry.max_processes));
            header(header::GENERATION, 1);
            Ok(())
        }

        pub(in crate::segment) fn finish_header(&self) {
            // Release: layout, invariant 2.
            self.bytes.w64(header::MAGIC).store(MAGIC, Release);
        }

        /// The id that the header gives.
        pub(in crate::segment) fn id_in(bytes: &Bytes) -> u128 {
            let half = |at| u128::from(bytes.w64(at).load(Relaxed));
            half(header::ID) | half(header::ID + 8) << 64
        }

        /// Takes part in a private segment that another process made, and makes it this process's default.
        pub(crate) fn adopt(fd: OwnedFd) -> Result<Arc<Self>, CreateError> {
            let segment = Self::join(fd)?;
            // What was the default is dropped after the lock: a segment's last reference takes it again.
            let before = local()?.get_or_insert_default().default.replace(Arc::clone(&segment));
            drop(before);
            Ok(segment)
        }

        /// Takes part in a segment that another process made (or this one: then it is the same).
        pub(crate) fn join(fd: OwnedFd) -> Result<Arc<Self>, CreateError> {
            let damaged = |what: &'static str| CreateError::Damaged(what.into());
            if !memory::is_sealed(fd.as_fd()) {
                return Self::join_named(&fd)?.ok_or(damaged("its size is not sealed"));
            }
            let (size, _) = memory::stat(fd.as_fd())?;
            if size < EXTENT || size > isize::MAX as u64 {
                return Err(damaged("its size is not one of ours"));
            }
            let bytes = Bytes::new(Mapping::new(fd.as_fd(), size as usize)?);
            if bytes.w64(header::MAGIC).load(Acquire) != MAGIC {
                return Err(damaged("no segment of ours, or not ready"));
            }
            if bytes.w64(header::VERSION).load(Relaxed) != VERSION {
                return Err(damaged("another version of the layout"));
            }
            let max = u32::try_from(bytes.w64(header::MAX_PROCESSES).load(Relaxed)).unwrap_or(0);
            let geometry = Geometry::new(bytes.w64(header::RESERVE).load(Relaxed), max)
                .filter(|g| g.reserve == size)
                .ok_or(damaged("its sizes contradict each other"))?;
            let id = Self::id_in(&bytes);
            let known; // dropped after the lock, as above
            let mut local = local()?;
            let local = local.get_or_insert_default();
            known = local.find(id, false);
            if let Some(segment) = known {
                return Ok(segment);
            }
            let (segment, own) = Self {
                id,
                geometry,
                bytes,
                observer: Observer::open(fd.as_fd())?,
                identity: local.identity()?,
                registered: Private32::new(0),
                named: None,
            }
            .take_part(liveness::reopen(fd.as_fd())?.as_fd())?;
            local.register(&segment, own);
            Ok(segment)
        }

        /// Gets this process its place, through a description that is its alone. The caller closes that, and registers.
        pub(in crate::segment) fn take_part(
            self,
            description: BorrowedFd<'_>,
        ) -> Result<(Arc<Self>, Own), CreateError> {
            let (word, me, anchor) = match self.entered() {
                Some(entered) => (entered, 1, Anchor::new(description)?), // only to look
                None => {
                    let (me, anchor) =
                        self.participants().attach(description, |me| self.clear_own_slot(me))?;
                    (self.identity, me.bits(), anchor)
                }
            };
            word.word().store(me, Release);
            let segment = Arc::new(self);
            let own = Own {
                segment: Arc::downgrade(&segment),
                identity: word,
                anchor: Some(anchor),
                objects: HashMap::new(),
                hints: Hints::default(),
            };
            Ok((segment, own))
        }

        fn clear_own_slot(&self, me: Owner) {
            if atomic::broken(Rule::SweepTheDead) {
                return;
            }
            self.keep(me).clear_slot(me.slot());
        }

        /// In a forked child, at first use: an identity of its own, and a hold on all that it inherited.
        #[cold]
        fn attach_again(&self) -> Result<Owner, CreateError> {
            let mut inherited = Vec::new(); // dropped after the lock: a last handle takes it again
            let mut local = local()?;
            if let Some(me) = self.me_now() {
                return Ok(me); // another thread was faster
            }
            if self.entered().is_some_and(|entered| entered.word().load(Acquire) != 0) {
                return Err(CreateError::ReadOnly);
            }
            let own = local.as_mut().and_then(|local| local.own(self));
            let own = own.ok_or(CreateError::Damaged("a segment without a record of our own".into()))?;
            if let Some(anchor) = own.anchor.take() {
                anchor.not_inherited();
            }
            let description = match &self.named {
                Some(named) => named.enter(&self.observer)?,
                None => liveness::reopen(self.descriptor()?)?,
            };
            if let Some(entered) = self.entered() {
                own.anchor = Some(Anchor::new(&description)?);
                entered.word().store(1, Release);
                return Err(CreateError::ReadOnly);
            }
            let (me, anchor) =
                self.participants().attach(description.as_fd(), |me| self.clear_own_slot(me))?;
            own.anchor = Some(anchor);
            let keep = self.keep(me);
            own.objects.retain(|&at, held| {
                let object = held.object.upgrade();
                let kept = keep.hold(Place { at, generation: held.generation }).is_ok();
                if let Some(object) = object.as_ref().filter(|_| !kept) {
                    object.set_lost();
                }
                inherited.push(object);
                kept // else its place may be another object's by now
            });
            // Release: who reads our name finds the lost ones marked.
            self.identity.word().store(me.bits(), Release);
            drop(local);
            Ok(me)
        }

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
        pub(crate) fn note_wait(&self, word: &crate::atomic::Word32, owner: Owner) -> Option<u64> {
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
        pub(crate) fn words_awaited_from(&self, dead: Owner) -> Vec<&crate::atomic::Word32> {
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
        fn body(&self, block: &Block) -> Option<(&[crate::atomic::Word32], &[crate::atomic::Word64])> {
            let words = self.bytes.w64(block.at + record::WORDS * 8).load(Relaxed);
            let (n32, n64) = (words & u64::from(u32::MAX), words >> 32);
            let end = self.geometry.record_bytes() + (n32 * 4).next_multiple_of(8) + n64 * 8;
            (end <= block.bytes).then(|| self.body_words(block, n32, n64))
        }

        fn body_words(
            &self,
            block: &Block,
            n32: u64,
            n64: u64,
        ) -> (&[crate::atomic::Word32], &[crate::atomic::Word64]) {
            let at = block.at + self.geometry.record_bytes();
            let at64 = at + (n32 * 4).next_multiple_of(8);
            (self.bytes.words32(at, n32 as usize), self.bytes.words64(at64, n64 as usize))
        }

        /// Is the object there at this moment? For who looks at it without a hold.
        pub(super) fn is_there(&self, place: Place) -> bool {
            let extents = self.extents();
            extents.locate(place.at).is_some_and(|block| {
                // Acquire: the generation is the one of this life.
                // DYING: whoever is at it, the place is not another object's yet.
                let state = State::decode(extents.state(&block).load(Acquire));
                matches!(state, Some(State::Live | State::Dying(_)))
                    && self.bytes.w64(block.at + record::GENERATION * 8).load(Relaxed) == place.generation
            })
        }

        /// What is at `place` at this moment.
        pub(crate) fn describe(&self, place: Place) -> Option<Described> {
            let block = self.extents().locate(place.at)?;
            let word = |word| self.bytes.w64(block.at + word * 8).load(Relaxed);
            let (shape, words) = (word(record::SHAPE), word(record::WORDS));
            let described = Described {
                kind: record::kind_and_parts(word(record::KIND)).0,
                size: shape as u32,
                align: (shape >> 32) as u32,
                bytes: (words & u64::from(u32::MAX)) * 4 + (words >> 32) * 8,
                users: super::keep::holders(&self.extents(), &block)
                    .filter_map(|slot| self.participants().pid_in(slot))
                    .collect(),
            };
            atomic::fence(Acquire); // what was seen came before this question
            self.is_there(place).then_some(described)
        }

        /// A new object with a zeroed body, held by this process. It exists for others once `init` is through.
        pub(crate) fn create(
            self: &Arc<Self>,
            kind: Kind,
            stamp: Stamp,
            n32: usize,
            n64: usize,
            init: impl FnOnce(&Object),
        ) -> Result<Arc<Object>, CreateError> {
            self.create_with_parts(kind, stamp, n32, n64, 0, init)
        }

        /// A PENDING(me) block with room for `bytes` from its record on.
        pub(super) fn claim(&self, me: Owner, bytes: u64, part: bool) -> Result<Block, CreateError> {
            let extents = self.extents();
            let claim = |hints: &mut Hints| match part {
                true => extents.claim_part(hints, me, bytes),
                false => extents.claim(hints, me, bytes),
            };
            let claim = || match local()?.as_mut().and_then(|local| local.own(self)) {
                Some(own) => claim(&mut own.hints),
                None => claim(&mut Hints::default()),
            };
            match claim() {
                Err(CreateError::Full { .. }) => {
                    self.forget_dead()?;
                    claim()
                }
                other => other,
            }
        }

        /// As [`Self::create`], with a table for so many parts: see `parts`.
        #[allow(clippy::too_many_arguments, reason = "as `create`, and one more")]
        pub(crate) fn create_with_parts(
            self: &Arc<Self>,
            kind: Kind,
            stamp: Stamp,
            n32: usize,
            n64: usize,
            parts: usize,
            init: impl FnOnce(&Object),
        ) -> Result<Arc<Object>, CreateError> {
            let me = self.me()?;
            let n64 = n64.saturating_add(parts);
            let (Ok(words32), Ok(words64)) = (u32::try_from(n32), u32::try_from(n64)) else {
                return Err(CreateError::Full { bytes: (n64 as u64).saturating_mul(8) });
            };
            let body = (u64::from(words32) * 4).next_multiple_of(8) + u64::from(words64) * 8;
            let bytes = self.geometry.record_bytes() + body;
            let (keep, extents) = (self.keep(me), self.extents());
            let block = self.claim(me, bytes, false)?;
            let generation = self.bytes.w64(header::GENERATION).fetch_add(1, Relaxed); // unique is enough
            let set = |word, value| keep.record(&block, word).store(value, Relaxed);
            names::begin_life(keep.record(&block, record::GENERATION), generation);
            set(record::KIND, kind as u64 | (parts as u64) << 32);
            set(record::SHAPE, stamp.shape());
            set(record::NAME, stamp.name);
            set(record::WORDS, u64::from(words32) | u64::from(words64) << 32);
            set(record::REASONS, 0);
            let (w32, w64) = self.body_words(&block, u64::from(words32), u64::from(words64));
            for word in w32.iter().filter(|word| word.load(Relaxed) != 0) {
                word.store(0, Relaxed);
            }
            for word in w64.iter().filter(|word| word.load(Relaxed) != 0) {
                word.store(0, Relaxed);
            }
            let place = Place { at: block.at, generation };
            let object = Arc::new(Object::new(self, place, w32, w64, parts));
            init(&object);
            let mut local = local()?;
            if let Some(own) = local.as_mut().and_then(|local| local.own(self)) {
                own.objects
                    .insert(place.at, Held { generation, instances: 1, object: Arc::downgrade(&object) });
            }
            keep.hold_new(&block);
            // Release: extents, invariant 2.
            extents.state(&block).store(State::Live.encode(), Release);
            drop(local);
            Ok(object)
        }

        /// The object at `place`, which must be of that kind and type. Holds it.
        pub(crate) fn open(
            self: &Arc<Self>,
            place: Place,
            kind: Kind,
            expected: (Stamp, &str),
        ) -> Result<Arc<Object>, HandleError> {
            if self.is_read_only() {
                return self.open_to_look(place, kind, expected);
            }
            let me = self.me()?;
            let keep = self.keep(me);
            let known; // dropped after the lock: it may be the last handle, whose drop takes it again
            let mut local = local()?;
            let own = local.as_mut().and_then(|local| local.own(self)).ok_or(HandleError::UnknownSegment)?;
            known = own.objects.get(&place.at).map(|held| (held.generation, held.object.upgrade()));
            let block = match &known {
                Some((generation, _)) if *generation != place.generation => return Err(HandleError::Gone),
                Some(_) => self.extents().locate(place.at).ok_or(HandleError::Gone)?,
                None => keep.hold(place)?,
            };
            let opened = (|| {
                self.is_of(&block, kind, expected)?;
                if let Some((_, Some(object))) = &known {
                    return Ok(Arc::clone(object));
                }
                self.object_in(&block, place)
            })();
            match &opened {
                Ok(object) if known.as_ref().is_none_or(|(_, object)| object.is_none()) => {
                    let held = own.objects.entry(place.at).or_insert(Held {
                        generation: place.generation,
                        instances: 0,
                        object: Weak::new(),
                    });
                    held.instances += 1;
                    held.object = Arc::downgrade(object);
                }
                Err(_) if known.is_none() => keep.release(Some(&mut own.hints), &block),
                _ => {}
            }
            opened
        }

        /// Is the object in that block of that kind and type?
        fn is_of(&self, block: &Block, kind: Kind, (stamp, name): (Stamp, &str)) -> Result<(), HandleError> {
            let word = |word| self.bytes.w64(block.at + word * 8).load(Relaxed);
            let (number, _) = record::kind_and_parts(word(record::KIND));
            let same = number == kind as u64
                && word(record::SHAPE) == stamp.shape()
                && word(record::NAME) == stamp.name;
            if same {
                return Ok(());
            }
            let size = word(record::SHAPE) as u32;
            Err(HandleError::WrongType {
                expected: format!("{} of {name}", Kind::describe(kind as u64)),
                found: format!("{} of {size} bytes", Kind::describe(number)),
            })
        }

        /// The object in that block, as its record says.
        fn object_in(self: &Arc<Self>, block: &Block, place: Place) -> Result<Arc<Object>, HandleError> {
            let (w32, w64) = self.body(block).ok_or(HandleError::Malformed)?;
            let kind = self.bytes.w64(block.at + record::KIND * 8).load(Relaxed);
            let parts = usize::try_from(record::kind_and_parts(kind).1).ok();
            let parts = parts.filter(|&parts| parts <= w64.len()).ok_or(HandleError::Malformed)?;
            Ok(Arc::new(Object::new(self, place, w32, w64, parts)))
        }

        /// As [`Self::open`] where nothing can be written: the object is not held, and each look asks whether it is there.
        fn open_to_look(
            self: &Arc<Self>,
            place: Place,
            kind: Kind,
            expected: (Stamp, &str),
        ) -> Result<Arc<Object>, HandleError> {
            if !self.is_there(place) {
                return Err(HandleError::Gone);
            }
            let block = self.extents().locate(place.at).ok_or(HandleError::Gone)?;
            self.is_of(&block, kind, expected)?;
            let object = self.object_in(&block, place)?;
            // What was read of its record was its own, if it is still there.
            atomic::fence(Acquire);
            if self.is_there(place) { Ok(object) } else { Err(HandleError::Gone) }
        }

        /// What `place` was named by is gone: if nobody keeps it, it is freed.
        pub(super) fn unnamed(&self, place: Place) {
            let (Ok(me), Ok(_one_at_a_time)) = (self.me(), local()) else { return };
            self.keep(me).unnamed(place);
        }

        /// An [`Object`] was dropped.
        pub(super) fn dropped(&self, place: Place) {
            let Ok(mut local) = local() else { return };
            let Some(own) = local.as_mut().and_then(|local| local.own(self)) else { return };
            let Some(held) = own.objects.get_mut(&place.at).filter(|h| h.generation == place.generation)
            else {
                return;
            };
            held.instances -= 1;
            if held.instances > 0 {
                return;
            }
            own.objects.remove(&place.at);
            // A forked child that has not attached has no bit to clear; the parent's stays.
            if let Some(me) = self.me_now()
                && let Some(block) = self.extents().locate(place.at)
            {
                self.keep(me).release(Some(&mut own.hints), &block);
            }
        }

        /// Clears what dead processes left: their holds, claims and pins, and objects that nobody else keeps.
        pub(crate) fn forget_dead(&self) -> Result<(), CreateError> {
            let me = self.me()?;
            if atomic::broken(Rule::SweepTheDead) {
                return Ok(());
            }
            // A child that was forked while we hold a dead slot would inherit the right to it, and never give it back.
            let _no_fork = local()?;
            let participants = self.participants();
            for dead in participants.dead_slots(me) {
                self.keep(me).clear_slot(dead.slot());
                participants.cleared(&dead);
            }
            Ok(())
        }

        /// Keeps `object` until `guardian` unpins it. `tag` is the guardian's to choose pins by; `before` and what
        /// this gives make a chain of the pins of one tag, for [`Self::unpin_chain`].
        pub(crate) fn pin(
            &self,
            object: &Object,
            guardian: Owner,
            tag: u64,
            before: PinChain,
        ) -> Result<PinChain, CreateError> {
            self.keep(self.me()?).pin(object.place(), guardian, tag, before)
        }

        /// Takes away the pins of that chain and tag of which this process is the guardian. `Ok(false)`: there may be
        /// more of that tag, see [`Self::unpin`].
        pub(crate) fn unpin_chain(&self, chain: PinChain, tag: u64) -> Result<bool, CreateError> {
            let me = self.me()?;
            let _one_at_a_time = local()?;
            Ok(self.keep(me).unpin_chain(chain, tag))
        }

        /// Takes away pins of which this process is the guardian, as `choose(pinner, tag)` says, and frees what
        /// nobody else keeps.
        pub(crate) fn unpin(&self, choose: impl Fn(Option<Owner>, u64) -> bool) -> Result<(), CreateError> {
            let me = self.me()?;
            let _one_at_a_time = local()?;
            self.keep(me).unpin(|pinner, guardian, tag| guardian == Some(me) && choose(pinner, tag));
            Ok(())
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
}
