//! Named segments: found by name, whole or not there, gone with their last process, and typed errors for all that is
//! wrong with a name or with what has it.
#![allow(unsafe_code, reason = "namespaces, mounts, the environment while there is one thread")]

mod harness;

use allmend::{
    CreateError, LockError, Manager, ManagerBuilder, NameFault, OpenError, Resource as Lack, SharedAtomic,
    SharedValue, VerifyError,
};
use harness::{
    End, Line, die, fork, inode,
    mounts::{own_mounts, tmpfs_over},
};
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

fn main() {
    harness::run(&[
        ("created_found_and_gone", created_found_and_gone),
        ("two_programs_share_a_value", two_programs_share_a_value),
        ("opened_twice_it_is_one", opened_twice_it_is_one),
        ("the_last_one_out_takes_the_name", the_last_one_out_takes_the_name),
        ("stale_is_gone", stale_is_gone),
        ("persist", persist),
        ("removed_by_wish", removed_by_wish),
        ("only_to_look", only_to_look),
        ("forked_children", forked_children),
        ("opened_by_a_forked_child", opened_by_a_forked_child),
        ("attempts_that_fail_leave_nothing", attempts_that_fail_leave_nothing),
        ("no_name", no_name),
        ("not_a_segment", not_a_segment),
        ("permissions", permissions),
        ("address_space_and_file_size", address_space_and_file_size),
        ("all_places_taken", all_places_taken),
        ("a_full_dev_shm", a_full_dev_shm),
        ("other_pid_namespaces", other_pid_namespaces),
        ("never_standard_output", never_standard_output),
        ("gone_though_descriptors_were_closed", gone_though_descriptors_were_closed),
    ]);
}

/// A small one, and a name that no other test process has.
fn small() -> ManagerBuilder {
    Manager::builder().reserve(8 << 20).max_processes(20)
}

fn look() -> ManagerBuilder {
    Manager::builder().read_only()
}

fn name(what: &str) -> String {
    format!("test-{}-{what}", std::process::id())
}

fn path(name: &str) -> PathBuf {
    let directory = std::env::var("ALLMEND_SHM_DIR").unwrap_or("/dev/shm".into());
    format!("{directory}/allmend.{name}").into()
}

/// A directory of its own, which nobody else on the machine sweeps, until the test is over.
struct Directory(PathBuf);

