//! The map: a hash table that several processes read without a lock, and change under one lock per shard.
//!
//! ```text
//! shape     where everything is, as numbers              commit    changes, each of one store
//! probe     reading without a lock                       recovery  what the heir of a lock does first
//! shard     a shard over its object's parts              hold      shard locks and key locks
//! engine    the room's inner face: encoded keys           scan      the order of iteration
//! mutation  the ways to break it that the models notice
//!
//! face      SharedMap: types on top of the engine        change    read, change, write: update, fetch_add, ..
//! iter      iterators, with their cursors                lock      locks on keys, for users
//! ```
//!
//! A map is an object with parts (`segment/parts.rs`): it grows by further parts, and nothing of it ever moves. It has
//! shards, by the highest bits of a key's hash; each has a lock (`sync/word.rs`), buckets by linear hashing (one bucket is
//! split per few inserts, so there is no stop), and, unless keys and values are at most 8 bytes each and live in the
//! buckets, blocks for its entries.
//!
//! # Invariants
//!
//! 1. Each change counts from one store on (`commit`), and a reader finds an entry before and after it (`probe`).
//! 2. Slots, chains and the number of buckets say everything; the rest is derived (`recovery`).
//! 3. A reader writes nothing, so it works on a mapping that it cannot write, and a dead or stopped one hinders nobody. A
//!    dead or stopped writer hinders no reader; a stopped one hinders writers of its shard only.
//! 4. No user's code runs under a shard's lock, and nobody holds two of them.
//! 5. Every number from shared bytes that leads somewhere is checked against parts that have memory; every loop is bounded.
#![forbid(unsafe_code)]

#[cfg_attr(loom, allow(dead_code, reason = "the models use what they check"))]
mod commit;
mod mutation;
#[cfg_attr(loom, allow(dead_code, reason = "the models use what they check"))]
mod probe;
#[cfg_attr(loom, allow(dead_code, reason = "the models use what they check"))]
mod recovery;
#[cfg_attr(loom, allow(dead_code, reason = "the models use what they check"))]
mod shape;

#[cfg(not(loom))]
mod change;
#[cfg(any(allmend_crash, allmend_steps))]
pub(crate) mod door;
#[cfg(not(loom))]
mod engine;
#[cfg(not(loom))]
mod face;
#[cfg(not(loom))]
mod hold;
#[cfg(not(loom))]
mod iter;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod scan;
#[cfg(not(loom))]
mod shard;

#[cfg(not(loom))]
pub use self::{
    face::{MapBuilder, SharedMap},
    iter::{Iter, Keys, Values},
    lock::KeyGuard,
    scan::Cursor,
};

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod models;
