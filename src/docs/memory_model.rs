//! Why reading bytes that another process is writing is defined here, and what a reader sees.
//!
//! # Bytes are touched through atomics only
//!
//! A plain read of a byte that somebody else writes at the same time is a data race, and a data race is undefined
//! behaviour, whatever the hardware would do. `memcpy`, `ptr::read` and volatile accesses do not change that. A Relaxed
//! atomic access does: it reads some value that was stored there.
//!
//! So every access to shared memory is an atomic access of a word (`atomic.rs`). A value of 100 bytes is read by 13
//! loads of 8 bytes into private memory. That copy may mix old and new words, and is checked or dropped; it is never
//! undefined. The same holds when the writer is hostile and stores what it likes when it likes.
//!
//! Three rules follow.
//!
//! 1. **No reference into shared bytes**, but to atomics. No `&T`, no `&[u8]`, no `&mut T`: the compiler may assume that
//!    what is behind them does not change, or is ours alone, and neither is true. A guard's `&mut T` leads to a private
//!    copy. The one exception are the elements of arrays: below.
//! 2. **The width is fixed per place.** Values, tables and records are 8-byte words; lock words and what can be slept on
//!    are 4-byte words, in a part of the object of their own. Racing atomics of different widths over the same bytes are
//!    not defined by the language. When memory is used again for another object, the claim of the block (a
//!    compare-exchange that acquires what the freeing one released) lies between.
//! 3. **Copy, then check, then use.** What is a length, an offset, a state or a code address is looked at in the private
//!    copy, so it cannot change between the check and the use.
//!
//! # What `bytemuck::Pod` gives
//!
//! [`Pod`](bytemuck::Pod) says of a type: any bytes are a valid value, there is no padding, there are no pointers, it is
//! `Copy`. So a copy that was read from shared memory may be looked at as a `T` whatever is in it, and a `T` may be stored
//! byte by byte without reading uninitialised padding. That is all that is asked of a type.
//!
//! ```
//! use bytemuck::{Pod, Zeroable};
//!
//! #[derive(Clone, Copy, Pod, Zeroable)]
//! #[repr(C)]
//! struct Point {
//!     x: f64,
//!     y: f64,
//! }
//! let point = allmend::SharedValue::new(Point { x: 0.0, y: 1.0 })?;
//! point.update(|p| p.x += 2.0)?;
//! assert_eq!(point.get().x, 2.0);
//! # Ok::<(), allmend::Error>(())
//! ```
//!
//! What is not plain bytes does not compile: a `String` is a pointer, and a pointer means nothing in another process.
//!
//! ```compile_fail,E0277
//! let name = allmend::SharedValue::new(String::from("a pointer into private memory"));
//! ```
//!
//! Nor does a guard go to another thread: which thread holds the lock is part of the record.
//!
//! ```compile_fail,E0277
//! let value = allmend::SharedValue::new(0).unwrap();
//! let guard = value.get_lock().unwrap();
//! std::thread::scope(|s| {
//!     s.spawn(move || drop(guard));
//! });
//! ```
//!
//! # Up to 8 bytes
//!
//! The value is one word. A reader loads it (Acquire), a writer stores it (Release). Nothing can be torn.
//!
//! # Above 8 bytes: two buffers and a version
//!
//! ```text
//! | version | buffer 0 | buffer 1 |        the value is buffer version % 2, the other is spare
//!
//! writer, under the lock                  reader, without it
//!   v := version           Relaxed          v := version       Acquire
//!   fence                  Release          copy buffer v % 2  Relaxed
//!   fill buffer (v+1) % 2  Relaxed          fence              Acquire
//!   version := v + 1       Release          version still v?   Relaxed
//! ```
//!
//! This is a sequence lock with two buffers. With one, a reader has to wait while a writer is in the middle, also for one
//! that is stopped or dead. With two, the buffer that counts is not being written, and the reader waits for nobody.
//!
//! *The copy is whole.* The reader copies buffer `v % 2`. Its words were stored before the version `v` (Release), which
//! the reader has loaded (Acquire): so it reads those words, or later ones. Later ones come from a writer of version
//! `v + 2` or above, the next that fills the same buffer. Say the reader saw one of them. That store lies behind the
//! writer's Release fence, and the load that saw it lies before the reader's Acquire fence: so everything before the
//! writer's fence happens before everything behind the reader's. The store of version `v + 1` is before the writer's
//! fence: its own, or another's that came with the lock. So the reader's last load gives `v + 1` or more, and the copy is
//! dropped. In other words: if the version still is `v`, no word of a later version is in the copy.
//!
//! Both fences are needed, and so is the order of the version: without the one, the other, or with a Relaxed version, the
//! model in `src/sync/tests` fails (`sync/mutation.rs` has their names).
//!
//! A reader that was overtaken 64 times in a row tries for the lock once a round. If the holder is stopped or dead, the
//! version stands still, and the plain copy succeeds. (A program that overwrites our words on purpose can move the
//! version for ever. The reader gives up after 2^20 rounds, and then returns a mixture: defined, and as good as anything
//! else that such a program could have stored.)
//!
//! Sources: H.-J. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012, for the fences,
//! and for why the last load needs one before it; crossbeam's `AtomicCell`, whose sequence lock has the same two fences
//! (and reads the data with volatile loads, which we avoid by reading words).
//!
//! # A map: looking for what others move
//!
//! A reader of a map follows words that writers change under it: the number of buckets, the links of a chain, the place of
//! an entry's block. Each such word is checked before it leads anywhere, and leads to words that have memory for ever (a
//! part that is given back stays mapped); so a stale one gives other bytes, never a fault, and all of them are read
//! by atomic loads. What remains is to know whether the bytes belong to the key. So the reader looks again, in this order.
//!
//! ```text
//! entry in a block                        entry of two words                    no entry
//!   w := slot               Acquire         t := which are there   Acquire        n := number of buckets  Acquire
//!   g := generation         Acquire         key, value             Relaxed        v := first link         Acquire
//!   lengths, key, value     Relaxed         fence                  Acquire        the chain, to its end
//!   fence                   Acquire         still t?               Relaxed        fence                   Acquire
//!   slot still w?           Acquire                                               n leads to the same bucket?
//!   generation still g?     Relaxed                                               link still v?
//! ```
//!
//! *The copy is whole.* A block is filled only while its generation is odd, and a pair while it is not there; between the
//! store that says so and the first word of the fill lies the writer's Release fence. If the reader copied a word of the
//! fill, then what lies before that fence happens before what lies behind the reader's: as for the two buffers above, the
//! generation (or the word `t`, which counts its changes) is another one, and the copy is dropped.
//!
//! *Why the slot comes first.* A writer may die after it filled a block and before any slot named it. The heir takes that
//! block back, and may use it for the same key. So "the generation stayed" says that the copy is of one life of the block,
//! and "the slot named it, looked at before that" says that it was committed in that life. Asked in the other order, the
//! slot may name the block's next life, and the copy be of the one that never counted. The model
//! `a_dead_writers_block_is_used_again_for_its_slot` finds that.
//!
//! *A miss is a miss.* Entries move, when a bucket is split or a chain made shorter. Both copy first, then change the number
//! of buckets or the version in the first bucket's link (Release), and only then clear the old place. A reader that found
//! the old place cleared and the new one not filled yet has therefore seen a store behind that change, and its second look
//! finds it. A writer that died between its copy and the change tells nobody; its heir changes the version before it clears
//! anything (`a_reader_that_stood_still`).
//!
//! *A hit behind the first bucket* asks for the version of the chain, too: its bucket may have been taken away from the
//! chain under the reader, and filled for a change that never counts (`a_hit_in_a_bucket_that_was_taken_away`).
//!
//! The models are in `src/map/models.rs`, over the code that runs; without any one of these rules one of them fails
//! (`src/map/mutation.rs` has their names). They look at two threads, a few words, and chains of two buckets.
//!
//! A reader that was overtaken 64 times in a row tries for the shard's lock once a round, as a value's does, and gives up
//! after 2^16 rounds with [`MapError::Damaged`](crate::MapError::Damaged): only a program that overwrites our words on purpose can bring it
//! there.
//!
//! **What is assumed of a late reader.** A block above 256 KiB mostly has its memory to itself, and gives it back to the
//! segment when its entry is removed or gets another value. It may then become another object, also an array, whose
//! elements safe code writes by plain stores, or words of another width. A reader that stood still in the block
//! meanwhile goes on there, by atomic loads. (So does, in any memory of a map that is gone, one for reading only:
//! nothing keeps an object for it.) What it loads is never used: the slot named another block, or none, before the
//! memory was given back, so the second look drops the copy. But an atomic load beside a plain store of the same bytes
//! is a data race in the language's sense, whatever becomes of what was loaded. We accept that one, and assume that a
//! compiler makes nothing of it: the load is compiled as a load, by code that knows of no such store, and the store by
//! code that knows of no such load. The machine orders the two sides, by the compare-exchanges that freed the memory and claimed it. To
//! be without it, each `get` would have to announce itself by a store that all writers look for, or no such memory could
//! ever go to another object. The first costs each reader more than the look itself, and the second takes the memory of
//! the largest values from everybody else.
//!
//! # Two threads, two processes
//!
//! *Two threads* of one program are bound by Rust's rules. A handle is `Sync`, so threads may share it: the lock word
//! tells processes apart, and a private record per object tells the threads of a process apart. A second lock by the
//! same thread is an error, not a deadlock.
//!
//! ```
//! let value = allmend::SharedValue::new(0)?;
//! let guard = value.get_lock()?;
//! assert!(matches!(value.clone().get_lock(), Err(allmend::LockError::Deadlock)));
//! # drop(guard);
//! # Ok::<(), allmend::Error>(())
//! ```
//!
//! *Two processes* are not mentioned in the language's memory model. We take another process for another thread: it
//! runs on the same caches, through another mapping of the same pages, and its atomic instructions are the same ones.
//! This is what every program with shared memory assumes. Two things differ. The other process may hold other code; so
//! nothing of what it wrote is trusted to have a meaning. And it may die; so nothing may depend on its going on.
//!
//! A process that stores with plain instructions is, from our side, one that stores some value at some time. Our side
//! stays defined.
//!
//! # A segment that is open for reading only
//!
//! Its mapping has no write permission, so what would write by mistake ends in a SIGSEGV and not in others' data. Reads
//! are the same atomic loads. Nothing keeps the object meanwhile, so each read asks before and after (with an Acquire fence
//! between) whether the object is still the one that was opened; memory that was once given stays mapped and readable,
//! whatever becomes of it.
//!
//! # Arrays: slices in place
//!
//! A guard of a [`SharedArray`](crate::SharedArray) gives `&mut [T]` or `&[T]` in shared memory. That is sound as long as
//! nobody writes there meanwhile, and rests on this.
//!
//! * *A slice is made in one place* (`array/hold.rs`), from a claim on exactly its elements, and ends with the claim.
//! * *Claims exclude.* Who claims announces it, fences, and then looks at all others: of two in each other's way, one sees
//!   the other. The release of a claim and the look that finds it gone are ordered, so what was written before is seen. The
//!   models in `src/sync/tests` check it, and fail without the fence and without the release.
//! * *Between threads of one process* a private record decides, which no other process can write. Whatever is in the shared
//!   words, safe code of one program never gets a `&mut [T]` beside another slice of the same elements.
//! * *After a freeze* no claim to write is granted, so slices of a [`FrozenArray`](crate::FrozenArray) need none.
//! * *In a forked child* a guard of the parent gives no slice: its use is a panic.
//! * *Elements are [`Pod`](bytemuck::Pod)*: what a dead writer left half done is a value all the same.
//!
//! **What is trusted:** that the other processes that map the segment write elements only under claims, and leave the
//! claims' words alone. All programs with this crate and without `unsafe` of their own do. One that stores there
//! on purpose, or by a stray pointer, changes elements under your slice, which the language does not define. Where that
//! cannot be trusted, use [`SharedArray::unlocked`](crate::SharedArray::unlocked), whose elements are atomics, or values.
//!
//! # Threads and the same lock
//!
//! Everything that was done before an unlock, in any memory that both sides can see, happens before what is done after
//! the next lock. After a takeover that holds for what the dead owner did, too: see the assumptions in
//! [`crash_model`](super::crash_model).
