//! Processes that are forked, stopped, killed, short of something, or hostile: what the others see, and which typed
//! error each gets. No pool here; see the pool's own tests for spawned workers.
#![allow(
    unsafe_code,
    reason = "limits, mounts and namespaces of the children; a second mapping for hostile bytes"
)]
#![allow(clippy::disallowed_types, reason = "words between test processes are not the crate's")]

mod harness;

use allmend::{
    CreateError, Error, HandleError, LockError, Resource as Lack, SharedAtomic, SharedValue, VerifyError,
};
use harness::{
    End, Line, Random, Sleep, die, fork,
    mounts::{own_mounts, tmpfs_over},
    stage, until, words,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{Resource, Rlimit},
};
use std::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

fn main() {
    harness::run(&[
        ("a_stopped_holder_keeps_its_lock", a_stopped_holder_keeps_its_lock),
        ("a_process_that_inherited_its_segment_dies", a_process_that_inherited_its_segment_dies),
        ("exit_without_unlock", exit_without_unlock),
        ("exec_with_the_lock_held", exec_with_the_lock_held),
        ("descriptors_closed_under_a_waiter", descriptors_closed_under_a_waiter),
        ("descriptors_closed_under_a_holder", descriptors_closed_under_a_holder),
        ("fork_with_a_guard_held", fork_with_a_guard_held),
        ("fork_from_a_threaded_program", fork_from_a_threaded_program),
        ("parent_killed_while_the_child_lives", parent_killed_while_the_child_lives),
        ("a_dead_slot_is_given_back", a_dead_slot_is_given_back),
        ("relock_is_an_error", relock_is_an_error),
        ("threads_exclude_each_other", threads_exclude_each_other),
        ("processes_exclude_each_other", processes_exclude_each_other),
        ("a_panic_commits_nothing", a_panic_commits_nothing),
        ("verify_beside_work", verify_beside_work),
        ("too_many_processes", too_many_processes),
        ("a_child_without_a_place_touches_nobody", a_child_without_a_place_touches_nobody),
        ("little_address_space", little_address_space),
        ("small_files_only", small_files_only),
        ("no_descriptors_left", no_descriptors_left),
        ("no_proc", no_proc),
        ("another_pid_namespace", another_pid_namespace),
        ("handles_outside_of_the_pool", handles_outside_of_the_pool),
        ("an_overwritten_lock", an_overwritten_lock),
        ("overwritten_tables", overwritten_tables),
        ("overwritten_anything", overwritten_anything),
    ]);
}

fn pid() -> u32 {
    std::process::id()
}

fn objects() -> u64 {
    let report = allmend::verify().expect("a healthy segment");
    assert_eq!(report.busy, 0, "{report:?}");
    report.objects
}

const SHORT: Duration = Duration::from_millis(20);

// ---- stopped, killed, gone ----

fn a_stopped_holder_keeps_its_lock() {
    let value = SharedValue::new([1u64; 8]).unwrap();
    let (held, release) = (Line::new(), Line::new());
    let mut holder = fork(|| {
        let mut guard = value.get_lock().unwrap();
        *guard = [2; 8];
        held.send(0);
        release.receive();
    });
    held.receive();
    holder.stop();
    let its_pid = Some(holder.pid.as_raw_pid() as u32);
    assert_eq!(value.get_lock_timeout(SHORT).map(drop), Err(LockError::Timeout { owner: its_pid }));
    assert_eq!(value.try_get_lock().map(drop), Err(LockError::Timeout { owner: its_pid }));
    assert_eq!(value.get(), [1; 8]);
    assert_eq!(objects(), 1);
    let waiter = fork(|| value.update(|v| v[0] += 1).unwrap());
    until(|| waiter.sleep() == Some(Sleep::Bounded));
    holder.go_on();
    release.send(0);
    holder.succeeds("the holder, after its stop");
    waiter.succeeds("the waiter");
    let guard = value.get_lock().unwrap();
    assert_eq!((guard[0], guard[1], guard.inherited()), (3, 2, None));
}

fn a_process_that_inherited_its_segment_dies() {
    let value = SharedValue::new([1u64; 8]).unwrap();
    for depth in 0..3 {
        let name = words();
        let mut child = fork(|| {
            fn deeper(depth: u32, value: &SharedValue<[u64; 8]>, name: &[AtomicU64]) -> ! {
                if depth > 0 {
                    fork(|| deeper(depth - 1, value, name)).end();
                    die();
                }
                name[0].store(pid().into(), SeqCst);
                let mut guard = value.get_lock().unwrap();
                *guard = [2; 8];
                die()
            }
            deeper(depth, &value, name)
        });
        assert!(child.end().was_killed());
        let guard = value.get_lock().unwrap();
        assert_eq!((guard.inherited(), *guard), (Some(name[0].load(SeqCst) as u32), [1; 8]));
        drop(guard);
        assert_eq!(value.get_lock().unwrap().inherited(), None);
        assert_eq!(objects(), 1);
    }
}

