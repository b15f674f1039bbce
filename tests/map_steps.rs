//! A map whose writer is stopped, and then killed or let go on, at machine instructions of what it does.
//!
//! For each operation a victim is stepped through it once (ptrace), so that it is known where it is after how many
//! instructions: all maps here have the same hash, so each victim goes the same way. Then one victim after the other is
//! brought to its k-th instruction, in a process with a segment of its own, and stands there:
//!
//! * a reader, which runs all the time, comes by: keys that nobody works on are as they were, the others old or new, and
//!   never old again after new;
//! * another process writes to another shard;
//! * a third writes to the victim's shard, and waits if it must.
//!
//! Then the victim is killed (SIGKILL), or goes on. The one that waited gets its lock. What was seen while the victim
//! stood is what is there, the length is exact, each block and overflow bucket is in use or free once, `verify` is content,
//! and the operation can be done again.
//!
//! `cargo steps` has the code of a release, and a door to what a map is made of (`--cfg allmend_steps`; x86-64 only).
//! `ALLMEND_LONG=1` takes each instruction (with `ALLMEND_STRIDE=n` each n-th), else some of each operation. In builds with
//! `--cfg allmend_crash` there are controls instead: the same over maps that break a rule must be noticed.
#![allow(unsafe_code, reason = "forks")]
#![allow(clippy::disallowed_types, reason = "words between test processes are not the crate's")]

#[cfg(all(target_arch = "x86_64", any(allmend_crash, allmend_steps)))]
mod harness;

#[cfg(not(all(target_arch = "x86_64", any(allmend_crash, allmend_steps))))]
fn main() {
    println!("needs x86-64, and a build with --cfg allmend_steps: cargo steps");
    println!("0 passed, 0 failed");
}

#[cfg(all(target_arch = "x86_64", any(allmend_crash, allmend_steps)))]
fn main() {
    stepped::main();
}

