//! One map, several processes, some of them killed or stopped: is every history that each key saw one that a map can have,
//! are counters exact, does an iteration see what is there, is nothing left behind.
//!
//! Short forms run in CI; `ALLMEND_LONG=1` makes them long. The seed is printed; `ALLMEND_SEED` repeats it.
#![allow(clippy::disallowed_types, reason = "words between test processes are not the crate's")]

mod harness;

use allmend::{LockError, Manager, MapError, OpenError, SharedMap};
use harness::{Child, Line, Random, die, fork, stage, until, words};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

fn main() {
    harness::run(&[
        ("histories_of_words_are_a_maps", histories_of_words_are_a_maps),
        ("histories_of_texts_are_a_maps", histories_of_texts_are_a_maps),
        ("the_checker_notices", the_checker_notices),
        ("updates_are_exact_though_processes_die", updates_are_exact_though_processes_die),
        ("what_stays_is_seen_once_while_others_write", what_stays_is_seen_once_while_others_write),
        ("a_stopped_writer_holds_up_no_reader", a_stopped_writer_holds_up_no_reader),
        ("a_dead_section_is_told_to_the_next", a_dead_section_is_told_to_the_next),
        ("a_section_stays_with_its_process", a_section_stays_with_its_process),
        ("a_stopped_section_holds_up_nobody_else", a_stopped_section_holds_up_nobody_else),
        ("a_map_outlives_its_maker", a_map_outlives_its_maker),
        ("a_full_map_is_full_for_all", a_full_map_is_full_for_all),
        (
            "a_map_is_read_through_a_mapping_that_cannot_be_written",
            a_map_is_read_through_a_mapping_that_cannot_be_written,
        ),
    ]);
}

fn long() -> bool {
    std::env::var_os("ALLMEND_LONG").is_some()
}

/// Nothing that the test's objects were made of is left, and every byte is accounted for.
fn nothing_is_left(before: u64) {
    let report = allmend::verify().expect("a healthy segment");
    assert_eq!((report.objects, report.busy), (before, 0), "{report:?}");
}

// ---- histories ----

/// A map of either layout, as a map of small numbers.
enum AnyMap {
    /// Entries in the buckets.
    Words(SharedMap<u64, u64>),
    /// Entries in blocks, of many sizes.
    Texts(SharedMap<String, String>),
}

fn key_text(key: u64) -> String {
    format!("key number {key}")
}

/// The length depends on the number, so that an overwrite is sometimes of the same size and mostly not.
fn value_text(n: u64) -> String {
    format!("{n}:{}", "x".repeat((n % 7 * 23) as usize))
}

fn number(text: String) -> u64 {
    let n = text.split_once(':').and_then(|(n, _)| n.parse().ok()).expect("one of our values");
    assert_eq!(text, value_text(n), "a torn value");
    n
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Get,
    /// Insert or replace; gives the old.
    Insert(u64),
    Remove,
    /// Add by `update`; gives the new.
    Add(u64),
    /// If `.0` is there, `.1`; gives 1 or 0.
    Swap(u64, u64),
}

impl AnyMap {
    fn apply(&self, key: u64, op: Op) -> Result<Option<u64>, MapError> {
        match self {
            AnyMap::Words(map) => match op {
                Op::Get => map.get(key),
                Op::Insert(n) => map.insert(key, n),
                Op::Remove => map.remove(key),
                Op::Add(n) => map.update(key, |old| Some(old.unwrap_or(0) + n)),
                Op::Swap(old, new) => {
                    map.compare_and_set(key, Some(old), Some(new)).map(|done| Some(done.into()))
                }
            },
            AnyMap::Texts(map) => {
                let key = &key_text(key);
                match op {
                    Op::Get => Ok(map.get(key)?.map(number)),
                    Op::Insert(n) => Ok(map.insert(key, &value_text(n))?.map(number)),
                    Op::Remove => Ok(map.remove(key)?.map(number)),
                    Op::Add(n) => {
                        let new = map.update(key, |old| Some(value_text(old.map_or(0, number) + n)))?;
                        Ok(new.map(number))
                    }
                    Op::Swap(old, new) => {
                        let (old, new) = (value_text(old), value_text(new));
                        map.compare_and_set(key, Some(&old), Some(&new)).map(|done| Some(done.into()))
                    }
                }
            }
        }
    }
}

