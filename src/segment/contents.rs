//! The objects of a segment as this process uses them: made, opened, held, dropped, and pinned for others; and the
//! sweep of what dead processes held. By which protocol is told in `keep` and `extents`.

use super::{
    attached::{Held, Segment, local},
    extents::{Block, Hints, State},
    keep::{self, PinChain, Place},
    layout::header,
    names,
    object::Object,
    owner::Owner,
    record::{self, Kind, Stamp},
};
use crate::{
    atomic::{self, Acquire, Relaxed, Release, Rule},
    error::{CreateError, HandleError, Resource},
};
use std::sync::{Arc, Weak};

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

impl Segment {
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
            users: keep::holders(&self.extents(), &block)
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
            return Err(CreateError::Full { bytes: (n64 as u64).saturating_mul(8), what: Resource::Segment });
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
            own.objects.insert(place.at, Held { generation, instances: 1, object: Arc::downgrade(&object) });
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
        let same =
            number == kind as u64 && word(record::SHAPE) == stamp.shape() && word(record::NAME) == stamp.name;
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
        let Some(held) = own.objects.get_mut(&place.at).filter(|h| h.generation == place.generation) else {
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
