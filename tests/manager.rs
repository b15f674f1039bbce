//! Objects by name, seen from outside: one object however many ask, other types refused, many names, a full segment,
//! names that are given again, processes that die in the middle, and joining by a descriptor.

mod harness;

use allmend::{
    CommandExt, CreateError, LockError, Manager, MapError, NameFault, OpenError, Pool, Resource, SharedArray,
    SharedAtomic, SharedMap, SharedValue, VerifyError, map::MapBuilder, sync::Unlocked,
};
use harness::{Line, Random, die, fork, stage, until};
use std::process::Command;

/// Set for a child that is this program again.
const CHILD: &str = "ALLMEND_TEST_MANAGER_CHILD";

fn main() {
    match std::env::var(CHILD).as_deref() {
        Ok("guest") => return guest(),
        Ok("nothing") => return nothing_was_shared(),
        _ => {}
    }
    harness::run(&[
        ("twenty_processes_create_one_name", twenty_processes_create_one_name),
        ("another_type_is_refused", another_type_is_refused),
        ("another_array_is_refused", another_array_is_refused),
        ("unlocked_arrays_by_name", unlocked_arrays_by_name),
        ("maps_with_settings_by_name", maps_with_settings_by_name),
        ("a_named_map_keeps_its_settings", a_named_map_keeps_its_settings),
        ("names_that_cannot_be", names_that_cannot_be),
        ("a_hundred_thousand_names", a_hundred_thousand_names),
        ("full", full),
        ("removed_and_created_again", removed_and_created_again),
        ("killed_in_the_middle", killed_in_the_middle),
        ("only_to_look", only_to_look),
        ("handles_travel_to_workers", handles_travel_to_workers),
        ("joined_by_a_child", joined_by_a_child),
        ("not_a_segment_of_ours", not_a_segment_of_ours),
    ]);
}

fn small() -> Manager {
    Manager::builder().reserve(8 << 20).max_processes(40).new().unwrap()
}

/// Objects and names of a healthy manager at which nobody works.
fn counts(manager: &Manager) -> (u64, u64) {
    let report = manager.verify().expect("healthy");
    assert_eq!(report.busy, 0, "{report:?}");
    (report.objects, report.names)
}

fn twenty_processes_create_one_name() {
    let manager = small();
    for round in 0..20 {
        stage(&format!("twenty processes, round {round}"));
        let (start, made) = (Line::new(), Line::new());
        let name = format!("name of round {round}");
        let askers: Vec<_> = (0..20u64)
            .map(|i| {
                fork(|| {
                    start.receive();
                    let value = manager.value(&name, i).unwrap();
                    made.send(value.get());
                    value.update(|v| *v += 100).unwrap();
                })
            })
            .collect();
        (0..20).for_each(|_| start.send(0));
        let first = made.receive() % 100;
        (1..20).for_each(|_| assert_eq!(made.receive() % 100, first, "one of them created it"));
        askers.into_iter().for_each(|asker| asker.succeeds("an asker"));
        assert_eq!(manager.value(&name, 0u64).unwrap().get(), first + 2_000);
        assert_eq!(counts(&manager), (round + 1, round + 1));
    }
}

fn another_type_is_refused() {
    let manager = small();
    manager.value("n", 1u32).unwrap();
    let wrong = |found: OpenError| match found {
        OpenError::WrongType { name, expected, found } if name == "n" => (expected, found),
        other => panic!("{other:?}"),
    };
    let there = "a SharedValue of u32 (4 bytes, alignment 4)";
    let (expected, found) = wrong(manager.value("n", 1i32).unwrap_err());
    assert_eq!((&*expected, &*found), ("a SharedValue of i32 (4 bytes, alignment 4)", there));
    let (expected, found) = wrong(manager.value("n", [1u32; 3]).unwrap_err());
    assert_eq!((&*expected, &*found), ("a SharedValue of [u32; 3] (12 bytes, alignment 4)", there));
    let (expected, found) = wrong(manager.atomic("n", 1u32).unwrap_err());
    assert_eq!((&*expected, &*found), ("a SharedAtomic of u32 (4 bytes, alignment 4)", there));
    let unlocked = manager.open_object::<SharedValue<u32, Unlocked>>("n").unwrap_err();
    assert_eq!(wrong(unlocked).0, "an unlocked SharedValue of u32 (4 bytes, alignment 4)");
    // A refusal takes nothing away.
    assert_eq!((manager.value("n", 0u32).unwrap().get(), counts(&manager)), (1, (1, 1)));
}