fn exit_without_unlock() {
    let value = SharedValue::new(1u64).unwrap();
    let mut child = fork(|| {
        let mut guard = value.get_lock().unwrap();
        *guard = 2;
        std::process::exit(3);
    });
    assert_eq!(child.end(), End::Exit(3));
    let guard = value.get_lock().unwrap();
    assert_eq!((*guard, guard.inherited()), (1, Some(child.pid.as_raw_pid() as u32)));
}

/// Another program in the same process does not know of the lock: it is taken over, though the process lives.
fn exec_with_the_lock_held() {
    use std::os::unix::process::CommandExt;
    let value = SharedValue::new(1u64).unwrap();
    let executed = fork(|| {
        let mut guard = value.get_lock().unwrap();
        *guard = 2;
        panic!("exec: {}", std::process::Command::new("sleep").arg("1000").exec());
    });
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", executed.pid.as_raw_nonzero()));
    until(|| name().unwrap() == "sleep\n" || !executed.is_running());
    let guard = value.get_lock().unwrap();
    assert_eq!((*guard, guard.inherited()), (1, Some(executed.pid.as_raw_pid() as u32)));
    drop(guard);
    assert!(executed.is_running());
    assert_eq!(objects(), 1);
}

/// As daemonising code does.
fn close_all_descriptors() {
    // SAFETY: descriptors that others rely on go away: that is what is tested.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    assert_eq!(done, 0);
}

fn descriptors_closed_under_a_waiter() {
    let value = SharedValue::new(1u64).unwrap();
    let at = words();
    let (held, release) = (Line::new(), Line::new());
    let holder = fork(|| {
        let mut guard = value.get_lock().unwrap();
        *guard = 2;
        held.send(0);
        release.receive();
    });
    held.receive();
    for reused in [false, true] {
        at[0].store(0, SeqCst);
        let blind = fork(|| {
            value.get();
            close_all_descriptors();
            // The numbers may be somebody else's by now.
            let _files: Vec<_> =
                (0..16).filter(|_| reused).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
            for refused in [value.try_get_lock(), value.get_lock_timeout(SHORT), value.get_lock()] {
                assert_eq!(refused.map(drop), Err(LockError::DescriptorsLost), "a live lock");
            }
            assert_eq!(value.get(), 1);
            assert_eq!(SharedValue::new(3u64).unwrap().get(), 3, "small objects need no descriptor");
            let large = SharedValue::new([3u64; 50_000]).map(drop);
            assert_eq!(large, Err(CreateError::DescriptorsLost));
            // A child of it has no way to take part.
            fork(|| {
                assert_eq!(value.get_lock().map(drop), Err(LockError::DescriptorsLost));
                assert_eq!(value.get(), 1);
            })
            .succeeds("a child without descriptors");
            at[0].store(1, SeqCst);
            until(|| at[1].load(SeqCst) == 1);
            assert_eq!(value.get_lock().map(|guard| *guard), Ok(2), "free locks need no descriptor");
        });
        until(|| at[0].load(SeqCst) == 1 || !blind.is_running());
        assert_eq!(
            value.try_get_lock().map(drop),
            Err(LockError::Timeout { owner: Some(holder.pid.as_raw_pid() as u32) })
        );
        if reused {
            release.send(0);
            until(|| value.try_get_lock().is_ok());
            at[1].store(1, SeqCst);
            blind.succeeds("the process without descriptors");
        }
    }
    holder.succeeds("the holder");
    assert_eq!((value.get(), objects()), (2, 1));
}

fn descriptors_closed_under_a_holder() {
    let value = SharedValue::new(1u64).unwrap();
    let at = words();
    let blind = fork(|| {
        let mut guard = value.get_lock().unwrap();
        close_all_descriptors();
        *guard = 2;
        at[0].store(1, SeqCst);
        until(|| at[1].load(SeqCst) == 1);
    });
    until(|| at[0].load(SeqCst) == 1);
    let owner = Some(blind.pid.as_raw_pid() as u32);
    assert_eq!(value.get_lock_timeout(SHORT).map(drop), Err(LockError::Timeout { owner }), "it lives");
    assert_eq!((value.get(), objects()), (1, 1));
    at[1].store(1, SeqCst);
    blind.succeeds("the process without descriptors");
    let guard = value.get_lock().unwrap();
    assert_eq!((*guard, guard.inherited()), (2, None));
}

// ---- forks ----