impl Op {
    /// What it gives, and what is there then.
    fn on(self, value: Option<u64>) -> (Option<u64>, Option<u64>) {
        match self {
            Op::Get => (value, value),
            Op::Insert(n) => (value, Some(n)),
            Op::Remove => (value, None),
            Op::Add(n) => (Some(value.unwrap_or(0) + n), Some(value.unwrap_or(0) + n)),
            Op::Swap(old, new) if value == Some(old) => (Some(1), Some(new)),
            Op::Swap(..) => (Some(0), value),
        }
    }

    fn encode(self) -> [u64; 3] {
        match self {
            Op::Get => [0, 0, 0],
            Op::Insert(n) => [1, n, 0],
            Op::Remove => [2, 0, 0],
            Op::Add(n) => [3, n, 0],
            Op::Swap(a, b) => [4, a, b],
        }
    }

    fn decode(words: [u64; 3]) -> Self {
        match words {
            [0, ..] => Op::Get,
            [1, n, _] => Op::Insert(n),
            [2, ..] => Op::Remove,
            [3, n, _] => Op::Add(n),
            [_, a, b] => Op::Swap(a, b),
        }
    }
}

/// What one process did, written down where its death does not lose it.
struct Journal {
    pages: Vec<&'static [AtomicU64]>,
}

/// An operation of a journal. Without an end its process died in it: it happened, or not.
#[derive(Clone, Copy, Debug)]
struct Event {
    key: u64,
    op: Op,
    begin: u64,
    end: Option<(u64, Option<u64>)>,
}

/// Begin + 1, end + 1, key, op (3), result (2: is there, value).
const RECORD: usize = 8;
const PER_PAGE: usize = 512 / RECORD;

impl Journal {
    fn new(records: usize) -> Self {
        Self { pages: (0..records.div_ceil(PER_PAGE)).map(|_| words()).collect() }
    }

    fn record(&self, i: usize) -> &[AtomicU64] {
        &self.pages[i / PER_PAGE][i % PER_PAGE * RECORD..][..RECORD]
    }

    fn capacity(&self) -> usize {
        self.pages.len() * PER_PAGE
    }

    fn begin(&self, i: usize, tickets: &AtomicU64, key: u64, op: Op) {
        let record = self.record(i);
        record[2].store(key, Relaxed);
        for (word, value) in record[3..6].iter().zip(op.encode()) {
            word.store(value, Relaxed);
        }
        record[0].store(tickets.fetch_add(1, SeqCst) + 1, SeqCst);
    }

    fn end(&self, i: usize, tickets: &AtomicU64, result: Option<u64>) {
        let (record, ticket) = (self.record(i), tickets.fetch_add(1, SeqCst));
        record[6].store(result.is_some().into(), Relaxed);
        record[7].store(result.unwrap_or(0), Relaxed);
        record[1].store(ticket + 1, SeqCst);
    }

    fn events(&self) -> Vec<Event> {
        let word = |i: usize, at: usize| self.record(i)[at].load(SeqCst);
        let event = |i| {
            let begin = word(i, 0).checked_sub(1)?;
            let result = (word(i, 6) == 1).then(|| word(i, 7));
            let end = word(i, 1).checked_sub(1).map(|end| (end, result));
            Some(Event { key: word(i, 2), op: Op::decode([3, 4, 5].map(|at| word(i, at))), begin, end })
        };
        (0..self.capacity()).map_while(event).collect()
    }
}

