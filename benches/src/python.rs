//! The table beside Python: the same counter and the same tasks, ours and `multiprocessing`'s.

use crate::harness::{Samples, Settings, Table, digits, nanos};
use crate::locks::{self, Contender};
use crate::ours;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/counter.py");

/// What the script prints: a name, and how it is shown. Beside it: ours, in the same unit.
const ROWS: [(&str, &str); 5] = [
    ("uncontended_ns", "lock, add, unlock, 1 process, ns"),
    ("two_processes_ns", "the same, 2 processes, ns per addition of all"),
    ("start_ms", "start of 2 workers until both have answered, ms"),
    ("round_trip_us", "round trip of one task, median, us"),
    ("tasks_per_second", "tasks a second, 2 workers, not batched"),
];

/// Runs the script once per repetition, ours beside it.
pub fn table(settings: &Settings) {
    println!("## Beside Python: `multiprocessing.Value`, `ProcessPoolExecutor`\n");
    let Some(version) = version() else {
        println!("python3 is not here: this table is left out.\n");
        return;
    };
    let mut theirs = vec![Samples::default(); ROWS.len()];
    let mut mine = theirs.clone();
    for _ in 0..settings.repetitions {
        for (samples, value) in mine.iter_mut().zip(ours(settings)) {
            samples.push(value);
        }
        match script(settings) {
            Ok(values) => theirs.iter_mut().zip(values).for_each(|(samples, value)| samples.push(value)),
            Err(e) => {
                println!("{version} is here, but {SCRIPT} failed, so this table is left out: {e}\n");
                return;
            }
        }
    }
    println!("{version}. Ours in the same minute, one after the other.\n");
    let mut table = Table::new(&["", "Python", "**allmend**", "how many times faster"]);
    for (i, (name, title)) in ROWS.iter().enumerate() {
        let higher_is_better = name.ends_with("per_second");
        let gain = if higher_is_better { mine[i].over(&theirs[i]) } else { theirs[i].over(&mine[i]) };
        table.row(&[*title, &theirs[i].show(), &mine[i].show(), &digits(gain.median())]);
    }
    table.print();
}

fn version() -> Option<String> {
    let output = Command::new("python3").arg("--version").output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// In the order of [`ROWS`].
fn ours(settings: &Settings) -> [f64; ROWS.len()] {
    let (value, n) = (ours::Value::new(), settings.scaled(1_000_000));
    let uncontended = nanos(|| value.repeat(n)) / n as f64;
    let contended = locks::two_processes(settings);
    let start = ours::start() / 1e6;
    let pool = ours::pool(2);
    let mut trips = ours::round_trips(&pool, settings.scaled(5_000));
    trips.sort_by(f64::total_cmp);
    let rate = ours::rate(&pool, settings.scaled(100_000), 128);
    [uncontended, contended, start, trips[trips.len() / 2] / 1e3, rate]
}

/// In the order of [`ROWS`]. A Python that hangs is killed.
fn script(settings: &Settings) -> Result<Vec<f64>, String> {
    let mut command = Command::new("python3");
    command.arg(SCRIPT).args(settings.quick.then_some("--quick")).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let patience = Instant::now() + Duration::from_secs(120);
    let status = loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status,
            None if Instant::now() > patience => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("it hung for two minutes".into());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut text = String::new();
    child.stdout.take().ok_or("no output")?.read_to_string(&mut text).map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("it ended with {status}"));
    }
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.and_then(|v| v.trim().parse().ok()).ok_or_else(|| format!("it printed no {name}"))
    };
    ROWS.iter().map(|(name, _)| value(name)).collect()
}
