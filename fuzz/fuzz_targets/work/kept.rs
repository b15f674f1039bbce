//! One segment for all inputs: its bytes are put back between them, so that an input costs what it does, not a new
//! segment each time.

use rustix::{
    fd::BorrowedFd,
    fs::{FallocateFlags, SeekFrom},
};

pub const PAGE: usize = 4096;

/// The pages of a whole segment that are not empty.
pub struct Image {
    pub bytes: u64,
    pub pages: Vec<(u64, Vec<u8>)>,
}

impl Image {
    pub fn of(fd: BorrowedFd<'_>) -> Self {
        let bytes = rustix::fs::fstat(fd).expect("fstat").st_size as u64;
        let mut pages = Vec::new();
        for at in (0..bytes).step_by(PAGE) {
            let mut page = vec![0; PAGE];
            rustix::io::pread(fd, &mut page[..], at).expect("pread");
            if page.iter().any(|&byte| byte != 0) {
                pages.push((at, page));
            }
        }
        Self { bytes, pages }
    }

    /// The file has these bytes again: the image's pages, and zeros, which take no memory.
    pub fn restore(&self, fd: BorrowedFd<'_>) {
        let mut kept = self.pages.iter().peekable();
        let mut at = 0;
        // What has memory, range by range; of that, what is none of the image's pages gives it back.
        while let Ok(start) = rustix::fs::seek(fd, SeekFrom::Data(at)) {
            let end = rustix::fs::seek(fd, SeekFrom::Hole(start)).expect("data ends");
            let mut from = start;
            while from < end {
                while kept.next_if(|(page, _)| *page < from).is_some() {}
                let next = kept.peek().map_or(end, |(page, _)| (*page).min(end));
                if from < next {
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(fd, hole, from, next - from).expect("a hole");
                }
                from = next.max(from) + if next < end { PAGE as u64 } else { 0 };
            }
            at = end;
        }
        for (at, page) in &self.pages {
            rustix::io::pwrite(fd, page, *at).expect("pwrite");
        }
    }
}
