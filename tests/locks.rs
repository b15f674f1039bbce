//! The lock contract, over every kind of lock: the same tests for ours and for crate raw_sync's (feature `raw_sync`),
//! and what the latter is known to fail at, asserted.

mod watchdog;

use allmend::{
    Error, LockError, Pool, SharedValue, TaskError,
    sync::{RawLock, Robust},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

const SHORT: Duration = Duration::from_millis(50);

fn add<L: RawLock>((value, n): (SharedValue<[u64; 3], L>, u32)) -> Result<(), Error> {
    for _ in 0..n {
        let mut all = value.get_lock()?;
        for part in all.iter_mut() {
            *part += 1;
        }
    }
    Ok(())
}

/// Processes exclude each other, and every value that a reader sees is whole.
fn excludes<L: RawLock>() {
    let _watchdog = watchdog::Watchdog::new("excludes");
    let value = SharedValue::<[u64; 3], L>::with_lock([0; 3]).unwrap();
    let pool = Pool::new(2).unwrap();
    let mut running: Vec<_> = (0..4).map(|_| pool.submit(add::<L>, (value.clone(), 5_000))).collect();
    let mut last = 0;
    while !running.iter().all(|future| future.done()) {
        let [a, b, c] = value.get();
        assert!(a == b && b == c, "torn: {a} {b} {c}");
        assert!(a >= last, "went back from {last} to {a}");
        last = a;
    }
    for future in running.drain(..) {
        future.result().unwrap().unwrap();
    }
    assert_eq!(value.get(), [20_000; 3]);
}

fn try_while_held<L: RawLock>(value: SharedValue<u64, L>) -> [bool; 2] {
    let timed_out = |result: Result<_, LockError>| matches!(result, Err(LockError::Timeout { .. }));
    [timed_out(value.try_get_lock().map(drop)), timed_out(value.get_lock_timeout(SHORT).map(drop))]
}

/// A held lock is refused in time, to other processes and to other threads; its own thread is told at once.
fn is_refused_while_held<L: RawLock>() {
    let _watchdog = watchdog::Watchdog::new("is_refused_while_held");
    let value = SharedValue::<u64, L>::with_lock(7).unwrap();
    let pool = Pool::new(1).unwrap();
    let guard = value.get_lock().unwrap();
    assert_eq!(pool.submit(try_while_held::<L>, value.clone()).result().unwrap(), [true; 2]);
    let there = value.clone();
    assert_eq!(std::thread::spawn(move || try_while_held(there)).join().unwrap(), [true; 2]);
    assert!(matches!(value.get_lock().map(drop), Err(LockError::Deadlock)));
    drop(guard);
    assert_eq!(pool.submit(try_while_held::<L>, value.clone()).result().unwrap(), [false; 2]);
}

/// What a guard commits, and what it does not.
fn commits<L: RawLock>() {
    let value = SharedValue::<u64, L>::with_lock(1).unwrap();
    *value.get_lock().unwrap() = 2;
    assert_eq!(value.get(), 2, "drop commits");
    let mut guard = value.get_lock().unwrap();
    *guard = 3;
    assert_eq!(value.get(), 2, "not before the drop");
    guard.discard();
    assert_eq!(value.get(), 2, "discard does not");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = value.get_lock().unwrap();
        *guard = 4;
        panic!("in the middle");
    }));
    assert!(panicked.is_err());
    assert_eq!(value.get(), 2, "a panic does not");
    assert_eq!(value.update(|v| std::mem::replace(v, 5)).unwrap(), 2, "and the lock is free");
    value.set(6).unwrap();
    assert_eq!(value.get(), 6);

    struct CommitsInItsDrop<L: RawLock>(SharedValue<u64, L>);
    impl<L: RawLock> Drop for CommitsInItsDrop<L> {
        fn drop(&mut self) {
            *self.0.get_lock().unwrap() = 7;
        }
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _late = CommitsInItsDrop(value.clone());
        panic!("with a destructor that locks");
    }));
    assert!(panicked.is_err());
    assert_eq!(value.get(), 7, "a destructor in an unwinding thread commits");
}