/// Is there an order of these operations (of one key, one list per process) in which each gives what it gave, and that
/// keeps the order of those that did not overlap? (Wing and Gong 1993; states are remembered, as by Lowe.)
fn is_linearizable(histories: &[Vec<Event>], first: Option<u64>, last: Option<u64>) -> bool {
    let mut seen = HashSet::new();
    let mut todo = vec![(vec![0usize; histories.len()], first)];
    while let Some((at, value)) = todo.pop() {
        if !seen.insert((at.clone(), value)) {
            continue;
        }
        let next = |process: usize| histories[process].get(at[process]);
        let ends = (0..at.len()).filter_map(|p| next(p)?.end.map(|(end, _)| end)).min();
        // All that is left may not have happened at all.
        if ends.is_none() && value == last {
            return true;
        }
        for process in 0..at.len() {
            let Some(event) = next(process) else { continue };
            if ends.is_some_and(|end| end < event.begin) {
                continue; // another one was over before this began
            }
            let (result, after) = event.op.on(value);
            if event.end.is_none_or(|(_, gave)| gave == result) {
                let mut at = at.clone();
                at[process] += 1;
                todo.push((at, after));
            }
        }
    }
    false
}

fn histories_of_words_are_a_maps() {
    histories(&|| AnyMap::Words(SharedMap::new().unwrap()));
}

fn histories_of_texts_are_a_maps() {
    histories(&|| AnyMap::Texts(SharedMap::new().unwrap()));
}

/// Three processes at a few keys, one of them killed and replaced now and then.
fn histories(make: &dyn Fn() -> AnyMap) {
    const KEYS: u64 = 6;
    let before = allmend::verify().unwrap().objects;
    let mut random = Random::new();
    let (rounds, mut pending, mut all) = (if long() { 400 } else { 25 }, 0, 0);
    for round in 0..rounds {
        stage(&format!("round {round}"));
        let map = make();
        let tickets = &words()[0];
        let mut journals = Vec::new();
        let start = |journals: &mut Vec<Journal>, random: &mut Random| {
            let (number, seed) = (journals.len() as u64, random.next());
            journals.push(Journal::new(192));
            let journal = &journals[journals.len() - 1];
            fork(|| {
                let mut random = Random::seeded(seed);
                for i in 0..journal.capacity() {
                    let key = random.below(KEYS);
                    let unique = number << 20 | i as u64; // so that each value says who wrote it
                    let op = match random.below(10) {
                        0..3 => Op::Get,
                        3..6 => Op::Insert(unique),
                        6 => Op::Remove,
                        7 => Op::Add(1 << 40),
                        _ => Op::Swap(random.below(number + 1) << 20 | random.below(192), unique),
                    };
                    journal.begin(i, tickets, key, op);
                    let result = map.apply(key, op).unwrap();
                    journal.end(i, tickets, result);
                }
            })
        };
        let mut workers: Vec<Child> = (0..3).map(|_| start(&mut journals, &mut random)).collect();
        for _ in 0..if round % 5 == 0 { 0 } else { 6 } {
            let (victim, ticket) = (random.below(3) as usize, tickets.load(SeqCst) + random.below(60));
            until(|| tickets.load(SeqCst) >= ticket || workers.iter().all(|w| !w.is_running()));
            workers[victim].kill();
            workers[victim] = start(&mut journals, &mut random);
        }
        for mut worker in workers {
            worker.end();
        }
        let events: Vec<Vec<Event>> = journals.iter().map(Journal::events).collect();
        for key in 0..KEYS {
            let of_key =
                |events: &Vec<Event>| events.iter().copied().filter(|e| e.key == key).collect::<Vec<_>>();
            let histories: Vec<Vec<Event>> = events.iter().map(of_key).collect();
            pending += histories.iter().flatten().filter(|e| e.end.is_none()).count();
            all += histories.iter().map(Vec::len).sum::<usize>();
            let last = map.apply(key, Op::Get).unwrap();
            assert!(
                is_linearizable(&histories, None, last),
                "round {round}, key {key}: no map has done this, ending with {last:?}: {histories:#?}"
            );
        }
        let there = (0..KEYS).filter(|&key| map.apply(key, Op::Get).unwrap().is_some()).count();
        let len = match &map {
            AnyMap::Words(map) => map.len(),
            AnyMap::Texts(map) => map.len(),
        };
        assert_eq!(len, there, "the length, after a write to each shard that was inherited");
    }
    println!("  {all} operations, {pending} of them cut short by a kill");
    nothing_is_left(before);
}

