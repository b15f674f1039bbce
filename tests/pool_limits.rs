//! The pool where something is missing or somebody misbehaves: no descriptors, processes or memory left, no /proc, a
//! host that reaps our workers or closes our descriptors, programs that are no workers, bytes that do not decode,
//! parents that are forked or killed, words that are overwritten.
//!
//! Each test is a process of its own, so that it may set limits; nothing here has an upper time bound, a hang is the
//! runner's to find.
//!
//! *Nothing left behind* is checked in two ways: the test is the reaper of all its descendants, so a worker that outlives
//! its parent becomes a child of the test ([`children`]); and `verify` counts the objects.
#![allow(
    unsafe_code,
    reason = "limits, mounts, signals and users of the children; a second mapping for hostile bytes"
)]
#![allow(clippy::disallowed_types, reason = "words between test processes are not the crate's")]

mod harness;

use allmend::{
    CreateError, HandleError, Manager, Pool, PoolError, PoolFault, SharedAtomic, SharedValue, TaskError,
};
use harness::{
    Child, End, Random, die, exit_now, fork,
    mounts::{own_mounts, tmpfs_over},
    stage, until, words,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{Resource, Rlimit, WaitOptions},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    cell::RefCell,
    collections::HashSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

fn main() {
    harness::run(&[
        ("zero_workers", zero_workers),
        ("more_workers_than_places", more_workers_than_places),
        ("no_descriptors_at_the_start", no_descriptors_at_the_start),
        ("no_descriptors_for_a_replacement", no_descriptors_for_a_replacement),
        ("no_descriptors_for_the_only_worker", no_descriptors_for_the_only_worker),
        ("no_descriptors_in_a_worker", no_descriptors_in_a_worker),
        ("no_processes", no_processes),
        ("little_address_space", little_address_space),
        ("no_proc", no_proc),
        ("a_host_that_ignores_sigchld", a_host_that_ignores_sigchld),
        ("a_host_that_reaps_everything", a_host_that_reaps_everything),
        ("programs_that_are_no_workers", programs_that_are_no_workers),
        ("what_does_not_encode_or_decode", what_does_not_encode_or_decode),
        ("panics_in_odd_places", panics_in_odd_places),
        ("handles_outside_of_the_pool", handles_outside_of_the_pool),
        ("handles_travel_both_ways", handles_travel_both_ways),
        ("a_stale_handle", a_stale_handle),
        ("a_forked_child_and_the_pool", a_forked_child_and_the_pool),
        ("a_map_that_crosses_a_fork", a_map_that_crosses_a_fork),
        ("a_forked_child_with_threads_drops_the_pool", a_forked_child_with_threads_drops_the_pool),
        ("all_descriptors_of_the_parent_are_closed", all_descriptors_of_the_parent_are_closed),
        ("all_descriptors_of_a_worker_are_closed", all_descriptors_of_a_worker_are_closed),
        ("the_thread_that_made_the_pool_ends", the_thread_that_made_the_pool_ends),
        ("a_pool_that_is_never_dropped", a_pool_that_is_never_dropped),
        ("a_clone_is_dropped_by_another_thread", a_clone_is_dropped_by_another_thread),
        ("ten_thousand_futures_in_any_order", ten_thousand_futures_in_any_order),
        ("pools_in_pools", pools_in_pools),
        ("eight_workers", eight_workers),
        ("the_parent_is_killed_at_any_time", the_parent_is_killed_at_any_time),
        ("a_task_that_becomes_another_program", a_task_that_becomes_another_program),
        ("a_task_that_closes_descriptors", a_task_that_closes_descriptors),
        ("the_whole_program_is_stopped_at_the_start", the_whole_program_is_stopped_at_the_start),
        ("workers_that_are_killed_after_their_work", workers_that_are_killed_after_their_work),
        ("workers_that_die_at_once", workers_that_die_at_once),
        ("workers_that_cannot_start_any_more", workers_that_cannot_start_any_more),
        ("many_unread_results_with_handles", many_unread_results_with_handles),
        ("overwritten_results_and_arguments", overwritten_results_and_arguments),
        ("overwritten_ring", overwritten_ring),
        ("overwritten_states", overwritten_states),
        ("overwritten_anything", overwritten_anything),
    ]);
}

// ---- what all need ----

fn double(n: u64) -> u64 {
    2 * n
}

fn kill_self(_: ()) {
    die()
}

fn pid(_: ()) -> u32 {
    std::process::id()
}

/// Counts itself in the first, and runs until the second is not 0.
fn held((begun, release): (SharedAtomic<u64>, SharedAtomic<u64>)) -> u32 {
    begun.fetch_add(1);
    while release.load() == 0 {
        std::hint::spin_loop();
    }
    std::process::id()
}

fn works(pool: &Pool) {
    assert_eq!(pool.submit(double, 4).result(), Ok(8));
    assert!(pool.map(double, 0..100).eq((0..100).map(|n| Ok(2 * n))));
}

fn status(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Children of this process, zombies included.
fn children() -> Vec<u32> {
    let me = std::process::id();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| status(pid).is_some_and(|(_, parent)| parent == me))
        .collect()
}

fn lives(pid: u32) -> bool {
    status(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// Waits until there is no child any more; who was orphaned has become one.
fn reap_all() {
    while !children().is_empty() {
        if let Ok(None) | Err(_) = rustix::process::waitpid(None, WaitOptions::NOHANG) {
            std::thread::yield_now();
        }
    }
}

/// No process, and no object but those that the test counts itself.
fn nothing_left(objects: u64) {
    assert_eq!(children(), [0; 0], "processes are left");
    let report = allmend::verify().expect("a healthy segment");
    assert_eq!((report.objects, report.pins), (objects, 0), "{report:?}");
}

fn set_limit(resource: Resource, to: Option<u64>) {
    let maximum = rustix::process::getrlimit(resource).maximum;
    rustix::process::setrlimit(resource, Rlimit { current: to, maximum }).unwrap();
}

fn of_the_kernel(e: &PoolError) -> Option<i32> {
    match e {
        PoolError::Os(e) | PoolError::Create(CreateError::Os(e)) => Some(e.errno),
        _ => None,
    }
}

/// A task that the pool cannot run, and the kernel is why.
fn refused_by_the_kernel(result: Result<u64, TaskError>, errno: Errno) {
    match result {
        Err(TaskError::Pool(e)) => assert_eq!(of_the_kernel(&e), Some(errno.raw_os_error()), "{e:?}"),
        other => panic!("{other:?}"),
    }
}

/// Workers die before they are ready.
fn never_ready(signal: Option<i32>, code: Option<i32>) -> PoolError {
    PoolError::Broken(PoolFault::WorkersDie { ready: false, signal, code })
}

// ---- numbers ----

fn zero_workers() {
    assert_eq!(Pool::new(0).err(), Some(PoolError::NoWorkers));
    assert_eq!(Pool::builder().workers(0).build().err(), Some(PoolError::NoWorkers));
    nothing_left(0);
}

fn more_workers_than_places() {
    let no_places = || PoolError::Create(CreateError::TooManyProcesses { max: 127 });
    for n in [127, 200, 1023, 1024, 100_000, usize::MAX] {
        stage(&format!("{n} workers"));
        assert_eq!(Pool::new(n).err(), Some(no_places()), "{n}");
        nothing_left(0);
    }
    stage("a smaller pool");
    works(&Pool::new(2).unwrap());
    stage("places that others have");
    let others = Pool::new(80).unwrap();
    assert_eq!(Pool::new(80).err(), Some(no_places()), "46 are left");
    assert_eq!(children().len(), 80);
    works(&others);
    works(&Pool::new(2).unwrap());
    drop(others);
    nothing_left(0);
}

// ---- limits ----

/// Descriptors, until there are no more.
fn use_up_descriptors() -> Vec<OwnedFd> {
    set_limit(Resource::Nofile, Some(100));
    std::iter::from_fn(|| rustix::io::dup(std::io::stderr().as_fd()).ok()).collect()
}

fn no_descriptors_at_the_start() {
    let mut files = use_up_descriptors();
    let (mut refused, mut kept) = (0, Vec::new());
    // The reader of /proc needs one for itself, so it looks when some are free again.
    loop {
        stage(&format!("{refused} free descriptors"));
        match Pool::new(2) {
            Ok(pool) => {
                works(&pool);
                kept.push(pool);
                break;
            }
            Err(e) => assert_eq!(of_the_kernel(&e), Some(Errno::MFILE.raw_os_error()), "{e:?}"),
        }
        refused += 1;
        files.pop().expect("not all of them are needed");
    }
    println!("  refused with 0 to {} free descriptors", refused - 1);
    assert!(refused > 5);
    drop(files);
    assert_eq!(children().len(), 2, "of the pools that were refused none is left");
    kept.clear();
    nothing_left(0);
}

fn no_descriptors_for_a_replacement() {
    let pool = Pool::new(2).unwrap();
    for round in 0..3 {
        let files = use_up_descriptors();
        stage(&format!("the death of one, {round}"));
        let died = pool.submit(kill_self, ()).result();
        assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
        works(&pool);
        assert!(pool.workers().len() < 2, "nobody can be started");
        drop(files);
        stage("its replacement");
        until(|| pool.workers().len() == 2);
        works(&pool);
    }
    drop(pool);
    nothing_left(0);
}

fn no_descriptors_for_the_only_worker() {
    let pool = Pool::new(1).unwrap();
    let files = use_up_descriptors();
    let died = pool.submit(kill_self, ()).result();
    assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
    stage("a task without a worker");
    refused_by_the_kernel(pool.submit(double, 1).result(), Errno::MFILE);
    // Later tasks are told at once; the pool goes on trying.
    refused_by_the_kernel(pool.submit(double, 1).result(), Errno::MFILE);
    assert!(pool.map(double, 0..3).all(|result| result.is_err()));
    drop(files);
    let later = pool.submit(double, 1).result();
    assert!(matches!(&later, Ok(2) | Err(TaskError::Pool(_))), "{later:?}");
    stage("it recovers");
    until(|| pool.submit(double, 1).result() == Ok(2));
    works(&pool);
    drop(pool);
    works(&Pool::new(1).unwrap());
    nothing_left(0);
}

/// It learns of a segment that it has not seen yet.
fn no_descriptors_in_a_worker() {
    thread_local! {
        static FILES: RefCell<Vec<OwnedFd>> = const { RefCell::new(Vec::new()) };
    }
    let pool = Pool::new(1).unwrap();
    let manager = Manager::new().unwrap();
    let value = manager.value("seven", 7u64).unwrap();
    let get = |value: SharedValue<u64>| value.get();
    for round in 0..2 {
        stage(&format!("none is left, {round}"));
        assert_eq!(pool.submit(|()| FILES.set(use_up_descriptors()), ()).result(), Ok(()));
        let e = pool.submit(get, value.clone()).result();
        let Err(TaskError::Handle(HandleError::Create(CreateError::Os(e)))) = e else { panic!("{e:?}") };
        assert_eq!(e.errno, Errno::MFILE.raw_os_error());
        works(&pool);
        assert_eq!(pool.submit(|()| drop(FILES.take()), ()).result(), Ok(()));
    }
    stage("some are");
    assert_eq!(pool.submit(get, value.clone()).result(), Ok(7));
    drop((pool, manager, value));
    nothing_left(0);
}

/// Becomes another user, since root has no limit.
fn become_a_user() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    // SAFETY: changes who this process is, and nothing else.
    let done = unsafe { libc::setresuid(54_321, 54_321, 54_321) } == 0;
    // SAFETY: as above; the change of the user took our right to look at ourselves.
    done && unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) } == 0
}

