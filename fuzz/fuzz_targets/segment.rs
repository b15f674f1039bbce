//! A segment whose bytes are nobody's: a whole one with some words changed, or cut short, is joined and worked with.
#![no_main]

mod work;

use allmend::Manager;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, SealFlags},
};
use std::sync::OnceLock;
use work::{Hands, Input, furnished};

const PAGE: usize = 4096;

/// The pages of a whole segment that are not empty.
struct Image {
    bytes: u64,
    pages: Vec<(u64, Vec<u8>)>,
}

fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let manager = furnished();
        let fd = manager.as_fd().expect("its descriptor");
        let bytes = rustix::fs::fstat(fd).expect("fstat").st_size as u64;
        let mut pages = Vec::new();
        for at in (0..bytes).step_by(PAGE) {
            let mut page = vec![0; PAGE];
            rustix::io::pread(fd, &mut page[..], at).expect("pread");
            if page.iter().any(|&byte| byte != 0) {
                pages.push((at, page));
            }
        }
        Image { bytes, pages }
    })
}

fn write(fd: &OwnedFd, at: u64, bytes: &[u8]) {
    rustix::io::pwrite(fd, bytes, at).expect("pwrite");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (image, mut input) = (image(), Input(bytes));
    let fd =
        rustix::fs::memfd_create(c"fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
    rustix::fs::ftruncate(&fd, image.bytes).expect("ftruncate");
    for (at, page) in &image.pages {
        write(&fd, *at, page);
    }
    write(&fd, 16, &1u128.to_ne_bytes()); // its id: not that of a segment which lives in this process
    let (how, changes) = (input.byte(), input.byte() % 16);
    for _ in 0..changes {
        let (at, page) = &image.pages[input.byte() as usize % image.pages.len()];
        let within = input.number(2) as usize % (PAGE / 8) * 8;
        let old = u64::from_ne_bytes(page[within..within + 8].try_into().expect("eight bytes"));
        let at = if how & 1 == 0 { at + within as u64 } else { input.number(4) % (image.bytes / 8) * 8 };
        write(&fd, at, &input.word(old).to_ne_bytes());
    }
    if how & 2 != 0 {
        rustix::fs::ftruncate(&fd, input.number(4) % image.bytes).expect("ftruncate");
    }
    if how & 4 == 0 {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    }
    let Ok(manager) = Manager::from_fd(fd) else { return };
    assert!(manager.as_fd().is_ok_and(|fd| rustix::fs::fstat(fd.as_fd()).is_ok()));
    let mut hands = Hands::open(&manager);
    while !input.is_empty() {
        hands.work(&manager, input.byte());
    }
});
