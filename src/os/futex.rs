//! Sleeping on a word, and what else a waiter asks of the machine: the clock, and whether spinning makes sense.
//!
//! | call | the kernel | the model (`cfg(loom)`) |
//! |---|---|---|
//! | [`wait`] | `FUTEX_WAIT`, shared, relative time-out | a real sleep: the thread leaves the schedule |
//! | [`wake`] | `FUTEX_WAKE`, shared | takes the longest sleepers off the word's queue |
//! | [`now`] | `CLOCK_MONOTONIC`, as the time-out of `wait` | the thread's own clock: moves when a sleep times out |
//! | [`may_spin`] | are there two CPUs? | no: spinning is a yield in loom, and a yield hides lost wake-ups |
//!
//! A relative time-out of `FUTEX_WAIT` runs on the monotonic clock; the wall clock may jump and is never asked.
//! The futex is shared (no `PRIVATE` flag): the kernel finds the word by file and offset, so each process may have
//! it at an address of its own.
//!
//! What a caller may rely on, in both: *compare and enqueue are one step*. Either the sleeper sees that the word is
//! no longer `expected`, or the waker, who changed the word before it called [`wake`], finds the sleeper queued. And
//! no more: [`wait`] returns after a wake, a time-out, a signal or a change, and does not say which. Queues are hints;
//! the word is the state.
//!
//! **Killed here?** Before the wait: no trace. Asleep: the kernel takes the thread off the queue. Woken, before it
//! ran: the wake is spent on a dead one. In [`wake`], before the call: nobody was woken. The last two are why every
//! sleep is bounded.
//!
//! # The model
//!
//! A queue per word behind a loom mutex, which stands for the kernel's bucket lock (and, as that does, orders memory
//! between those who meet there). *Time passes only when the model says so*: [`time_passes`] ends each sleep on the
//! word that is bounded by that time, and also the next such sleep there of every thread that was not asleep yet,
//! because a thread that had looked just before and sleeps just after would be reached by its time-out too. That is
//! the least that real time-outs do, so what heals in the model heals in the kernel. A test calls it where a death
//! happens (that is what the bound is for) or from a thread that stands for the clock. Each call ends at most one
//! sleep per thread, so models stay finite. `Duration::MAX` is a sleep without bound: no time ends it. A protocol
//! that sleeps so is found by loom's own "deadlock".

#[cfg(not(loom))]
pub(crate) use kernel::{may_spin, now, wait, wake};
#[cfg(all(loom, test))]
pub(crate) use model::time_passes;
#[cfg(loom)]
pub(crate) use model::{Sleepers, may_spin, now, wait, wake};

#[cfg(not(loom))]
mod kernel {
    #![allow(unsafe_code, reason = "the futex system call")]

    use crate::atomic::{self, Private32, Relaxed, Word32};
    use std::{
        ptr,
        time::{Duration, Instant},
    };

    /// Sleeps while `*word == expected`: until a wake, a signal or the time-out.
    pub(crate) fn wait(word: &Word32, expected: u32, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos() as _, // below 10^9: fits every `c_long`
        };
        // SAFETY: `word` is four aligned bytes that stay mapped through the call, `timeout` lives through it, and the
        // operation uses no further argument.
        let done = unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, ptr::from_ref(&timeout))
        };
        if cfg!(debug_assertions) && done != 0 {
            let errno = std::io::Error::last_os_error().raw_os_error();
            let usual = [libc::EAGAIN, libc::EINTR, libc::ETIMEDOUT].map(Some);
            assert!(usual.contains(&errno), "FUTEX_WAIT: errno {errno:?}");
        }
    }

    /// Wakes up to `n` sleepers, the longest asleep first; how many there were.
    pub(crate) fn wake(word: &Word32, n: u32) -> u32 {
        atomic::step(); // a process can be killed between its last store and this call
        let n = n.min(i32::MAX as u32);
        // SAFETY: `word` is four aligned bytes that stay mapped through the call; the operation uses no further
        // argument.
        let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, n) };
        u32::try_from(woken).unwrap_or(0)
    }

    /// The clock of every deadline.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    /// May a waiter hope that the holder runs at this moment?
    pub(crate) fn may_spin() -> bool {
        const UNKNOWN: u32 = 0;
        const NO: u32 = 1;
        const YES: u32 = 2;
        // Not a `OnceLock`: a forked child would wait for ever for a thread that was just computing it.
        // `Relaxed`: one word, which every thread computes alike.
        static ANSWER: Private32 = Private32::new(UNKNOWN);
        match ANSWER.load(Relaxed) {
            UNKNOWN => {
                let several = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
                ANSWER.store(if several { YES } else { NO }, Relaxed);
                several
            }
            answer => answer == YES,
        }
    }
}

#[cfg(loom)]
mod model {
    use crate::atomic::{self, Relaxed, Word32};
    use loom::{
        sync::Mutex,
        thread::{self, Thread, ThreadId},
    };
    use std::{
        cell::Cell,
        collections::VecDeque,
        sync::{Arc, OnceLock},
        time::{Duration, Instant},
    };