/// Histories that no map has.
fn the_checker_notices() {
    let event = |op, begin, end, result| Event { key: 0, op, begin, end: Some((end, result)) };
    let ok = |h: &[Vec<Event>], last| is_linearizable(h, None, last);
    let write = event(Op::Insert(1), 0, 1, None);
    assert!(ok(&[vec![write], vec![event(Op::Get, 2, 3, Some(1))]], Some(1)));
    assert!(!ok(&[vec![write], vec![event(Op::Get, 2, 3, None)]], Some(1)), "a lost write");
    assert!(!ok(&[vec![write], vec![event(Op::Get, 2, 3, Some(2))]], Some(1)), "a value of nobody");
    assert!(!ok(&[vec![write]], None), "an entry that is gone at the end");
    let slow = event(Op::Insert(1), 0, 9, None);
    let new_then_old = vec![event(Op::Get, 1, 2, Some(1)), event(Op::Get, 3, 4, None)];
    assert!(!ok(&[vec![slow], new_then_old], Some(1)), "time runs backwards");
    let old_then_new = vec![event(Op::Get, 1, 2, None), event(Op::Get, 3, 4, Some(1))];
    assert!(ok(&[vec![slow], old_then_new], Some(1)));
    let add = |begin, end, result| event(Op::Add(1), begin, end, Some(result));
    assert!(ok(&[vec![add(0, 3, 1)], vec![add(1, 4, 2)]], Some(2)));
    assert!(!ok(&[vec![add(0, 3, 1)], vec![add(1, 4, 1)]], Some(1)), "a lost update");
    let cut = Event { end: None, ..write };
    assert!(ok(&[vec![cut]], None) && ok(&[vec![cut]], Some(1)), "either");
    assert!(!ok(&[vec![cut], vec![event(Op::Get, 1, 2, Some(1)), event(Op::Get, 3, 4, None)]], None), "both");
}

// ---- counters ----

fn updates_are_exact_though_processes_die() {
    const WORKERS: usize = 3;
    const KEYS: usize = 5;
    let before = allmend::verify().unwrap().objects;
    let mut random = Random::new();
    let (by_word, by_text) =
        (SharedMap::<u64, u64>::new().unwrap(), SharedMap::<String, String>::new().unwrap());
    let acknowledged = words(); // KEYS for updates of words, KEYS for fetch_add, KEYS for updates of texts
    let start = |random: &mut Random| {
        let seed = random.next();
        fork(|| {
            let mut random = Random::seeded(seed);
            loop {
                let key = random.below(KEYS as u64);
                let i = random.below(3);
                match i {
                    0 => drop(by_word.update(key, |n| Some(n.unwrap_or(0) + 1)).unwrap()),
                    1 => drop(by_word.fetch_add(KEYS as u64 + key, 1).unwrap()),
                    _ => {
                        let add = |old: Option<String>| Some(value_text(old.map_or(0, number) + 1));
                        by_text.update(&key_text(key), add).unwrap();
                    }
                }
                acknowledged[i as usize * KEYS + key as usize].fetch_add(1, SeqCst);
            }
        })
    };
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| start(&mut random)).collect();
    let total = || acknowledged[..3 * KEYS].iter().map(|n| n.load(SeqCst)).sum::<u64>();
    let kills = if long() { 10_000 } else { 250 };
    for kill in 0..kills {
        stage(&format!("kill {kill}"));
        let goal = total() + 1 + random.below(120);
        until(|| total() >= goal);
        let victim = random.below(WORKERS as u64) as usize;
        workers[victim].kill();
        workers[victim] = start(&mut random);
    }
    for worker in &mut workers {
        worker.kill();
    }
    let deaths = kills + WORKERS as u64;
    let mut more = 0;
    for key in 0..KEYS as u64 {
        let there = [
            by_word.get(key).unwrap(),
            by_word.get(KEYS as u64 + key).unwrap(),
            by_text.get(&key_text(key)).unwrap().map(number),
        ];
        for (i, there) in there.into_iter().enumerate() {
            let said = acknowledged[i * KEYS + key as usize].load(SeqCst);
            let there = there.unwrap_or(0);
            assert!(said <= there, "kind {i}, key {key}: {said} acknowledged, {there} there");
            more += there - said;
        }
    }
    assert!(more <= deaths, "{more} more than acknowledged, {deaths} deaths");
    println!("  {} updates, {deaths} deaths, {more} updates that nobody lived to acknowledge", total());
    // A write to each shard, so that who inherits recovers.
    by_word.clear().unwrap();
    by_text.clear().unwrap();
    assert_eq!((by_word.len(), by_text.len()), (0, 0));
    drop((by_word, by_text));
    nothing_is_left(before);
}