fn fork_with_a_guard_held() {
    let value = SharedValue::new([1u64; 8]).unwrap();
    for in_child_first in [false, true] {
        value.set([1; 8]).unwrap();
        let mut guard = value.get_lock().unwrap();
        *guard = [2; 8];
        let guard = RefCell::new(Some(guard));
        let (done, after) = (Line::new(), Line::new());
        let parent = pid();
        let child = fork(|| {
            if in_child_first {
                value.get(); // has an identity of its own before the drop
            }
            drop(guard.take());
            assert_eq!(value.get(), [1; 8], "the child's copy of the guard commits nothing");
            let refused = value.try_get_lock().map(drop);
            assert_eq!(refused, Err(LockError::Timeout { owner: Some(parent) }), "and frees nothing");
            done.send(0);
            after.receive();
            let mut guard = value.get_lock().unwrap();
            assert_eq!((*guard, guard.inherited()), ([2; 8], None));
            *guard = [3; 8];
        });
        done.receive();
        assert!(guard.borrow().is_some());
        drop(guard); // commits
        assert_eq!(value.get(), [2; 8]);
        after.send(0);
        child.succeeds("the child");
        assert_eq!((value.get(), objects()), ([3; 8], 1));
    }
}

fn fork_from_a_threaded_program() {
    const FORKS: u64 = 200;
    let (value, atomic) = (SharedValue::new([0u64; 2]).unwrap(), SharedAtomic::new(0u64).unwrap());
    let stop = words();
    let by_threads = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let (value, atomic) = (&value, &atomic);
                scope.spawn(move || {
                    let mut n = 0;
                    while stop[0].load(SeqCst) == 0 {
                        let small = SharedValue::new(n).unwrap();
                        let other = SharedValue::new([n; 64]).unwrap();
                        assert_eq!((small.get(), other.get()), (n, [n; 64]));
                        value.update(|v| v[0] += 1).unwrap();
                        atomic.fetch_add(1);
                        if i == 0 {
                            allmend::verify().unwrap();
                        }
                        n += 1;
                    }
                    n
                })
            })
            .collect();
        for n in 0..FORKS {
            stage(&format!("fork {n} of a threaded program"));
            fork(|| {
                value.update(|v| v[1] += 1).unwrap();
                atomic.fetch_add(1);
                let own = SharedValue::new(n).unwrap();
                assert_eq!(own.get(), n);
                if n % 2 == 0 {
                    allmend::verify().unwrap();
                }
            })
            .succeeds("a child of a threaded program");
        }
        stop[0].store(1, SeqCst);
        threads.into_iter().map(|t| t.join().unwrap()).sum::<u64>()
    });
    assert_eq!((value.get(), atomic.load()), ([by_threads, FORKS], by_threads + FORKS));
    assert_eq!(objects(), 2);
    println!("  {FORKS} forks beside {by_threads} rounds of 4 threads");
}

fn parent_killed_while_the_child_lives() {
    let value = SharedValue::new(1u64).unwrap();
    for attached in [false, true] {
        let at = words();
        let mut parent = fork(|| {
            let kept = SharedValue::new(7u64).unwrap();
            let mut guard = value.get_lock().unwrap();
            *guard = 2;
            let child = fork(|| {
                rustix::process::set_parent_process_death_signal(None).unwrap();
                if attached {
                    assert_eq!(value.get(), 1);
                }
                at[0].store(1, SeqCst);
                until(|| at[1].load(SeqCst) == 1);
                if attached {
                    assert_eq!(kept.get(), 7, "held by the child, too");
                }
                value.update(|v| *v += 10).unwrap();
                at[2].store(1, SeqCst);
                until(|| at[3].load(SeqCst) == 1);
            });
            std::mem::forget(child);
            until(|| at[0].load(SeqCst) == 1);
            die()
        });
        assert!(parent.end().was_killed());
        let guard = value.get_lock().unwrap();
        assert_eq!(guard.inherited(), Some(parent.pid.as_raw_pid() as u32), "though its child lives");
        drop(guard);
        assert_eq!(objects(), 1 + u64::from(attached));
        at[1].store(1, SeqCst);
        until(|| at[2].load(SeqCst) == 1);
        assert_eq!(value.get(), 11);
        at[3].store(1, SeqCst);
        // The orphan came to us.
        let _ = rustix::process::waitpid(None, rustix::process::WaitOptions::empty());
        value.set(1).unwrap();
        assert_eq!(objects(), 1);
    }
}

/// A child that is forked while its parent clears a dead slot must not inherit the right to it.
fn a_dead_slot_is_given_back() {
    let value = SharedValue::new(1u64).unwrap();
    let stop = words();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop[0].load(SeqCst) == 0 {
                allmend::verify().unwrap();
            }
        });
        let mut sleepers = Vec::new();
        let never = Line::new();
        for n in 0..100 {
            stage(&format!("round {n}"));
            let mut dead = fork(|| {
                std::mem::forget(SharedValue::new(2u64).unwrap());
                die()
            });
            dead.end();
            // Lives on with whatever it inherited, and has no slot of its own.
            sleepers.push(fork(|| {
                never.receive();
            }));
        }
        stop[0].store(1, SeqCst);
        assert_eq!(objects(), 1);
        let processes = allmend::verify().unwrap().processes;
        assert_eq!(processes, 1, "children that do not take part keep slots taken");
    });
    assert_eq!(value.get(), 1);
}

