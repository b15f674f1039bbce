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
//! | `SharedArray`: `get_lock` or `read` to drop, `get`, `set` | an entry announced, a look at the entries of all processes that have claimed (at one line, while all read), the entry given back. Four to seven locks of a value, with nobody else there: below |
//! | `Claims::claim` | that, and a look at the chunk's word |
//! | a look into a `FrozenArray` | a look at our own id, and plain loads |
//! | `SharedMap::get`, key and value of at most 8 bytes each | a hash, and one cache line of the table |
//! | `SharedMap::get`, larger | a hash, a line of the table, and the entry's block; the value is copied, and decoded |
//! | `SharedMap::insert`, `update`, `remove` | two atomic read-modify-writes for the shard's lock, the look, one store; `update` looks first, and tries again if it lost |
//! | `SharedMap::iter` | each chain is copied: two small allocations an entry |
//! | open of a named segment | seventeen system calls: two descriptions, owner and mode, two locks for a place, one that keeps the name, the mapping, its anchor. 4.2 times crate shared_memory's own open, which is three calls and makes sure of nothing (19.5 and 4.6 us, to look 15.7; 2026-11-25, 2 cores of an AMD EPYC, `--only segments`; the goal is 3 and not met). Two thirds of it are the three opens, the two mappings and the first touch. A place that somebody had before is searched for what that one left: so it grows with the memory in use |
//! | creating a named segment | that, memory for its tables, and a look at all names for stale ones |
//! | `Pool::new` | one `posix_spawn` per worker, at the same time, whatever the size of this process |
//! | a task, submitted alone | encode, one slot, one wake; decode |
//! | a task in `map` | its share of a batch: batches grow until they take about 200 us |
//!
//! # A table, and the rows that we lose
//!
//! 2 cores of an AMD EPYC (model 17), Linux 6.18, rustc 1.95, 2026-11-25, `allmend-benches --only uncontended,read,contended`
//! and `--only pool`, medians of 7 repetitions; other programs used 0.00 cores meanwhile.
//!
//! | | ns | / `std::sync::Mutex` |
//! |---|---|---|
//! | bare `fetch_add` | 1.97 | 0.45 |
//! | **`SharedAtomic::fetch_add`** | 1.85 | 0.42 |
//! | `std::sync::Mutex` (threads only) | 4.39 | 1.00 |
//! | **`SharedValue`: lock, add, unlock** | 4.72 | 1.07 |
//! | parking_lot (threads only) | 5.17 | 1.18 |
//! | pthread mutex, process-shared | 5.17 | 1.18 |
//! | pthread mutex, process-shared and robust | 7.94 | 1.81 |
//! | raw_sync | 18.5 | 4.22 |
//!
//! Contended, millions of sections a second of 2 processes on 2 cores; columns: ns of work inside / outside the section.
//!
//! | | 0/0 | 0/100 | 100/0 | 100/100 | 0/1000 | 1000/0 | 1000/1000 |
//! |---|---|---|---|---|---|---|---|
//! | **`SharedValue`** | 87.0 | 13.3 | 7.73 | 6.33 | 1.98 | 0.90 | 0.75 |
//! | raw_sync | 16.5 | 5.61 | 4.57 | 3.25 | 1.92 | 0.67 | 0.42 |
//! | pthread mutex | 51.3 | 8.98 | 4.31 | 3.25 | 1.97 | 0.67 | 0.42 |
//! | pthread mutex, robust | 34.1 | 11.1 | 4.29 | 3.35 | 1.98 | 0.66 | 0.42 |
//! | `std::sync::Mutex` (threads) | 67.8 | 14.0 | 7.17 | 7.80 | 1.98 | 0.69 | 0.81 |
//! | parking_lot (threads) | 89.2 | 13.8 | 7.39 | 6.66 | 1.95 | 0.77 | 0.72 |
//!
//! 43 of the 46 goals of these tables are met. Not met: 2 processes, 1000/0, 1.34 times raw_sync's throughput, and 4
//! processes, 100/100, 1.38 times (goal 1.4); 4 processes, 0/1000, 0.99 times pthread's (goal 1; the work bounds it).
//!
//! | | allmend | peer | ratio |
//! |---|---|---|---|
//! | `SharedValue::get` of 8 bytes, ns above a plain load | 0.35 | | |
//! | start of 2 workers, over two bare `posix_spawn`s | 1.37 ms | 1.06 ms | 1.30 |
//! | *round trip of a task, both sides awake, over a bare futex ping-pong* | 0.42 us | 0.11 us | *3.8* |
//! | tasks a second, not batched, over procspawn | 1.00 M/s | 27 k/s | 36 |
//! | *`map` with batches by itself, over procspawn with 1000 items a task by hand* | 9.7 M/s | 19.3 M/s | *0.55* |
//!
//! Two rows are lost. The round trip (goal 2.5): the two transfers between the cores are about a third of it, the rest is
//! done on both sides: seal, encode, look at who lives. `map` accounts for each item by itself, so that a death fails one
//! item and not a batch.
//!
//! # Arrays
//!
//! The same machine and day, `allmend-benches --only arrays`, 7 repetitions, others used 0.01 cores.
//!
//! | | ns | / `SharedValue` |
//! |---|---|---|
//! | `SharedValue`: lock, add, unlock | 4.65 | 1.00 |
//! | *`SharedArray::get_lock` of one element, add, drop* | 24.0 | *5.2* |
//! | *`SharedArray::read` of one element, drop* | 30.6 | *6.5* |
//! | *`Claims`: claim a chunk, add, give it back* | 18.4 | *4.0* |
//! | *`Claims`: claim and finish each of 1,000 chunks of one element* | 33.1 | *7.1* |
//! | *`SharedArray::set`* | 16.4 | *3.5* |
//!
//! That table is lost: the goal is twice the lock of a value.
//!
//! | reads of the same elements, million a second | 1 process | 2 processes together | times |
//! |---|---|---|---|
//! | 1 element | 41.4 | 91.6 | 2.2 |
//! | 1,000 elements | 2.40 | 4.73 | 2.0 |
//! | 100,000 elements | 0.02 | 0.05 | 2.0 |
//!
//! While all read, each looks at one line that nobody writes. Who claims to write looks at the entries of all others, so two
//! processes that write single elements of one array in a tight loop wait for each other's cache lines all the time: claim
//! more at once.
//!
//! | the sum of 10^7 elements | `Vec`, ms | `FrozenArray`, ms | ratio |
//! |---|---|---|---|
//! | f64, one after the other | 8.29 | 8.31 | 1.00 |
//! | u64, as fast as memory gives them | 3.83 | 3.82 | 1.00 |
//!
//! | 95 windows of 500,000 elements, each with a sleep of 10 ms, 2 workers | ms | / the least that is possible |
//! |---|---|---|
//! | `Pool::map`, windows of a shared array | 510 | 1.02 |
//! | the same, means written into a shared array | 510 | 1.02 |
//!
//! joblib with numpy was not there.
//!
//! # The map's table, and the rows that we lose
//!
//! The same machine and day (14:22 UTC), `allmend-benches --only map --repetitions 3`: a million entries, medians of 3
//! repetitions, 137 s in all, others used 0.00 cores. Nanoseconds per operation, as each of 1 / 2 processes (or threads)
//! sees it. The machine itself was slower or faster by a third from one repetition to the next, so ratios are given with
//! their range: `get` of u64 takes 1.85 (1.68 to 2.41) times hashbrown's, `get` of strings 2.65 (1.67 to 3.14) times.
//!
//! | u64 -> u64 | insert into empty | get, uniform | 95/5, uniform | 50/50, uniform | get, zipf |
//! |---|---|---|---|---|---|
//! | **`SharedMap`**, processes | 223 / 422 | 98.4 / 100 | 107 / 105 | 127 / 154 | 58.4 / 59.6 |
//! | hashbrown, each process its own | 86.4 / 91.1 | 48.6 / 56.4 | 50.5 / 58.5 | 50.7 / 61.4 | 37.9 / 48.5 |
//! | dashmap, threads | 86.3 / 191 | 64.6 / 93.2 | 72.2 / 108 | 80.5 / 147 | 56.8 / 84.7 |
//! | papaya, threads | 354 / 337 | 143 / 148 | 173 / 235 | 1016 / 1946 | 84.5 / 96.6 |
//! | LMDB, a transaction each | 1162 / 3786 | 738 / 914 | 1081 / 1707 | 2704 / 9031 | 572 / 679 |
//! | Redis, 64 in flight | 2569 / 3232 | 2405 / 2964 | 2458 / 3309 | 2526 / 3019 | 1940 / 2243 |
//! | Boost.Interprocess | 805 / 2647 | 344 / 1857 | 433 / 1782 | 421 / 1496 | 232 / 1132 |
//! | `Manager().dict`, 20 000 entries | 43913 / 36325 | 45153 / 35443 | 44965 / 38528 | 45775 / 38757 | 43858 / 36923 |
//!
//! | 16 bytes -> 100 bytes | insert into empty | get, uniform | 95/5, uniform | 50/50, uniform | get, zipf |
//! |---|---|---|---|---|---|
//! | **`SharedMap`**, processes | 408 / 750 | 299 / 332 | 360 / 367 | 571 / 635 | 203 / 219 |
//! | hashbrown, each process its own | 381 / 438 | 136 / 144 | 156 / 153 | 137 / 134 | 121 / 168 |
//! | dashmap, threads | 293 / 694 | 190 / 225 | 224 / 262 | 221 / 328 | 155 / 170 |
//! | papaya, threads | 590 / 571 | 264 / 242 | 304 / 319 | 1041 / 1726 | 138 / 137 |
//! | LMDB, a transaction each | 1682 / 5436 | 1236 / 1336 | 1638 / 1994 | 4017 / 12001 | 776 / 862 |
//! | Redis, 64 in flight | 2432 / 3096 | 2667 / 4450 | 2707 / 5091 | 2765 / 6172 | 2171 / 2959 |
//! | Boost.Interprocess | 803 / 3496 | 445 / 2600 | 406 / 2564 | 431 / 2679 | 318 / 1802 |
//! | `Manager().dict`, 20 000 entries | 42430 / 37028 | 47052 / 33465 | 53141 / 33559 | 44271 / 34213 | 42638 / 37983 |
//!
//! *Won*: each of these rows against LMDB, Redis and `Manager().dict`; against Boost.Interprocess each but 50/50 of strings in
//! one process; with u64 against papaya each but insert with two processes, and against dashmap, with two, 95/5 (just so)
//! and `get` of zipf; `get` of u64 at 1.85 times hashbrown's (goal 2), insert of u64 at 2.6 times (goal 3). Memory: 46.1 bytes
//! per entry of u64 -> u64 (goal 50). A second process that reads loses no more than a second hashbrown beside the first; with
//! strings of uniform keys that is a draw (1.01).
//!
//! *Lost*: `get` of strings takes 2.65 times hashbrown's (goal 1.75). Else we are behind dashmap everywhere, and with strings
//! behind papaya in `get`, in 95/5 of uniform keys, and in insert with two. The goals of 8 times LMDB's `get` and 5 times its
//! insert are missed (at worst 3.6 and 4.0, both with strings), and with strings those of 5 times Redis and 100 times
//! `Manager().dict` (insert with two processes: 4.5 and 52). With two processes `Manager().dict` was faster in this run than
//! with one, so its goals of 400 times in `get` of u64 and 100 times in insert are missed, too (330 and 86). Ratios are medians
//! of the repetitions' own.
//!
//! *Why*: a `get` of u64 that is no part of a loop of its caller costs more, since no other waits beside it; about one in ten
//! goes on to an overflow bucket. A string's `get` waits for the bucket before it knows the block, which takes 160 bytes,
//! three cache lines or four; a plain value of at most 256 bytes is copied once, through registers, and any other twice,
//! since what is decoded must stand still. An insert waits for its bucket while no other insert is under way; with two
//! processes, they also wait for each other's shards; buckets are split eight at a time, so that their waits overlap, and a slot's tag says where its entry
//! goes, so that a split reads no block.