fn no_processes() {
    fork(|| {
        if !become_a_user() {
            println!("  skipped: cannot become another user: {}", std::io::Error::last_os_error());
            return;
        }
        // How many processes and threads the user has is not known here: the limit is raised until a pool comes up.
        let mut pools = Vec::new();
        for limit in 1.. {
            stage(&format!("{limit} processes"));
            set_limit(Resource::Nproc, Some(limit));
            match Pool::new(2) {
                Ok(pool) => {
                    works(&pool);
                    pools.push(pool);
                    break;
                }
                Err(e) => assert_eq!(of_the_kernel(&e), Some(Errno::AGAIN.raw_os_error()), "{e:?}"),
            }
            if limit == 2 && rustix::process::geteuid().is_root() {
                println!("  skipped: root has no limit");
                return;
            }
            assert!(limit < 10_000 && children().is_empty(), "what was refused left nothing");
        }
        let pool = pools.pop().expect("it came up");
        stage("the death of one");
        set_limit(Resource::Nproc, Some(1));
        let died = pool.submit(kill_self, ()).result();
        assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
        works(&pool);
        stage("the death of both");
        assert!(matches!(pool.submit(kill_self, ()).result(), Err(TaskError::Died { .. })));
        refused_by_the_kernel(pool.submit(double, 1).result(), Errno::AGAIN);
        set_limit(Resource::Nproc, rustix::process::getrlimit(Resource::Nproc).maximum);
        stage("its replacement");
        until(|| pool.workers().len() == 2);
        works(&pool);
        drop(pool);
        nothing_left(0);
    })
    .succeeds("another user with a limit");
}

fn little_address_space() {
    let mut seen = [0; 2];
    for mebibytes in [6u64, 12, 24, 48, 96, 192, 384, 768, 1536, 3072] {
        stage(&format!("{mebibytes} MiB of address space"));
        let end = fork(|| {
            let now = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages = now.split(' ').next().unwrap().parse::<u64>().unwrap();
            set_limit(Resource::As, Some(pages * 4096 + (mebibytes << 20)));
            let made = Pool::new(2);
            let fine = made.is_ok();
            match made {
                Ok(pool) => works(&pool),
                Err(e) => {
                    println!("  {mebibytes} MiB: {e}");
                    // No room for the segment; or, here or in a worker, for a thread.
                    let full = matches!(e, PoolError::Create(CreateError::Full { .. }));
                    let no_thread = of_the_kernel(&e) == Some(Errno::AGAIN.raw_os_error());
                    assert!(full || no_thread, "{e:?}");
                }
            }
            assert!(children().is_empty());
            exit_now(if fine { 0 } else { 1 });
        })
        .end();
        match end {
            End::Exit(code @ (0 | 1)) => seen[code as usize] += 1,
            other => panic!("{mebibytes} MiB: {other:?}"),
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both were seen: {seen:?}");
}

fn no_proc() {
    let missing = Some(Errno::NOENT.raw_os_error());
    stage("a pool is the first use");
    fork(|| {
        if own_mounts() && tmpfs_over(c"/proc", c"") {
            let e = Pool::new(2).expect_err("no /proc");
            println!("  {e}");
            assert_eq!(of_the_kernel(&e), missing, "{e:?}");
        }
    })
    .succeeds("without /proc");
    stage("a pool of a process that takes part already");
    fork(|| {
        let value = SharedValue::new(1u64).unwrap();
        if own_mounts() && tmpfs_over(c"/proc", c"") {
            let e = Pool::new(2).expect_err("no /proc");
            println!("  {e}");
            assert_eq!(of_the_kernel(&e), missing, "{e:?}");
            assert_eq!(value.get(), 1);
        }
    })
    .succeeds("/proc is hidden after the first use");
    stage("a pool that runs already");
    fork(|| {
        if !own_mounts() {
            return;
        }
        let pools = [Pool::new(2).unwrap(), Pool::new(1).unwrap()];
        if !tmpfs_over(c"/proc", c"") {
            return;
        }
        for pool in &pools {
            works(pool);
            let died = pool.submit(kill_self, ()).result();
            assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
        }
        works(&pools[0]); // by the other one
        refused_by_the_kernel(pools[1].submit(double, 1).result(), Errno::NOENT);
    })
    .succeeds("/proc is hidden under a pool");
    reap_all();
}

// ---- hosts ----

/// A pool whose deaths the kernel does not explain, or not always.
fn deaths_without_status(pool: &Pool) {
    for round in 0..20 {
        stage(&format!("death {round}"));
        match pool.submit(kill_self, ()).result() {
            Err(TaskError::Died { signal: None | Some(9), code: None, pid, .. }) => assert_ne!(pid, 0),
            other => panic!("{other:?}"),
        }
        works(pool);
    }
    until(|| pool.workers().len() == 2);
}

fn a_host_that_ignores_sigchld() {
    // SAFETY: no handler.
    assert_ne!(unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) }, libc::SIG_ERR);
    let pool = Pool::new(2).unwrap();
    match pool.submit(kill_self, ()).result() {
        Err(TaskError::Died { signal: None, code: None, .. }) => {}
        other => panic!("the status is lost: {other:?}"),
    }
    deaths_without_status(&pool);
    let default = pool
        .submit(|()| std::process::Command::new("/bin/true").status().map(|s| s.code()).ok(), ())
        .result();
    assert_eq!(default, Ok(Some(Some(0))), "a worker's own children have theirs");
    drop(pool);
    stage("a program that is no worker");
    let e = Pool::builder().workers(2).worker_exe("/bin/true").build().unwrap_err();
    assert_eq!(e, never_ready(None, None), "the status is lost");
    nothing_left(0);
}

