//! The map table: a million entries, keys uniform and by zipf's law, readers and writers in one and two processes.
//!
//! # A run of one contestant
//!
//! Phases, which all its processes (or threads) begin together: insert into empty, then six of a fixed length:
//!
//! | | 100 % get | 95 % get, 5 % overwrite | 50/50 |
//! |---|---|---|---|
//! | uniform | | | |
//! | zipf 0.99 | | | |
//!
//! Behind them, for those that live in a process: looks for keys that are not there.
//!
//! What is printed is nanoseconds per operation as each process sees it: with two, the throughput is twice that.
//!
//! The sequence of keys is made beforehand and read in order, so neither dice nor hashing of the dice is measured. Keys
//! are scattered by splitmix64; each `get` looks at what it got, and a wrong value or a miss ends the run.

use crate::harness::{Goals, Samples, Settings, Table, digits, nanos};
use crate::{map_ours, map_outside, map_peers, peers};
use std::hash::Hash;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Names of the phases, in order.
pub const NAMES: [&str; 7] = [
    "insert into empty",
    "get, uniform",
    "95/5, uniform",
    "50/50, uniform",
    "get, zipf",
    "95/5, zipf",
    "50/50, zipf",
];
const INSERT: usize = 0;
const GETS: [usize; 2] = [1, 4];
const READS: [usize; 4] = [1, 2, 4, 5];

/// Entries of the maps of slow contestants: a process behind a socket.
pub const FEW: usize = 20_000;

/// A key or a value.
pub trait Data: Copy + Send + Sync + 'static {
    /// The one that belongs to number `n`.
    fn of(n: u64) -> Self;
    /// Its bytes.
    fn bytes(&self) -> &[u8];
}

impl Data for u64 {
    fn of(n: u64) -> Self {
        splitmix(n)
    }
    fn bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }
}

