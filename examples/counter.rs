//! The counter of the notebook: 100 tasks add 10_000 times each, in 2 workers. Without a lock updates are lost; under
//! the lock, and as an atomic, the total is exact.
//!
//! Fails if a locked or atomic total is not exact, or an unlocked one is above what can be.

use allmend::{Pool, Result, SharedAtomic, SharedValue, sync::Unlocked};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const N: i64 = 10_000;
const M: usize = 100;
const WORKERS: usize = 2;
const EXPECTED: i64 = N * M as i64;
/// A loss needs two workers at work in the same moment; a busy machine may not grant it at once.
const TRIES: usize = 20;

fn unlocked(total: SharedValue<i64, Unlocked>) {
    for _ in 0..N {
        total.set(total.get() + 1);
    }
}

fn locked(total: SharedValue<i64>) -> Result<()> {
    for _ in 0..N {
        *total.get_lock()? += 1;
    }
    Ok(())
}

fn atomic((total, n): (SharedAtomic<i64>, i64)) {
    for _ in 0..n {
        total.fetch_add(1);
    }
}

/// Waits until all workers are here, so that they start together.
fn meet((arrived, everybody): (SharedAtomic<u64>, u64)) {
    arrived.fetch_add(1);
    while arrived.load() < everybody {
        std::hint::spin_loop();
    }
}

fn together(pool: &Pool) -> Result<Instant> {
    let arrived = SharedAtomic::new(0u64)?;
    let here: Vec<_> = (0..WORKERS).map(|_| pool.submit(meet, (arrived.clone(), WORKERS as u64))).collect();
    for one in here {
        one.result()?;
    }
    Ok(Instant::now())
}

fn report(what: &str, total: i64, time: Duration) {
    let ratio = total as f64 / EXPECTED as f64;
    println!("{what:9} total={total} expected={EXPECTED} ratio={ratio:.4} time={time:.1?}");
}

fn main() -> Result<ExitCode> {
    let pool = Pool::new(WORKERS)?;
    let mut wrong = false;

    for attempt in 1.. {
        let total = SharedValue::unlocked(0i64)?;
        let start = together(&pool)?;
        for done in pool.map(unlocked, vec![total.clone(); M]) {
            done?;
        }
        let (total, time) = (total.get(), start.elapsed());
        wrong |= total > EXPECTED;
        if total != EXPECTED || attempt == TRIES {
            report("unlocked", total, time);
            match total {
                EXPECTED => println!(
                    "          no update was lost in {TRIES} runs: this machine is busy with other things"
                ),
                _ => println!("          {} updates were lost (run {attempt})", EXPECTED - total),
            }
            break;
        }
    }

    let total = SharedValue::new(0i64)?;
    let start = together(&pool)?;
    for done in pool.map(locked, vec![total.clone(); M]) {
        done??;
    }
    report("locked", total.get(), start.elapsed());
    wrong |= total.get() != EXPECTED;

    let total = SharedAtomic::new(0i64)?;
    let start = together(&pool)?;
    for done in pool.map(atomic, vec![(total.clone(), N); M]) {
        done?;
    }
    report("atomic", total.load(), start.elapsed());
    wrong |= total.load() != EXPECTED;

    if wrong {
        eprintln!("WRONG: a locked or atomic total is not exact, or more was counted than was added");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
