//! Names in /dev/shm: what they lead to, and the few calls that change it.
//!
//! A segment named `x` is the file `allmend.x`, so that a list and a sweep find ours and nobody else's. Each call that
//! changes a name or takes a lock is a kill point, as a shared write is.
//!
//! **Crate `shared_memory`** maps: it opens the name again and maps all of the file. Of all that it can do this is what is
//! safe here. Its *create* shows openers a file that is not ready; its *owner* unlinks by name whatever is there by then,
//! also in a forked child; so neither is ever asked for. What is left of its defects, and what is done about each:
//! * It opens by name, so it may map another file than the one that we have checked. The caller compares a random number
//!   in both.
//! * Its descriptor is out of our reach. Code that closes descriptors under us makes its drop close one of somebody else.
//! * If standard input, output or error is closed it takes that number: then we map ourselves.
//! * It maps to read and write, and in /dev/shm alone: to look only, or elsewhere, we map ourselves.
//!
//! **Another directory.** For tests that need a small or an own file system, `ALLMEND_SHM_DIR` names one. Not in a program
//! that runs with more rights than who started it.
#![allow(unsafe_code, reason = "getauxval")]

use super::{
    descriptor,
    memory::{FileId, Mapping},
};
use crate::{atomic::step, error::OsError};
use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};
use shared_memory::{ShmemConf, ShmemError};
use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

const PREFIX: &str = "allmend.";
const DIRECTORY: &str = "/dev/shm";
const OTHER_DIRECTORY: &str = "ALLMEND_SHM_DIR";

/// Bytes of the longest name: 255 are a file's.
pub(crate) const LONGEST_NAME: usize = 255 - PREFIX.len();

fn os(call: &'static str) -> impl Fn(Errno) -> OsError {
    move |errno| OsError::new(call, errno.raw_os_error())
}

fn retried<R>(call: &'static str, f: impl FnMut() -> Result<R, Errno>) -> Result<R, OsError> {
    rustix::io::retry_on_intr(f).map_err(os(call))
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    pub(crate) file: FileId,
    pub(crate) bytes: u64,
    /// Bytes that have memory.
    pub(crate) committed: u64,
    /// User id.
    pub(crate) owner: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Does any name lead to it?
    pub(crate) has_name: bool,
    /// In words, if it is no regular file.
    pub(crate) oddity: Option<&'static str>,
}

impl Facts {
    fn new(stat: &rustix::fs::Stat) -> Self {
        Self {
            file: FileId { device: stat.st_dev, inode: stat.st_ino },
            bytes: stat.st_size as u64,
            committed: stat.st_blocks as u64 * 512,
            owner: stat.st_uid,
            mode: stat.st_mode & 0o7777,
            has_name: stat.st_nlink > 0,
            oddity: match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => None,
                FileType::Directory => Some("a directory"),
                FileType::Symlink => Some("a symbolic link"),
                FileType::Fifo => Some("a pipe"),
                FileType::Socket => Some("a socket"),
                _ => Some("a device"),
            },
        }
    }

    /// Of an open file.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Self, OsError> {
        Ok(Self::new(&rustix::fs::fstat(fd).map_err(os("fstat"))?))
    }
}