/// What was asked for and what is there, of an error that says so of the name.
fn wrong<T>(name: &str, found: Result<T, OpenError>) -> (String, String) {
    match found.map(drop) {
        Err(OpenError::WrongType { name: of, expected, found }) if of == name => (expected, found),
        other => panic!("{name}: {other:?}"),
    }
}

/// Every kind of object under a name is refused as every other, as an array of another type, and of another length.
fn another_array_is_refused() {
    let manager = small();
    manager.value("value", 7u32).unwrap();
    manager.atomic("atomic", 7u32).unwrap();
    manager.map::<u32, u32>("map").unwrap();
    manager.array::<u32>("array", 10).unwrap().copy_from(&[7; 10]).unwrap();
    manager.unlocked_array::<u32>("unlocked", 10).unwrap().set(9, 7).unwrap();
    let before = counts(&manager);
    let of_u32 = |what: &str| format!("{what} of u32 (4 bytes, alignment 4)");
    let kinds = [
        ("value", of_u32("a SharedValue")),
        ("atomic", of_u32("a SharedAtomic")),
        ("map", "a SharedMap of (u32, u32)".to_owned()),
        ("array", of_u32("a SharedArray")),
        ("unlocked", of_u32("an unlocked SharedArray")),
    ];
    for (name, there) in &kinds {
        let asked = [
            ("value", (*name != "value").then(|| wrong(name, manager.value(name, 0u32)))),
            ("atomic", (*name != "atomic").then(|| wrong(name, manager.atomic(name, 0u32)))),
            ("map", (*name != "map").then(|| wrong(name, manager.map::<u32, u32>(name)))),
            ("array", (*name != "array").then(|| wrong(name, manager.array::<u32>(name, 10)))),
            ("unlocked", (*name != "unlocked").then(|| wrong(name, manager.unlocked_array::<u32>(name, 10)))),
        ];
        for (kind, answer) in asked {
            let Some((expected, found)) = answer else { continue };
            let wanted = &kinds.iter().find(|(other, _)| *other == kind).unwrap().1;
            assert_eq!((&expected, &found), (wanted, there), "{name} as {kind}");
        }
    }
    for (name, there) in &kinds[3..] {
        let as_i32 = [
            (name == &"array").then(|| wrong(name, manager.array::<i32>(name, 10))),
            (name == &"array").then(|| wrong(name, manager.open_object::<SharedArray<i32>>(name))),
            (name == &"unlocked").then(|| wrong(name, manager.unlocked_array::<i32>(name, 10))),
            (name == &"unlocked")
                .then(|| wrong(name, manager.open_object::<SharedArray<i32, Unlocked>>(name))),
        ];
        for (expected, found) in as_i32.into_iter().flatten() {
            assert_eq!((expected, &found), (there.replace("u32", "i32"), there));
        }
    }
    for len in [1, 9, 11, 1 << 20] {
        let said = (format!("{len} elements"), "10 elements".to_owned());
        assert_eq!(wrong("array", manager.array::<u32>("array", len)), said);
        assert_eq!(wrong("unlocked", manager.unlocked_array::<u32>("unlocked", len)), said);
    }
    for name in ["new", "array"] {
        let empty = manager.array::<u32>(name, 0).map(drop);
        let refused = match name {
            "new" => matches!(empty, Err(OpenError::Invalid(_))),
            _ => matches!(empty, Err(OpenError::WrongType { .. })),
        };
        assert!(refused, "{name}: {empty:?}");
    }
    // A refusal takes nothing away, and leaves nothing.
    assert_eq!(manager.value("value", 0u32).unwrap().get(), 7);
    assert_eq!(manager.atomic("atomic", 0u32).unwrap().load(), 7);
    assert_eq!(manager.array::<u32>("array", 10).unwrap().to_vec().unwrap(), [7; 10]);
    assert_eq!(manager.unlocked_array::<u32>("unlocked", 10).unwrap().get(9).unwrap(), 7);
    assert!(matches!(manager.open_object::<SharedArray<u32>>("new"), Err(OpenError::NoObject { .. })));
    assert_eq!((counts(&manager), before.1), (before, 5));
}

