//! Shared memory: sealed memfds, mappings of them, and pages that are really there.
//!
//! A private segment is a memfd whose size is sealed, so that no peer can cut it off under a reader (SIGBUS). Its
//! size is address space only; [`commit`] makes the kernel find the pages first, so that a full machine is an
//! error here and never a signal at the first touch.
#![allow(unsafe_code, reason = "mmap and what lies behind it")]

use super::descriptor;
use crate::{
    atomic::{self, Private32},
    error::OsError,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
    process::Resource,
};
use shared_memory::Shmem;
use std::{ffi::c_void, fmt, io::IoSlice, ptr::NonNull};

/// The largest step of [`commit`]: a signal that comes during a longer one makes the kernel start again.
const COMMIT_STEP: u64 = 1 << 20;

/// Which file a descriptor leads to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

fn os(call: &'static str) -> impl Fn(Errno) -> OsError {
    move |errno| OsError::new(call, errno.raw_os_error())
}

/// A memfd of `bytes` (no memory yet) whose size nobody can change.
pub(crate) fn create_sealed(bytes: u64) -> Result<OwnedFd, OsError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match rustix::fs::memfd_create(c"allmend", flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"allmend", flags),
        other => other,
    }
    .map_err(os("memfd_create"))
    .and_then(descriptor::high)?;
    rustix::fs::ftruncate(&fd, bytes).map_err(os("ftruncate"))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(os("fcntl(F_ADD_SEALS)"))?;
    Ok(fd)
}

/// Is its size sealed?
pub(crate) fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK | SealFlags::GROW))
}

/// Its size in bytes, and which file it is.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Result<(u64, FileId), OsError> {
    let stat = rustix::fs::fstat(fd).map_err(os("fstat"))?;
    Ok((stat.st_size as u64, FileId { device: stat.st_dev, inode: stat.st_ino }))
}

/// Makes sure that `[offset, offset + bytes)` has memory. May be repeated, and by anybody.
///
/// `ENOSPC` and `ENOMEM` say that there is none.
pub(crate) fn commit(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<(), OsError> {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let step = COMMIT_STEP.min(end - at);
        atomic::step();
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("fallocate")(e)),
        }
    }
    Ok(())
}

/// Writes zeros over `[offset, offset + bytes)`, which has memory.
///
/// What [`commit`] found are pages that nobody has written, and the kernel maps each of them for itself at its first touch.
/// After this, a first look at one maps its neighbours, too.
pub(crate) fn zero<'a>(
    fd: impl Fn() -> Option<BorrowedFd<'a>>,
    offset: u64,
    bytes: u64,
) -> Result<(), OsError> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let (mut at, end) = (offset, offset + bytes);
    // Beyond the limit of whoever writes, which need not be that of who made the file, the kernel sends SIGXFSZ.
    if end > file_size_limit() {
        return Err(os("pwritev")(Errno::FBIG));
    }
    while at < end {
        let whole = [IoSlice::new(&ZEROS); 64];
        let pages = ((end - at) / ZEROS.len() as u64).min(whole.len() as u64) as usize;
        let rest = [IoSlice::new(&ZEROS[..(end - at).min(ZEROS.len() as u64) as usize])];
        // Asked each time: closed and opened anew by others, the number is another file's.
        let fd = fd().ok_or_else(|| os("pwritev")(Errno::BADF))?;
        atomic::step();
        match rustix::io::pwritev(fd, if pages > 0 { &whole[..pages] } else { &rest }, at) {
            Ok(0) => return Err(os("pwritev")(Errno::IO)),
            Ok(n) => at += n as u64,
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("pwritev")(e)),
        }
    }
    Ok(())
}

/// The most that a file of ours may measure: beyond the limit the kernel sends SIGXFSZ.
pub(crate) fn file_size_limit() -> u64 {
    rustix::process::getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX)
}

/// The machine's memory in bytes.
pub(crate) fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}

/// 128 random bits.
pub(crate) fn random_id() -> Result<u128, OsError> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("getrandom")(e)),
        }
    }
    Ok(u128::from_ne_bytes(bytes))
}

/// A shared mapping, unmapped on drop.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// Crate shared_memory's, if that made it: its drop unmaps.
    made_by: Option<Shmem>,
}

