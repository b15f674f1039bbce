//! What tests that fork and kill need: a runner that is single-threaded, processes with watchdogs, and ways to see what
//! a process is doing without sleeping.
//!
//! ```text
//! runner --fork--> one process per test (own group, own segments) --fork--> victims, waiters, ...
//! ```
//!
//! A test that does not end, or come to its next stage, is killed with its whole group by the runner and reported with the stage it was at, so all
//! waits inside of a test can be plain. A test's children die with it (parent death signal).
//! Nothing here asserts that something was fast.
#![allow(unsafe_code, reason = "fork, shared pages, system calls that rustix does not have")]
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_types, reason = "words between test processes are not the crate's")]

#[cfg(allmend_crash)]
pub(crate) mod kill;
pub(crate) mod mounts;
#[cfg(target_arch = "x86_64")]
pub(crate) mod steps;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitOptions},
};
use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

/// How long a test may stay at one stage before it counts as hung. Not a promise about speed.
const WATCHDOG: Duration = Duration::from_secs(240);

/// One test: a name, and what runs in a process of its own.
pub(crate) type Test = (&'static str, fn());

/// Runs the tests that the command line asks for; the process's exit code says whether all passed.
pub(crate) fn run(tests: &[Test]) -> ! {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
    let chosen = |name: &str| names.is_empty() || names.iter().any(|wish| name.contains(wish.as_str()));
    if args.iter().any(|a| a == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        std::process::exit(0);
    }
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let before = leftovers();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| chosen(name)) {
        match run_one(*test) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(why) => {
                println!("test {name} ... FAILED: {why}");
                failed += 1;
            }
        }
    }
    let left: Vec<_> = leftovers().into_iter().filter(|name| !before.contains(name)).collect();
    if !left.is_empty() {
        println!("left in /dev/shm: {left:?}");
        failed += 1;
    }
    println!("{passed} passed, {failed} failed");
    std::process::exit(i32::from(failed > 0));
}

/// Names of ours in /dev/shm. The first number in each is the id of a process; while that lives, they are of a test that
/// runs beside this one.
fn leftovers() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let of_the_living = |name: &str| {
        let id = name.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
        id.and_then(|id| id.parse::<u32>().ok())
            .is_some_and(|id| std::path::Path::new(&format!("/proc/{id}")).exists())
    };
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("allmend") && !of_the_living(name))
        .collect()
}

/// The file behind a named manager: what tells it from another of its name.
pub(crate) fn inode(manager: &allmend::Manager) -> u64 {
    rustix::fs::fstat(manager.as_fd().unwrap()).unwrap().st_ino
}

/// The file that has the name.
pub(crate) fn inode_under(name: &str) -> Option<u64> {
    let directory = std::env::var("ALLMEND_SHM_DIR").unwrap_or("/dev/shm".into());
    let path = std::path::Path::new(&directory).join(format!("allmend.{name}"));
    Some(std::os::unix::fs::MetadataExt::ino(&path.symlink_metadata().ok()?))
}

fn run_one(test: fn()) -> Result<(), String> {
    let stage = words();
    let mut child = spawn(true, move || {
        STAGE.set(stage).expect("one test per process");
        test();
    });
    let limit = std::env::var("ALLMEND_WATCHDOG").ok().and_then(|s| s.parse().ok()).map(Duration::from_secs);
    let (mut ended, mut at) = (false, String::new());
    while !ended {
        ended = child.ends_within(limit.unwrap_or(WATCHDOG));
        let before = std::mem::replace(&mut at, read_stage(stage));
        if !ended && before == at {
            break; // no progress in all that time
        }
    }
    let result = if !ended {
        Err(format!("HANG, at: {}", read_stage(stage)))
    } else {
        match child.end() {
            End::Exit(0) => Ok(()),
            End::Exit(101) => Err(format!("panicked, at: {}", read_stage(stage))),
            other => Err(format!("{other:?}, at: {}", read_stage(stage))),
        }
    };
    // Whatever is still in the test's group goes with it, and is waited for.
    let _ = rustix::process::kill_process_group(child.pid, Signal::KILL);
    while let Ok(_) | Err(Errno::INTR) = rustix::process::waitpid(None, WaitOptions::empty()) {}
    child.reaped = true;
    result
}

static STAGE: std::sync::OnceLock<&'static [AtomicU64]> = std::sync::OnceLock::new();

/// Says where the test is, for the report of a hang. Works in children of the test, too.
pub(crate) fn stage(text: &str) {
    let Some(words) = STAGE.get() else { return };
    let mut bytes = [0u8; 256];
    let n = text.len().min(bytes.len());
    bytes[..n].copy_from_slice(&text.as_bytes()[..n]);
    for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*bytes), SeqCst);
    }
}

fn read_stage(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words[..32].iter().flat_map(|w| w.load(SeqCst).to_ne_bytes()).collect();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// A fresh page of words, zero, shared with all children that are forked from now on. Never unmapped.
pub(crate) fn words() -> &'static [AtomicU64] {
    pages(1)
}

/// So many pages of them; one that is not touched takes no memory.
pub(crate) fn pages(n: usize) -> &'static [AtomicU64] {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            n * 4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert!(base != libc::MAP_FAILED);
    // SAFETY: so many pages, aligned, zeroed, never unmapped, and reached through atomics alone.
    unsafe { std::slice::from_raw_parts(base.cast(), n * 512) }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
}

