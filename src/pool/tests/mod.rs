//! The room as a whole: real workers, which are this test program started again.

mod segments;

use super::*;
use crate::Plain;
use crate::{
    Error, PoolError, SharedAtomic, SharedValue, TaskError,
    os::process::{Signal, kill_self},
};
use std::{
    collections::HashSet,
    process::Command,
    time::{Duration, Instant},
};

/// A test that does not end says so, instead of running into the harness's patience.
fn within_a_minute(test: impl FnOnce() + Send + 'static) {
    let (end, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = end.send(());
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            eprintln!("watchdog: a test of the pool hangs");
            std::process::abort();
        }
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

fn double(n: u64) -> u64 {
    2 * n
}

fn pid_of_worker(_: ()) -> u32 {
    std::process::id()
}

fn panic_if_odd(n: u32) -> u32 {
    assert!(n.is_multiple_of(2), "{n} is odd");
    n
}

fn die_if(n: u32) -> u32 {
    match n {
        1_000.. => kill_self(),
        500 => std::process::exit(3),
        501 => std::process::exit(0),
        502 => std::process::abort(),
        _ => n + 1,
    }
}

#[test]
fn results_come_back() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.submit(double, 21).result(), Ok(42));
        assert_eq!(
            pool.submit(|(a, b): (u8, String)| format!("{a}{b}"), (1, "x".into())).result(),
            Ok("1x".into())
        );
        let f: fn(u64) -> u64 = if pool.workers().len() == 2 { double } else { |n| n };
        assert_eq!(pool.submit_fn(f, 4).result(), Ok(8));
        let pids = pool.workers();
        assert!(pids.contains(&pool.submit(pid_of_worker, ()).result().unwrap()));
        assert!(!pids.contains(&std::process::id()));
    });
}

#[test]
fn map_is_ordered_for_every_chunk_size() {
    within_a_minute(|| {
        let pool = Pool::new(3).unwrap();
        let expected: Vec<u64> = (0..3_000).map(double).collect();
        for pool in
            [pool.clone(), pool.with_chunk_size(1), pool.with_chunk_size(7), pool.with_chunk_size(100_000)]
        {
            let results: Vec<u64> = pool.map(double, 0..3_000).collect::<Result<_, _>>().unwrap();
            assert_eq!(results, expected);
        }
        assert_eq!(pool.map(double, []).count(), 0);
    });
}

#[test]
fn map_takes_items_as_results_are_taken() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        let taken = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&taken);
        let items = std::iter::from_fn(move || {
            count.set(count.get() + 1);
            Some(count.get())
        });
        let mut results = pool.with_chunk_size(1).map(double, items);
        for i in 1..=50 {
            assert_eq!(results.next(), Some(Ok(2 * i)));
            assert!(taken.get() <= i + 16, "{} taken at {i}", taken.get());
        }
    });
}

fn until_told((begun, told): (SharedAtomic<u64>, SharedAtomic<u64>)) {
    begun.store(1);
    while told.load() == 0 {
        std::thread::yield_now();
    }
}

/// A slot whose tasks were taken back so often that its lap comes round looks as if the last one that ran were the next.
#[test]
fn a_slot_is_taken_back_for_a_whole_round_of_laps() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let both = [pool.submit(double, 1), pool.submit(double, 2)];
        for (future, expected) in both.into_iter().zip([2, 4]) {
            assert_eq!(future.result(), Ok(expected)); // the first slot is free first, so it is used last
        }
        let (begun, told) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
        let busy = pool.submit(until_told, (begun.clone(), told.clone()));
        while begun.load() == 0 {
            std::thread::yield_now();
        }
        let parent = pool.parent();
        for _ in 0..7 {
            let waits = pool.submit(double, 3);
            parent.set_hopeless(Some(&TaskError::Closed));
            assert_eq!(waits.result(), Err(TaskError::Closed));
            parent.set_hopeless(None);
        }
        let runs = pool.submit(double, 4);
        told.store(1);
        assert_eq!((busy.result(), runs.result()), (Ok(()), Ok(8)));
    });
}

#[test]
fn large_arguments_and_results() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        for len in [0usize, 1, 400, 511, 512, 513, 5_000, 3_000_000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let back = pool
                .submit(
                    |mut v: Vec<u8>| {
                        v.reverse();
                        v
                    },
                    bytes.clone(),
                )
                .result()
                .unwrap();
            assert!(back.iter().rev().eq(&bytes), "{len}");
            let Plain(back) = pool.submit(|v: Plain<Vec<u8>>| v, Plain(bytes.clone())).result().unwrap();
            assert_eq!(back, bytes);
        }
        // A batch whose results outgrow one buffer after the other.
        let lens: Vec<usize> = (0..200).map(|i| i * i).collect();
        let made: Vec<Vec<u8>> = pool
            .with_chunk_size(200)
            .map(|n: usize| vec![7u8; n], lens.clone())
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(made.iter().map(Vec::len).eq(lens));
    });
}

