//! The locks of a map: one per shard, which only the map's own code holds, and the key locks, which users hold.
//!
//! They are lock words (`sync/word.rs`). Which thread of this process holds one is in a private record per lock, shared by
//! all handles of the process. An inherited shard lock keeps its mark until recovery is through, so a killed recovery is
//! begun again by the next heir. A panic under a shard lock lets it go with that mark. An inherited key lock protects
//! nothing of the map's: its holder is told, and repairs.

use super::shape::{LOCK_STRIDE, Layout, STRIPES};
use crate::{
    LockError,
    atomic::{self, Rule, Word32},
    os::liveness::DescriptorsLost,
    segment::{Holder, Object, owner::Owner},
    sync::word::{self, Acquired, Holder as Thread, Peers, Refused},
};
use std::{mem::ManuallyDrop, sync::Arc, time::Duration};

/// Who of this process holds which lock of the map: one record, which all handles have.
#[derive(Clone, Debug)]
pub(super) struct Holders(Arc<[Holder]>);

impl Holders {
    pub(super) fn of(object: &Object, layout: Layout) -> Self {
        let make = || Self((0..layout.shards() + STRIPES).map(|_| Holder::default()).collect());
        object.local(make).clone()
    }
}

/// The locks of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locks<'a> {
    pub(super) object: &'a Object,
    pub(super) layout: Layout,
    pub(super) holders: &'a Holders,
}

impl<'a> Locks<'a> {
    #[inline(always)]
    fn word_and_holder(self, lock: usize) -> (&'a Word32, &'a Holder) {
        (word_of(self.object, self.layout, lock), &self.holders.0[lock])
    }
}

/// Lock `lock`: first those of the shards, then the key locks.
#[inline(always)]
fn word_of(object: &Object, layout: Layout, lock: usize) -> &Word32 {
    let shards = layout.shards();
    &object.w32()[if lock < shards { lock * LOCK_STRIDE } else { shards * LOCK_STRIDE + lock - shards }]
}

struct Around<'a> {
    object: &'a Object,
    holder: &'a Holder,
    me: Owner,
}

impl Peers for Around<'_> {
    type Lost = DescriptorsLost;

    fn is_alive(&self, owner: Owner) -> Result<bool, DescriptorsLost> {
        if atomic::broken(Rule::AskBeforeWaiting) {
            return Ok(true);
        }
        self.object.segment().is_alive(owner)
    }

    fn holder(&self) -> Thread {
        if self.holder.is_me(self.me) {
            Thread::ThisThread
        } else if self.holder.is_set(self.me) {
            Thread::OtherThread
        } else {
            Thread::Nobody
        }
    }

    fn sleeping(&self, word: &Word32, expected: Owner, sleep: impl FnOnce()) {
        let segment = self.object.segment();
        let note = segment.note_wait(word, expected);
        sleep();
        if let Some(note) = note {
            segment.forget_wait(note);
        }
    }
}

/// A lock of the map that this thread holds. Unlocked by [`Self::release`]. If a panic comes before that, what it protects
/// may be half changed: then it is left as by a dead owner, and the next who takes it recovers.
#[must_use = "the lock stays taken until it is released"]
pub(super) struct Locked<'a> {
    word: &'a Word32,
    holder: &'a Holder,
    me: Owner,
    /// Its last owner died holding it: 0 if it is not known which.
    pub(super) inherited: Option<u32>,
}

impl<'a> Locked<'a> {
    #[inline(always)]
    pub(super) fn take(locks: Locks<'a>, lock: usize, timeout: Option<Duration>) -> Result<Self, LockError> {
        let (word, holder) = locks.word_and_holder(lock);
        if let Some(me) = locks.object.holder_now()
            && word::lock_free(word, me).is_ok()
        {
            holder.set(me);
            return Ok(Self { word, holder, me, inherited: None });
        }
        Self::wait_for(locks.object, word, holder, timeout)
    }

    #[cold]
    fn wait_for(
        object: &'a Object,
        word: &'a Word32,
        holder: &'a Holder,
        timeout: Option<Duration>,
    ) -> Result<Self, LockError> {
        let me = object.segment().me().map_err(LockError::outside)?;
        if object.is_lost() {
            return Err(LockError::Gone);
        }
        let pid = |owner: Option<Owner>| owner.and_then(|owner| object.segment().pid_of(owner));
        let inherited = match word::lock(word, me, &Around { object, holder, me }, timeout) {
            Ok(Acquired::Clean) => None,
            Ok(Acquired::Inherited { dead }) => Some(pid(dead).unwrap_or(0)),
            Err(Refused::Deadlock) => return Err(LockError::Deadlock),
            Err(Refused::Timeout { owner }) => return Err(LockError::Timeout { owner: pid(owner) }),
            Err(Refused::Corrupt) => return Err(LockError::Damaged),
            Err(Refused::Lost(DescriptorsLost)) => return Err(LockError::DescriptorsLost),
        };
        holder.set(me);
        Ok(Self { word, holder, me, inherited })
    }

    /// What it protects is whole again.
    pub(super) fn repair(&self) -> Result<(), LockError> {
        word::repair(self.word, self.me).map_err(|word::Corrupt| LockError::Damaged)
    }

    #[inline]
    pub(super) fn release(self) {
        let this = ManuallyDrop::new(self);
        this.holder.clear();
        // If the word was overwritten under us it stays as it is, and the next who locks is told.
        let _ = word::unlock(this.word, this.me);
    }
}

impl Drop for Locked<'_> {
    #[cold]
    fn drop(&mut self) {
        self.holder.clear();
        word::retire(self.word, self.me);
    }
}

/// A key lock that this thread holds.
#[derive(Debug)]
#[must_use = "the lock stays taken until it is released"]
pub(crate) struct Stripe {
    lock: usize,
    me: Owner,
    /// Its last owner died holding it, and nobody has repaired since: 0 if it is not known which.
    pub(crate) inherited: Option<u32>,
}

impl Stripe {
    pub(super) fn take(
        locks: Locks<'_>,
        stripe: usize,
        timeout: Option<Duration>,
    ) -> Result<Self, LockError> {
        let lock = locks.layout.shards() + stripe % STRIPES;
        let locked = ManuallyDrop::new(Locked::take(locks, lock, timeout)?);
        Ok(Self { lock, me: locked.me, inherited: locked.inherited })
    }

    fn locked<'a>(&self, locks: Locks<'a>) -> Option<ManuallyDrop<Locked<'a>>> {
        let (word, holder) = locks.word_and_holder(self.lock);
        // A forked child has its parent's guard, and not its lock.
        let is_mine = locks.object.me_now() == Some(self.me);
        is_mine.then_some(ManuallyDrop::new(Locked { word, holder, me: self.me, inherited: None }))
    }

    pub(super) fn repair(&self, locks: Locks<'_>) {
        if let Some(locked) = self.locked(locks) {
            // If the word was overwritten under us it stays as it is, and the next who locks is told.
            let _ = locked.repair();
        }
    }

    pub(super) fn release(&self, locks: Locks<'_>) {
        if let Some(locked) = self.locked(locks) {
            ManuallyDrop::into_inner(locked).release();
        }
    }
}
