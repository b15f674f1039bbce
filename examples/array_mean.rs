//! Means of overlapping windows of a large array: serial, sent to workers (element by element, and as bytes), shared with
//! workers, and written by workers straight into a shared output array. Each window costs a sleep and the sum of half a
//! million elements.
//!
//! Checks that all of them give the same means, and exits with an error if not.

use allmend::{Plain, Pool, Result, SharedArray};
use std::{
    thread,
    time::{Duration, Instant},
};

const LEN: usize = 10_000_000;
const WINDOW: usize = 500_000;
const STEP: usize = 100_000;

fn slow_mean(elements: &[f64], sleep: u64) -> f64 {
    thread::sleep(Duration::from_millis(sleep));
    elements.iter().sum::<f64>() / elements.len() as f64
}

fn of_sent(elements: Vec<f64>) -> f64 {
    slow_mean(&elements, 10)
}

fn of_sent_plain(Plain(elements): Plain<Vec<f64>>) -> f64 {
    slow_mean(&elements, 10)
}

fn of_shared(window: SharedArray<f64>) -> Result<f64> {
    Ok(slow_mean(&window.read()?, 10))
}

fn write_mean((window, output): (SharedArray<f64>, SharedArray<f64>)) -> Result<()> {
    output.set(0, slow_mean(&window.read()?, 5))?;
    Ok(())
}

fn main() -> Result<()> {
    let data: Vec<f64> = (0..LEN).map(|i| (i * 7919 % 1000) as f64 / 1000.0).collect();
    // As Python's `range(0, LEN - WINDOW, STEP)`: 95 windows, without the very last one.
    let windows = || data.windows(WINDOW).step_by(STEP).take((LEN - WINDOW) / STEP);

    let tic = Instant::now();
    let serial: Vec<f64> = windows().map(|elements| slow_mean(elements, 10)).collect();
    println!("{} windows of {WINDOW} of {LEN} elements, 2 workers", serial.len());
    println!("serial                        {:.2} s", tic.elapsed().as_secs_f64());

    let pool = Pool::new(2)?;
    let tic = Instant::now();
    let sent: Vec<f64> = pool.map(of_sent, windows().map(<[f64]>::to_vec)).collect::<Result<_, _>>()?;
    println!("pool, elements sent           {:.2} s", tic.elapsed().as_secs_f64());

    let tic = Instant::now();
    let plain: Vec<f64> =
        pool.map(of_sent_plain, windows().map(|w| Plain(w.to_vec()))).collect::<Result<_, _>>()?;
    println!("pool, elements sent as bytes  {:.2} s", tic.elapsed().as_secs_f64());

    let input = SharedArray::from_slice(&data)?;
    let tic = Instant::now();
    let slices = || input.windows(WINDOW, STEP).take(serial.len());
    let mut shared = Vec::new();
    for mean in pool.map(of_shared, slices()) {
        shared.push(mean??);
    }
    println!("pool, shared array            {:.2} s", tic.elapsed().as_secs_f64());

    let output = SharedArray::<f64>::new(serial.len())?;
    let tic = Instant::now();
    for done in pool.map(write_mean, slices().zip(output.chunks(1))) {
        done??;
    }
    println!("pool, shared array and output {:.2} s", tic.elapsed().as_secs_f64());

    if sent != serial || plain != serial || shared != serial || output.to_vec()? != serial {
        eprintln!("the means differ");
        std::process::exit(1);
    }
    println!("all means are equal; the first is {}", serial[0]);
    Ok(())
}
