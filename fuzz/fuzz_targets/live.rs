//! A live segment, overwritten through another mapping between operations and while objects are in use.
#![no_main]
#![allow(unsafe_code, reason = "a second mapping of the same bytes")]

mod work;

use allmend::Manager;
use rustix::mm::{MapFlags, ProtFlags};
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use work::{Hands, Input, furnished, kept::Image};

/// The segment of all inputs: what is in it before each, and its words in a second mapping.
struct Kept {
    manager: Manager,
    image: Image,
    words: &'static [AtomicU64],
}

fn kept() -> &'static Kept {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    KEPT.get_or_init(|| {
        let manager = furnished();
        let fd = manager.as_fd().expect("its descriptor");
        let image = Image::of(fd);
        let len = image.bytes as usize;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) };
        let base = base.expect("mmap");
        // SAFETY: the mapping, which stays; aligned; any bytes are valid atomics.
        let words = unsafe { std::slice::from_raw_parts(base.cast::<AtomicU64>(), len / 8) };
        Kept { manager, image, words }
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (Kept { manager, image, words }, mut input) = (kept(), Input(bytes));
    image.restore(manager.as_fd().expect("its descriptor"));
    let mut hands = Hands::open(manager);
    // Where something is: header and tables, and the extents in use.
    let spots: [usize; 4] = [0, 4096 / 8, 4096 * 2 / 8, words.len() / 2];
    while !input.is_empty() {
        match input.byte() {
            choice @ 0..=127 => hands.work(manager, choice),
            choice => {
                let at = match choice & 7 {
                    0..=3 => spots[usize::from(choice & 3)] + input.number(2) as usize,
                    4..=6 => 5 * (1 << 20) / 8 + input.number(3) as usize % (1 << 18),
                    _ => input.number(4) as usize,
                };
                let word = &words[at % words.len()];
                word.store(input.word(word.load(Relaxed)), Relaxed);
            }
        }
    }
    drop(hands);
});