#[test]
fn a_panic_fails_its_item_only() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        let pids = pool.workers();
        for (n, result) in (0..).zip(pool.with_chunk_size(5).map(panic_if_odd, 0..23)) {
            match result {
                Ok(value) => assert_eq!(value, n),
                Err(TaskError::Panicked { message, location, pid, .. }) => {
                    assert!(n % 2 == 1 && message == format!("{n} is odd"), "{n}: {message}");
                    assert!(location.contains("tests/mod.rs:"), "{location}");
                    assert!(pids.contains(&pid));
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(pool.workers(), pids, "nobody died");
        let odd = pool.submit(|()| -> () { std::panic::panic_any(17u32) }, ()).result();
        assert!(
            matches!(&odd, Err(TaskError::Panicked { message, .. }) if message.contains("not text")),
            "{odd:?}"
        );
        let quiet = pool.submit(|()| -> () { std::panic::resume_unwind(Box::new("quiet")) }, ()).result();
        assert!(
            matches!(&quiet, Err(TaskError::Panicked { message, .. }) if message == "quiet"),
            "{quiet:?}"
        );
    });
}

#[test]
fn a_death_fails_its_item_only() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        let pids: HashSet<u32> = pool.workers().into_iter().collect();
        let items = [0, 1_000, 2, 500, 4, 5, 501, 502, 8, 1_001, 10];
        let mut dead = HashSet::new();
        for (n, result) in items.into_iter().zip(pool.with_chunk_size(6).map(die_if, items)) {
            match (n, result) {
                (0..=499, result) => assert_eq!(result, Ok(n + 1)),
                (_, Err(TaskError::Died { pid, signal, code, .. })) => {
                    assert_eq!(
                        (signal, code),
                        match n {
                            500 => (None, Some(3)),
                            501 => (None, Some(0)),
                            502 => (Some(6), None),
                            _ => (Some(9), None),
                        }
                    );
                    assert!(dead.insert(pid), "each died once");
                }
                (n, result) => panic!("{n}: {result:?}"),
            }
        }
        assert_eq!(dead.len(), 5);
        assert!(!dead.is_disjoint(&pids));
        // The workers that replaced them do their work.
        assert!(pool.map(double, 0..100).eq((0..100).map(|n| Ok(2 * n))));
        crate::verify().unwrap();
    });
}

#[test]
fn futures_in_any_order_and_unread_ones() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        // Far more than there are slots, none read before all are submitted.
        let mut futures: Vec<_> = (0..5_000).map(|n| (n, pool.submit(double, n))).collect();
        while let Some((n, future)) = futures.pop() {
            if n % 3 != 0 {
                assert_eq!(future.result(), Ok(2 * n));
            }
        }
        let mut future = pool.submit(double, 1);
        while future.result_timeout(Duration::from_millis(1)) == Err(TaskError::Timeout) {}
        assert_eq!(future.result_timeout(Duration::ZERO), Err(TaskError::Taken));
    });
}

#[test]
fn the_last_handle_waits_for_all_tasks_and_reaps() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        let count = SharedAtomic::new(0u64).unwrap();
        let add = |count: SharedAtomic<u64>| {
            count.fetch_add(1);
        };
        for _ in 0..1_000 {
            pool.submit(add, count.clone()).detach();
        }
        let future = pool.submit(double, 3);
        let (pids, other) = (pool.workers(), pool.clone());
        drop(pool);
        assert_eq!(other.submit(double, 4).result(), Ok(8));
        drop(other);
        assert_eq!(count.load(), 1_000);
        assert_eq!(future.result(), Ok(6));
        assert!(!pids.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()), "reaped");
    });
}

#[test]
fn a_captured_panic_message_survives_an_abort() {
    within_a_minute(|| {
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic!("second");
            }
        }
        let pool = Pool::new(1).unwrap();
        let died = pool
            .submit(
                |()| -> () {
                    let _again = Again;
                    panic!("first");
                },
                (),
            )
            .result();
        match died {
            Err(TaskError::Died { signal: Some(6), message, .. }) => {
                assert!(message.contains("first") && message.contains("second"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[derive(Clone, PartialEq, Debug)]
struct OneWay(bool);

impl serde::Serialize for OneWay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            true => serializer.serialize_u8(7),
            false => Err(serde::ser::Error::custom("no")),
        }
    }
}

impl<'de> serde::Deserialize<'de> for OneWay {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("never"))
    }
}