// ---- threads and processes ----

fn relock_is_an_error() {
    let value = SharedValue::new(1u64).unwrap();
    let other = value.clone();
    let guard = value.get_lock().unwrap();
    assert_eq!(other.get_lock().map(drop), Err(LockError::Deadlock));
    assert_eq!(value.try_get_lock().map(drop), Err(LockError::Deadlock));
    assert_eq!(value.get_lock_timeout(SHORT).map(drop), Err(LockError::Deadlock));
    assert_eq!(value.set(3), Err(LockError::Deadlock));
    let by_thread =
        std::thread::scope(|s| s.spawn(|| other.get_lock_timeout(SHORT).map(drop)).join().unwrap());
    assert_eq!(
        by_thread,
        Err(LockError::Timeout { owner: Some(pid()) }),
        "another thread of this process waits"
    );
    drop(guard);
    assert_eq!(value.get_lock().map(|g| *g), Ok(1));
}

fn threads_exclude_each_other() {
    let value = SharedValue::new([0u64; 4]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    value.update(|v| *v = v.map(|n| n + 1)).unwrap();
                    let seen = value.get();
                    assert!(seen.iter().all(|n| *n == seen[0]), "torn: {seen:?}");
                }
            });
        }
    });
    assert_eq!(value.get(), [80_000; 4]);
}

fn processes_exclude_each_other() {
    for workers in [2, 4, 8] {
        let (value, atomic) = (SharedValue::new([0u64; 4]).unwrap(), SharedAtomic::new(0u64).unwrap());
        let start = words();
        let children: Vec<_> = (0..workers)
            .map(|_| {
                fork(|| {
                    until(|| start[0].load(SeqCst) == 1);
                    for _ in 0..5_000 {
                        value.update(|v| *v = v.map(|n| n + 1)).unwrap();
                        atomic.fetch_add(1);
                        let seen = value.get();
                        assert!(seen.iter().all(|n| *n == seen[0]), "torn: {seen:?}");
                    }
                })
            })
            .collect();
        start[0].store(1, SeqCst);
        children.into_iter().for_each(|child| child.succeeds("a worker"));
        assert_eq!((value.get(), atomic.load()), ([workers * 5_000; 4], workers * 5_000));
        drop((value, atomic));
        assert_eq!(objects(), 0);
    }
}

