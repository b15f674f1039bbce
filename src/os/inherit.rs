//! Descriptors across `exec`: one that a child of the program's own making inherits, and the child's side of it.
//!
//! Every descriptor of ours is close-on-exec. What is shared with a child of [`std::process::Command`] is a copy with
//! that flag, too, and **the flag is taken off in the child, between fork and exec**: so no other child that any thread
//! starts meanwhile gets it. The child knows the number from its environment. A number in an environment may be anything
//! by the time it is read, so it is not taken over: what it leads to is looked at by name, and opened anew.
#![allow(unsafe_code, reason = "work between fork and exec, and a descriptor by its number")]

use super::{descriptor, liveness};
use crate::error::OsError;
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    fs::FileType,
    io::{Errno, FdFlags},
};
use std::{os::unix::process::CommandExt, process::Command};

/// A copy of `fd` for the child that `command` starts; the number that it will have there.
pub(crate) fn give(command: &mut Command, fd: BorrowedFd<'_>) -> Result<RawFd, OsError> {
    // Above the numbers that `Command` moves descriptors to.
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, descriptor::FIRST)
        .map_err(|e| OsError::new("fcntl(F_DUPFD_CLOEXEC)", e.raw_os_error()))?;
    let number = copy.as_raw_fd();
    let keep = move || rustix::io::fcntl_setfd(&copy, FdFlags::empty()).map_err(std::io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call, and touches no memory but its own.
    unsafe { command.pre_exec(keep) };
    Ok(number)
}

/// What number `number` of this process leads to, opened anew to read and write. It must be a regular file. `None`: the
/// number is none, or leads to something else. The number itself stays as it is: it may be somebody else's.
pub(crate) fn take(number: RawFd) -> Result<Option<OwnedFd>, OsError> {
    if number < 0 {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{number}");
    match rustix::fs::stat(path.as_str()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(OsError::new("stat(/proc/self/fd)", e.raw_os_error())),
    }
    // SAFETY: borrowed for two calls of a number that was just seen open; if another thread closes it meanwhile, the calls
    // fail, or speak of what it leads to then, which the caller checks.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(Some(liveness::reopen(fd.as_fd())?))
}

/// The number, which was found to be ours, is not for our own children.
pub(crate) fn keep(number: RawFd) {
    // SAFETY: borrowed for one call of a number that was just seen open, and that sets a flag only.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
}
