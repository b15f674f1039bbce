//! Workers are killed with SIGKILL while they hold the lock. The others go on, and the ledger is exact.
//!
//! The ledger `{total, per task}` is one value, so it changes as one: every addition is in both or in neither.
//!
//! Run: `cargo run --release --example crash`

use allmend::{Pool, Result, SharedValue, TaskError};
use bytemuck::{Pod, Zeroable};
use rustix::process::{Signal, getpid, kill_process};
use std::time::Instant;

const TASKS: usize = 100;
/// Each so manieth task dies.
const EVERY: usize = 10;

#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
struct Ledger {
    total: u64,
    per_task: [u64; TASKS],
}

/// Every so often a task dies with the lock in its hand and half an update in its copy of the ledger.
fn add((ledger, task): (SharedValue<Ledger>, usize)) -> Result<u64> {
    let amount = task as u64 + 1;
    let mut guard = ledger.get_lock()?;
    guard.total += amount;
    if task % EVERY == EVERY - 1 {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    guard.per_task[task] += amount;
    guard.commit();
    Ok(amount)
}

fn main() -> Result<()> {
    let start = Instant::now();
    let ledger = SharedValue::new(Ledger { total: 0, per_task: [0; TASKS] })?;
    let pool = Pool::new(2)?;
    let (mut acknowledged, mut killed) = (0, 0);
    for done in pool.map(add, (0..TASKS).map(|task| (ledger.clone(), task)).collect::<Vec<_>>()) {
        match done {
            Ok(amount) => acknowledged += amount?,
            Err(TaskError::Died { signal: Some(9), .. }) => killed += 1,
            Err(other) => return Err(other.into()),
        }
    }
    let end = ledger.get();
    println!("killed={killed} total={} acknowledged={acknowledged} {:?}", end.total, start.elapsed());
    assert_eq!(killed, TASKS / EVERY, "the workers of these tasks die, and only those");
    assert_eq!(end.total, acknowledged, "what was acknowledged is there, and nothing else");
    assert_eq!(end.total, end.per_task.iter().sum::<u64>(), "half an update became visible");

    drop(pool);
    println!("memory: {:?}", allmend::verify()?);
    Ok(())
}