fn a_panic_commits_nothing() {
    let value = SharedValue::new(1u64).unwrap();
    let panicked = std::panic::catch_unwind(|| {
        let mut guard = value.get_lock().unwrap();
        *guard = 2;
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(panicked.is_err());
    assert_eq!(value.get_lock().map(|g| (*g, g.inherited())), Ok((1, None)));
}

/// Others create, drop and die meanwhile: `verify` tells what is on its way from what is damaged.
fn verify_beside_work() {
    let value = SharedValue::new(1u64).unwrap();
    let mut random = Random::new();
    let start = |random: &mut Random| {
        let seed = random.next();
        fork(|| {
            let mut random = Random::seeded(seed);
            let _ = rustix::process::nice(5);
            loop {
                // The same extents are blocks, short runs and long ones in turn, full of bytes that say nothing.
                let n = random.next();
                match random.below(4) {
                    0 => {
                        drop((SharedValue::new([n; 9_000]).unwrap(), SharedValue::new([n; 12_000]).unwrap()))
                    }
                    1 => drop(SharedValue::new([u64::MAX; 80_000]).unwrap()),
                    2 => {
                        drop((SharedValue::new([n; 80_000]).unwrap(), SharedValue::new([n; 9_000]).unwrap()))
                    }
                    _ => drop((0..5).map(|_| SharedValue::new([n; 20]).unwrap()).collect::<Vec<_>>()),
                }
            }
        })
    };
    let mut workers: Vec<_> = (0..3).map(|_| start(&mut random)).collect();
    for n in 0..3_000 {
        stage(&format!("look {n}"));
        allmend::verify().expect("a healthy segment, though others work and die");
        if n % 20 == 0 {
            let i = random.below(3) as usize;
            workers[i].kill();
            workers[i] = start(&mut random);
        }
    }
    drop(workers);
    assert_eq!((objects(), value.get()), (1, 1));
}

// ---- limits ----

fn too_many_processes() {
    let value = SharedValue::new(1u64).unwrap();
    let (ready, never) = (Line::new(), Line::new());
    let mut sleepers: Vec<_> = (0..126)
        .map(|_| {
            let sleeper = fork(|| {
                value.get_lock().map(drop).unwrap();
                ready.send(0);
                never.receive();
            });
            ready.receive();
            sleeper
        })
        .collect();
    assert_eq!(allmend::verify().unwrap().processes, 127);
    fork(|| {
        assert_eq!(value.get_lock().map(drop), Err(LockError::TooManyProcesses { max: 127 }));
        assert_eq!(SharedValue::new(1u64).map(drop), Err(CreateError::TooManyProcesses { max: 127 }));
        let refused = allmend::verify().map(drop);
        assert_eq!(refused, Err(VerifyError::Create(CreateError::TooManyProcesses { max: 127 })));
        assert_eq!(value.get(), 1, "its parent holds the value");
    })
    .succeeds("one too many");
    sleepers[50].kill();
    fork(|| value.update(|v| *v += 1).unwrap()).succeeds("the next, with a place");
    assert_eq!((value.get(), objects()), (2, 1));
}

/// A forked child that cannot take part has no hold on what it inherited: it may look while others hold it, never write,
/// and not even look once it is gone, whoever has its place by then.
fn a_child_without_a_place_touches_nobody() {
    for closed in [true, false] {
        let why = if closed { "descriptors closed" } else { "all places taken" };
        stage(why);
        let base = SharedValue::new(1u64).unwrap();
        let (ready, never) = (Line::new(), Line::new());
        let sleepers: Vec<_> = (0..if closed { 0 } else { 126 })
            .map(|_| {
                let sleeper = fork(|| {
                    base.get();
                    ready.send(0);
                    never.receive();
                });
                ready.receive();
                sleeper
            })
            .collect();
        let make = |n: u64| {
            (
                SharedAtomic::new(n).unwrap(),
                SharedValue::unlocked(n).unwrap(),
                SharedValue::new([n; 8]).unwrap(),
            )
        };
        let (counter, plain, locked) = make(1);
        let at = words();
        let child = fork(|| {
            if closed {
                close_all_descriptors();
            }
            let refused =
                if closed { LockError::DescriptorsLost } else { LockError::TooManyProcesses { max: 127 } };
            let panics = |what: &str, f: &dyn Fn()| {
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
                assert!(done.is_err(), "{why}: {what} did not panic");
            };
            let no_writes = || {
                panics("fetch_add", &|| _ = counter.fetch_add(1));
                panics("store", &|| counter.store(9));
                panics("swap", &|| _ = counter.swap(9));
                panics("compare_exchange", &|| _ = counter.compare_exchange(7, 9));
                panics("fetch_update", &|| _ = counter.fetch_update(|n| n + 1));
                panics("set", &|| plain.set(9));
                assert_eq!(locked.get_lock().map(drop), Err(refused.clone()));
                assert_eq!(locked.try_get_lock().map(drop), Err(refused.clone()));
                assert_eq!(locked.set([9; 8]), Err(refused.clone()));
            };
            no_writes();
            assert_eq!((counter.load(), plain.get(), locked.get()), (1, 1, [1; 8]));
            at[0].store(1, SeqCst);
            until(|| at[1].load(SeqCst) == 1);
            no_writes();
            panics("load", &|| _ = counter.load());
            panics("get", &|| _ = plain.get());
            panics("get of a value with a lock", &|| _ = locked.get());
        });
        until(|| at[0].load(SeqCst) == 1 || !child.is_running());
        assert_eq!((counter.load(), plain.get(), locked.get()), (1, 1, [1; 8]));
        drop((counter, plain, locked));
        let others = [make(7), make(7)]; // more than there were, so that each place is taken
        at[1].store(1, SeqCst);
        child.succeeds(why);
        for (counter, plain, locked) in &others {
            assert_eq!((counter.load(), plain.get(), locked.get()), (7, 7, [7; 8]));
        }
        drop(sleepers);
        assert_eq!(objects(), 7);
    }
}

fn limit(resource: Resource, to: u64) {
    rustix::process::setrlimit(resource, Rlimit { current: Some(to), maximum: Some(to) }).unwrap();
}

fn address_space_now() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

fn little_address_space() {
    fork(|| {
        limit(Resource::As, address_space_now() + (300 << 20));
        let value = SharedValue::new(1u64).expect("a smaller segment");
        value.update(|v| *v += 1).unwrap();
        assert_eq!(value.get(), 2);
        let mut kept = Vec::new();
        let full = loop {
            match SharedValue::new([1u64; 50_000]) {
                Ok(value) => kept.push(value),
                Err(e) => break e,
            }
        };
        assert!(matches!(full, CreateError::Full { what: Lack::Segment, .. }), "{full:?}");
        assert!(kept.len() > 10 && kept.iter().all(|v| v.get() == [1; 50_000]));
        kept.pop();
        kept.push(SharedValue::new([2u64; 50_000]).expect("what was freed is there again"));
        kept.clear();
        assert_eq!(objects(), 1);
    })
    .succeeds("300 MB of address space");
    fork(|| {
        limit(Resource::As, address_space_now() + (2 << 20));
        let refused = SharedValue::new(1u64).map(drop).expect_err("no room for a segment");
        assert!(matches!(refused, CreateError::Full { what: Lack::AddressSpace, .. }), "{refused:?}");
    })
    .succeeds("2 MB of address space");
}

fn small_files_only() {
    fork(|| {
        limit(Resource::Fsize, 64 << 20);
        let mut kept = Vec::new();
        let full = loop {
            match SharedValue::new([1u64; 50_000]) {
                Ok(value) => kept.push(value),
                Err(e) => break e,
            }
        };
        assert!(matches!(full, CreateError::Full { what: Lack::Segment, .. }), "{full:?}");
        assert!(kept.len() > 10);
        kept.pop();
        kept.push(SharedValue::new([2u64; 50_000]).expect("what was freed is there again"));
        assert_eq!(objects(), kept.len() as u64);
    })
    .succeeds("files of 64 MB");
    fork(|| {
        limit(Resource::Fsize, 1 << 20);
        let refused = SharedValue::new(1u64).map(drop);
        assert!(matches!(refused, Err(CreateError::Full { what: Lack::FileSize, .. })), "{refused:?}");
    })
    .succeeds("files of 1 MB");
}

fn no_descriptors_left() {
    let use_up = || -> Vec<OwnedFd> {
        limit(Resource::Nofile, 64);
        std::iter::from_fn(|| rustix::io::dup(std::io::stderr().as_fd()).ok()).collect()
    };
    let is_emfile = |errno: i32| assert_eq!(errno, Errno::MFILE.raw_os_error());
    fork(|| {
        let mut files = use_up();
        match SharedValue::new(1u64).map(drop) {
            Err(CreateError::Os(e)) => is_emfile(e.errno),
            other => panic!("{other:?}"),
        }
        files.truncate(files.len() - 4);
        assert_eq!(SharedValue::new(1u64).unwrap().get(), 1, "tried again with some descriptors");
    })
    .succeeds("a first use without descriptors");
    let value = SharedValue::new(1u64).unwrap();
    fork(|| {
        let mut files = use_up();
        match value.get_lock().map(drop) {
            Err(LockError::Os(e)) => is_emfile(e.errno),
            other => panic!("{other:?}"),
        }
        assert_eq!(value.get(), 1);
        files.truncate(files.len() - 4);
        value.update(|v| *v += 1).unwrap();
    })
    .succeeds("a forked child without descriptors");
    fork(|| {
        value.get();
        let _files = use_up();
        value.update(|v| *v += 1).unwrap();
        assert_eq!(SharedValue::new(1u64).unwrap().get(), 1);
    })
    .succeeds("a process that takes part already needs no more");
    assert_eq!((value.get(), objects()), (3, 1));
}

fn no_proc() {
    let no_entry = |errno: i32| assert_eq!(errno, Errno::NOENT.raw_os_error());
    fork(|| {
        if !(own_mounts() && tmpfs_over(c"/proc", c"")) {
            return;
        }
        match SharedValue::new(1u64).map(drop) {
            Err(CreateError::Os(e)) => no_entry(e.errno),
            other => panic!("{other:?}"),
        }
        println!("  /proc hidden: {}", SharedValue::new(1u64).map(drop).unwrap_err());
    })
    .succeeds("a first use without /proc");
    let value = SharedValue::new(1u64).unwrap();
    fork(|| {
        value.get();
        if !(own_mounts() && tmpfs_over(c"/proc", c"")) {
            return;
        }
        value.update(|v| *v += 1).unwrap();
        fork(|| {
            match value.get_lock().map(drop) {
                Err(LockError::Os(e)) => no_entry(e.errno),
                other => panic!("{other:?}"),
            }
            assert_eq!(value.get(), 2);
        })
        .succeeds("a child without /proc");
    })
    .succeeds("a process that takes part already goes on without /proc");
}

fn another_pid_namespace() {
    // SAFETY: changes in which namespace the next children are, and nothing else.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0
        // SAFETY: as above.
        && unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) } != 0
    {
        println!("  skipped: unshare: {}", std::io::Error::last_os_error());
        return;
    }
    let value = SharedValue::new(1u64).unwrap();
    let (held, tell) = (Line::new(), Line::new());
    let mut guard = Some(value.get_lock().unwrap());
    let guard = &mut guard;
    // Process 1 of the new namespace: the next `fork`.
    let mut first = fork(|| {
        held.send(pid().into());
        let refused = value.get_lock_timeout(SHORT).map(drop);
        assert!(
            matches!(refused, Err(LockError::Timeout { .. })),
            "a live lock of another namespace: {refused:?}"
        );
        held.send(0);
        tell.receive();
        let mut own = value.get_lock().unwrap();
        assert_eq!((*own, own.inherited()), (2, None));
        *own = 3;
        held.send(0);
        tell.receive();
        drop(own);
    });
    assert_eq!(held.receive(), 1, "its own process id there");
    held.receive();
    **guard.as_mut().unwrap() = 2;
    drop(guard.take());
    tell.send(0);
    held.receive();
    assert!(matches!(value.try_get_lock().map(drop), Err(LockError::Timeout { .. })), "it lives there");
    first.kill();
    let guard = value.get_lock().unwrap();
    assert_eq!((*guard, guard.inherited()), (2, Some(1)), "it died there");
    drop(guard);
    assert_eq!(objects(), 1);
}

