//! The small harness: settings, samples, markdown tables, the list of goals, and what a table is worth nothing
//! without: machine, date, command.
//!
//! All contestants of one table run once within each repetition, in an order that rotates, so that a change of the
//! machine's speed meets all of them. What is printed is the median over the repetitions (least..greatest). A ratio is
//! taken within each repetition first, then its median: it does not see drift at all.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What the command line asked for.
pub struct Settings {
    /// Few and short repetitions: shows that all runs, the numbers are rough.
    pub quick: bool,
    /// Repetitions of each table.
    pub repetitions: usize,
    /// Length of one contended run.
    pub run: Duration,
    only: Vec<String>,
}

/// The tables, in the order in which they run: all that forks comes before all that starts threads.
pub const TABLES: [&str; 8] =
    ["uncontended", "read", "contended", "map", "segments", "arrays", "pool", "python"];

impl Settings {
    /// Reads the command line.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self { quick: false, repetitions: 0, run: Duration::ZERO, only: Vec::new() };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => settings.quick = true,
                "--bench" => {} // `cargo bench` adds it
                "--only" => {
                    let tables = args.next().ok_or("--only needs a table")?;
                    settings.only.extend(tables.split(',').map(str::to_owned));
                }
                "--repetitions" => settings.repetitions = number(&arg, args.next())?,
                "--run-ms" => settings.run = Duration::from_millis(number(&arg, args.next())? as u64),
                other => return Err(format!("unknown: {other}")),
            }
        }
        if let Some(table) = settings.only.iter().find(|t| !TABLES.contains(&t.as_str())) {
            return Err(format!("no table is named {table}"));
        }
        if settings.repetitions == 0 {
            settings.repetitions = if settings.quick { 2 } else { 7 };
        }
        if settings.run.is_zero() {
            // long enough for the scheduler to be fair to four processes on two cores
            settings.run = Duration::from_millis(if settings.quick { 15 } else { 100 });
        }
        Ok(settings)
    }

    /// Is this table to be run?
    pub fn wants(&self, table: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|t| t == table)
    }

    /// `full`, or a tenth of it.
    pub fn scaled(&self, full: u64) -> u64 {
        if self.quick { full / 10 } else { full }
    }

    /// Runs contestants `0..n` once per repetition, each repetition beginning with another one.
    pub fn interleave(&self, n: usize, mut run: impl FnMut(usize)) {
        for repetition in 0..self.repetitions {
            for i in 0..n {
                run((i + repetition) % n);
            }
        }
    }
}

fn number(option: &str, value: Option<String>) -> Result<usize, String> {
    let value = value.and_then(|v| v.parse().ok()).filter(|&n| n > 0);
    value.ok_or_else(|| format!("{option} needs a number from 1"))
}

