//! A map whose writer is stopped, and then killed, before each shared write of an operation. (At each machine instruction:
//! `map_steps`.)
//!
//! While the victim stands: every key is read, and what it was not working on is as it was; a key of another shard is
//! written; a third process writes to the victim's own shard, and waits if it must. Then the victim is killed. The waiter
//! must get on; what the victim worked on is old or new, everything else intact, iteration gives each key once, the length
//! exact, and no block lost.
//!
//! Kill points and the door to the engine exist in builds with `--cfg allmend_crash` only:
//! `cargo crash --test map_kills`. `ALLMEND_LONG=1` for the long form.
#![allow(clippy::disallowed_types, reason = "words between test processes are not the crate's")]

#[cfg(not(allmend_crash))]
fn main() {
    println!("needs a build with --cfg allmend_crash: cargo crash --test map_kills");
    println!("0 passed, 0 failed");
}

#[cfg(allmend_crash)]
mod harness;

#[cfg(allmend_crash)]
fn main() {
    killed::main();
}

#[cfg(allmend_crash)]
mod killed {
    use crate::harness::{self, Child, End, Line, Random, Sleep, fork, stage, until, words};
    use allmend::crash::{self, Map, Rule};
    use std::{collections::BTreeMap, sync::atomic::Ordering::SeqCst};

    pub(super) fn main() {
        harness::run(&[
            ("points_inline", || points(true)),
            ("points_blocks", || points(false)),
            ("points_of_clear", || [true, false].into_iter().for_each(clear)),
            ("points_of_recovery", || [true, false].into_iter().for_each(recovery)),
            ("storm", storm),
            ("control_without_recovery", control_without_recovery),
            ("control_in_place_is_torn", || control_is_noticed(Rule::CommitIsOneStore)),
            ("control_cleared_too_early", || control_is_noticed(Rule::CopyBeforeClearing)),
        ]);
    }

    type Model = BTreeMap<u64, Vec<u8>>;

    /// What the victim does, as changes of a plain map, one after the other.
    struct Operation {
        name: &'static str,
        /// Keys 0.. that are there before.
        base: u64,
        act: fn(&Map, bool),
        /// The same; each state in which a kill may leave it.
        states: fn(Model, bool) -> Vec<Model>,
    }

    fn long() -> bool {
        std::env::var_os("ALLMEND_LONG").is_some()
    }

    /// A value: a word, or of a length that tells `k`.
    fn value(inline: bool, k: u64) -> Vec<u8> {
        if inline { k.to_ne_bytes().to_vec() } else { vec![k as u8; 40 + (k as usize % 7) * 90] }
    }

    fn insert(model: &Model, key: u64, value: Vec<u8>) -> Model {
        let mut model = model.clone();
        model.insert(key, value);
        model
    }

    fn without(model: &Model, key: u64) -> Model {
        let mut model = model.clone();
        model.remove(&key);
        model
    }

    /// New keys, so many that buckets are split.
    const GROWTH: std::ops::Range<u64> = 1000..1060;

