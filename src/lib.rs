//! State that several processes of one machine share, and that survives `kill -9` at any instruction.
//!
//! ```
//! use allmend::{Pool, SharedValue};
//!
//! fn add((total, n): (SharedValue<i64>, u32)) -> allmend::Result<()> {
//!     for _ in 0..n {
//!         *total.get_lock()? += 1; // commits when the guard drops
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> allmend::Result<()> {
//!     let total = SharedValue::new(0i64)?;
//!     for done in Pool::new(2)?.map(add, vec![(total.clone(), 1_000); 100]) {
//!         done??;
//!     }
//!     assert_eq!(total.get(), 100_000);
//!     Ok(())
//! }
//! ```
//!
//! | | |
//! |---|---|
//! | [`SharedValue`] | a value behind a lock; reads never wait and are never torn |
//! | [`SharedArray`] | elements that several processes read and write in place, with claims on ranges |
//! | [`SharedAtomic`] | a counter or flag without a lock |
//! | [`Manager`] | shared memory with a directory of objects by name; other programs can join it |
//! | [`SharedMap`] | a dictionary, without a server; reads write nothing and wait for nobody |
//! | [`Pool`] | worker processes that run functions; no hook in `main`, no macro |
//! | [`verify`] | is every byte of the shared memory free, or in use exactly once |
//!
//! # The promise
//!
//! 1. A process killed at any instruction, holding any lock, in the middle of any operation, hangs nobody and loses no
//!    committed update.
//! 2. A reader never sees half of an update, and never waits for a writer that is dead or stopped.
//! 3. Structure that another process corrupted gives an error: no undefined behaviour, no access out of bounds, no endless
//!    loop. (The `raw_sync` lock kind, the guards of arrays and the length of a named segment trust peers of the same user;
//!    and of a value's bytes each is a valid one.)
//! 4. When the last process is gone, nothing is left behind unless [`Manager::persist`] asked for it; after a kill, a named
//!    segment goes with the next that is created, or with [`clear_stale`].
//! 5. No single sleep is unbounded: every wait looks again at who is alive. A wait for a lock ends when its holder does,
//!    and a guard and a result can be waited for with a time-out.
//!
//! How it is kept, and what is not promised, is in [`docs`].

mod atomic;
#[cfg(not(loom))]
mod codec;
mod error;
#[cfg(loom)]
mod map;
#[cfg(not(loom))]
pub mod map;
mod mutation;
#[cfg(not(loom))]
mod number;
mod os;
mod segment;
pub mod sync;

#[cfg(not(loom))]
pub mod array;
#[cfg(not(loom))]
pub mod docs;
#[cfg(not(loom))]
mod manager;
#[cfg(loom)]
mod pool;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
mod shared_atomic;
#[cfg(not(loom))]
mod value;

#[cfg(not(loom))]
pub use self::{
    array::{ArrayGuard, Chunk, Claims, FrozenArray, ReadGuard, SharedArray},
    codec::{Codec, Key, Plain, PlainData, Serde},
    manager::{CommandExt, Manager, ManagerBuilder, Object, ObjectInfo},
    map::{KeyGuard, SharedMap},
    number::{Atomic, Bits, Number},
    pool::{Pool, PoolBuilder, TaskFuture, Wire},
    segment::{Report, SegmentInfo},
    shared_atomic::SharedAtomic,
    value::{SharedValue, ValueGuard},
};
pub use error::{
    ArrayError, CreateError, EncodeError, Error, HandleError, Inherit, Inherited, LockError, LockResult,
    MapError, NameFault, OpenError, OsError, PoolError, PoolFault, Resource, Result, TaskError, VerifyError,
};

/// Checks the process's own segment: is every byte free, or in use exactly once? Clears what dead processes left
/// before it looks. Reads without locks; other processes may go on.
///
/// # Errors
/// [`VerifyError::Damaged`] with the place where something is wrong; [`VerifyError::Create`] if the segment cannot be
/// made, or a forked child gets no place in it.
///
/// ```
/// let value = allmend::SharedValue::new(1u8)?;
/// assert!(allmend::verify()?.objects >= 1);
/// # Ok::<(), allmend::Error>(())
/// ```
#[cfg(not(loom))]
pub fn verify() -> Result<Report, VerifyError> {
    segment::Segment::default_segment()?.verify()
}

/// The named segments of this machine that this process may look at, sorted by name.
///
/// # Errors
/// [`OpenError::Os`] if /dev/shm cannot be read.
///
/// ```
/// for segment in allmend::segments()? {
///     println!("{}: {} bytes, processes {:?}", segment.name, segment.bytes, segment.processes);
/// }
/// # Ok::<(), allmend::Error>(())
/// ```
#[cfg(not(loom))]
pub fn segments() -> Result<Vec<SegmentInfo>, OpenError> {
    segment::Segment::list_named()
}

/// Removes the named segments of this user to which no process is attached and that do not persist: what killed
/// processes left. Gives the bytes of memory that this freed. (Each creation of a named segment does the same first.)
///
/// # Errors
/// [`OpenError::Os`] if /dev/shm cannot be read, or a name cannot be removed.
///
/// ```
/// println!("{} bytes are free again", allmend::clear_stale()?);
/// assert!(allmend::segments()?.iter().all(|segment| !segment.stale));
/// # Ok::<(), allmend::Error>(())
/// ```
#[cfg(not(loom))]
pub fn clear_stale() -> Result<u64, OpenError> {
    segment::census::clear_stale()
}

/// Takes the name away from a named segment, or from whatever else of this user has it and cannot be opened: one that
/// persists, of another version, damaged. Who has it open keeps it; who opens or creates the name does not find it. Of a
/// manager that is open here: [`Manager::unlink`].
///
/// # Errors
/// [`OpenError::NotFound`] if nothing has that name; [`OpenError::Foreign`]; [`OpenError::NotAFile`] if it is a directory,
/// a link or a pipe; [`OpenError::Busy`] if somebody who is about to take it away was stopped.
///
/// ```
/// use allmend::{Manager, OpenError};
///
/// let name = format!("allmend-doc-remove-{}", std::process::id());
/// Manager::create(&name)?.persist()?;
/// allmend::remove_segment(&name)?;
/// assert!(matches!(Manager::open(&name), Err(OpenError::NotFound { .. })));
/// # Ok::<(), allmend::Error>(())
/// ```
#[cfg(not(loom))]
pub fn remove_segment(name: &str) -> Result<(), OpenError> {
    segment::Segment::remove_named(name)
}

/// Kill points, for tests of builds with `cfg(allmend_crash)`.
#[cfg(allmend_crash)]
#[doc(hidden)]
pub mod crash {
    /// This process kills itself before its `n`-th shared write from now (1 is the next).
    pub fn arm(n: u64) {
        crate::atomic::arm(n, || crate::os::process::kill_self());
    }
    /// This process stops itself (SIGSTOP) before its `n`-th shared write from now, and goes on after SIGCONT.
    pub fn stop(n: u64) {
        crate::atomic::arm(n, crate::os::process::stop_self);
    }
    /// From now on this process does not keep the rule: for controls, which must fail.
    pub fn break_rule(rule: Rule) {
        crate::atomic::break_rule(rule);
    }
    pub use crate::{atomic::Rule, map::door::Map, segment::Parts};
    /// Entries of an array's claims that are not free.
    pub fn entries_in_use<T: bytemuck::Pod>(array: &crate::SharedArray<T>) -> usize {
        array.entries_in_use()
    }
    /// Shared writes since [`arm`].
    pub fn steps() -> u64 {
        crate::atomic::steps()
    }
}

/// Maps that take the same steps each time, and what they are made of, for the test of builds with `cfg(allmend_steps)`:
/// what they run is what a release runs.
#[cfg(any(allmend_crash, allmend_steps))]
#[doc(hidden)]
pub mod steps {
    pub use crate::map::door::{audit, buckets, seeded, shard_of};
}

/// Doors to what is not public, for the targets in `fuzz/`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    /// The pool's wire.
    pub fn wire(bytes: &[u8]) {
        crate::pool::fuzzing::run(bytes);
    }
}

/// The examples of the README run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