#[test]
fn what_does_not_encode_or_decode_fails_its_item() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let codec = |result| matches!(result, Err(TaskError::Codec(_)));
        assert!(codec(pool.submit(|_: OneWay| 1u8, OneWay(true)).result()), "argument does not decode");
        assert!(codec(pool.submit(|_: OneWay| 1u8, OneWay(false)).result()), "argument does not encode");
        assert!(
            matches!(pool.submit(OneWay, true).result(), Err(TaskError::Codec(_))),
            "result does not decode"
        );
        assert!(
            matches!(pool.submit(OneWay, false).result(), Err(TaskError::Codec(_))),
            "result does not encode"
        );
        let items = [true, false, true].map(OneWay);
        assert_eq!(pool.with_chunk_size(3).map(|_: OneWay| (), items).filter(|r| r.is_err()).count(), 3);
        assert_eq!(pool.submit(double, 1).result(), Ok(2));
    });
}

#[test]
fn bad_pools() {
    within_a_minute(|| {
        assert_eq!(Pool::new(0).err(), Some(PoolError::NoWorkers));
        // Ends without a word; runs on without a word (found out by the end of its channel or the time-out); is not there.
        for program in ["/bin/true", "/bin/cat"] {
            let begin = Instant::now();
            let error = Pool::builder().workers(2).worker_exe(program).build().err();
            assert_eq!(
                error,
                Some(PoolError::NotAWorkerImage(program.into())),
                "after {:?}",
                begin.elapsed()
            );
        }
        let error = Pool::builder().workers(1).worker_exe("/nowhere/at/all").build().err();
        let errno = |error: Option<PoolError>| match error {
            Some(PoolError::Os(e)) => e.errno,
            other => panic!("{other:?}"),
        };
        assert_eq!(errno(error), libc::ENOENT);
        for (name, expected) in [("a\0b".into(), libc::EINVAL), ("x".repeat(200_000), libc::E2BIG)] {
            assert_eq!(errno(Pool::builder().workers(1).name(&name).build().err()), expected);
        }
        let zero = Pool::builder().workers(1).env("ALLMEND_TEST", "a\0b").build().err();
        assert_eq!(errno(zero), libc::EINVAL);
    });
}

/// What a program does that was started as a worker and ran its `main` instead. Only with the marker, see below.
#[test]
fn started_with_a_marker() {
    if std::env::var_os(worker::MARKER).is_some() {
        assert!(matches!(Pool::new(1), Err(PoolError::NotAWorkerImage(_))));
        println!("refused to start more of itself");
    }
}

#[test]
fn no_fork_bomb() {
    let program = std::env::current_exe().unwrap();
    // A marker that the hook does not take: as if there were no hook.
    let run = Command::new(program)
        .args(["--exact", "pool::tests::started_with_a_marker", "--nocapture"])
        .env(worker::MARKER, "not from a pool")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && text.contains("refused to start more"), "{text}");
}

#[test]
fn builder() {
    within_a_minute(|| {
        let pool = Pool::builder()
            .workers(1)
            .name("grazer")
            .env("ALLMEND_TEST_COLOUR", "red")
            .env("ALLMEND_TEST_COLOUR", "green")
            .build()
            .unwrap();
        let colour = pool.submit(|()| std::env::var("ALLMEND_TEST_COLOUR").ok(), ()).result().unwrap();
        assert_eq!(colour.as_deref(), Some("green"));
        let name =
            pool.submit(|()| std::fs::read_to_string("/proc/self/cmdline").unwrap(), ()).result().unwrap();
        assert_eq!(name.trim_end_matches('\0'), "grazer-0");
        let marker = pool.submit(|()| std::env::var_os(worker::MARKER).is_some(), ()).result().unwrap();
        assert!(!marker, "the marker is gone");
    });
}

#[test]
fn pools_in_workers() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let inner = |n: u64| -> Result<u64, Error> { Ok(Pool::new(1)?.submit(double, n).result()? + 1) };
        assert_eq!(pool.submit(inner, 5).result(), Ok(Ok(11)));
    });
}

