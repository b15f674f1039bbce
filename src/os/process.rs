//! Child processes: start one, watch it, end it, hear how it ended. And the two ways in which a process of ours ends
//! at once: with its parent, and by its own hand.
//!
//! Rules, each with its reason:
//! 1. *A child is named by a pidfd, never by its pid*, which another process may have after it.
//! 2. *Only our own children are reaped*, one by one (`waitid(P_PIDFD)`): no SIGCHLD handler, no `waitpid(-1)`, so
//!    that the host's own children and handlers are left alone. The other way round cannot be forbidden: where the
//!    host ignores SIGCHLD or reaps everything, we hear that a child is gone but not how ([`Exit::Unknown`]).
//! 3. *What a child inherits is listed.* Every descriptor of ours is close-on-exec; `dup2` in the child, to another
//!    number, makes a copy that is not. So a source whose own number is wanted as a target (also by itself) is first
//!    copied out of the way, and no action overwrites the source of a later one.
//! 4. *Signals.* The mask is emptied: the thread that starts a child may have blocked everything, and the mask
//!    survives exec. SIGCHLD is set to its default: if the host ignores it, a child's own children would vanish
//!    without a status. All else stays as it is: `nohup` (SIGHUP) and a shell's `&` (SIGINT) mean the children too, and
//!    ignored SIGPIPE and SIGXFSZ are what Rust and Python programs count on, in a worker as in their `main`. (`main` is
//!    what sets SIGPIPE in a Rust program; a child that never gets there has it from us.) Handlers do not survive exec.
//!
//! Killed here? Between the spawn and the pidfd: the child has [`die_with_parent`] and the end of its channel to
//! notice. Nothing here is a shared word.
#![allow(unsafe_code, reason = "posix_spawn, which rustix lacks")]

use super::descriptor;
use crate::error::OsError;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec},
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions},
};
use std::{
    ffi::{CStr, CString, OsStr, OsString},
    mem::MaybeUninit,
    os::unix::ffi::{OsStrExt, OsStringExt},
    time::{Duration, Instant},
};

pub(crate) use rustix::process::Signal;

/// The running program itself, also after its file was replaced or deleted: the kernel goes by the inode.
pub(crate) const THIS_PROGRAM: &CStr = c"/proc/self/exe";

fn os(call: &'static str) -> impl Fn(Errno) -> OsError {
    move |errno| OsError::new(call, errno.raw_os_error())
}

/// For the calls that return their error.
fn done(call: &'static str, errno: libc::c_int) -> Result<(), OsError> {
    if errno == 0 { Ok(()) } else { Err(OsError::new(call, errno)) }
}

/// A descriptor that the host may close under us (as daemonising code does). Its drop does not insist: the number is
/// nobody's then, and std ends a program that closes such a one.
#[derive(Debug)]
pub(crate) struct Kept(Option<OwnedFd>);

impl From<OwnedFd> for Kept {
    fn from(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("taken by the drop only").as_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(fd) = self.0.take()
            && rustix::io::fcntl_getfd(&fd).is_err()
        {
            std::mem::forget(fd);
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It is gone, and somebody else has its status: the host ignores SIGCHLD, or reaps every child.
    Unknown,
}

/// A child of this process. Dropping it neither kills nor reaps: see [`Child::kill`], [`Child::wait`].
#[derive(Debug)]
#[must_use = "a child that nobody waits for stays as a zombie"]
pub(crate) struct Child {
    pidfd: Kept,
    pid: u32,
    exit: Option<Exit>,
}

impl Child {
    /// Its process id, for display.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Becomes readable when it is gone: for [`poll`].
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Does it run a program? One that is dying has none any more. Without /proc: `false`.
    pub(crate) fn has_program(&self) -> bool {
        self.exit.is_none() && std::fs::read_link(format!("/proc/{}/exe", self.pid)).is_ok()
    }

    /// Sends a signal. To a child that is gone, nothing.
    pub(crate) fn kill(&self, signal: Signal) -> Result<(), OsError> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(os("pidfd_send_signal")(e)),
        }
    }