fn a_host_that_reaps_everything() {
    let stop = words();
    let reaper = std::thread::spawn(move || {
        while stop[0].load(SeqCst) == 0 {
            if rustix::process::waitpid(None, WaitOptions::NOHANG).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let pool = Pool::new(2).unwrap();
    deaths_without_status(&pool);
    drop(pool);
    stage("programs that are no workers");
    for _ in 0..10 {
        let e = Pool::builder().workers(2).worker_exe("/bin/true").build().unwrap_err();
        // Who was first: the host, or the supervisor.
        assert!(e == PoolError::NotAWorkerImage("/bin/true".into()) || e == never_ready(None, None), "{e:?}");
    }
    stop[0].store(1, SeqCst);
    reaper.join().unwrap();
    nothing_left(0);
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("pool-limits-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn program(&self, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn programs_that_are_no_workers() {
    let folder = Folder::new();
    let start = |program: &Path, what: &str| {
        stage(what);
        let made = Pool::builder().workers(2).worker_exe(program).build();
        assert_eq!(children().len(), if made.is_ok() { 2 } else { 0 }, "{what}");
        made
    };
    let strangers: [(&str, PathBuf); 7] = [
        ("ends at once", "/bin/true".into()),
        ("ends with an error", "/bin/false".into()),
        ("reads its input", "/bin/cat".into()),
        ("never ends", folder.program("sleeps", b"#!/bin/sh\nexec sleep 100000\n", 0o755)),
        (
            "never ends, and closes what it was given",
            folder.program(
                "closes",
                b"#!/bin/bash\nfor f in /proc/self/fd/*; do n=${f##*/}; [ $n -gt 2 ] && eval \"exec $n>&-\"; done\n\
                exec sleep 100000 2>/dev/null\n",
                0o755,
            ),
        ),
        ("never ends, whatever it is told", {
            let script = b"#!/bin/bash\ntrap '' TERM INT HUP PIPE USR1 USR2\nwhile :; do :; done\n";
            folder.program("ignores", script, 0o755)
        }),
        ("kills itself", folder.program("dies", b"#!/bin/sh\nkill -9 $$\n", 0o755)),
    ];
    for (what, program) in &strangers {
        let e = start(program, what).unwrap_err();
        match &e {
            PoolError::NotAWorkerImage(path) if path == program => {}
            e if *what == "kills itself" => assert_eq!(*e, never_ready(Some(9), None)),
            _ => panic!("{what}: {e:?}"),
        }
    }
    let refused: [(&str, PathBuf, Errno); 5] = [
        ("is not there", "/nowhere/at/all".into(), Errno::NOENT),
        ("is a folder", folder.0.clone(), Errno::ACCESS),
        ("may not be run", folder.program("plain", b"#!/bin/sh\n", 0o644), Errno::ACCESS),
        ("is no program", folder.program("garbage", &[0; 100], 0o755), Errno::NOEXEC),
        ("has a NUL in its name", PathBuf::from("/bin/tr\0ue"), Errno::INVAL),
    ];
    for (what, program, errno) in &refused {
        let e = start(program, what).unwrap_err();
        assert_eq!(of_the_kernel(&e), Some(errno.raw_os_error()), "{what}: {e:?}");
    }
    // This very program from another file is a worker.
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    works(&start(&folder.program("copy", &own, 0o755), "the same build").unwrap());
    // With another build id it is not.
    let mut other = own;
    let note = [4u32.to_ne_bytes(), 20u32.to_ne_bytes(), 3u32.to_ne_bytes(), *b"GNU\0"].concat();
    match other.windows(note.len()).position(|bytes| bytes == note) {
        Some(at) => {
            other[at + note.len() + 7] ^= 1;
            let program = folder.program("other", &other, 0o755);
            let e = start(&program, "another build").unwrap_err();
            assert_eq!(e, PoolError::NotAWorkerImage(program));
        }
        None => println!("  skipped: another build: this program has no build id"),
    }
    nothing_left(0);
}

// ---- arguments, results, panics ----

/// Fails or panics where it is told to.
#[derive(Clone, Debug, PartialEq)]
struct Odd(u8);

const NOT_ENCODED: u8 = 1;
const NOT_DECODED: u8 = 2;
const PANIC_ENCODED: u8 = 3;
const PANIC_DECODED: u8 = 4;
const PANIC_DROPPED: u8 = 5;

thread_local! {
    /// `PANIC_DROPPED` does so once in a thread: a second panic would end the process.
    static DROPPED: RefCell<bool> = const { RefCell::new(false) };
}

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            NOT_ENCODED => Err(serde::ser::Error::custom("not encoded")),
            PANIC_ENCODED => panic!("panic while encoded"),
            n => serializer.serialize_u8(n),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            NOT_DECODED => Err(serde::de::Error::custom("not decoded")),
            PANIC_DECODED => panic!("panic while decoded"),
            n => Ok(Odd(n)),
        }
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        if self.0 == PANIC_DROPPED && std::env::var_os("ODD").is_some() && !DROPPED.replace(true) {
            panic!("panic while dropped");
        }
    }
}

fn a_pool_of_odd_workers(n: usize) -> Pool {
    Pool::builder().workers(n).env("ODD", "1").build().unwrap()
}

fn what_does_not_encode_or_decode() {
    let pool = a_pool_of_odd_workers(1);
    let workers = pool.workers();
    let is_codec =
        |result: Result<u8, TaskError>| assert!(matches!(result, Err(TaskError::Codec(_))), "{result:?}");
    is_codec(pool.submit(|odd: Odd| odd.0, Odd(NOT_DECODED)).result());
    is_codec(pool.submit(|odd: Odd| odd.0, Odd(NOT_ENCODED)).result());
    is_codec(pool.submit(Odd, NOT_ENCODED).result().map(|odd| odd.0));
    is_codec(pool.submit(Odd, NOT_DECODED).result().map(|odd| odd.0));
    let items = [9, NOT_DECODED, 9, 9, NOT_DECODED, 9];
    let results: Vec<_> = pool.with_chunk_size(6).map(|odd: Odd| odd.0, items.map(Odd)).collect();
    for (item, result) in items.into_iter().zip(results) {
        if item == 9 { assert_eq!(result, Ok(9)) } else { is_codec(result) }
    }
    let items = [9, NOT_ENCODED, 9];
    let results: Vec<_> = pool.with_chunk_size(3).map(Odd, items).collect();
    assert_eq!(results.len(), 3);
    for (item, result) in items.into_iter().zip(results) {
        if item == 9 { assert_eq!(result, Ok(Odd(9))) } else { is_codec(result.map(|odd| odd.0)) }
    }
    assert_eq!(pool.workers(), workers, "nobody died of it");
    drop(pool);
    nothing_left(0);
}

fn panics_in_odd_places() {
    let pool = a_pool_of_odd_workers(1);
    let workers = pool.workers();
    let is_panic = |result: Result<u8, TaskError>, text: &str| match result {
        Err(TaskError::Panicked { message, .. }) => assert_eq!(message, text),
        other => panic!("{text}: {other:?}"),
    };
    let no_text = "a panic whose payload is not text";
    is_panic(pool.submit(|()| std::panic::panic_any(17u32), ()).result(), no_text);
    is_panic(pool.submit(|()| std::panic::panic_any(Odd(9)), ()).result(), no_text);
    stage("a payload that panics when it is dropped");
    is_panic(pool.submit(|()| std::panic::panic_any(Odd(PANIC_DROPPED)), ()).result(), no_text);
    assert_eq!(pool.workers(), workers, "nobody died of it");
    drop(pool);
    stage("a result that panics when it is dropped");
    let pool = a_pool_of_odd_workers(1);
    is_panic(pool.submit(Odd, PANIC_DROPPED).result().map(|odd| odd.0), "panic while dropped");
    assert_eq!(pool.submit(Odd, 9).result(), Ok(Odd(9)));
    drop(pool);
    stage("an argument that panics when it is dropped");
    let pool = a_pool_of_odd_workers(1);
    is_panic(pool.submit(|odd: Odd| odd.0, Odd(PANIC_DROPPED)).result(), "panic while dropped");
    stage("an argument that panics when it is decoded");
    is_panic(pool.submit(|odd: Odd| odd.0, Odd(PANIC_DECODED)).result(), "panic while decoded");
    stage("a result with handles that panics when it is encoded");
    let made = pool.submit(|n: u8| (SharedValue::new(1u64).unwrap(), Odd(n)), PANIC_ENCODED).result();
    is_panic(made.map(|(_, odd)| odd.0), "panic while encoded");
    stage("a result that panics when it is decoded here");
    let handle = SharedValue::new(1u64).unwrap();
    let future = pool.submit(|n: u8| (SharedValue::new(1u64).unwrap(), Odd(n)), PANIC_DECODED);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.result().map(drop)));
    assert!(caught.is_err());
    assert!(postcard::to_stdvec(&handle).is_err(), "handles are for the pool only, also after that");
    stage("an argument that panics when it is encoded here");
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.submit(|(_, odd): (SharedValue<u64>, Odd)| odd.0, (handle.clone(), Odd(PANIC_ENCODED))).detach();
    }));
    assert!(caught.is_err());
    assert!(postcard::to_stdvec(&handle).is_err());
    works(&pool);
    drop((pool, handle));
    nothing_left(0);
}

