//! The lock tables: uncontended, reading, contended.
//!
//! Every contestant is a [`Lock`]: a counter that is added to under it. The loops are written once, over the trait,
//! and compiled for each contestant, so that nobody pays for a virtual call per operation.
//!
//! "Work" is a chain of multiplications of which each needs the one before, calibrated to nanoseconds. Work outside
//! the section is jittered, 0.5 to 1.5 times, or the processes fall into step. A contended run ends with the check
//! counter == sum of operations: a lock that broke exclusion is no contestant.

use crate::harness::{Goals, Samples, Settings, Table, digits, nanos};
use crate::{ours, peers};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A counter under a lock.
pub trait Lock {
    /// Lock, `work`, add one, unlock.
    fn section(&self, work: impl FnOnce());
    /// The counter, when nobody works on it.
    fn count(&self) -> u64;
}

/// What one process or thread does in a contended run.
pub struct Task<'a> {
    inside: u64,
    outside: u64,
    seed: u64,
    stop: &'a AtomicU32,
}

/// A [`Lock`] with the loops compiled for it.
pub trait Contender {
    /// So many sections, one after the other.
    fn repeat(&self, n: u64);
    /// Sections until told to stop; how many.
    fn contend(&self, task: &Task<'_>) -> u64;
    /// The counter.
    fn total(&self) -> u64;
}

impl<L: Lock> Contender for L {
    fn repeat(&self, n: u64) {
        for _ in 0..n {
            self.section(|| ());
        }
    }

    fn contend(&self, task: &Task<'_>) -> u64 {
        let (mut x, mut random, mut ops) = (task.seed, task.seed, 0);
        while task.stop.load(Relaxed) == 0 {
            self.section(|| x = chain(task.inside, x));
            ops += 1;
            if task.outside > 0 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let jitter = ((random >> 32) * task.outside) >> 32; // 0..outside
                x = chain(task.outside / 2 + jitter, x);
            }
        }
        black_box(x);
        ops
    }

    fn total(&self) -> u64 {
        self.count()
    }
}

/// `n` multiplications, each of which needs the one before. The xor keeps the compiler from multiplying the factors
/// of several links beforehand.
#[inline]
fn chain(n: u64, mut x: u64) -> u64 {
    for _ in 0..n {
        x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (x >> 29);
    }
    x
}

/// Links of the chain per nanosecond.
fn links_per_ns() -> f64 {
    let links = 2_000_000;
    let fastest =
        (0..15).map(|_| nanos(|| _ = black_box(chain(links, black_box(7))))).fold(f64::INFINITY, f64::min);
    links as f64 / fastest
}

const OURS: &str = "**SharedValue**";
const RAW_SYNC: &str = "raw_sync";
const RAW_SYNC_SAFE: &str = "raw_sync over a robust mutex";
const PTHREAD: &str = "pthread";
const ROBUST: &str = "pthread robust";
const STD: &str = "std::sync::Mutex";
const ATOMIC: &str = "bare fetch_add";
const OUR_ATOMIC: &str = "**SharedAtomic::fetch_add**";

/// Table 1: one process, nobody else.
pub fn uncontended(settings: &Settings, goals: &mut Goals) {
    let rows: Vec<(&str, Box<dyn Contender>)> = vec![
        (ATOMIC, Box::new(peers::Atomic::new())),
        (OUR_ATOMIC, Box::new(ours::Atomic::new())),
        (STD, Box::new(peers::Std::default())),
        ("parking_lot", Box::new(peers::ParkingLot::default())),
        (OURS, Box::new(ours::Value::new())),
        (PTHREAD, Box::new(peers::Pthread::new(peers::Kind::Plain))),
        (ROBUST, Box::new(peers::Pthread::new(peers::Kind::Robust))),
        (RAW_SYNC, Box::new(peers::RawSync::plain())),
        (RAW_SYNC_SAFE, Box::new(peers::RawSync::over_robust())),
        ("**SharedValue over raw_sync**", Box::new(ours::ValueOverRawSync::new())),
    ];
    let mut samples = vec![Samples::default(); rows.len()];
    let n = settings.scaled(1_000_000);
    settings.interleave(rows.len(), |i| {
        let before = rows[i].1.total();
        let best = (0..3).map(|_| nanos(|| rows[i].1.repeat(n))).fold(f64::INFINITY, f64::min);
        assert_eq!(rows[i].1.total() - before, 3 * n, "{}: counts were lost", rows[i].0);
        samples[i].push(best / n as f64);
    });

    let at = |name| &samples[rows.iter().position(|r| r.0 == name).expect("a row")];
    println!("## Uncontended: lock, add to a u64, unlock, in one process\n");
    println!(
        "Best of 3 batches of {n} in each repetition. The atomics have no lock; std and parking_lot cannot"
    );
    println!("leave their process.\n");
    let mut table = Table::new(&["", "ns", "/ std::sync::Mutex", "raw_sync / this"]);
    for ((name, _), ns) in rows.iter().zip(&samples) {
        let cells = [digits(ns.over(at(STD)).median()), digits(at(RAW_SYNC).over(ns).median())];
        table.row(&[*name, &ns.show(), &cells[0], &cells[1]]);
    }
    table.print();

    goals.at_most("uncontended lock+add+unlock / std::sync::Mutex", 1.15, at(OURS).over(at(STD)));
    goals.at_most("uncontended lock+add+unlock / raw_sync", 0.6, at(OURS).over(at(RAW_SYNC)));
    // "equal": what two runs of the same instruction differ by
    goals.at_most(
        "SharedAtomic::fetch_add / bare atomic (equal, within 5 %)",
        1.05,
        at(OUR_ATOMIC).over(at(ATOMIC)),
    );
}

