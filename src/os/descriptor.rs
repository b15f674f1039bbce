//! The one door to descriptors that we keep: none of them is standard input, output or error.
//!
//! A program that has closed those leaves their numbers to the next file that is opened. If that were ours, the next
//! `println!` would be written into shared memory. So what the kernel gives us there is moved up at once. (Between the two
//! system calls it is there: who prints in another thread at that moment has closed its output itself.)

use crate::error::OsError;
use rustix::fd::{AsRawFd, OwnedFd, RawFd};

/// The first number that means nothing to anybody.
pub(crate) const FIRST: RawFd = 3;

/// The same description, under a number that is nobody's.
pub(crate) fn high(fd: OwnedFd) -> Result<OwnedFd, OsError> {
    lifted(fd).map(|(fd, _)| fd)
}

/// As [`high`]; and was it moved? The kernel gives the lowest number that is free, so if not, then all three are open.
pub(crate) fn lifted(fd: OwnedFd) -> Result<(OwnedFd, bool), OsError> {
    if fd.as_raw_fd() >= FIRST {
        return Ok((fd, false));
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, FIRST)
        .map(|fd| (fd, true))
        .map_err(|e| OsError::new("fcntl(F_DUPFD_CLOEXEC)", e.raw_os_error()))
}