fn handles_outside_of_the_pool() {
    let pool = Pool::new(1).unwrap();
    let value = SharedValue::new(7u64).unwrap();
    // Encoded by the task itself: refused there, and refused when the task hands the error on.
    let direct = |value: SharedValue<u64>| postcard::to_stdvec(&value).map_err(|e| e.to_string());
    let refused = pool.submit(direct, value.clone()).result().unwrap();
    assert!(refused.is_err(), "{refused:?}");
    let within = |bytes: Vec<u8>| postcard::from_bytes::<SharedValue<u64>>(&bytes).map(drop).is_err();
    for bytes in [vec![], vec![0; 40], vec![255; 40]] {
        assert_eq!(pool.submit(within, bytes).result(), Ok(true));
    }
    assert!(postcard::to_stdvec(&value).is_err(), "here, too, while a pool runs");
    assert_eq!(value.get(), 7);
    drop((pool, value));
    nothing_left(0);
}

fn handles_travel_both_ways() {
    let pool = Pool::new(2).unwrap();
    let set = |values: Vec<SharedValue<i64>>| {
        values[0].set(5).unwrap();
        values
    };
    for round in 0..50 {
        let made = pool.submit(|n: i64| vec![SharedValue::new(n).unwrap(); 3], round).result().unwrap();
        assert_eq!(made.len(), 3);
        assert_eq!(made[2].get(), round);
        let back = pool.submit(set, made).result().unwrap();
        assert_eq!(back[1].get(), 5);
        // Nobody takes these.
        pool.submit(|n: i64| SharedValue::new(n).unwrap(), round).detach();
        let unread = pool.submit(|n: i64| SharedValue::new(n).unwrap(), round);
        until(|| unread.done());
    }
    drop(pool);
    nothing_left(0);
}

/// A handle that goes out as bytes which somebody kept, and comes back as what they name.
#[derive(Debug)]
enum Kept {
    Bytes(Vec<u8>),
    Value(SharedValue<u64>),
}

thread_local! {
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let bytes = match self {
            Kept::Bytes(bytes) => bytes.clone(),
            // Within the pool's own work, so that there are bytes.
            Kept::Value(value) => postcard::to_stdvec(value).map_err(serde::ser::Error::custom)?,
        };
        let mut tuple = serializer.serialize_tuple(bytes.len())?;
        bytes.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        BYTES.set(bytes);
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SharedValue::deserialize(deserializer).map(Kept::Value)
    }
}

fn read(kept: Kept) -> Option<u64> {
    match kept {
        Kept::Value(value) => Some(value.get()),
        Kept::Bytes(_) => None,
    }
}

fn a_stale_handle() {
    let pool = Pool::new(2).unwrap();
    let value = SharedValue::new(7u64).unwrap();
    assert_eq!(pool.submit(read, Kept::Value(value.clone())).result(), Ok(Some(7)));
    let bytes = BYTES.take();
    assert!(!bytes.is_empty());
    let again = || pool.submit(read, Kept::Bytes(bytes.clone())).result();
    assert_eq!(again(), Ok(Some(7)), "it lives");
    // The worker's own handle may be dropped a moment after its result is here.
    drop(value);
    until(|| allmend::verify().unwrap().objects == 1);
    assert_eq!(again(), Err(TaskError::Handle(HandleError::Gone)));
    let next = SharedValue::new(8u64).unwrap();
    assert_eq!(again(), Err(TaskError::Handle(HandleError::Gone)), "whoever has its place now");
    let typed = pool.submit(read, Kept::Bytes(vec![1; bytes.len()])).result();
    assert_eq!(typed, Err(TaskError::Handle(HandleError::UnknownSegment)));
    let short = pool.submit(read, Kept::Bytes(bytes[..bytes.len() - 1].to_vec())).result();
    assert!(matches!(short, Err(TaskError::Codec(_))), "{short:?}");
    works(&pool);
    drop((pool, next));
    nothing_left(0);
}

// ---- forks ----

fn a_forked_child_and_the_pool() {
    let pool = Pool::new(2).unwrap();
    let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
    let mut running = Some(pool.submit(held, (begun.clone(), release.clone())));
    let mut done = Some(pool.submit(double, 3));
    until(|| begun.load() == 1 && done.as_ref().is_some_and(|future| future.done()));
    let closed = |result: Result<u64, TaskError>| assert_eq!(result, Err(TaskError::Closed));
    stage("a child that uses it");
    fork(|| {
        closed(pool.submit(double, 1).result());
        closed(pool.submit_fn(double, 1).result());
        let results: Vec<_> = pool.map(double, 0..5).collect();
        assert_eq!(results.len(), 5);
        results.into_iter().for_each(closed);
        let mut running = running.take().unwrap();
        assert!(!running.done());
        assert_eq!(running.result_timeout(Duration::ZERO), Err(TaskError::Closed));
        assert_eq!(running.result_timeout(Duration::from_secs(1)), Err(TaskError::Closed));
        assert_eq!(running.result(), Err(TaskError::Closed));
        assert_eq!(done.take().unwrap().result(), Ok(6), "it was here before the fork");
        assert!(format!("{pool:?}").contains("Pool"));
        assert_eq!(pool.workers(), [0; 0], "they are the parent's");
        drop(pool.clone());
    })
    .succeeds("a child that uses its parent's pool");
    works(&pool);
    stage("a child that drops it");
    let mut given = Some(pool.clone());
    let kept = pool;
    let mut kept = Some(kept);
    fork(|| {
        drop(running.take());
        drop(given.take());
        drop(kept.take());
    })
    .succeeds("a child that drops its parent's pool");
    let pool = kept.take().unwrap();
    drop(given);
    works(&pool);
    stage("a child with a pool of its own");
    fork(|| {
        let own = Pool::new(2).unwrap();
        works(&own);
        assert_eq!(children().len(), 2);
        assert_eq!(own.workers().len(), 2);
        assert!(own.submit(kill_self, ()).result().is_err());
        works(&own);
        drop(own);
        assert_eq!(children(), [0; 0]);
    })
    .succeeds("a child with a pool of its own");
    stage("a child that lives on");
    let line = harness::Line::new();
    let child = fork(|| {
        line.receive();
    });
    release.store(1);
    assert!(running.take().unwrap().result().is_ok());
    assert!(pool.submit(kill_self, ()).result().is_err());
    works(&pool);
    drop((pool, begun, release, done));
    line.send(0);
    child.succeeds("a child that lives on");
    nothing_left(0);
}