    /// Waits for its end, reaps it, and says how it was. Any number of times.
    pub(crate) fn wait(&mut self) -> Result<Exit, OsError> {
        loop {
            if let Some(exit) = self.reap(WaitIdOptions::EXITED)? {
                return Ok(exit);
            }
        }
    }

    /// As [`Child::wait`], or `None` at once if it lives.
    #[allow(dead_code, reason = "the pair of `wait`, whoever needs it")]
    pub(crate) fn try_wait(&mut self) -> Result<Option<Exit>, OsError> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn reap(&mut self, options: WaitIdOptions) -> Result<Option<Exit>, OsError> {
        if self.exit.is_none() {
            self.exit = exit_of(self.pidfd.as_fd(), options)?;
        }
        Ok(self.exit)
    }
}

/// `waitid` on one process; `None` if it lives.
fn exit_of(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Exit>, OsError> {
    loop {
        return match rustix::process::waitid(WaitId::PidFd(pidfd), options) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => Ok(Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            })),
            Err(Errno::CHILD) => Ok(Some(Exit::Unknown)),
            Err(Errno::INTR) => continue,
            Err(e) => Err(os("waitid")(e)),
        };
    }
}

/// Starts `program` with these arguments (the first is the name it shows), the environment of this process plus
/// `extra` (which wins), and the descriptors of `inherit`, each under the number beside it. Nothing else of ours is
/// inherited; descriptors that the host left inheritable are. A descriptor under its own number replaces none of those
/// (a fixed small number may: `make` hands its jobs on that way).
///
/// An error leaves no child behind. `ESRCH` of `pidfd_open`: it was gone, and reaped by the host, before we could
/// look at it.
///
/// # Errors
/// `EINVAL` for a NUL in a variable, or for two descriptors under one number; whatever the kernel says else: `EAGAIN`
/// (process limit), `EMFILE`, `ENOMEM`, `ENOENT` (no such program, or no /proc).
pub(crate) fn spawn(
    program: &CStr,
    arguments: &[&CStr],
    extra: &[(&OsStr, &OsStr)],
    inherit: &[(BorrowedFd<'_>, RawFd)],
) -> Result<Child, OsError> {
    let environment = environment(extra)?;
    let sources = out_of_the_way(inherit)?;
    let mut actions = Actions::new()?;
    for (copy, &(fd, target)) in sources.iter().zip(inherit) {
        actions.dup2(copy.as_ref().map_or(fd, AsFd::as_fd), target)?;
    }
    let attributes = Attributes::new()?;
    let arguments = pointers(arguments.iter().copied());
    let variables = pointers(environment.iter().map(CString::as_c_str));
    let mut pid = 0;
    // SAFETY: all pointers are valid through the call: `program` and the strings end with NUL, the two lists with null,
    // `actions` and `attributes` are initialised. The strings are not written to, whatever the type says.
    let errno = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.0.as_ptr(),
            attributes.0.as_ptr(),
            arguments.as_ptr(),
            variables.as_ptr(),
        )
    };
    done("posix_spawn", errno)?;
    watch(Pid::from_raw(pid).ok_or_else(|| OsError::new("posix_spawn", libc::ECHILD))?)
}

/// A pidfd for the child that was just started. It is not reaped yet, so its pid is its own.
fn watch(pid: Pid) -> Result<Child, OsError> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let seen = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(os("pidfd_open"))
        .and_then(descriptor::high)
        .and_then(|pidfd| Ok((exit_of(pidfd.as_fd(), look)?, pidfd)));
    match seen {
        // The host reaped it under us, and the pid may be a stranger's by now: `waitid` knows only children.
        Ok((Some(Exit::Unknown), _)) => Err(OsError::new("pidfd_open", libc::ESRCH)),
        Ok((_, pidfd)) => Ok(Child { pidfd: pidfd.into(), pid: pid.as_raw_pid() as u32, exit: None }),
        Err(e) if e.errno == libc::ESRCH => Err(e),
        Err(e) => {
            // No descriptor is left, or the kernel is too old: what cannot be watched is not kept. The one place that
            // goes by the pid. Errors here mean that it is gone already.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            while let Err(Errno::INTR) = rustix::process::waitpid(Some(pid), WaitOptions::empty()) {}
            Err(e)
        }
    }
}