/// One array for all that ask for the name, in this process and in others, and after they are gone.
fn unlocked_arrays_by_name() {
    let manager = small();
    let adders: Vec<_> = (0..4usize)
        .map(|i| {
            fork(|| {
                let counts = manager.unlocked_array::<u64>("counts", 5).unwrap();
                for _ in 0..1_000 {
                    counts.fetch_add(4, 1).unwrap();
                }
                counts.set(i, i as u64 + 1).unwrap();
            })
        })
        .collect();
    adders.into_iter().for_each(|adder| adder.succeeds("an adder"));
    let again = manager.unlocked_array::<u64>("counts", 5).unwrap();
    assert_eq!(again.to_vec(), [1, 2, 3, 4, 4_000]);
    let opened = manager.open_object::<SharedArray<u64, Unlocked>>("counts").unwrap();
    opened.set(0, 9).unwrap();
    assert_eq!(again.get(0).unwrap(), 9);
    // By a second name, which stays when the first is taken away; then the first is another array's.
    manager.publish("sums", &opened).unwrap();
    manager.remove("counts").unwrap();
    assert_eq!(manager.unlocked_array::<u8>("counts", 3).unwrap().to_vec(), [0; 3]);
    assert_eq!(manager.unlocked_array::<u64>("sums", 5).unwrap().get(4).unwrap(), 4_000);
    drop((again, opened));
    assert_eq!(counts(&manager), (2, 2));
}

fn settings(max_bytes: u64) -> MapBuilder<u64, u64> {
    SharedMap::builder().entries(1_000).max_bytes(max_bytes)
}

/// Processes that ask at the same time, each with settings of its own, have one map; and who insists on a new one is one.
fn maps_with_settings_by_name() {
    let manager = Manager::builder().reserve(64 << 20).max_processes(40).new().unwrap();
    for round in 0..20 {
        stage(&format!("ten processes create one map, round {round}"));
        let (start, created) = (Line::new(), Line::new());
        let (name, second) = ("new", "whoever comes first makes it");
        let askers: Vec<_> = (1..=10u64)
            .map(|i| {
                fork(|| {
                    start.receive();
                    let ours = || settings(i << 20);
                    created.send(match ours().create(&manager, name) {
                        Ok(map) => map.insert(i, i).unwrap().map_or(1, |_| panic!("it is new")),
                        Err(OpenError::ObjectExists { name: taken }) if taken == name => 0,
                        Err(other) => panic!("{other}"),
                    });
                    for name in [name, second] {
                        ours().open_or_create(&manager, name).unwrap().fetch_add(0, i).unwrap();
                    }
                })
            })
            .collect();
        (0..10).for_each(|_| start.send(0));
        assert_eq!((0..10).map(|_| created.receive()).sum::<u64>(), 1);
        askers.into_iter().for_each(|asker| asker.succeeds("an asker"));
        for (name, entries) in [(name, 2), (second, 1)] {
            let map = manager.map::<u64, u64>(name).unwrap();
            assert_eq!((map.len(), map.get(0).unwrap()), (entries, Some(55)), "{name}");
        }
        assert_eq!(counts(&manager), (2, 2));
        [name, second].iter().for_each(|name| manager.remove(name).unwrap());
        assert_eq!(counts(&manager), (0, 0));
    }
}

