//! Segments besides the pool's own, in a worker: how it comes by them, for whom it pins there, and when it lets them go.
//!
//! ```text
//!   task thread                       watcher                      supervisor (of the parent)
//!   -----------                       -------                      --------------------------
//!   a handle of a segment that
//!   is not here: get ---- Need(id) ------------------------------> has it? me there, descriptor
//!     waits                           hear <---- Answer + descriptor ----
//!     joins, notes the guest <------- notes the answer
//!   ...                               forget: once a second, and after each message
//! ```
//!
//! **Asked for, not announced.** The parent keeps each object in an argument until the task is over, and so its segment: an
//! answer is there whenever it is needed. Nothing has to be told to workers that do not need it, to those that start
//! later, or in an order with the tasks; and a worker that is stopped has no queue of descriptors that fills. The price
//! is one round trip to the supervisor for each worker and segment. An answer for which the worker has no descriptor left
//! is lost, and an error of the task.
//!
//! **For whom.** The parent has an owner id of its own in each segment; it comes with the answer. Before a pin it is asked
//! whether that owner lives: the parent may have let the segment go, and taken part anew (then the answer to another
//! question has the new id), or not (then a handle in the result would be one that it cannot decode: an error here).
//!
//! **When it goes.** The guest is kept for the next task, until the parent's owner id there is nobody's: then the parent has
//! let the segment go, and so do we, as soon as no handle of ours keeps it. So descriptors and mappings are bounded by
//! what the parent itself has, a second ago.
//!
//! *In a forked child* nobody comes here: see `worker::this_worker`. The lock may be held there.
//!
//! Killed here? All of this is private. What a dead worker held in a segment is cleared by whoever sweeps there.

use super::wire::{self, Answer};
use crate::{
    error::{CreateError, HandleError, OsError},
    segment::{Segment, owner::Owner},
};
use rustix::fd::OwnedFd;
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Who hears nothing asks again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Guests {
    inner: Mutex<Inner>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    guests: HashMap<u128, Guest>,
    /// What is asked for, and the answer; or that it came, and there was no descriptor for it.
    asked: Option<u128>,
    answer: Option<Result<Option<(OwnedFd, Owner)>, OsError>>,
}

#[derive(Debug)]
struct Guest {
    segment: Arc<Segment>,
    /// The parent.
    guardian: Owner,
}

impl Guest {
    /// Has the parent let it go? If that cannot be told, no.
    fn is_over(&self) -> bool {
        self.segment.is_alive(self.guardian) == Ok(false)
    }
}

impl Guests {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a segment by `ask`, as often as it takes, and joins it.
    pub(super) fn get(
        &self,
        id: u128,
        ask: impl Fn() -> Result<(), HandleError>,
    ) -> Result<Arc<Segment>, HandleError> {
        let mut inner = self.lock();
        (inner.asked, inner.answer) = (Some(id), None);
        let answer = loop {
            if let Some(answer) = inner.answer.take() {
                break answer;
            }
            ask()?;
            // The parent may be stopped; if it is gone, the watcher ends us.
            let waited = self.answered.wait_timeout_while(inner, ASK_AGAIN, |inner| inner.answer.is_none());
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        inner.asked = None;
        drop(inner);
        let (fd, guardian) = answer.map_err(CreateError::Os)?.ok_or(HandleError::UnknownSegment)?;
        let segment = Segment::join(fd)?;
        if segment.id() != id {
            return Err(HandleError::UnknownSegment);
        }
        let guest = Guest { segment: Arc::clone(&segment), guardian };
        let before = self.lock().guests.insert(id, guest);
        drop(before); // after the lock
        Ok(segment)
    }

    /// As whom the parent takes part in `segment`; `ask` makes a guest of it.
    pub(super) fn guardian_in(
        &self,
        segment: &Segment,
        ask: impl FnOnce() -> Result<Arc<Segment>, HandleError>,
    ) -> Result<Owner, HandleError> {
        let known = |inner: &Inner| inner.guests.get(&segment.id()).map(|guest| guest.guardian);
        let guardian = known(&self.lock());
        match guardian {
            Some(guardian) if segment.is_alive(guardian) != Ok(false) => Ok(guardian),
            _ => {
                let _kept = ask()?;
                known(&self.lock()).ok_or(HandleError::UnknownSegment)
            }
        }
    }

    /// A message of the parent.
    pub(super) fn hear(&self, bytes: &[u8], mut fds: Vec<OwnedFd>) {
        let Ok(answer) = wire::decode::<Answer>(bytes) else { return };
        let mut inner = self.lock();
        if inner.asked == Some(answer.segment) {
            inner.answer = Some(Ok(fds.pop().zip(Owner::from_bits(answer.parent))));
            self.answered.notify_one();
        }
    }

    /// A message of the parent is lost: whoever asks is told, and does not ask for ever.
    pub(super) fn lose(&self, e: OsError) {
        let mut inner = self.lock();
        if inner.asked.is_some() {
            inner.answer = Some(Err(e));
            self.answered.notify_one();
        }
    }

    /// Lets go of what the parent has let go.
    pub(super) fn forget(&self) {
        let mut over = Vec::new(); // dropped after the lock
        let mut inner = self.lock();
        inner.guests.retain(|_, guest| {
            let stays = !guest.is_over();
            if !stays {
                over.push(Arc::clone(&guest.segment));
            }
            stays
        });
        drop(inner);
    }
}