impl Directory {
    fn own() -> Self {
        let path = PathBuf::from(format!("/dev/shm/allmend-test-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("ALLMEND_SHM_DIR", &path) };
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).expect("nothing is left in it");
    }
}

fn there(name: &str) -> bool {
    path(name).symlink_metadata().is_ok()
}

fn not_found(opened: Result<Manager, OpenError>) -> bool {
    matches!(opened, Err(OpenError::NotFound { .. }))
}

fn created_found_and_gone() {
    let name = name("a");
    assert!(not_found(small().open(&name)));
    let segment = small().create(&name).unwrap();
    assert_eq!(segment.name(), Some(&*name));
    assert!(matches!(small().create(&name), Err(OpenError::Exists { .. })));
    let listed = allmend::segments().unwrap();
    let info = listed.iter().find(|info| info.name == name).unwrap();
    assert_eq!((&*info.processes, info.persistent, info.stale), (&[std::process::id()][..], false, false));
    assert!(info.reserved >= 1 << 20 && info.bytes > 0 && info.bytes < info.reserved, "{info:?}");
    assert_eq!(path(&name).metadata().unwrap().mode() & 0o7777, 0o600);
    let value = segment.value("n", 5u64).unwrap();
    fork(|| {
        drop((segment.clone(), value.clone()));
        assert_eq!(value.get(), 5);
    })
    .succeeds("a forked child");
    segment.remove("n").unwrap();
    assert_eq!(segment.verify().unwrap().objects, 1);
    drop(value);
    assert_eq!(segment.verify().unwrap().objects, 0, "its name and its last handle are gone");
    drop(segment);
    assert!(!there(&name));
    assert!(not_found(small().open(&name)));
}

/// Runs `body` in a process that has nothing of ours: the test's own segments are not inherited knowledge.
fn stranger(body: impl FnOnce()) -> harness::Child {
    fork(body)
}

fn two_programs_share_a_value() {
    let name = name("b");
    let (ready, go) = (Line::new(), Line::new());
    // Forked before there is a segment, so each opens it for itself.
    let creator = stranger(|| {
        let segment = small().create(&name).unwrap();
        let value = segment.value("n", 0u64).unwrap();
        ready.send(0);
        for _ in 0..20_000 {
            value.update(|v| *v += 1).unwrap();
        }
        go.receive();
        assert_eq!(value.get(), 40_000);
        assert_eq!(segment.verify().unwrap().objects, 1);
    });
    ready.receive();
    let segment = small().open(&name).unwrap();
    let value = segment.value("n", 9u64).unwrap();
    for _ in 0..20_000 {
        value.update(|v| *v += 1).unwrap();
    }
    assert_eq!(segment.verify().unwrap().processes, 2);
    go.send(0);
    creator.succeeds("the creator");
    assert_eq!(value.get(), 40_000, "it outlives its creator");
    drop(segment);
    assert!(there(&name), "a handle keeps the segment");
    drop(value);
    assert!(!there(&name));
}

fn opened_twice_it_is_one() {
    let name = name("c");
    let one = small().open_or_create(&name).unwrap();
    let two = small().open_or_create(&name).unwrap();
    let three = small().open(&name).unwrap();
    assert_eq!(allmend::segments().unwrap().iter().find(|s| s.name == name).unwrap().processes.len(), 1);
    let value = one.value("n", [1u64; 9]).unwrap();
    let same = three.value("n", [0u64; 9]).unwrap();
    let _guard = value.get_lock().unwrap();
    assert_eq!(same.get_lock().map(drop), Err(LockError::Deadlock), "one object, one record of who holds it");
    drop((one, two));
    assert!(there(&name));
    drop(three);
    assert!(there(&name));
}

fn the_last_one_out_takes_the_name() {
    let name = name("d");
    let segment = small().create(&name).unwrap();
    let (ready, go) = (Line::new(), Line::new());
    let other = {
        drop(segment);
        stranger(|| {
            let segment = small().create(&name).unwrap();
            ready.send(0);
            go.receive();
            drop(segment);
        })
    };
    ready.receive();
    let segment = small().open(&name).unwrap();
    drop(segment);
    assert!(there(&name), "the other one is attached");
    let look = look().open(&name).unwrap();
    go.send(0);
    other.succeeds("the other one");
    assert!(there(&name), "who only looks is attached, too");
    drop(look);
    assert!(!there(&name), "and takes the name when it is the last");
}

/// Leaves a segment that nobody is attached to.
fn leave_stale(name: &str) {
    let mut child = stranger(|| {
        let segment = small().create(name).unwrap();
        let _value = segment.value("n", 7u64).unwrap();
        die()
    });
    assert!(child.end().was_killed());
    assert!(there(name));
}

fn stale_is_gone() {
    let _own = Directory::own();
    let (one, two, other) = (name("e"), name("f"), name("g"));
    leave_stale(&one);
    assert!(allmend::segments().unwrap().iter().any(|s| s.name == one && s.stale && s.processes.is_empty()));
    assert!(not_found(look().open(&one)));
    assert!(!there(&one), "an open takes it away");
    leave_stale(&one);
    assert!(not_found(small().open(&one)));
    leave_stale(&one);
    let new = small().open_or_create(&one).unwrap();
    assert_eq!(new.verify().unwrap().objects, 0, "a new one");
    leave_stale(&two);
    drop(small().create(&other).unwrap());
    assert!(!there(&two), "a create of any name sweeps");
    leave_stale(&two);
    let bytes = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path(&two)).unwrap()) * 512;
    assert!(bytes >= 4096, "{bytes}");
    assert_eq!(allmend::clear_stale().unwrap(), bytes, "what it had is free again");
    assert_eq!(allmend::clear_stale().unwrap(), 0);
    assert!(!there(&two));
    assert!(there(&one), "who is attached is not swept");
    leave_stale(&two);
    drop(small().create(&two).unwrap());
    leave_stale(&two);
    allmend::remove_segment(&two).unwrap();
    assert!(!there(&two));
}

fn persist() {
    let name = name("h");
    {
        let segment = small().create(&name).unwrap();
        segment.persist().unwrap();
        segment.value("n", 3u64).unwrap();
        // Without a name, so nobody keeps it.
        let _nameless = segment.value("m", 4u64).unwrap();
        segment.remove("m").unwrap();
    }
    assert!(there(&name));
    let listed = allmend::segments().unwrap();
    let info = listed.iter().find(|info| info.name == name).unwrap();
    assert_eq!((&*info.processes, info.persistent, info.stale), (&[][..], true, false));
    allmend::clear_stale().unwrap();
    assert!(matches!(small().create(&name), Err(OpenError::Exists { .. })));
    let segment = small().open(&name).unwrap();
    assert_eq!(segment.verify().unwrap().objects, 1);
    assert_eq!(segment.value("n", 0u64).unwrap().get(), 3, "with what has a name in it");
    drop(segment);
    assert!(there(&name));
    let mut child = stranger(|| {
        let _segment = small().open(&name).unwrap();
        die()
    });
    assert!(child.end().was_killed());
    assert!(there(&name), "nor does a kill change it");
    drop(look().open(&name).unwrap());
    allmend::remove_segment(&name).unwrap();
    assert!(!there(&name));
    assert!(matches!(allmend::remove_segment(&name), Err(OpenError::NotFound { .. })));
}

