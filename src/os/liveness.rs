//! Who is alive, asked of the kernel: open-file-description (OFD) locks on single bytes of the segment's file.
//!
//! A process holds a write lock on bytes that stand for it; the kernel lets them go when the process is gone, however
//! it went, and not before its last thread has stopped writing. A stopped process is alive. Bytes beyond the end of
//! the file can be locked, so they cost no memory.
//!
//! Four rules, each learned from an experiment:
//! 1. *Lock through a description of your own.* A description that came by inheritance or through a socket is shared
//!    with its sender: locks on it would be one lock. [`reopen`] makes a new one.
//! 2. *Never ask through the description that holds the lock*: it answers "free". The observer is another one.
//! 3. *The lock must live exactly as long as the process.* So its description is kept by a page that is mapped but not
//!    inherited ([`super::memory::Anchor`]), and its descriptor is closed at once. Code that closes all descriptors
//!    cannot make us look dead, and a forked child (also by a raw `clone`) cannot make its dead parent look alive.
//! 4. *Before anything is taken from a dead process*: the observer must still lead to the segment's file.

use super::{
    descriptor,
    memory::{FileId, stat},
};
use crate::{atomic::step, error::OsError};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, SeekFrom},
    io::Errno,
};
use std::mem::ManuallyDrop;

/// See [`Observer::is_there`].
const MARK: u64 = 0x616c_6c6d_656e; // "allmen"

/// The descriptor through which we ask was closed or replaced under us: nothing can be said about anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DescriptorsLost;

/// A new description of the file behind `fd`, through /proc, to read and write.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd, OsError> {
    reopen_as(fd, OFlags::RDWR)
}

/// As [`reopen`], to read only: read locks can be taken through it, and questions asked.
pub(crate) fn reopen_to_read(fd: BorrowedFd<'_>) -> Result<OwnedFd, OsError> {
    reopen_as(fd, OFlags::RDONLY)
}

fn reopen_as(fd: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd, OsError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    loop {
        match rustix::fs::open(path.as_str(), access | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => return descriptor::high(fd),
            Err(Errno::INTR) => {}
            Err(e) => return Err(OsError::new("open(/proc/self/fd)", e.raw_os_error())),
        }
    }
}

fn byte_lock(kind: libc::c_int, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0, // must be 0 for OFD locks
    }
}

#[allow(unsafe_code, reason = "rustix has no OFD locks")]
fn fcntl(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> Result<(), Errno> {
    loop {
        // SAFETY: `fd` is open, and `lock` is a valid `struct flock` that lives through the call.
        let done = unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) };
        match (done, Errno::from_io_error(&std::io::Error::last_os_error())) {
            (0, _) => return Ok(()),
            (_, Some(Errno::INTR)) => {}
            (_, errno) => return Err(errno.unwrap_or(Errno::IO)),
        }
    }
}

/// Takes the write lock on `byte` for the description behind `fd`; `false` if another has it.
pub(crate) fn try_lock_byte(fd: BorrowedFd<'_>, byte: u64) -> Result<bool, OsError> {
    match fcntl(fd, libc::F_OFD_SETLK, &mut byte_lock(libc::F_WRLCK, byte)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(e) => Err(OsError::new("fcntl(F_OFD_SETLK)", e.raw_os_error())),
    }
}

/// A lock that several may have, or one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lock {
    Shared,
    Exclusive,
}

impl Lock {
    fn kind(self) -> libc::c_int {
        match self {
            Lock::Shared => libc::F_RDLCK,
            Lock::Exclusive => libc::F_WRLCK,
        }
    }
}

/// Takes `byte` for the description behind `fd`, or turns its own lock there into `lock`; `false` if others are in the
/// way, and then what it had it still has. An exclusive lock needs a description that may write.
pub(crate) fn try_lock(fd: BorrowedFd<'_>, byte: u64, lock: Lock) -> Result<bool, OsError> {
    step();
    match fcntl(fd, libc::F_OFD_SETLK, &mut byte_lock(lock.kind(), byte)) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(e) => Err(OsError::new("fcntl(F_OFD_SETLK)", e.raw_os_error())),
    }
}

