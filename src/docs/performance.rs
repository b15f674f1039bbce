//! How fast it is, and how to find out on your machine.
//!
//! ```text
//! cargo run --release -p allmend-benches
//! cargo run --release -p allmend-benches -- --quick                    few and short runs: it works; numbers are rough
//! cargo run --release -p allmend-benches -- --only uncontended,pool    some tables: uncontended read contended map segments arrays pool python
//! cargo run --release -p allmend-benches -- --repetitions 15           more of them
//! ```
//!
//! One run measures this crate and its peers side by side: raw_sync, pthread mutexes (plain and robust),
//! `std::sync::Mutex`, parking_lot, a bare atomic, procspawn, bare `posix_spawn` and futex; and Python, if `python3` is
//! there. All contestants of a table run once within each repetition, in an order that rotates. What is printed is the
//! median over the repetitions, with the least and the greatest; a ratio is taken within each repetition first.
//!
//! It prints the machine, the date and the command, the tables in markdown, and the goals of the project, each met or not
//! met. Slow is not a failure of the run; a wrong count or a hung process is.
//!
//! Numbers of two runs are not comparable, and numbers of two machines even less. Compare rows of one table.
//!
//! # What costs what
//!
//! | operation | what it does |
//! |---|---|
//! | `get`, up to 8 bytes | one load, and one look at our own id |
//! | `get`, above | a load, the copy, a fence, a load; again if a writer was faster |
//! | `get_lock` to drop, nobody else there | two atomic read-modify-writes, as any mutex, and two copies of the value |
//! | `get_lock`, somebody else there | a spin of some microseconds, one question to the kernel, then sleeps of 1 to 64 ms that a wake ends |
//! | taking over from a dead owner | one question to the kernel; its cost grows with the number of attached processes |
//! | `SharedAtomic` | one instruction for integers; a loop of compare-exchange for floats, `min`, `max` |
//! | `SharedValue::new` | a search for a free block, then its record and bytes; the first one of a process also makes the segment |
//! | `SharedArray`: `get_lock` or `read` to drop, `get`, `set` | an entry announced, a look at the entries of all processes that have claimed, the entry given back. Many times the lock of a value: below |
//! | `Claims::claim` | that, and a look at the words of the chunks before it, so a thousand chunks cost more each than ten |
//! | a look into a `FrozenArray` | a look at our own id, and plain loads |
//! | `SharedMap::get`, key and value of at most 8 bytes each | a hash, and one cache line of the table |
//! | `SharedMap::get`, larger | a hash, a line of the table, and the entry's block; the value is copied once, and decoded |
//! | `SharedMap::insert`, `update`, `remove` | two atomic read-modify-writes for the shard's lock, the look, one store; `update` looks first, and tries again if it lost |
//! | `SharedMap::iter` | each chain is copied: two small allocations an entry |
//! | open of a named segment | about twenty system calls: two descriptions, owner and mode, two locks for a place, one that keeps the name, the mapping, its anchor. 4.3 times crate shared_memory's own open, which is three calls and makes sure of nothing (19.4 and 4.6 us, to look 15.4; 2026-11-25, 2 cores of an AMD EPYC, `--only segments`, disturbed by other work; the goal is 3 and not met). Two thirds of it are the three opens, the two mappings and the first touch. A place that somebody had before is searched for what that one left: so it grows with the memory in use |
//! | creating a named segment | that, memory for its tables, and a look at all names for stale ones |
//! | `Pool::new` | one `posix_spawn` per worker, at the same time, whatever the size of this process |
//! | a task, submitted alone | encode, one slot, one wake; decode |
//! | a task in `map` | its share of a batch: batches grow until they take about 200 us |
//!
//! # A table, and the rows that we lose
//!
//! 2 cores of an Intel Xeon (model 143), Linux 6.18, rustc 1.95, 2026-11-22, `cargo run --release -p allmend-benches`, medians of
//! 7 repetitions. Other programs used 0.8 of the two cores while it ran: the ratios say more than the times, and the
//! contended tables are left out because of it.
//!
//! | | ns | / `std::sync::Mutex` |
//! |---|---|---|
//! | bare `fetch_add` | 9.07 | 0.43 |
//! | **`SharedAtomic::fetch_add`** | 10.6 | 0.49 |
//! | `std::sync::Mutex` (threads only) | 20.5 | 1.00 |
//! | parking_lot (threads only) | 21.8 | 1.04 |
//! | **`SharedValue`: lock, add, unlock** | 24.1 | 1.10 |
//! | pthread mutex, process-shared | 29.0 | 1.33 |
//! | pthread mutex, process-shared and robust | 33.9 | 1.67 |
//! | raw_sync | 44.5 | 2.16 |
//!
//! | | allmend | peer | ratio |
//! |---|---|---|---|
//! | `SharedValue::get` of 8 bytes, ns above a plain load | 0.90 | | |
//! | start of 2 workers, over two bare `posix_spawn`s | | | 1.68 |
//! | round trip of a task, both sides awake, over a bare futex ping-pong | | | 3.4 |
//! | tasks a second, not batched, over procspawn | | | 16 |
//! | *`map` with batches by itself, over procspawn with 1000 items a task by hand* | 4.0 M/s | 17 M/s | *0.25* |
//!
//! The last row is lost: `map` accounts for each item by itself, so that a death fails one item and not a batch.
//!
//! # Arrays
//!
//! **Rough figures**: 2 cores of an AMD EPYC (model 17), Linux 6.18, rustc 1.95, 2026-11-25,
//! `allmend-benches --quick --only arrays`, 2 repetitions (the windows: 1), while others used 1.9 of the two cores. Only what
//! is far apart says something; goals within some percent cannot be judged by it, nor how readers scale.
//!
//! | | ns | / `SharedValue` |
//! |---|---|---|
//! | `SharedValue`: lock, add, unlock | 5.2 | 1.00 |
//! | *`SharedArray::get_lock` of one element, add, drop* | 77 | *15* |
//! | *`SharedArray::read` of one element, drop* | 79 | *15* |
//! | *`Claims`: claim a chunk, add, give it back* | 135 | *26* |
//! | *`Claims`: claim and finish each of 1,000 chunks of one element* | 2447 | *468* |
//!
//! | 95 windows of 500,000 elements, each with a sleep of 10 ms, 2 workers | ms | / the least that is possible |
//! |---|---|---|
//! | `Pool::map`, windows of a shared array | 1033 | 1.54 |
//! | the same, means written into a shared array | 729 | 1.09 |
//! | joblib 1.6.0, numpy 2.4.6, memory-mapped | 1208 | 1.80 |
//!
//! The first table is lost: the goal is twice the lock of a value.
//!
//! # The map's table, and the rows that we lose
//!
//! 2 cores of an AMD EPYC (model 17), Linux 6.18, rustc 1.95, 2026-11-25, `allmend-benches --only map --repetitions 2`: a
//! million entries, medians of 2 repetitions, 91 s in all. **Other programs used 0.98 of the two cores meanwhile**, and the
//! table called itself disturbed: it says where we stand, roughly, and no goal is proved or disproved by it. Nanoseconds per
//! operation, as each of 1 / 2 processes (or threads) sees it.
//!
//! | u64 -> u64 | insert into empty | get, uniform | 95/5, uniform | 50/50, uniform | get, zipf |
//! |---|---|---|---|---|---|
//! | **`SharedMap`**, processes | 384 / 811 | 132 / 227 | 166 / 224 | 174 / 316 | 92.8 / 156 |
//! | hashbrown, each process its own | 78.0 / 165 | 45.7 / 115 | 40.7 / 110 | 41.5 / 110 | 31.2 / 107 |
//! | dashmap, threads | 108 / 196 | 80.3 / 185 | 91.1 / 213 | 94.1 / 350 | 69.3 / 189 |
//! | papaya, threads | 356 / 768 | 146 / 214 | 169 / 312 | 939 / 2276 | 91.6 / 225 |
//! | LMDB, a transaction each | 1250 / 2929 | 1073 / 1901 | 1351 / 2584 | 3758 / 6642 | 784 / 1454 |
//! | Redis, 64 in flight | 1817 / 3572 | 1710 / 3481 | 1847 / 3570 | 1969 / 4026 | 1444 / 2773 |
//! | Boost.Interprocess | 766 / 1573 | 368 / 788 | 347 / 745 | 352 / 800 | 222 / 481 |
//! | `Manager().dict`, 20 000 entries | 25119 / 52912 | 26197 / 51847 | 26124 / 54673 | 24525 / 52840 | 24803 / 54065 |
//!
//! | 16 bytes -> 100 bytes | insert into empty | get, uniform | 95/5, uniform | 50/50, uniform | get, zipf |
//! |---|---|---|---|---|---|
//! | **`SharedMap`**, processes | 845 / 2306 | 534 / 1292 | 519 / 1582 | 653 / 1555 | 319 / 902 |
//! | hashbrown, each process its own | 508 / 844 | 171 / 291 | 145 / 266 | 137 / 232 | 156 / 216 |
//! | dashmap, threads | 347 / 689 | 184 / 553 | 180 / 504 | 219 / 723 | 180 / 370 |
//! | papaya, threads | 691 / 1202 | 301 / 527 | 339 / 590 | 1081 / 2377 | 170 / 296 |
//! | LMDB, a transaction each | 1847 / 4000 | 1271 / 2227 | 1677 / 2981 | 4193 / 8021 | 835 / 1648 |
//! | Redis, 64 in flight | 1730 / 3270 | 1993 / 3729 | 2182 / 3659 | 2113 / 3509 | 1522 / 2576 |
//! | Boost.Interprocess | 902 / 2205 | 510 / 1188 | 519 / 1117 | 679 / 1112 | 387 / 749 |
//! | `Manager().dict`, 20 000 entries | 26578 / 54854 | 35299 / 52421 | 66196 / 53460 | 29954 / 54866 | 28916 / 52323 |
//!
//! *Won*: each of these rows against LMDB, Redis and `Manager().dict`, and the u64 rows against Boost.Interprocess. Memory:
//! 46.1 bytes per entry of u64 -> u64 (goal 50).
//!
//! *Lost*: `get` of u64 takes 2.86 times hashbrown's (goal 2), insert into empty 4.93 times (goal 3), `get` of strings 3.12
//! times (goal 1.75). With u64 we are behind dashmap in each row of one process, and with two in insert and in uniform `get`
//! and 95/5; behind papaya in insert, and in uniform `get` with two. With strings we are behind dashmap everywhere, behind
//! papaya but for the 50/50 rows, and, with two processes, behind Boost.Interprocess.
//!
//! *Why*: a string's `get` waits for the bucket before it knows the block, which takes 160 bytes, three cache lines or four;
//! the value is copied twice, since what is decoded must stand still. An insert was profiled after this table was made: it
//! had 1400 instructions, and one load, the first of its bucket, took 44 % of its time, since no other insert was under way
//! meanwhile; a split read the block of each entry that it moved. Now what most writes come to is short, buckets are split
//! eight at a time (their waits overlap), and a slot's tag says where its entry goes. In a loop over a million fresh keys,
//! the two versions one after the other on the busy machine, nanoseconds of processor time: u64 405 before and 200 after,
//! overwrite of u64 290 and 125, strings 680 and 300 to 375.
