//! When the next worker is started after one has ended, and when nobody shall wait for one any more.
//!
//! | a worker ended | its seat is filled again | reason to give up |
//! |---|---|---|
//! | before it was ready, or could not be started | 10 ms later, twice as late each time, up to 1 s | if no worker is ready, and none was for [`TO_START`] |
//! | ready, within a second, and had run nothing | likewise | if tasks were there and no worker is, and so for [`TO_TAKE`] |
//! | after it had run something, or later | at once | none |
//!
//! A worker that was ready has shown that workers of this program can start: so its end is no failure to start, and what
//! kept others from it does not count any more, whichever seat they had. How late a seat is filled is the seat's own
//! matter; whether there is hope is the pool's. While the pool starts, [`AT_THE_START`] ends in a row of one seat are
//! enough, whatever they were: nobody waits for a task yet, and the caller can be told.
//!
//! Nothing here is shared; times are measured in the supervisor's awake time.

use std::time::Duration;

/// So many ends in a row, at the start.
const AT_THE_START: u32 = 5;
/// So long no worker comes that is ready. What is short for a moment (descriptors, processes) is not yet a reason for
/// errors.
const TO_START: Duration = Duration::from_secs(2);
/// So long those that come end before they take one of the tasks that are there: longer, as whoever kills them may stop.
const TO_TAKE: Duration = Duration::from_secs(10);
/// Until the next start after a first failure, and at most.
const WAITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a worker had done when it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// It never was ready.
    Unready,
    /// It was ready, and ended soon without having run anything.
    Idle {
        /// Were there tasks for it?
        tasks: bool,
    },
    /// It had run something, or lived for long.
    Useful,
}

/// What to do after an end.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    /// Before the seat is filled again.
    pub(crate) wait: Duration,
    /// Tasks are not to wait any more. At the start: the pool is not to be.
    pub(crate) give_up: bool,
}

/// Of a pool.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Of each seat: ends in a row without any use.
    useless: Vec<u32>,
    /// Since when starts fail, with no worker ready in between or now.
    unready: Option<Duration>,
    /// Since when workers end before they take what is there, with none useful in between or ready now.
    untaken: Option<Duration>,
}

impl Patience {
    pub(crate) fn new(seats: usize) -> Self {
        Self { useless: vec![0; seats], unready: None, untaken: None }
    }

    /// A worker is ready.
    pub(crate) fn ready(&mut self) {
        self.unready = None;
    }

    /// The worker in `seat` has lived for a while.
    pub(crate) fn settled(&mut self, seat: usize) {
        self.useless[seat] = 0;
    }

    /// The worker in `seat` has ended. `others`: another one is ready. `starting`: not all seats were ready yet.
    pub(crate) fn ended(
        &mut self,
        seat: usize,
        life: Life,
        others: bool,
        starting: bool,
        now: Duration,
    ) -> Verdict {
        if life != Life::Unready || others {
            self.unready = None;
        }
        if matches!(life, Life::Useful | Life::Idle { tasks: false }) || others {
            self.untaken = None;
        }
        if life == Life::Useful {
            self.useless[seat] = 0;
            return Verdict { wait: Duration::ZERO, give_up: false };
        }
        let (first, most) = WAITS;
        let wait = (first * (1 << self.useless[seat].min(16))).min(most);
        self.useless[seat] = self.useless[seat].saturating_add(1);
        let give_up = match life {
            _ if starting => self.useless[seat] >= AT_THE_START,
            _ if others => false,
            Life::Unready => now - *self.unready.get_or_insert(now) >= TO_START,
            Life::Idle { tasks: true } => now - *self.untaken.get_or_insert(now) >= TO_TAKE,
            Life::Idle { tasks: false } | Life::Useful => false,
        };
        Verdict { wait, give_up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of the worker in seat 0, as fast as they may come, until tasks are given up: when, and after how many.
    fn until_given_up(patience: &mut Patience, life: Life, mut now: Duration) -> Option<(Duration, u32)> {
        for count in 1..100 {
            let Verdict { wait, give_up } = patience.ended(0, life, false, false, now);
            if give_up {
                return Some((now, count));
            }
            assert!(wait >= WAITS.0, "no full speed");
            now += wait;
        }
        None
    }

    #[test]
    fn workers_that_do_not_start() {
        let mut patience = Patience::new(1);
        let (when, count) = until_given_up(&mut patience, Life::Unready, Duration::ZERO).expect("in time");
        assert!(when >= TO_START && when < 2 * TO_START && count < 12, "{when:?}, {count}");
        // It stays so until one is ready; then there is as much time as at first.
        assert!(patience.ended(0, Life::Unready, false, false, when + WAITS.1).give_up);
        patience.ready();
        let (again, _) = until_given_up(&mut patience, Life::Unready, when).expect("in time");
        assert!(again >= when + TO_START);
    }

    #[test]
    fn one_that_is_ready_is_hope_for_all() {
        let mut patience = Patience::new(2);
        let (when, _) = until_given_up(&mut patience, Life::Unready, Duration::ZERO).expect("in time");
        // In the other seat, also if it is not seen before its end.
        let _ = patience.ended(1, Life::Idle { tasks: true }, false, false, when);
        let next = patience.ended(0, Life::Unready, false, false, when);
        assert!(!next.give_up && next.wait == WAITS.1, "{next:?}");
        // While one is there, no failure of others counts.
        assert!(!patience.ended(0, Life::Unready, true, false, when + 2 * TO_START).give_up);
        assert!(!patience.ended(0, Life::Unready, false, false, when + 3 * TO_START).give_up);
    }

    #[test]
    fn workers_that_are_killed_while_they_are_idle() {
        let mut patience = Patience::new(1);
        assert_eq!(until_given_up(&mut patience, Life::Idle { tasks: false }, Duration::ZERO), None);
        patience.settled(0);
        assert_eq!(patience.ended(0, Life::Unready, false, false, Duration::ZERO).wait, WAITS.0);
    }

    #[test]
    fn workers_that_never_take_what_is_there() {
        let mut patience = Patience::new(1);
        let life = Life::Idle { tasks: true };
        let (when, count) = until_given_up(&mut patience, life, Duration::ZERO).expect("in time");
        assert!(when >= TO_TAKE && count > 10, "{when:?}, {count}");
        assert_eq!(
            patience.ended(0, Life::Useful, false, false, when),
            Verdict { wait: Duration::ZERO, give_up: false }
        );
        let (again, _) = until_given_up(&mut patience, life, when).expect("in time");
        assert!(again >= when + TO_TAKE);
    }

    #[test]
    fn at_the_start_a_few_are_enough() {
        for life in [Life::Unready, Life::Idle { tasks: false }] {
            let mut patience = Patience::new(2);
            let ends: Vec<bool> = (0..AT_THE_START)
                .map(|_| patience.ended(1, life, true, true, Duration::ZERO).give_up)
                .collect();
            assert_eq!(ends, [false, false, false, false, true]);
        }
    }
}