    const OPERATIONS: &[Operation] = &[
        Operation {
            name: "insert",
            base: 40,
            act: |map, inline| _ = map.insert(700, &value(inline, 700)),
            states: |old, inline| vec![insert(&old, 700, value(inline, 700)), old],
        },
        Operation {
            name: "overwrite",
            base: 40,
            act: |map, inline| _ = map.insert(7, &value(inline, 7 + 7 * 30)),
            states: |old, inline| vec![insert(&old, 7, value(inline, 7 + 7 * 30)), old],
        },
        Operation {
            name: "overwrite with another size",
            base: 40,
            act: |map, inline| _ = map.insert(7, &value(inline, 12)),
            states: |old, inline| vec![insert(&old, 7, value(inline, 12)), old],
        },
        Operation {
            name: "remove",
            base: 40,
            act: |map, _| _ = map.remove(7),
            states: |old, _| vec![without(&old, 7), old],
        },
        Operation {
            name: "compare and set",
            base: 40,
            act: |map, inline| _ = map.compare_and_set(7, Some(&value(inline, 7)), Some(&value(inline, 9))),
            states: |old, inline| vec![insert(&old, 7, value(inline, 9)), old],
        },
        Operation {
            name: "fetch and add",
            base: 40,
            act: |map, _| _ = map.fetch_add(700, 3),
            states: |old, _| vec![insert(&old, 700, 3u64.to_ne_bytes().to_vec()), old],
        },
        Operation {
            name: "the first insert",
            base: 0,
            act: |map, inline| _ = map.insert(7, &value(inline, 7)),
            states: |old, inline| vec![insert(&old, 7, value(inline, 7)), old],
        },
        Operation {
            name: "60 inserts and the growth steps between them",
            base: 120,
            act: |map, inline| GROWTH.for_each(|key| _ = map.insert(key, &value(inline, key))),
            states: |old, inline| {
                let mut states = vec![old];
                for key in GROWTH {
                    states.push(insert(&states[states.len() - 1], key, value(inline, key)));
                }
                states
            },
        },
        Operation {
            name: "a large value comes and goes",
            base: 4,
            act: |map, inline| {
                let large = if inline { value(true, 1) } else { vec![9; 300 << 10] };
                map.insert(700, &large);
                map.insert(700, &value(inline, 2));
                map.remove(700);
            },
            states: |old, inline| {
                let large = if inline { value(true, 1) } else { vec![9; 300 << 10] };
                vec![insert(&old, 700, large), insert(&old, 700, value(inline, 2)), old]
            },
        },
    ];

    fn filled(base: u64, inline: bool) -> (Map, Model) {
        let map = Map::new(inline);
        let model: Model = (0..base).map(|key| (key, value(inline, key))).collect();
        model.iter().for_each(|(&key, value)| _ = map.insert(key, value));
        (map, model)
    }

    /// Is what the map gives now one of the states?
    fn is_one_of(map: &Map, states: &[Model], extra: &Model) -> bool {
        states.iter().any(|state| {
            state.iter().all(|(&key, value)| map.get(key).as_ref() == Some(value))
                && GROWTH
                    .chain(0..200)
                    .chain([700])
                    .all(|key| state.contains_key(&key) || extra.contains_key(&key) || map.get(key).is_none())
        })
    }

    /// After a death: the whole state is one of those that may be.
    fn check(map: &Map, states: &[Model], extra: &Model, what: &str) {
        let (entries, sound) = map.audit();
        let found = map.entries();
        let mut rest = found.clone();
        for (key, value) in extra {
            assert_eq!(rest.remove(key).as_ref(), Some(value), "{what}: what others wrote");
        }
        assert!(states.contains(&rest), "{what}: neither old nor new: {:?}", rest.keys());
        assert!(is_one_of(map, states, extra), "{what}: get and iteration differ");
        assert_eq!((entries, map.len(), sound), (found.len() as u64, entries, true), "{what}");
        let report = allmend::verify().expect("a healthy segment");
        assert_eq!((report.objects, report.busy), (1, 0), "{what}");
    }

    /// While the victim stands.
    fn look(map: &Map, operation: &Operation, states: &[Model], inline: bool, extra: &mut Model, what: &str) {
        assert!(is_one_of(map, states, extra), "{what}: a reader beside it");
        let working: Vec<usize> = [7, 700].map(|key| map.shard_of(key)).to_vec();
        if operation.base == 120 {
            return; // it works in all shards
        }
        let elsewhere = (5000..).find(|&key| !working.contains(&map.shard_of(key))).expect("another shard");
        map.insert(elsewhere, &value(inline, elsewhere));
        extra.insert(elsewhere, value(inline, elsewhere));
    }

    /// A process that writes to the victim's shard when it is told.
    fn waiter(map: &Map, inline: bool, start: &Line, reply: &Line) -> (Child, u64) {
        let key = (6000..).find(|&key| map.shard_of(key) == map.shard_of(7)).expect("a key");
        let child = fork(|| {
            map.get(key);
            start.receive();
            map.insert(key, &value(inline, key));
            reply.send(0);
        });
        (child, key)
    }

