//! The tables of arrays: claims beside a lock, readers side by side, a sum over a frozen array, and the means of windows.
//!
//! The means are what Python's users do with joblib or a pool: each window costs a sleep and the sum of half a million
//! elements. What forks comes before the pool.

use crate::harness::{Goals, Samples, Settings, Table, digits, nanos};
use crate::locks::Contender;
use crate::{ours, peers};
use allmend::SharedArray;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// Prints them.
pub fn table(settings: &Settings, goals: &mut Goals) {
    claims(settings, goals);
    readers(settings, goals);
    sums(settings, goals);
    windows(settings, goals);
}

/// Chunks of the table of claims.
const CHUNKS: u64 = 1_000;

fn claims(settings: &Settings, goals: &mut Goals) {
    let n = settings.scaled(200_000).next_multiple_of(CHUNKS);
    let value = ours::Value::new();
    let array = SharedArray::<u64>::new(CHUNKS as usize).expect("an array");
    let one = array.slice(..1).expect("an element");
    let given_back = one.claims(1).expect("claims");
    let add_all = || {
        for _ in 0..n / CHUNKS {
            let claims = array.claims(1).expect("claims");
            while let Some(mut chunk) = claims.claim().expect("a claim") {
                chunk[0] += 1;
                chunk.done();
            }
        }
    };
    let rows: [(&str, &dyn Fn()); 6] = [
        ("**SharedValue**: lock, add, unlock", &|| value.repeat(n)),
        ("**SharedArray::get_lock** of one element, add, drop", &|| {
            (0..n).for_each(|_| one.get_lock().expect("the lock")[0] += 1);
        }),
        ("**SharedArray::read** of one element, drop", &|| {
            (0..n).for_each(|_| _ = black_box(one.read().expect("the lock")[0]));
        }),
        ("**Claims**: claim a chunk, add, give it back", &|| {
            (0..n).for_each(|_| given_back.claim().expect("a claim").expect("a chunk")[0] += 1);
        }),
        ("**Claims**: claim and finish each of 1,000 chunks", &add_all),
        ("**SharedArray::set**", &|| (0..n).for_each(|i| array.set(1, i).expect("a store"))),
    ];
    let mut samples = vec![Samples::default(); rows.len()];
    settings.interleave(rows.len(), |i| {
        let best = (0..3).map(|_| nanos(rows[i].1)).fold(f64::INFINITY, f64::min);
        samples[i].push(best / n as f64);
    });
    let adds = 3 * settings.repetitions as u64;
    let sum: u64 = array.to_vec().expect("its elements").iter().sum();
    // Element 0: by its lock, by the chunk that is given back, and as each element by the chunks; element 1 is overwritten.
    assert!(sum >= adds * (2 * n + n / CHUNKS * (CHUNKS - 1)), "adds were lost: {sum}");
    println!("## Arrays: claims on elements, in one process, nobody else there\n");
    let mut table = Table::new(&["", "ns", "/ SharedValue"]);
    for ((name, _), own) in rows.iter().zip(&samples) {
        table.row(&[*name, &own.show(), &digits(own.over(&samples[0]).median())]);
    }
    table.print();
    goals.at_most(
        "claim of a chunk, add, release / lock, add, unlock of a SharedValue",
        2.0,
        samples[3].over(&samples[0]),
    );
    goals.at_most(
        "array's get_lock, add, drop / lock, add, unlock of a SharedValue",
        2.0,
        samples[1].over(&samples[0]),
    );
}

/// How many elements a reader sums up under its claim.
const READ: [usize; 3] = [1, 1_000, 100_000];