fn a_named_map_keeps_its_settings() {
    let manager = small();
    let fill = |map: &SharedMap<u64, u64>| match (0..50_000).find_map(|i| map.set(i, i).err()) {
        None => map.len(),
        Some(MapError::Full) => map.len(),
        Some(other) => panic!("{other}"),
    };
    let limited = settings(256 << 10).create(&manager, "limited").unwrap();
    let most = fill(&limited);
    assert!((1_000..20_000).contains(&most), "{most} of 16 bytes and more in 256 KiB");
    limited.clear().unwrap();
    drop(limited);
    // No other settings change that, and whoever asks without any gets it, too.
    for again in [settings(u64::MAX).open_or_create(&manager, "limited"), manager.map("limited")] {
        assert!(fill(&again.unwrap()) < 20_000);
    }
    assert_eq!(fill(&settings(u64::MAX).open_or_create(&manager, "free").unwrap()), 50_000);
    // Settings that cannot be, of a map that is there and of one that is not; they leave nothing.
    let before = counts(&manager);
    for name in ["limited", "new"] {
        let refused = settings(0).open_or_create(&manager, name).map(drop);
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{refused:?}");
        let refused = settings(0).create(&manager, name).map(drop);
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{refused:?}");
    }
    let too_many = |max_bytes| settings(max_bytes).entries(10_000_000);
    for refused in [
        too_many(u64::MAX).create(&manager, "new"),
        too_many(u64::MAX).open_or_create(&manager, "new"),
        settings(4 << 10).create(&manager, "new"),
    ] {
        let refused = refused.map(drop);
        assert!(matches!(refused, Err(OpenError::Full { .. })), "{refused:?}");
    }
    drop(too_many(u64::MAX).open_or_create(&manager, "limited").unwrap());
    let refused = settings(1).create(&manager, "").map(drop);
    assert!(matches!(refused, Err(OpenError::ObjectName { fault: NameFault::Empty, .. })), "{refused:?}");
    assert_eq!(counts(&manager), before);
    // Something else has the name.
    manager.value("value", 1u8).unwrap();
    assert_eq!(wrong("value", settings(1).open_or_create(&manager, "value")).0, "a SharedMap of (u64, u64)");
    let taken = settings(1).create(&manager, "value").map(drop);
    assert_eq!(taken, Err(OpenError::ObjectExists { name: "value".into() }));
    // Of a limit below the smallest table: it stays empty, and can be asked.
    let none = settings(1_023).entries(0).create(&manager, "none").unwrap();
    assert_eq!((none.set(1, 1), none.get(1), none.remove(1)), (Err(MapError::Full), Ok(None), Ok(None)));
}

fn names_that_cannot_be() {
    let manager = small();
    let fault = |name: &str| match manager.value(name, 1u8) {
        Err(OpenError::ObjectName { fault, .. }) => fault,
        other => panic!("{name:?}: {other:?}"),
    };
    assert_eq!(fault(""), NameFault::Empty);
    assert_eq!(fault("a\0b"), NameFault::Zero);
    assert_eq!(fault(&"n".repeat(256)), NameFault::TooLong { longest: 255 });
    assert!(matches!(manager.remove(""), Err(OpenError::ObjectName { .. })));
    let value = manager.value(&"ü".repeat(127), 1u8).unwrap();
    assert!(matches!(manager.publish("", &value), Err(OpenError::ObjectName { .. })));
    assert!(matches!(manager.remove("other"), Err(OpenError::NoObject { .. })));
    assert!(matches!(manager.open_object::<SharedAtomic<u8>>("other"), Err(OpenError::NoObject { .. })));
    manager.publish("a/b c", &value).unwrap();
    assert!(matches!(manager.publish("a/b c", &value), Err(OpenError::ObjectExists { .. })));
    assert_eq!(counts(&manager), (1, 2));
}

fn a_hundred_thousand_names() {
    const N: u64 = 100_000;
    let manager = Manager::new().unwrap();
    let name = |i: u64| format!("object number {i}");
    for i in 0..N {
        if i % 10_000 == 0 {
            stage(&format!("name {i}"));
        }
        manager.atomic(&name(i), i).unwrap();
    }
    stage("all are there");
    for i in (0..N).step_by(7) {
        assert_eq!(manager.open_object::<SharedAtomic<u64>>(&name(i)).unwrap().load(), i);
    }
    assert!(matches!(manager.open_object::<SharedAtomic<u64>>(&name(N)), Err(OpenError::NoObject { .. })));
    assert_eq!((manager.objects().unwrap().len() as u64, counts(&manager)), (N, (N, N)));
    stage("two of three are removed");
    for i in (0..N).filter(|i| i % 3 != 0) {
        manager.remove(&name(i)).unwrap();
    }
    let left = N.div_ceil(3);
    assert_eq!(counts(&manager), (left, left));
    assert_eq!(manager.atomic(&name(3), 0u64).unwrap().load(), 3);
}

fn full() {
    let manager = small();
    let mut made = 0u64;
    let error = loop {
        match manager.value(&format!("name {made}"), [made; 8]) {
            Ok(_) => made += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, OpenError::Full { what: Resource::Segment, .. }), "{error:?}");
    assert!(made > 5_000, "{made}");
    // All that is there goes on.
    for i in 0..made {
        let value = manager.value(&format!("name {i}"), [0; 8]).unwrap();
        value.update(|v| v[1] += 1).unwrap();
        assert_eq!(value.get()[..2], [i, i + 1]);
    }
    assert_eq!(counts(&manager), (made, made));
    for i in 0..made / 2 {
        manager.remove(&format!("name {i}")).unwrap();
    }
    for i in 0..made / 4 {
        manager.value(&format!("again {i}"), [0; 8]).unwrap();
    }
    let left = made - made / 2 + made / 4;
    assert_eq!(counts(&manager), (left, left));
}