    const KILLED: i32 = 40;
    const FINISHED: i32 = 41;

    /// One kill point of one operation, in a process with a segment of its own; was there one?
    fn round(
        operation: &Operation,
        inline: bool,
        n: u64,
        goes_on: bool,
        seen: &[std::sync::atomic::AtomicU64],
    ) -> bool {
        let what = format!("{}, inline {inline}, kill point {n}, goes on {goes_on}", operation.name);
        stage(&what);
        let world = || {
            let (map, model) = filled(operation.base, inline);
            let states = (operation.states)(model, inline);
            let (start, reply) = (Line::new(), Line::new());
            let (waiter, key) = waiter(&map, inline, &start, &reply);
            let mut victim = fork(|| {
                map.get(0);
                crash::stop(n);
                (operation.act)(&map, inline);
                crash::stop(u64::MAX);
            });
            let stopped = match victim.stops_or_ends() {
                None => true,
                Some(end) => {
                    assert_eq!(end, End::Exit(0), "{what}: the victim itself failed");
                    false
                }
            };
            let mut extra = Model::new();
            look(&map, operation, &states, inline, &mut extra, &what);
            start.send(0);
            until(|| reply.has_some() || waiter.sleep() == Some(Sleep::Bounded) && !reply.has_some());
            seen[0].fetch_add((!reply.has_some()).into(), SeqCst);
            if stopped && goes_on {
                victim.go_on();
                victim.succeeds("the victim, after its stop");
            } else if stopped {
                victim.kill();
            }
            reply.receive();
            waiter.succeeds("the waiter");
            extra.insert(key, value(inline, key));
            check(&map, &states, &extra, &what);
            // And it goes on working.
            (operation.act)(&map, inline);
            let (_, sound) = map.audit();
            assert!(sound, "{what}: after the next operation");
            harness::exit_now(if stopped { KILLED } else { FINISHED });
        };
        match fork(world).end() {
            End::Exit(KILLED) => true,
            End::Exit(FINISHED) => false,
            other => panic!("{what}: {other:?}"),
        }
    }

    fn points(inline: bool) {
        for operation in OPERATIONS {
            for goes_on in [false, true] {
                let seen = words();
                // Long operations are sampled, with a stride that has no common factor with what repeats.
                let stride = match (operation.base, long()) {
                    (120, false) => 97,
                    (4, _) => 397,
                    (_, false) if goes_on => 3,
                    _ => 1,
                };
                let (mut n, mut points) = (1, 0);
                while round(operation, inline, n, goes_on, seen) {
                    (n, points) = (n + stride, points + 1);
                }
                println!(
                    "  {}, goes on {goes_on}: {points} points, each {stride}th, waiter asleep at {}",
                    operation.name,
                    seen[0].load(SeqCst)
                );
                assert!(points > 0);
            }
        }
    }

