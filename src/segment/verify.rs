//! Is every byte of a segment free, or reachable exactly once? Each kill test ends with this question.
//!
//! Reads without locks, after clearing what the dead left. Others go on meanwhile, and may be killed, so what is on its
//! way is no damage but *busy*: what somebody claimed (CLAIMED, PENDING, DYING), TAILs whose run is being made or taken
//! apart, a LIVE block between its last holder and its end. The claims of a process that died since, or that another
//! is just clearing, too: its slot says that it has marks. In a segment where nobody works, busy is 0.
//!
//! Of everything else it must be true that
//! 1. each extent word is one that we write, and runs are whole: a RUN of n whose block is LIVE is followed by its n - 1
//!    TAILs, and each TAIL belongs to one;
//! 2. each block's state word is one that we write;
//! 3. claims and holds belong to slots that have marks;
//! 4. a LIVE block has a record that fits into it, and a holder, a pin or a name (a block of the directory: is
//!    reachable in it), and its table names parts that know it;
//! 5. a PART is named by the table of one LIVE object;
//! 6. of the directory each list is its bucket's and names entries that are its own, each name is there once and leads to
//!    a LIVE object, and claims are those of the living.

use super::{
    attached::Segment,
    extents::{Extent, State},
    layout::EXTENT,
    owner::Owner,
    record::{self, Kind},
};
use crate::{
    atomic::{Acquire, Relaxed},
    error::VerifyError,
};
use std::sync::Arc;

/// So often damage has to look the same again,
const SAME_LOOKS: u32 = 2;
/// and so often we look at most.
const LOOKS: u32 = 16;

/// What [`crate::verify`] found in a healthy segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Live objects: handles that exist somewhere, pools, large arguments and results on their way.
    pub objects: u64,
    /// Names in the directory.
    pub names: u64,
    /// Further blocks of objects that grew.
    pub parts: u64,
    /// Places that processes are just filling, emptying or clearing. 0 when nobody works.
    pub busy: u64,
    /// Results on their way that keep an object alive.
    pub pins: u64,
    /// Processes that take part.
    pub processes: u32,
    /// Memory in extents that were ever used, in bytes.
    pub committed: u64,
}

impl Segment {
    /// See the module.
    pub(crate) fn verify(self: &Arc<Self>) -> Result<Report, VerifyError> {
        self.forget_dead()?;
        // Without memory for it, what is left over in the directory stays, and counts as busy.
        let _ = self.tidy_names();
        // What others changed while we looked (a block that became a run between two words of it) does not look the
        // same the next time; damage does.
        let (mut found, mut same) = (self.look(), 0);
        for _ in 0..LOOKS {
            if found.is_ok() || same == SAME_LOOKS {
                break;
            }
            let again = self.look();
            same = if again == found { same + 1 } else { 0 };
            found = again;
        }
        found
    }

    fn look(&self) -> Result<Report, VerifyError> {
        let me = self.me()?;
        let (extents, keep) = (self.extents(), self.keep(me));
        let mut report = Report {
            pins: keep.pins(),
            processes: self.participants().living().map_err(crate::error::CreateError::from)?,
            ..Report::default()
        };
        let wrong = |what: &'static str, offset| VerifyError::Damaged { what: what.into(), offset };
        let mut tails = 0..0; // what the last RUN announced
        let mut head = 0;
        for index in extents.used() {
            let at = self.geometry().extent_word_at(index);
            let extent = Extent::decode(extents.word(index).load(Acquire))
                .ok_or(wrong("an unknown extent word", at))?;
            if tails.contains(&index) && extent != Extent::Tail(head) && self.is_live(head) {
                return Err(wrong("a run with a hole", at));
            }
            match extent {
                Extent::Free => continue,
                Extent::Claimed(owner) if self.may_claim(owner) => report.busy += 1,
                Extent::Claimed(_) => return Err(wrong("an extent claimed by a dead process", at)),
                Extent::Tail(_) if !tails.contains(&index) => {
                    // The tails of a run that is being made stand before its head does.
                    report.busy += 1;
                    continue;
                }
                Extent::Tail(_) | Extent::Slab(_) => {}
                Extent::Run(n) => (tails, head) = (index + 1..index + n, index),
            }
            report.committed += EXTENT;
            for block in extents.blocks(index) {
                match State::decode(extents.state(&block).load(Acquire)) {
                    None => return Err(wrong("an unknown block state", block.state_at)),
                    Some(State::Free) => {}
                    Some(State::Pending(owner) | State::Dying(owner)) => {
                        if !self.may_claim(owner) {
                            return Err(wrong("a block claimed by a dead process", block.state_at));
                        }
                        report.busy += 1;
                    }
                    Some(State::Part(_)) => match keep.is_part(&block) {
                        Some(true) => report.parts += 1,
                        Some(false) => return Err(wrong("a part that no object names", block.at)),
                        None => report.busy += 1,
                    },
                    Some(State::Live) => {
                        let words = keep.record(&block, record::WORDS).load(Relaxed);
                        let body = (words & u64::from(u32::MAX)) * 4 + (words >> 32) * 8;
                        if self.geometry().record_bytes() + body > block.bytes {
                            return Err(wrong("a record that does not fit", block.at));
                        }
                        if keep.holders(&block).any(|slot| !self.participants().has_marks(slot)) {
                            return Err(wrong("held by a slot that nobody has", block.at));
                        }
                        keep.check_parts(&block).map_err(|at| {
                            wrong("an object that names a part which is none of its own", at)
                        })?;
                        let kind = record::kind_and_parts(keep.record(&block, record::KIND).load(Relaxed)).0;
                        match keep.is_kept(&block) {
                            true if kind == Kind::Name as u64 || kind == Kind::NameList as u64 => {}
                            true => report.objects += 1,
                            false => report.busy += 1,
                        }
                    }
                }
            }
        }
        let (names, busy) =
            self.check_names(|owner| self.may_claim(owner)).map_err(|(what, at)| wrong(what, at))?;
        (report.names, report.busy) = (names, report.busy + busy);
        Ok(report)
    }

    /// Claims of the living, and of the dead that nobody has cleared yet.
    fn may_claim(&self, owner: Owner) -> bool {
        self.participants().has_marks(owner.slot()) || self.is_alive(owner).unwrap_or(true)
    }

    /// Is there a whole run at `head`, not one that is being made or taken apart?
    fn is_live(&self, head: u64) -> bool {
        let extents = self.extents();
        let state =
            extents.blocks(head).next().map(|block| State::decode(extents.state(&block).load(Acquire)));
        matches!(state, Some(Some(State::Live | State::Part(_))))
    }
}
