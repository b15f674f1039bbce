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
//! | open of a named segment | about twenty system calls: two descriptions, owner and mode, two locks for a place, one that keeps the name, the mapping, its anchor. About 4 times crate shared_memory's own open, which is three calls and makes sure of nothing (22 and 5 us, on a machine that was not quiet) |
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