fn readers(settings: &Settings, goals: &mut Goals) {
    let ones = vec![1u64; READ[2]];
    let array = SharedArray::from_slice(&ones).expect("an array");
    let mut samples = vec![[Samples::default(), Samples::default()]; READ.len()];
    for (len, samples) in READ.iter().zip(&mut samples) {
        let slice = array.slice(..*len).expect("in it");
        let sum = || slice.read().expect("a claim").iter().map(|n| black_box(*n)).sum::<u64>();
        settings.interleave(2, |i| {
            let outcome = peers::in_processes(
                i + 1,
                settings.run,
                || assert_eq!(sum(), *len as u64),
                |_, stop| {
                    let mut reads = 0;
                    while stop.load(Relaxed) == 0 {
                        assert_eq!(sum(), *len as u64);
                        reads += 1;
                    }
                    reads
                },
            );
            let outcome = outcome.unwrap_or_else(|e| panic!("{} readers of {len}: {e}", i + 1));
            samples[i].push(outcome.ops() as f64 / outcome.elapsed_ns() as f64 * 1e3);
        });
    }
    println!("## Arrays: processes that read the same elements at the same time\n");
    println!("Each claims the elements to read, adds them up, and gives them back.\n");
    let mut table =
        Table::new(&["elements", "1 process, million reads/s", "2 processes, all together", "times"]);
    for (len, [one, two]) in READ.iter().zip(&samples) {
        table.row(&[len.to_string(), one.show(), two.show(), two.over(one).show()]);
    }
    table.print();
    for (len, [one, two]) in READ.iter().zip(&samples) {
        let what = format!("reads of the same {len} elements by 2 processes / by 1");
        goals.at_least(&what, 1.8, two.over(one));
    }
}

const LEN: usize = 10_000_000;

fn sums(settings: &Settings, goals: &mut Goals) {
    let plain: Vec<f64> = data();
    let array = SharedArray::from_slice(&plain).expect("an array");
    let whole: Vec<u64> = (0..LEN as u64).collect();
    let integers = SharedArray::from_slice(&whole).expect("an array");
    let (frozen, frozen_integers) = (array.freeze().expect("frozen"), integers.freeze().expect("frozen"));
    let sum = |elements: &[f64]| _ = black_box(elements.iter().sum::<f64>());
    let add = |elements: &[u64]| _ = black_box(elements.iter().fold(0u64, |sum, n| sum.wrapping_add(*n)));
    let mut samples = vec![Samples::default(); 4];
    settings.interleave(samples.len(), |i| {
        let run = || match i {
            0 => sum(&plain),
            1 => sum(&frozen),
            2 => add(&whole),
            _ => add(&frozen_integers),
        };
        let best = (0..3).map(|_| nanos(run)).fold(f64::INFINITY, f64::min);
        samples[i].push(best / 1e6);
    });
    println!("## Arrays: the sum of 10,000,000 elements\n");
    let mut table = Table::new(&["", "`Vec`, ms", "**FrozenArray**, ms", "FrozenArray / Vec"]);
    for (name, pair) in ["f64, one after the other", "u64, as fast as memory gives them"].iter().zip([0, 2]) {
        let (vec, frozen) = (&samples[pair], &samples[pair + 1]);
        table.row(&[(*name).to_owned(), vec.show(), frozen.show(), frozen.over(vec).show()]);
    }
    table.print();
    goals.at_most(
        "sum of 10^7 f64: FrozenArray / Vec (equal, within 5 %)",
        1.05,
        samples[1].over(&samples[0]),
    );
    goals.at_most(
        "sum of 10^7 u64: FrozenArray / Vec (equal, within 5 %)",
        1.05,
        samples[3].over(&samples[2]),
    );
}

const WINDOW: usize = 500_000;
const STEP: usize = 100_000;
/// Python's `range(0, LEN - WINDOW, STEP)`: without the very last one.
const WINDOWS: usize = (LEN - WINDOW) / STEP;
const SLEEP: Duration = Duration::from_millis(10);
const WORKERS: usize = 2;

fn data() -> Vec<f64> {
    (0..LEN).map(|i| (i * 7919 % 1000) as f64 / 1000.0).collect()
}

fn mean(elements: &[f64]) -> f64 {
    elements.iter().sum::<f64>() / elements.len() as f64
}

fn slow_mean(window: SharedArray<f64>) -> allmend::Result<f64> {
    thread::sleep(SLEEP);
    Ok(mean(&window.read()?))
}