// ---- bad input ----

fn handles_outside_of_the_pool() {
    use serde::{
        Deserialize,
        de::value::{Error as Text, U64Deserializer},
    };
    let value = SharedValue::new(1u64).unwrap();
    let atomic = SharedAtomic::new(1u64).unwrap();
    assert!(postcard::to_stdvec(&value).is_err());
    assert!(postcard::to_stdvec(&(1, atomic.clone())).is_err());
    let expected = HandleError::OutsidePool.to_string();
    let decoded = SharedValue::<u64>::deserialize(U64Deserializer::<Text>::new(1)).map(drop);
    assert_eq!(decoded.unwrap_err().to_string(), expected);
    let decoded = SharedAtomic::<u64>::deserialize(U64Deserializer::<Text>::new(1)).map(drop);
    assert_eq!(decoded.unwrap_err().to_string(), expected);
    for bytes in [&[][..], &[0; 40], &[255; 40]] {
        assert!(postcard::from_bytes::<SharedValue<u64>>(bytes).is_err());
    }
    assert_eq!(objects(), 2);
    let sum: Error = HandleError::OutsidePool.into();
    assert_eq!(sum.to_string(), expected);
}

/// The segment's bytes, as a hostile process with its own mapping has them.
struct Hostile {
    words: &'static [AtomicU64],
    data: Vec<(usize, usize)>,
}

