//! What is there after a process was killed, point by point, and who repairs it.
//!
//! A kill (SIGKILL, a crash, `exit`, the OOM killer) comes between two instructions. Others see what was stored before
//! it and nothing after it. So the question at each point is: is what is there whole, and if not, who makes it whole?
//!
//! # A value
//!
//! | killed | what others see | who repairs |
//! |---|---|---|
//! | in `get` | nothing: a reader writes nothing | nobody |
//! | before it has the lock | at most a mark "somebody may sleep" | the next unlock wakes for nothing, once |
//! | asleep, waiting for the lock | nothing | the kernel takes it off the queue |
//! | holding the guard | the old value, and a lock that names a dead owner | the next who wants the lock takes it over |
//! | in the commit, before the one store | the old value; the spare buffer holds anything | as above; the next commit overwrites the spare buffer |
//! | after that store, before the unlock | the new value | as above |
//! | between unlock and wake | a free lock, somebody asleep | the sleeper: its sleep is bounded, it looks again |
//! | woken, before it has the lock | as above | another sleeper, at its bound or at the next unlock |
//! | in a takeover | a lock that names the dead owner, or the dead taker | the next who asks |
//!
//! There is no half update, so a value is never poisoned. A panic in the holder is treated like a kill: the guard drops
//! without a commit.
//!
//! ```
//! let value = allmend::SharedValue::new([0u64; 4])?;
//! let handle = value.clone();
//! let thread = std::thread::spawn(move || {
//!     let mut guard = handle.get_lock().unwrap();
//!     guard[0] = 1;
//!     panic!("half done");
//! });
//! assert!(thread.join().is_err());
//! assert_eq!(value.get(), [0; 4]); // nothing happened
//! value.get_lock()?[0] = 2; //        and the lock is free
//! # Ok::<(), allmend::Error>(())
//! ```
//!
//! [`ValueGuard::inherited`](crate::ValueGuard::inherited) tells that the last holder died. The value is whole; this is
//! for programs whose value describes something outside.
//!
//! # An atomic
//!
//! Each operation is one store, or one compare-exchange that succeeds. There is nothing between before and after.
//!
//! # A map
//!
//! Each change of a map counts from one store on, so there is an entry as it was, or as it will be, and never half of one.
//! What a dead writer leaves half done is known from the table alone; there is no log.
//!
//! | killed | what others see | who repairs |
//! |---|---|---|
//! | in `get`, `iter`, `len` | nothing: a reader writes nothing | nobody |
//! | in a write, before its store | the old entry, or none; a filled block that no slot names, or an overflow bucket that no chain has | the next who locks that shard |
//! | after the store, before the rest | the new entry; the old block is not free yet, the length is off by one | as above |
//! | while a bucket is split, before the number of buckets changes | all entries where they were; copies in a bucket that nobody looks at | as above; the next split wipes that bucket first |
//! | after that | all entries in their new places; the old ones are passed by, since nobody looks for them there | as above |
//! | while an entry moves to the front of its chain | the entry, in one place or in both with the same value | as above |
//! | after a part of memory was claimed, before the map's table names it | a block of a dead owner | who clears the slot |
//! | after that | a part that the map has, and uses next | nobody needs to |
//! | in `clear`, `retain`, `extend` | some entries are done, the others are not; each is whole | as above |
//! | in the recovery itself | entries as before; the lock keeps its mark | the next heir begins again |
//! | with a [`KeyGuard`](crate::KeyGuard) | the entries as they were written; the next is told ([`Inherited`](crate::LockError::Inherited)) | the next who wants that lock takes it over |
//!
//! **The next who locks that shard** walks its chains and its blocks once, before it does what it came for. That is the
//! only thing that waits, and the other shards do not. Readers neither wait nor notice: the walk takes away only what none
//! of them can find, and each chain's version changes first, so that one who stood still in the middle looks again.
//!
//! # Creating an object
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | before its claim | nothing | nobody |
//! | extent claimed | an extent that names a dead owner | who clears the slot |
//! | block claimed, record or body half written | a block that is PENDING for a dead owner | who clears the slot |
//! | after LIVE, before anybody else has the handle | an object that only a dead process holds | who clears the slot |
//!
//! # Dropping the last handle
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | before its holder bit is cleared | an object held by a dead process | who clears the slot |
//! | after it | an object that nobody holds | who clears the slot: it looks at every object |
//! | while it looks whether anybody else holds it | a block that is DYING for a dead owner | who clears the slot looks again |
//! | while several extents are given back | a block that is PENDING for a dead owner | who clears the slot: each step may be repeated |
//!
//! # Parts of an object
//!
//! Maps grow by further blocks, and an `update` of an array keeps in one what it may have to undo. The object's table names
//! them, one word each; they go with it.
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | in an attach, before the table names the part | a block that is PENDING for a dead owner, which nobody names | who clears the slot frees it |
//! | after that | a part that is whole and named, but still PENDING | who clears the slot makes it a part; who detaches it first takes it |
//! | in a detach, before the table's word is 0 | the same: it is still there | as above |
//! | after that | a PENDING block which nobody names | who clears the slot frees it |
//! | as the object goes | parts, some of them freed, of an object that is PENDING for a dead owner | who clears the slot frees them, then the object: each step may be repeated |
//! | in one of these repairs | as before it | who clears the slots next |
//!
//! So who clears up asks whether an object names a block before it frees it: without that question a part would be free
//! and named. Nobody detaches what is PENDING for a living process.
//!
//! # A handle on its way
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | the worker, before it decoded the argument | nothing: the submitter keeps the objects | |
//! | the worker, after it decoded | a holder bit of a dead process | who clears the slot |
//! | the worker, while it makes a pin for a result | a pin row claimed by a dead owner | who clears the slot |
//! | the worker, after the pin, before the result counts | a pin for its parent | the parent, when it settles the item |
//! | the parent, with results undelivered | pins whose guardian is dead | who clears the slot |
//!
//! The same in each segment whose handles travel. A worker joins such a segment when it meets the first handle, and leaves
//! it when its parent has left.
//!
//! # Names
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | before its claim is listed | a block of a dead owner | who clears the slot |
//! | with the claim listed, before the name counts | a claim of a dead process, and perhaps an object without a name | who wants the same name takes the claim away; who clears the slot takes both |
//! | after the name counts | the name, and its object | nobody needs to |
//! | after a name was taken away | an object without a name, an entry that means nothing | who clears the slot; who changes that list, or `verify` |
//!
//! A process that is *stopped* with a claim delays who wants to create that very name by half a second; then they go on
//! without it. Look-up waits for nobody.
//!
//! # Taking part in a segment
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | before its generation is written | a file lock, which the kernel drops | |
//! | after it | a generation that was never used | nobody needs to |
//! | later | marks of a dead process | who clears the slot |
//!
//! **Who clears the slot** of a dead process: the process that gets the slot next, who finds no room in the segment,
//! [`verify`](crate::verify), and the supervisor of a pool right after it reaped a worker. The right to do so is the file
//! lock on the slot's byte, so two repairs never meet, and a repair that dies is begun again.
//!
//! # A named segment
//!
//! | killed | what is left | who repairs |
//! |---|---|---|
//! | while it makes one, before it gives it the name | a file without a name, which the kernel takes back | nobody |
//! | after that | a *stale* segment: nobody is attached to it | whoever meets it next |
//! | in an open, before it is attached | nothing: its locks are the kernel's | nobody |
//! | attached | marks of a dead process, as below; if it was the last one, a stale segment | who clears the slot; whoever meets it next |
//! | as the last one out, or in a sweep, before the name is gone | a stale segment | whoever meets it next |
//! | in a remove, before the name is gone | as if it had not begun | nobody |
//!
//! **Whoever meets it**: an open of that name (which then finds nothing), the creation of any name, and
//! [`clear_stale`](crate::clear_stale). So whether the last process left or was killed makes no difference: a segment that
//! does not persist is gone with it. One that persists stays, with all that was committed.
//!
//! There is no moment at which an opener sees half of a segment: the file gets its name, by one call that replaces nothing,
//! when it is whole. Nor one at which two segments are alive under one name: who opens holds a shared lock on the file, and
//! looks after that whether the name still leads there; who takes the name away holds that lock exclusively, so that
//! nobody is attached. The proof is in `src/segment/named.rs`.
//!
//! **A forked child** takes part at its first use, as it does in a private segment. If all who took part are gone by
//! then and the name was taken, that is an error ([`CreateError::Removed`](crate::CreateError::Removed),
//! [`LockError::Gone`](crate::LockError::Gone); `get` panics): it would be alone with bytes that nobody can find.
//!
//! # A task
//!
//! | the worker is killed | what is left | who repairs: the supervisor |
//! |---|---|---|
//! | before the claim | nothing, or its name among the sleepers | clears the name, rings everybody |
//! | after the claim, before the ring moved on | an entry whose slot is taken | the next look passes it |
//! | while item `i` runs | RUNNING with its number, progress `i` | item `i` fails with [`Died`](crate::TaskError::Died), the items behind it are queued again |
//! | after the result of item `i`, before its progress store | as above | as above: the item has no result. **What it did to shared values stays done** |
//! | after the last progress store, before DONE | RUNNING, all items committed | DONE |
//! | after DONE, before the wake | DONE, somebody asleep | wakes |
//!
//! A worker that becomes another program (`exec`) has died as a worker: the kernel lets go of its owner id, the supervisor
//! asks for that, and ends the program. A worker that had run something, or had been ready for a second, is replaced at
//! once, any other one later each time (10 ms to 1 s). When for two seconds no worker becomes ready, and none is, queued
//! tasks fail with what keeps workers from being ready: a limit ([`Os`](crate::PoolError::Os),
//! [`Create`](crate::PoolError::Create)), or how the last one died ([`WorkersDie`](crate::PoolFault::WorkersDie)). New
//! tasks fail with it at once, until a worker is ready. The same happens when for ten seconds each worker dies before it
//! takes one of the tasks that wait.
//!
//! A task runs at most once. An item that died is reported, never run again by itself: whether that is right, only its
//! author knows.
//!
//! The parent's death ends the pool. Workers hear of it in three ways: a signal that the kernel sends, their parent's id,
//! the end of their socket. Then nobody holds the segment, and the kernel frees its memory.
//!
//! # How we know who is dead
//!
//! The kernel says so. A process holds a write lock on one byte of the segment's file, and the byte's number is its owner
//! id. Not a pid, which another process may have next; not a time stamp, which a stopped process misses; not a count,
//! which nobody corrects. The lock is an *open-file-description* (OFD) lock. This is what experiments taught about it:
//!
//! 1. **A description of our own.** A description that came by inheritance or through a socket is shared with its sender,
//!    and so is its lock. A killed worker would look alive as long as its parent lives. So each process opens the file
//!    again, through `/proc/self/fd`.
//! 2. **An observer.** Asked through the description that holds the lock, the kernel answers "free". So there is a second
//!    description, which holds nothing and only asks.
//! 3. **The lock is kept by a page, not by a descriptor.** The description is mapped (one page, no access), and its
//!    descriptor is closed at once. So code that closes all descriptors, as daemons do, cannot make a living process
//!    look dead.
//! 4. **The page is not inherited** (`MADV_DONTFORK`). So a forked child, also one made by a bare `clone`, cannot make its
//!    dead parent look alive.
//! 5. **The owner id lies on a page that a fork wipes** (`MADV_WIPEONFORK`). A child finds 0 there, and takes a place of
//!    its own before it does anything. A guard that it inherited does nothing.
//! 6. **Before a death is believed**, the observer must still lead to the segment's file, and must see our own lock.
//!    Otherwise nothing is taken from anybody, and the error is
//!    [`DescriptorsLost`](crate::LockError::DescriptorsLost).
//!
//! A stopped process (SIGSTOP, a debugger) is alive: nothing is taken from it. Who waits for its lock waits until the
//! time-out; readers go on.
//!
//! # Arrays
//!
//! Claims are entries that name their owner (`sync/claims/`); nothing is counted.
//!
//! | killed | what others find | who repairs |
//! |---|---|---|
//! | announced, not yet granted, or reading | no claim | the next who looks there, once it has asked |
//! | with an `ArrayGuard` | the elements as they are, and a mark with range and process | the next to lock there is told, mends, accepts |
//! | in `update`, before its undo record counts | the old elements | nothing to do |
//! | in `update`, after that | old and new mixed, behind a mark that nobody passes | the next to claim any of it: claims all of it, puts the old ones back |
//! | in that roll-back | as before it | the next, from the start |
//! | with a `Chunk` | the chunk is to do again, and says so | who claims it next |
//! | in `freeze` | frozen, or not | nothing to do |
//!
//! # Assumptions
//!
//! 1. The kernel drops the lock of a dead process only after its last thread has stopped writing.
//! 2. What the dead process wrote is seen by whoever is told "not locked": the kernel's own locks order the two. In the
//!    models this is a Release store by the dying thread and an Acquire load by the asker, and the model with a Relaxed
//!    one fails.
//! 3. That moment is late for a process with much *private* memory, which is torn down first: about 64 ms per GiB where we
//!    measured. A core dump is written first, too. Late is safe: others wait longer, nothing is taken from the living.
//! 4. Memory that the kernel gave to a file (`fallocate`) stays there. In a memory cgroup it may be charged later, and
//!    then a full cgroup is an OOM kill, not an error: see [`limitations`](super::limitations).
//! 5. An owner id is not met again. It comes back after 2^20 - 1 attaches to one slot, and slots are given out in turn.
//! 6. A power failure or a kernel crash takes the memory with it. There is nothing to recover.
