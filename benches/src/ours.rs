//! Our own contestants, through the crate's public face only.

use crate::harness::nanos;
use crate::locks::Lock;
use allmend::{Pool, SharedAtomic, SharedValue, sync::RawSync};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// `SharedValue<u64>`.
pub struct Value(SharedValue<u64>);

impl Value {
    /// At zero.
    pub fn new() -> Self {
        Self(SharedValue::new(0).expect("a value"))
    }

    /// A read.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Lock for Value {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        let mut count = self.0.get_lock().expect("the lock");
        work();
        *count += 1;
    }

    fn count(&self) -> u64 {
        self.0.get()
    }
}

/// `SharedValue<u64>` whose lock is raw_sync's.
pub struct ValueOverRawSync(SharedValue<u64, RawSync>);

impl ValueOverRawSync {
    /// At zero.
    pub fn new() -> Self {
        Self(SharedValue::with_lock(0).expect("a value"))
    }
}

impl Lock for ValueOverRawSync {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        let mut count = self.0.get_lock().expect("the lock");
        work();
        *count += 1;
    }

    fn count(&self) -> u64 {
        self.0.get()
    }
}

/// `SharedAtomic<u64>`.
pub struct Atomic(SharedAtomic<u64>);

impl Atomic {
    /// At zero.
    pub fn new() -> Self {
        Self(SharedAtomic::new(0).expect("an atomic"))
    }
}

impl Lock for Atomic {
    #[inline]
    fn section(&self, work: impl FnOnce()) {
        work();
        self.0.fetch_add(1);
    }

    fn count(&self) -> u64 {
        self.0.load()
    }
}

fn echo(n: u64) -> u64 {
    n
}

/// Comes back when so many are in it at once: then they are in as many workers. False: they did not come.
fn meet((arrived, parties): (SharedAtomic<u64>, u64)) -> bool {
    let patience = Instant::now() + Duration::from_secs(20);
    arrived.fetch_add(1);
    while arrived.load() < parties {
        if Instant::now() > patience {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// A pool with so many workers.
pub fn pool(workers: usize) -> Pool {
    Pool::new(workers).expect("a pool")
}

/// Nanoseconds from nothing until both workers have answered.
pub fn start() -> f64 {
    let arrived = SharedAtomic::new(0).expect("an atomic");
    let mut kept = None; // its end is not part of the start
    let time = nanos(|| {
        let pool = pool(2);
        let answers = [pool.submit(meet, (arrived.clone(), 2)), pool.submit(meet, (arrived.clone(), 2))];
        for answer in answers {
            assert!(answer.result().expect("an answer"), "the workers did not meet");
        }
        kept = Some(pool);
    });
    drop(kept);
    time
}

/// Nanoseconds of each of so many round trips.
pub fn round_trips(pool: &Pool, n: u64) -> Vec<f64> {
    let round = |i| assert_eq!(pool.submit(echo, i).result().expect("an answer"), i);
    (0..n).map(|i| nanos(|| round(i))).collect()
}

/// Tasks a second with so many submits in flight, nothing batched.
pub fn rate(pool: &Pool, n: u64, window: usize) -> f64 {
    let mut sum = 0;
    let time = nanos(|| {
        let mut flying = VecDeque::with_capacity(window);
        for i in 0..n {
            if flying.len() == window {
                let first: allmend::TaskFuture<u64> = flying.pop_front().expect("a full window");
                sum += first.result().expect("an answer");
            }
            flying.push_back(pool.submit(echo, i));
        }
        sum += flying.into_iter().map(|task| task.result().expect("an answer")).sum::<u64>();
    });
    assert_eq!(sum, n * (n - 1) / 2, "an answer was wrong");
    n as f64 / time * 1e9
}

/// Items a second through `map`, which batches as it likes.
pub fn map_rate(pool: &Pool, n: u64) -> f64 {
    let mut sum = 0;
    let time = nanos(|| sum = pool.map(echo, 0..n).map(|item| item.expect("an answer")).sum());
    assert_eq!(sum, n * (n - 1) / 2, "an answer was wrong");
    n as f64 / time * 1e9
}
