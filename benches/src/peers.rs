//! What we are compared with, and the processes that compare: pthread, raw_sync, std and parking_lot locks, bare
//! atomics, a futex ping-pong, bare spawns; pages that forked children share, and a runner for such children.
//!
//! All of the bench's `unsafe` is here. The lock peers live in a MAP_SHARED page, lock and counter in one cache line as
//! `Mutex<u64>` has them. Children leave through `_exit`, as if killed: no destructor runs twice. A child that does not
//! come back is killed by a watchdog and is an error, not a hang.
#![allow(unsafe_code, reason = "pthread, fork, mmap, futex and posix_spawn are the contestants")]

use crate::locks::Lock;
use raw_sync::locks::{LockImpl, LockInit};
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

/// A `T` in a mapping of its own, which forked children share.
struct Page<T>(NonNull<T>);

/// What may lie in a [`Page`].
///
/// # Safety
///
/// Zero bytes are a `T`, and it is sound to use it through `&T` from several processes at once.
unsafe trait Shared {}

impl<T: Shared> Page<T> {
    fn new() -> Self {
        const { assert!(align_of::<T>() <= 4096) }
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, where the kernel likes.
        let at = unsafe { libc::mmap(null_mut(), size_of::<T>(), protection, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Self(NonNull::new(at.cast()).expect("mmap gives no null"))
    }
}

impl<T> Deref for Page<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: mapped until drop, page-aligned, zeroed, and `T: Shared` when it was made.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Page<T> {
    fn drop(&mut self) {
        // SAFETY: ours, mapped in `new` with this size; `&mut self` shows that no reference is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}

// ---- counters without a lock

#[repr(C, align(128))]
struct Word {
    word: AtomicU64,
}

// SAFETY: an atomic; zero is one.
unsafe impl Shared for Word {}

/// A bare atomic.
pub struct Atomic(Page<Word>);

impl Atomic {
    /// At zero.
    pub fn new() -> Self {
        Self(Page::new())
    }
}

impl Lock for Atomic {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        work();
        self.0.word.fetch_add(1, AcqRel);
    }

    #[inline]
    fn count(&self) -> u64 {
        self.0.word.load(Relaxed)
    }
}

/// Eight bytes, read as C's `volatile`.
pub struct Plain(Page<Word>);

impl Plain {
    /// At zero.
    pub fn new() -> Self {
        Self(Page::new())
    }

    /// The eight bytes.
    #[inline]
    pub fn load(&self) -> u64 {
        // SAFETY: mapped and aligned; nobody writes.
        unsafe { self.0.word.as_ptr().read_volatile() }
    }
}

// ---- locks that stay in their process

/// `std::sync::Mutex`.
#[derive(Default)]
#[repr(align(128))]
pub struct Std(std::sync::Mutex<u64>);

impl Lock for Std {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        let mut count = self.0.lock().expect("nobody panics in the section");
        work();
        *count += 1;
    }

    fn count(&self) -> u64 {
        *self.0.lock().expect("nobody panics in the section")
    }
}

/// `parking_lot::Mutex`.
#[derive(Default)]
#[repr(align(128))]
pub struct ParkingLot(parking_lot::Mutex<u64>);

impl Lock for ParkingLot {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        let mut count = self.0.lock();
        work();
        *count += 1;
    }

    fn count(&self) -> u64 {
        *self.0.lock()
    }
}

// ---- pthread

#[repr(C, align(128))]
struct Locked {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    count: UnsafeCell<u64>,
}

// SAFETY: used only through pthread calls once initialised, the count only under the mutex; zero is PTHREAD_MUTEX_INITIALIZER.
unsafe impl Shared for Locked {}

/// Which pthread mutex. All are PROCESS_SHARED.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The default type: its owner's death hangs all others.
    Plain,
    /// Its owner's death is reported.
    Robust,
    /// Robust, and reports relocking and foreign unlocking.
    RobustChecked,
}