/// The first ten at once, the others when they are let.
fn double_when_let((n, release): (u64, SharedAtomic<u64>)) -> u64 {
    until(|| n < 10 || release.load() == 1);
    2 * n
}

/// What the parent has under way is not the child's. It is told so for each item: none goes missing.
fn a_map_that_crosses_a_fork() {
    const ITEMS: u64 = 1000;
    let pool = Pool::new(2).unwrap();
    for (chunk, taken) in [(Some(10), 5), (Some(10), 10), (Some(3), 4), (Some(1), 1), (None, 5), (None, 0)] {
        stage(&format!("chunks of {chunk:?}, {taken} taken before the fork"));
        let release = SharedAtomic::new(0u64).unwrap();
        let items = || (0..ITEMS).map(|n| (n, release.clone()));
        let some = chunk.map(|items| pool.with_chunk_size(items));
        let mut map = Some(some.as_ref().unwrap_or(&pool).map(double_when_let, items()));
        let before = map.as_mut().unwrap().by_ref().take(taken).collect::<Vec<_>>();
        assert_eq!(before, (0..taken as u64).map(|n| Ok(2 * n)).collect::<Vec<_>>());
        let mut child = fork(|| {
            let mut map = map.take().unwrap();
            let left = ITEMS as usize - taken;
            assert_eq!(map.size_hint(), (left, Some(left)));
            let results: Vec<_> = map.by_ref().collect();
            assert_eq!(results.len(), left, "each item has a result");
            assert_eq!((map.next(), map.size_hint()), (None, (0, Some(0))), "it is at its end");
            // What was here before the fork is the child's, too.
            let here = results.iter().take_while(|result| result.is_ok()).count();
            assert!(here + taken <= 10, "{here}");
            if let Some(chunk) = chunk {
                assert_eq!((here + taken) % chunk, 0, "the rest of the batch that was taken from");
            }
            for (n, result) in (taken as u64..).zip(results) {
                let expected = if n < (taken + here) as u64 { Ok(2 * n) } else { Err(TaskError::Closed) };
                assert_eq!(result, expected, "item {n}");
            }
        });
        let end = child.end();
        release.store(1); // before anything can fail: the pool waits for its tasks
        assert_eq!(end, harness::End::Exit(0), "a child with its parent's map");
        let after: Vec<_> = map.take().unwrap().collect();
        assert_eq!(after, (taken as u64..ITEMS).map(|n| Ok(2 * n)).collect::<Vec<_>>(), "the parent's own");
    }
    works(&pool);
    drop(pool);
    nothing_left(0);
}

fn a_forked_child_with_threads_drops_the_pool() {
    let mut pool = Some(Pool::new(1).unwrap());
    for _ in 0..10 {
        fork(|| {
            // These may get the memory of the threads that the parent has.
            let threads: Vec<_> = (0..4u64)
                .map(|n| {
                    let (send, receive) = std::sync::mpsc::channel::<()>();
                    (send, std::thread::spawn(move || receive.recv().map_or(n, |()| n + 1)))
                })
                .collect();
            drop(pool.take());
            for (n, (send, thread)) in (0..).zip(threads) {
                send.send(()).unwrap();
                assert_eq!(thread.join().unwrap(), n + 1);
            }
        })
        .succeeds("a child with threads");
    }
    works(pool.as_ref().unwrap());
    drop(pool);
    nothing_left(0);
}

// ---- descriptors, threads, statics ----