fn removed_and_created_again() {
    let manager = small();
    let old = manager.value("n", 1u64).unwrap();
    let (start, done) = (Line::new(), Line::new());
    let other = fork(|| {
        let old = manager.value("n", 0u64).unwrap();
        done.send(0);
        start.receive();
        // Its handle is of the old one, whatever has the name by now.
        old.update(|v| *v += 1).unwrap();
        assert_eq!(manager.value("n", 0u64).unwrap().get(), 10);
    });
    done.receive();
    manager.remove("n").unwrap();
    let new = manager.value("n", 10u64).unwrap();
    start.send(0);
    other.succeeds("the other process");
    assert_eq!((old.get(), new.get()), (2, 10));
    assert_eq!(counts(&manager), (2, 1));
    drop(old);
    assert_eq!(counts(&manager), (1, 1));
    drop(new);
    assert_eq!((counts(&manager), manager.value("n", 0u64).unwrap().get()), ((1, 1), 10));
    manager.remove("n").unwrap();
    assert_eq!(counts(&manager), (0, 0));
}

/// Processes that give and take a few names, and are killed at any moment; every survivor gets on.
fn killed_in_the_middle() {
    let manager = small();
    let rounds = if std::env::var_os("ALLMEND_LONG").is_some() { 5_000 } else { 150 };
    let mut random = Random::new();
    for round in 0..rounds {
        stage(&format!("killed in the middle, round {round}"));
        let (seed, worked) = (random.next(), Line::new());
        let mut victims: Vec<_> = (0..2)
            .map(|i| {
                fork(|| {
                    let mut random = Random::seeded(seed + i);
                    for n in 0.. {
                        let name = format!("n{}", random.below(4));
                        match random.below(3) {
                            0 => drop(manager.remove(&name)),
                            _ => drop(manager.value(&name, [7u64; 4]).unwrap()),
                        }
                        if n == 3 {
                            worked.send(0);
                        }
                    }
                })
            })
            .collect();
        (0..2).for_each(|_| _ = worked.receive());
        (0..random.below(2_000)).for_each(|_| std::hint::spin_loop());
        victims.iter_mut().for_each(|victim| victim.kill());
        for n in 0..4 {
            assert_eq!(manager.value(&format!("n{n}"), [7u64; 4]).unwrap().get(), [7; 4]);
        }
        assert_eq!(counts(&manager), (4, 4));
    }
}

fn only_to_look() {
    let name = format!("test-{}-manager", std::process::id());
    let manager = Manager::builder().reserve(8 << 20).create(&name).unwrap();
    let value = manager.value("n", 5u64).unwrap();
    manager.atomic("hits", 6u8).unwrap();
    // Another process: this one has the segment already, to write.
    fork(|| {
        std::process::exit(
            match Command::new("/proc/self/exe").env(CHILD, "guest").env("NAME", &name).status() {
                Ok(status) => status.code().unwrap_or(1),
                Err(_) => 1,
            },
        )
    })
    .succeeds("the reader");
    assert_eq!((value.get(), counts(&manager)), (5, (2, 2)));
}

fn handles_travel_to_workers() {
    fn add((value, hits): (SharedValue<u64>, SharedAtomic<u64>)) -> allmend::Result<SharedValue<u64>> {
        *value.get_lock()? += 1;
        hits.fetch_add(1);
        Ok(value)
    }
    let pool = Pool::new(2).unwrap();
    let manager = Manager::new().unwrap();
    let both = (manager.value("n", 0u64).unwrap(), manager.atomic("hits", 0u64).unwrap());
    for back in pool.map(add, vec![both.clone(); 100]) {
        drop(back.unwrap().unwrap());
    }
    assert_eq!((both.0.get(), both.1.load()), (100, 100));
    drop((pool, both));
    until(|| manager.verify().unwrap().objects == 2);
}