/// Rule 3: a copy of each source whose number is a target, at a number that is none.
fn out_of_the_way(inherit: &[(BorrowedFd<'_>, RawFd)]) -> Result<Vec<Option<OwnedFd>>, OsError> {
    let is_target = |fd: RawFd| inherit.iter().filter(|(_, target)| *target == fd).count();
    let above =
        inherit.iter().map(|(_, target)| *target).max().map_or(0, |highest| highest.saturating_add(1));
    inherit
        .iter()
        .map(|(fd, target)| {
            if is_target(*target) > 1 {
                return Err(OsError::new("posix_spawn_file_actions_adddup2", libc::EINVAL));
            }
            match is_target(fd.as_raw_fd()) {
                0 => Ok(None),
                _ => {
                    rustix::io::fcntl_dupfd_cloexec(fd, above)
                        .map(Some)
                        // INVAL: `above` is beyond the limit, so the numbers are used up, as with MFILE.
                        .map_err(|e| if e == Errno::INVAL { Errno::MFILE } else { e })
                        .map_err(os("fcntl(F_DUPFD_CLOEXEC)"))
                }
            }
        })
        .collect()
}

/// `NAME=value` strings: our own, without those that `extra` replaces, and `extra`. Each name once, the last wins.
fn environment(extra: &[(&OsStr, &OsStr)]) -> Result<Vec<CString>, OsError> {
    let replaced = |name: &OsString| extra.iter().any(|(new, _)| *new == name.as_os_str());
    let own = std::env::vars_os().filter(|(name, _)| !replaced(name));
    let last = |i: usize| !extra[i + 1..].iter().any(|(later, _)| *later == extra[i].0);
    let new = (0..extra.len()).filter(|i| last(*i)).map(|i| (extra[i].0.into(), extra[i].1.into()));
    own.chain(new)
        .map(|(name, value)| {
            let bytes = [name.into_vec(), value.as_bytes().to_vec()].join(&b'=');
            CString::new(bytes).map_err(|_| OsError::new("posix_spawn (a NUL in a variable)", libc::EINVAL))
        })
        .collect()
}

/// A list as `execve` wants it.
fn pointers<'a>(strings: impl Iterator<Item = &'a CStr>) -> Vec<*mut libc::c_char> {
    strings.map(|s| s.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

/// File actions. Boxed, since POSIX does not say that they may be moved.
struct Actions(Box<MaybeUninit<libc::posix_spawn_file_actions_t>>);

impl Actions {
    fn new() -> Result<Self, OsError> {
        let mut actions = Box::new(MaybeUninit::uninit());
        // SAFETY: the pointer is valid for a write of the type.
        let errno = unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) };
        done("posix_spawn_file_actions_init", errno)?;
        Ok(Self(actions))
    }

    fn dup2(&mut self, fd: BorrowedFd<'_>, target: RawFd) -> Result<(), OsError> {
        // SAFETY: initialised by `new`.
        let errno =
            unsafe { libc::posix_spawn_file_actions_adddup2(self.0.as_mut_ptr(), fd.as_raw_fd(), target) };
        done("posix_spawn_file_actions_adddup2", errno)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, and not used after.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.as_mut_ptr()) };
    }
}

/// Attributes: rule 4.
struct Attributes(Box<MaybeUninit<libc::posix_spawnattr_t>>);

