//! Protocols over shared words: who may write, and when a write counts.
//!
//! | file | what |
//! |---|---|
//! | `word` | the lock word: mutual exclusion between processes that may be killed at any instruction |
//! | `cell` | a value whose every update is one store |
//! | `claims` | shared and exclusive claims on ranges of an array |
//! | `kinds` | what a value asks of a lock, and which locks there are |
//! | `mutation` | the ways to break them that the models must notice; nothing in a real build |
//!
//! Nothing here knows where a word lies or who is alive: words come by reference, and `word::Peers` answers the
//! rest. So the same code runs over a mapping and in the model checker.
#![forbid(unsafe_code)]

pub(crate) mod cell;
pub(crate) mod claims;
#[cfg(not(loom))]
pub(crate) mod kinds;
mod mutation;
pub(crate) mod word;

#[cfg(all(feature = "raw_sync", not(loom)))]
pub use kinds::RawSync;
#[cfg(not(loom))]
pub use kinds::{LockKind, RawLock, Robust, Unlocked};

#[cfg(test)]
mod tests;
