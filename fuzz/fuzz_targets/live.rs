//! A live segment, overwritten through another mapping between operations and while objects are in use.
#![no_main]
#![allow(unsafe_code, reason = "a second mapping of the same bytes")]

mod work;

use rustix::mm::{MapFlags, ProtFlags};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use work::{Hands, Input, furnished};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let manager = furnished();
    let mut hands = Hands::open(&manager);
    let fd = manager.as_fd().expect("its descriptor");
    let len = rustix::fs::fstat(fd).expect("fstat").st_size as usize;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            fd,
            0,
        )
    }
    .expect("mmap");
    let word = |index: usize| {
        // SAFETY: within the mapping, aligned, mapped until the end of this closure; any bytes are a valid atomic.
        unsafe { &*base.cast::<AtomicU64>().add(index % (len / 8)) }
    };
    // Where something is: header and tables, and the extents in use.
    let spots: [usize; 4] = [0, 4096 / 8, 4096 * 2 / 8, (len / 8) / 2];
    while !input.is_empty() {
        match input.byte() {
            choice @ 0..=127 => hands.work(&manager, choice),
            choice => {
                let at = match choice & 7 {
                    0..=3 => spots[usize::from(choice & 3)] + input.number(2) as usize,
                    4..=6 => 5 * (1 << 20) / 8 + input.number(3) as usize % (1 << 18),
                    _ => input.number(4) as usize,
                };
                let word = word(at);
                word.store(input.word(word.load(Relaxed)), Relaxed);
            }
        }
    }
    drop(hands);
    drop(manager);
    // SAFETY: the mapping made above, of which no reference is left.
    unsafe { rustix::mm::munmap(base, len) }.expect("munmap");
});
