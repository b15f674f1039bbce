//! How long one claim is waited for.

use super::Refused;
use crate::{os::futex, segment::owner::Owner};
use std::time::{Duration, Instant};

/// Pauses of the spin before the first sleep.
pub(super) const PAUSES: u32 = 128;
const FIRST_SLEEP: Duration = Duration::from_millis(1);
const LONGEST_SLEEP: Duration = Duration::from_millis(32);
/// With the time-out over, that many lost races end the wait.
pub(super) const LOST_RACES: u32 = 64;

/// When a wait ends that has several parts: each gets what is left.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

#[cfg(not(loom))]
impl Deadline {
    /// Without a time-out, or with one that no clock can show, there is none.
    pub(crate) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| futex::now().checked_add(timeout)))
    }

    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|deadline| deadline.saturating_duration_since(futex::now()))
    }
}

/// One wait for a claim.
pub(super) struct Wait {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    next_sleep: Duration,
    pub(super) has_slept: bool,
    lost_races: u32,
}

impl Wait {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            deadline: timeout.and_then(|timeout| futex::now().checked_add(timeout)),
            next_sleep: FIRST_SLEEP,
            has_slept: false,
            lost_races: 0,
        }
    }

    pub(super) fn is_try(&self) -> bool {
        self.timeout == Some(Duration::ZERO)
    }

    /// How long the next sleep may be; `None` if the time is over.
    pub(super) fn bound(&self) -> Option<Duration> {
        let Some(deadline) = self.deadline else { return Some(self.next_sleep) };
        let left = deadline.saturating_duration_since(futex::now());
        (!left.is_zero()).then_some(left.min(self.next_sleep))
    }

    pub(super) fn slept(&mut self) {
        self.has_slept = true;
        self.next_sleep = (self.next_sleep * 2).min(LONGEST_SLEEP);
    }

    /// What was in the way has changed under us. That is somebody's progress, but not ours.
    pub(super) fn lost_race<L>(&mut self, owner: Owner) -> Result<(), Refused<L>> {
        self.lost_races += 1;
        if self.lost_races > LOST_RACES && self.deadline.is_some_and(|deadline| deadline <= futex::now()) {
            return Err(Refused::Timeout { owner });
        }
        Ok(())
    }
}