fn locked(kind: Kind) -> Page<Locked> {
    let page = Page::<Locked>::new();
    let ok = |rc: i32| assert_eq!(rc, 0, "pthread: {}", std::io::Error::from_raw_os_error(rc));
    let mut attr = std::mem::MaybeUninit::uninit();
    let attr = attr.as_mut_ptr();
    // SAFETY: room for one.
    ok(unsafe { libc::pthread_mutexattr_init(attr) });
    // SAFETY: initialised above.
    ok(unsafe { libc::pthread_mutexattr_setpshared(attr, libc::PTHREAD_PROCESS_SHARED) });
    if kind != Kind::Plain {
        // SAFETY: as above.
        ok(unsafe { libc::pthread_mutexattr_setrobust(attr, libc::PTHREAD_MUTEX_ROBUST) });
    }
    if kind == Kind::RobustChecked {
        // SAFETY: as above.
        ok(unsafe { libc::pthread_mutexattr_settype(attr, libc::PTHREAD_MUTEX_ERRORCHECK) });
    }
    // SAFETY: the page is ours, and nobody uses the mutex yet.
    ok(unsafe { libc::pthread_mutex_init(page.mutex.get(), attr) });
    // SAFETY: initialised above, used by nobody any more.
    ok(unsafe { libc::pthread_mutexattr_destroy(attr) });
    page
}

/// A pthread mutex in shared memory.
pub struct Pthread(Page<Locked>);

impl Pthread {
    /// Unlocked, the counter at zero.
    pub fn new(kind: Kind) -> Self {
        Self(locked(kind))
    }
}

impl Lock for Pthread {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        // SAFETY: initialised, in memory that all who use it share.
        let rc = unsafe { libc::pthread_mutex_lock(self.0.mutex.get()) };
        assert_eq!(rc, 0, "pthread_mutex_lock");
        work();
        // SAFETY: the mutex is held.
        unsafe { *self.0.count.get() += 1 };
        // SAFETY: held, by us.
        let rc = unsafe { libc::pthread_mutex_unlock(self.0.mutex.get()) };
        assert_eq!(rc, 0, "pthread_mutex_unlock");
    }

    fn count(&self) -> u64 {
        // SAFETY: asked when nobody works.
        unsafe { *self.0.count.get() }
    }
}

/// Crate `raw_sync`, used directly.
pub struct RawSync {
    lock: Box<dyn LockImpl>,
    page: Page<Locked>,
}

impl RawSync {
    /// As its documentation has it: `Mutex::new` makes a plain pthread mutex, which hangs all others when its owner dies.
    pub fn plain() -> Self {
        let page = Page::<Locked>::new();
        let (lock, data) = (page.mutex.get().cast(), page.count.get().cast());
        // SAFETY: room for a mutex and a count, mapped as long as the handle lives (field order: `lock` drops first).
        let made = unsafe { raw_sync::locks::Mutex::new(lock, data) };
        Self { lock: made.expect("raw_sync makes its mutex").0, page }
    }

    /// The one safe way: over a mutex that we initialised, robust and error-checking (research, locks 3.3).
    pub fn over_robust() -> Self {
        let page = locked(Kind::RobustChecked);
        let (lock, data) = (page.mutex.get().cast(), page.count.get().cast());
        // SAFETY: an initialised mutex and a count, mapped as long as the handle lives.
        let made = unsafe { raw_sync::locks::Mutex::from_existing(lock, data) };
        Self { lock: made.expect("raw_sync opens our mutex").0, page }
    }
}

impl Lock for RawSync {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        let guard = self.lock.lock().expect("raw_sync locks");
        work();
        let count = guard.cast::<u64>();
        // SAFETY: `count` of our page, under its lock.
        unsafe { *count += 1 };
    }

    fn count(&self) -> u64 {
        // SAFETY: asked when nobody works.
        unsafe { *self.page.count.get() }
    }
}

// ---- contended runs

/// Most processes of one run.
const SEATS: usize = 8;

#[repr(C, align(128))]
struct Line<T>(T);

#[repr(C)]
struct Control {
    ready: Line<AtomicU32>,
    go: Line<AtomicU32>,
    stop: Line<AtomicU32>,
    seats: [Line<Seat>; SEATS],
}

// SAFETY: atomics only; zero is one.
unsafe impl Shared for Control {}

#[repr(C)]
struct Seat {
    ops: AtomicU64,
    begin: AtomicU64,
    end: AtomicU64,
    cpu: AtomicU64,
}

/// What the processes or threads of one run did.
pub struct Outcome {
    seats: Vec<[u64; 4]>, // ops, begin, end, cpu
}

impl Outcome {
    /// Of all together.
    pub fn ops(&self) -> u64 {
        self.seats.iter().map(|s| s[0]).sum()
    }