/// Large values go through the heap.
fn large<L: RawLock>() {
    let value = SharedValue::<[u64; 2048], L>::with_lock([1; 2048]).unwrap();
    value.update(|all| all[2047] = 9).unwrap();
    let all = value.get();
    assert_eq!((all[0], all[2046], all[2047]), (1, 1, 9));
}

fn die_holding<L: RawLock>(value: SharedValue<u64, L>) {
    let mut guard = value.get_lock().unwrap();
    *guard = 99;
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    unreachable!();
}

fn kill_a_holder<L: RawLock>() -> SharedValue<u64, L> {
    let _watchdog = watchdog::Watchdog::new("kill_a_holder");
    let value = SharedValue::<u64, L>::with_lock(1).unwrap();
    let pool = Pool::new(1).unwrap();
    let died = pool.submit(die_holding::<L>, value.clone()).result();
    assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
    value
}

#[test]
fn robust_excludes() {
    excludes::<Robust>();
}

#[test]
fn robust_is_refused_while_held() {
    is_refused_while_held::<Robust>();
}

#[test]
fn robust_commits() {
    commits::<Robust>();
}

#[test]
fn robust_large() {
    large::<Robust>();
}

#[test]
fn robust_outlives_its_holder() {
    let value = kill_a_holder::<Robust>();
    assert_eq!(value.get(), 1, "the dead one committed nothing");
    let mut guard = value.get_lock().unwrap();
    assert!(guard.inherited().is_some());
    *guard += 1;
    drop(guard);
    assert!(value.get_lock().unwrap().inherited().is_none(), "told once");
    assert_eq!(value.get(), 2);
}

/// A time-out lasts as long as it says, and no longer than the lock is held.
#[test]
fn robust_timeouts_are_not_short() {
    let value = SharedValue::new(0u8).unwrap();
    let _guard = value.get_lock().unwrap();
    let there = value.clone();
    let waited = std::thread::spawn(move || {
        let start = Instant::now();
        assert!(matches!(there.get_lock_timeout(SHORT).map(drop), Err(LockError::Timeout { .. })));
        start.elapsed()
    });
    assert!(waited.join().unwrap() >= SHORT);
}

#[cfg(feature = "raw_sync")]
mod raw_sync {
    use super::*;
    use allmend::sync::RawSync;

    #[test]
    fn excludes() {
        super::excludes::<RawSync>();
    }

    #[test]
    fn is_refused_while_held() {
        super::is_refused_while_held::<RawSync>();
    }

    #[test]
    fn commits() {
        super::commits::<RawSync>();
    }

    #[test]
    fn large() {
        super::large::<RawSync>();
    }

    /// Known: it is not robust. What `Robust` takes over at once stays taken; reads go on.
    #[test]
    fn a_dead_holder_keeps_it_for_ever() {
        let value = kill_a_holder::<RawSync>();
        assert_eq!(value.get(), 1);
        for _ in 0..3 {
            assert!(matches!(value.get_lock_timeout(SHORT).map(drop), Err(LockError::Timeout { .. })));
        }
    }

    /// Known: its time-outs do not carry nanoseconds, so they give up at once whenever the sum passes a second.
    #[test]
    fn some_timeouts_are_short() {
        let value = SharedValue::<u64, RawSync>::with_lock(0).unwrap();
        let _guard = value.get_lock().unwrap();
        let there = value.clone();
        let short = std::thread::spawn(move || {
            // A time-out of 0.999 s carries unless the wall clock is in the first millisecond of its second.
            let timeout = Duration::from_millis(999);
            (0..3).any(|_| {
                let start = Instant::now();
                assert!(matches!(there.get_lock_timeout(timeout).map(drop), Err(LockError::Timeout { .. })));
                start.elapsed() < timeout
            })
        });
        assert!(short.join().unwrap(), "raw_sync has mended its time-outs: drop this from the docs");
    }
}

/// Nothing is poisoned by a panic, and the types say so.
#[test]
fn handles_are_unwind_safe() {
    fn is<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe + Send + Sync>() {}
    is::<SharedValue<u64>>();
    is::<allmend::SharedAtomic<u64>>();
    let value = SharedValue::new(1u8).unwrap();
    assert!(catch_unwind(|| value.update(|_| panic!("in the middle"))).is_err());
    assert_eq!(value.get(), 1);
}