// ---- iterating ----

fn what_stays_is_seen_once_while_others_write() {
    const FIXED: u64 = 3_000;
    let before = allmend::verify().unwrap().objects;
    let mut random = Random::new();
    let words_map = SharedMap::<u64, u64>::new().unwrap();
    let texts = SharedMap::<String, String>::new().unwrap();
    for key in 0..FIXED {
        words_map.insert(key, key).unwrap();
        texts.insert(&key_text(key), &value_text(key)).unwrap();
    }
    let start = |seed: u64| {
        fork(|| {
            let mut random = Random::seeded(seed);
            loop {
                // Others come in crowds, so that the table grows, and go again; what stays is overwritten.
                let base = FIXED + random.below(50) * 1_000;
                for key in base..base + random.below(1_000) {
                    words_map.insert(key, key).unwrap();
                    texts.insert(&key_text(key), &value_text(key)).unwrap();
                    let fixed = random.below(FIXED);
                    words_map.insert(fixed, fixed).unwrap();
                    texts.insert(&key_text(fixed), &value_text(fixed)).unwrap();
                }
                for key in base..base + random.below(1_000) {
                    words_map.remove(key).unwrap();
                    texts.remove(&key_text(key)).unwrap();
                }
            }
        })
    };
    let mut writers: Vec<Child> = (0..2).map(|_| start(random.next())).collect();
    for round in 0..if long() { 600 } else { 25 } {
        stage(&format!("round {round}"));
        let once = |keys: &mut dyn Iterator<Item = u64>| {
            let mut fixed = BTreeMap::<u64, u32>::new();
            keys.filter(|&key| key < FIXED).for_each(|key| *fixed.entry(key).or_default() += 1);
            assert_eq!(fixed.len() as u64, FIXED, "round {round}: a key that was there was not seen");
            assert!(fixed.values().all(|&n| n == 1), "round {round}: seen twice");
        };
        once(&mut words_map.iter().map(|e| {
            let (key, value) = e.unwrap();
            assert_eq!(key, value);
            key
        }));
        once(&mut texts.iter().map(|e| {
            let (key, value) = e.unwrap();
            let n = number(value);
            assert_eq!(key, key_text(n));
            n
        }));
        // In pieces, in two processes.
        let line = Line::new();
        let mut iter = words_map.iter();
        let mut seen: BTreeSet<u64> = iter.by_ref().take(FIXED as usize / 2).map(|e| e.unwrap().0).collect();
        let cursor = iter.cursor();
        let map = &words_map;
        let other = fork(|| {
            for entry in cursor.into_iter().flat_map(|cursor| map.iter_from(cursor)) {
                line.send(entry.unwrap().0);
            }
            line.send(u64::MAX);
        });
        loop {
            match line.receive() {
                u64::MAX => break,
                key => drop(seen.insert(key)),
            }
        }
        other.succeeds("the second half");
        assert_eq!(seen.range(..FIXED).count() as u64, FIXED, "round {round}: lost between two halves");
        if round % 5 == 4 {
            let victim = random.below(2) as usize;
            writers[victim].kill();
            writers[victim] = start(random.next());
        }
    }
    for writer in &mut writers {
        writer.kill();
    }
    words_map.clear().unwrap();
    texts.clear().unwrap();
    drop((words_map, texts));
    nothing_is_left(before);
}