/// A string of 16 bytes.
impl Data for [u8; 16] {
    fn of(n: u64) -> Self {
        let mut text = [0; 16];
        for (i, digit) in text.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(splitmix(n) >> (4 * i) & 15) as usize];
        }
        text
    }
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// 100 bytes.
impl Data for [u8; 100] {
    fn of(n: u64) -> Self {
        let mut all = [b'v'; 100];
        all[..8].copy_from_slice(&splitmix(n).to_le_bytes());
        all
    }
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// The `n`-th of a sequence of scattered numbers.
pub fn splitmix(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which numbers are asked for, in this order.
pub struct Sequence {
    uniform: Vec<u32>,
    zipf: Vec<u32>,
}

impl Sequence {
    /// Of `length` numbers below `n`.
    fn new(n: usize, length: usize) -> Self {
        let mut state = 1;
        let mut next = || {
            state += 1;
            splitmix(state ^ 0x5eed_0000_0000)
        };
        let uniform = (0..length).map(|_| (next() % n as u64) as u32).collect();
        // Gray et al., "Quickly generating billion-record synthetic databases", as YCSB does it.
        const THETA: f64 = 0.99;
        let zeta = |n: usize| (1..=n).map(|i| 1.0 / (i as f64).powf(THETA)).sum::<f64>();
        let (zeta_n, zeta_2) = (zeta(n), zeta(2));
        let (alpha, eta) =
            (1.0 / (1.0 - THETA), (1.0 - (2.0 / n as f64).powf(1.0 - THETA)) / (1.0 - zeta_2 / zeta_n));
        let rank = |u: f64| {
            let uz = u * zeta_n;
            match () {
                () if uz < 1.0 => 0,
                () if uz < 1.0 + 0.5f64.powf(THETA) => 1,
                () => (n as f64 * (eta * u - eta + 1.0).powf(alpha)) as u32,
            }
        };
        let zipf = (0..length)
            .map(|_| rank((next() >> 11) as f64 / (1u64 << 53) as f64).min(n as u32 - 1))
            .collect();
        Self { uniform, zipf }
    }
}

/// All keys, and the keys in the order of the two sequences: what is measured reads them one after the other.
pub struct Keys<K> {
    /// Key `i` belongs to number `i`.
    pub all: Vec<K>,
    uniform: Vec<(K, u32)>,
    zipf: Vec<(K, u32)>,
}

impl<K: Data> Keys<K> {
    fn new(n: usize, sequence: &Sequence) -> Self {
        let keyed = |numbers: &[u32]| numbers.iter().map(|&i| (K::of(i.into()), i)).collect();
        Self {
            all: (0..n as u64).map(K::of).collect(),
            uniform: keyed(&sequence.uniform),
            zipf: keyed(&sequence.zipf),
        }
    }

    /// The first so many numbers only.
    fn few(sequence: &Sequence, n: usize) -> Self {
        let folded = |numbers: &[u32]| numbers.iter().map(|&i| i % n as u32).collect();
        let zipf = Sequence::new(n, sequence.zipf.len()).zipf;
        Self::new(n, &Sequence { uniform: folded(&sequence.uniform), zipf })
    }
}

/// A map, as one process or thread sees it.
pub trait Store<K, V> {
    /// The phases after the first work on the same map.
    const GOES_ON: bool = true;
    /// Is the value there, and the right one?
    fn get(&mut self, key: &K, value: &V) -> bool;
    /// Inserts or overwrites.
    fn put(&mut self, key: &K, value: &V);
    /// Waits for what is under way.
    fn settle(&mut self) {}
}

/// How a contestant gets its processes its maps.
pub struct Plan<'a> {
    /// For how long each phase may last.
    pub limits: &'a [Duration; NAMES.len()],
    /// Processes, or threads.
    pub parties: usize,
}

/// Inserts this one's share of all keys.
fn insert<K: Data, V: Data>(
    store: &mut impl Store<K, V>,
    keys: &Keys<K>,
    (seat, parties): (usize, usize),
    skip: u64,
    stop: &AtomicU32,
) -> u64 {
    let mut done = 0;
    for i in (seat..keys.all.len()).step_by(parties).skip(skip as usize) {
        if done % 64 == 0 && stop.load(Relaxed) != 0 {
            break;
        }
        store.put(&keys.all[i], &V::of(i as u64));
        done += 1;
    }
    store.settle();
    done
}

/// Reads, and overwrites so many percent, until told to stop.
fn mixed<K: Data, V: Data>(
    store: &mut impl Store<K, V>,
    sequence: &[(K, u32)],
    seat: usize,
    writes: u64,
    stop: &AtomicU32,
) -> u64 {
    let (mut done, mut at, mut right) = (0u64, seat * sequence.len() / 3, true);
    let below = writes * (u64::MAX / 100);
    loop {
        if stop.load(Relaxed) != 0 {
            break;
        }
        for _ in 0..64 {
            let (key, number) = &sequence[at];
            if writes > 0 && done.wrapping_mul(0x9e37_79b9_7f4a_7c15) < below {
                store.put(key, &V::of((*number).into()));
            } else {
                right &= store.get(key, &V::of((*number).into()));
            }
            done += 1;
            at += 1;
            if at == sequence.len() {
                at = 0;
            }
        }
    }
    store.settle();
    assert!(right, "a wrong value, or none");
    done
}

/// What the process or thread at `seat` does: inserts its share (the `i`-th of so many) into `empty`, then works on what
/// `full` makes of it.
pub fn seat<K: Data, V: Data, S: Store<K, V>>(
    phases: &peers::Phases,
    keys: &Keys<K>,
    seat: usize,
    share: (usize, usize),
    mut empty: S,
    full: impl FnOnce(S) -> S,
    warm: usize,
) {
    let mut inserted = 0;
    phases.run(INSERT, seat, |stop| {
        inserted = insert(&mut empty, keys, share, 0, stop);
        inserted
    });
    if S::GOES_ON {
        insert(&mut empty, keys, share, inserted, &AtomicU32::new(0)); // what time did not allow
    }
    let mut store = full(empty);
    // Pages that others made are not mapped here yet.
    for (key, number) in keys.uniform.iter().take(warm) {
        black_box(store.get(key, &V::of((*number).into())));
    }
    store.settle();
    for phase in 1..NAMES.len() {
        let sequence = if phase < 4 { &keys.uniform } else { &keys.zipf };
        let writes = [0, 5, 50][(phase - 1) % 3];
        phases.run(phase, seat, |stop| mixed(&mut store, sequence, seat, writes, stop));
    }
}

/// A contestant: its name and what it costs per phase, by number of processes.
type Run<'a> = Box<dyn FnMut(&Plan) -> Result<Vec<f64>, String> + 'a>;

struct Contestant<'a> {
    name: &'static str,
    note: String,
    run: Run<'a>,
    /// For each number of processes, for each phase.
    samples: [Vec<Samples>; 2],
}

impl<'a> Contestant<'a> {
    fn new(name: &'static str, note: impl Into<String>, run: Run<'a>) -> Self {
        let none = || vec![Samples::default(); NAMES.len()];
        Self { name, note: note.into(), run, samples: [none(), none()] }
    }
}

