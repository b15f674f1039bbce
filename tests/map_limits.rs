//! Maps where memory ends, and under the lock of somebody who stands still: the public face alone.
#![allow(unsafe_code, reason = "forks; a file system of its own")]

mod harness;

use allmend::{CreateError, LockError, Manager, MapError, Resource as Lack, SharedMap};
use harness::{
    Line, fork,
    mounts::{own_mounts, tmpfs_over},
};
use rustix::process::{Resource, Rlimit, setrlimit};

fn main() {
    harness::run(&[
        ("a_full_file_system", a_full_file_system),
        ("little_address_space", little_address_space),
        ("files_shorter_than_the_segment", files_shorter_than_the_segment),
        ("a_stopped_holder_of_a_key", a_stopped_holder_of_a_key),
    ]);
}

type Map = SharedMap<u64, Vec<u8>>;

/// So long that it is not in the bucket; tells its key.
fn value(key: u64) -> Vec<u8> {
    vec![key as u8; 10_000 + key as usize % 100]
}

/// Inserts until there is no room. How many there are.
fn fill(map: &Map) -> u64 {
    for key in 0.. {
        match map.insert(key, &value(key)) {
            Ok(before) => assert_eq!(before, None),
            Err(MapError::Full) => return key,
            Err(other) => panic!("{key}: {other:?}"),
        }
    }
    unreachable!()
}

/// Full: what is there can be read and removed, and then there is room again.
fn is_well_though_full(map: &Map) {
    let n = fill(map);
    assert!(n > 20, "{n}");
    let all_there = || {
        assert_eq!(map.len() as u64, n);
        (0..n).for_each(|key| assert_eq!(map.get(key).unwrap(), Some(value(key)), "{key}"));
        assert_eq!(map.iter().filter(|entry| entry.is_ok()).count() as u64, n);
    };
    all_there();
    assert_eq!(map.get(n).unwrap(), None, "what was refused is not there");
    assert!(matches!(map.insert(n, &value(n)), Err(MapError::Full)));
    assert_eq!(map.remove(n).unwrap(), None);
    // One goes, and comes back into its memory.
    assert_eq!(map.remove(0).unwrap(), Some(value(0)));
    assert_eq!(map.insert(0, &value(0)).unwrap(), None);
    all_there();
    for key in 0..n {
        assert_eq!(map.remove(key).unwrap(), Some(value(key)), "{key}");
    }
    assert!(map.is_empty());
    for key in 0..n {
        assert_eq!(map.insert(key, &value(key)).unwrap(), None, "{key}, again");
    }
    all_there();
    println!("  full with {n} values of 10 kB");
}

fn a_full_file_system() {
    fork(|| {
        if !(own_mounts() && tmpfs_over(c"/dev/shm", c"size=8m")) {
            return;
        }
        let segment = Manager::builder().reserve(64 << 20).max_processes(20).create("full").unwrap();
        let map = segment.map::<u64, Vec<u8>>("map").unwrap();
        is_well_though_full(&map);
        let left = rustix::fs::statvfs("/dev/shm").unwrap();
        assert!(left.f_bfree * left.f_bsize < 1 << 20, "memory is taken by the MiB");
        assert_eq!(segment.verify().unwrap().objects, 1);
        drop((map, segment));
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0, "nothing is left");
    })
    .succeeds("8 MB");
}

fn limit_address_space(more: u64) {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let now = text.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
    let limit = Some(now + more);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
}

fn little_address_space() {
    // Less than the usual reservation: the segment is smaller, and ends earlier.
    fork(|| {
        limit_address_space(300 << 20);
        let map = Map::new().unwrap();
        let too_many = Map::with_capacity(1 << 40, u64::MAX);
        assert!(matches!(too_many, Err(CreateError::Full { what: Lack::Segment, .. })), "{too_many:?}");
        is_well_though_full(&map);
        allmend::verify().unwrap();
    })
    .succeeds("300 MB");
    fork(|| {
        limit_address_space(4 << 20);
        let none = Map::new();
        assert!(matches!(none, Err(CreateError::Full { what: Lack::AddressSpace, .. })), "{none:?}");
    })
    .succeeds("4 MB");
}

/// A process that may write no such file as the segment's, which another one made, or itself before: no SIGXFSZ.
fn files_shorter_than_the_segment() {
    fork(|| {
        let map = Map::new().unwrap();
        map.insert(0, &value(0)).unwrap();
        setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum: Some(4096) }).unwrap();
        let keys = 1..2000;
        keys.clone().for_each(|key| assert_eq!(map.insert(key, &value(key)).unwrap(), None, "{key}"));
        keys.for_each(|key| assert_eq!(map.get(key).unwrap(), Some(value(key)), "{key}"));
    })
    .succeeds("4 kB");
}

fn a_stopped_holder_of_a_key() {
    let map = SharedMap::<u64, u64>::new().unwrap();
    (0..100).for_each(|key| _ = map.insert(key, key).unwrap());
    let (has_it, release) = (Line::new(), Line::new());
    for killed in [false, true] {
        let mut holder = fork(|| {
            let guard = map.get_lock(5).unwrap();
            has_it.send(0);
            release.receive();
            drop(guard);
        });
        has_it.receive();
        holder.stop();
        // Plain calls go on: for its key, and for all that share its lock.
        fork(|| {
            for key in 0..200 {
                let before = map.get(key).unwrap();
                assert_eq!(map.insert(key, key + 1).unwrap(), before);
                assert_eq!(map.remove(key).unwrap(), Some(key + 1));
                assert_eq!(map.insert(key, key).unwrap(), None);
            }
            let refused = map.try_get_lock(5);
            assert!(matches!(refused, Err(LockError::Timeout { .. })), "{refused:?}");
        })
        .succeeds("who asks for no lock");
        if killed {
            holder.kill();
            let inherited = map.get_lock(5);
            assert!(matches!(inherited, Err(LockError::Inherited(_))), "{inherited:?}");
        } else {
            holder.go_on();
            release.send(0);
            holder.succeeds("who went on");
            drop(map.get_lock(5).unwrap());
        }
        assert_eq!(map.len(), 200);
    }
}