// ---- stopped and dead ----

/// Writers are stopped at any moment, mostly in the middle of a write: reads of what they write go on.
fn a_stopped_writer_holds_up_no_reader() {
    let mut random = Random::new();
    let map = SharedMap::<String, String>::new().unwrap();
    let turns = words();
    let mut writer = fork(|| {
        loop {
            for key in 0..50 {
                let n = turns[0].fetch_add(1, SeqCst);
                map.insert(&key_text(key), &value_text(n)).unwrap();
                if n.is_multiple_of(3) {
                    map.remove(&key_text(key + 50)).unwrap();
                    map.insert(&key_text(key + 50), &value_text(n)).unwrap();
                }
            }
        }
    });
    until(|| turns[0].load(SeqCst) > 100);
    for round in 0..if long() { 2_000 } else { 60 } {
        stage(&format!("stop {round}"));
        let goal = turns[0].load(SeqCst) + random.below(300);
        until(|| turns[0].load(SeqCst) >= goal);
        writer.stop();
        for key in 0..100 {
            let value = map.get(&key_text(key)).unwrap().map(number);
            assert!(value.is_some() || key >= 50, "it was there all the time");
        }
        assert!(map.len() <= 100);
        let whole: Vec<u64> = map.values().map(|value| number(value.unwrap())).collect();
        assert!((50..=100).contains(&whole.len()));
        writer.go_on();
    }
    writer.kill();
    for key in 0..100 {
        map.insert(&key_text(key), &value_text(key)).unwrap();
    }
    assert_eq!((map.len(), map.iter().count()), (100, 100));
}