fn close_all(_: ()) {
    // SAFETY: whoever had them was told by nobody; that is what is tested.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

fn all_descriptors_of_the_parent_are_closed() {
    for idle in [true, false] {
        stage(if idle { "an idle pool" } else { "a busy pool" });
        fork(|| {
            let pool = Pool::new(2).unwrap();
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            let busy: Vec<_> = (0..if idle { 0 } else { 2 })
                .map(|_| pool.submit(held, (begun.clone(), release.clone())))
                .collect();
            until(|| begun.load() == busy.len() as u64);
            let queued: Vec<_> =
                (0..if idle { 0 } else { 200 }).map(|n| (n, pool.submit(double, n))).collect();
            let workers = pool.workers();
            close_all(());
            for (n, future) in queued {
                match future.result() {
                    Ok(m) => assert_eq!(m, 2 * n),
                    Err(TaskError::Pool(_) | TaskError::Died { .. }) => {}
                    Err(e) => panic!("{e:?}"),
                }
            }
            for future in busy {
                let e = future.result().expect_err("it never ends");
                assert!(matches!(e, TaskError::Pool(_) | TaskError::Died { .. }), "{e:?}");
            }
            // As long as it lasts; it ends with an error.
            while let Ok(n) = pool.submit(double, 4).result() {
                assert_eq!(n, 8);
            }
            until(|| !workers.iter().any(|&pid| lives(pid)));
            drop(pool);
        })
        .succeeds("a parent without descriptors");
    }
    reap_all();
}

fn all_descriptors_of_a_worker_are_closed() {
    let pool = Pool::new(2).unwrap();
    for round in 0..5 {
        stage(&format!("round {round}"));
        // It ends, or is ended by its watcher, here or in a task after this.
        let _ = pool.submit(close_all, ()).result();
        for result in pool.map(double, 0..1000) {
            assert!(matches!(&result, Ok(_) | Err(TaskError::Died { .. })), "{result:?}");
        }
    }
    stage("the others");
    until(|| pool.map(double, 0..100).eq((0..100).map(|n| Ok(2 * n))));
    drop(pool);
    nothing_left(0);
}

fn the_thread_that_made_the_pool_ends() {
    let pool = std::thread::spawn(|| Pool::new(2).unwrap()).join().unwrap();
    let workers = pool.workers();
    for _ in 0..1000 {
        works(&pool);
    }
    assert_eq!(pool.workers(), workers, "they did not die with that thread");
    assert!(pool.submit(kill_self, ()).result().is_err());
    let pool = std::thread::spawn(move || {
        works(&pool);
        pool
    })
    .join()
    .unwrap();
    until(|| pool.workers().len() == 2);
    works(&pool);
    std::thread::spawn(|| drop(pool)).join().unwrap();
    nothing_left(0);
}

fn a_pool_that_is_never_dropped() {
    static POOL: OnceLock<Pool> = OnceLock::new();
    type Exit = fn();
    let ends: [(&str, Exit); 3] = [
        ("exit", || std::process::exit(0)),
        ("_exit", || exit_now(0)),
        ("exit by another thread", || {
            let _ = std::thread::spawn(|| std::process::exit(0)).join();
        }),
    ];
    for (how, end) in ends {
        stage(how);
        fork(|| {
            let pool = POOL.get_or_init(|| Pool::new(2).unwrap());
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            pool.submit(held, (begun.clone(), release)).detach();
            until(|| begun.load() == 1);
            works(pool);
            end();
        })
        .succeeds(how);
        reap_all();
    }
}

fn a_clone_is_dropped_by_another_thread() {
    let pool = Pool::new(2).unwrap();
    let count = SharedAtomic::new(0u64).unwrap();
    let add = |count: SharedAtomic<u64>| {
        count.fetch_add(1);
    };
    for round in 1..=50 {
        stage(&format!("round {round}"));
        let futures: Vec<_> = (0..100).map(|_| pool.submit(add, count.clone())).collect();
        let clone = pool.clone();
        let dropped = std::thread::spawn(move || drop(clone));
        assert!(futures.into_iter().all(|future| future.result().is_ok()));
        dropped.join().unwrap();
        assert_eq!(count.load(), 100 * round);
    }
    stage("the last one, while another thread waits for results");
    let futures: Vec<_> = (0..100).map(|_| pool.submit(add, count.clone())).collect();
    let waiter = std::thread::spawn(move || {
        futures.into_iter().filter(|_| true).map(|f| f.result()).all(|r| r.is_ok())
    });
    drop(pool);
    assert!(waiter.join().unwrap());
    assert_eq!(count.load(), 5100);
    drop(count);
    nothing_left(0);
}

fn ten_thousand_futures_in_any_order() {
    let mut random = Random::new();
    let pool = Pool::new(2).unwrap();
    let count = SharedAtomic::new(0u64).unwrap();
    // Some results have handles, which are kept for us until we read them.
    let task = |(n, count): (u64, SharedAtomic<u64>)| {
        count.fetch_add(1);
        (n, (n % 8 == 0).then(|| SharedValue::new(n).unwrap()))
    };
    let mut futures = Vec::new();
    let mut submitted = 0;
    while submitted < 10_000 || !futures.is_empty() {
        if submitted < 10_000 && random.below(5) > 1 {
            futures.push((submitted, pool.submit(task, (submitted, count.clone()))));
            submitted += 1;
            if submitted % 500 == 0 {
                stage(&format!("{submitted} submitted"));
            }
        } else if !futures.is_empty() {
            let (n, future) = futures.swap_remove(random.below(futures.len() as u64) as usize);
            match random.below(4) {
                0 => drop(future),
                1 => future.detach(),
                _ => {
                    let (m, value) = future.result().unwrap();
                    assert_eq!((m, value.map(|value| value.get())), (n, (n % 8 == 0).then_some(n)));
                }
            }
        }
    }
    drop(pool);
    assert_eq!(count.load(), 10_000, "each ran once");
    drop(count);
    nothing_left(0);
}

fn nested(depth: u32) -> Result<u32, String> {
    if depth == 0 {
        return Ok(0);
    }
    let pool = Pool::new(1).map_err(|e| e.to_string())?;
    Ok(pool.submit(nested, depth - 1).result().map_err(|e| e.to_string())?? + 1)
}

fn pools_in_pools() {
    assert_eq!(nested(5), Ok(5));
    nothing_left(0);
    let deep = nested(20).expect_err("too deep");
    assert_eq!(deep, PoolError::TooDeep { depth: 10 }.to_string());
    assert!(deep.starts_with("pools are nested 10 deep"), "{deep}");
    nothing_left(0);
    stage("two levels, many tasks");
    let pool = Pool::new(2).unwrap();
    let inner = |n: u64| -> u64 { Pool::new(2).unwrap().map(double, 0..n).map(Result::unwrap).sum() };
    assert!(pool.with_chunk_size(1).map(inner, 1..10).zip(1..).all(|(sum, n)| sum == Ok(n * (n - 1))));
    stage("a worker dies that has workers");
    let dies = |_: ()| -> () {
        let pool = Pool::new(2).unwrap();
        works(&pool);
        die();
    };
    assert!(pool.submit(dies, ()).result().is_err());
    works(&pool);
    drop(pool);
    reap_all();
    nothing_left(0);
}

fn eight_workers() {
    let pool = Pool::new(8).unwrap();
    let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
    let all: Vec<_> = (0..8).map(|_| pool.submit(held, (begun.clone(), release.clone()))).collect();
    until(|| begun.load() == 8);
    release.store(1);
    let pids: HashSet<u32> = all.into_iter().map(|future| future.result().unwrap()).collect();
    assert_eq!(pids, pool.workers().into_iter().collect(), "all at the same time");
    let total = SharedValue::new(0u64).unwrap();
    let add = |total: SharedValue<u64>| total.update(|n| *n += 1).unwrap();
    for chunk in [1, 16] {
        let items = vec![total.clone(); 4000];
        assert!(pool.with_chunk_size(chunk).map(add, items).all(|result| result == Ok(())));
    }
    assert_eq!(total.get(), 8000);
    assert!(pids.contains(&pool.submit(pid, ()).result().unwrap()));
    drop((pool, begun, release, total));
    nothing_left(0);
}

fn the_parent_is_killed_at_any_time() {
    let mut random = Random::new();
    let state = words();
    let mut killed = [0; 3];
    for round in 0..30 {
        let when = round % 3;
        stage(&format!("round {round}: {}", ["starting", "idle", "busy"][when]));
        state[0].store(0, SeqCst);
        let mut parent: Child = fork(|| {
            // A child of the parent keeps copies of its descriptors: workers must notice nevertheless.
            state[0].store(1, SeqCst);
            let pool = Pool::new(3).unwrap();
            let line = harness::Line::new();
            let keeper = (round % 2 == 0).then(|| fork(|| assert_eq!(line.receive(), 0)));
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            if when == 2 {
                for _ in 0..100 {
                    pool.submit(held, (begun.clone(), release.clone())).detach();
                }
                until(|| begun.load() == 3);
            }
            state[0].store(2, SeqCst);
            loop {
                if when == 1 {
                    works(&pool);
                }
                std::hint::black_box(&keeper);
                std::thread::yield_now();
            }
        });
        until(|| state[0].load(SeqCst) >= [1, 2, 2][when]);
        for _ in 0..random.below([3_000_000, 300_000, 30_000][when]) {
            std::hint::spin_loop();
        }
        parent.kill();
        killed[when] += 1;
        reap_all();
    }
    assert_eq!(killed, [10; 3]);
}

// ---- tasks that do more than they may ----

/// Replaces the process; with `child`, one that it forked keeps its descriptors open.
fn become_another(child: bool) {
    if child {
        // SAFETY: the child waits for its end, which comes with that of this process.
        if unsafe { libc::fork() } == 0 {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            loop {
                std::thread::park();
            }
        }
    }
    let arguments = [c"sleep".as_ptr(), c"1000000".as_ptr(), std::ptr::null()];
    // SAFETY: strings that end with NUL, in a list that ends with null.
    unsafe { libc::execv(c"/bin/sleep".as_ptr(), arguments.as_ptr()) };
    panic!("exec: {}", std::io::Error::last_os_error());
}

/// Its future would wait for the end of that program.
fn a_task_that_becomes_another_program() {
    let pool = Pool::new(2).unwrap();
    for child in [false, true] {
        stage(if child { "with a child" } else { "alone" });
        let value = SharedValue::new(0u64).unwrap();
        match pool.submit(become_another, child).result() {
            Err(TaskError::Died { signal: Some(9), message, .. }) => {
                assert!(message.contains("another program"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        *value.get_lock().unwrap() += 1;
        works(&pool);
        stage("in a batch");
        let items = (0..9).map(|n| (n, child));
        let results = pool.with_chunk_size(3).map(
            |(n, child): (u64, bool)| {
                if n == 4 {
                    become_another(child);
                }
                n
            },
            items,
        );
        for (n, result) in (0..).zip(results) {
            match result {
                Ok(m) => assert!(m == n && n != 4),
                Err(e) => {
                    assert!(n == 4 && matches!(e, TaskError::Died { signal: Some(9), .. }), "{n}: {e:?}")
                }
            }
        }
    }
    until(|| pool.workers().len() == 2);
    drop(pool);
    reap_all();
    nothing_left(0);
}

/// Its worker leaves after it, and no other task is told.
fn a_task_that_closes_descriptors() {
    let pool = Pool::new(1).unwrap();
    for round in 0..5 {
        stage(&format!("round {round}"));
        let closes = pool.submit(close_all, ());
        // Each needs memory that only a descriptor can get.
        let large: Vec<_> =
            (0..3).map(|n| pool.submit(|n: u64| SharedValue::new([n; 1 << 15]).map(|_| n), n)).collect();
        assert_eq!(closes.result(), Ok(()), "it did what it was told to");
        for (n, future) in (0..).zip(large) {
            assert_eq!(future.result(), Ok(Ok(n)));
        }
    }
    drop(pool);
    nothing_left(0);
}

/// Five seconds of patience are five in which we run.
fn the_whole_program_is_stopped_at_the_start() {
    let folder = Folder::new();
    let own = std::env::current_exe().unwrap();
    // Stops its parent and itself before it becomes a worker.
    let script = format!("#!/bin/sh\nkill -STOP $PPID\nkill -STOP $$\nexec '{}'\n", own.display());
    let program = folder.program("stops", script.as_bytes(), 0o755);
    let mut parent = fork(|| {
        let pool = Pool::builder().workers(1).worker_exe(&program).build().expect("nobody was late");
        works(&pool);
    });
    stage("both stop");
    assert_eq!(parent.stops_or_ends(), None);
    let worker = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.find(|&pid| status(pid).is_some_and(|(_, of)| of == parent.pid.as_raw_nonzero().get() as u32))
    };
    until(|| worker().and_then(status).is_some_and(|(state, _)| state == 'T'));
    stage("longer than the patience");
    assert!(!parent.ends_within(Duration::from_secs(6)));
    stage("the parent goes on, and looks at its clocks");
    parent.go_on();
    assert!(!parent.ends_within(Duration::from_millis(500)), "a tenth of its patience");
    stage("both go on");
    let pid = rustix::process::Pid::from_raw(worker().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    parent.succeeds("a program that was stopped");
    reap_all();
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL); // an error: it is gone already
}

/// What a pool's workers can do is not forgotten when they are killed.
fn workers_that_are_killed_after_their_work() {
    for workers in [1, 3] {
        let pool = Pool::new(workers).unwrap();
        for round in 0..40 {
            stage(&format!("{workers} workers, round {round}"));
            for n in 0..20 {
                assert_eq!(pool.submit(double, n).result(), Ok(2 * n));
            }
            for pid in pool.workers() {
                kill(pid);
                until(|| !pool.workers().contains(&pid));
            }
        }
        works(&pool);
    }
    nothing_left(0);
}

/// They are replaced later and later. A task comes when it comes, and finds the next one.
fn workers_that_die_at_once() {
    let pool = Pool::new(1).unwrap();
    for round in 0..3 {
        stage(&format!("killed as soon as they are seen, {round}"));
        for _ in 0..9 {
            until(|| !pool.workers().is_empty());
            let pid = pool.workers()[0];
            kill(pid);
            until(|| !pool.workers().contains(&pid));
        }
        stage("a task");
        assert_eq!(pool.submit(double, 1).result(), Ok(2));
        works(&pool);
    }
    drop(pool);
    nothing_left(0);
}

/// Tasks do not wait for ever, and the machine is not busy with starts.
fn workers_that_cannot_start_any_more() {
    let folder = Folder::new();
    let own = std::env::current_exe().unwrap();
    let good = format!("#!/bin/sh\nexec '{}'\n", own.display());
    let log = folder.0.join("log");
    let bad = format!("#!/bin/sh\necho >> '{}'\nkill -9 $$\n", log.display());
    let program = folder.program("worker", good.as_bytes(), 0o755);
    let replace = |by: &str| {
        let new = folder.program("new", by.as_bytes(), 0o755);
        std::fs::rename(new, &program).unwrap();
    };
    let pool = Pool::builder().workers(2).worker_exe(&program).build().unwrap();
    works(&pool);
    for round in 0..2 {
        stage(&format!("they are killed, and no others start, {round}"));
        replace(&bad);
        let dead: Vec<_> = (0..2).map(|_| pool.submit(kill_self, ())).collect();
        for future in dead {
            let died = future.result();
            assert!(matches!(died, Err(TaskError::Died { signal: Some(9), .. })), "{died:?}");
        }
        let queued: Vec<_> = (0..10).map(|n| pool.submit(double, n)).collect();
        for future in queued {
            assert_eq!(future.result(), Err(TaskError::Pool(never_ready(Some(9), None))));
        }
        let starts = std::fs::read(&log).unwrap().len();
        assert!((4..=60).contains(&starts), "{starts} starts");
        std::fs::remove_file(&log).unwrap();
        stage("others start");
        replace(&good);
        until(|| pool.workers().len() == 2);
        works(&pool);
    }
    drop(pool);
    nothing_left(0);
}

/// As many as the table of pins holds, in any order.
fn many_unread_results_with_handles() {
    let pool = Pool::new(2).unwrap();
    let make = |n: u64| SharedValue::new(n).map(|value| (value.clone(), value));
    let mut made: Vec<_> = (0..16_000).map(|n| pool.submit(make, n)).collect();
    // The last first; and a few that nobody reads.
    for n in (0..16_000).rev() {
        let future = made.pop().unwrap();
        if n % 100 != 0 {
            let (one, other) = future.result().unwrap().unwrap();
            assert_eq!((one.get(), other.get()), (n, n));
        }
    }
    until(|| {
        let report = allmend::verify().unwrap();
        (report.objects, report.pins) == (1, 0)
    });
    drop(pool);
    nothing_left(0);
}

// ---- overwritten words ----

/// The segment's bytes, as a hostile process with its own mapping has them.
struct Hostile {
    words: &'static [AtomicU64],
    /// The ring object's first 64-bit word.
    magic: usize,
    /// How many 32-bit words are before it, at most.
    before: usize,
}

impl Hostile {
    fn open() -> Self {
        let path = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:allmend"))
            })
            .expect("the segment's descriptor");
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let bytes = file.metadata().unwrap().len() as usize;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
        let fd = rustix::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, shared, fd, 0) };
        assert!(base != libc::MAP_FAILED);
        // SAFETY: aligned, never unmapped, reached through atomics alone.
        let words: &[AtomicU64] = unsafe { std::slice::from_raw_parts(base.cast(), bytes / 8) };
        // What has memory: the rest would be given some by a look.
        let (mut magic, mut at) = (None, 0);
        while let (None, Ok(start)) = (magic, rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at))) {
            let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
            magic = (start as usize / 8..end as usize / 8).find(|&i| {
                words[i].load(SeqCst).to_le_bytes().starts_with(b"allmend")
                    && words[i + 1].load(SeqCst) == 0
                    && i % 8 == 0
                    && i > 512
            });
            at = end;
        }
        // 256 slots and two workers: a line of 64 bytes for each.
        Self { words, magic: magic.expect("the ring"), before: 8 * (1 + 2 + 256) }
    }

    fn word(&self, at: usize) -> &'static AtomicU64 {
        &self.words[self.magic + at]
    }

    /// The 32-bit words before the magic, as halves: where, and what.
    fn halves(&self) -> Vec<(usize, u32)> {
        (self.magic - self.before..self.magic)
            .flat_map(|at| {
                let word = self.words[at].load(SeqCst);
                [(2 * at, word as u32), (2 * at + 1, (word >> 32) as u32)]
            })
            .collect()
    }

    fn set_half(&self, at: usize, to: u32) {
        let set = |word: u64| match at % 2 {
            0 => word & !0xffff_ffff | u64::from(to),
            _ => word & 0xffff_ffff | u64::from(to) << 32,
        };
        let _ = self.words[at / 2].fetch_update(SeqCst, SeqCst, |word| Some(set(word)));
    }
}