fn removed_by_wish() {
    let name = name("i");
    let old = small().create(&name).unwrap();
    let value = old.value("n", 1u64).unwrap();
    allmend::remove_segment(&name).unwrap();
    assert!(!there(&name));
    assert!(not_found(small().open(&name)));
    let new = small().create(&name).unwrap();
    assert_ne!(inode(&old), inode(&new));
    value.update(|v| *v += 1).unwrap();
    assert_eq!(old.value("n", 0u64).unwrap().get(), 2, "who is attached goes on");
    fork(|| value.update(|v| *v += 1).unwrap()).succeeds("a child of who is attached");
    assert_eq!((value.get(), old.verify().unwrap().objects), (3, 1));
    assert!(matches!(old.unlink(), Err(OpenError::NotFound { .. })), "never another's name");
    assert!(there(&name));
    drop((old, value));
    assert!(there(&name), "nor when it goes");
    new.unlink().unwrap();
    assert!(!there(&name));
    assert_eq!(new.value("n", 1u64).unwrap().get(), 1);
}

fn only_to_look() {
    let name = name("j");
    let (ready, go) = (Line::new(), Line::new());
    let writer = stranger(|| {
        let segment = small().create(&name).unwrap();
        let value = segment.value("n", [3u64; 9]).unwrap();
        let atomic = segment.atomic("hits", 4u64).unwrap();
        ready.send(0);
        go.receive();
        value.set([5; 9]).unwrap();
        atomic.store(6);
        ready.send(0);
        go.receive();
        segment.remove("n").unwrap();
        drop(value);
        ready.send(0);
        go.receive();
    });
    ready.receive();
    let segment = look().open(&name).unwrap();
    let value = segment.open_object::<SharedValue<[u64; 9]>>("n").unwrap();
    let atomic = segment.open_object::<SharedAtomic<u64>>("hits").unwrap();
    assert_eq!((value.get(), atomic.load()), ([3; 9], 4));
    go.send(0);
    ready.receive();
    assert_eq!((value.get(), atomic.load()), ([5; 9], 6));
    // Everything that would write says so.
    assert_eq!(value.get_lock().map(drop), Err(LockError::ReadOnly));
    assert_eq!(value.try_get_lock().map(drop), Err(LockError::ReadOnly));
    assert_eq!(value.set([1; 9]), Err(LockError::ReadOnly));
    let none = OpenError::NoObject { name: "new".into() };
    assert_eq!(segment.value("new", 1u64).map(drop), Err(none), "it cannot be made here");
    assert_eq!(segment.persist(), Err(OpenError::ReadOnly));
    assert_eq!(segment.unlink(), Err(OpenError::ReadOnly));
    assert_eq!(segment.verify(), Err(VerifyError::Create(CreateError::ReadOnly)));
    assert!(matches!(look().create("x"), Err(OpenError::ReadOnly)));
    let mut child = fork(|| {
        atomic.fetch_add(1);
    });
    assert_eq!(child.end(), End::Exit(101), "what cannot say so panics");
    fork(|| assert_eq!((value.get(), atomic.load()), ([5; 9], 6))).succeeds("a child may look, too");
    let listed = allmend::segments().unwrap();
    assert_eq!(
        listed.iter().find(|info| info.name == name).unwrap().processes.len(),
        1,
        "a place is for writers"
    );
    // Beside it the same for writing: two ways in, one process.
    let both = small().open(&name).unwrap();
    both.value("n", [0u64; 9]).unwrap().set([7; 9]).unwrap();
    assert_eq!((value.get(), value.set([1; 9])), ([7; 9], Err(LockError::ReadOnly)));
    drop(both);
    go.send(0);
    ready.receive();
    let mut child = fork(|| {
        value.get();
    });
    assert_eq!(child.end(), End::Exit(101), "an object that nobody keeps is gone");
    let none = OpenError::NoObject { name: "n".into() };
    assert_eq!(segment.value("n", [0u64; 9]).map(drop), Err(none), "it would be a new one");
    go.send(0);
    writer.succeeds("the writer");
    drop((segment, value, atomic));
    assert!(!there(&name));
}

