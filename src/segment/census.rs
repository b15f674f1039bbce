//! All named segments at a look: a list of them, and the sweep of those that nobody is attached to.
//!
//! A look takes no lock and gives none away: whether somebody is attached is asked of the kernel. A sweep is the one of
//! `named`, for every name. What is not a segment of this version and of this user it leaves alone.
//!
//! Killed here? See `named`: a sweep that was cut short is begun again by the next.

use super::{
    attached::{Segment, local},
    layout::MOST_PROCESSES,
    named::{Head, LIFE, sweep},
    participants::pid_at,
};
use crate::{
    error::OpenError,
    os::{
        liveness,
        shm::{self, Facts, ShmName},
    },
};
use rustix::fd::AsFd;

/// What [`crate::segments`] says of one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// What it was created and is opened under.
    pub name: String,
    /// Bytes of address space: how large it can become.
    pub reserved: u64,
    /// Bytes that have memory.
    pub bytes: u64,
    /// Ids of the processes that take part at this moment, each as it knows itself; 0 if it has just come. Those that
    /// opened it for reading only are not among them.
    pub processes: Vec<u32>,
    /// It stays when the last process leaves.
    pub persistent: bool,
    /// No process is attached, and it does not persist: the next sweep takes it.
    pub stale: bool,
}

impl Segment {
    /// All segments that have a name here and that this process may look at, by name.
    pub(crate) fn list_named() -> Result<Vec<SegmentInfo>, OpenError> {
        let mut found = Vec::new();
        for name in shm::names()? {
            let Ok(file) = ShmName::new(&name).open(false) else { continue };
            let (fd, facts) = (file.as_fd(), Facts::of(file.as_fd())?);
            let Some(head) = Some(&facts)
                .filter(|facts| facts.oddity.is_none())
                .and_then(|facts| Head::read(fd, facts, &name).ok())
            else {
                continue;
            };
            let is_held =
                |first, bytes| liveness::held_by_others(fd, first, bytes).map(|held| held.is_some());
            let mut processes = Vec::new();
            if is_held(1, u64::from(MOST_PROCESSES))? {
                for slot in 1..=head.geometry.max_processes {
                    if is_held(u64::from(slot), 1)? {
                        let [pid] = shm::words(fd, pid_at(&head.geometry, slot))?.unwrap_or([0]);
                        processes.push(u32::try_from(pid).unwrap_or(0));
                    }
                }
            }
            found.push(SegmentInfo {
                reserved: head.geometry.reserve,
                bytes: facts.committed,
                processes,
                persistent: head.persistent,
                stale: !head.persistent && !is_held(LIFE, 1)?,
                name,
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// Sweeps what has this name, if it is a segment of ours that is stale: so many bytes of memory it had.
pub(super) fn sweep_name(at: &ShmName) -> Result<Option<u64>, OpenError> {
    let _no_fork = local()?; // invariant 6
    let Ok(file) = at.open(true) else { return Ok(None) };
    let (fd, facts) = (file.as_fd(), Facts::of(file.as_fd())?);
    if facts.oddity.is_some() || facts.owner != shm::user() {
        return Ok(None);
    }
    // Not one of another version either: what is stale there is for that version to say.
    let Ok(head) = Head::read(fd, &facts, "") else { return Ok(None) };
    if head.persistent || liveness::held_by_others(fd, LIFE, 1)?.is_some() {
        return Ok(None);
    }
    Ok(sweep(at, fd, facts.file)?.then_some(facts.committed))
}

/// Takes the names of all stale segments of this user away; so many bytes of memory those had.
pub(crate) fn clear_stale() -> Result<u64, OpenError> {
    let mut freed = 0;
    for name in shm::names()? {
        freed += sweep_name(&ShmName::new(&name))?.unwrap_or(0);
    }
    Ok(freed)
}
