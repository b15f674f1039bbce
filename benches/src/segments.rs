//! The table of named segments: opening one that exists, and creating one, beside crate shared_memory and the bare calls;
//! and the table of the directory in a segment: objects found and made by name.
//!
//! All open one and the same file, which another process keeps alive. Only the open is timed, not the close. Ours checks
//! who owns the file and whether it is whole, makes sure that it stays, and takes a place in it; the others map it.
#![allow(unsafe_code, reason = "shm_open and mmap are the floor")]

use crate::harness::{Goals, Samples, Settings, Table};
use crate::peers;
use allmend::{Manager, SharedAtomic};
use shared_memory::ShmemConf;
use std::{cell::Cell, collections::HashMap, ffi::CString, sync::Arc, time::Instant};

const OPENS: u64 = 2_000;
/// Names in the directory of the second table.
const NAMES: usize = 1_000;

/// Mean nanoseconds of `open`; what it gives is dropped outside of that.
fn timed<R>(n: u64, mut open: impl FnMut() -> R) -> f64 {
    let mut nanos = 0;
    for _ in 0..n {
        let start = Instant::now();
        let opened = open();
        nanos += start.elapsed().as_nanos();
        drop(opened);
    }
    nanos as f64 / n as f64
}

/// A mapping by bare calls.
struct Bytes {
    base: *mut libc::c_void,
    bytes: usize,
    fd: i32,
    name: Option<CString>,
}

impl Bytes {
    fn open(name: &CString) -> Self {
        // SAFETY: the name ends with a zero.
        let fd = unsafe { libc::shm_open(name.as_ptr(), libc::O_RDWR, 0) };
        assert!(fd >= 0);
        // SAFETY: all zeros are a `stat`.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` lives through the call.
        assert_eq!(unsafe { libc::fstat(fd, &raw mut stat) }, 0);
        Self::map(fd, stat.st_size as usize, None)
    }

    fn create(name: &CString, bytes: usize) -> Self {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        // SAFETY: the name ends with a zero.
        let fd = unsafe { libc::shm_open(name.as_ptr(), flags, 0o600) };
        assert!(fd >= 0);
        // SAFETY: the descriptor is ours.
        assert_eq!(unsafe { libc::ftruncate(fd, bytes as i64) }, 0);
        Self::map(fd, bytes, Some(name.clone()))
    }

    fn map(fd: i32, bytes: usize, name: Option<CString>) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
        assert!(base != libc::MAP_FAILED);
        Self { base, bytes, fd, name }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody has a reference into it.
        unsafe { libc::munmap(self.base, self.bytes) };
        // SAFETY: ours.
        unsafe { libc::close(self.fd) };
        if let Some(name) = &self.name {
            // SAFETY: the name ends with a zero.
            unsafe { libc::shm_unlink(name.as_ptr()) };
        }
    }
}

