//! Memory: what is dropped is free again, wherever the handle was when its process ended. One test, because
//! `verify` looks at the whole process's segment.

mod watchdog;

use allmend::{Error, Pool, Report, SharedAtomic, SharedValue, TaskError};
use rustix::process::{Signal, getpid, kill_process};

fn kill_me() {
    let _ = kill_process(getpid(), Signal::KILL);
}

/// Makes a value in the worker and gives it away.
fn make(n: u64) -> Result<SharedValue<u64>, Error> {
    Ok(SharedValue::new(n)?)
}

/// Makes a large and a small one, and dies with both.
fn make_and_die(n: u64) -> Result<SharedValue<u64>, Error> {
    let small = SharedValue::new(n)?;
    let _large = SharedValue::new([n; 1 << 15])?;
    kill_me();
    Ok(small)
}

/// Has decoded its argument, and dies before it uses it.
fn decode_and_die(_: Vec<SharedAtomic<u64>>) {
    kill_me();
}

fn read(value: SharedValue<u64>) -> u64 {
    value.get()
}

fn give_back(value: SharedValue<u64>) -> (SharedValue<u64>, SharedValue<u64>) {
    (value.clone(), value)
}

fn now() -> Report {
    allmend::verify().unwrap()
}

/// Waits for what others are just letting go.
fn until(objects: u64) {
    while now().objects != objects {
        std::thread::yield_now();
    }
}

#[test]
fn what_is_dropped_is_free_again() {
    let _watchdog = watchdog::Watchdog::new("memory");
    // Alone: a million of them in the place of one.
    let warm = SharedValue::new(0u64).unwrap();
    let before = now();
    for n in 0..1_000_000 {
        assert_eq!(SharedValue::new(n).unwrap().get(), n);
    }
    assert_eq!(now(), before);
    drop(warm);

    let by_time = Pool::new(2).unwrap();
    let base = now().objects; // the pool itself
    // Batches that choose their size by time choose the size classes of their buffers, too, and a class that is used for the
    // first time takes an extent, in whichever round (one for each process that needs it at the same moment). So: batches of
    // one size, and one death at a time. Then nothing is new after the first round.
    let pool = by_time.with_chunk_size(16);
    let mut committed = 0;
    for round in 0..5 {
        // Made by workers, given to us.
        let made: Vec<_> = pool.map(make, 0..500).map(|made| made.unwrap().unwrap()).collect();
        for (n, value) in made.iter().enumerate() {
            assert_eq!(value.get(), n as u64);
        }
        until(base + 500); // a worker may still be letting go of its result buffer
        // There and back, twice in one result.
        for (n, pair) in pool.map(give_back, made.clone()).enumerate() {
            let (a, b) = pair.unwrap();
            assert_eq!((a.get(), b.get()), (n as u64, n as u64));
        }
        // The submitter's own handle goes while the task is queued.
        let running: Vec<_> = made.into_iter().map(|value| pool.submit(read, value)).collect();
        for (n, future) in running.into_iter().enumerate() {
            assert_eq!(future.result(), Ok(n as u64));
        }
        until(base);
        assert_eq!(now().pins, 0, "round {round}");

        // Results that nobody reads.
        let unread: Vec<_> = (0..50).map(|n| pool.submit(make, n)).collect();
        drop(unread);
        // Workers that die with what they made, or with what they were given.
        for n in 0..3 {
            let died = pool.submit(make_and_die, n).result();
            assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
            until(base);
            let given: Vec<_> = (0..10).map(|i| SharedAtomic::new(i).unwrap()).collect();
            let died = pool.submit(decode_and_die, given).result();
            assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
        }
        // Until the last of the unread results has been cleared away by the pool's own thread.
        until(base);
        assert_eq!((now().busy, now().pins), (0, 0));
        if round == 0 {
            committed = now().committed;
        }
        assert_eq!(now().committed, committed, "memory grew in round {round}");
    }
    for _ in 0..5 {
        by_time.map(make, 0..500).for_each(drop);
        until(base);
    }
    // At the most an extent of 1 MiB for each process and each of the size classes that small batches have.
    assert!(now().committed <= 16 << 20, "memory grew: {:?}", now());
    drop((pool, by_time));
    let end = now();
    assert_eq!((end.objects, end.busy, end.pins, end.processes), (0, 0, 0, 1));
}
