//! The mutex of crate raw_sync over words of ours: the one safe way to use it.
//!
//! It is a process-shared, not robust pthread mutex. Its defects stay (who waits for a dead holder waits for ever;
//! `try_lock` may give up early because it does not carry nanoseconds), so it is a feature for comparison and for
//! trusted peers. What is made safe here: it is initialised once before anybody else knows the words, a handle is per
//! process, and unlocking takes part in no double unlock because the caller has a guard.
#![allow(unsafe_code, reason = "raw_sync works on pointers")]

use crate::{atomic::Word32, error::OsError};
use raw_sync::{
    Timeout,
    locks::{LockImpl, LockInit, Mutex},
};
use std::{fmt, time::Duration};

/// 32-bit words of one mutex, with room for the alignment that raw_sync adds.
pub(crate) const WORDS: usize = 32;

/// This process's handle.
pub(crate) struct RawMutex(Box<dyn LockImpl>);

// SAFETY: a process-shared pthread mutex may be used from any thread; the handle is two pointers that never change.
unsafe impl Send for RawMutex {}
// SAFETY: as above.
unsafe impl Sync for RawMutex {}

fn pointer(words: &[Word32]) -> *mut u8 {
    assert!(words.len() >= WORDS);
    words[0].as_ptr().cast()
}

impl RawMutex {
    /// Initialises the mutex in words that nobody else uses yet.
    pub(crate) fn initialise(words: &[Word32]) -> Result<(), OsError> {
        let memory = pointer(words);
        // SAFETY: the words are ours alone, mapped, and more than `Mutex::size_of` says it needs with alignment; the
        // protected pointer is never followed: the guard of raw_sync is not used for access.
        let made = unsafe { Mutex::new(memory, memory) };
        made.map(drop).map_err(|_| OsError::new("pthread_mutex_init", libc::ENOMEM))
    }

    /// A handle to a mutex that was initialised.
    pub(crate) fn existing(words: &[Word32]) -> Self {
        let memory = pointer(words);
        // SAFETY: an object of this kind was initialised before it was published, and the words are mapped as long as
        // the object is, which keeps this handle.
        match unsafe { Mutex::from_existing(memory, memory) } {
            Ok((lock, _)) => Self(lock),
            Err(_) => unreachable!("raw_sync's from_existing computes addresses only"),
        }
    }

    /// `false` if it was not to be had in time.
    pub(crate) fn lock(&self, timeout: Option<Duration>) -> Result<bool, OsError> {
        let guard = match timeout {
            None => self.0.lock(),
            Some(timeout) => self.0.try_lock(Timeout::Val(timeout)),
        };
        match guard {
            Ok(guard) => {
                std::mem::forget(guard); // given back by `unlock`
                Ok(true)
            }
            Err(_) if timeout.is_some() => Ok(false),
            Err(_) => Err(OsError::new("pthread_mutex_lock", libc::EINVAL)),
        }
    }

    /// Gives it back. The caller holds it.
    pub(crate) fn unlock(&self) {
        let _ = self.0.release();
    }
}

impl fmt::Debug for RawMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawMutex")
    }
}