impl Attributes {
    fn new() -> Result<Self, OsError> {
        let mut attributes = Box::new(MaybeUninit::uninit());
        // SAFETY: the pointer is valid for a write of the type.
        let errno = unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) };
        done("posix_spawnattr_init", errno)?;
        let mut new = Self(attributes);
        let to = new.0.as_mut_ptr();
        let none = signals(&[])?;
        // SAFETY: both are initialised.
        done("posix_spawnattr_setsigmask", unsafe { libc::posix_spawnattr_setsigmask(to, none.as_ptr()) })?;
        let child = signals(&[libc::SIGCHLD])?;
        // SAFETY: both are initialised.
        done("posix_spawnattr_setsigdefault", unsafe {
            libc::posix_spawnattr_setsigdefault(to, child.as_ptr())
        })?;
        let flags = (libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF) as libc::c_short;
        // SAFETY: initialised.
        done("posix_spawnattr_setflags", unsafe { libc::posix_spawnattr_setflags(to, flags) })?;
        Ok(new)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, and not used after.
        unsafe { libc::posix_spawnattr_destroy(self.0.as_mut_ptr()) };
    }
}

/// A set of these signals, initialised.
fn signals(of: &[libc::c_int]) -> Result<MaybeUninit<libc::sigset_t>, OsError> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for a write of the type.
    let result = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    done("sigemptyset", if result == 0 { 0 } else { libc::EINVAL })?;
    for &signal in of {
        // SAFETY: initialised by `sigemptyset`.
        let result = unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
        done("sigaddset", if result == 0 { 0 } else { libc::EINVAL })?;
    }
    Ok(set)
}

/// A bell that another thread rings and [`poll`] hears.
#[derive(Debug)]
pub(crate) struct Bell(Kept);

impl Bell {
    /// A silent one.
    pub(crate) fn new() -> Result<Self, OsError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags).map_err(os("eventfd"))?;
        descriptor::high(fd).map(|fd| Self(fd.into()))
    }

    /// Makes it readable until [`Bell::silence`].
    pub(crate) fn ring(&self) -> Result<(), OsError> {
        loop {
            match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()), // AGAIN: rung more often than can be counted
                Err(Errno::INTR) => {}
                Err(e) => return Err(os("write(eventfd)")(e)),
            }
        }
    }

    /// Call it before looking for what it was rung for, so that no ring is lost.
    pub(crate) fn silence(&self) -> Result<(), OsError> {
        loop {
            match rustix::io::read(&self.0, &mut [0; 8]) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(os("read(eventfd)")(e)),
            }
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors has something to read (a pidfd: its process is gone; a channel: also its other
/// end is closed), for at most `timeout` if there is one. Says for each whether it has; none at a time-out.
///
/// # Errors
/// `EBADF` if one of them was closed under us.
pub(crate) fn poll(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<bool>, OsError> {
    // A time-out that is too large for a clock is none.
    let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let left = left.and_then(|d| Timespec::try_from(d).ok());
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) if fds.iter().any(|fd| fd.revents().contains(PollFlags::NVAL)) => {
                return Err(OsError::new("poll", libc::EBADF));
            }
            Ok(_) => return Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("poll")(e)),
        }
    }
}

/// What the kernel says of a parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parent {
    /// It is the expected one.
    Alive,
    /// It is another one: the expected one is gone.
    Gone,
    /// It is in a pid namespace that we do not see (it called `unshare` before it started us): nothing is known.
    Unseen,
}

/// Has the kernel kill this process when its parent is gone, and says whether it is already.
///
/// "Parent" is the *thread* that called [`spawn`]: when that ends, this process dies, so it must be a thread that
/// lives as long as its children may. Does not work across a set-uid program.
pub(crate) fn die_with_parent(expected: u32) -> Result<Parent, OsError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(os("prctl(PR_SET_PDEATHSIG)"))?;
    // Only now: a death before the call above sends nothing.
    Ok(parent(expected))
}

/// Is the process with this id still our parent?
pub(crate) fn parent(expected: u32) -> Parent {
    match rustix::process::getppid() {
        None => Parent::Unseen,
        Some(pid) if pid.as_raw_pid() as u32 == expected => Parent::Alive,
        Some(_) => Parent::Gone,
    }
}