impl End {
    pub(crate) fn was_killed(self) -> bool {
        self == End::Signal(libc::SIGKILL)
    }
}

/// A process of ours; killed and reaped on drop.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    reaped: bool,
}

/// Runs `body` in a forked child, which then exits without running any destructor: 0, or 101 if it panicked.
pub(crate) fn fork(body: impl FnOnce()) -> Child {
    spawn(false, body)
}

fn spawn(own_group: bool, body: impl FnOnce()) -> Child {
    let _ = std::io::stdout().flush();
    let parent = rustix::process::getpid();
    // SAFETY: the child runs only `body`, and its process had one thread, or knows what it does.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if let Some(pid) = Pid::from_raw(pid) {
        return Child { pid, reaped: false };
    }
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // It may have died before we asked to follow it. (No parent at all: we are in another pid namespace.)
    if rustix::process::getppid().is_some_and(|now| now != parent) {
        exit_now(0);
    }
    if own_group {
        let _ = rustix::process::setpgid(None, None);
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
    let done = catch_unwind(AssertUnwindSafe(body));
    let _ = std::io::stdout().flush();
    exit_now(if done.is_ok() { 0 } else { 101 })
}

/// Ends the process here and now, without destructors or handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// From now on, when this process goes on after a stop, `act` comes before anything else that it does. It runs as a
/// signal handler.
pub(crate) fn before_going_on(act: extern "C" fn(libc::c_int)) {
    let act = act as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: a handler of the right signature; who passes it touches atomics only.
    let before = unsafe { libc::signal(libc::SIGCONT, act) };
    assert!(before != libc::SIG_ERR);
}

/// As `kill -9` by another.
pub(crate) fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    unreachable!("killed")
}

impl Child {
    /// Waits for its end.
    pub(crate) fn end(&mut self) -> End {
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    self.reaped = true;
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => End::Exit(code),
                        (_, Some(signal)) => End::Signal(signal),
                        _ => panic!("neither exited nor killed: {status:?}"),
                    };
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(e) => panic!("waitpid: {e}"),
            }
        }
    }

    /// It has to end well.
    pub(crate) fn succeeds(mut self, what: &str) {
        let end = self.end();
        assert_eq!(end, End::Exit(0), "{what}");
    }

    /// Waits until it stops (`None`) or ends.
    pub(crate) fn stops_or_ends(&mut self) -> Option<End> {
        loop {
            match rustix::process::waitpid(Some(self.pid), WaitOptions::UNTRACED) {
                Ok(Some((_, status))) if status.stopped() => return None,
                Ok(Some((_, status))) => {
                    self.reaped = true;
                    return Some(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => End::Exit(code),
                        (_, Some(signal)) => End::Signal(signal),
                        _ => panic!("neither exited nor killed: {status:?}"),
                    });
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(e) => panic!("waitpid: {e}"),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid, signal).expect("our own child");
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end();
    }

    /// SIGSTOP, and waits until it has stopped.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::STOP);
        assert_eq!(self.stops_or_ends(), None, "it was to stop");
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Does it end within that time? It is not reaped.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let pidfd = rustix::process::pidfd_open(self.pid, PidfdFlags::empty()).expect("our own child");
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(n) => return n > 0,
                Err(Errno::INTR) => {}
                Err(e) => panic!("poll: {e}"),
            }
        }
    }

    /// Is it asleep in a futex wait at this moment, and is that sleep bounded?
    pub(crate) fn sleep(&self) -> Option<Sleep> {
        let text = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid.as_raw_nonzero())).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let number: i64 = fields.next()?.parse().ok()?;
        let timeout = fields.nth(3)?;
        (number == libc::SYS_futex).then_some(if timeout == "0x0" {
            Sleep::Unbounded
        } else {
            Sleep::Bounded
        })
    }

    /// Is it still there (not a zombie)?
    pub(crate) fn is_running(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }
}

/// A sleep in a futex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sleep {
    Bounded,
    Unbounded,
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            self.end();
        }
    }
}

/// A pipe of whole numbers, between any processes that were forked after it was made.
#[derive(Debug)]
pub(crate) struct Line {
    from: OwnedFd,
    to: OwnedFd,
}

impl Line {
    pub(crate) fn new() -> Self {
        let (from, to) = rustix::pipe::pipe().expect("pipe");
        Self { from, to }
    }

    pub(crate) fn send(&self, n: u64) {
        let sent = rustix::io::retry_on_intr(|| rustix::io::write(&self.to, &n.to_ne_bytes()));
        assert_eq!(sent, Ok(8));
    }

    /// Waits for the next one.
    pub(crate) fn receive(&self) -> u64 {
        let mut bytes = [0; 8];
        let got = rustix::io::retry_on_intr(|| rustix::io::read(&self.from, &mut bytes));
        assert_eq!(got, Ok(8));
        u64::from_ne_bytes(bytes)
    }

    /// Is there one?
    pub(crate) fn has_some(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&now)) == Ok(1)
    }
}

/// Until `what` is true. The runner's watchdog ends it if that never happens.
pub(crate) fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::yield_now();
    }
}

/// A seeded sequence (splitmix64), the same on every machine.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `ALLMEND_SEED`, else anew each time; says which.
    pub(crate) fn new() -> Self {
        let given = std::env::var("ALLMEND_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |d| d.as_nanos() as u64)
        });
        println!("ALLMEND_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