    /// From the first that began to the last that ended.
    pub fn elapsed_ns(&self) -> u64 {
        let begin = self.seats.iter().map(|s| s[1]).min().unwrap_or(0);
        let end = self.seats.iter().map(|s| s[2]).max().unwrap_or(0);
        end - begin
    }

    /// Of the one that was served least, over the mean.
    pub fn least_share(&self) -> f64 {
        let least = self.seats.iter().map(|s| s[0]).min().unwrap_or(0);
        least as f64 * self.seats.len() as f64 / self.ops() as f64
    }

    /// Processor time over elapsed time.
    pub fn cores_busy(&self) -> f64 {
        self.seats.iter().map(|s| s[3]).sum::<u64>() as f64 / self.elapsed_ns() as f64
    }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the answer.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Control {
    /// What each process or thread does.
    fn work(&self, seat: usize, warm: impl FnOnce(), work: impl FnOnce(usize, &AtomicU32) -> u64) {
        warm();
        self.ready.0.fetch_add(1, AcqRel);
        while self.go.0.load(Acquire) == 0 {
            std::thread::yield_now();
        }
        let (cpu, begin) = (clock_ns(libc::CLOCK_THREAD_CPUTIME_ID), clock_ns(libc::CLOCK_MONOTONIC));
        let ops = work(seat, &self.stop.0);
        let (end, cpu_end) = (clock_ns(libc::CLOCK_MONOTONIC), clock_ns(libc::CLOCK_THREAD_CPUTIME_ID));
        let seat = &self.seats[seat].0;
        seat.ops.store(ops, Relaxed);
        seat.begin.store(begin, Relaxed);
        seat.end.store(end, Relaxed);
        seat.cpu.store(cpu_end - cpu, Relaxed);
    }

    /// What the one that measures does. It sleeps through the run, so it takes no core from anybody.
    fn conduct(&self, parties: usize, run: Duration) -> Result<(), String> {
        let patience = Instant::now() + WATCHDOG;
        while (self.ready.0.load(Acquire) as usize) < parties {
            if Instant::now() > patience {
                return Err("not all of them got through their first section".into());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        self.go.0.store(1, Release);
        std::thread::sleep(run);
        self.stop.0.store(1, Release);
        Ok(())
    }

    fn outcome(&self, parties: usize) -> Outcome {
        let seat = |s: &Seat| [&s.ops, &s.begin, &s.end, &s.cpu].map(|word| word.load(Relaxed));
        Outcome { seats: self.seats[..parties].iter().map(|line| seat(&line.0)).collect() }
    }
}

/// How long we wait for a child that should be done.
const WATCHDOG: Duration = Duration::from_secs(20);

/// A forked child, killed and reaped at the latest when dropped.
struct Child(libc::pid_t);

impl Child {
    /// Forks. The child does `f` and leaves; it ends with its parent.
    fn fork(f: impl FnOnce()) -> Self {
        let parent = std::process::id();
        // SAFETY: callers fork while no other thread holds a lock that `f` needs (tables before those that start threads),
        // or `f` uses atomics and system calls only.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid != 0 {
            return Self(pid);
        }
        // SAFETY: takes plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let alive = std::os::unix::process::parent_id() == parent;
        let ok = alive && catch_unwind(AssertUnwindSafe(f)).is_ok();
        // SAFETY: ends this process; nothing of the parent's is torn down.
        unsafe { libc::_exit(if ok { 0 } else { 101 }) }
    }

    /// Waits for it; an error unless it ended well.
    fn join(mut self) -> Result<(), String> {
        let patience = Instant::now() + WATCHDOG;
        loop {
            let mut status = 0;
            // SAFETY: our child, not reaped yet.
            let rc = unsafe { libc::waitpid(self.0, &mut status, libc::WNOHANG) };
            if rc == self.0 {
                self.0 = 0;
                return if status == 0 {
                    Ok(())
                } else {
                    Err(format!("a child ended with status {status:#x}"))
                };
            }
            if Instant::now() > patience {
                return Err(format!("hung: a child was not done after {WATCHDOG:?}"));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: our child, not reaped yet, so the pid is its own.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(self.0, null_mut(), 0) };
        }
    }
}

/// A forked process that has something, until it is dropped.
pub struct Keeper {
    _child: Child,
}

impl Keeper {
    /// Once this is back, it has it.
    pub fn start<R>(make: impl FnOnce() -> R) -> Self {
        let (mut ready, mut tell) = std::io::pipe().expect("a pipe");
        let child = Child::fork(|| {
            let _kept = make();
            let _ = std::io::Write::write_all(&mut tell, b"!");
            loop {
                std::thread::park();
            }
        });
        drop(tell);
        std::io::Read::read_exact(&mut ready, &mut [0]).expect("it has it");
        Self { _child: child }
    }
}

/// `parties` forked processes do `warm` once, then together `work` until told to stop.
pub fn in_processes(
    parties: usize,
    run: Duration,
    warm: impl Fn(),
    work: impl Fn(usize, &AtomicU32) -> u64,
) -> Result<Outcome, String> {
    let control = Page::<Control>::new();
    let children: Vec<_> =
        (0..parties).map(|seat| Child::fork(|| control.work(seat, &warm, &work))).collect();
    control.conduct(parties, run)?;
    children.into_iter().try_for_each(Child::join)?;
    Ok(control.outcome(parties))
}

/// The same with threads.
pub fn in_threads(
    parties: usize,
    run: Duration,
    warm: impl Fn() + Sync,
    work: impl Fn(usize, &AtomicU32) -> u64 + Sync,
) -> Result<Outcome, String> {
    let page = Page::<Control>::new();
    let (control, warm, work) = (&*page, &warm, &work);
    std::thread::scope(|scope| {
        for seat in 0..parties {
            scope.spawn(move || control.work(seat, warm, work));
        }
        control.conduct(parties, run)
    })?;
    Ok(control.outcome(parties))
}

// ---- runs in phases

/// Most phases of one run.
pub const PHASES: usize = 8;

/// Where the processes and threads of a run wait for each other, so that they begin each phase together.
#[repr(C)]
pub struct Phases {
    ready: [AtomicU32; PHASES],
    done: Line<[AtomicU32; PHASES]>,
    go: Line<[AtomicU32; PHASES]>,
    stop: Line<[AtomicU32; PHASES]>,
    seats: [Line<[Seat; PHASES]>; SEATS],
}

// SAFETY: atomics only; zero is one.
unsafe impl Shared for Phases {}

impl Phases {
    /// Phase `phase` of the one at `seat`: together with the others, until told to stop or done. `work` counts.
    pub fn run(&self, phase: usize, seat: usize, work: impl FnOnce(&AtomicU32) -> u64) {
        self.ready[phase].fetch_add(1, AcqRel);
        while self.go.0[phase].load(Acquire) == 0 {
            std::thread::yield_now();
        }
        let begin = clock_ns(libc::CLOCK_MONOTONIC);
        let ops = work(&self.stop.0[phase]);
        let end = clock_ns(libc::CLOCK_MONOTONIC);
        let seat = &self.seats[seat].0[phase];
        seat.ops.store(ops, Relaxed);
        seat.begin.store(begin, Relaxed);
        seat.end.store(end, Relaxed);
        self.done.0[phase].fetch_add(1, AcqRel);
    }

    fn conduct(&self, parties: usize, limits: &[Duration]) -> Result<(), String> {
        let wait = |count: &AtomicU32, until: Instant| {
            while (count.load(Acquire) as usize) < parties && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(100));
            }
            count.load(Acquire) as usize >= parties
        };
        for (phase, &limit) in limits.iter().enumerate() {
            if !wait(&self.ready[phase], Instant::now() + WATCHDOG) {
                return Err(format!("not all of them came to phase {phase}"));
            }
            self.go.0[phase].store(1, Release);
            wait(&self.done.0[phase], Instant::now() + limit);
            self.stop.0[phase].store(1, Release);
        }
        Ok(())
    }
}