/// Table 2: reading eight bytes.
pub fn read(settings: &Settings, goals: &mut Goals) {
    let (page, volatile, value) = (peers::Atomic::new(), peers::Plain::new(), ours::Value::new());
    let n = settings.scaled(5_000_000);
    let loops: [(&str, &dyn Fn()); 3] = [
        ("plain load (relaxed)", &|| (0..n).for_each(|_| _ = black_box(page.count()))),
        ("plain load (volatile)", &|| (0..n).for_each(|_| _ = black_box(volatile.load()))),
        ("**SharedValue::get**", &|| (0..n).for_each(|_| _ = black_box(value.get()))),
    ];
    let mut samples = vec![Samples::default(); loops.len()];
    settings.interleave(loops.len(), |i| {
        let best = (0..3).map(|_| nanos(loops[i].1)).fold(f64::INFINITY, f64::min);
        samples[i].push(best / n as f64);
    });
    let over = |i: usize| samples[i].zip(&samples[0], |a, b| a - b);
    println!("## Reading 8 bytes, nobody writes\n");
    let mut table = Table::new(&["", "ns", "above a relaxed load, ns"]);
    for (i, (name, _)) in loops.iter().enumerate() {
        table.row(&[*name, &samples[i].show(), &over(i).show()]);
    }
    table.print();
    goals.at_most("SharedValue::get of 8 bytes above a plain load, ns", 2.0, over(2));
}

/// Processes or threads?
enum How {
    Processes(Box<dyn Contender>),
    Threads(Box<dyn Contender + Sync>),
}

/// One cell of the contended tables: all repetitions of one contestant with one amount of work.
#[derive(Clone, Default)]
struct Cell {
    mops: Samples,
    least_share: Samples,
    cores: Samples,
}

/// Nanoseconds inside and outside the section.
const WORK: [(u64, u64); 7] = [(0, 0), (0, 100), (100, 0), (100, 100), (0, 1000), (1000, 0), (1000, 1000)];

