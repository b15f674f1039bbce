//! Exact counts: a locked and an atomic counter, by 2, 4 and 8 workers. 10 runs of each; 100 with `ALLMEND_LONG=1`.

mod watchdog;

use allmend::{Error, Pool, SharedAtomic, SharedValue};

const N: u64 = 2_000;
const TASKS: usize = 20;

fn locked(total: SharedValue<u64>) -> Result<(), Error> {
    for _ in 0..N {
        *total.get_lock()? += 1;
    }
    Ok(())
}

fn atomic(total: SharedAtomic<u64>) {
    for _ in 0..N {
        total.fetch_add(1);
    }
}

fn runs() -> usize {
    if std::env::var_os("ALLMEND_LONG").is_some() { 100 } else { 10 }
}

fn is_exact_with(workers: usize) {
    let _watchdog = watchdog::Watchdog::new("exact");
    for run in 1..=runs() {
        let pool = Pool::new(workers).unwrap();
        let (a, b) = (SharedValue::new(0).unwrap(), SharedAtomic::new(0).unwrap());
        // One task per item, so that all workers are at it together.
        let by_one = pool.with_chunk_size(1);
        for done in by_one.map(locked, vec![a.clone(); TASKS]) {
            done.unwrap().unwrap();
        }
        for done in by_one.map(atomic, vec![b.clone(); TASKS]) {
            done.unwrap();
        }
        assert_eq!(
            (a.get(), b.load()),
            (N * TASKS as u64, N * TASKS as u64),
            "run {run} with {workers} workers"
        );
    }
}

#[test]
fn is_exact_with_2_workers() {
    is_exact_with(2);
}

#[test]
fn is_exact_with_4_workers() {
    is_exact_with(4);
}

#[test]
fn is_exact_with_8_workers() {
    is_exact_with(8);
}