const OURS: &str = "**SharedMap**, processes";
const HASHBROWN: &str = "hashbrown, each process its own";
const DASHMAP: &str = "dashmap, threads";
const PAPAYA: &str = "papaya, threads";
const LMDB: &str = "LMDB, a transaction each";
const REDIS: &str = "Redis, unix socket";
const PIPELINED: &str = "Redis, 64 in flight";
const BOOST: &str = "Boost.Interprocess unordered_map";
const MANAGER: &str = "Python Manager().dict";

/// Runs it all.
pub fn table(settings: &Settings, goals: &mut Goals) {
    let n = if settings.quick { 20_000 } else { 1_000_000 };
    let run = settings.run / 2;
    let mut limits = [run; NAMES.len()];
    limits[INSERT] = run * 20;
    let sequence = Sequence::new(n, n.max(200_000));
    println!("## Maps: {n} entries\n");
    println!(
        "Nanoseconds per operation as each process (or thread) sees it; {} ms for each phase.\n",
        run.as_millis()
    );
    // First, while the segment is small: memory that a map had stays with the segment.
    let mut bytes = Samples::default();
    bytes.push(map_ours::bytes_per_entry(n as u64));
    println!("Memory of ours: {} bytes per entry of u64 -> u64.\n", digits(bytes.median()));
    let mut all = Vec::new();
    let words = Keys::<u64>::new(n, &sequence);
    let few = Keys::<u64>::few(&sequence, FEW.min(n));
    all.push(one_kind::<u64, u64>("u64 -> u64", "u64", settings, &limits, &words, &few));
    drop((words, few));
    let texts = Keys::<[u8; 16]>::new(n, &sequence);
    let few = Keys::<[u8; 16]>::few(&sequence, FEW.min(n));
    all.push(one_kind::<[u8; 16], [u8; 100]>(
        "string of 16 bytes -> 100 bytes",
        "str",
        settings,
        &limits,
        &texts,
        &few,
    ));
    absent(settings, n as u64); // last: memory that a map had stays with the segment
    state_goals(&all, goals);
    if n >= 1_000_000 {
        goals.at_most("map: bytes per entry of u64 -> u64", 50.0, bytes);
    }
}

/// A look for keys that are not there, in one process and one thread: u64 -> u64, and strings of 16 bytes -> 100 bytes.
fn absent(settings: &Settings, n: u64) {
    let columns = [absent_of::<u64, u64>(settings, n), absent_of::<[u8; 16], [u8; 100]>(settings, n)];
    let mut table = Table::new(&["ns", "u64 -> u64", "string -> 100 bytes"]);
    println!("### get of a key that is not there, one process\n");
    for (i, name) in [OURS, HASHBROWN, DASHMAP, PAPAYA].into_iter().enumerate() {
        let cell = |column: &Vec<Samples>| digits(column[i].median());
        table.row(&[name.to_owned(), cell(&columns[0]), cell(&columns[1])]);
    }
    table.print();
}

fn absent_of<K: Data + Hash + Eq + map_ours::AsKey, V: Data + PartialEq + map_ours::AsValue>(
    settings: &Settings,
    n: u64,
) -> Vec<Samples> {
    let ours = allmend::SharedMap::<K::Key, V::Value>::new().expect("a map");
    let mut hashbrown = map_peers::in_process::hashbrown::<K, V>();
    let dashmap = map_peers::in_process::dashmap::<K, V>();
    let papaya = map_peers::in_process::papaya::<K, V>();
    for i in 0..n {
        let (key, value) = (K::of(i), V::of(i));
        ours.set(key.key(), value.value()).expect("a write");
        hashbrown.insert(key, value);
        dashmap.insert(key, value);
        papaya.pin().insert(key, value);
    }
    let keys: Vec<K> = (n..2 * n).map(K::of).collect();
    let mut samples = vec![Samples::default(); 4];
    settings.interleave(4, |i| {
        samples[i].push(match i {
            0 => missed(&keys, |key| ours.get(key.key()).expect("a read").is_some()),
            1 => missed(&keys, |key| hashbrown.get(key).is_some()),
            2 => missed(&keys, |key| dashmap.get(key).is_some()),
            _ => missed(&keys, |key| papaya.pin().get(key).is_some()),
        });
    });
    samples
}

