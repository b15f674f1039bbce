//! A process takes rows, and clears those of the dead.

use super::record::{OWN_ROWS, PARKED, Record};
use super::table::{At, CONTENDED, ENTRIES, EXCLUSIVE, USED};
use super::{Claims, Mutation, PAUSES, Refused, Who, World, broken};
use crate::{
    atomic::{
        AcqRel,
        Acquire,
        Relaxed, // see the table of the protocol
        Release,
        give_way,
        spin,
    },
    os::futex,
    segment::owner::{OWNER_BITS, Owner},
};

/// Unlocks a process's private record, also when a panic runs.
struct Unlocks<'a>(&'a Record);

impl Drop for Unlocks<'_> {
    fn drop(&mut self) {
        self.0.lock.store(0, Release);
    }
}

impl Claims<'_> {
    /// Clears a dead process's row, or nobody's, of all that is not a mark, if it is still theirs. Under the private
    /// lock: until the end the row is ours, but not for our threads.
    pub(super) fn sweep<W: World>(&self, row: usize, dead: u32, me: Owner, world: &W) -> bool {
        let owner = &self.table.lines[row][0];
        if broken(Mutation::TakeoverByStore) {
            owner.store(dead, Relaxed);
        }
        // From exactly the dead one's name: a row that has passed on since is not touched.
        let ours = owner.compare_exchange(dead, me.bits(), AcqRel, Relaxed).is_ok();
        if ours {
            for entry in 0..ENTRIES {
                self.clear(At::new(row, entry), true, world);
            }
            owner.store(0, Release);
        }
        ours
    }

    /// Resets an entry of a row of ours that no thread of ours has: one that says nothing any more, or, in a row that was
    /// just taken (`dead`: those who had it before are), one that is no mark.
    fn clear<W: World>(&self, at: At, dead: bool, world: &W) {
        let (word, held) = (self.table.word(at), self.table.held(at));
        let mut seen = word.load(Acquire);
        let empty = self.table.span(at).load(Acquire) == 0;
        let is_mark = seen & EXCLUSIVE != 0 && held.load(Relaxed) != 0;
        if seen == 0 || !(empty || dead && !is_mark) {
            return;
        }
        world.forget(at);
        held.store(0, Relaxed);
        // Only CONTENDED can come in between, once.
        while let Err(found) = word.compare_exchange(seen, 0, Release, Relaxed) {
            if found & !CONTENDED != seen & !CONTENDED {
                return;
            }
            seen = found;
        }
        if seen & CONTENDED != 0 {
            futex::wake(word, u32::MAX);
        }
    }

    /// A (further) row for this process; or the record is made ours, after a fork.
    #[cold]
    pub(super) fn grow<W: World>(&self, who: Who, world: &W) -> Result<(), Refused<W::Lost>> {
        self.locked(who.me, || self.grow_locked(who, world))
    }

    /// Rows of this process change hands under its private lock: one thread at a time.
    pub(super) fn locked<R>(&self, me: Owner, f: impl FnOnce() -> R) -> R {
        let (record, mut pauses) = (self.record, 0);
        loop {
            let holder = record.lock.load(Relaxed);
            // A holder of another name is the process that forked this one: it is not here.
            if holder != me.bits()
                && record.lock.compare_exchange(holder, me.bits(), Acquire, Relaxed).is_ok()
            {
                break;
            }
            pauses += 1;
            if pauses < PAUSES { spin() } else { give_way() }
        }
        let _unlocks = Unlocks(record);
        f()
    }

    /// The mark in that entry is mended as a whole: the entry goes, if its row is ours, nobody's or a dead process's.
    /// Else its owner clears it.
    pub(super) fn retire<W: World>(&self, at: At, me: Owner, world: &W) {
        let row = usize::from(at.row);
        let of = self.table.lines[row][0].load(Relaxed);
        if of == me.bits() {
            self.locked(me, || self.clear_mended(at, me, world));
        } else if Owner::from_bits(of).is_none_or(|of| matches!(world.is_alive(of), Ok(false))) {
            self.locked(me, || self.sweep(row, of, me, world));
        }
    }

    /// The entries of our rows that were marks go, if others have mended them.
    pub(super) fn retire_ours<W: World>(&self, me: Owner, world: &W) {
        let record = self.record;
        if record.of.load(Acquire) != me.bits() {
            return;
        }
        let count = (record.count.load(Acquire) as usize).min(OWN_ROWS);
        let rows = record.rows[..count].iter().map(|row| row.load(Relaxed) as usize);
        for at in rows.flat_map(|row| (0..ENTRIES).map(move |entry| At::new(row, entry))) {
            if self.is_mended(at, me) {
                self.locked(me, || self.clear_mended(at, me, world));
            }
        }
    }

    /// Was the entry, of a row of ours, a mark of which nothing is left? A claim of ours has our name.
    fn is_mended(&self, at: At, me: Owner) -> bool {
        let word = self.table.word(at).load(Relaxed);
        word & OWNER_BITS != me.bits() && word != 0 && self.table.span(at).load(Relaxed) == 0
    }

    /// Under the private lock. No thread of ours makes anything of the entry before its word is 0, which is last.
    fn clear_mended<W: World>(&self, at: At, me: Owner, world: &W) {
        if self.is_mended(at, me) {
            self.clear(at, false, world);
        }
    }

    fn grow_locked<W: World>(&self, who: Who, world: &W) -> Result<(), Refused<W::Lost>> {
        let (record, me) = (self.record, who.me);
        if record.of.load(Relaxed) != me.bits() {
            record.home.store(0, Relaxed);
            record.count.store(0, Relaxed);
            for tag in record.slots.iter().flat_map(|slots| &slots.tags) {
                tag.store(0, Relaxed);
            }
            record.pid.store(std::process::id(), Relaxed);
            record.of.store(me.bits(), Release);
        }
        let count = record.count.load(Relaxed) as usize;
        let mine = |row: usize| (0..count).any(|own| record.rows[own].load(Relaxed) as usize == row);
        let mut free = false;
        for own in 0..count {
            let row = record.rows[own].load(Relaxed) as usize;
            for (entry, tag) in record.slots[own].tags[..ENTRIES].iter().enumerate() {
                // Nobody else writes the slot of a thread's home.
                let anothers = (own, entry) == (0, 0) && record.home.load(Relaxed) != who.name();
                // Entries that were marks, and are mended.
                if !anothers && tag.compare_exchange(0, PARKED, AcqRel, Relaxed).is_ok() {
                    self.clear(At::new(row, entry), false, world);
                    free |= self.table.word(At::new(row, entry)).load(Relaxed) == 0;
                    tag.store(0, Release);
                }
            }
        }
        if free {
            return Ok(());
        }
        if count == OWN_ROWS {
            return Err(Refused::TooMany);
        }
        let row = self.take_row(me, world, mine)?;
        record.rows[count].store(row as u32, Relaxed);
        // Release: the row's number is there.
        record.count.store(count as u32 + 1, Release);
        if count == 0 {
            record.home.store(who.name(), Release);
        }
        Ok(())
    }

    /// A row that has a free entry: ours from before, nobody's, a dead process's, or a new one.
    fn take_row<W: World>(
        &self,
        me: Owner,
        world: &W,
        mine: impl Fn(usize) -> bool,
    ) -> Result<usize, Refused<W::Lost>> {
        let (used, lines) = (self.table.used(), self.table.lines);
        let has_free = |row: usize| lines[row][1..=ENTRIES].iter().any(|word| word.load(Relaxed) == 0);
        let take = |row: usize| {
            let owner = &lines[row][0];
            let seen = owner.load(Relaxed);
            let ours = match seen {
                0 => owner.compare_exchange(0, me.bits(), AcqRel, Relaxed).is_ok(),
                _ => seen == me.bits() && !mine(row),
            };
            if ours {
                for entry in 0..ENTRIES {
                    self.clear(At::new(row, entry), true, world);
                }
                if has_free(row) {
                    return true;
                }
                owner.store(0, Release);
            }
            false
        };
        if let Some(row) = (0..used).find(|&row| take(row)) {
            return Ok(row);
        }
        for (row, line) in lines[..used].iter().enumerate() {
            let owner = Owner::from_bits(line[0].load(Relaxed)).filter(|&owner| owner != me);
            if let Some(owner) = owner
                && !world.is_alive(owner).map_err(Refused::Lost)?
                && self.sweep(row, owner.bits(), me, world)
                && take(row)
            {
                return Ok(row);
            }
        }
        for row in used..lines.len() {
            // Before anything stands in the row: invariant 1 is about rows that are looked at.
            self.raise_used(row + 1);
            if take(row) {
                return Ok(row);
            }
        }
        Err(Refused::TooMany)
    }

    fn raise_used(&self, to: usize) {
        let used = &self.table.head[USED];
        let mut now = used.load(Relaxed);
        while (now as usize) < to {
            match used.compare_exchange(now, to as u32, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }
}
