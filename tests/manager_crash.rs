//! Names, killed before each shared write: of giving one, of taking one away, of repairing either; another process works
//! on the same names meanwhile. After each the survivors get on, and `verify()` finds exactly what has a name.
//!
//! Kill points exist in builds with `--cfg allmend_crash` only: `cargo crash --test manager_crash`.

#[cfg(not(allmend_crash))]
fn main() {
    println!("needs a build with --cfg allmend_crash: cargo crash --test manager_crash");
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
    use crate::harness::{self, Child, End, fork, stage, words};
    use allmend::{Manager, OpenError, SharedMap, SharedValue, crash};
    use std::sync::atomic::Ordering::SeqCst;

    pub(super) fn main() {
        harness::run(&[
            ("give", give),
            ("give_in_a_list_of_others", give_in_a_list_of_others),
            ("give_and_go_on", give_and_go_on),
            ("give_a_map_with_settings", give_a_map_with_settings),
            ("publish", publish),
            ("take_away", take_away),
            ("take_over_a_dead_claim", take_over_a_dead_claim),
            ("sweep_a_dead_claim", sweep_a_dead_claim),
            ("control_claims_of_the_dead_stay", control_claims_of_the_dead_stay),
            ("control_names_keep_nothing", control_names_keep_nothing),
        ]);
    }

    /// What became of the victim of one round.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Victim {
        Killed,
        /// It had fewer writes than that.
        Finished,
    }

    fn small() -> Manager {
        Manager::builder().reserve(8 << 20).max_processes(20).new().unwrap()
    }

    /// Objects and names of a healthy manager at which nobody works.
    fn counts(manager: &Manager) -> (u64, u64) {
        let report = manager.verify().expect("healthy");
        assert_eq!(report.busy, 0, "nobody is at anything: {report:?}");
        (report.objects, report.names)
    }

    /// A round for each write of the victim, each in a process with memory of its own.
    fn every_write(what: &str, world: impl Fn(u64) -> Victim) {
        let mut points = 0;
        for n in 1.. {
            stage(&format!("{what}, kill point {n}"));
            let mut round = fork(|| {
                let killed = world(n) == Victim::Killed;
                harness::exit_now(if killed { 40 } else { 41 });
            });
            match round.end() {
                End::Exit(40) => points += 1,
                End::Exit(41) => break,
                other => panic!("{what}, kill point {n}: {other:?}"),
            }
        }
        println!("  {what}: {points} kill points");
        assert!(points > 10, "{what}: hardly a write");
    }

    /// A victim that stops before its `n`-th write in `act`; `prepare` comes before and counts nothing.
    fn victim(n: u64, prepare: impl FnOnce(), act: impl FnOnce()) -> (Child, Victim) {
        let mut child = fork(|| {
            prepare();
            crash::stop(n);
            act();
            crash::stop(u64::MAX);
        });
        match child.stops_or_ends() {
            None => (child, Victim::Killed),
            Some(end) => {
                assert_eq!(end, End::Exit(0), "the victim itself failed");
                (child, Victim::Finished)
            }
        }
    }

    fn end(mut child: Child, fate: Victim) {
        if fate == Victim::Killed {
            child.kill();
        }
    }

    fn get(manager: &Manager, name: &str) -> Option<u64> {
        match manager.open_object::<SharedValue<u64>>(name) {
            Ok(value) => Some(value.get()),
            Err(OpenError::NoObject { .. }) => None,
            Err(other) => panic!("{name}: {other}"),
        }
    }

    /// While the victim stands still: others look up, give and take names.
    fn others_work(manager: &Manager) {
        fork(|| {
            assert_eq!(get(manager, "old"), Some(1));
            assert!([None, Some(5)].contains(&get(manager, "new")), "a look-up waits for nobody");
            assert_eq!(manager.value("other", 2u64).unwrap().get(), 2);
            manager.remove("other").unwrap();
            assert!(!manager.objects().unwrap().is_empty());
            manager.verify().expect("healthy, though somebody is at something");
        })
        .succeeds("another process");
    }

    fn give() {
        every_write("a new name", |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            let (child, fate) =
                victim(n, || _ = get(&manager, "old"), || drop(manager.value("new", 5u64).unwrap()));
            others_work(&manager);
            end(child, fate);
            let before = get(&manager, "new");
            assert!(fate == Victim::Killed || before == Some(5));
            assert_eq!(manager.value("new", 6u64).unwrap().get(), before.unwrap_or(6));
            assert_eq!(counts(&manager), (2, 2));
            manager.remove("new").unwrap();
            assert_eq!(counts(&manager), (1, 1));
            fate
        });
    }

    /// Names enough that each bucket's list has others in it: the list is written anew, and the old one goes.
    fn give_in_a_list_of_others() {
        const OTHERS: u64 = 12_000;
        let manager = Manager::new().unwrap();
        manager.value("old", 1u64).unwrap();
        (0..OTHERS).for_each(|i| drop(manager.value(&format!("{i}"), i).unwrap()));
        let mut taken = OTHERS + 1;
        for n in 1.. {
            stage(&format!("a new name among others, kill point {n}"));
            let name = format!("new {n}");
            let (child, fate) =
                victim(n, || _ = get(&manager, "old"), || drop(manager.value(&name, 5u64).unwrap()));
            others_work(&manager);
            end(child, fate);
            taken += u64::from(get(&manager, &name).is_some());
            assert_eq!(counts(&manager), (taken, taken));
            if fate == Victim::Finished {
                println!("  a new name among {OTHERS}: {} kill points", n - 1);
                return;
            }
        }
    }

    /// The victim is stopped, not killed: who wants the same name gets it all the same, and there is one object.
    fn give_and_go_on() {
        let both = words();
        every_write("a new name, stopped and going on", |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            let (child, fate) = victim(
                n,
                || _ = get(&manager, "old"),
                || {
                    let value = manager.value("new", 5u64).unwrap();
                    crash::stop(u64::MAX); // not with the value's lock in its hands
                    value.update(|v| *v += 100).unwrap();
                },
            );
            let value = manager.value("new", 6u64).unwrap();
            let found = value.get();
            value.update(|v| *v += 1_000).unwrap();
            if fate == Victim::Killed {
                child.go_on();
                child.succeeds("the victim, after its stop");
            }
            both[usize::from(found % 10 == 6)].fetch_add(1, SeqCst);
            assert_eq!(value.get() / 100, 11, "both worked on one object: {}", value.get());
            assert_eq!(counts(&manager), (2, 2));
            fate
        });
        let [first, second] = [0, 1].map(|i| both[i].load(SeqCst));
        println!("  the victim's object: {first}, the other's: {second}");
        assert!(first > 0 && second > 0);
    }

    /// A map whose table is made before it gets the name: killed anywhere, the name leads to the whole of it, or to nothing.
    fn give_a_map_with_settings() {
        let settings = || SharedMap::<u64, u64>::builder().entries(1).max_bytes(1 << 20);
        every_write("a new map with settings", |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            let (child, fate) =
                victim(n, || _ = get(&manager, "old"), || drop(settings().create(&manager, "new").unwrap()));
            let find = || match manager.open_object::<SharedMap<u64, u64>>("new") {
                Ok(map) => Some(map.fetch_add(1, 1).unwrap()),
                Err(OpenError::NoObject { .. }) => None,
                Err(other) => panic!("{other}"),
            };
            fork(|| {
                assert!([None, Some(0)].contains(&find()), "a look-up waits for nobody");
                manager.verify().expect("healthy, though somebody is at something");
            })
            .succeeds("another process");
            end(child, fate);
            let before = find();
            assert!(before == Some(1) || before.is_none() && fate == Victim::Killed);
            let again = settings().create(&manager, "new").map(drop);
            let taken = OpenError::ObjectExists { name: "new".into() };
            assert_eq!(again, if before.is_some() { Err(taken) } else { Ok(()) });
            assert_eq!(find(), Some(before.map_or(0, |_| 2)));
            assert_eq!(counts(&manager), (2, 2));
            manager.remove("new").unwrap();
            assert_eq!(counts(&manager), (1, 1));
            fate
        });
    }

    fn publish() {
        every_write("a second name for an object", |n| {
            let manager = small();
            let value = manager.value("old", 1u64).unwrap();
            let (child, fate) = victim(n, || _ = value.get(), || manager.publish("new", &value).unwrap());
            drop(value);
            fork(|| {
                assert!([None, Some(1)].contains(&get(&manager, "new")));
                manager.verify().expect("healthy, though somebody is at something");
            })
            .succeeds("another process");
            end(child, fate);
            let names = 1 + u64::from(get(&manager, "new").is_some());
            assert_eq!(counts(&manager), (1, names));
            manager.remove("old").unwrap();
            assert_eq!(counts(&manager), (names - 1, names - 1));
            fate
        });
    }

    fn take_away() {
        every_write("a name is taken away", |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            manager.value("new", 5u64).unwrap();
            let (child, fate) = victim(n, || _ = get(&manager, "old"), || manager.remove("new").unwrap());
            others_work(&manager);
            end(child, fate);
            let before = get(&manager, "new");
            assert!(before.is_none() || fate == Victim::Killed);
            assert_eq!(manager.value("new", 6u64).unwrap().get(), before.unwrap_or(6));
            assert_eq!(counts(&manager), (2, 2));
            fate
        });
    }

    /// A process that dies with a claim listed.
    fn leave_a_claim(manager: &Manager, at: u64) {
        let mut child = fork(|| {
            _ = get(manager, "old");
            crash::arm(at);
            drop(manager.value("new", 4u64));
            harness::die()
        });
        assert!(child.end().was_killed());
    }

    fn take_over_a_dead_claim() {
        every_write("a claim of a dead process is taken over", |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            leave_a_claim(&manager, 25 + n % 20);
            let (child, fate) =
                victim(n, || _ = get(&manager, "old"), || drop(manager.value("new", 5u64).unwrap()));
            fork(|| {
                assert!([None, Some(4), Some(5)].contains(&get(&manager, "new")));
                manager.value("other", 2u64).unwrap();
                manager.remove("other").unwrap();
            })
            .succeeds("another process");
            end(child, fate);
            let value = manager.value("new", 6u64).unwrap();
            assert!((4..=6).contains(&value.get()));
            assert_eq!(counts(&manager), (2, 2));
            fate
        });
    }

    fn sweep_a_dead_claim() {
        every_write("what a dead process left is cleared", |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            leave_a_claim(&manager, 20 + n % 30);
            let (child, fate) = victim(n, || _ = get(&manager, "old"), || drop(manager.verify().unwrap()));
            end(child, fate);
            let names = 1 + u64::from(get(&manager, "new").is_some());
            assert_eq!(counts(&manager), (names, names));
            fate
        });
    }

    /// The kills of `give`, with the rule broken in the survivor: it must be noticed.
    fn control(what: &str, rule: crash::Rule) {
        let noticed = words();
        every_write(what, |n| {
            let manager = small();
            manager.value("old", 1u64).unwrap();
            let (child, fate) =
                victim(n, || _ = get(&manager, "old"), || drop(manager.value("new", 5u64).unwrap()));
            end(child, fate);
            crash::break_rule(rule);
            let bad = match manager.verify() {
                Ok(report) => report.busy != 0 || report.objects != report.names,
                Err(_) => true,
            };
            noticed[0].fetch_add(bad.into(), SeqCst);
            fate
        });
        println!("  noticed: {}", noticed[0].load(SeqCst));
        assert!(noticed[0].load(SeqCst) > 0, "the test does not notice it");
    }

    fn control_claims_of_the_dead_stay() {
        control("control: nobody takes claims of the dead away", crash::Rule::RetractTheDead);
    }

    fn control_names_keep_nothing() {
        control("control: a name keeps nothing", crash::Rule::NamesKeep);
    }
}