/// The child of `joined_by_a_child` and of `only_to_look`.
fn guest() {
    if let Ok(name) = std::env::var("NAME") {
        let manager = Manager::builder().read_only().open(&name).unwrap();
        let value = manager.value("n", 0u64).unwrap();
        assert_eq!((value.get(), manager.atomic("hits", 0u8).unwrap().load()), (5, 6));
        assert_eq!(value.set(1), Err(LockError::ReadOnly));
        assert!(matches!(manager.value("other", 1u8), Err(OpenError::NoObject { .. })));
        assert!(matches!(manager.remove("n"), Err(OpenError::ReadOnly)));
        assert!(matches!(manager.publish("m", &value), Err(OpenError::ReadOnly)));
        assert_eq!(settings(1 << 20).create(&manager, "m").map(drop), Err(OpenError::ReadOnly));
        let absent = settings(1 << 20).open_or_create(&manager, "m").map(drop);
        assert!(matches!(absent, Err(OpenError::NoObject { .. })), "{absent:?}");
        assert!(matches!(manager.value("n", 1u8), Err(OpenError::WrongType { .. })));
        assert_eq!(manager.objects().unwrap().len(), 2);
        assert_eq!(manager.verify(), Err(VerifyError::Create(CreateError::ReadOnly)));
        assert!(
            allmend::segments()
                .unwrap()
                .iter()
                .any(|segment| segment.name == name && !segment.processes.is_empty())
        );
        return;
    }
    let all = Manager::all_from_env().unwrap();
    let again = Manager::from_env().unwrap();
    assert_eq!(all.len(), 2);
    let value = again.value("n", 0u64).unwrap();
    *value.get_lock().unwrap() += 1;
    assert_eq!(all[1].value("second", 0u8).unwrap().get(), 2);
    // What we were given is ours: our own children get nothing, though their environment speaks of it.
    let status = Command::new("/proc/self/exe").env(CHILD, "nothing").status().unwrap();
    assert!(status.success());
    if value.get() == 2 {
        let _guard = value.get_lock().unwrap();
        die();
    }
}

fn nothing_was_shared() {
    match Manager::from_env() {
        Err(OpenError::NotShared(_)) => {}
        other => panic!("{other:?}"),
    }
}

fn joined_by_a_child() {
    let (first, second) = (small(), small());
    let value = first.value("n", 0u64).unwrap();
    second.value("second", 2u8).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.env(CHILD, "guest").share(&first).unwrap().share(&second).unwrap();
    assert!(command.status().unwrap().success());
    assert_eq!(value.get(), 1);
    // The same command once more: this time the child dies with the lock in its hands.
    assert!(!command.status().unwrap().success());
    let guard = value.get_lock().unwrap();
    assert!(guard.inherited().is_some() && *guard == 2);
    drop(guard);
    assert_eq!((counts(&first), counts(&second)), ((1, 1), (1, 1)));
    // A child that was given nothing.
    assert!(Command::new("/proc/self/exe").env(CHILD, "nothing").status().unwrap().success());
    for wrong in ["", "x", "0", "99999:0", "-1:0", "0:zz", "1:00"] {
        let status =
            Command::new("/proc/self/exe").env(CHILD, "nothing").env("ALLMEND_SHARED", wrong).status();
        assert!(status.unwrap().success(), "{wrong:?}");
    }
}

fn not_a_segment_of_ours() {
    use std::fs::File;
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let memfd = rustix::fs::memfd_create(c"none", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let (null, exe) = (File::open("/dev/null").unwrap().into(), File::open("/proc/self/exe").unwrap().into());
    for (fd, why) in [(pipe, "a pipe"), (null, "a device"), (exe, "not sealed"), (memfd, "not sealed")] {
        let refused = Manager::from_fd(fd).unwrap_err();
        assert!(matches!(&refused, OpenError::NotOurs(what) if what.contains(why)), "{refused}");
        assert!(refused.to_string().starts_with("the descriptor leads to no segment of this crate"));
    }
    let manager = small();
    let same = Manager::from_fd(manager.as_fd().unwrap().try_clone_to_owned().unwrap()).unwrap();
    same.value("n", 3u8).unwrap();
    assert_eq!(manager.value("n", 0u8).unwrap().get(), 3);
    let too_many = Manager::builder().max_processes(5_000).new();
    assert!(matches!(too_many, Err(OpenError::Invalid(_))), "{too_many:?}");
    let too_large = Manager::builder().reserve(u64::MAX).new();
    assert!(matches!(too_large, Err(OpenError::Full { what: Resource::AddressSpace, .. })), "{too_large:?}");
}
