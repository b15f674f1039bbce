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
//! | `SharedArray`: `get_lock` or `read` to drop, `get`, `set` | an entry announced, a look at the entries of all processes that have claimed (at one line, while all read), the entry given back. Two to three locks of a value, with nobody else there: below |
//! | `Claims::claim` | that, and a look at the chunk's word |
//! | a look into a `FrozenArray` | a look at our own id, and plain loads |
//! | `SharedMap::get`, key and value of at most 8 bytes each | a hash, and one cache line of the table |
//! | `SharedMap::get`, larger | a hash, a line of the table, and the entry's block; the value is copied, and decoded |
//! | `SharedMap::insert`, `update`, `remove` | two atomic read-modify-writes for the shard's lock, the look, one store; `update` looks first, and tries again if it lost |
//! | `SharedMap::iter` | each chain is copied: two small allocations an entry |
//! | open of a named segment | seventeen system calls: two descriptions, owner and mode, two locks for a place, one that keeps the name, the mapping, its anchor. 4.4 times crate shared_memory's own open, which is three calls and makes sure of nothing (20.2 and 4.6 us, to look 16.0; 2026-11-25, 2 cores of an AMD EPYC, `--only segments`; the goal is 3 and not met). Two thirds of it are the three opens, the two mappings and the first touch. A place that somebody had before is searched for what that one left: so it grows with the memory in use |
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
//! | bare `fetch_add` | 1.99 | 0.45 |
//! | **`SharedAtomic::fetch_add`** | 1.84 | 0.42 |
//! | `std::sync::Mutex` (threads only) | 4.39 | 1.00 |
//! | **`SharedValue`: lock, add, unlock** | 4.68 | 1.07 |
//! | parking_lot (threads only) | 5.17 | 1.18 |
//! | pthread mutex, process-shared | 5.18 | 1.18 |
//! | pthread mutex, process-shared and robust | 7.93 | 1.81 |
//! | raw_sync | 18.1 | 4.13 |
//!
//! Contended, millions of sections a second of 2 processes on 2 cores; columns: ns of work inside / outside the section.
//!
//! | | 0/0 | 0/100 | 100/0 | 100/100 | 0/1000 | 1000/0 | 1000/1000 |
//! |---|---|---|---|---|---|---|---|
//! | **`SharedValue`** | 78.0 | 12.6 | 9.63 | 6.75 | 1.83 | 0.90 | 0.75 |
//! | raw_sync | 15.6 | 5.45 | 2.99 | 3.38 | 1.79 | 0.66 | 0.40 |
//! | pthread mutex | 50.0 | 8.64 | 2.35 | 3.30 | 1.85 | 0.66 | 0.40 |
//! | pthread mutex, robust | 33.3 | 10.5 | 2.73 | 3.35 | 1.86 | 0.65 | 0.41 |
//! | `std::sync::Mutex` (threads) | 69.1 | 12.6 | 8.52 | 7.76 | 1.86 | 0.69 | 0.78 |
//! | parking_lot (threads) | 86.3 | 13.2 | 9.14 | 6.67 | 1.85 | 0.73 | 0.71 |
//!
//! 43 of the 46 goals of these tables are met. Not met: 2 processes, 1000/0, 1.35 times raw_sync's throughput (goal 1.4; the
//! work allows 1.00 M/s), and 0/1000, 0.99 times pthread's (goal 1; the work bounds it); 4 processes, 0/1000, where the least
//! share of one is 0.67 of the mean (goal 0.7), as it is of all locks there. The machine has a slow and a fast state: in another
//! run of this day 4 processes, 100/100, had 1.11 times raw_sync's (the faster of its two), and 1000/0 1.44 times.
//!
//! | | allmend | peer | ratio |
//! |---|---|---|---|
//! | `SharedValue::get` of 8 bytes, ns above a plain load | 0.34 | | |
//! | start of 2 workers, over two bare `posix_spawn`s | 1.82 ms | 1.22 ms | 1.49 |
//! | *round trip of a task, both sides awake, over a bare futex ping-pong* | 0.39 us | 0.11 us | *3.6* |
//! | tasks a second, not batched, over procspawn | 1.13 M/s | 26 k/s | 45 |
//! | *`map` with batches by itself, over procspawn with 1000 items a task by hand* | 13.6 M/s | 18.9 M/s | *0.70* |
//!
//! Two rows are lost. The round trip (goal 2.5): the two transfers between the cores are about a third of it, the rest is
//! done on both sides: seal, encode, look at who lives. `map` accounts for each item by itself, so that a death fails one
//! item and not a batch.
//!
//! # Arrays
//!
//! The same machine and day, `allmend-benches --only arrays`, 7 repetitions, others used 0.00 cores.
//!
//! | | ns | / `SharedValue` |
//! |---|---|---|
//! | `SharedValue`: lock, add, unlock | 4.69 | 1.00 |
//! | *`SharedArray::get_lock` of one element, add, drop* | 10.8 | *2.3* |
//! | *`SharedArray::read` of one element, drop* | 10.4 | *2.2* |
//! | *`Claims`: claim a chunk, add, give it back* | 14.5 | *3.1* |
//! | *`Claims`: claim and finish each of 1,000 chunks of one element* | 16.0 | *3.4* |
//! | *`SharedArray::set`* | 10.1 | *2.2* |
//!
//! That table is lost: the goal is twice the lock of a value. A bare probe with the same atomic instructions and loads takes
//! 4.4 ns; the rest is plain instructions, some 250 for a chunk, and one count of what a guard or chunk keeps.
//!
//! | reads of the same elements, million a second | 1 process | 2 processes together | times |
//! |---|---|---|---|
//! | 1 element | 74.7 | 150 | 2.0 |
//! | 1,000 elements | 2.37 | 4.70 | 2.0 |
//! | 100,000 elements | 0.02 | 0.04 | 2.0 |
//!
//! While all read, each looks at one line that nobody writes. Who claims to write looks at the entries of all others, so two
//! processes that write single elements of one array in a tight loop wait for each other's cache lines all the time: claim
//! more at once.
//!
//! | the sum of 10^7 elements | `Vec`, ms | `FrozenArray`, ms | ratio |
//! |---|---|---|---|
//! | f64, one after the other | 8.49 | 8.48 | 1.02 |
//! | u64, as fast as memory gives them | 3.58 | 3.62 | 1.01 |
//!
//! | 95 windows of 500,000 elements, each with a sleep of 10 ms, 2 workers | ms | / the least that is possible |
//! |---|---|---|
//! | `Pool::map`, windows of a shared array | 513 | 1.02 |
//! | the same, means written into a shared array | 513 | 1.02 |
//!
//! joblib with numpy was not there.
//!
//! # The map's table, and the rows that we lose
//!
//! The same machine and day (15:50 UTC), `allmend-benches --only map --repetitions 3`: a million entries, medians of 3
//! repetitions, others used 0.00 cores. Nanoseconds per operation, as each of 1 / 2 processes (or threads) sees it.
//!
//! Runs differ: the machine is a guest whose host takes free memory back, and the first touch of a page then costs 10 us in
//! place of 2. Three minutes before, the same command gave 98.9 / 127 for `get` of u64 and 367 / 1104 for insert of strings.
//! After this table was made, looks became shorter (below); the whole command on that code, at 18:52 and in the slowest state
//! seen, gave 121 / 116 for `get` of u64 (2.33 times hashbrown), 349 / 302 for `get` of strings (3.51 times), 460 / 809 for
//! insert of strings, and met 9 of the 18 goals in place of 11.
//!
//! | u64 -> u64 | insert into empty | get, uniform | 95/5, uniform | 50/50, uniform | get, zipf |
//! |---|---|---|---|---|---|
//! | **`SharedMap`**, processes | 184 / 347 | 87.7 / 88.8 | 95.5 / 93.6 | 109 / 133 | 50.4 / 53.5 |
//! | hashbrown, each process its own | 84.6 / 86.4 | 45.8 / 53.6 | 46.3 / 54.7 | 46.2 / 54.1 | 32.7 / 40.4 |
//! | dashmap, threads | 80.4 / 192 | 55.2 / 104 | 52.2 / 125 | 61.3 / 163 | 35.9 / 95.6 |
//! | papaya, threads | 323 / 337 | 150 / 137 | 177 / 245 | 918 / 1684 | 91.8 / 83.2 |
//! | LMDB, a transaction each | 1142 / 4267 | 793 / 885 | 994 / 1846 | 2894 / 10053 | 613 / 647 |
//! | Redis, 64 in flight | 2237 / 3230 | 2228 / 2527 | 2260 / 2506 | 2335 / 2724 | 2231 / 2207 |
//! | Boost.Interprocess | 637 / 2314 | 305 / 1389 | 299 / 1233 | 312 / 1239 | 188 / 765 |
//! | `Manager().dict`, 20 000 entries | 49571 / 40896 | 43319 / 43554 | 50134 / 33997 | 58955 / 35706 | 52323 / 35159 |
//!
//! | 16 bytes -> 100 bytes | insert into empty | get, uniform | 95/5, uniform | 50/50, uniform | get, zipf |
//! |---|---|---|---|---|---|
//! | **`SharedMap`**, processes | 365 / 709 | 250 / 264 | 265 / 292 | 442 / 556 | 171 / 177 |
//! | hashbrown, each process its own | 364 / 438 | 91.8 / 131 | 95.9 / 113 | 122 / 96.0 | 123 / 102 |
//! | dashmap, threads | 304 / 683 | 201 / 264 | 201 / 298 | 175 / 241 | 144 / 129 |
//! | papaya, threads | 499 / 654 | 245 / 251 | 310 / 316 | 962 / 1984 | 156 / 165 |
//! | LMDB, a transaction each | 1829 / 6903 | 1292 / 1681 | 1588 / 2827 | 4197 / 15240 | 850 / 989 |
//! | Redis, 64 in flight | 3218 / 2722 | 3484 / 2999 | 3816 / 3236 | 3097 / 3255 | 2614 / 2432 |
//! | Boost.Interprocess | 825 / 2974 | 478 / 2839 | 491 / 2863 | 509 / 3003 | 356 / 1672 |
//! | `Manager().dict`, 20 000 entries | 56809 / 47946 | 73220 / 46828 | 85117 / 39545 | 87711 / 45183 | 76944 / 38696 |
//!
//! *Won*: each of these rows against LMDB, Redis, Boost.Interprocess and `Manager().dict`; with u64 against papaya each but
//! insert with two processes (just so), and against dashmap, with two, all but insert; `get` of u64 at 1.91 times hashbrown's
//! (1.89 to 1.99; goal 2), insert of u64 at 2.15 times (goal 3). Memory: 46.1 bytes per entry of u64 -> u64 (goal 50). A
//! second process that reads loses no more than a second hashbrown beside the first; with strings of zipf keys that is a
//! draw (1.02).
//!
//! *Lost*, seven of 18 goals: in one process, and in insert, we are behind dashmap; `get` of strings takes 2.64 times hashbrown's (1.36 to 2.73; goal 1.75); with strings we are
//! behind papaya (at worst 0.84 of its rate: `get`, uniform, two) and dashmap (at worst 0.71: 95/5, zipf, two; goals 1).
//! LMDB's `get` is beaten 5.0 times at worst (goal 8); with strings Redis 3.8 times (goal 5) and `Manager().dict` 67 times
//! (goal 100), both in insert with two processes. Ratios are medians of the repetitions' own.
//!
//! *Looks that became shorter*, old and new code in turns within the same minutes, one process, a million entries with keys
//! of 16 bytes, ns: `contains_key` 242 to 296 before, 206 to 246 now; `get` of 12 to 40 bytes 322 to 372 and 246 to 276; of
//! 100 bytes 337 to 403 and 318 to 330. `get` of u64 is what it was.
//!
//! | `get` of a key that is not there, one process, 18:52, ns | u64 -> u64 | 16 bytes -> 100 bytes |
//! |---|---|---|
//! | **`SharedMap`**, processes | 79.1 | 62.4 |
//! | hashbrown | 9.75 | 16.1 |
//! | dashmap, threads | 16.1 | 23.6 |
//! | papaya, threads | 111 | 120 |
//!
//! Such a look took 170 to 180 and 148 to 186 before, as it was made twice. hashbrown and dashmap tell it from one byte per
//! place, which stay in the cache; we look at the bucket's line.
//!
//! *Why*: a `get` of u64 that is no part of a loop of its caller costs more, since no other waits beside it; about one in ten
//! goes on to an overflow bucket. A string's `get` waits for the bucket before it knows the block, which takes 160 bytes,
//! three cache lines or four; a plain value of at most 256 bytes is copied once, through registers, and any other twice,
//! since what is decoded must stand still. An insert waits for its bucket while no other insert is under way; with two
//! processes, they also wait for each other's shards; buckets are split eight at a time, so that their waits overlap, and a
//! slot's tag says where its entry goes, so that a split reads no block.