#[cfg(all(target_arch = "x86_64", any(allmend_crash, allmend_steps)))]
mod stepped {
    use crate::harness::{
        self, Child, End, Line, Sleep, fork, pages, stage,
        steps::{Trace, finish, traced, walk},
        until, words,
    };
    use allmend::{SharedMap, steps};
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicU64, Ordering::SeqCst},
    };

    pub(super) fn main() {
        let all: &[harness::Test] = &[
            ("words_insert", || each(true, &["insert"])),
            ("words_change", || each(true, &["overwrite", "update", "remove"])),
            ("blocks_insert", || each(false, &["insert"])),
            ("blocks_change", || each(false, &["overwrite", "update", "remove"])),
            ("words_growth", || each(true, &["growth"])),
            ("words_clear", || each(true, &["clear"])),
            ("words_recovery", || each(true, &["recovery"])),
            ("blocks_growth", || each(false, &["growth"])),
            ("blocks_clear", || each(false, &["clear"])),
            ("blocks_recovery", || each(false, &["recovery"])),
        ];
        #[cfg(allmend_crash)]
        let all = &*[&all[..1], controls::ALL].concat();
        harness::run(all);
    }

    type Bytes = Vec<u8>;

    /// Entries in the buckets, or in blocks.
    enum AnyMap {
        Words(SharedMap<u64, u64>),
        Blocks(SharedMap<u64, Vec<u8>>),
    }

    /// Any numbers.
    const SEEDS: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfeed_beef_0bad_cafe];

    /// A value: a word, or of a length that tells `n`.
    fn value(inline: bool, n: u64) -> Bytes {
        if inline { n.to_le_bytes().to_vec() } else { vec![n as u8; 40 + (n as usize % 7) * 90] }
    }

    fn number(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(bytes.try_into().expect("8 bytes"))
    }

    impl AnyMap {
        fn new(inline: bool) -> Self {
            match inline {
                true => Self::Words(steps::seeded(SEEDS)),
                false => Self::Blocks(steps::seeded(SEEDS)),
            }
        }

        fn get(&self, key: u64) -> Option<Bytes> {
            match self {
                Self::Words(map) => map.get(key).expect("get").map(|n| n.to_le_bytes().to_vec()),
                Self::Blocks(map) => map.get(key).expect("get"),
            }
        }

        fn apply(&self, act: &Act) {
            match (self, act) {
                (Self::Words(map), Act::Put(key, value)) => {
                    _ = map.insert(*key, number(value)).expect("insert");
                }
                (Self::Blocks(map), Act::Put(key, value)) => _ = map.insert(*key, value).expect("insert"),
                (Self::Words(map), Act::Remove(key)) => _ = map.remove(*key).expect("remove"),
                (Self::Blocks(map), Act::Remove(key)) => _ = map.remove(*key).expect("remove"),
                (Self::Words(map), Act::Update(key, value)) => {
                    let new = number(value);
                    _ = map.update(*key, |old| old.map(|_| new)).expect("update");
                }
                (Self::Blocks(map), Act::Update(key, value)) => {
                    _ = map.update(*key, |old| old.map(|_| value.clone())).expect("update");
                }
                (Self::Words(map), Act::Clear) => map.clear().expect("clear"),
                (Self::Blocks(map), Act::Clear) => map.clear().expect("clear"),
            }
        }

        fn put(&self, key: u64, value: Bytes) {
            self.apply(&Act::Put(key, value));
        }

        fn entries(&self) -> BTreeMap<u64, Bytes> {
            let mut found = BTreeMap::new();
            let mut add = |key, value| assert!(found.insert(key, value).is_none(), "{key} was given twice");
            match self {
                Self::Words(map) => map.iter().for_each(|e| {
                    let (key, value) = e.expect("an entry");
                    add(key, value.to_le_bytes().to_vec());
                }),
                Self::Blocks(map) => map.iter().for_each(|e| {
                    let (key, value) = e.expect("an entry");
                    add(key, value);
                }),
            }
            found
        }

        fn len(&self) -> u64 {
            match self {
                Self::Words(map) => map.len() as u64,
                Self::Blocks(map) => map.len() as u64,
            }
        }

        fn audit(&self) -> (u64, bool) {
            match self {
                Self::Words(map) => steps::audit(map),
                Self::Blocks(map) => steps::audit(map),
            }
        }

        fn buckets(&self) -> u64 {
            match self {
                Self::Words(map) => steps::buckets(map),
                Self::Blocks(map) => steps::buckets(map),
            }
        }

        fn shard_of(&self, key: u64) -> usize {
            match self {
                Self::Words(map) => steps::shard_of(map, &key.to_le_bytes()),
                Self::Blocks(map) => steps::shard_of(map, &key.to_le_bytes()),
            }
        }

        /// The first key from `from` on of that shard, or of any other.
        fn key_of(&self, shard: usize, same: bool, from: u64) -> u64 {
            (from..).find(|&key| (self.shard_of(key) == shard) == same).expect("a key")
        }
    }

    /// What a victim does.
    #[derive(Clone, PartialEq, Eq, Debug)]
    enum Act {
        Put(u64, Bytes),
        Remove(u64),
        Update(u64, Bytes),
        Clear,
    }

    impl Act {
        /// What it makes of an entry; `None`: nothing.
        fn makes(&self, key: u64) -> Option<Option<Bytes>> {
            match self {
                Act::Put(k, value) | Act::Update(k, value) if *k == key => Some(Some(value.clone())),
                Act::Remove(k) if *k == key => Some(None),
                Act::Clear => Some(None),
                _ => None,
            }
        }
    }

    /// One operation on one state of a map.
    struct Operation {
        name: String,
        inline: bool,
        /// Keys that are there before.
        base: Vec<u64>,
        /// The shard in which it works.
        shard: usize,
        act: Act,
        /// One that was killed before, so that this begins with recovery: what it did, and after how many instructions.
        dead: Option<(Act, Trace, u64)>,
    }

    fn long() -> bool {
        std::env::var_os("ALLMEND_LONG").is_some()
    }

    /// For the long form where there is no time for each instruction of the longest operations.
    fn stride() -> Option<u64> {
        std::env::var("ALLMEND_STRIDE").ok()?.parse().ok()
    }

    /// Asks a map like the others, in a process of its own: here there is no segment, so that each world has one.
    fn asked(inline: bool, what: impl FnOnce(&AnyMap) -> Vec<u64>) -> Vec<u64> {
        let answer = words();
        let child = fork(|| {
            let found = what(&AnyMap::new(inline));
            answer[0].store(found.len() as u64, SeqCst);
            answer[1..].iter().zip(found).for_each(|(word, n)| word.store(n, SeqCst));
        });
        child.succeeds("who was asked");
        answer[1..][..answer[0].load(SeqCst) as usize].iter().map(|word| word.load(SeqCst)).collect()
    }

    /// Keys of a shard, of which the last splits a bucket for the `n`-th time.
    fn up_to_split(inline: bool, shard: usize, n: u32) -> Vec<u64> {
        asked(inline, |map| {
            let (mut keys, mut next, mut splits) = (Vec::new(), 10_000, 0);
            while splits < n {
                let (key, buckets) = (map.key_of(shard, true, next), map.buckets());
                map.put(key, value(inline, key));
                splits += u32::from(map.buckets() > buckets && buckets > 0);
                keys.push(key);
                next = key + 1;
            }
            keys
        })
    }

    /// The operations whose names begin so.
    fn operations(inline: bool, which: &str) -> Vec<Operation> {
        let shard_of = |key: u64| asked(inline, |map| vec![map.shard_of(key) as u64])[0] as usize;
        let base: Vec<u64> = (0..40).collect();
        let of = |name: &str, key: u64, act| Operation {
            name: format!("{name}, {}", if inline { "words" } else { "blocks" }),
            inline,
            base: base.clone(),
            shard: shard_of(key),
            act,
            dead: None,
        };
        let growth = |n| {
            let mut base = up_to_split(inline, shard_of(7), n);
            let key = base.pop().expect("keys");
            let act = Act::Put(key, value(inline, key));
            Operation { base, ..of(&format!("growth, step {n}"), 7, act) }
        };
        let put = |key, n| Act::Put(key, value(inline, n));
        match which {
            "insert" => vec![
                of("insert", 700, put(700, 700)),
                Operation { base: vec![], ..of("insert, the first", 7, put(7, 7)) },
            ],
            "overwrite" => vec![
                of("overwrite, the same size", 7, put(7, 7 + 7 * 30)),
                of("overwrite, another size", 7, put(7, 12)),
            ],
            "update" => vec![of("update", 7, Act::Update(7, value(inline, 13)))],
            "remove" => vec![of("remove", 7, Act::Remove(7))],
            // The first adds a chunk of buckets, too.
            "growth" => vec![growth(1), growth(2)],
            "clear" => vec![of("clear", 0, Act::Clear)],
            "recovery" => {
                let mut all = Vec::new();
                let after = |first: Operation, what: &str, places: fn(&Changed) -> u64| {
                    let (trace, changed) = trace_of(&first, &|| ());
                    let (at, last) = (places(&changed), trace.len() - 1);
                    let key = asked(inline, |map| vec![map.key_of(first.shard, true, 800_000)])[0];
                    Operation {
                        name: format!("recovery, of {what} in {}, killed after {at} of {last}", first.name),
                        act: put(key, 5),
                        dead: Some((first.act.clone(), trace, at)),
                        ..first
                    }
                };
                all.push(after(growth(2), "a bucket that is not counted yet", |at| at.buckets - 2));
                all.push(after(growth(1), "entries in two buckets", |at| at.buckets + 2));
                if !inline {
                    let change = of("overwrite, another size", 7, put(7, 12));
                    all.push(after(change, "a block that is not free yet", |at| at.entry + 2));
                    let insert = of("insert", 700, put(700, 700));
                    all.push(after(insert, "a block that no slot names yet", |at| at.entry - 2));
                }
                all
            }
            other => panic!("{other}"),
        }
    }

    /// After how many instructions of an operation its entry changed for readers, and the number of buckets.
    #[derive(Clone, Copy, Debug)]
    struct Changed {
        entry: u64,
        buckets: u64,
    }

    // ---- one world ----

    /// What becomes of the victim.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        /// Stepped through, to see where it is when.
        Traced(&'static [AtomicU64]),
        KilledAt(u64),
        /// Stands there a while, and goes on.
        StoppedAt(u64),
    }

    /// What the worlds of an operation tell, in words.
    #[derive(Clone, Copy)]
    enum Told {
        Asleep,
        Old,
        New,
        /// It went another way than the trace, and stood elsewhere.
        Astray,
        /// Of the trace: its length, and what [`Changed`] has.
        Length,
        Entry,
        Buckets,
    }

    struct Tell(&'static [AtomicU64]);

    impl Tell {
        fn add(&self, what: Told, n: u64) {
            self.0[what as usize].fetch_add(n, SeqCst);
        }

        fn read(&self, what: Told) -> u64 {
            self.0[what as usize].load(SeqCst)
        }
    }

    /// What each key may have, one after the other.
    type Expected = BTreeMap<u64, Vec<Option<Bytes>>>;

    /// A process that reads all keys again and again, and says how often it came by.
    fn reader(map: &AnyMap, expected: &Expected, passes: &AtomicU64, end: &AtomicU64) -> Child {
        fork(|| {
            let mut newest: BTreeMap<u64, usize> = BTreeMap::new();
            while end.load(SeqCst) == 0 {
                for (key, states) in expected {
                    let found = map.get(*key);
                    let seen = states.iter().position(|state| *state == found);
                    let seen = seen.unwrap_or_else(|| panic!("a reader: {key} is neither old nor new"));
                    let newest = newest.entry(*key).or_default();
                    assert!(seen >= *newest, "a reader: {key} is old again");
                    *newest = seen;
                }
                passes.fetch_add(1, SeqCst);
                std::thread::yield_now();
            }
        })
    }

    fn one_more_pass(reader: &Child, passes: &AtomicU64) {
        let now = passes.load(SeqCst);
        // One that began after this. If the reader is not content, its end says so.
        until(|| passes.load(SeqCst) >= now + 2 || !reader.is_running());
    }

    fn see(map: &AnyMap, expected: &Expected) -> BTreeMap<u64, Option<Bytes>> {
        expected.keys().map(|&key| (key, map.get(key))).collect()
    }

    /// A whole world: a map, its processes, one of which meets its fate.
    fn world(operation: &Operation, trace: Option<&Trace>, fate: Fate, told: &Tell, rules: &dyn Fn()) {
        let Operation { name, inline, base, shard, act, dead } = operation;
        let (inline, shard) = (*inline, *shard);
        let what = format!("{name}: {fate:?}");
        let map = &AnyMap::new(inline);
        base.iter().for_each(|&key| map.put(key, value(inline, key)));
        let mut expected: Expected = base.iter().map(|&key| (key, vec![Some(value(inline, key))])).collect();
        for act in dead.iter().map(|(act, ..)| act).chain([act]) {
            if let Act::Put(key, _) | Act::Update(key, _) | Act::Remove(key) = act {
                expected.entry(*key).or_insert_with(|| vec![None]);
            }
            for (key, states) in &mut expected {
                if let Some(made) = act.makes(*key)
                    && states[states.len() - 1] != made
                {
                    states.push(made);
                }
            }
        }
        // All that a process does once only, in a shard where nobody died: with a value of the same size, so that the
        // victim's own memory is the same each time.
        let elsewhere = map.key_of(shard, false, 900_000);
        let nothing = map.key_of(shard, false, 990_000);
        let warm = |act: &Act| {
            let value = match act {
                Act::Put(_, value) | Act::Update(_, value) => value.clone(),
                Act::Remove(_) | Act::Clear => value(inline, 7),
            };
            map.put(nothing, value.clone());
            map.apply(&Act::Update(nothing, value));
            map.apply(&Act::Remove(nothing));
        };
        if let Some((act, trace, at)) = dead {
            let mut first = traced(|| warm(act), || map.apply(act));
            assert!(trace.reach(&first, *at), "{what}: the one before");
            first.kill();
        }
        let (shared, ready, start, reply) = (words(), Line::new(), Line::new(), Line::new());
        let (passes, end) = (&shared[0], &shared[1]);
        let reader = reader(map, &expected, passes, end);
        let theirs = map.key_of(shard, true, 600_000);
        let waiter = fork(|| {
            warm(act);
            ready.send(0);
            start.receive();
            map.put(theirs, value(inline, theirs));
            reply.send(0);
        });
        // So that the victim finds the same each time.
        ready.receive();
        until(|| passes.load(SeqCst) > 0 || !reader.is_running());
        let ready_to_act = || {
            rules();
            warm(act);
        };
        let mut victim = traced(ready_to_act, || map.apply(act));
        let (k, goes_on) = match fate {
            Fate::KilledAt(k) => (k, false),
            Fate::StoppedAt(k) => (k, true),
            Fate::Traced(places) => {
                let touched =
                    expected.iter().filter(|(_, states)| states.len() > 1).map(|(key, _)| *key).next_back();
                let (buckets, entry) = (map.buckets(), touched.map(|key| map.get(key)));
                let n = walk(&victim, |k, place| {
                    places[k as usize].store(place, SeqCst);
                    if told.read(Told::Buckets) == 0 && map.buckets() != buckets {
                        told.add(Told::Buckets, k);
                    }
                    if told.read(Told::Entry) == 0 && touched.map(|key| map.get(key)) != entry {
                        told.add(Told::Entry, k);
                    }
                });
                told.add(Told::Length, n);
                return;
            }
        };
        if !trace.expect("known").reach(&victim, k) {
            told.add(Told::Astray, 1);
        }

        // It stands still.
        one_more_pass(&reader, passes);
        let before = see(map, &expected);
        let is_new = |now: &BTreeMap<u64, Option<Bytes>>| {
            now.iter().all(|(key, value)| act.makes(*key).is_none_or(|made| made == *value))
        };
        told.add(if is_new(&before) { Told::New } else { Told::Old }, 1);
        let mut others = BTreeMap::new();
        if *act != Act::Clear {
            others.insert(elsewhere, value(inline, elsewhere));
        } else {
            // It works in one shard after the other: is it through with the first, or not yet in the last?
            let left = |shard| before.iter().filter(move |(key, _)| map.shard_of(**key) == shard);
            let through = left(1).any(|(_, value)| value.is_none());
            let last = before.keys().map(|&key| map.shard_of(key)).max().expect("keys");
            let begun = left(2).any(|(_, value)| value.is_none());
            let free = if through { Some(0) } else { (!begun).then_some(last) };
            if let Some(free) = free {
                let key = map.key_of(free, true, 950_000);
                others.insert(key, value(inline, key));
            }
        }
        others.iter().for_each(|(key, value)| map.put(*key, value.clone()));
        // Or it will not any more, which its end says.
        let replied = || reply.has_some() || !waiter.is_running();
        start.send(0);
        until(|| replied() || waiter.sleep() == Some(Sleep::Bounded) && !reply.has_some());
        told.add(Told::Asleep, (!reply.has_some()).into());
        if goes_on {
            finish(&victim, k);
        }
        victim.kill();
        until(replied);
        waiter.succeeds("the waiter");
        one_more_pass(&reader, passes);
        end.store(1, SeqCst);
        reader.succeeds("the reader");

        // Afterwards.
        others.insert(theirs, value(inline, theirs));
        let after = see(map, &expected);
        if goes_on {
            assert!(is_new(&after), "{what}: it went on, and this is not new");
        } else {
            assert_eq!(before, after, "{what}: what its death changed");
        }
        let (entries, sound) = map.audit();
        let mut found = map.entries();
        assert_eq!((entries, map.len(), sound), (found.len() as u64, entries, true), "{what}");
        for (key, value) in &others {
            match found.remove(key) {
                None => assert!(goes_on && *act == Act::Clear, "{what}: {key}, of another, is gone"),
                Some(there) => assert_eq!(there, *value, "{what}: {key}, of another"),
            }
        }
        let there = after.iter().filter_map(|(&key, value)| Some((key, value.clone()?))).collect();
        assert_eq!(found, there, "{what}: what is iterated is what is looked up");
        let report = allmend::verify().expect("a healthy segment");
        assert_eq!((report.objects, report.busy), (1, 0), "{what}");
        map.apply(act);
        assert!(map.audit().1, "{what}: after the next one");
        for (key, value) in &after {
            assert_eq!(&map.get(*key), act.makes(*key).as_ref().unwrap_or(value), "{what}: once more");
        }
    }

    /// Steps through an operation.
    fn trace_of(operation: &Operation, rules: &dyn Fn()) -> (Trace, Changed) {
        stage(&format!("{}: traced", operation.name));
        let told = Tell(words());
        // Much more than needed.
        let places = pages(16_384);
        let traced = fork(|| world(operation, None, Fate::Traced(places), &told, rules));
        traced.succeeds("the trace");
        let length = told.read(Told::Length) as usize;
        let trace = Trace::new(places[..length].iter().map(|place| place.load(SeqCst)).collect());
        (trace, Changed { entry: told.read(Told::Entry), buckets: told.read(Told::Buckets) })
    }

    fn each(inline: bool, which: &[&str]) {
        for operation in which.iter().flat_map(|which| operations(inline, which)) {
            let (trace, _) = trace_of(&operation, &|| ());
            let (n, told) = (trace.len(), Tell(words()));
            // Not a multiple of what repeats itself.
            let some = |points: u64| (n / points) | 1;
            let (killed, stopped) = match (long(), stride()) {
                (false, _) => (some(20), some(6)),
                (true, Some(stride)) => (stride, (stride * 3) | 1),
                (true, None) => (1, if n < 3_000 { 1 } else { 11 }),
            };
            for (stride, is_kill) in [(killed, true), (stopped, false)] {
                let (mut k, mut points) = (0, 0);
                while k < n {
                    let fate = if is_kill { Fate::KilledAt(k) } else { Fate::StoppedAt(k) };
                    stage(&format!("{}: {fate:?}", operation.name));
                    let end = fork(|| world(&operation, Some(&trace), fate, &told, &|| ())).end();
                    assert_eq!(end, End::Exit(0), "{}: {fate:?}", operation.name);
                    (k, points) = (k + stride, points + 1);
                }
                if is_kill {
                    println!("  {}: {n} instructions", operation.name);
                }
                println!(
                    "    {} at {points}, each {stride}th; waiter asleep at {}, old {}, new {}, astray {}, hangs 0",
                    if is_kill { "killed" } else { "stopped, then gone on," },
                    told.read(Told::Asleep),
                    told.read(Told::Old),
                    told.read(Told::New),
                    told.read(Told::Astray),
                );
                assert!(points > 3);
                told.0.iter().for_each(|word| word.store(0, SeqCst));
            }
        }
    }

    #[cfg(allmend_crash)]
    mod controls {
        use super::*;
        use allmend::crash::{self, Rule};
        use std::time::Duration;

        pub(super) const ALL: &[harness::Test] = &[
            ("control_pairs_are_torn", || noticed(true, "insert", Rule::CommitIsOneStore)),
            ("control_blocks_are_torn", || noticed(false, "overwrite", Rule::CommitIsOneStore)),
            ("control_cleared_too_early", || noticed(true, "growth", Rule::CopyBeforeClearing)),
        ];

        const NEAR: u64 = 100;

        /// A world that takes so long hangs.
        const HANGS: Duration = Duration::from_secs(60);

        /// These operations, by a victim that breaks a rule: some worlds must not be content, in which
        /// it died within `NEAR` instructions of the change.
        fn noticed(inline: bool, which: &str, rule: Rule) {
            let broken = || crash::break_rule(rule);
            let mut all = 0;
            for operation in operations(inline, which) {
                let (mut worlds, mut noticed, mut hangs) = (0, 0, 0);
                // A broken rule is another way.
                let (trace, changed) = trace_of(&operation, &broken);
                let told = Tell(words());
                let near = |k: &u64| [changed.entry, changed.buckets].iter().any(|at| k.abs_diff(*at) < NEAR);
                for k in (0..trace.len()).filter(near) {
                    let fate = Fate::KilledAt(k);
                    stage(&format!("control, {}: {fate:?}", operation.name));
                    let mut world = fork(|| world(&operation, Some(&trace), fate, &told, &broken));
                    worlds += 1;
                    if !world.ends_within(HANGS) {
                        world.kill();
                        hangs += 1;
                    } else if world.end() != End::Exit(0) {
                        noticed += 1;
                    }
                }
                println!(
                    "  {}, {rule:?} broken: noticed at {noticed} of {worlds}, hangs {hangs}",
                    operation.name
                );
                all += noticed;
            }
            assert!(all > 0, "a broken rule is not noticed");
        }
    }
}
