//! Every system call of the crate, and nothing else: no decisions, no protocol.
//!
//! | file | the kernel's part |
//! |---|---|
//! | `memory` | sealed memfds, mappings, `fallocate` |
//! | `shm` | names in /dev/shm, and what they lead to |
//! | `descriptor` | numbers of descriptors that we keep |
//! | `liveness` | open-file-description locks: who is alive |
//! | `fork` | what a fork must not break |
//! | `inherit` | a descriptor for a child of the program's own making |
//! | `futex` | sleeping on a word |
//! | `process` | spawn, pidfd, signals |
//! | `channel` | one socket per worker, descriptors through it |
//! | `image` | the running program's code, as offsets |
//! | `raw_mutex` | crate raw_sync's mutex (feature `raw_sync`) |

#[cfg(all(not(loom), not(target_os = "linux")))]
compile_error!("allmend needs Linux (5.10 or later) for now: OFD locks, memfd seals and pidfds");

pub(crate) mod futex;

#[cfg(not(loom))]
pub(crate) mod channel;
#[cfg(not(loom))]
pub(crate) mod descriptor;
#[cfg(not(loom))]
pub(crate) mod fork;
#[cfg(not(loom))]
pub(crate) mod image;
#[cfg(not(loom))]
pub(crate) mod inherit;
#[cfg(not(loom))]
pub(crate) mod liveness;
#[cfg(not(loom))]
pub(crate) mod memory;
#[cfg(not(loom))]
pub(crate) mod process;
#[cfg(all(feature = "raw_sync", not(loom)))]
pub(crate) mod raw_mutex;
#[cfg(not(loom))]
pub(crate) mod shm;