/// The user as whom this process acts on files.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Does this process run with more rights than who started it?
fn is_privileged() -> bool {
    // SAFETY: reads a number that the kernel gave to this process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

fn directory() -> Option<PathBuf> {
    std::env::var_os(OTHER_DIRECTORY).filter(|_| !is_privileged()).map(PathBuf::from)
}

/// Where the file of a name is.
#[derive(Clone, Debug)]
pub(crate) struct ShmName {
    path: CString,
    /// `allmend.NAME`.
    file: String,
    /// In /dev/shm.
    is_usual: bool,
}

impl ShmName {
    /// `name` has no slash and no zero in it.
    pub(crate) fn new(name: &str) -> Self {
        let file = format!("{PREFIX}{name}");
        let other = directory();
        let path = other.as_deref().unwrap_or(Path::new(DIRECTORY)).join(&file);
        let path = CString::new(path.into_os_string().as_bytes()).unwrap_or_default(); // leads nowhere
        Self { path, file, is_usual: other.is_none() }
    }

    /// For messages.
    pub(crate) fn path(&self) -> PathBuf {
        std::ffi::OsStr::from_bytes(self.path.as_bytes()).into()
    }

    /// A new description of what the name leads to. Does not follow a link, and does not wait for a pipe's other end.
    pub(crate) fn open(&self, write: bool) -> Result<OwnedFd, OsError> {
        self.open_lifted(write).map(|(fd, _)| fd)
    }

    /// As [`Self::open`]; and had it to be moved, because standard input, output or error is closed?
    pub(crate) fn open_lifted(&self, write: bool) -> Result<(OwnedFd, bool), OsError> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        retried("open", || rustix::fs::open(&*self.path, flags, Mode::empty())).and_then(descriptor::lifted)
    }

    /// What the name leads to at this moment.
    pub(crate) fn facts(&self) -> Result<Option<Facts>, OsError> {
        match rustix::fs::statat(CWD, &*self.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Facts::new(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(os("stat")(e)),
        }
    }

    /// Does it lead to that file at this moment?
    pub(crate) fn leads_to(&self, file: FileId) -> Result<bool, OsError> {
        Ok(self.facts()?.is_some_and(|facts| facts.file == file))
    }

    /// An empty file without a name, in the same directory.
    pub(crate) fn create_nameless(&self, mode: u32) -> Result<OwnedFd, OsError> {
        let path = self.path();
        let directory = path.parent().unwrap_or(Path::new(DIRECTORY));
        let mode = Mode::from_raw_mode(mode);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        step();
        let fd = retried("open(O_TMPFILE)", || rustix::fs::open(directory, flags, mode))?;
        let fd = descriptor::high(fd)?;
        step();
        retried("fchmod", || rustix::fs::fchmod(&fd, mode))?; // the umask is not the caller's wish
        Ok(fd)
    }

    /// Gives a file without a name this one. `false`: something has it.
    pub(crate) fn publish(&self, fd: BorrowedFd<'_>) -> Result<bool, OsError> {
        let from = format!("/proc/self/fd/{}", fd.as_raw_fd());
        step();
        match rustix::fs::linkat(CWD, from.as_str(), CWD, &*self.path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(os("linkat")(e)),
        }
    }

    /// Takes the name away, whatever it leads to. `false`: there was none.
    pub(crate) fn unlink(&self) -> Result<bool, OsError> {
        step();
        match rustix::fs::unlink(&*self.path) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(os("unlink")(e)),
        }
    }

    /// All of what the name leads to, to read and write, mapped by crate shared_memory; by ourselves from `fd` where
    /// that cannot be, or where it would take the number of a standard stream (`is_moved`: as ours did). Which file it is
    /// is for the caller to find out. `None`: the name leads nowhere.
    pub(crate) fn map(
        &self,
        (fd, is_moved): (BorrowedFd<'_>, bool),
        bytes: u64,
    ) -> Result<Option<Mapping>, OsError> {
        if !self.is_usual || is_moved {
            return Mapping::new(fd, bytes as usize).map(Some);
        }
        let failed = |errno: u32| OsError::new("shared_memory", errno as i32);
        match ShmemConf::new().os_id(&self.file).open() {
            Ok(shmem) => Mapping::made_by(shmem).map(Some).ok_or(failed(libc::EINVAL as u32)),
            Err(ShmemError::MapOpenFailed(errno)) if errno == libc::ENOENT as u32 => Ok(None),
            Err(ShmemError::MapOpenFailed(errno)) => Err(failed(errno)),
            Err(_) => Err(failed(libc::EINVAL as u32)),
        }
    }
}

/// The names of all files that look like ours.
pub(crate) fn names() -> Result<Vec<String>, OsError> {
    let from_io = |e: std::io::Error| OsError::new("readdir", e.raw_os_error().unwrap_or(libc::EIO));
    let directory = directory().unwrap_or(DIRECTORY.into());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(from_io)? {
        let file = entry.map_err(from_io)?.file_name();
        names.extend(file.to_str().and_then(|file| file.strip_prefix(PREFIX)).map(str::to_owned));
    }
    Ok(names)
}

/// Words of a file from byte `at` on, through its descriptor: a file that is shorter is an answer, not a signal.
pub(crate) fn words<const N: usize>(fd: BorrowedFd<'_>, at: u64) -> Result<Option<[u64; N]>, OsError> {
    let mut words = [[0u8; 8]; N];
    let bytes = words.as_flattened_mut();
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(fd, &mut bytes[filled..], at + filled as u64) {
            Ok(0) => return Ok(None),
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(os("pread")(e)),
        }
    }
    Ok(Some(words.map(u64::from_ne_bytes)))
}

/// Makes a new file as long as this; it has no memory yet.
pub(crate) fn set_length(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), OsError> {
    step();
    retried("ftruncate", || rustix::fs::ftruncate(fd, bytes))
}