/// The directory of one segment with [`NAMES`] objects in it: one process asks, and drops what it is given untimed.
fn names(settings: &Settings) {
    let manager = Manager::builder().reserve(64 << 20).new().expect("a segment");
    let n = settings.scaled(OPENS) as usize;
    let there: Vec<String> = (0..NAMES).map(|i| format!("object number {i}")).collect();
    let new: Vec<String> = (0..n).map(|i| format!("new object number {i}")).collect();
    let map: HashMap<&str, Arc<u64>> = there.iter().map(|name| (&**name, Arc::new(0))).collect();
    for name in &there {
        manager.atomic(name, 0u64).expect("memory");
    }
    let next = Cell::new(0);
    let turn = |len: usize| next.replace(next.get() + 1) % len;
    let (old, fresh) = (|| &*there[turn(NAMES)], || &*new[turn(n)]);
    let find = |name: &str| manager.open_object::<SharedAtomic<u64>>(name).expect("it is there");
    let mut samples = vec![Samples::default(); 6];
    settings.interleave(samples.len(), |i| {
        let n = n as u64;
        next.set(0);
        let nanos = match i {
            0 => timed(n, || map.get(old()).cloned()),
            1 => timed(n, || find(old())),
            2 => {
                let _held: Vec<_> = there.iter().map(|name| find(name)).collect();
                timed(n, || find(old()))
            }
            3 => timed(n, || SharedAtomic::new(0u64).expect("memory")),
            4 => {
                let nanos = timed(n, || manager.atomic(fresh(), 0u64).expect("memory"));
                new.iter().for_each(|name| manager.remove(name).expect("it is there"));
                nanos
            }
            _ => {
                new.iter().for_each(|name| drop(manager.atomic(name, 0u64).expect("memory")));
                timed(n, || manager.remove(fresh()).expect("it is there"))
            }
        };
        samples[i].push(nanos / 1_000.0);
    });
    println!("## directory: microseconds for one of {NAMES} names in a segment, and for one more\n");
    let mut table = Table::new(&["", "microseconds", "/ the first of its kind"]);
    let rows = [
        "look up: std HashMap of Arc, one process",
        "look up: allmend, not open here",
        "look up: allmend, open here already",
        "create: allmend, without a name",
        "create: allmend, by name",
        "remove the name, and the object with it: allmend",
    ];
    for (i, row) in rows.iter().enumerate() {
        let first = &samples[i / 3 * 3];
        table.row(&[(*row).to_owned(), samples[i].show(), samples[i].over(first).show()]);
    }
    table.print();
}

/// Prints both.
pub fn table(settings: &Settings, goals: &mut Goals) {
    let options = || Manager::builder().reserve(64 << 20);
    let name = format!("bench-{}", std::process::id());
    let other = format!("bench-{}-new", std::process::id());
    let file = format!("/allmend.{name}");
    let path = CString::new(file.clone()).expect("no zero");
    let other_path = CString::new(format!("/allmend-{other}")).expect("no zero");
    let keeper = peers::Keeper::start(|| options().create(&name).expect("a segment"));
    let bytes = std::fs::metadata(format!("/dev/shm{file}")).expect("it is there").len() as usize;
    let n = settings.scaled(OPENS);
    let mut samples = vec![Samples::default(); 7];
    settings.interleave(samples.len(), |i| {
        let nanos = match i {
            0 => timed(n, || Bytes::open(&path)),
            1 => timed(n, || ShmemConf::new().os_id(&file).open().expect("it is there")),
            2 => timed(n, || options().open(&name).expect("it is there")),
            3 => timed(n, || Manager::builder().read_only().open(&name).expect("it is there")),
            4 => timed(n / 10, || Bytes::create(&other_path, bytes)),
            5 => timed(n / 10, || {
                let id = other_path.to_str().expect("ascii");
                ShmemConf::new().os_id(id).size(bytes).create().expect("a new one")
            }),
            _ => timed(n / 10, || options().create(&other).expect("a new one")),
        };
        samples[i].push(nanos / 1_000.0);
    });
    drop(keeper);
    allmend::clear_stale().expect("a sweep");
    println!("## segments: microseconds to open one that exists, and to create one of {} MiB\n", bytes >> 20);
    let mut table = Table::new(&["", "microseconds", "/ shared_memory"]);
    let rows =
        ["open: shm_open, fstat, mmap", "open: shared_memory", "open: allmend", "open to look: allmend"];
    for (row, own) in rows.iter().zip(&samples) {
        table.row(&[(*row).to_owned(), own.show(), own.over(&samples[1]).show()]);
    }
    let rows = ["create: shm_open, ftruncate, mmap", "create: shared_memory", "create: allmend"];
    for (row, own) in rows.iter().zip(&samples[4..]) {
        table.row(&[(*row).to_owned(), own.show(), own.over(&samples[5]).show()]);
    }
    table.print();
    goals.at_most("open of an existing segment / shared_memory's open", 3.0, samples[2].over(&samples[1]));
    names(settings);
}