fn a_dead_section_is_told_to_the_next() {
    let map = SharedMap::<u64, u64>::new().unwrap();
    let mut victim = fork(|| {
        let _guard = map.lock_many([1, 2]).unwrap();
        map.insert(1, 7).unwrap();
        die();
    });
    let pid = victim.pid.as_raw_pid() as u32;
    assert!(victim.end().was_killed());
    // Refused, and the mark stays; then accepted, and it is gone.
    for known in [pid, 0] {
        match map.get_lock(1) {
            Err(LockError::Inherited(inherited)) => assert_eq!(inherited.pid(), known),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(map.get(1).unwrap(), Some(7), "what the section wrote stays written");
    let guard =
        map.get_lock(1).or_else(|e| e.repair(|_| assert_eq!(map.remove(1).unwrap(), Some(7)))).unwrap();
    drop(guard);
    drop(map.get_lock(1).unwrap());
    drop(map.lock_many([1, 2]).or_else(|e| e.repair(|_| ())).unwrap());
    drop(map.lock_many([1, 2]).unwrap());
}

/// A forked child has a copy of its parent's guard, and not its keys.
fn a_section_stays_with_its_process() {
    let map = SharedMap::<u64, u64>::new().unwrap();
    let mut guard = Some(map.lock_many([1, 2]).unwrap());
    let by_parent = LockError::Timeout { owner: Some(std::process::id()) };
    let refused = || map.try_lock_many([2, 1]).map(drop).map_err(LockError::release);
    fork(|| {
        assert_eq!(refused(), Err(by_parent.clone()));
        drop(guard.take().unwrap());
        assert_eq!(refused(), Err(by_parent.clone()), "what it dropped was nothing");
    })
    .succeeds("a child");
    assert_eq!(refused(), Err(LockError::Deadlock), "still ours");
    drop(guard);
    fork(|| drop(map.try_lock_many([1, 2]).unwrap())).succeeds("another child");
}

fn a_stopped_section_holds_up_nobody_else() {
    let map = SharedMap::<u64, u64>::new().unwrap();
    let (held, release) = (Line::new(), Line::new());
    let mut holder = fork(|| {
        let guard = map.get_lock(1).unwrap();
        held.send(0);
        release.receive();
        drop(guard);
    });
    held.receive();
    holder.stop();
    assert_eq!(map.insert(1, 1).unwrap(), None);
    assert_eq!(map.fetch_add(1, 1).unwrap(), 1);
    assert_eq!(map.update(1, |n| n.map(|n| n + 1)).unwrap(), Some(3));
    let refused = map.get_lock_timeout(1, Duration::from_millis(10)).map(drop).map_err(LockError::release);
    assert_eq!(refused, Err(LockError::Timeout { owner: Some(holder.pid.as_raw_pid() as u32) }));
    // An update that loses again and again asks for the lock, does not get it, and goes on all the same.
    let mut rounds = 0;
    let changed = map.update(1, |n| {
        rounds += 1;
        if rounds < 30 {
            map.fetch_add(1, 1).unwrap();
        }
        n
    });
    assert_eq!((changed.unwrap(), rounds), (Some(32), 30));
    let waiter = fork(|| drop(map.get_lock(1).unwrap()));
    until(|| waiter.sleep().is_some());
    holder.go_on();
    release.send(0);
    holder.succeeds("the holder, after its stop");
    waiter.succeeds("the waiter");
}

/// The process that made a map dies; the one that it gave it to goes on.
fn a_map_outlives_its_maker() {
    let before = allmend::verify().unwrap().objects;
    let map = SharedMap::<String, u64>::new().unwrap();
    let mut child = fork(|| {
        for i in 0..5_000 {
            map.insert(&i.to_string(), i).unwrap();
        }
        die();
    });
    child.end();
    assert_eq!(map.len(), 5_000);
    assert!((0..5_000).all(|i| map.get(&i.to_string()).unwrap() == Some(i)));
    // A map of a child, with all its blocks, goes with it.
    let committed = allmend::verify().unwrap().objects;
    let mut child = fork(|| {
        let own = SharedMap::<u64, Vec<u8>>::new().unwrap();
        (0..500).for_each(|i| drop(own.insert(i, &[1; 500]).unwrap()));
        die();
    });
    child.end();
    assert_eq!(allmend::verify().unwrap().objects, committed);
    drop(map);
    nothing_is_left(before);
}

fn a_full_map_is_full_for_all() {
    let before = allmend::verify().unwrap().objects;
    let map = SharedMap::<u64, Vec<u8>>::with_capacity(0, 1 << 20).unwrap();
    let fill = |from: u64| {
        let mut n = 0;
        while map.set(from + n, &[n as u8; 200]).map(drop) != Err(MapError::Full) {
            n += 1;
        }
        n
    };
    let line = Line::new();
    let children: Vec<Child> = (0..2).map(|i| fork(|| line.send(fill(i << 32)))).collect();
    let n = line.receive() + line.receive();
    for child in children {
        child.succeeds("a writer");
    }
    assert_eq!(map.len() as u64, n);
    assert_eq!(
        map.iter().filter(|e| e.as_ref().is_ok_and(|(k, v)| v[..] == [*k as u8; 200])).count() as u64,
        n
    );
    // One dies while it is full; it is left all the same.
    let mut child = fork(|| {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            let _ = map.set(7 << 33, &[0; 200]);
            let _ = map.remove(7 << 33);
        }
        die();
    });
    child.end();
    fork(|| map.retain(|k, _| k % 2 == 0).unwrap()).succeeds("a remover");
    assert!(map.keys().all(|k| k.unwrap() % 2 == 0));
    for i in 0..n / 4 {
        map.insert(i << 40 | 1, &[1; 200]).unwrap();
    }
    map.clear().unwrap();
    assert!(map.is_empty());
    drop(map);
    nothing_is_left(before);
}

/// A map with a name, in another program's view: for reading only, its writes are refused and its reads work, also while
/// others write and when the last writer died in the middle.
fn a_map_is_read_through_a_mapping_that_cannot_be_written() {
    let name = format!("map-processes-{}", std::process::id());
    let manager = Manager::builder().create(&name).unwrap();
    let (counts, texts) =
        (manager.map::<u64, u64>("counts").unwrap(), manager.map::<String, String>("texts").unwrap());
    for key in 0..500 {
        counts.insert(key, key).unwrap();
        texts.insert(&key_text(key), &value_text(key)).unwrap();
    }
    let (ready, go) = (Line::new(), words());
    let reader = fork(|| {
        let manager = Manager::builder().read_only().open(&name).unwrap();
        // By both ways: as what is there, and as what would be made if it were not.
        let counts = manager.map::<u64, u64>("counts").unwrap();
        let texts = manager.map::<String, String>("texts").unwrap();
        let again = manager.open_object::<SharedMap<String, String>>("texts").unwrap();
        ready.send(0);
        let mut rounds = 0;
        while go[0].load(SeqCst) == 0 || rounds < 3 {
            for key in 0..500 {
                assert!(counts.get(key).unwrap().is_some_and(|n| n % 1_000 == key));
                assert_eq!(number(texts.get(&key_text(key)).unwrap().unwrap()) % 1_000, key);
                assert!(counts.contains_key(key).unwrap() && again.contains_key(&key_text(key)).unwrap());
            }
            assert!(counts.iter().filter(|e| e.as_ref().is_ok_and(|(key, _)| *key < 500)).count() == 500);
            assert!(texts.keys().all(|key| key.unwrap().starts_with("key")));
            assert_eq!(texts.iter().count(), 500);
            assert!(counts.len() >= 500 && texts.len() == 500);
            let (all_counts, all_texts) = (counts.snapshot().unwrap(), texts.snapshot().unwrap());
            for key in 0..500 {
                assert_eq!(all_counts[&key] % 1_000, key);
                assert_eq!(number(all_texts[&key_text(key)].clone()) % 1_000, key);
            }
            assert_eq!(all_texts.len(), 500);
            assert!(counts.get(u64::MAX).unwrap().is_none() && !texts.contains_key("none").unwrap());
            rounds += 1;
        }
        assert_eq!(counts.insert(1, 1), Err(MapError::ReadOnly));
        assert_eq!(texts.insert("a", "b"), Err(MapError::ReadOnly));
        assert_eq!(counts.remove(1), Err(MapError::ReadOnly));
        assert_eq!(counts.clear(), Err(MapError::ReadOnly));
        assert_eq!(counts.fetch_add(1, 1), Err(MapError::ReadOnly));
        assert!(matches!(counts.get_lock(1), Err(LockError::ReadOnly)));
        assert!(matches!(manager.map::<u64, u64>("new"), Err(OpenError::NoObject { .. })));
        assert!(matches!(manager.map::<u64, u32>("counts"), Err(OpenError::WrongType { .. })));
        assert_eq!(texts.remove("a"), Err(MapError::ReadOnly));
        assert_eq!(texts.update("a", |_| Some(String::new())), Err(MapError::ReadOnly));
        assert_eq!(texts.clear(), Err(MapError::ReadOnly));
        assert!(matches!(texts.get_lock("a"), Err(LockError::ReadOnly)));
        assert!(
            format!("{texts:?}").starts_with("SharedMap { types: "),
            "nobody here keeps it: it is not looked at"
        );
        assert!(!format!("{texts:?}").contains("len"));
    });
    ready.receive();
    let mut writer = fork(|| {
        for round in 1.. {
            for key in 0..500 {
                counts.insert(key, key + round * 1_000).unwrap();
                texts.insert(&key_text(key), &value_text(key + round * 1_000)).unwrap();
                counts.insert(1_000 * round + 500 + key, 0).unwrap(); // growth
            }
            go[1].store(round, SeqCst);
        }
    });
    until(|| go[1].load(SeqCst) >= 3);
    writer.kill();
    go[0].store(1, SeqCst);
    reader.succeeds("the reader");
    manager.unlink().unwrap();
}