    /// `clear`, stopped before each write, and then killed or let go on: each entry is whole or gone, meanwhile and after it,
    /// and what another process wrote beside it stays, unless the clear goes on and comes by.
    fn clear(inline: bool) {
        for goes_on in [false, true] {
            // How many points there were; at how many some entries were gone, and some not; at how many the waiter slept.
            let (mut n, mut points, seen) = (1, 0, words());
            loop {
                let what = format!("clear, inline {inline}, kill point {n}, goes on {goes_on}");
                stage(&what);
                let world = || {
                    let (map, model) = filled(40, inline);
                    let (start, reply) = (Line::new(), Line::new());
                    let (waiter, key) = waiter(&map, inline, &start, &reply);
                    let mut victim = fork(|| {
                        map.get(0);
                        crash::stop(n);
                        map.clear();
                        crash::stop(u64::MAX);
                    });
                    let stopped = match victim.stops_or_ends() {
                        None => true,
                        Some(end) => {
                            assert_eq!(end, End::Exit(0), "{what}: the victim itself failed");
                            false
                        }
                    };
                    let left = model.iter().filter(|(key, value)| match map.get(**key) {
                        None => false,
                        Some(found) => {
                            assert_eq!(found, **value, "{what}: a reader beside it");
                            true
                        }
                    });
                    let left = left.count();
                    seen[0].fetch_add((0 < left && left < model.len()).into(), SeqCst);
                    start.send(0);
                    until(|| reply.has_some() || waiter.sleep() == Some(Sleep::Bounded) && !reply.has_some());
                    seen[1].fetch_add((!reply.has_some()).into(), SeqCst);
                    if stopped && goes_on {
                        victim.go_on();
                        victim.succeeds("the victim, after its stop");
                    } else if stopped {
                        victim.kill();
                    }
                    reply.receive();
                    waiter.succeeds("the waiter");
                    let (entries, sound) = map.audit();
                    let mut found = map.entries();
                    assert_eq!((entries, map.len(), sound), (found.len() as u64, entries, true), "{what}");
                    match found.remove(&key) {
                        None => assert!(stopped && goes_on, "{what}: what another wrote is gone"),
                        Some(theirs) => assert_eq!(theirs, value(inline, key), "{what}: what another wrote"),
                    }
                    assert!(found.iter().all(|(key, value)| model.get(key) == Some(value)), "{what}");
                    let expected = if stopped && !goes_on { left } else { 0 };
                    assert_eq!(found.len(), expected, "{what}: after it");
                    map.clear();
                    assert_eq!((map.audit(), map.entries().len()), ((0, true), 0), "{what}: the next clear");
                    let report = allmend::verify().expect("a healthy segment");
                    assert_eq!((report.objects, report.busy), (1, 0), "{what}");
                    harness::exit_now(if stopped { KILLED } else { FINISHED });
                };
                match fork(world).end() {
                    End::Exit(KILLED) => points += 1,
                    End::Exit(FINISHED) => break,
                    other => panic!("{what}: {other:?}"),
                }
                n += if goes_on && !long() { 3 } else { 1 };
            }
            let [halves, asleep] = [0, 1].map(|i| seen[i].load(SeqCst));
            println!(
                "  clear, inline {inline}, goes on {goes_on}: {points} points, half done at {halves}, waiter asleep at {asleep}"
            );
            assert!(halves > 0 && asleep > 0, "the points do not lie within the clear");
        }
    }

    /// The heir is killed, too, at each write of its recovery; and the next one recovers.
    fn recovery(inline: bool) {
        let operation = &OPERATIONS[7];
        let (mut points, mut first) = (0, 11);
        while first < 400 {
            let mut n = 1;
            loop {
                stage(&format!("recovery, inline {inline}, after a death at {first}, kill point {n}"));
                let what = format!("recovery after {first}, killed at {n}");
                let world = || {
                    let (map, model) = filled(operation.base, inline);
                    let states = (operation.states)(model, inline);
                    let mut victim = fork(|| {
                        map.get(0);
                        crash::arm(first);
                        (operation.act)(&map, inline);
                    });
                    victim.end();
                    let mut heir = fork(|| {
                        map.get(0);
                        crash::arm(n);
                        map.audit(); // takes each lock, and recovers
                        crash::arm(u64::MAX);
                    });
                    let killed = heir.end().was_killed();
                    assert!(is_one_of(&map, &states, &Model::new()), "{what}: a reader");
                    check(&map, &states, &Model::new(), &what);
                    harness::exit_now(if killed { KILLED } else { FINISHED });
                };
                match fork(world).end() {
                    End::Exit(KILLED) => points += 1,
                    End::Exit(FINISHED) => break,
                    other => panic!("{what}: {other:?}"),
                }
                n += if long() { 1 } else { 7 };
            }
            first += if long() { 7 } else { 67 };
        }
        println!("  recovery, inline {inline}: {points} kill points");
        assert!(points > 10);
    }

    // ---- at random ----