/// One number per repetition.
#[derive(Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds the number of one more repetition.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Both of one repetition put together by `f`.
    pub fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "a repetition is missing");
        Self(self.0.iter().zip(&other.0).map(|(&a, &b)| f(a, b)).collect())
    }

    /// `self / other`, repetition by repetition.
    pub fn over(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn greatest(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// `median (least..greatest)`.
    pub fn show(&self) -> String {
        format!("{} ({}..{})", digits(self.median()), digits(self.least()), digits(self.greatest()))
    }
}

/// Three digits that count.
pub fn digits(v: f64) -> String {
    match v.abs() {
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// A markdown table.
pub struct Table {
    text: String,
}

impl Table {
    /// With these headings.
    pub fn new(headings: &[&str]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(headings);
        table.row(&vec!["---"; headings.len()]);
        table
    }

    /// One more line.
    pub fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        for cell in cells {
            let _ = write!(self.text, "| {} ", cell.as_ref());
        }
        self.text.push_str("|\n");
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{}", self.text);
    }
}

/// What the issue asks for, and what came out.
#[derive(Default)]
pub struct Goals {
    lines: Vec<(String, String, Samples, bool)>,
}

impl Goals {
    /// `measured` may be at most `limit`.
    pub fn at_most(&mut self, what: &str, limit: f64, measured: Samples) {
        let met = measured.median() <= limit;
        self.lines.push((what.to_owned(), format!("at most {limit}"), measured, met));
    }

    /// `measured` must be at least `limit`.
    pub fn at_least(&mut self, what: &str, limit: f64, measured: Samples) {
        let met = measured.median() >= limit;
        self.lines.push((what.to_owned(), format!("at least {limit}"), measured, met));
    }

    /// Prints the list, those that were missed last.
    pub fn print(&self, disturbed: bool) {
        if self.lines.is_empty() {
            return;
        }
        println!("## Goals\n");
        let mut table = Table::new(&["goal", "limit", "measured", ""]);
        for wanted in [true, false] {
            for (what, limit, measured, _) in self.lines.iter().filter(|line| line.3 == wanted) {
                let verdict = if wanted { "met" } else { "**NOT met**" };
                table.row(&[what, limit, &measured.show(), verdict]);
            }
        }
        table.print();
        let met = self.lines.iter().filter(|line| line.3).count();
        println!("{met} of {} met, by the median of the repetitions.", self.lines.len());
        if disturbed {
            println!("**The run was disturbed (above): neither \"met\" nor \"NOT met\" says much.**");
        }
    }
}

/// Nanoseconds that `f` takes.
pub fn nanos(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1e9
}

/// Prints machine, date and command.
pub fn print_conditions(settings: &Settings) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|l| l.starts_with(name))?;
        line.split_once(':').map(|(_, v)| v.trim().to_owned())
    };
    // x86 names its model; aarch64 has only numbers
    let cpu = field("model name").map_or_else(
        || format!("implementer {:?}, part {:?}", field("CPU implementer"), field("CPU part")),
        |name| format!("{name}, model {}", field("model\t").unwrap_or_default()),
    );
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    let date =
        date.map_or_else(|_| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let load = read("/proc/loadavg");
    println!("# allmend and its peers, side by side\n");
    println!("- machine: {cpu}, {cores} cores for us, Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("- compiler: {}", env!("BENCH_RUSTC"));
    println!("- date: {date}; load before the run: {}", load.split(' ').next().unwrap_or("unknown"));
    println!("- command: `{}`", std::env::args().collect::<Vec<_>>().join(" "));
    println!(
        "- {} repetitions, all contestants of a table within each; median (least..greatest)",
        settings.repetitions
    );
    if settings.quick {
        println!("- **--quick: this shows that all runs; the numbers are rough**");
    }
    if cfg!(debug_assertions) {
        println!("- **a debug build: the numbers mean nothing; use --release**");
    }
    println!();
}

/// Who else used the processors while we measured: the reason to throw a run away.
pub struct Bystanders {
    start: Instant,
    all: u64,
    ours: u64,
}

impl Bystanders {
    /// From now on.
    pub fn watch() -> Self {
        Self { start: Instant::now(), all: all_ticks(), ours: our_ticks() }
    }

    /// Says what they took. True: nothing that was measured can be trusted.
    pub fn print(&self) -> bool {
        let (all, ours) = (all_ticks() - self.all, our_ticks() - self.ours);
        let elapsed = self.start.elapsed();
        let cores = all.saturating_sub(ours) as f64 / TICKS_PER_SECOND / elapsed.as_secs_f64();
        let disturbed = cores > 0.1;
        let verdict =
            if disturbed { "**disturbed: run it again when the machine is quiet**" } else { "quiet" };
        println!("Others used {cores:.2} cores while this ran, in {elapsed:.0?}: {verdict}.\n");
        disturbed
    }
}

/// In which the kernel counts for /proc, on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

fn ticks(path: &str, fields: impl Fn(&str) -> Option<u64>) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| fields(&text)).unwrap_or(0)
}

/// Of all processors: what was not idle, and what the hypervisor took.
fn all_ticks() -> u64 {
    ticks("/proc/stat", |text| {
        let counts = text.lines().next()?.split_whitespace().skip(1).map(|n| n.parse().unwrap_or(0));
        let counts: Vec<u64> = counts.take(8).collect(); // user nice system idle iowait irq softirq steal
        Some(counts.iter().sum::<u64>() - counts.get(3)? - counts.get(4)?)
    })
}

/// Of this process and its children that were reaped.
fn our_ticks() -> u64 {
    ticks("/proc/self/stat", |text| {
        let after_name = text.rsplit_once(')')?.1;
        Some(after_name.split_whitespace().skip(11).take(4).map(|n| n.parse().unwrap_or(0)).sum::<u64>())
    })
}