// SAFETY: the mapping belongs to the process, not to a thread; what lies in it is reached through atomics. (A `Shmem` is
// an address, a descriptor and a name, none of them a thread's; nothing but its drop is called once it is here.)
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The first `bytes` of the file, to read and write.
    pub(crate) fn new(fd: BorrowedFd<'_>, bytes: usize) -> Result<Self, OsError> {
        Self::of(fd, bytes, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// The first `bytes` of the file. A write into it is a SIGSEGV.
    pub(crate) fn read_only(fd: BorrowedFd<'_>, bytes: usize) -> Result<Self, OsError> {
        Self::of(fd, bytes, ProtFlags::READ)
    }

    fn of(fd: BorrowedFd<'_>, bytes: usize, access: ProtFlags) -> Result<Self, OsError> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, flags, fd, 0) }
            .map_err(os("mmap"))?;
        let base = NonNull::new(base.cast()).ok_or(OsError::new("mmap", Errno::INVAL.raw_os_error()))?;
        Ok(Self { base, bytes, made_by: None })
    }

    /// A mapping that crate shared_memory made, by name and of the whole file, to read and write.
    pub(super) fn made_by(shmem: Shmem) -> Option<Self> {
        let base = NonNull::new(shmem.as_ptr())?;
        Some(Self { base, bytes: shmem.len(), made_by: Some(shmem) })
    }

    /// Where it begins; page-aligned.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({:p}, {} bytes)", self.base, self.bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.made_by.is_some() {
            return;
        }
        // SAFETY: it is ours, and whoever borrowed from it has gone, by the borrow checker.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A page of this process that reads as zero in a forked child, however it was forked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForkAware(&'static Private32);

impl ForkAware {
    /// One word, 0. The page stays for the life of the process.
    pub(crate) fn new() -> Result<Self, OsError> {
        let page = rustix::param::page_size();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                page,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(os("mmap"))?;
        // SAFETY: the page is ours and empty; the advice takes effect at a fork only.
        unsafe { rustix::mm::madvise(base, page, Advice::LinuxWipeOnFork) }.map_err(os("madvise"))?;
        // SAFETY: the page is never unmapped, aligned, zeroed, and reached through this atomic alone.
        Ok(Self(unsafe { &*base.cast::<Private32>() }))
    }

    /// A word that nobody gives anything else than 0.
    pub(crate) fn none() -> Self {
        static NONE: Private32 = Private32::new(0);
        Self(&NONE)
    }

    /// The word.
    pub(crate) fn word(&self) -> &'static Private32 {
        self.0
    }
}

/// A page of a file, mapped without access and not inherited by a fork: it keeps the open file description, and the
/// locks on it, as long as this process (not a child of it) keeps its address space.
#[derive(Debug)]
pub(crate) struct Anchor {
    base: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: an address range without access, unmapped once.
unsafe impl Send for Anchor {}

impl Anchor {
    /// Anchors the description behind `fd`; the descriptor itself may be closed then.
    pub(crate) fn new(fd: impl AsFd) -> Result<Self, OsError> {
        let bytes = rustix::param::page_size();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::SHARED, fd, 0)
        }
        .map_err(os("mmap"))?;
        let anchor = Self {
            base: NonNull::new(base).ok_or(OsError::new("mmap", Errno::INVAL.raw_os_error()))?,
            bytes,
        };
        // SAFETY: the page is ours; the advice takes effect at a fork only.
        unsafe { rustix::mm::madvise(base, bytes, Advice::LinuxDontFork) }.map_err(os("madvise"))?;
        Ok(anchor)
    }

    /// In a forked child: the page was not inherited, and its address may be somebody else's by now.
    pub(crate) fn not_inherited(self) {
        std::mem::forget(self);
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // SAFETY: the page is ours, nobody can have a reference into it, and a forked child never drops it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// The descriptor is asked for before each write: once it is another file's, nothing more is written.
    #[test]
    fn zeros_stop_when_the_descriptor_is_lost() {
        let bytes = 1 << 20;
        let file = std::fs::File::from(create_sealed(bytes).unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; bytes as usize], 0).unwrap();
        let ones = || {
            let mut all = vec![0; bytes as usize];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut all, 0).unwrap();
            all.iter().filter(|&&byte| byte == 1).count() as u64
        };
        let left = Cell::new(0);
        let fd = || {
            left.set(left.get() - 1);
            (left.get() >= 0).then(|| file.as_fd())
        };
        assert!(zero(fd, 0, bytes).is_err());
        assert_eq!(ones(), bytes);
        left.set(1);
        assert!(zero(fd, 0, bytes).is_err());
        assert!(ones() > 0 && ones() < bytes, "one write, and no more");
        left.set(i32::MAX);
        zero(fd, 4096, bytes - 2 * 4096).unwrap();
        assert_eq!(ones(), 4096, "the end, and nothing before the beginning");
        zero(fd, 0, bytes).unwrap();
        assert_eq!(ones(), 0);
    }
}