/// The id of this process.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// Ends a forked child that has nothing to do here: no handler or destructor of its parent's runs.
pub(crate) fn leave() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// As `kill -9` by another: nothing runs after it, in no thread.
pub(crate) fn kill_self() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    // Only the first process of a pid namespace gets here: the kernel does not let it kill itself.
    // SAFETY: ends the process; no handler or destructor runs.
    unsafe { libc::_exit(128 + libc::SIGKILL) }
}

/// As `kill -STOP` by another; returns after a SIGCONT.
#[cfg(allmend_crash)]
pub(crate) fn stop_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
}

/// How many CPUs this process may use: its affinity and its cgroup's quota are counted. At least 1.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::{super::channel, *};
    use std::{
        fs::File,
        io::{Read, Write},
    };

    const SH: &CStr = c"/bin/sh";
    const HELPER: &str = "ALLMEND_TEST_PROCESS_HELPER";

    fn sh(script: &CStr, inherit: &[(BorrowedFd<'_>, RawFd)]) -> Child {
        spawn(SH, &[SH, c"-c", script], &[], inherit).unwrap()
    }

    /// A test that waits for ever says nothing: a watchdog, far above what any machine needs.
    fn end_of(child: &mut Child) -> Exit {
        let ended = poll(&[child.pidfd()], Some(Duration::from_secs(60))).unwrap();
        assert_eq!(ended, [true], "the child did not end");
        child.wait().unwrap()
    }

    fn pipe() -> (File, File) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn exit_code_and_signal_are_told_any_number_of_times() {
        let mut child = sh(c"exit 7", &[]);
        assert_eq!(end_of(&mut child), Exit::Code(7));
        assert_eq!(child.wait().unwrap(), Exit::Code(7));
        assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(7)));
        assert_eq!(end_of(&mut sh(c"kill -TERM $$", &[])), Exit::Signal(libc::SIGTERM));
    }

    #[test]
    fn a_child_lives_until_it_is_killed() {
        let (never, _open) = pipe();
        let mut child = sh(c"read line", &[(never.as_fd(), 0)]);
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(poll(&[child.pidfd()], Some(Duration::ZERO)).unwrap(), [false]);
        child.kill(Signal::KILL).unwrap();
        assert_eq!(end_of(&mut child), Exit::Signal(libc::SIGKILL));
        child.kill(Signal::KILL).unwrap(); // reaped: nobody is hit, and it is no error
    }

    #[test]
    fn a_child_that_the_host_reaped_is_gone_without_a_status() {
        let mut child = sh(c"exit 7", &[]);
        poll(&[child.pidfd()], None).unwrap();
        rustix::process::waitpid(Pid::from_raw(child.pid() as i32), WaitOptions::empty()).unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Unknown);
    }

    #[test]
    fn no_such_program_is_an_error() {
        let error = spawn(c"/nowhere", &[c"x"], &[], &[]).unwrap_err();
        assert_eq!((&*error.call, error.errno), ("posix_spawn", libc::ENOENT));
    }

    #[test]
    fn descriptors_may_change_places_and_others_stay_here() {
        let ((mut read_a, a), (mut read_b, b), (own, _)) = (pipe(), pipe(), pipe());
        let (na, nb) = (a.as_raw_fd(), b.as_raw_fd());
        let own = own.as_raw_fd().to_string();
        // Each goes to the number of the other: what the child writes to `a`'s number arrives at `b`.
        let script = c"echo to-a >/proc/self/fd/$1; echo to-b >/proc/self/fd/$2; test ! -e /proc/self/fd/$3";
        let numbers = [na.to_string(), nb.to_string(), own].map(|n| CString::new(n).unwrap());
        let arguments = [SH, c"-c", script, SH, &numbers[0], &numbers[1], &numbers[2]];
        let mut child = spawn(SH, &arguments, &[], &[(a.as_fd(), nb), (b.as_fd(), na)]).unwrap();
        drop((a, b));
        assert_eq!(end_of(&mut child), Exit::Code(0), "a descriptor that is not in the list was inherited");
        let (mut at_a, mut at_b) = (String::new(), String::new());
        read_a.read_to_string(&mut at_a).unwrap();
        read_b.read_to_string(&mut at_b).unwrap();
        assert_eq!((at_a.as_str(), at_b.as_str()), ("to-b\n", "to-a\n"));
    }

    #[test]
    fn a_descriptor_keeps_its_number() {
        let (mut read, write) = pipe();
        let number = CString::new(write.as_raw_fd().to_string()).unwrap();
        let arguments = [SH, c"-c", c"echo here >/proc/self/fd/$1", SH, &number];
        let mut child = spawn(SH, &arguments, &[], &[(write.as_fd(), write.as_raw_fd())]).unwrap();
        assert!(
            rustix::io::fcntl_getfd(&write).unwrap().contains(rustix::io::FdFlags::CLOEXEC),
            "only in the child"
        );
        drop(write);
        assert_eq!(end_of(&mut child), Exit::Code(0));
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here\n");
    }

    #[test]
    fn two_descriptors_under_one_number_are_refused() {
        let (a, b) = pipe();
        let error = spawn(SH, &[SH], &[], &[(a.as_fd(), 9), (b.as_fd(), 9)]).unwrap_err();
        assert_eq!(error.errno, libc::EINVAL);
    }

    #[test]
    fn the_environment_is_ours_and_the_extra_wins() {
        let extra =
            [(OsStr::new("PATH"), OsStr::new("/extra")), (OsStr::new("ALLMEND_X"), OsStr::new("a=b"))];
        let names = environment(&extra).unwrap();
        let has = |text: &CStr| names.iter().filter(|v| v.as_c_str() == text).count();
        assert_eq!((has(c"PATH=/extra"), has(c"ALLMEND_X=a=b")), (1, 1));
        assert_eq!(names.iter().filter(|v| v.to_bytes().starts_with(b"PATH=")).count(), 1);
        assert_eq!(names.len(), std::env::vars_os().filter(|(name, _)| name != "PATH").count() + 2);
        assert!(environment(&[(OsStr::new("X"), OsStr::new("a\0b"))]).is_err());
    }

    #[test]
    fn a_blocked_signal_is_not_blocked_in_the_child() {
        std::thread::spawn(|| {
            let term = signals(&[libc::SIGTERM]).unwrap();
            // SAFETY: the set is initialised; only this thread, which ends here, is changed.
            let result =
                unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, term.as_ptr(), std::ptr::null_mut()) };
            assert_eq!(result, 0);
            let mut child = sh(c"kill -TERM $$; exit 5", &[]);
            assert_eq!(end_of(&mut child), Exit::Signal(libc::SIGTERM));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_bell_is_heard_until_silenced() {
        let (bell, (other, _open)) = (Bell::new().unwrap(), pipe());
        let heard = |timeout| poll(&[other.as_fd(), bell.as_fd()], timeout).unwrap();
        assert_eq!(heard(Some(Duration::from_millis(1))), [false, false]);
        bell.ring().unwrap();
        bell.ring().unwrap();
        assert_eq!(heard(None), [false, true]);
        assert_eq!(heard(Some(Duration::MAX)), [false, true]);
        bell.silence().unwrap();
        bell.silence().unwrap();
        assert_eq!(heard(Some(Duration::ZERO)), [false, false]);
    }

    /// This test program again, as the helper below, with `input` and `output`.
    fn helper(role: &str, input: &File, output: &File) -> Child {
        let name = format!("{}::helper_of_the_tests", module_path!().split_once("::").unwrap().1);
        let name = CString::new(name).unwrap();
        let role = [(OsStr::new(HELPER), OsStr::new(role))];
        let arguments = [c"helper", &name, c"--exact", c"--nocapture"];
        let inherit = [(input.as_fd(), 0), (output.as_fd(), 1), (output.as_fd(), 2)];
        spawn(THIS_PROGRAM, &arguments, &role, &inherit).unwrap()
    }

    #[test]
    fn helper_of_the_tests() {
        match std::env::var(HELPER).as_deref() {
            Err(_) => {}
            Ok("kill") => kill_self(),
            Ok("full") => without_descriptors(),
            Ok("ignore") => ignoring_children(),
            Ok(expected) => {
                assert_eq!(die_with_parent(expected.parse().unwrap()).unwrap(), Parent::Alive);
                std::io::stderr().write_all(b"ready").unwrap();
                let _ = std::io::stdin().read(&mut [0]); // for ever
            }
        }
    }

    /// In a process of its own, since a signal's disposition is the process's.
    fn ignoring_children() {
        // SAFETY: no handler is set.
        let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        assert_ne!(before, libc::SIG_ERR);
        let ((input, hold), (mut read, write)) = (pipe(), pipe());
        let arguments = [c"cat", c"/proc/self/status", c"-"];
        let mut child =
            spawn(c"/bin/cat", &arguments, &[], &[(input.as_fd(), 0), (write.as_fd(), 1)]).unwrap();
        drop((hold, write)); // only now `cat` can end
        assert_eq!(end_of(&mut child), Exit::Unknown);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        assert_eq!(ignored >> (libc::SIGCHLD - 1) & 1, 0, "a child hears of its own children");
        assert_eq!(ignored >> (libc::SIGPIPE - 1) & 1, 1, "and ignores what a Rust program ignores");
        std::io::stderr().write_all(b"all told").unwrap();
    }

    /// In a process of its own, since the limit is the process's.
    fn without_descriptors() {
        let (ours, theirs) = channel::pair().unwrap();
        let (mut read, write) = pipe();
        channel::send(ours.as_fd(), b"x", &[write.as_fd()]).unwrap();
        drop(write);
        let limit = rustix::process::Rlimit { current: Some(3), maximum: Some(3) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();

        let error = channel::receive(theirs.as_fd(), &mut [0; 4], 1, None).unwrap_err();
        assert_eq!(error.errno, libc::EMFILE);
        assert_eq!(read.read(&mut [0]).unwrap(), 0, "the descriptor that had no room is closed");

        let error = spawn(SH, &[SH, c"-c", c"read line"], &[], &[]).unwrap_err();
        assert_eq!((&*error.call, error.errno), ("pidfd_open", libc::EMFILE));
        let children = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        assert_eq!(children.unwrap_err(), Errno::CHILD, "no child is left behind");
        std::io::stderr().write_all(b"all told").unwrap();
    }

    /// Runs the helper, which must say that it got to its end.
    fn all_told(role: &str) {
        let (input, _open) = pipe();
        let (mut read, output) = pipe();
        let mut child = helper(role, &input, &output);
        drop(output);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(end_of(&mut child), Exit::Code(0), "{text}");
        assert!(text.contains("all told"), "{text}");
    }

    #[test]
    fn no_descriptor_left_is_an_error_that_leaves_nothing_behind() {
        all_told("full");
    }

    #[test]
    fn a_host_that_ignores_its_children_hears_of_the_end_and_not_how() {
        all_told("ignore");
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let (never, _open) = pipe();
        let (mut ready, output) = pipe();
        let mut child = std::thread::spawn(move || {
            let child = helper(&pid().to_string(), &never, &output);
            drop(output);
            let mut text = Vec::new();
            while !text.ends_with(b"ready") {
                let mut byte = [0];
                ready.read_exact(&mut byte).expect("the helper did not get there");
                text.extend(byte);
            }
            child
        })
        .join()
        .unwrap();
        assert_eq!(end_of(&mut child), Exit::Signal(libc::SIGKILL));
    }

    #[test]
    fn killed_by_its_own_hand() {
        let (input, output) = pipe();
        assert_eq!(end_of(&mut helper("kill", &input, &output)), Exit::Signal(libc::SIGKILL));
    }

    #[test]
    fn a_parent_is_known_by_its_id() {
        assert_eq!(parent(std::os::unix::process::parent_id()), Parent::Alive);
        assert_eq!(parent(pid()), Parent::Gone);
        assert!(cpus() >= 1);
    }
}
