//! How it works, what it promises, and what it does not.
//!
//! | page | for whom |
//! |---|---|
//! | [`from_python`] | you know `multiprocessing`, `concurrent.futures` or joblib |
//! | [`limitations`] | you decide whether to use this: read it first |
//! | [`crash_model`] | you want to know what survives `kill -9`, and why |
//! | [`memory_model`] | you ask how reads of bytes that others write can be defined |
//! | [`performance`] | you want to measure |
//! | [`architecture`] | you want to change the crate |
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | segment | shared memory with objects in it: a sealed memfd, or, with a name, a file in /dev/shm; a process has one of its own, which its workers share, and one for each [`Manager`](crate::Manager) |
//! | object | a value, an atomic, an array, a map or a pool in a segment |
//! | handle | what a program holds of an object: [`SharedValue`](crate::SharedValue), [`SharedMap`](crate::SharedMap), .. |
//! | owner | one attached process, by a number that is not used again: slot and generation |
//! | inherited | a lock that was taken over from an owner that died in it |
//! | committed | made visible to all by one store |
//! | supervisor | the thread of a pool that starts, hears and replaces workers |

pub mod architecture;
pub mod crash_model;
pub mod from_python;
pub mod limitations;
pub mod memory_model;
pub mod performance;