/// `children` forked processes (in which `parties` processes or threads work) go through phases of at most these lengths.
/// Gives nanoseconds per operation as each of the parties saw it, their mean, for each phase.
pub fn in_phases(
    children: usize,
    parties: usize,
    limits: &[Duration],
    child: impl Fn(usize, &Phases),
) -> Result<Vec<f64>, String> {
    let phases = Page::<Phases>::new();
    let children: Vec<_> = (0..children).map(|i| Child::fork(|| child(i, &phases))).collect();
    phases.conduct(parties, limits)?;
    children.into_iter().try_for_each(Child::join)?;
    let cost = |seat: &Seat| {
        let elapsed = seat.end.load(Relaxed) - seat.begin.load(Relaxed);
        elapsed as f64 / seat.ops.load(Relaxed) as f64
    };
    let mean = |phase: usize| {
        (0..parties).map(|seat| cost(&phases.seats[seat].0[phase])).sum::<f64>() / parties as f64
    };
    Ok((0..limits.len()).map(mean).collect())
}

/// Runs `f` in a forked child and waits for it: what it opens is closed then.
pub fn in_a_child(f: impl FnOnce()) -> Result<(), String> {
    Child::fork(f).join()
}

/// Opens the LMDB environment in `folder` as one that needs not survive the machine.
pub fn lmdb(folder: &std::path::Path, bytes: usize) -> heed::Env {
    let mut options = heed::EnvOpenOptions::new();
    options.map_size(bytes).max_dbs(1).max_readers(16);
    // SAFETY: no sync: a crash of the machine is not measured. WRITE_MAP: nobody else writes into the file.
    unsafe { options.flags(heed::EnvFlags::NO_SYNC | heed::EnvFlags::WRITE_MAP) };
    // SAFETY: a folder of ours, opened once in each process, changed by LMDB alone.
    unsafe { options.open(folder) }.expect("LMDB opens")
}