    loom::thread_local! {
        /// How far this thread's clock has moved.
        static CLOCK: Cell<Duration> = Cell::new(Duration::ZERO);
    }

    /// Why a sleep ended.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum End {
        Woken,
        TimedOut,
    }

    #[derive(Debug)]
    struct Sleeper {
        thread: Thread,
        timeout: Duration,
        /// Not a word of the model: only the one who takes the sleeper off the queue writes it.
        end: Arc<OnceLock<End>>,
    }

    impl Sleeper {
        fn rouse(self, end: End) {
            self.end.set(end).expect("a sleeper is taken off the queue once");
            self.thread.unpark();
        }
    }

    #[derive(Debug, Default)]
    struct Queue {
        asleep: VecDeque<Sleeper>,
        /// The times that have passed here,
        passed: Vec<Duration>,
        /// and how many of them each thread has had.
        had: Vec<(ThreadId, usize)>,
    }

    impl Queue {
        /// Has time passed that ends such a sleep, and that this thread has not had yet? Now it has.
        fn is_over(&mut self, thread: ThreadId, timeout: Duration) -> bool {
            let had = match self.had.iter().position(|(of, _)| *of == thread) {
                Some(known) => &mut self.had[known].1,
                None => {
                    self.had.push((thread, 0));
                    &mut self.had.last_mut().expect("just pushed").1
                }
            };
            let new = &self.passed[std::mem::replace(had, self.passed.len())..];
            timeout != Duration::MAX && new.iter().any(|&time| timeout <= time)
        }
    }

    /// The kernel's queue of one word; made at the first use, because most words never have one.
    #[derive(Debug, Default)]
    pub(crate) struct Sleepers(OnceLock<Mutex<Queue>>);

    impl Sleepers {
        fn queue(&self) -> &Mutex<Queue> {
            self.0.get_or_init(|| Mutex::new(Queue::default()))
        }
    }

    pub(crate) fn wait(word: &Word32, expected: u32, timeout: Duration) {
        let (me, end) = (thread::current(), Arc::new(OnceLock::new()));
        let mut queue = word.sleepers().queue().lock().unwrap();
        // `Relaxed`: whoever changed the word and then woke has met us at the queue, or will.
        if word.load(Relaxed) != expected {
            return;
        }
        if queue.is_over(me.id(), timeout) {
            drop(queue);
            return elapse(timeout);
        }
        queue.asleep.push_back(Sleeper { thread: me, timeout, end: end.clone() });
        drop(queue); // loom does not switch here, so that nobody comes between queue and sleep
        while end.get().is_none() {
            thread::park();
        }
        // A woken thread does not run at once: the time may be over when it does.
        let late = || word.sleepers().queue().lock().unwrap().is_over(thread::current().id(), timeout);
        if end.get() == Some(&End::TimedOut) || late() {
            elapse(timeout);
        }
    }

    fn elapse(time: Duration) {
        CLOCK.with(|clock| clock.set(clock.get() + time));
    }

    pub(crate) fn wake(word: &Word32, n: u32) -> u32 {
        atomic::step();
        let mut queue = word.sleepers().queue().lock().unwrap();
        let n = queue.asleep.len().min(n as usize);
        queue.asleep.drain(..n).for_each(|sleeper| sleeper.rouse(End::Woken));
        n as u32
    }

    /// `time` passes for those who sleep on the word, or are about to: see the head of the file.
    #[cfg(test)]
    pub(crate) fn time_passes(word: &Word32, time: Duration) {
        let mut queue = word.sleepers().queue().lock().unwrap();
        queue.passed.push(time);
        for sleeper in std::mem::take(&mut queue.asleep) {
            if queue.is_over(sleeper.thread.id(), sleeper.timeout) {
                sleeper.rouse(End::TimedOut);
            } else {
                queue.asleep.push_back(sleeper);
            }
        }
    }

    pub(crate) fn now() -> Instant {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        *ORIGIN.get_or_init(Instant::now) + CLOCK.with(Cell::get)
    }

    pub(crate) fn may_spin() -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::atomic::{Acquire, Release, Word32};
    use std::time::{Duration, Instant};

    #[test]
    fn a_changed_word_is_not_slept_on() {
        wait(&Word32::new(1), 0, Duration::MAX); // would be the end of the test run
    }

    #[test]
    fn a_sleep_ends_and_not_before_its_time() {
        let (word, timeout) = (Word32::new(0), Duration::from_millis(3));
        let begin = Instant::now();
        while begin.elapsed() < timeout {
            wait(&word, 0, timeout.saturating_sub(begin.elapsed())); // again after a signal
        }
        wait(&word, 0, Duration::ZERO);
    }

    #[test]
    fn nobody_to_wake() {
        assert_eq!(wake(&Word32::new(0), u32::MAX), 0);
    }

    #[test]
    fn a_wake_reaches_the_sleeper() {
        let word = Word32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Acquire) == 0 {
                    wait(&word, 0, Duration::MAX);
                }
            });
            while wake(&word, 1) == 0 {
                std::thread::yield_now(); // until it sleeps; it finds the word unchanged and sleeps again
            }
            word.store(1, Release);
            wake(&word, 1);
        });
    }
}
