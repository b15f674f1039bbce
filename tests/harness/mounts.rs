//! File systems that a test's process and its children see alone, where the machine allows it.
#![allow(unsafe_code, reason = "unshare and mount")]

use std::ffi::CStr;

fn refused(what: &str) -> bool {
    println!("  skipped: {what}: {}", std::io::Error::last_os_error());
    false
}

/// From now on what this process mounts is seen by itself and its children only. `false`: not allowed here.
pub(crate) fn own_mounts() -> bool {
    // SAFETY: changes what this process sees of the file system, and nothing else.
    let alone = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0
        // SAFETY: as above.
        || unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } == 0;
    let (none, null, flags) = (c"none".as_ptr(), std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: the strings end with a zero; keeps what follows out of other namespaces.
    let private = alone && unsafe { libc::mount(none, c"/".as_ptr(), null, flags, null.cast()) } == 0;
    private || refused("a namespace of mounts")
}

/// An empty file system in the place of `at`; after [`own_mounts`].
pub(crate) fn tmpfs_over(at: &CStr, options: &CStr) -> bool {
    let (none, options) = (c"none".as_ptr(), options.as_ptr().cast());
    // SAFETY: the strings end with a zero; in a namespace of our own.
    let done = unsafe { libc::mount(none, at.as_ptr(), c"tmpfs".as_ptr(), 0, options) };
    done == 0 || refused("mount of a tmpfs")
}
