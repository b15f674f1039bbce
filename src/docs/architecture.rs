//! The rooms, who may call whom, two paths through them, and how to check a change.
//!
//! # Rooms
//!
//! Each file or folder of `src` is a room with a rank. **A room names only rooms of a smaller rank.** `tests/tidy.rs`
//! checks it.
//!
//! | rank | room | owns | `unsafe` | never |
//! |---|---|---|---|---|
//! | 1 | `atomic.rs` | the one door to atomics: words, fences, kill points; core or loom | one function pointer, in kill-point builds | system calls |
//! | 1 | `error.rs` | one error enum per operation, and their sum | no | text in the place of kinds |
//! | 2 | `os/` | every system call: memfd, names in /dev/shm, mapping, futex, file locks, fork, spawn, pidfd, socket, program headers | yes | a decision, a protocol |
//! | 2 | `mutation.rs` | how models break a rule, and demand a failure; nothing in a real build | no | rules |
//! | 3 | `segment/` | bytes: layout, who takes part, allocator, how long an object lives, names, handles | two files | what a lock means |
//! | 4 | `sync/` | protocols over words that somebody else placed: lock word, committed cell, kinds of locks | forbidden | where a word lies, who is alive |
//! | 4 | `codec/` | how keys and values become bytes | no | anything shared |
//! | 5 | `number.rs` | which numbers have an atomic form | no | state |
//! | 6 | `map/` | the map: buckets, blocks, reading without a lock, changes of one store, recovery | forbidden | user code under a lock of its own |
//! | 6 | `array/` | elements in place, behind claims (`sync/claims/`) | `hold.rs`: from a claim to a slice | a slice without a claim |
//! | 6 | `value.rs`, `shared_atomic.rs` | what users hold | where a guard's copy lies | system calls |
//! | 7 | `manager.rs` | objects by name, as users see them; joining without a pool | no | a word of the directory |
//! | 7 | `pool/` | tasks, slots, workers' life and death | `trampoline.rs` | believing what a worker wrote |
//! | | `lib.rs`, `docs/` | the front door | no | logic |
//!
//! `unsafe` is denied for the crate and allowed file by file. `tests/tidy.rs` has the list.
//!
//! A value is generic over each kind of lock; an array over two, [`Robust`](crate::sync::Robust) and
//! [`Unlocked`](crate::sync::Unlocked). What an array's lock has to know is in the table of claims: which elements, who reads
//! them and who writes, what a dead owner left. A lock word of another kind has none of it.
//!
//! Every file begins with its states, its invariants, its orderings, and the question "killed here?". Read that first.
//!
//! One protocol, three builds, all out of `atomic.rs`:
//!
//! | build | words are | a kill is |
//! |---|---|---|
//! | plain | `core`'s atomics; the kill point before each shared write is nothing | |
//! | `cfg(loom)` | loom's, in a model that tries all orders | the end of a model thread, before its n-th write |
//! | `cfg(allmend_crash)` | `core`'s, counted | a real SIGKILL of a real process, before its n-th write |
//!
//! # The path of `*v.get_lock()? += 1`
//!
//! ```
//! let v = allmend::SharedValue::new(41)?;
//! *v.get_lock()? += 1;
//! assert_eq!(v.get(), 42);
//! # Ok::<(), allmend::Error>(())
//! ```
//!
//! 1. `value.rs`: `get_lock` asks the lock kind for the lock (`sync/kinds.rs`).
//! 2. `segment/attached.rs`: our owner id is read from one private word. In a forked child that word is 0, and the child
//!    attaches first.
//! 3. `sync/word.rs`: one compare-exchange, 0 to our id. That is the fast path. If it fails: spin, ask whether the holder
//!    lives (`segment/participants.rs`, `os/liveness.rs`), take over or sleep (`os/futex.rs`).
//! 4. `segment/object.rs`: the private record notes which thread of ours has it.
//! 5. `sync/cell.rs`: the value is copied into the guard. `+= 1` changes the copy.
//! 6. The guard drops. `sync/cell.rs`: the copy is stored. Up to 8 bytes this is one store; above, the spare buffer is
//!    filled and one store of the version makes it the value. **This store is the commit.**
//! 7. `sync/word.rs`: one compare-exchange, our id to 0. If somebody may sleep, one is woken.
//!
//! Another lock (`RawLock`) is another type in the place of `Robust` in steps 1, 3 and 7. Arrays do not take one: their
//! claims on ranges (`sync/claims/`) are a table with a protocol of its own, which a lock over one word cannot stand in for.
//!
//! # The path of a task
//!
//! ```
//! fn square(n: u64) -> u64 {
//!     n * n
//! }
//! # fn main() -> allmend::Result<()> {
//! let pool = allmend::Pool::new(1)?;
//! assert_eq!(pool.submit(square, 12).result()?, 144);
//! # Ok(()) }
//! ```
//!
//! 1. `pool/face.rs`: the function has no bytes, so its type says all. `pool/trampoline.rs` names the code by its offset
//!    in the program.
//! 2. The argument is encoded by serde (`pool/wire.rs`). Handles in it are kept by the submitter until the task is over
//!    (`segment/handle.rs`).
//! 3. `pool/desk.rs`, behind a private lock: a free slot is filled, its state becomes READY, an entry of the ring names
//!    it (`pool/slot.rs`). One sleeping worker is rung.
//! 4. A worker claims it: one compare-exchange, READY to RUNNING with the worker's number. **This is the claim and the
//!    crash record at once.**
//! 5. `pool/worker.rs`: the argument is copied, checked and decoded; the function runs; its result is written behind the
//!    others of the batch; one store of the progress word commits it.
//! 6. The state becomes DONE, and who waits is woken.
//! 7. `pool/future.rs`, `pool/desk.rs`: the result is copied out and decoded, the slot is free again.
//! 8. If a handle is of a segment that the worker does not have, it asks the supervisor for it, and joins it
//!    (`pool/guests.rs`).
//! 9. If the worker dies between 4 and 6, the supervisor reads state and progress: what is committed stays, the item at
//!    fault fails, the rest of the batch is queued again, another worker is started.
//!
//! # How a worker comes to be
//!
//! `posix_spawn` of our own executable, with a marker in its environment. A function in `.init_array` finds the marker
//! before `main`, and never comes back: it runs the constructors that are left, says where it is, receives the segment
//! through a socket, compares the build id, attaches, and works. Without the marker it does nothing.
//!
//! # Checks
//!
//! | command | what it shows |
//! |---|---|
//! | `cargo test` | units, processes, proptest, documentation, house rules |
//! | `cargo loom` | the protocols in a model checker, three preemptions; each mutation must fail |
//! | `cargo crash` | real processes, killed before each shared write |
//! | `cargo steps` | writers of a map, killed and stopped at machine instructions of the release code |
//! | `cargo test --features raw_sync` | the same over the second lock |
//! | `cargo run --release --example counter` | the main job |
//! | `cargo run --release -p allmend-benches` | speed, beside the peers |
//! | `.ci/run` | all of it, and formatting, lints, documentation, the package |
//!
//! # Rules for a change
//!
//! * **A protocol change brings its model and its mutation.** A model is worth what its mutations cost: name the rule
//!   that is easy to lose (`Mutation` beside each protocol, `mutation.rs`, for the models, `Rule` in `atomic.rs` for real kills), break it, and see the
//!   check fail.
//! * A write to shared bytes goes through `atomic.rs`, so that it has a kill point.
//! * A new shared word comes with a line "killed here?" and with who repairs it.
//! * A count of processes, readers or waiters is wrong: one of the counted dies. Store identities.
//! * A sleep has a bound, and a look at who is alive after it.
//! * What comes from shared bytes is checked before it is used as a length, an offset or a state.
