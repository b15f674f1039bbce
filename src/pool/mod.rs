//! Worker processes that run functions of this program.
//!
//! ```text
//!   user's threads            this process                         shared memory              workers
//!   --------------            ------------                         -------------              -------
//!   Pool::submit ----------> desk: fills a slot, queues it ------> slots and ring <-------- claim, run, finish
//!   TaskFuture::result ----> desk: takes results out <------------ (slot.rs, wire.rs)        (worker.rs)
//!                            supervisor: pidfds, one thread -----------------------------> starts, reaps, replaces
//! ```
//!
//! | file | what | knows |
//! |---|---|---|
//! | `slot` | the protocol over bare words: claim, finish, sleep, wake | words and futexes only; model checked |
//! | `wire` | layout of tasks, batches, messages; parsing of what others wrote | `slot` |
//! | `trampoline` | code from an offset, a worker from a program: the only unsafe file | `wire`, `worker` |
//! | `guests` | segments besides the pool's own, in a worker | `wire` |
//! | `worker` | the life of a worker process | all above |
//! | `desk` | the parent's side of the slots, and private records of tasks | all above |
//! | `patience` | when to start the next worker, and when not to wait for one | nothing |
//! | `supervisor` | starts, hears and replaces workers; settles what the dead left | all above |
//! | `future` | results, one or a row of them | `desk` |
//! | `face` | `Pool` and its builder | all |
//!
//! **The promise, and where it is kept.** Each future resolves: a task is run, or its failure is reported, in that one
//! future (`slot`'s claim is the crash record, `Parent::bury` settles it). A worker killed between any two instructions
//! loses at most the item that it runs (`worker`: the progress word commits each). No worker outlives its parent
//! (`worker`, three ways). No wait is unbounded: each sleep ends after a second at most and looks again.
//!
//! **What is trusted.** Workers run our own code, and still nothing they write is believed unseen: lengths, addresses
//! and states are checked, results are copied before they are parsed, and code offsets are sealed (`wire`). A pool whose
//! words were overwritten ends with an error.

mod slot;

#[cfg(not(loom))]
mod desk;
#[cfg(not(loom))]
mod face;
#[cfg(not(loom))]
mod future;
#[cfg(not(loom))]
mod guests;
#[cfg(not(loom))]
mod patience;
#[cfg(not(loom))]
mod supervisor;
#[cfg(not(loom))]
mod trampoline;
#[cfg(not(loom))]
mod wire;
#[cfg(not(loom))]
mod worker;

#[cfg(not(loom))]
pub use self::{
    face::{Pool, PoolBuilder, Wire},
    future::{FlattenErrors, Map, TaskFuture},
};

#[cfg(fuzzing)]
pub(crate) use self::wire::fuzzing;

#[cfg(all(test, not(loom)))]
mod tests;
