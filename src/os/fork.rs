//! Forks by code that does not know us: `pthread_atfork`.
//!
//! The one thing that needs it is our private lock: a thread that does not exist in the child may hold it at the
//! moment of the fork. All else (identity, locks in shared memory) the kernel tells a child by itself: see
//! `memory::{Anchor, ForkAware}`.
#![allow(unsafe_code, reason = "pthread_atfork")]

use crate::error::OsError;

/// Has `prepare` called before each fork, and `after` in both processes behind it, in the forking thread.
pub(crate) fn at_fork(prepare: extern "C" fn(), after: extern "C" fn()) -> Result<(), OsError> {
    // SAFETY: the handlers are functions of the program, and it is never unloaded without them.
    let errno = unsafe { libc::pthread_atfork(Some(prepare), Some(after), Some(after)) };
    if errno == 0 { Ok(()) } else { Err(OsError::new("pthread_atfork", errno)) }
}
