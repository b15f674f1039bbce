//! Segments: bytes that several processes share, the objects in them, and who takes part.
//!
//! ```text
//! attached       a segment as one process sees it    object   an object as one process sees it
//! join           how a process comes to take part    handle   objects by serde, inside the pool's wire
//! contents       objects made, opened, dropped       verify   is every byte free, or reachable once
//! layout         where everything is                 owner    the number that names a process
//! bytes          from an offset to a word            record   the words before an object's body
//! participants   who takes part, and who died        words    bytes in and out of words
//! extents        memory and blocks                   parts    further blocks of an object
//! keep           how long an object lives            census   a list of named segments, and a sweep
//! named          segments with a name in /dev/shm    names    names as words: the protocol
//! directory      names of objects in a segment           state    what a block's state word says
//! tie            an object and its part: the protocol    lanes    several words compared at once
//! ```

#[cfg(not(loom))]
pub(crate) mod lanes;
mod names;
pub(crate) mod owner;
mod state;
mod tie;
pub(crate) mod words;

#[cfg(not(loom))]
mod attached;
#[cfg(not(loom))]
mod bytes;
#[cfg(not(loom))]
pub(crate) mod census;
#[cfg(not(loom))]
mod contents;
#[cfg(not(loom))]
pub(crate) mod directory;
#[cfg(not(loom))]
mod extents;
#[cfg(not(loom))]
pub(crate) mod handle;
#[cfg(not(loom))]
mod join;
#[cfg(not(loom))]
mod keep;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
pub(crate) mod named;
#[cfg(not(loom))]
pub(crate) mod object;
#[cfg(not(loom))]
mod participants;
#[cfg(not(loom))]
mod parts;
#[cfg(not(loom))]
pub(crate) mod record;
#[cfg(not(loom))]
mod verify;

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(allmend_crash)]
pub use self::parts::Parts;
#[cfg(not(loom))]
pub(crate) use self::{
    attached::Segment,
    keep::{PinChain, Place},
    object::{Holder, Object},
    record::{Kind, Stamp},
};
#[cfg(not(loom))]
pub use self::{census::SegmentInfo, verify::Report};

/// Places for processes in a private segment: what fits into two words of holder bits. More cost every object.
#[cfg(not(loom))]
const DEFAULT_MAX_PROCESSES: u32 = 127;
