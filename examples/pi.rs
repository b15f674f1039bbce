//! Pi by 2,000,000 random points: serial, then by workers that sample without a lock and add under it.
//!
//! Run: `cargo run --release --example pi`

use allmend::{Pool, Result, SharedValue};
use std::time::Instant;

const POINTS: u64 = 2_000_000;
const TASKS: u64 = 8;

/// How many of `points` random points of the unit square lie in the quarter circle.
fn hits(seed: u64, points: u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut coordinate = || {
        // xorshift64: enough for a picture of pi.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..points).filter(|_| coordinate().powi(2) + coordinate().powi(2) <= 1.0).count() as u64
}

/// One task: samples on its own, and holds the lock for one addition.
fn sample((total, seed): (SharedValue<u64>, u64)) -> Result<u64> {
    let found = hits(seed, POINTS / TASKS);
    *total.get_lock()? += found;
    Ok(found)
}

fn pi(hits: u64) -> f64 {
    hits as f64 * 4.0 / POINTS as f64
}

fn main() -> Result<()> {
    let start = Instant::now();
    let serial: u64 = (1..=TASKS).map(|seed| hits(seed, POINTS / TASKS)).sum();
    println!("serial     pi={:.6} {:?}", pi(serial), start.elapsed());

    let pool = Pool::new(2)?;
    let total = SharedValue::new(0u64)?;
    let start = Instant::now();
    let mut returned = 0;
    for done in pool.map(sample, (1..=TASKS).map(|seed| (total.clone(), seed)).collect::<Vec<_>>()) {
        returned += done??;
    }
    println!("2 workers  pi={:.6} {:?}", pi(total.get()), start.elapsed());

    // The same seeds give the same points: the totals are equal, not just close.
    assert_eq!((total.get(), returned), (serial, serial), "an addition was lost");
    assert!((pi(serial) - std::f64::consts::PI).abs() < 0.005, "this is not pi");
    Ok(())
}