/// Tables 3: several processes, one lock.
pub fn contended(settings: &Settings, goals: &mut Goals) {
    let rows: Vec<(&str, How)> = vec![
        (OURS, How::Processes(Box::new(ours::Value::new()))),
        (RAW_SYNC, How::Processes(Box::new(peers::RawSync::plain()))),
        (RAW_SYNC_SAFE, How::Processes(Box::new(peers::RawSync::over_robust()))),
        (PTHREAD, How::Processes(Box::new(peers::Pthread::new(peers::Kind::Plain)))),
        (ROBUST, How::Processes(Box::new(peers::Pthread::new(peers::Kind::Robust)))),
        ("**SharedValue over raw_sync**", How::Processes(Box::new(ours::ValueOverRawSync::new()))),
        ("std (threads)", How::Threads(Box::new(peers::Std::default()))),
        ("parking_lot (threads)", How::Threads(Box::new(peers::ParkingLot::default()))),
    ];
    let links = links_per_ns();
    // What lock and unlock cost at the least: two atomic instructions, as std has them.
    let (alone, sections) = (peers::Std::default(), 1_000_000);
    let cost =
        (0..5).map(|_| nanos(|| alone.repeat(sections))).fold(f64::INFINITY, f64::min) / sections as f64;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!("## Contended: several processes, one lock\n");
    println!(
        "Columns: ns of work inside / outside the section (a link of the chain takes {:.2} ns; outside is jittered\n\
         0.5 to 1.5 times). {} ms a run; after each, counter == sum of operations. std and parking_lot as threads: their\n\
         locks cannot leave the process.\n",
        1.0 / links,
        settings.run.as_millis()
    );

    for parties in [2, 4] {
        let mut cells = vec![vec![Cell::default(); WORK.len()]; rows.len()];
        for (column, &(inside, outside)) in WORK.iter().enumerate() {
            settings.interleave(rows.len(), |i| {
                let lengths = ((inside as f64 * links) as u64, (outside as f64 * links) as u64);
                let outcome = run(settings, parties, &rows[i].1, lengths)
                    .unwrap_or_else(|e| panic!("{}, {parties} at {inside}/{outside}: {e}", rows[i].0));
                let cell = &mut cells[i][column];
                cell.mops.push(outcome.ops() as f64 / outcome.elapsed_ns() as f64 * 1e3);
                cell.least_share.push(outcome.least_share());
                cell.cores.push(outcome.cores_busy());
            });
        }

        let headings: Vec<String> = WORK.iter().map(|(i, o)| format!("{i}/{o}")).collect();
        let print = |title: &str, show: &dyn Fn(usize, usize) -> String| {
            println!("### {parties} processes on {cpus} cores: {title}\n");
            let mut table =
                Table::new(&[&[""], &headings.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
            for (i, (name, _)) in rows.iter().enumerate() {
                let cells = (0..WORK.len()).map(|column| show(i, column));
                table.row(&[(*name).to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
            }
            table.print();
        };
        print("million sections a second, all together", &|i, column| cells[i][column].mops.show());
        print("SharedValue / this", &|i, column| {
            digits(cells[0][column].mops.over(&cells[i][column].mops).median())
        });
        print("least share of one / mean", &|i, column| cells[i][column].least_share.show());
        print("cores that they kept busy", &|i, column| digits(cells[i][column].cores.median()));

        let at =
            |name, column: usize| &cells[rows.iter().position(|r| r.0 == name).expect("a row")][column].mops;
        let faster = |a: &Samples, b: &Samples| if a.median() >= b.median() { a.clone() } else { b.clone() };
        for (column, heading) in headings.iter().enumerate() {
            let (inside, outside) = WORK[column];
            let ours = &cells[0][column];
            // No lock can let more through than this, million a second: one section after the other, and each party
            // busy all the time.
            let section = inside as f64 + cost;
            let bound = f64::min(1e3 / section, parties.min(cpus) as f64 * 1e3 / (section + outside as f64));
            let raw_sync = faster(at(RAW_SYNC, column), at(RAW_SYNC_SAFE, column));
            if 1.4 * raw_sync.median() <= bound {
                let what =
                    format!("{parties} processes, {heading}: throughput / raw_sync (the faster of its two)");
                goals.at_least(&what, 1.4, ours.mops.over(&raw_sync));
            } else {
                let what = format!(
                    "{parties} processes, {heading}: throughput / raw_sync; the work allows {} M/s, so 1.4 times is out of reach",
                    digits(bound)
                );
                goals.at_least(&what, 1.0, ours.mops.over(&raw_sync));
            }
            let pthread = faster(at(PTHREAD, column), at(ROBUST, column));
            let what = format!(
                "{parties} processes, {heading}: throughput / pthread (the faster of plain and robust)"
            );
            goals.at_least(&what, 1.0, ours.mops.over(&pthread));
            let what = format!("{parties} processes, {heading}: least share of a process / mean");
            goals.at_least(&what, 0.7, ours.least_share.clone());
        }
    }
}

/// One contended run, checked.
fn run(
    settings: &Settings,
    parties: usize,
    how: &How,
    (inside, outside): (u64, u64),
) -> Result<peers::Outcome, String> {
    let total = || match how {
        How::Processes(lock) => lock.total(),
        How::Threads(lock) => lock.total(),
    };
    let contend = |lock: &dyn Contender, seat: usize, stop: &AtomicU32| {
        lock.contend(&Task { inside, outside, seed: 0x2545_F491_4F6C_DD1D ^ seat as u64, stop })
    };
    let before = total();
    let outcome = match how {
        How::Processes(lock) => peers::in_processes(
            parties,
            settings.run,
            || lock.repeat(1),
            |seat, stop| contend(&**lock, seat, stop),
        ),
        How::Threads(lock) => peers::in_threads(
            parties,
            settings.run,
            || lock.repeat(1),
            |seat, stop| contend(&**lock, seat, stop),
        ),
    }?;
    let (counted, made) = (total() - before, outcome.ops() + parties as u64);
    if counted != made {
        return Err(format!("the lock let two in: {made} sections, counted {counted}"));
    }
    Ok(outcome)
}

/// Two processes add to one `SharedValue`: nanoseconds per addition, all together. For the table beside Python.
pub fn two_processes(settings: &Settings) -> f64 {
    let outcome =
        run(settings, 2, &How::Processes(Box::new(ours::Value::new())), (0, 0)).expect("two processes add");
    outcome.elapsed_ns() as f64 / outcome.ops() as f64
}