impl Hostile {
    fn open() -> Self {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let path = fds
            .map(|entry| entry.path())
            .find(|path| {
                std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:allmend"))
            })
            .expect("the segment's descriptor");
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let bytes = file.metadata().unwrap().len() as usize;
        // What has memory: the rest would be given some by a look.
        let (mut data, mut at) = (Vec::new(), 0);
        while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
            data.push((start as usize / 8, end as usize / 8));
            at = end;
        }
        let (read_write, shared) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        let fd = rustix::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, read_write, shared, fd, 0) };
        assert!(base != libc::MAP_FAILED);
        // SAFETY: aligned, never unmapped, reached through atomics alone.
        let words = unsafe { std::slice::from_raw_parts(base.cast(), bytes / 8) };
        Self { words, data }
    }

    fn find(&self, pattern: u64) -> usize {
        let mut all = self.data.iter().flat_map(|&(from, to)| from..to);
        all.find(|&i| self.words[i].load(SeqCst) == pattern).expect("the pattern is there")
    }
}

const PATTERN: u64 = 0x5ea1_ab1e_0b5e_55ed;

fn an_overwritten_lock() {
    let value = SharedValue::new(PATTERN).unwrap();
    let hostile = Hostile::open();
    let lock = &hostile.words[hostile.find(PATTERN) - 1];
    // Held: the low half of the word before the value is the lock.
    assert_eq!(lock.load(SeqCst), 0);
    let guard = value.get_lock().unwrap();
    let me = lock.load(SeqCst);
    assert!(me != 0 && me >> 30 == 0, "{me:#x}");
    drop(guard);
    // Flags without an owner, an owner without a slot, one without a generation: nothing that we write.
    for nonsense in [1u64 << 31, 3 << 30, 1 << 10, 5, 1 << 31 | 5] {
        lock.store(nonsense, SeqCst);
        assert_eq!(value.get_lock().map(drop), Err(LockError::Damaged), "{nonsense:#x}");
        assert_eq!(value.try_get_lock().map(drop), Err(LockError::Damaged), "{nonsense:#x}");
        assert_eq!(value.get_lock_timeout(SHORT).map(drop), Err(LockError::Damaged), "{nonsense:#x}");
        assert_eq!(value.set(2), Err(LockError::Damaged), "{nonsense:#x}");
        assert_eq!((value.get(), lock.load(SeqCst)), (PATTERN, nonsense), "left as it is");
    }
    // Our own name, though no thread of ours has it: nobody will ever unlock that.
    lock.store(me, SeqCst);
    assert!(matches!(value.try_get_lock().map(drop), Err(LockError::Timeout { .. } | LockError::Damaged)));
    assert_eq!(value.get_lock().map(drop), Err(LockError::Damaged));
    // Somebody who does not exist: as a dead one.
    lock.store(0x2345_6789 & 0x3fff_ffff, SeqCst);
    assert_eq!(value.get_lock().map(|g| g.inherited()), Ok(Some(0)));
    // Overwritten while we hold it: the drop is quiet, and the next who comes is told.
    let mut guard = value.get_lock().unwrap();
    *guard = 7;
    lock.store(1 << 31, SeqCst);
    drop(guard);
    assert_eq!(value.get_lock().map(drop), Err(LockError::Damaged));
    lock.store(0, SeqCst);
    assert_eq!(value.get_lock().map(drop), Ok(()));
}