fn forked_children() {
    let _own = Directory::own();
    let name = name("k");
    // The parent is killed, its child has not used the segment yet, and then it is swept.
    for swept in [false, true] {
        let (ready, go, tell) = (Line::new(), Line::new(), Line::new());
        let mut parent = stranger(|| {
            let segment = small().create(&name).unwrap();
            let value = segment.value("n", 1u64).unwrap();
            let child = fork(|| {
                // Its parent's end is not to be its own.
                let _ = rustix::process::set_parent_process_death_signal(None);
                ready.send(0);
                go.receive();
                let locked = value.get_lock().map(drop);
                tell.send(match locked {
                    Ok(()) => 0,
                    Err(LockError::Gone) => 1,
                    other => panic!("{other:?}"),
                });
                go.receive();
            });
            std::mem::forget(child);
            ready.receive();
            die()
        });
        assert!(parent.end().was_killed());
        if swept {
            allmend::clear_stale().unwrap();
        }
        go.send(0);
        assert_eq!(tell.receive(), u64::from(swept), "swept: it is told; not swept: it takes part");
        assert_eq!(there(&name), !swept);
        if !swept {
            let info = allmend::segments().unwrap();
            assert!(info.iter().any(|info| info.name == name && info.processes.len() == 1 && !info.stale));
        }
        go.send(0);
        let orphan_gone = || allmend::segments().unwrap().iter().all(|info| info.name != name || info.stale);
        harness::until(orphan_gone);
        allmend::clear_stale().unwrap();
        assert!(!there(&name));
    }
}

/// A forked child that opens by name what it has inherited is attached from then on, whatever becomes of its parent.
fn opened_by_a_forked_child() {
    let _own = Directory::own();
    let name = name("l");
    for (options, only_looks) in [(small(), false), (look(), true)] {
        let (ready, go, tell) = (Line::new(), Line::new(), Line::new());
        let mut parent = stranger(|| {
            let segment = small().create(&name).unwrap();
            let value = segment.value("n", 1u64).unwrap();
            let look = look().open(&name).unwrap();
            std::mem::forget(fork(|| {
                // Its parent's end is not to be its own.
                let _ = rustix::process::set_parent_process_death_signal(None);
                let opened = options.clone().open(&name).unwrap();
                ready.send(0);
                go.receive();
                if !only_looks {
                    opened.value("n", 0u64).unwrap().update(|v| *v += 1).unwrap();
                }
                let _inherited = (&value, &segment, &look);
                assert!(there(&name));
                tell.send(0);
            }));
            ready.receive();
            die()
        });
        assert!(parent.end().was_killed());
        allmend::clear_stale().unwrap();
        assert!(there(&name), "a process has it open, read only: {only_looks}");
        go.send(0);
        tell.receive();
        harness::until(|| allmend::clear_stale().is_ok() && !there(&name));
    }
}