// ---- processes and wake-ups

#[repr(C)]
struct Table {
    ping: Line<AtomicU32>,
    pong: Line<AtomicU32>,
}

// SAFETY: atomics only; zero is one.
unsafe impl Shared for Table {}

/// In a ping-pong word: its reader sleeps.
const ASLEEP: u32 = 1 << 31;
/// The ball that ends the game.
const LAST: u32 = ASLEEP - 1;

/// Waits until `word` is no longer `old`: spins so often, then sleeps.
fn receive(word: &AtomicU32, old: u32, spins: u32) -> u32 {
    for _ in 0..spins {
        let ball = word.load(Acquire);
        if ball != old {
            return ball;
        }
        std::hint::spin_loop();
    }
    if word.compare_exchange(old, old | ASLEEP, AcqRel, Acquire).is_ok() {
        while word.load(Acquire) == old | ASLEEP {
            let no_timeout = null::<libc::timespec>();
            // SAFETY: a futex word in shared memory; the kernel only reads it.
            unsafe {
                libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, old | ASLEEP, no_timeout)
            };
        }
    }
    word.load(Acquire)
}

/// Gives `word` a new ball, and wakes its reader if that sleeps.
fn send(word: &AtomicU32, ball: u32) {
    if word.swap(ball, AcqRel) & ASLEEP != 0 {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}

/// Nanoseconds of each of so many rounds between two processes over bare futexes, both of which spin so often first.
pub fn ping_pong(rounds: u32, spins: u32) -> Vec<f64> {
    let table = Page::<Table>::new();
    let child = Child::fork(|| {
        let mut ball = 0;
        while ball != LAST {
            ball = receive(&table.ping.0, ball, spins);
            send(&table.pong.0, ball);
        }
    });
    let round = |ball: u32, old: u32| {
        send(&table.ping.0, ball);
        assert_eq!(receive(&table.pong.0, old, spins), ball, "a ball was lost");
    };
    let times = (1..=rounds).map(|ball| crate::harness::nanos(|| round(ball, ball - 1))).collect();
    round(LAST, rounds);
    child.join().expect("the other player");
    times
}

/// The argument with which our executable ends at once.
pub const EXIT_AT_ONCE: &CStr = c"--exit-at-once";

/// Two bare posix_spawns of our own executable, which ends at once, until both are reaped.
pub fn two_bare_spawns() {
    let children = [spawn_self(), spawn_self()];
    for pid in children {
        let mut status = 0;
        // SAFETY: our child, not reaped yet.
        let rc = unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!((rc, status), (pid, 0), "a bare spawn failed");
    }
}

fn spawn_self() -> libc::pid_t {
    let exe = c"/proc/self/exe";
    let argv = [c"allmend-benches".as_ptr().cast_mut(), EXIT_AT_ONCE.as_ptr().cast_mut(), null_mut()];
    let environment = [null_mut()];
    let mut pid = 0;
    // SAFETY: C strings and null-ended lists, which the call only reads; no actions, no attributes.
    let rc = unsafe {
        libc::posix_spawn(&mut pid, exe.as_ptr(), null(), null(), argv.as_ptr(), environment.as_ptr())
    };
    assert_eq!(rc, 0, "posix_spawn: {}", std::io::Error::from_raw_os_error(rc));
    pid
}