/// Gives `byte` back, whoever else has inherited the description.
pub(crate) fn unlock(fd: BorrowedFd<'_>, byte: u64) -> Result<(), OsError> {
    step();
    fcntl(fd, libc::F_OFD_SETLK, &mut byte_lock(libc::F_UNLCK, byte))
        .map_err(|e| OsError::new("fcntl(F_OFD_SETLK)", e.raw_os_error()))
}

/// What other descriptions have of the `bytes` bytes from `first` on: one of their locks, or none.
pub(crate) fn held_by_others(fd: BorrowedFd<'_>, first: u64, bytes: u64) -> Result<Option<Lock>, OsError> {
    let mut lock = byte_lock(libc::F_WRLCK, first);
    lock.l_len = bytes as libc::off_t;
    fcntl(fd, libc::F_OFD_GETLK, &mut lock)
        .map_err(|e| OsError::new("fcntl(F_OFD_GETLK)", e.raw_os_error()))?;
    Ok(match libc::c_int::from(lock.l_type) {
        libc::F_UNLCK => None,
        libc::F_RDLCK => Some(Lock::Shared),
        _ => Some(Lock::Exclusive),
    })
}

/// The second description of a segment, through which we ask. It holds no lock, so it may be inherited by a fork.
#[derive(Debug)]
pub(crate) struct Observer {
    fd: ManuallyDrop<OwnedFd>,
    file: FileId,
}

impl Observer {
    /// Opens one on the file behind `fd`.
    pub(crate) fn open(fd: BorrowedFd<'_>) -> Result<Self, OsError> {
        let fd = reopen(fd)?;
        let (_, file) = stat(fd.as_fd())?;
        // An error only makes `is_there` say no. A position is not memory, and nothing is read or written here.
        let _ = rustix::fs::seek(&fd, SeekFrom::Start(MARK));
        Ok(Self::of(fd, file))
    }

    /// Out of a description of `file` that is ours alone and holds nothing.
    pub(crate) fn of(fd: OwnedFd, file: FileId) -> Self {
        Self { fd: ManuallyDrop::new(fd), file }
    }

    /// Its descriptor, where nobody can have closed it yet.
    pub(crate) fn just_opened(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The file that it was opened on.
    pub(crate) fn file(&self) -> FileId {
        self.file
    }

    /// Does it still lead to the segment? Everything that goes through its descriptor asks this first.
    pub(crate) fn checked(&self) -> Result<BorrowedFd<'_>, DescriptorsLost> {
        match stat(self.fd.as_fd()) {
            Ok((_, file)) if file == self.file => Ok(self.fd.as_fd()),
            _ => Err(DescriptorsLost),
        }
    }

    /// As [`Self::checked`], at a third of its price, where nothing is taken from anybody on its word: the position of our
    /// description is where nobody else's is.
    pub(crate) fn is_there(&self) -> bool {
        rustix::fs::seek(&*self.fd, SeekFrom::Current(0)) == Ok(MARK)
    }

    /// Does another description hold the lock on `byte`? Only `Ok(false)` speaks of a death.
    pub(crate) fn is_locked(&self, byte: u64) -> Result<bool, DescriptorsLost> {
        let mut lock = byte_lock(libc::F_WRLCK, byte);
        fcntl(self.fd.as_fd(), libc::F_OFD_GETLK, &mut lock).map_err(|_| DescriptorsLost)?;
        Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
    }
}

impl Drop for Observer {
    /// If it was closed under us, its number is nobody's, and std ends a program that closes such a one; or a stranger's.
    #[allow(unsafe_code, reason = "a field that is dropped by hand")]
    fn drop(&mut self) {
        if self.checked().is_ok() {
            // SAFETY: not used after.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}