/// Any result or error is an answer.
fn answered<R: allmend::Wire>(results: impl IntoIterator<Item = allmend::TaskFuture<R>>) {
    for future in results {
        let _ = future.result();
    }
}

/// A pool in a process of its own that has done 777 tasks, so that head and tail can be told from other words.
fn with_a_pool(what: &str, body: impl FnOnce(&Pool, &Hostile)) {
    stage(what);
    fork(|| {
        let pool = Pool::new(2).unwrap();
        for n in 0..777 {
            assert_eq!(pool.submit(double, n).result(), Ok(2 * n));
        }
        let hostile = Hostile::open();
        body(&pool, &hostile);
        // However it is now, what is asked of it is answered.
        for _ in 0..300 {
            answered([pool.submit(double, 1)]);
        }
        pool.map(double, 0..1000).for_each(drop);
        drop(pool);
        assert_eq!(children(), [0; 0]);
    })
    .succeeds(what);
}

/// What would be decoded for ever is not decoded.
fn overwritten_results_and_arguments() {
    type Endless = (u64, Vec<()>);
    let innocent = || (u64::MAX, vec![]);
    // 9 bytes of ones, 01, 00 behind the head (and the seal) become 00, 9 bytes of ones, 01: a list of 2^64 - 1 units.
    let overwrite = |hostile: &Hostile| {
        let words = &hostile.words[hostile.magic..hostile.magic + 256 * 260];
        let found =
            words.windows(2).filter(|pair| pair[0].load(SeqCst) == u64::MAX && pair[1].load(SeqCst) == 0x1ff);
        let mut count = 0;
        for pair in found {
            pair[0].store(u64::MAX << 8, SeqCst);
            pair[1].store(0x0001_ffff, SeqCst);
            count += 1;
        }
        count
    };
    for result in [true, false] {
        let what = if result { "a result" } else { "an argument" };
        with_a_pool(what, |pool, hostile| {
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            let overwritten = if result {
                let future = pool.submit(|_: ()| -> Endless { (u64::MAX, vec![]) }, ());
                // Until it is there, and before it is taken.
                until(|| overwrite(hostile) > 0);
                future.result().map(|(n, units)| (n, units.len()))
            } else {
                let busy: Vec<_> =
                    (0..2).map(|_| pool.submit(held, (begun.clone(), release.clone()))).collect();
                until(|| begun.load() == 2);
                let future = pool.submit(|(n, units): Endless| (n, units.len()), innocent());
                assert!(overwrite(hostile) > 0);
                release.store(1);
                answered(busy);
                future.result()
            };
            assert_eq!(overwritten, Err(TaskError::Lost), "{what}");
            // The next ones are well.
            for n in 0..100 {
                assert_eq!(pool.submit(|all: Endless| all, (n, vec![])).result(), Ok((n, vec![])));
            }
        });
    }
}