/// Pages of address space, and open descriptors.
fn taken() -> (u64, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split_whitespace().next().and_then(|pages| pages.parse().ok()).unwrap();
    (pages, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

fn attempts_that_fail_leave_nothing() {
    let name = name("m");
    let one = small().max_processes(1);
    let (ready, leave) = (Line::new(), Line::new());
    let holder = stranger(|| {
        let _segment = one.create(&name).unwrap();
        ready.send(0);
        leave.receive();
    });
    ready.receive();
    let attempts = || {
        assert_eq!(small().create(&name).map(drop), Err(OpenError::Exists { name: name.clone() }));
        assert_eq!(small().open(&name).map(drop), Err(OpenError::TooManyProcesses { max: 1 }));
        drop(look().open(&name).unwrap());
    };
    (0..50).for_each(|_| attempts());
    let before = taken();
    (0..1_000).for_each(|_| attempts());
    let after = taken();
    assert_eq!(after.1, before.1, "descriptors");
    assert!(after.0 < before.0 + 500, "pages of address space: {} before, {} after", before.0, after.0);
    leave.send(0);
    holder.succeeds("who has it");
    allmend::clear_stale().unwrap();
}

fn no_name() {
    let fault = |name: &str| match small().create(name) {
        Err(OpenError::Name { fault, .. }) => {
            let again = small().open(name).map(drop).unwrap_err();
            assert_eq!(again, allmend::remove_segment(name).unwrap_err());
            assert_eq!(again, small().open_or_create(name).map(drop).unwrap_err());
            fault
        }
        other => panic!("{name:?}: {other:?}"),
    };
    assert_eq!(fault(""), NameFault::Empty);
    assert_eq!(fault("a/b"), NameFault::Slash);
    assert_eq!(fault("a\0b"), NameFault::Zero);
    assert_eq!(fault(".a"), NameFault::LeadingDot);
    assert_eq!(fault(".."), NameFault::LeadingDot);
    assert_eq!(fault(&"a".repeat(248)), NameFault::TooLong { longest: 247 });
    let longest = format!("{}{}", name("l"), "a".repeat(200));
    drop(small().create(&longest).unwrap());
    let longest = "a".repeat(247 - 20) + &format!("{:0>20}", std::process::id());
    let segment = small().create(&longest).unwrap();
    assert_eq!(inode(&small().open(&longest).unwrap()), inode(&segment));
}

/// What is wrong with a file is found when it is opened, each by its own error, and nothing of it is taken away.
fn not_a_segment() {
    let name = name("m");
    let path = path(&name);
    let opened = |what: &str| {
        let error = small().open(&name).map(drop).unwrap_err();
        let to_look = look().open(&name).map(drop).unwrap_err();
        assert_eq!(error, to_look, "{what}");
        assert_eq!(error, small().open_or_create(&name).map(drop).unwrap_err(), "{what}");
        assert!(matches!(small().create(&name), Err(OpenError::Exists { .. })), "{what}");
        allmend::clear_stale().unwrap();
        allmend::segments().unwrap();
        assert!(there(&name), "{what} stays");
        println!("  {what}: {error}");
        error
    };
    let removed = || allmend::remove_segment(&name).unwrap();
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(b"");
    assert!(matches!(opened("an empty file"), OpenError::Empty { .. }));
    removed();
    write(&vec![0; 3 << 20]);
    assert!(matches!(opened("a file of zeros"), OpenError::HalfBuilt { .. }));
    removed();
    write(b"#!/bin/sh\n");
    assert!(matches!(opened("another file"), OpenError::NotASegment { .. }));
    removed();
    write(&vec![1; 3 << 20]);
    assert!(matches!(opened("a large other file"), OpenError::NotASegment { .. }));
    removed();

    // One of ours, with its end cut off or a word of its header changed.
    let whole = {
        let segment = small().create(&name).unwrap();
        let whole = std::fs::read(&path).unwrap();
        drop(segment);
        whole
    };
    write(&whole[..1 << 20]);
    let expected = whole.len() as u64;
    match opened("one that was cut") {
        OpenError::Truncated { bytes, expected: made, .. } => assert_eq!((bytes, made), (1 << 20, expected)),
        other => panic!("{other:?}"),
    }
    removed();
    let with = |word: usize, value: u64| {
        let mut bytes = whole.clone();
        bytes[word * 8..][..8].copy_from_slice(&value.to_ne_bytes());
        write(&bytes);
    };
    with(0, 0);
    assert!(matches!(opened("one without its magic"), OpenError::HalfBuilt { .. }));
    removed();
    with(1, 99);
    assert!(matches!(opened("another version"), OpenError::WrongVersion { found: 99, .. }));
    removed();
    for (word, value) in [(4, 1 << 20), (4, 12345), (5, 0), (5, 1 << 40)] {
        with(word, value);
        assert!(matches!(opened("sizes that cannot be"), OpenError::Damaged(_)), "{word} {value}");
        removed();
    }

    let odd = |what: &str| match opened(what) {
        error @ OpenError::NotAFile { .. } => {
            let says = error.to_string();
            assert!(
                says.starts_with(what) && says.contains(&format!("remove {},", path.display())),
                "{says}"
            );
            let removed = allmend::remove_segment(&name).unwrap_err();
            assert!(matches!(removed, OpenError::NotAFile { .. }), "{removed:?}");
        }
        other => panic!("{other:?}"),
    };
    std::fs::create_dir(&path).unwrap();
    odd("a directory");
    std::fs::remove_dir(&path).unwrap();
    for target in ["/dev/null", "/nowhere"] {
        std::os::unix::fs::symlink(target, &path).unwrap();
        odd("a symbolic link");
        std::fs::remove_file(&path).unwrap();
    }
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    odd("a pipe");
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    odd("a socket");
    std::fs::remove_file(&path).unwrap();
}

fn permissions() {
    let name = name("n");
    let wide = || small().mode(0o644);
    let foreign = || small().foreign(true);
    let segment = wide().create(&name).unwrap();
    assert_eq!(path(&name).metadata().unwrap().mode() & 0o7777, 0o644, "whatever the umask");
    assert!(matches!(small().open(&name), Err(OpenError::Mode { found: 0o644, allowed: 0o600, .. })));
    assert_eq!(inode(&wide().open(&name).unwrap()), inode(&segment));
    assert_eq!(inode(&foreign().open(&name).unwrap()), inode(&segment));
    for mode in [0o400, 0o700, 0o200, 0o4600, 0] {
        let refused = small().mode(mode).create("never");
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{mode:o}");
    }
    for max_processes in [0, 1024] {
        let refused = small().max_processes(max_processes).create("never");
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{max_processes}");
    }
    if !rustix::process::geteuid().is_root() {
        println!("  skipped: another user's segment needs root");
        return;
    }
    let other = 12345;
    std::os::unix::fs::chown(path(&name), Some(other), None).unwrap();
    assert!(matches!(wide().open(&name), Err(OpenError::Foreign { owner, .. }) if owner == other));
    assert!(matches!(wide().open_or_create(&name), Err(OpenError::Foreign { .. })));
    assert!(matches!(allmend::remove_segment(&name), Err(OpenError::Foreign { .. })));
    assert_eq!(inode(&foreign().open(&name).unwrap()), inode(&segment));
    // And the other way round: a user who is not root, in a process of its own.
    std::os::unix::fs::chown(path(&name), Some(0), None).unwrap();
    let as_other = |body: &dyn Fn()| {
        fork(|| {
            rustix::thread::set_thread_res_uid(
                rustix::process::Uid::from_raw(other),
                rustix::process::Uid::from_raw(other),
                rustix::process::Uid::from_raw(other),
            )
            .unwrap();
            body();
        })
        .succeeds("another user");
    };
    let value = segment.value("n", 5u64).unwrap();
    as_other(&|| {
        assert!(matches!(look().open(&name), Err(OpenError::Foreign { owner: 0, .. })));
        let look = look().foreign(true).open(&name).unwrap();
        assert_eq!(look.value("n", 0u64).unwrap().get(), 5, "0o644: another user may look");
        let write = foreign().open(&name);
        assert!(matches!(write, Err(OpenError::Mode { found: 0o644, .. })), "{write:?}");
        let says = write.unwrap_err().to_string();
        assert!(says.contains("permissions 644, which do not let this user in"), "{says}");
        assert!(matches!(allmend::remove_segment(&name), Err(OpenError::Foreign { .. })));
        allmend::clear_stale().unwrap();
        assert!(there(&name));
    });
    drop((value, segment));
    assert!(!there(&name));
    // A stale one of another user is swept by that user, not by us.
    let mut child = fork(|| {
        let segment = small().create(&name).unwrap();
        std::os::unix::fs::chown(path(&name), Some(other), None).unwrap();
        std::mem::forget(segment);
        die()
    });
    assert!(child.end().was_killed());
    allmend::clear_stale().unwrap();
    assert!(there(&name));
    as_other(&|| assert!(allmend::clear_stale().unwrap() > 0));
    assert!(!there(&name));
}

// ---- limits ----

fn limit(resource: rustix::process::Resource, to: u64) {
    let limit = rustix::process::Rlimit { current: Some(to), maximum: Some(to) };
    rustix::process::setrlimit(resource, limit).unwrap();
}

fn address_space_and_file_size() {
    use rustix::process::Resource;
    let name = name("o");
    let usual = || Manager::builder().max_processes(20);
    let of = |bytes| small().reserve(bytes);
    fork(|| {
        limit(Resource::As, 2 << 30);
        let segment = usual().create(&name).unwrap();
        assert_eq!(segment.value("n", 1u64).unwrap().get(), 1, "less than usual, if no size was asked for");
        drop(segment);
        let refused = of(8 << 30).create(&name);
        assert!(matches!(refused, Err(OpenError::Full { what: Lack::AddressSpace, .. })), "{refused:?}");
    })
    .succeeds("2 GB of address space");
    fork(|| {
        limit(Resource::Fsize, 64 << 20);
        drop(usual().create(&name).unwrap());
        let refused = of(64 << 20).create(&name);
        assert!(
            matches!(refused, Err(OpenError::Full { what: Lack::FileSize, .. })),
            "the tables come on top: {refused:?}"
        );
    })
    .succeeds("files of 64 MB");
    fork(|| {
        limit(Resource::Fsize, 1 << 20);
        for options in [usual(), small()] {
            let refused = options.create(&name);
            assert!(matches!(refused, Err(OpenError::Full { what: Lack::FileSize, .. })), "{refused:?}");
        }
    })
    .succeeds("files of 1 MB");
    // Opened where there is less room than where it was made.
    let segment = of(4 << 30).create(&name).unwrap();
    fork(|| {
        limit(Resource::As, 1 << 30);
        // A second way in, since this process has inherited the first.
        let refused = look().open(&name);
        assert!(matches!(refused, Err(OpenError::Full { what: Lack::AddressSpace, .. })), "{refused:?}");
    })
    .succeeds("no address space to look");
    let go = Line::new();
    drop(segment);
    let small = stranger(|| {
        go.receive();
        limit(Resource::As, 1 << 30);
        let refused = small().open(&name);
        assert!(matches!(refused, Err(OpenError::Full { what: Lack::AddressSpace, .. })), "{refused:?}");
    });
    let _segment = of(4 << 30).create(&name).unwrap();
    go.send(0);
    small.succeeds("no address space to write");
    assert!(there(&name), "who could not get in takes nothing away");
}

fn all_places_taken() {
    let name = name("p");
    let two = || small().max_processes(2);
    let leave = Line::new();
    let ready = Line::new();
    let holders: Vec<_> = (0..2)
        .map(|_| {
            let child = stranger(|| {
                let _segment = two().open_or_create(&name).unwrap();
                ready.send(0);
                leave.receive();
            });
            ready.receive();
            child
        })
        .collect();
    assert_eq!(two().open(&name).map(drop), Err(OpenError::TooManyProcesses { max: 2 }));
    drop(look().open(&name).unwrap());
    holders.iter().for_each(|_| leave.send(0)); // which of them hears which is open
    holders.into_iter().for_each(|child| child.succeeds("who has a place"));
    allmend::clear_stale().unwrap();
}

fn a_full_dev_shm() {
    fork(|| {
        if !(own_mounts() && tmpfs_over(c"/dev/shm", c"size=8m")) {
            return;
        }
        let name = name("q");
        let segment = small().reserve(64 << 20).create(&name).unwrap();
        let first = segment.value("first", 1u64).unwrap();
        let mut kept = Vec::new();
        let full = loop {
            match segment.value(&kept.len().to_string(), [1u64; 20_000]) {
                Ok(value) => kept.push(value),
                Err(e) => break e,
            }
        };
        assert!(matches!(full, OpenError::Full { what: Lack::Memory, .. }), "{full:?}");
        assert!(kept.len() > 2, "{}", kept.len());
        // All that is there goes on, and what is freed is used again.
        kept.iter().for_each(|value| value.update(|v| v[19_999] += 1).unwrap());
        first.update(|v| *v += 1).unwrap();
        kept.pop();
        segment.remove(&kept.len().to_string()).unwrap();
        kept.push(segment.value("again", [2u64; 20_000]).unwrap());
        assert_eq!(segment.verify().unwrap().objects, kept.len() as u64 + 1);
        let other = Manager::builder().reserve(1 << 30).max_processes(1023).create("other");
        println!("  full: {} values of 160 kB; another segment: {:?}", kept.len(), other.as_ref().err());
        drop((other, kept, first, segment));
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0, "nothing is left");
    })
    .succeeds("8 MB");
    fork(|| {
        if !(own_mounts() && tmpfs_over(c"/dev/shm", c"size=8k")) {
            return;
        }
        let refused = small().create("none");
        assert!(matches!(refused, Err(OpenError::Full { what: Lack::Memory, .. })), "{refused:?}");
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0, "nothing is left");
    })
    .succeeds("8 kB");
    fork(|| {
        if !(own_mounts() && tmpfs_over(c"/dev/shm", c"size=8m,ro")) {
            return;
        }
        match small().create("none") {
            Err(OpenError::Os(e)) => println!("  read-only: {e}"),
            other => panic!("{other:?}"),
        }
    })
    .succeeds("read-only");
}