fn write_mean((window, output): (SharedArray<f64>, SharedArray<f64>)) -> allmend::Result<()> {
    output.set(0, slow_mean(window)?)?;
    Ok(())
}

fn windows(settings: &Settings, goals: &mut Goals) {
    let plain = data();
    let right: Vec<f64> = plain.windows(WINDOW).step_by(STEP).take(WINDOWS).map(mean).collect();
    let input = SharedArray::from_slice(&plain).expect("an array");
    let slices = || input.windows(WINDOW, STEP).take(WINDOWS);
    let pool = ours::pool(WORKERS);
    let python = Python::find();
    let mut samples = vec![Samples::default(); 3]; // the bound, the results sent back, the results written
    let mut theirs = Samples::default();
    let mut failed = None;
    for _ in 0..settings.repetitions.min(if settings.quick { 1 } else { 5 }) {
        let one = nanos(|| {
            for window in plain.windows(WINDOW).step_by(STEP).take(WINDOWS) {
                black_box(mean(window));
            }
        }) / WINDOWS as f64;
        samples[0].push(WINDOWS.div_ceil(WORKERS) as f64 * (SLEEP.as_nanos() as f64 + one) / 1e6);
        let mut means = Vec::new();
        samples[1].push(
            nanos(|| {
                means.extend(
                    pool.map(slow_mean, slices()).map(|mean| mean.expect("a task").expect("a claim")),
                );
            }) / 1e6,
        );
        assert_eq!(means, right, "a mean is wrong");
        let output = SharedArray::<f64>::new(WINDOWS).expect("an array");
        samples[2].push(
            nanos(|| {
                let done = pool.map(write_mean, slices().zip(output.chunks(1)));
                done.for_each(|done| done.expect("a task").expect("a claim"));
            }) / 1e6,
        );
        assert_eq!(output.to_vec().expect("its elements"), right, "a mean is wrong");
        if let Some(python) = &python {
            match python.windows() {
                Ok(ms) => theirs.push(ms),
                Err(e) => failed = Some(e),
            }
        }
    }
    println!("## Arrays: {WINDOWS} overlapping windows of {WINDOW} of {LEN} elements, {WORKERS} workers\n");
    println!(
        "Each window costs a sleep of {} ms and its mean. No two workers can be faster than the first row.\n",
        SLEEP.as_millis()
    );
    let mut table = Table::new(&["", "ms", "/ the least"]);
    let least = "48 times (the sleep and one mean)";
    let ours =
        ["**Pool**, windows of a shared array", "**Pool**, the same, means written into a shared array"];
    for (name, own) in [least].iter().chain(&ours).zip(&samples) {
        table.row(&[*name, &own.show(), &own.over(&samples[0]).show()]);
    }
    match (&python, &failed) {
        (Some(python), None) => {
            let over = theirs.over(&samples[0]).show();
            table.row(&[&*format!("{}, memory-mapped", python.versions), &theirs.show(), &over]);
            table.print();
        }
        (Some(_), Some(e)) => {
            table.print();
            println!("joblib is here, but its row is left out: {e}\n");
        }
        (None, _) => {
            table.print();
            println!("python3 with joblib and numpy is not here: its row is left out.\n");
        }
    }
    for (name, own) in ours.iter().zip(&samples[1..]) {
        let name = name.trim_start_matches("**Pool**, ");
        goals.at_most(&format!("95 windows, {name} / the least time"), 1.1, own.over(&samples[0]));
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/windows.py");

/// A python3 that has joblib and numpy.
struct Python {
    versions: String,
}

impl Python {
    fn find() -> Option<Self> {
        let output = Self::output("--version").ok()?;
        Some(Self { versions: output })
    }

    /// Milliseconds of the same work.
    fn windows(&self) -> Result<f64, String> {
        let output = Self::output("--run")?;
        output.parse().map_err(|e| format!("{output}: {e}"))
    }

    fn output(what: &str) -> Result<String, String> {
        let mut command = Command::new("timeout");
        command.args(["60", "python3", SCRIPT, what]).stderr(Stdio::null());
        let output = command.output().map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(format!("it ended with {}", output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
