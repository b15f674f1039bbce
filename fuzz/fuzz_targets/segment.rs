//! A segment whose bytes are nobody's: a whole one with some words changed, or cut short, is joined and worked with.
#![no_main]

mod work;

use allmend::Manager;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, SealFlags},
};
use std::sync::OnceLock;
use work::{
    Hands, Input, furnished,
    kept::{Image, PAGE},
};

/// A whole segment's pages, and the sealed file in which they are changed and joined, input after input.
fn kept() -> &'static (Image, OwnedFd) {
    static KEPT: OnceLock<(Image, OwnedFd)> = OnceLock::new();
    KEPT.get_or_init(|| {
        let manager = furnished();
        let mut image = Image::of(manager.as_fd().expect("its descriptor"));
        image.pages[0].1[16..32].copy_from_slice(&1u128.to_ne_bytes()); // its id: not that of one that lives here
        let fd = file(image.bytes, true);
        (image, fd)
    })
}

fn file(bytes: u64, sealed: bool) -> OwnedFd {
    let fd =
        rustix::fs::memfd_create(c"fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
    rustix::fs::ftruncate(&fd, bytes).expect("ftruncate");
    if sealed {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    }
    fd
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let ((image, kept), mut input) = (kept(), Input(bytes));
    let (how, changes) = (input.byte(), input.byte() % 16);
    // One that is not sealed, or has another size, is a file of its own: it is refused, and costs more than one that is not.
    let fd = match how >> 1 {
        0 => file(image.bytes, false),
        1 => file(input.number(4) % image.bytes, true),
        _ => kept.try_clone().expect("a descriptor"),
    };
    match how >> 1 {
        1 => {
            let size = rustix::fs::fstat(&fd).expect("fstat").st_size as u64;
            for (at, page) in image.pages.iter().filter(|(at, _)| at + PAGE as u64 <= size) {
                rustix::io::pwrite(&fd, page, *at).expect("pwrite");
            }
        }
        _ => image.restore(fd.as_fd()),
    }
    for _ in 0..changes {
        let (at, page) = &image.pages[input.byte() as usize % image.pages.len()];
        let within = input.number(2) as usize % (PAGE / 8) * 8;
        let old = u64::from_ne_bytes(page[within..within + 8].try_into().expect("eight bytes"));
        let at = if how & 1 == 0 { at + within as u64 } else { input.number(4) % (image.bytes / 8) * 8 };
        // Behind the end of one that was cut short there is nothing to change.
        let _ = rustix::io::pwrite(&fd, &input.word(old).to_ne_bytes(), at);
    }
    let Ok(manager) = Manager::from_fd(fd) else { return };
    assert!(manager.as_fd().is_ok_and(|fd| rustix::fs::fstat(fd).is_ok()));
    let mut hands = Hands::open(&manager);
    while !input.is_empty() {
        hands.work(&manager, input.byte());
    }
});