// ---- other namespaces ----

/// Two programs, each the first process of a pid namespace of its own, which meet by name.
fn other_pid_namespaces() {
    let name = name("r");
    let (told, go, never) = (Line::new(), Line::new(), Line::new());
    // The first process of a namespace cannot end itself by a signal: it is killed from outside when `kill` says so.
    let in_namespace = |kill: Option<&Line>, body: &dyn Fn()| {
        fork(|| {
            // SAFETY: changes in which namespace the next children are, and nothing else.
            if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0
                // SAFETY: as above.
                && unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) } != 0
            {
                println!("  skipped: unshare: {}", std::io::Error::last_os_error());
                told.send(0);
                return;
            }
            let mut first = fork(|| {
                assert_eq!(std::process::id(), 1, "the first process of its namespace");
                body();
            });
            if let Some(kill) = kill {
                kill.receive();
                first.signal(rustix::process::Signal::KILL);
            }
            let end = first.end();
            harness::exit_now(match end {
                End::Exit(code) => code,
                End::Signal(signal) => 128 + signal,
            });
        })
    };
    let mut one = in_namespace(Some(&go), &|| {
        let segment = small().create(&name).unwrap();
        let value = segment.value("n", [0u64; 9]).unwrap();
        told.send(1);
        for _ in 0..2_000 {
            value.update(|v| v.iter_mut().for_each(|v| *v += 1)).unwrap();
        }
        let mut guard = value.get_lock().unwrap();
        guard[0] = 99;
        told.send(2);
        never.receive();
    });
    if told.receive() == 0 {
        return;
    }
    let mut two = in_namespace(None, &|| {
        let segment = small().open(&name).unwrap();
        let value = segment.value("n", [1u64; 9]).unwrap();
        for _ in 0..2_000 {
            match value.try_get_lock() {
                Ok(mut guard) => guard.iter_mut().for_each(|v| *v += 1),
                Err(LockError::Timeout { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(told.receive(), 2);
        let seen = value.get();
        assert!(seen.iter().all(|v| *v == seen[0]), "whole: {seen:?}");
        let refused = value.try_get_lock().map(drop);
        assert!(matches!(refused, Err(LockError::Timeout { owner: Some(1) })), "it lives there: {refused:?}");
        go.send(0);
        let guard = value.get_lock().unwrap();
        assert_eq!(guard.inherited(), Some(1), "it died there");
        assert_eq!(*guard, seen, "and left the last committed value");
        drop(guard);
        drop(value);
        assert_eq!(segment.verify().unwrap().processes, 1);
    });
    assert_eq!(two.end(), End::Exit(0));
    assert_eq!(one.end(), End::Exit(128 + libc::SIGKILL));
    assert!(!there(&name), "the last one out was in another namespace");
}

/// A program that has closed standard input, output and error, or some of them: none of its descriptors of ours has such
/// a number, so what it prints is not written into shared memory.
fn never_standard_output() {
    fn print(closed: &[i32]) {
        if closed.contains(&1) {
            println!("{:4096}", "overwritten");
        }
        if closed.contains(&2) {
            eprintln!("{:4096}", "overwritten");
        }
    }
    let name = name("stdio");
    let manager = small().create(&name).unwrap();
    let value = manager.value("x", [7u64; 8]).unwrap();
    for closed in [&[0, 1, 2][..], &[1], &[2], &[1, 2]] {
        fork(|| {
            // The child inherits what is there already, so it begins anew with an opening of its own.
            let free = |number: &i32| {
                // SAFETY: asks about a number.
                unsafe { libc::fcntl(*number, libc::F_GETFD) == -1 }
            };
            for number in closed {
                // SAFETY: nobody uses it but who prints.
                unsafe { libc::close(*number) };
            }
            let theirs = {
                let other = format!("{name}-other");
                let manager = small().create(&other).unwrap();
                let value = manager.value("x", [7u64; 8]).unwrap();
                assert!(closed.iter().all(free), "created");
                (manager, value)
            };
            let looks = look().open(&name).unwrap();
            let private = Manager::new().unwrap();
            let count = private.value("x", [7u64; 8]).unwrap();
            assert!(closed.iter().all(free), "private");
            print(closed);
            assert_eq!((theirs.1.get(), count.get()), ([7; 8], [7; 8]));
            let number = looks.value("x", [0u64; 8]).unwrap();
            assert_eq!(number.get(), [7; 8]);
        })
        .succeeds("prints to nobody");
        // One that opens to write, which inherited nothing of it.
        let (other, go) = (format!("{name}-b"), Line::new());
        let opener = fork(|| {
            for number in closed {
                // SAFETY: as above.
                unsafe { libc::close(*number) };
            }
            go.receive();
            let manager = Manager::open(&other).unwrap();
            let value = manager.value("x", [7u64; 8]).unwrap();
            // SAFETY: asks about a number.
            let free = |number: &i32| unsafe { libc::fcntl(*number, libc::F_GETFD) == -1 };
            assert!(closed.iter().all(free), "opened");
            print(closed);
            assert_eq!(value.get(), [7; 8]);
            manager.verify().unwrap();
        });
        let theirs = small().create(&other).unwrap();
        let value = theirs.value("x", [7u64; 8]).unwrap();
        go.send(0);
        opener.succeeds("opens, and prints to nobody");
        assert_eq!(value.get(), [7; 8]);
    }
    assert_eq!(value.get(), [7; 8]);
    manager.verify().unwrap();
}

/// A careless daemoniser closes all descriptors. The name goes with the last handle all the same; but not if it has become
/// another's, and not if somebody is there.
fn gone_though_descriptors_were_closed() {
    let name = name("daemon");
    let closes_all = || {
        for number in 3..200 {
            // SAFETY: none of them is used below but by who finds it closed.
            unsafe { libc::close(number) };
        }
    };
    for reused in [false, true] {
        fork(|| {
            let manager = small().create(&name).unwrap();
            let value = manager.value("n", 1u64).unwrap();
            closes_all();
            if reused {
                // The numbers are another's now.
                let others = [(); 20].map(|()| std::fs::File::open("/dev/null").unwrap());
                drop((value, manager));
                assert!(others.iter().all(|other| other.metadata().is_ok()), "a stranger's was closed");
            } else {
                drop((value, manager));
            }
            assert!(!there(&name), "it was the last one");
        })
        .succeeds("a daemon");
    }
    fork(|| {
        let manager = small().create(&name).unwrap();
        closes_all();
        std::fs::remove_file(path(&name)).unwrap();
        let other = small().create(&name).unwrap();
        drop(manager);
        assert!(there(&name), "it is another's");
        drop(other);
        assert!(!there(&name));
    })
    .succeeds("a daemon whose name is another's");
    let (ready, go) = (Line::new(), Line::new());
    let other = fork(|| {
        go.receive();
        let manager = small().open(&name).unwrap();
        ready.send(0);
        go.receive();
        drop(manager);
    });
    let manager = small().create(&name).unwrap();
    go.send(0);
    ready.receive();
    fork(|| {
        let manager = small().open(&name).unwrap();
        closes_all();
        drop(manager);
        assert!(there(&name), "others are attached");
    })
    .succeeds("a daemon beside others");
    drop(manager);
    assert!(there(&name));
    go.send(0);
    other.succeeds("the other");
    assert!(!there(&name));
}