/// Offsets of the tables in a segment of 127 places, in words. See `segment/layout.rs`.
const EXTENT_TABLE: usize = (4096 + 128 * 128) / 8;
const EXTENT_WORDS: usize = (1 << 20) / 8;

fn overwritten_tables() {
    let value = SharedValue::new(PATTERN).unwrap();
    let hostile = Hostile::open();
    let extent = hostile.find(PATTERN) / EXTENT_WORDS;
    let damaged = |what: &str| match allmend::verify() {
        Err(VerifyError::Damaged { what: found, .. }) => println!("  {what}: {found}"),
        other => panic!("{what}: {other:?}"),
    };
    let overwrite = |at: usize, with: u64, what: &str| {
        let word = &hostile.words[at];
        let before = word.swap(with, SeqCst);
        damaged(what);
        assert_eq!(value.get(), PATTERN);
        assert_eq!(value.update(|_| ()), Ok(()));
        word.store(before, SeqCst);
        assert_eq!(objects(), 1, "{what}: put back");
    };
    let table = EXTENT_TABLE + extent;
    assert_eq!(hostile.words[table].load(SeqCst) & 7, 2, "the extent of small blocks");
    overwrite(table, 7, "an extent word");
    overwrite(table, 2 | 99 << 3, "a class that does not exist");
    let state = extent * EXTENT_WORDS;
    assert_eq!(hostile.words[state].load(SeqCst), 2, "the first block is live");
    overwrite(state, 0x77, "a block's state");
    // A block that nobody made and nobody holds: as one whose last holder is just leaving it.
    hostile.words[state + 1].store(2, SeqCst);
    assert_eq!(allmend::verify().map(|report| (report.objects, report.busy)), Ok((1, 1)));
    hostile.words[state + 1].store(0, SeqCst);
    let record = hostile.find(PATTERN) - 1 - 8; // the body begins a line behind the record
    overwrite(record + 4, u64::MAX, "the size of a record");
    overwrite(record + 7, 1 << 63, "a holder that cannot be");
}

/// Random words of the tables, records and bodies get random values; nothing may crash, hang or panic.
fn overwritten_anything() {
    let mut random = Random::new();
    let rounds = if std::env::var_os("ALLMEND_LONG").is_some() { 20_000 } else { 1_500 };
    let mut errors = 0;
    for round in 0..rounds {
        let seed = random.next();
        stage(&format!("hostile round {round}, seed {seed}"));
        let mut child = fork(|| {
            let mut random = Random::seeded(seed);
            harness::exit_now(hostile_round(&mut random));
        });
        match child.end() {
            End::Exit(0) => {}
            End::Exit(1) => errors += 1,
            other => panic!("round {round}, seed {seed}: {other:?}"),
        }
    }
    println!("  {rounds} segments overwritten, {errors} of them gave errors");
    assert!(errors > 0);
}

fn hostile_round(random: &mut Random) -> i32 {
    let value = SharedValue::new([PATTERN; 4]).unwrap();
    let atomic = SharedAtomic::new(3u64).unwrap();
    let large = SharedValue::new([1u64; 20_000]).unwrap();
    let hostile = Hostile::open();
    let record = hostile.find(PATTERN) & !7;
    let tables = [0..32, 512..1024, EXTENT_TABLE..EXTENT_TABLE + 16, record - 16..record + 16];
    let extent = record / EXTENT_WORDS;
    for _ in 0..1 + random.below(4) {
        let at = match random.below(6) {
            5 => extent * EXTENT_WORDS + random.below(8) as usize,
            i => {
                let range = tables[i as usize % 4].clone();
                range.start + random.below(range.len() as u64) as usize
            }
        };
        let with = match random.below(4) {
            0 => random.next(),
            1 => random.below(64),
            2 => hostile.words[at].load(SeqCst) ^ 1 << random.below(64),
            _ => random.below(1 << 20) << 3 | random.below(8),
        };
        hostile.words[at].store(with, SeqCst);
    }
    let mut failed = false;
    let mut note = |ok: bool| failed |= !ok;
    value.get();
    atomic.fetch_add(1);
    note(value.get_lock_timeout(Duration::from_millis(1)).is_ok());
    note(SharedValue::new(5u64).is_ok());
    note(SharedValue::new([5u64; 20_000]).is_ok());
    note(allmend::verify().is_ok());
    let mut heir = fork(|| {
        let locked = value.get_lock_timeout(Duration::from_millis(1)).map(drop);
        if locked != Err(LockError::Gone) {
            value.get(); // it says by a panic that its object is gone
        }
        let locked = locked.is_ok();
        drop(SharedValue::new([5u64; 300]));
        let fine = locked && allmend::verify().is_ok();
        harness::exit_now(i32::from(!fine));
    });
    match heir.end() {
        End::Exit(code @ (0 | 1)) => note(code == 0),
        other => panic!("the heir: {other:?}"),
    }
    drop((value, atomic, large));
    note(allmend::verify().is_ok());
    i32::from(failed)
}