fn overwritten_ring() {
    let head_and_tail = |hostile: &Hostile| -> Vec<usize> {
        (0..256).filter(|&at| hostile.word(at).load(SeqCst) == 777).collect()
    };
    for which in 0..2 {
        for to in [0, 1, 776, 778, 800, 1 << 20, 1 << 48, u64::MAX] {
            with_a_pool(&format!("word {which} of head and tail becomes {to:#x}"), |pool, hostile| {
                let found = head_and_tail(hostile);
                assert_eq!(found.len(), 2, "head and tail are equal now, and nothing else is: {found:?}");
                hostile.word(found[which]).store(to, SeqCst);
                answered((0..3).map(|n| pool.submit(double, n)));
            });
        }
    }
    with_a_pool("head and tail are zero", |_, hostile| {
        head_and_tail(hostile).into_iter().for_each(|at| hostile.word(at).store(0, SeqCst));
    });
    for at in 0..2 {
        with_a_pool(&format!("header word {at}"), |pool, hostile| {
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            let busy: Vec<_> = (0..2).map(|_| pool.submit(held, (begun.clone(), release.clone()))).collect();
            until(|| begun.load() == 2);
            let queued: Vec<_> = (0..10).map(|n| pool.submit(double, n)).collect();
            hostile.word(at).store(1, SeqCst);
            release.store(1);
            answered(busy);
            answered(queued);
            answered([pool.submit(kill_self, ())]);
        });
    }
    with_a_pool("entries", |pool, hostile| {
        let futures: Vec<_> = (0..200).map(|n| pool.submit(double, n)).collect();
        (40..1000).for_each(|at| hostile.word(at).store(0x1234_5678_9abc_def0, SeqCst));
        answered(futures);
    });
}

fn overwritten_states() {
    type Change = fn(u32) -> u32;
    // What a state word can become: its kind, its worker, its lap.
    let changes: [(&str, Change); 12] = [
        ("free", |state| state & !7),
        ("ready", |state| state & !7 | 1),
        ("running", |state| state & !7 | 2),
        ("done", |state| state & !7 | 3),
        ("no kind", |state| state & !7 | 6),
        ("a worker that does something else", |state| (state & !7 | 2) ^ 1 << 4),
        ("a worker that is not there", |state| (state & !7 | 2) ^ 0x200 << 4),
        ("no waiter", |state| state & !8),
        ("the next lap", |state| state.wrapping_add(1 << 14)),
        ("zero", |_| 0),
        ("ones", |_| u32::MAX),
        ("running, by the first", |state| state & !0x3ff7 | 2),
    ];
    for (to, change) in changes {
        with_a_pool(&format!("a running slot becomes: {to}"), |pool, hostile| {
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            let busy = pool.submit(held, (begun.clone(), release.clone()));
            until(|| begun.load() == 1);
            let running: Vec<_> = hostile.halves().into_iter().filter(|(_, half)| half & 7 == 2).collect();
            assert!(!running.is_empty());
            running.iter().for_each(|&(at, half)| hostile.set_half(at, change(half)));
            release.store(1);
            answered([busy]);
        });
        with_a_pool(&format!("a queued slot becomes: {to}"), |pool, hostile| {
            let (begun, release) = (SharedAtomic::new(0u64).unwrap(), SharedAtomic::new(0u64).unwrap());
            let busy: Vec<_> = (0..2).map(|_| pool.submit(held, (begun.clone(), release.clone()))).collect();
            until(|| begun.load() == 2);
            let before = hostile.halves();
            let queued = pool.submit(double, 4);
            let now = hostile.halves();
            let changed = before.iter().zip(&now).filter(|(old, new)| old != new && new.1 & 7 == 1);
            let changed: Vec<_> = changed.map(|(_, new)| *new).collect();
            assert!(!changed.is_empty());
            changed.iter().for_each(|&(at, half)| hostile.set_half(at, change(half)));
            if to != "running" && !to.starts_with("a worker") && to != "running, by the first" {
                release.store(1);
                answered([queued]);
                answered(busy);
            } else {
                // The workers have their hands full, and the slot says that one of them does this as well.
                answered([queued]);
                release.store(1);
                answered(busy);
            }
        });
    }
}

fn overwritten_anything() {
    let mut random = Random::new();
    for round in 0..25 {
        let mut random = Random::seeded(random.next());
        with_a_pool(&format!("round {round}"), |pool, hostile| {
            let argument = SharedValue::new(1u64).unwrap();
            let stop = words();
            let end = hostile.magic + 20_000;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let from = hostile.magic - hostile.before;
                    while stop[0].load(SeqCst) == 0 {
                        let at = match random.below(3) {
                            0 => from + random.below(hostile.before as u64) as usize,
                            1 => hostile.magic + random.below(600) as usize,
                            _ => from + random.below((end - from) as u64) as usize,
                        };
                        let word = &hostile.words[at];
                        match random.below(4) {
                            0 => word.store(random.next(), SeqCst),
                            1 => word.store(0, SeqCst),
                            2 => word.store(u64::MAX, SeqCst),
                            _ => drop(word.fetch_xor(1 << random.below(64), SeqCst)),
                        }
                        (0..random.below(20_000)).for_each(|_| std::hint::spin_loop());
                    }
                });
                for n in 0..200 {
                    let small = pool.submit(double, n);
                    let large = pool.submit(|v: Vec<u8>| v, vec![1; 5000]);
                    let handle = pool.submit(|v: SharedValue<u64>| v, argument.clone());
                    if n % 20 == 0 {
                        answered([pool.submit(kill_self, ())]);
                    }
                    if n % 3 == 0 {
                        answered([small]);
                        answered([large]);
                        answered([handle]);
                    }
                }
                pool.with_chunk_size(7).map(double, 0..500).for_each(drop);
                stop[0].store(1, SeqCst);
            });
        });
    }
}
