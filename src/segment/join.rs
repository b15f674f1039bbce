//! How a process comes to take part in a segment: it makes a private one, joins one whose descriptor it was given, or
//! attaches anew after a fork. What has a name comes by `named`, and takes part by [`Segment::take_part`] too.

use super::{
    attached::{Local, Own, Segment, local},
    bytes::Bytes,
    extents::{self, Hints},
    keep::Place,
    layout::{EXTENT, Geometry, MAGIC, VERSION, header},
    named::{self, NamedOptions},
    owner::Owner,
};
use crate::{
    atomic::{self, Acquire, Private32, Relaxed, Release, Rule},
    error::{CreateError, OpenError, OsError},
    os::{
        liveness::{self, Observer},
        memory::{self, Anchor, Mapping},
        shm::Facts,
    },
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{collections::HashMap, sync::Arc};

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
                Err(CreateError::Os(OsError { errno: errno @ (libc::ENOMEM | libc::EFBIG), .. })) => {
                    let half = geometry.reserve / 2 / EXTENT * EXTENT;
                    geometry = Geometry::new(half, geometry.max_processes).ok_or(CreateError::Full {
                        bytes: geometry.reserve,
                        what: named::too_large(errno),
                    })?;
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
    pub(super) fn write_header(&self) -> Result<(), CreateError> {
        extents::commit(&self.observer, 0, self.geometry.pins_at)?;
        let header = |at, value| self.bytes.w64(at).store(value, Relaxed);
        header(header::VERSION, VERSION);
        header(header::ID, self.id as u64);
        header(header::ID + 8, (self.id >> 64) as u64);
        header(header::RESERVE, self.geometry.reserve);
        header(header::MAX_PROCESSES, u64::from(self.geometry.max_processes));
        header(header::GENERATION, 1);
        Ok(())
    }

    pub(super) fn finish_header(&self) {
        // Release: layout, invariant 2.
        self.bytes.w64(header::MAGIC).store(MAGIC, Release);
    }

    /// The id that the header gives.
    pub(super) fn id_in(bytes: &Bytes) -> u128 {
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
        let not_ours = |what: &'static str| CreateError::NotASegment(what.into());
        if !memory::is_sealed(fd.as_fd()) {
            let oddity = Facts::of(fd.as_fd())?.oddity;
            let why = oddity.map_or("its size is not sealed, and it has no name".into(), |what| what.into());
            return Self::join_named(&fd)?.ok_or(CreateError::NotASegment(why));
        }
        let (size, _) = memory::stat(fd.as_fd())?;
        if size < EXTENT || size > isize::MAX as u64 {
            return Err(not_ours("its size is none that we give"));
        }
        let bytes = Bytes::new(Mapping::new(fd.as_fd(), size as usize)?);
        if bytes.w64(header::MAGIC).load(Acquire) != MAGIC {
            return Err(not_ours("it does not begin as one, or is not ready"));
        }
        if bytes.w64(header::VERSION).load(Relaxed) != VERSION {
            return Err(not_ours("it has another layout; build both programs with one version of the crate"));
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
    pub(super) fn take_part(self, description: BorrowedFd<'_>) -> Result<(Arc<Self>, Own), CreateError> {
        let (word, me, anchor) = match self.entered() {
            Some(entered) => (entered, 1, Anchor::new(description)?), // only to look
            None => {
                let (me, anchor) = self.participants().attach(description, |me| self.clear_own_slot(me))?;
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
    pub(super) fn attach_again(&self) -> Result<Owner, CreateError> {
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
        let (me, anchor) = self.participants().attach(description.as_fd(), |me| self.clear_own_slot(me))?;
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
}
