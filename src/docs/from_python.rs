//! What you know from Python, and what it is called here.
//!
//! # The table
//!
//! | Python | allmend | different |
//! |---|---|---|
//! | `Value('q', 0)` | [`SharedValue::new(0i64)`](crate::SharedValue::new) | any [`Pod`](bytemuck::Pod) type, also your own structs; under a guard read through it, `*g`: `get` gives what was committed |
//! | `v.value` | [`v.get()`](crate::SharedValue::get) | takes no lock, and never hangs |
//! | `v.value = x` | [`v.set(x)?`](crate::SharedValue::set) | |
//! | `with v.get_lock(): v.value += 1` | [`*v.get_lock()? += 1`](crate::SharedValue::get_lock) | a dead holder's lock is taken over |
//! | `v.value += 1` without the lock | `v.set(v.get() + 1)?` | both lose updates; use `update` or the guard |
//! | | [`v.update(f)?`](crate::SharedValue::update) | |
//! | `Value('q', 0, lock=False)` | [`SharedValue::unlocked(0i64)?`](crate::SharedValue::unlocked) | a type of its own: it has no `get_lock` |
//! | no atomics | [`SharedAtomic::new(0i64)?`](crate::SharedAtomic::new), `fetch_add(1)` | the fast path for counters |
//! | `lock.acquire(timeout=1)` | [`v.get_lock_timeout(..)`](crate::SharedValue::get_lock_timeout) | |
//! | `lock.acquire(block=False)` | [`v.try_get_lock()`](crate::SharedValue::try_get_lock) | |
//! | `Lock()`, `RLock()` | a `SharedValue` of what the lock protects; `SharedValue::new(())` if it is outside | not recursive |
//! | `Array('d', n)` | [`SharedArray::<f64>::new(n)?`](crate::SharedArray::new) | claims on ranges: disjoint slices do not wait for each other; small fixed ones can be `SharedValue::new([0.0; N])?` |
//! | `a[i]`, `a[i] = x` | [`a.get(i)?`](crate::SharedArray::get), [`a.set(i, x)?`](crate::SharedArray::set) | never torn |
//! | `a[i:j]` | [`a.slice(i..j)?`](crate::SharedArray::slice) | a handle, no copy; [`to_vec`](crate::SharedArray::to_vec) copies |
//! | `with a.get_lock(): a[:] = ..` | [`a.get_lock()?`](crate::SharedArray::get_lock), [`a.update(f)?`](crate::SharedArray::update) | a `&mut [f64]` in place, or all or nothing |
//! | `Manager().dict()` | [`SharedMap::<String, u64>::new()?`](crate::SharedMap) | no server process: reads are memory accesses, some hundred times faster; keys and values have types |
//! | `d[k]`, `d.get(k)` | [`d.get(k)?`](crate::SharedMap::get) | an `Option`; never waits, also not behind a dead process |
//! | `d[k] = v`, `d.pop(k, None)`, `k in d`, `len(d)` | [`insert`](crate::SharedMap::insert) or [`set`](crate::SharedMap::set), [`remove`](crate::SharedMap::remove), [`contains_key`](crate::SharedMap::contains_key), [`len`](crate::SharedMap::len) | |
//! | `d[k] += 1`, which loses updates | [`d.fetch_add(k, 1)?`](crate::SharedMap::fetch_add), [`d.update(k, f)?`](crate::SharedMap::update) | one step |
//! | `d.setdefault(k, v)` | [`try_insert`](crate::SharedMap::try_insert), [`get_or_insert_with`](crate::SharedMap::get_or_insert_with) | |
//! | `d.items()`, `d.keys()`, `dict(d)` | [`&d`](crate::SharedMap::iter), [`keys`](crate::SharedMap::keys), [`snapshot`](crate::SharedMap::snapshot) | while others write; in no order |
//! | `d[k].append(x)`, which changes a copy | [`update`](crate::SharedMap::update) of the whole value | the old trap does not compile: `get` gives a value of your own |
//! | `with lock:` around several steps on a key | [`d.get_lock(k)?`](crate::SharedMap::get_lock), [`lock_many`](crate::SharedMap::lock_many) | |
//! | `Manager().list()`, `Queue`, `Event`, `Semaphore`, `Barrier`, `Condition` | not yet | |
//! | `Manager()` | [`Manager::new()?`](crate::Manager::new) | no server process; objects have names: `manager.value("n", 0)?` |
//! | `SyncManager(address)`, `register`, `connect` | [`Manager::open_or_create(name)?`](crate::Manager::open_or_create) | programs of one machine; each name is created once |
//! | `shared_memory.SharedMemory(name)` | [`Manager::open_or_create(name)?`](crate::Manager::open_or_create), [`manager.array("data", n)?`](crate::Manager::array) | gone with its last process, unless it persists; nothing is left by a kill |
//! | `SharedMemory.unlink()` | [`manager.unlink()?`](crate::Manager::unlink), [`remove_segment(name)?`](crate::remove_segment) | |
//! | `ProcessPoolExecutor(2)`, `Pool(2)` | [`Pool::new(2)?`](crate::Pool::new) | no `if __name__ == "__main__"`, no start method |
//! | `ProcessPoolExecutor()` | `Pool::builder().build()?` | counts the CPUs that this process may use |
//! | `executor.submit(f, a, b)` | [`pool.submit(f, (a, b))`](crate::Pool::submit) | one argument; several are a tuple |
//! | `future.result()` | [`future.result()?`](crate::TaskFuture::result) | |
//! | `future.result(timeout=1)` | [`future.result_timeout(..)`](crate::TaskFuture::result_timeout) | |
//! | `future.done()` | [`future.done()`](crate::TaskFuture::done) | |
//! | `future.exception()` | the `Err` of `result` | |
//! | `future.cancel()`, `as_completed`, `wait` | not yet | |
//! | `executor.map(f, xs)` | [`pool.map(f, xs)`](crate::Pool::map) | lazy: runs ahead of what you take, but not to the end by itself; batches by itself |
//! | `executor.map(f, xs, ys)` | `pool.map(f, xs.zip(ys))` | |
//! | `map(.., chunksize=100)` | [`pool.with_chunk_size(100).map(..)`](crate::Pool::with_chunk_size) | |
//! | `initializer=` | not yet | |
//! | `with ... as executor:` | the drop of the last handle | waits for all tasks, ends the workers |
//! | joblib `Parallel(n_jobs=2)(delayed(f)(x) for x in xs)` | `pool.map(f, xs)` | one pool for many calls, as with `with Parallel()` |
//! | joblib memmapping of large arrays, `npshmex` | [`SharedArray::from_slice`](crate::SharedArray::from_slice), and its [`chunks`](crate::SharedArray::chunks) or [`windows`](crate::SharedArray::windows) as arguments | no copy and no file; workers may write results in place. [`Plain`](crate::Plain)`<Vec<f64>>` as argument: one copy in, one copy out |
//! | joblib `Memory`, threading backend | no | |
//! | pickle | serde | types without serde do not compile, a task's error type included; see [limitations](super::limitations) for what the encoding cannot do |
//!
//! # What happens when things go wrong
//!
//! | | Python | allmend |
//! |---|---|---|
//! | the creator of a named block is killed | `SharedMemory`: the name stays, and the next start fails with "exists"; or the tracker of a reader that ends takes it from everybody | the name lives as long as a process is attached; [`segments`](crate::segments) lists, [`clear_stale`](crate::clear_stale) sweeps |
//! | a worker is killed while it holds a lock | everybody else hangs, also in `v.value` | the next who wants the lock has it; the value is the one before |
//! | a worker is killed in a task | `ProcessPoolExecutor`: `BrokenProcessPool`, all futures fail, the pool is gone. `Pool`: hangs | that future is `Died { pid, signal, .. }`, the worker is replaced |
//! | a task raises or panics | its future raises | its future is `Panicked { message, location, .. }` |
//! | the program is killed | workers may live on | workers end |
//! | an argument has no way to be sent | an exception at run time, in a thread of the pool | does not compile |
//! | a shared value as an argument of a task | an exception: "only through inheritance" | works, also inside structs and vectors |
//! | start methods `spawn`, `forkserver` | a global `Value` is another one in each worker: the total is 0 | there is one way to start, and handles work with it |
//!
//! # The counter of the notebook
//!
//! ```python
//! import multiprocessing as mp
//! from concurrent.futures import ProcessPoolExecutor
//! from ctypes import c_int
//! from multiprocessing.sharedctypes import Value
//!
//! total = Value(c_int, 0)
//!
//! def increment():
//!     with total.get_lock():
//!         total.value = total.value + 1
//!
//! def multi_increment(n):
//!     for i in range(n):
//!         increment()
//!
//! def main():
//!     n = 10_000
//!     m = 100
//!     with ProcessPoolExecutor(max_workers=2, mp_context=mp.get_context("fork")) as executor:
//!         results = executor.map(multi_increment, [n] * m)
//!     print(f"{total.value=}\t expected={n*m}\t ratio={round(total.value/(n*m),2)}")
//! ```
//!
//! Three things change. The value is not a global that a fork copies into the workers, but an argument. There is no
//! start method to choose. And errors are asked for: `done` is the result of the pool (did the task run), and inside it
//! the result of the task (did it get the lock); hence two question marks, or one with
//! [`flatten_errors`](crate::pool::Map::flatten_errors).
//!
//! ```
//! use allmend::{Pool, Result, SharedValue};
//!
//! fn increment(total: &SharedValue<i32>) -> Result<()> {
//!     *total.get_lock()? += 1;
//!     Ok(())
//! }
//!
//! fn multi_increment((total, n): (SharedValue<i32>, usize)) -> Result<()> {
//!     for _ in 0..n {
//!         increment(&total)?;
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> Result<()> {
//!     let (n, m) = (10_000, 100);
//!     let total = SharedValue::new(0i32)?;
//!     let pool = Pool::new(2)?;
//!     for done in pool.map(multi_increment, vec![(total.clone(), n); m]).flatten_errors() {
//!         done?;
//!     }
//!     let ratio = f64::from(total.get()) / (n * m) as f64;
//!     println!("total={} expected={} ratio={ratio:.2}", total.get(), n * m);
//!     # assert_eq!(total.get(), 1_000_000);
//!     Ok(())
//! }
//! ```
//!
//! The same without a lock loses updates in both worlds. In Python it is one missing line; here it is another type, which
//! has no lock to forget:
//!
//! ```
//! # fn main() -> allmend::Result<()> {
//! let total = allmend::SharedValue::unlocked(0i32)?;
//! total.set(total.get() + 1); // two steps: another process may be in between
//! # Ok(()) }
//! ```
//!
//! A lock for something that is not memory is a value without bytes:
//!
//! ```
//! # fn main() -> allmend::Result<()> {
//! let lock = allmend::SharedValue::new(())?;
//! let guard = lock.get_lock()?;
//! // write to the log file
//! drop(guard);
//! # Ok(()) }
//! ```
//!
//! And the fast counter:
//!
//! ```
//! # fn main() -> allmend::Result<()> {
//! let total = allmend::SharedAtomic::new(0i32)?;
//! total.fetch_add(1); // one step, no lock
//! # assert_eq!(total.load(), 1);
//! # Ok(()) }
//! ```
//!
//! # Habits
//!
//! * Pass what a task needs. Globals that `main` sets are not there in a worker: it never runs `main`.
//! * A task is a `fn`, or a closure that captures nothing. No lambda over local variables: put them into the argument.
//! * Hold a guard for as short as in Python. Its changes count when it drops, all at once.
//! * Keep handles, not values: a handle is small, and its clones are the same value.