#[test]
fn a_killed_worker_that_had_nothing_to_do_is_replaced() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        for _ in 0..5 {
            let victim = pool.workers()[0];
            let pid = rustix::process::Pid::from_raw(victim as i32).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
            // A signal is on its way for a while; a task that came meanwhile would die of it.
            while lives(victim) {
                std::thread::yield_now();
            }
            assert!(pool.map(double, 0..200).eq((0..200).map(|n| Ok(2 * n))));
            // The dead one is listed until its death was noticed.
            while pool.workers().len() < 2 || pool.workers().contains(&victim) {
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn a_task_that_starts_a_program_leaves_nothing_of_ours_to_it() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let list =
            |()| Command::new("/bin/ls").arg("/proc/self/fd").output().map(|o| o.stdout).unwrap_or_default();
        let fds = pool.submit(list, ()).result().unwrap();
        let mine = Command::new("/bin/ls").arg("/proc/self/fd").output().unwrap().stdout;
        assert_eq!(String::from_utf8(fds), String::from_utf8(mine));
    });
}

/// Is there a process of this id that is not a zombie?
fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
}

#[test]
fn no_worker_outlives_its_parent() {
    within_a_minute(|| {
        let outer = Pool::new(1).unwrap();
        for how in [1_000, 500, 502] {
            let pids = SharedValue::new([0u32; 2]).unwrap();
            // A worker as the parent of other workers: one busy for ever, one idle.
            let parent = |(pids, how): (SharedValue<[u32; 2]>, u32)| {
                let inner = Pool::new(2).unwrap();
                let started = SharedAtomic::new(0u32).unwrap();
                let busy = |started: SharedAtomic<u32>| -> () {
                    started.store(1);
                    loop {
                        std::hint::spin_loop();
                    }
                };
                inner.submit(busy, started.clone()).detach();
                pids.set(inner.workers().try_into().unwrap()).unwrap();
                while started.load() == 0 {
                    std::thread::yield_now();
                }
                die_if(how);
            };
            let died = outer.submit(parent, (pids.clone(), how)).result();
            assert!(matches!(died, Err(TaskError::Died { .. })), "{died:?}");
            let pids = pids.get();
            assert_ne!(pids, [0; 2]);
            while pids.into_iter().any(lives) {
                std::thread::yield_now(); // the watchdog ends this
            }
        }
    });
}

/// What a thread keeps for its tasks may be gone before what the user keeps there.
#[test]
fn a_thread_may_use_a_pool_while_it_ends() {
    struct AtTheEnd(std::cell::RefCell<Option<(Pool, std::sync::mpsc::Sender<u64>)>>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            let (pool, done) = self.0.take().unwrap();
            done.send(pool.submit(double, 2).result().unwrap()).unwrap();
        }
    }
    std::thread_local!(static LAST: AtTheEnd = const { AtTheEnd(std::cell::RefCell::new(None)) });
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let (done, results) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                LAST.with(|last| last.0.replace(Some((pool.clone(), done)))); // first, so it ends last
                assert_eq!(pool.submit(double, 1).result(), Ok(2));
            });
        });
        assert_eq!(results.recv(), Ok(4));
    });
}

#[test]
fn a_stopped_worker_is_waited_for() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let pid = rustix::process::Pid::from_raw(pool.workers()[0] as i32).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let mut future = pool.submit(double, 1);
        let begin = Instant::now();
        assert_eq!(future.result_timeout(Duration::from_millis(50)), Err(TaskError::Timeout));
        assert!(begin.elapsed() >= Duration::from_millis(50));
        assert!(!future.done());
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
        assert_eq!(future.result(), Ok(2));
    });
}

#[test]
fn many_threads_share_a_pool() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let pool = &pool;
                scope.spawn(move || {
                    for n in 0..500 {
                        assert_eq!(pool.submit(double, thread * n).result(), Ok(2 * thread * n));
                    }
                    assert!(pool.map(double, 0..500).eq((0..500).map(|n| Ok(2 * n))));
                });
            }
        });
    });
}

/// A storm: workers are killed by themselves in every tenth item, while more is submitted than there are slots.
#[test]
fn every_future_resolves_in_a_storm() {
    within_a_minute(|| {
        let pool = Pool::new(2).unwrap();
        let mut died = 0;
        let items = || (0..2_000u32).map(|n| if n % 40 == 7 { 1_000 + n } else { n % 400 });
        for (n, result) in items().zip(pool.with_chunk_size(8).map(die_if, items())) {
            match result {
                Ok(m) => assert_eq!(m, n + 1),
                Err(TaskError::Died { signal: Some(9), .. }) if n >= 1_000 => died += 1,
                Err(e) => panic!("{n}: {e}"),
            }
        }
        assert_eq!(died, 50);
        crate::verify().unwrap();
    });
}