    /// Workers change keys of their own and say what was done; they are killed at random, and what was acknowledged is there.
    fn storm() {
        let kills = if long() { 10_000 } else { 150 };
        for inline in [true, false] {
            let mut random = Random::new();
            let map = Map::new(inline);
            // A word per key: the number of its last acknowledged change; and of the one that was begun.
            let (done, begun) = (words(), words());
            let keys = 64u64;
            for kill in 0..kills / 2 {
                stage(&format!("storm, inline {inline}, kill {kill}"));
                let seed = random.next();
                let at = 1 + random.below(if kill % 10 == 0 { 3000 } else { 300 });
                let work = |worker: u64| {
                    let mut random = Random::seeded(seed ^ worker);
                    map.get(0);
                    crash::arm(at + worker * 13);
                    loop {
                        let key = random.below(keys / 2) * 2 + worker;
                        let change = begun[key as usize].load(SeqCst) + 1;
                        begun[key as usize].store(change, SeqCst);
                        if change % 5 == 0 {
                            map.remove(key);
                        } else {
                            map.insert(key, &value(inline, change));
                        }
                        done[key as usize].store(change, SeqCst);
                    }
                };
                let mut workers: Vec<Child> = (0..2).map(|worker| fork(|| work(worker))).collect();
                for worker in &mut workers {
                    assert!(worker.end().was_killed());
                }
                let state =
                    |change: u64| (change != 0 && !change.is_multiple_of(5)).then(|| value(inline, change));
                for key in 0..keys {
                    let (done, begun) = (&done[key as usize], &begun[key as usize]);
                    let found = map.get(key);
                    let (last, next) = (done.load(SeqCst), begun.load(SeqCst));
                    assert!(found == state(last) || found == state(next), "{key}: {last}, {next}: {found:?}");
                    // Both may be the same; then it does not matter.
                    let now = if found == state(next) { next } else { last };
                    done.store(now, SeqCst);
                    begun.store(now, SeqCst);
                }
                if kill % 8 == 0 {
                    let (entries, sound) = map.audit();
                    assert!(sound);
                    assert_eq!((map.entries().len() as u64, map.len()), (entries, entries));
                    assert!(allmend::verify().is_ok());
                }
            }
        }
        println!("  {} kills, 0 acknowledged changes lost", kills * 2);
    }

    // ---- controls ----

    fn noticed(rule: Rule) -> u64 {
        let noticed = words();
        for inline in [true, false] {
            for n in (1..600).step_by(if rule == Rule::RecoverFirst { 29 } else { 1 }) {
                stage(&format!("control {rule:?}, inline {inline}, kill point {n}"));
                let world = || {
                    let (map, model) = filled(120, inline);
                    let operation = &OPERATIONS[7];
                    let mut states = (operation.states)(model.clone(), inline);
                    let mut victim = fork(|| {
                        map.get(0);
                        crash::break_rule(rule);
                        crash::arm(n);
                        map.insert(7, &value(inline, 7 + 7 * 30));
                        (operation.act)(&map, inline);
                    });
                    victim.end();
                    for state in &mut states {
                        state.insert(7, value(inline, 7 + 7 * 30));
                    }
                    states.push(model);
                    if rule == Rule::RecoverFirst {
                        crash::break_rule(rule);
                    }
                    let reads = is_one_of(&map, &states, &Model::new());
                    let (entries, sound) = map.audit();
                    let fine = reads && sound && map.len() == entries && states.contains(&map.entries());
                    harness::exit_now(if fine { FINISHED } else { KILLED });
                };
                // A panic within is a notice, too.
                if fork(world).end() != End::Exit(FINISHED) {
                    noticed[0].fetch_add(1, SeqCst);
                    if rule != Rule::RecoverFirst {
                        return 1;
                    }
                }
            }
        }
        noticed[0].load(SeqCst)
    }

    fn control_without_recovery() {
        let times = noticed(Rule::RecoverFirst);
        println!("  control, without recovery: noticed at {times} points");
        assert!(times > 0, "the test does not notice what a dead writer left");
    }

    fn control_is_noticed(rule: Rule) {
        let times = noticed(rule);
        println!("  control, {rule:?}: noticed");
        assert!(times > 0, "the test does not notice a broken commit");
    }
}
