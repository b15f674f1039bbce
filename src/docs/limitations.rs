//! When not to use this, and what is not promised.
//!
//! # Use something else
//!
//! | you have | take |
//! |---|---|
//! | threads of one process, and no code that crashes | `std::sync`, rayon: no processes, no serialisation |
//! | programs on several machines | a message queue, MPI, a database |
//! | data that must survive a reboot | a database, a file |
//! | another system than Linux | nothing of this crate compiles there yet |
//! | values of many KiB under one lock | a [`SharedArray`](crate::SharedArray): in place, without a copy |
//! | peers that you do not trust with the *meaning* of the data | a server process that checks every request |
//!
//! # Where it runs
//!
//! * **Linux only**, x86-64 and aarch64, kernel 5.10 or later. Elsewhere it does not compile, with a message.
//!   Everything that knows the kernel is in `os/`.
//! * **/proc must be mounted.** Without it the first object or pool is an error.
//! * **musl and static programs** are not tested. The pool needs program headers, a build id or code to hash, and a loader
//!   that runs `.init_array` with the process's arguments.
//! * **A linker or a host that drops the constructor**, or a worker program of another build: an error after a handshake
//!   of seconds, [`NotAWorkerImage`](crate::PoolError::NotAWorkerImage).
//!
//! # Numbers
//!
//! * **127 processes at a time in one segment**, the parent included; so a pool has at most 126 workers. Each object has
//!   one bit per possible process, and 127 of them fit into two words. A manager may be made for more,
//!   [up to 1023](crate::ManagerBuilder::max_processes): then each of its objects is larger.
//! * **An unlocked value has at most 8 bytes**, because a larger one would be torn. This is checked when it is compiled.
//! * **A segment is as large as the machine's memory**, at least 1 GiB and at most 64 GiB, less under `RLIMIT_AS` and
//!   `RLIMIT_FSIZE`; a manager's as large as [you say](crate::ManagerBuilder::reserve). That is address space; memory is taken by the MiB, as it is used.
//! * **Memory that was used stays with the segment.** Freed blocks are used again, for objects of the same size class; pages
//!   go back to the kernel when the last process has left.
//! * **A name costs memory**: an entry of 128 bytes (for names of up to about 20 bytes) and a line of 16 bytes in a list. A
//!   name has at most 255 bytes. There are 4096 lists, which are written anew for each name that comes or goes: a directory
//!   of 100,000 names is fine, one of 100 million is not what it is for; that is a [`SharedMap`](crate::SharedMap).
//! * An argument or a result of a task has at most 4 GiB. 2^16 handles can be in results on their way at a time.
//!
//! # Arrays
//!
//! * **At most 2^32 - 1 elements**, and each array costs some 24 KiB for its claims and for what
//!   updates undo in a segment of 127 places, and some 190 KiB in one of 1023.
//! * **A claim costs more than the lock of a value**: it looks at the claims of all others, and two processes that claim at
//!   the same time look at each other's, unless both only read. Claim ranges that are worth it, or [`freeze`](crate::SharedArray::freeze) what is
//!   only read.
//! * **In place means trust.** A peer of the same user that writes without a claim writes under your slice.
//! * **A writer can starve** behind a stream of overlapping readers: use a time-out.
//! * **A process that is stopped while it claims** keeps others out of what it was about to take, as if it held it.
//! * **111 claims at a time** per process and array, and one more of the thread that claimed first; above that it is
//!   [`TooManyClaims`](crate::LockError::TooManyClaims).
//! * **Open for reading only**, an array with claims cannot be read: a claim is a write.
//! * **A reader cannot clear a mark.** What a dead writer left is for the next writer to mend and accept.
//! * **Two kinds only**, [`Robust`](crate::sync::Robust) and [`Unlocked`](crate::sync::Unlocked). A lock of another kind
//!   excludes all others from the whole array; ranges, readers and the marks of the dead need the table of claims.
//! * **`Claims` have no name**: they travel as an argument of a task, and are no [`Object`](crate::Object).
//!   They lead to the array, which a name of theirs would have to keep: an object that keeps another is a fact that we do not
//!   have. Publish the array; each program makes claims of its own, of another slice.
//!
//! # Values
//!
//! * **A guard copies.** Up to 64 bytes the copy lies in the guard, above that on the heap, and it is copied back at the
//!   commit. From some KiB on, that is what you pay for, not the lock. Split large data into several values, or keep it out
//!   of the lock.
//! * **The lock covers memory, nothing else.** A file that you write, a message that you send under the lock is not undone
//!   when you die before the commit. [`inherited`](crate::ValueGuard::inherited) tells the next holder.
//! * **No fairness, no priorities.** A running thread beats one that has to be woken.
//! * **A stopped holder stops those who want the lock.** It is alive, and nothing is taken from the living. Use
//!   [`get_lock_timeout`](crate::SharedValue::get_lock_timeout). Readers go on.
//! * **Not recursive.** A second lock by the same thread is [`Deadlock`](crate::LockError::Deadlock), at once. Two values
//!   locked in two orders by two processes do wait for each other: take them in one order, or with a time-out.
//! * **Calls without a form with a time-out**: `set` and `update` of a value, and all of an array but its guards, `claim` and
//!   `freeze` (take a guard with a time-out, then work on it); changes of a map, which
//!   wait for a shard that a living process is changing; `Pool::submit` when the queue is full, the iterator of
//!   `Pool::map`, and the drop of the last handle of a pool, which waits for its tasks.
//! * **The commit is silent.** If somebody overwrote the lock's bytes while we held it, the next who locks is told, not we.
//! * **A forked child's first step may fail**: it needs a place of its own. Then locking is an error; reading works as
//!   long as somebody else keeps the object; writing without a lock (atomics, unlocked values) panics, because the place
//!   may be another object's. With a place, all of these panic if the parent dropped the object before. A guard that was inherited by a fork can
//!   be written to, and its drop does nothing: the write is lost.
//!
//! * **Drop a guard before you wait for tasks that want the same lock.** `result`, the iterator of `map` and the drop of the
//!   pool wait for the task, and the task waits for you, for ever. Locals drop in reverse order: a guard that was made
//!   before the pool is still held when the pool's drop waits, also on the way out by `?`.
//! * **What can be in a value**: [`bytemuck::Pod`]. Integers, floats, arrays of them, and structs with `#[repr(C)]`, without
//!   padding, that derive it. Not `bool` (take `u8`, or a [`SharedAtomic`](crate::SharedAtomic)), `char`, enums, tuples,
//!   `String`, `Vec`.
//!
//! # Maps
//!
//! * **A key has at most 1 MiB, a value at most 1 GiB**, encoded. A map lies in one segment, and ends with it. Memory that a
//!   map had is used again by it; by others when the map is gone, and that of a block above 256 KiB when its entry is.
//! * **A freed block serves its size class**: steps of 16 bytes up to 128, then four per doubling, in its shard. It is not
//!   split or joined for other sizes; only when there is no room for more, a larger one is taken whole. A map whose values
//!   change from one size to another has the memory of both.
//! * **A key is its bytes.** So floats and [`Serde`](crate::Serde) are no keys (`0.0` and `-0.0` are equal, with other
//!   bytes), and a `Plain<T>` key needs an `Eq` that compares all bytes, as a derived one does.
//! * **Each operation is one step, several are not.** `len`, `iter` and `snapshot` see each entry at a moment of its own. For
//!   several steps on a key there is [`get_lock`](crate::SharedMap::get_lock); keys share 256 of these locks, so take
//!   several with [`lock_many`](crate::SharedMap::lock_many), never one by one.
//! * **`get` copies.** There are no references into the map: another process may overwrite what they lead to. A value is as
//!   good as its size: of megabytes, keep an object of its own for each.
//! * **`update` runs its closure again** if somebody else was faster; it must not have effects that count twice. A closure
//!   that itself changes this key each time is always overtaken, by itself: the call never ends.
//! * **An `update` that has lost eight races takes the key's lock**, and runs its closure under it: those who ask for it by
//!   [`get_lock`](crate::SharedMap::get_lock), of this key or of one of the 1 in 256 that share it, wait as long as the
//!   closure takes. It does not wait for their sections: where the lock is not free within 5 ms, it goes on without.
//! * **A writer that is stopped in the middle of a write** holds up writers whose keys fall into its shard (one of 8 to 64),
//!   as long as it is stopped. No reader, and no writer elsewhere. One that is killed there holds up nobody.
//! * **After a death in a write** the next writer of that shard walks all of it first: its time grows with the shard.
//! * **Buckets are never taken away.** A map that had a million entries keeps their table when it is cleared; blocks above
//!   256 KiB go back to the segment.
//! * **The number of shards is fixed when the map is made**: 8 to 64, by the cores and by
//!   [`entries`](crate::map::MapBuilder::entries). Say how many entries will come if many processes write.
//! * **A shard has at most 2^26 buckets.** Beyond that chains grow longer, and `get` slower.
//! * **No handles as keys or values**, alone (handles are no [`Codec`](crate::Codec)) or inside of `Serde` (an error when
//!   it is written). An object lives as long as a process holds it or it has a name: both are facts that stand after a kill,
//!   and few to look through. An entry that keeps an object would be a third: putting it in its place and noting what it
//!   keeps would be two stores where each change of a map is one, all maps would have to be looked through before an
//!   object goes, and maps in each other would never go. Give the object a name in a [`Manager`](crate::Manager), and store
//!   the name.
//! * **`Serde` values**: what postcard cannot do, see under Pool, is an error when it is written or read; bytes that somebody
//!   overwrote can, for recursive types, overflow the stack.
//! * **A peer can store any bytes** as a key or value. They are checked when they are decoded: [`MapError::Decode`](crate::MapError::Decode)
//!   says of which key.
//! * **A reader that is late in a large value** (above 256 KiB, removed meanwhile) may load, and drop, bytes that another
//!   object's owner writes by plain stores. In the language's sense that is a data race:
//!   [`memory_model`](super::memory_model) says why we accept it.
//!
//! # Peers
//!
//! The words that hold the structure together (locks, tables, records, tasks) are checked each time: overwritten, they give
//! an error, never undefined behaviour. What is *not* kept from a peer who takes part in the segment:
//!
//! * It can store any value in your values. Every pattern of bytes is a valid `T`, so you cannot be told.
//! * It can take a lock by the rules and keep it as long as it lives, or overwrite one, which makes that lock unusable.
//! * It can use up the memory, or free what you hold.
//! * It can end a pool: tasks then fail, and nobody hangs. Tasks and results carry a seal over a key outside of shared
//!   memory, and what was overwritten is not decoded. It catches accidents and stray writes; it is not cryptography.
//!
//! `RawSync` as a lock kind (feature `raw_sync`) is there to compare with, and for peers that
//! you trust to live: who waits for a dead holder waits for ever, its time-outs may come early or late, and overwritten
//! bytes of its lock are undefined behaviour. None of the promises holds for it.
//!
//! # Named segments
//!
//! * **The length of a named segment is a matter of trust.** A private segment's is sealed; a file with a name cannot be
//!   sealed, and whoever may write it may cut it. A touch of what is missing is then a SIGBUS. (Who may write it is its
//!   mode: 0600 unless you say otherwise, and another user's is refused unless you ask for it.)
//! * **It lives in /dev/shm**, which is memory: a reboot takes it, and in a container it may be 64 MB.
//! * **Gone with the last process**, also if that was killed, unless it persists. `exit` in the middle of `main` counts as a
//!   kill: the name goes at the next open, creation or [`clear_stale`](crate::clear_stale). So does leaving it as the last one
//!   without a free descriptor (`RLIMIT_NOFILE`).
//! * **Opened for reading only**, a process has no place in the segment and keeps nothing: an object that its last holder
//!   drops is gone under the reader, and `get` says so by a panic. Atomics' `store` and `fetch_add` panic, since they cannot
//!   return an error. Such a process is not among the [`SegmentInfo::processes`](crate::SegmentInfo::processes), and only
//!   if it may write the file can it take the name away as the last one out; else a sweep does.
//! * **A process that is stopped while it takes a name away** (between two system calls) keeps others out of that name.
//!   They get [`OpenError::Busy`](crate::OpenError::Busy) after seconds.
//! * **The name of a type is its last part**: `a::Point` and `b::Point` of one size and alignment are the same type to a
//!   directory and to a handle, and so is a `Point` whose fields were changed in another build. Give such types other
//!   names.
//! * **One version of the crate**: all programs that share a segment are built with the same layout, else
//!   [`OpenError::WrongVersion`](crate::OpenError::WrongVersion).
//! * **Crate `shared_memory` maps** what is opened to write in /dev/shm. It keeps a descriptor that we cannot reach: code that
//!   closes all descriptors, as daemons do, makes the last drop of the segment close a stranger's. Open segments after that.
//!   What is created, opened to look, or elsewhere, we map ourselves: the crate cannot map a file before it has its name,
//!   nor without the right to write.
//! * `ALLMEND_SHM_DIR` names another directory than /dev/shm: for tests. Programs meet only where it is the same.
//!
//! # Memory
//!
//! * A full machine or a full limit is [`CreateError::Full`](crate::CreateError::Full), which says [what](crate::Resource)
//!   there is not enough of, because the kernel is asked for pages before they are touched. **Not so in a memory cgroup**:
//!   there the pages are charged, and over the limit the kernel kills a process of the group. The others survive it, as any
//!   kill.
//! * A death is noticed late if the victim had much private memory: see [`crash_model`](super::crash_model).
//!
//! # Pool
//!
//! * **A task is a function item, a function pointer, or a closure that captures nothing.** What it needs goes into the
//!   argument. (A closure that captures would be bytes that point into the submitter's memory.)
//!
//!   ```compile_fail
//!   let factor = 3;
//!   let pool = allmend::Pool::new(1).unwrap();
//!   let future = pool.submit(move |n: i32| n * factor, 14); // captures: does not compile
//!   ```
//!
//!   ```
//!   # fn main() -> allmend::Result<()> {
//!   let factor = 3;
//!   let pool = allmend::Pool::new(1)?;
//!   let future = pool.submit(|(n, factor): (i32, i32)| n * factor, (14, factor));
//!   assert_eq!(future.result()?, 42);
//!   # Ok(()) }
//!   ```
//!   `cargo check` finds captures that are not `Copy`; that a captured number is refused needs a build.
//! * **The encoding (postcard) has no field names.** What needs them is an error at run time: serde's `untagged`, `tag`,
//!   `flatten`, and self-describing types such as `serde_json::Value`. `skip_serializing_if` shifts the fields behind it and
//!   can give *wrong data without an error*: do not use it in arguments and results.
//! * **Handles serialise in arguments and results of tasks only.** In other hands (a file, `serde_json`) they would be names
//!   of nothing: there it is that serializer's own error, as text, since serde has no other way.
//! * **Arguments are one value, owned.** Several are a tuple (`fn f((a, b): (A, B))`), none is `()`; `String`, not `&str`.
//! * **A task's error must be serde**: [`Error`](crate::Error), or an enum of your own, or `String`
//!   (`.map_err(|e| e.to_string())`).
//! * **`map` runs what you take.** Items are sent as results are taken, a window ahead. Leave the loop early, and the rest
//!   never starts; `for_each(drop)` takes all.
//! * **All pools of a program share the places** of its segment, those inside of its workers too.
//! * **Workers share your terminal**: standard input, output and error are inherited, `cargo test` does not capture what
//!   they print, and Ctrl-C reaches them as well: running tasks then fail with signal 2, even if your program handles it.
//!   Their environment is that of the moment of `Pool::new`.
//! * **A task that replaces its process by `exec`** is a death: that program is ended, and another worker is started.
//! * **A task that closes descriptors which it does not own** costs its worker: another takes the next task. Items of the
//!   same batch of `map`, behind it, may still fail with `DescriptorsLost`.
//! * **A stack overflow in a task** is a death by signal 11 without a message.
//! * **`main` does not run in a worker.** Statics that `main` sets, a logger that it installs, arguments that it parsed are
//!   not there. Constructors run (C++ statics, crate `ctor`).
//! * **A task runs at most once.** If its worker dies, you get an error, and decide.
//! * **What a task did to shared values before it died stays done**, up to its last commit.
//! * **With `panic = "abort"`** a panic ends the worker. It is reported as a death with its message, in the future it belongs
//!   to, and another worker is started.
//! * **Tasks that wait for one another** can meet in one batch of `map`, or wait for a worker that they keep busy. Use
//!   `submit`, and no more of them than there are workers.
//! * **A task that never ends** is not ended by a time-out: `result_timeout` gives up waiting, the task goes on. There is no
//!   cancelling yet.
//! * **After a fork** the pool belongs to the parent. In the child its futures say `Closed`.
//! * **If the program's file is replaced while it runs**, new workers still run the old one: the kernel keeps it. Code that
//!   runs inside of another program (an interpreter's extension, a program under qemu) finds that other one behind
//!   `/proc/self/exe`: name the worker program by [`worker_exe`](crate::PoolBuilder::worker_exe).