/// Nanoseconds of a look that finds nothing.
fn missed<K>(keys: &[K], mut is_there: impl FnMut(&K) -> bool) -> f64 {
    let mut there = 0;
    let took = nanos(|| there = black_box(keys).iter().filter(|key| is_there(key)).count());
    assert_eq!(there, 0, "a key that was never inserted");
    took / keys.len() as f64
}

/// What one contestant needed: name, samples.
type Results = Vec<(&'static str, [Vec<Samples>; 2])>;

fn one_kind<K: Data + Hash + Eq + map_ours::AsKey, V: Data + PartialEq + map_ours::AsValue>(
    title: &str,
    kind: &'static str,
    settings: &Settings,
    limits: &[Duration; NAMES.len()],
    keys: &Keys<K>,
    few: &Keys<K>,
) -> Results {
    let mut left_out = Vec::new();
    let mut rows = vec![
        Contestant::new(OURS, "", Box::new(|plan| map_ours::run::<K, V>(plan, keys))),
        Contestant::new(HASHBROWN, "", Box::new(|plan| map_peers::hashbrown::<K, V>(plan, keys))),
        Contestant::new(DASHMAP, "", Box::new(|plan| map_peers::dashmap::<K, V>(plan, keys))),
        Contestant::new(PAPAYA, "", Box::new(|plan| map_peers::papaya::<K, V>(plan, keys))),
    ];
    match map_peers::Lmdb::new::<K, V>(kind, keys) {
        Ok(lmdb) => rows.push(Contestant::new(LMDB, "", Box::new(move |plan| lmdb.run::<K, V>(plan, keys)))),
        Err(e) => left_out.push(format!("{LMDB}: {e}")),
    }
    match map_peers::RedisServer::start(kind).map(std::rc::Rc::new) {
        Ok(server) => {
            let another = server.clone();
            let note = format!("{} entries", few.all.len());
            rows.push(Contestant::new(REDIS, note, Box::new(move |plan| another.run::<K, V>(plan, few, 1))));
            rows.push(Contestant::new(
                PIPELINED,
                "",
                Box::new(move |plan| server.run::<K, V>(plan, keys, 64)),
            ));
        }
        Err(e) => left_out.push(format!("{REDIS}: {e}")),
    }
    match map_outside::Boost::build() {
        Ok(boost) => {
            let n = keys.all.len();
            rows.push(Contestant::new(BOOST, "", Box::new(move |plan| boost.run(plan, kind, n))));
        }
        Err(e) => left_out.push(format!("{BOOST}: {e}")),
    }
    match map_outside::python_version() {
        Ok(version) => {
            let n = few.all.len();
            let note = format!("{version}, {n} entries");
            rows.push(Contestant::new(
                MANAGER,
                note,
                Box::new(move |plan| map_outside::manager(plan, kind, n)),
            ));
        }
        Err(e) => left_out.push(format!("{MANAGER}: {e}")),
    }
    let mut failed: Vec<Option<String>> = vec![None; rows.len()];
    settings.interleave(rows.len(), |i| {
        for parties in [1, 2] {
            if failed[i].is_some() {
                continue;
            }
            match (rows[i].run)(&Plan { limits, parties }) {
                Ok(costs) => {
                    for (samples, cost) in rows[i].samples[parties - 1].iter_mut().zip(costs) {
                        samples.push(cost);
                    }
                }
                Err(e) => failed[i] = Some(e),
            }
        }
    });
    println!("### {title}\n");
    for line in left_out {
        println!("Left out: {line}.\n");
    }
    let mut table = Table::new(
        &[&["ns, 1 process / 2 processes"], &NAMES[..]]
            .concat()
            .into_iter()
            .chain(["get, uniform / hashbrown"])
            .collect::<Vec<_>>(),
    );
    let base = rows[1].samples[0][1].clone();
    for (row, failed) in rows.iter().zip(&failed) {
        if let Some(e) = failed {
            // The peer is broken, not we; ours must not fail.
            println!("{} failed: {e}\n", row.name);
            assert!(row.name != OURS, "our own map failed: {e}");
            continue;
        }
        let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
        let mut cells = vec![format!("{}{note}", row.name)];
        for (one, two) in row.samples[0].iter().zip(&row.samples[1]) {
            cells.push(format!("{} / {}", digits(one.median()), digits(two.median())));
        }
        cells.push(digits(row.samples[0][1].over(&base).median()));
        table.row(&cells);
    }
    table.print();
    let good = rows.into_iter().zip(failed).filter(|(_, failed)| failed.is_none());
    good.map(|(row, _)| (row.name, row.samples)).collect()
}

/// The worst of some rows: where `ours` stands worst against `theirs`, and how.
fn worst(
    all: &[Results],
    ours: &str,
    theirs: &str,
    phases: impl Fn(usize, usize) -> bool,
    worse: impl Fn(f64, f64) -> bool,
    ratio: impl Fn(&Samples, &Samples) -> Samples,
) -> Option<(String, Samples)> {
    let mut found: Option<(String, Samples)> = None;
    for (results, kind) in all.iter().zip(["u64", "str"]) {
        let of = |name: &str| results.iter().find(|(n, _)| *n == name).map(|(_, samples)| samples);
        let (Some(mine), Some(peer)) = (of(ours), of(theirs)) else { continue };
        for parties in 0..2 {
            for phase in (0..NAMES.len()).filter(|&phase| phases(phase, parties)) {
                let here = ratio(&peer[parties][phase], &mine[parties][phase]);
                if found.as_ref().is_none_or(|(_, there)| worse(here.median(), there.median())) {
                    found = Some((format!("{kind}, {}, {}p", NAMES[phase], parties + 1), here));
                }
            }
        }
    }
    found
}

/// What the project wants of its map.
fn state_goals(all: &[Results], goals: &mut Goals) {
    let ours = |kind: usize| all[kind].iter().find(|(name, _)| *name == OURS).map(|(_, samples)| samples);
    let limit =
        |kind: usize| all[kind].iter().find(|(name, _)| *name == HASHBROWN).map(|(_, samples)| samples);
    let (Some(words), Some(texts), Some(limit_words), Some(limit_texts)) =
        (ours(0), ours(1), limit(0), limit(1))
    else {
        println!("No goals of the map are stated: ours is not among the contestants.\n");
        return;
    };
    goals.at_most("map: u64 get, uniform / hashbrown", 2.0, words[0][1].over(&limit_words[0][1]));
    goals.at_most("map: u64 insert into empty / hashbrown", 3.0, words[0][0].over(&limit_words[0][0]));
    goals.at_most("map: string get, uniform / hashbrown", 1.75, texts[0][1].over(&limit_texts[0][1]));
    let times = |peer: &Samples, mine: &Samples| peer.over(mine);
    let lower = |a: f64, b: f64| a < b;
    let mut at_least = |what: &str, peer: &str, limit: f64, phases: &dyn Fn(usize, usize) -> bool| {
        if let Some((row, samples)) = worst(all, OURS, peer, phases, lower, times) {
            goals.at_least(&format!("map: {what} (worst: {row})"), limit, samples);
        }
    };
    at_least("papaya / ours, every row", PAPAYA, 1.0, &|_, _| true);
    at_least("dashmap / ours, get and 95/5, 2 workers", DASHMAP, 1.0, &|phase, parties| {
        parties == 1 && READS.contains(&phase)
    });
    at_least("LMDB / ours, get", LMDB, 8.0, &|phase, _| GETS.contains(&phase));
    at_least("LMDB / ours, insert", LMDB, 5.0, &|phase, _| phase == INSERT);
    let (words_only, texts_only) = (&all[..1], &all[1..]);
    for (peer, in_words, elsewhere) in [(PIPELINED, 15.0, 5.0), (MANAGER, 400.0, 100.0)] {
        let mut state = |what: &str, part: &[Results], limit, phases: &dyn Fn(usize, usize) -> bool| {
            if let Some((row, samples)) = worst(part, OURS, peer, phases, lower, times) {
                let row = row.replace(
                    "u64",
                    if part.len() == 1 && std::ptr::eq(part, texts_only) { "str" } else { "u64" },
                );
                goals.at_least(&format!("map: {peer} / ours, {what} (worst: {row})"), limit, samples);
            }
        };
        state("u64 get", words_only, in_words, &|phase, _| GETS.contains(&phase));
        state("u64, elsewhere", words_only, elsewhere, &|phase, _| !GETS.contains(&phase));
        state("str", texts_only, elsewhere, &|_, _| true);
    }
    for (what, mine, limit) in [("u64", words, limit_words), ("str", texts, limit_texts)] {
        for phase in GETS {
            let loss = |s: &[Vec<Samples>; 2]| s[1][phase].over(&s[0][phase]);
            let what =
                format!("map: second reading process, {what} {}: our loss / hashbrown's", NAMES[phase]);
            goals.at_most(&what, 1.0, loss(mine).over(&loss(limit)));
        }
    }
}
