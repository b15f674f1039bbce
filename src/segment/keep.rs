//! How long an object lives: as long as a process holds it, a result that was not delivered yet pins it, or it has a name.
//!
//! **Holder bits**: one per slot, in the object's record (of a run: in the run table). A process sets its bit when the
//! first handle to the object appears in it and clears it with the last (the count between is private). **Pins**: rows of
//! the pin table that name the object; a worker makes one for each handle in a result, and the process that waits for
//! the result (the guardian) takes it away once it holds the object itself. **Names**: entries of the directory that are
//! SET (`names`); word REASONS of the record says where to look. The directory's own blocks are kept by being reachable
//! in it. All are facts by identity: what a dead process left is found by its slot and cleared by whoever has the right to
//! (`participants`, invariant 1); a name is nobody's, and stays.
//!
//! **Freeing.** Whoever takes the last bit, pin or name away moves the block LIVE -> DYING(me), looks at bits, pins and names
//! once more, and either frees it or puts LIVE back and looks again.
//! **Holding.** Set the bit, then look at the state: LIVE with the right generation is held; DYING is put back to LIVE
//! by the holder itself (so a stopped process that was about to free blocks nobody); anything else: take the bit back.
//!
//! Proof sketch that nothing held is freed. Holder H: (h1) set bit, fence, (h2) read state. Freer F: (f1) state :=
//! DYING, fence, (f2) read bits, pins and names, (f3) CAS DYING -> FREE. The fences are SeqCst. If H's h2 read a state from
//! before f1, then h1 is before f2, so F sees the bit and does not free. If h2 read DYING, H puts LIVE back by CAS:
//! either that succeeds, and f3 fails, or f3 succeeded first, and H finds the object gone. A pin that was there when
//! the object was LIVE goes only after its guardian's h1 and h2, so F finds the pin or the bit.
//! A name is given by a process that holds the object, noted in REASONS and SET before its bit can go, so F finds the bit
//! or the name; who opens by name is an H.
//! Proof sketch that nothing is forgotten. Who takes the last bit, pin or name away looks after it, with a fence between:
//! of two that take the last two away at once, one sees both gone. If it finds DYING(F), then F looks again after putting
//! LIVE back (fence between), and finds nothing.
//!
//! Killed here? Between the bit and the look in `hold`: a bit in a block that may be anything by then; `clear_slot` takes
//! it away in every state, and [`Keep::hold_new`] where no block was to be seen. After clearing the last bit: a LIVE
//! block without bits and pins; [`Keep::clear_slot`] frees it. In DYING, or while a run or an object with parts is taken
//! apart: the block names the dead process, which `clear_slot` continues. A pin row that is CLAIMED by a dead process is freed; a SET one goes
//! with its guardian.
//!
//! **Pin row** (8 words): 0 state: FREE 0, CLAIMED(pinner) 1, SET(pinner) 2 (tag in the low 2 bits); 1 offset;
//! 2 generation; 3 guardian; 4 tag (the pool's: which task and item); 5 the row of the pin before with that tag + 1, or 0.
//! Word 5 makes a chain of the pins of one item, so that who has its last row need not look at the others' rows. It is a
//! hint: each row of it says by itself whose it is ([`Keep::unpin_chain`]), and the whole table is there to be searched.
//!
//! Which rows name an object is told, roughly, by the object's word REASONS: bit `i` is set before a row `r` with
//! `r % PIN_CLASSES == i` is SET.

use super::{
    extents::{self, Block, Extents, Hints, State},
    layout::{PIN_ROW, PIN_ROWS, header},
    owner::Owner,
    record::{self, Kind, PIN_CLASSES},
};
use crate::{
    atomic::{self, AcqRel, Acquire, Relaxed, Release, Rule, SeqCst, Word64, fence},
    error::{CreateError, HandleError, Resource},
};

pub(crate) use super::names::Place;

/// Rows of the pin table are given memory this many at a time.
const PIN_STEP: u64 = 64;
/// Who wants a row looks at so many before it takes a new one.
const PIN_LOOKS: u64 = 64;

/// 1 + the row of an item's last pin, or 0: where a chain begins. It may come from another process, and is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PinChain(pub(crate) u32);

const CLAIMED: u64 = 1;
const SET: u64 = 2;

/// Lives of objects in one segment, for as long as a call lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep<'a> {
    pub(crate) extents: Extents<'a>,
    pub(crate) me: Owner,
}

impl<'a> Keep<'a> {
    pub(crate) fn record(&self, block: &Block, word: u64) -> &'a Word64 {
        self.extents.bytes.w64(block.at + word * 8)
    }

    fn holder_words(&self, block: &Block, i: u64) -> &'a Word64 {
        self.extents.bytes.w64(block.holders_at + i * 8)
    }

    fn holder_word(&self, block: &Block, slot: u32) -> &'a Word64 {
        self.holder_words(block, u64::from(slot) / 64)
    }

    fn is_held(&self, block: &Block) -> bool {
        let words = self.extents.geometry.holder_words();
        // Acquire: pairs with the Release of a bit that was cleared; what that process pinned before is seen.
        (0..words).any(|i| self.holder_words(block, i).load(Acquire) != 0)
    }

    /// Does anything keep the object?
    pub(crate) fn is_kept(&self, block: &Block) -> bool {
        self.is_held(block) || self.is_kept_unheld(block)
    }

    /// Does anything but a process keep it?
    fn is_kept_unheld(&self, block: &Block) -> bool {
        self.is_pinned(block) || self.is_named(block)
    }

    /// The slots whose holder bits are set.
    pub(crate) fn holders(&self, block: &Block) -> impl Iterator<Item = u32> + 'a {
        holders(&self.extents, block)
    }

    /// Sets our bit in a block that is still PENDING: nobody else looks yet. Under the process's private lock, as
    /// `hold`: a stale handle of another thread must not take the bit away with its own.
    pub(crate) fn hold_new(&self, block: &Block) {
        // What is there before is nothing: bits of stale handles that will be taken back (which does no harm once they
        // are gone), bits of processes that died in `hold`, or what memory of another use has in this place.
        for i in 0..self.extents.geometry.holder_words() {
            extents::clear(self.holder_words(block, i));
        }
        self.holder_word(block, self.me.slot()).fetch_or(bit(self.me.slot()), Relaxed);
    }

    fn is(&self, block: &Block, generation: u64) -> bool {
        self.record(block, record::GENERATION).load(Relaxed) == generation
    }

    /// Sets our bit, if the object is there and ours is not set yet (the caller knows).
    pub(crate) fn hold(&self, place: Place) -> Result<Block, HandleError> {
        let block = self.extents.locate(place.at).ok_or(HandleError::Gone)?;
        let word = self.extents.state(&block);
        // Acquire: the record is whole. A look before anything is written: most stale handles end here.
        let state = State::decode(word.load(Acquire));
        if !matches!(state, Some(State::Live | State::Dying(_))) || !self.is(&block, place.generation) {
            return Err(HandleError::Gone);
        }
        self.holder_word(&block, self.me.slot()).fetch_or(bit(self.me.slot()), AcqRel);
        fence(SeqCst); // h1 before h2
        loop {
            let seen = word.load(Acquire);
            match State::decode(seen) {
                Some(State::Live) if self.is(&block, place.generation) => return Ok(block),
                Some(State::Dying(_)) if self.is(&block, place.generation) => {
                    let _ = word.compare_exchange(seen, State::Live.encode(), AcqRel, Relaxed);
                }
                _ => {
                    self.release(None, &block);
                    return Err(HandleError::Gone);
                }
            }
        }
    }

    /// Clears our bit, and frees the object if nobody else keeps it.
    pub(crate) fn release(&self, hints: Option<&mut Hints>, block: &Block) {
        // Release: what we did with the object is done; pairs with the Acquire in `is_held`.
        self.holder_word(block, self.me.slot()).fetch_and(!bit(self.me.slot()), AcqRel);
        self.free_if_unkept(hints, block);
    }

    fn free_if_unkept(&self, hints: Option<&mut Hints>, block: &Block) {
        let (word, live, dying) =
            (self.extents.state(block), State::Live.encode(), State::Dying(self.me).encode());
        loop {
            fence(SeqCst);
            // A name is asked for here, too: so what only has a name is not taken for dying at each sweep.
            if self.is_held(block)
                || self.is_named(block)
                || word.compare_exchange(live, dying, AcqRel, Relaxed).is_err()
            {
                return;
            }
            fence(SeqCst); // f1 before f2
            if !self.is_kept(block) {
                self.end(hints, block);
                return;
            }
            if word.compare_exchange(dying, live, AcqRel, Relaxed).is_err() {
                return; // a holder was faster
            }
            fence(SeqCst); // a pin or name that went since found DYING: so we look, not who took it
            if self.is_kept_unheld(block) {
                return;
            }
        }
    }

    /// Of an object that is DYING(me) and that nobody keeps: its parts go first.
    fn end(&self, hints: Option<&mut Hints>, block: &Block) {
        let (dying, pending) = (State::Dying(self.me), State::Pending(self.me));
        if !self.may_have_parts(block) {
            self.extents.free(hints, block, dying, self.me);
            return;
        }
        let word = self.extents.state(block);
        if word.compare_exchange(dying.encode(), pending.encode(), AcqRel, Relaxed).is_ok() {
            self.free_parts(block);
            self.extents.free(hints, block, pending, self.me);
        }
    }

    // ---- pins ----

    fn pin_word(&self, row: u64, word: u64) -> &'a Word64 {
        self.extents.bytes.w64(self.extents.geometry.pin_at(row) + word * 8)
    }

    fn pin_rows(&self) -> std::ops::Range<u64> {
        // Acquire: pairs with the Release in `claim_pin_row`; a row is within the range before it is SET.
        let used = self.extents.bytes.w64(header::PINS_USED).load(Acquire);
        let committed = self.extents.bytes.w64(header::PINS_COMMITTED).load(Acquire);
        0..used.min(committed).min(PIN_ROWS)
    }

    fn is_pinned(&self, block: &Block) -> bool {
        let classes = self.record(block, record::REASONS).load(Relaxed) & ((1 << PIN_CLASSES) - 1);
        if classes == 0 {
            return false;
        }
        let generation = self.record(block, record::GENERATION).load(Relaxed);
        let rows = self.pin_rows().end;
        (0..PIN_CLASSES).filter(|class| classes >> class & 1 == 1).any(|class| {
            (class..rows).step_by(PIN_CLASSES as usize).any(|row| {
                self.pin_word(row, 0).load(Acquire) & 3 == SET
                    && self.pin_word(row, 1).load(Relaxed) == block.at
                    && self.pin_word(row, 2).load(Relaxed) == generation
            })
        })
    }

    fn claim_pin_row(&self) -> Result<u64, CreateError> {
        let claimed = CLAIMED | u64::from(self.me.bits()) << 2;
        let take = |row| {
            let state = self.pin_word(row, 0);
            state.load(Relaxed) == 0 && state.compare_exchange(0, claimed, AcqRel, Relaxed).is_ok()
        };
        // Relaxed: any row will do.
        let hint = self.extents.bytes.w64(header::PIN_HINT);
        loop {
            let rows = self.pin_rows().end;
            let from = hint.load(Relaxed).min(rows);
            if let Some(row) = (from..rows.min(from + PIN_LOOKS)).find(|&row| take(row)) {
                hint.store(row + 1, Relaxed);
                return Ok(row);
            }
            match self.add_pin_row() {
                Ok(new) => hint.store(new, Relaxed),
                Err(full) => return (0..rows).find(|&row| take(row)).ok_or(full),
            }
        }
    }

    /// One row more in use; gives where.
    fn add_pin_row(&self) -> Result<u64, CreateError> {
        let (used, committed) =
            (self.extents.bytes.w64(header::PINS_USED), self.extents.bytes.w64(header::PINS_COMMITTED));
        let (now, have) = (used.load(Acquire), committed.load(Acquire));
        if now >= PIN_ROWS {
            return Err(CreateError::Full { bytes: PIN_ROW, what: Resource::Segment });
        }
        if now >= have {
            let more = PIN_STEP.min(PIN_ROWS - have);
            extents::commit(self.extents.observer, self.extents.geometry.pin_at(have), more * PIN_ROW)?;
            // Release: who sees the new bound may touch the rows. A lost race means that it has risen already.
            let _ = committed.compare_exchange(have, have + more, Release, Relaxed);
        }
        let _ = used.compare_exchange(now, now + 1, AcqRel, Relaxed);
        Ok(now)
    }

    /// Keeps an object that we hold until `guardian` unpins it. `before`: the pin of the same tag that was made last;
    /// gives what to pass for the next one.
    pub(crate) fn pin(
        &self,
        place: Place,
        guardian: Owner,
        tag: u64,
        before: PinChain,
    ) -> Result<PinChain, CreateError> {
        let Some(block) = self.extents.locate(place.at) else {
            return Err(CreateError::Damaged("an extent of a held object".into()));
        };
        let row = self.claim_pin_row()?;
        self.record(&block, record::REASONS).fetch_or(1 << (row % PIN_CLASSES), Relaxed);
        self.pin_word(row, 1).store(place.at, Relaxed);
        self.pin_word(row, 2).store(place.generation, Relaxed);
        self.pin_word(row, 3).store(u64::from(guardian.bits()), Relaxed);
        self.pin_word(row, 4).store(tag, Relaxed);
        self.pin_word(row, 5).store(u64::from(before.0), Relaxed);
        // Release: the row is whole. Also orders REASONS before our own bit can be seen cleared.
        self.pin_word(row, 0).store(SET | u64::from(self.me.bits()) << 2, Release);
        Ok(PinChain(row as u32 + 1)) // below PIN_ROWS
    }

    /// Takes away our pins of that tag, along their chain. `false`: it breaks off, so there may be more of them.
    pub(crate) fn unpin_chain(&self, chain: PinChain, tag: u64) -> bool {
        let (rows, mut next) = (self.pin_rows(), u64::from(chain.0));
        while let Some(row) = next.checked_sub(1) {
            if !rows.contains(&row) {
                return false;
            }
            let before = self.pin_word(row, 5).load(Relaxed);
            // What was taken away is met no more: so this ends, whatever the links say.
            if !self.unpin_row(row, |_, guardian, of| guardian == Some(self.me) && of == tag) {
                return false;
            }
            next = before;
        }
        true
    }

    /// Takes away the pins that `choose(pinner, guardian, tag)` names, and frees what nobody else keeps.
    pub(crate) fn unpin(&self, choose: impl Fn(Option<Owner>, Option<Owner>, u64) -> bool) {
        for row in self.pin_rows() {
            self.unpin_row(row, &choose);
        }
    }

    /// One row of [`Self::unpin`]; was it taken away?
    fn unpin_row(&self, row: u64, choose: impl Fn(Option<Owner>, Option<Owner>, u64) -> bool) -> bool {
        let state = self.pin_word(row, 0).load(Acquire);
        let pinner = Owner::from_bits((state >> 2) as u32);
        let guardian = Owner::from_bits(self.pin_word(row, 3).load(Relaxed) as u32);
        if state & 3 != SET || !choose(pinner, guardian, self.pin_word(row, 4).load(Relaxed)) {
            return false;
        }
        let place = Place {
            at: self.pin_word(row, 1).load(Relaxed),
            generation: self.pin_word(row, 2).load(Relaxed),
        };
        if self.pin_word(row, 0).compare_exchange(state, 0, AcqRel, Relaxed).is_err() {
            return false;
        }
        self.extents.bytes.w64(header::PIN_HINT).store(row, Relaxed);
        if let Some(block) = self.extents.locate(place.at)
            && self.is(&block, place.generation)
        {
            self.free_if_unkept(None, &block);
        }
        true
    }

    /// How many pins there are.
    pub(crate) fn pins(&self) -> u64 {
        self.pin_rows().filter(|&row| self.pin_word(row, 0).load(Relaxed) & 3 == SET).count() as u64
    }

    // ---- names ----

    /// Does a name keep the block, or, of a block of the directory itself, does the directory lead to it?
    fn is_named(&self, block: &Block) -> bool {
        let (kind, _) = record::kind_and_parts(self.record(block, record::KIND).load(Relaxed));
        if kind == Kind::Name as u64 {
            // A directory that cannot be read frees nothing.
            return self.extents.is_listed(block).unwrap_or(true);
        }
        if kind == Kind::NameList as u64 {
            return self.extents.is_list(block);
        }
        if atomic::broken(Rule::NamesKeep) {
            return false;
        }
        let reasons = self.record(block, record::REASONS).load(Relaxed);
        let place = Place { at: block.at, generation: self.record(block, record::GENERATION).load(Relaxed) };
        reasons & record::FIRST_NAME != 0 && self.extents.names(record::entry_of(reasons), place)
            || reasons & record::NAMES != 0 && self.extents.is_named_anywhere(place).unwrap_or(true)
    }

    /// Before an entry names an object that we hold.
    pub(crate) fn note_name(&self, object: Place, entry: Place) {
        let Some(block) = self.extents.locate(object.at) else { return };
        let word = self.record(&block, record::REASONS);
        // Relaxed: ordered by the store that makes the name count.
        let (mut reasons, first) = (word.load(Relaxed), record::first_name(entry.at));
        while first != 0 && reasons & record::FIRST_NAME == 0 {
            match word.compare_exchange(reasons, reasons | first, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => reasons = now,
            }
        }
        word.fetch_or(record::NAMES, Relaxed);
    }

    /// A name was taken from an object, or an entry from the directory: if nobody else keeps it, it is freed. Under the
    /// process's private lock.
    pub(crate) fn unnamed(&self, place: Place) {
        if let Some(block) = self.extents.locate(place.at)
            && self.is(&block, place.generation)
        {
            self.free_if_unkept(None, &block);
        }
    }

    // ---- the dead ----

    /// Clears what the dead owners of `slot` left. The caller has the exclusive right to.
    pub(crate) fn clear_slot(&self, slot: u32) {
        let me = self.me;
        let dead = move |owner: Owner| owner.slot() == slot && owner != me;
        for row in self.pin_rows() {
            let state = self.pin_word(row, 0).load(Acquire);
            if state & 3 == CLAIMED && Owner::from_bits((state >> 2) as u32).is_some_and(dead) {
                let _ = self.pin_word(row, 0).compare_exchange(state, 0, AcqRel, Relaxed);
            }
        }
        self.unpin(|_, guardian, _| guardian.is_some_and(dead));
        for extent in self.extents.used() {
            self.extents.sweep_extent(extent, dead);
            for block in self.extents.blocks(extent) {
                self.clear_block(&block, slot, dead);
            }
        }
    }

    fn clear_block(&self, block: &Block, slot: u32, dead: impl Fn(Owner) -> bool + Copy) {
        // The bit first, and whatever the state: a process that dies in `hold` leaves its bit in a block that has become
        // somebody else's, or nobody's.
        let holders = self.holder_word(block, slot);
        if holders.load(Relaxed) & bit(slot) != 0 {
            holders.fetch_and(!bit(slot), AcqRel);
        }
        // Pairs with the fence of a freer between LIVE and its second look: it sees the bit gone, or we see LIVE.
        fence(SeqCst);
        let word = self.extents.state(block);
        let seen = word.load(Acquire);
        match State::decode(seen) {
            Some(State::Pending(owner)) if dead(owner) => {
                self.settle(block, State::Pending(owner));
            }
            Some(State::Part(_)) => self.reclaim(block),
            Some(State::Dying(owner)) if dead(owner) => {
                let _ = word.compare_exchange(seen, State::Live.encode(), AcqRel, Relaxed);
                self.free_if_unkept(None, block);
            }
            // Also for those whose last holder died between its bit and the rest.
            Some(State::Live) => {
                self.extents.retract_dead(block, dead);
                self.free_if_unkept(None, block);
            }
            _ => {}
        }
    }
}

/// The slots whose holder bits are set.
pub(crate) fn holders<'a>(extents: &Extents<'a>, block: &Block) -> impl Iterator<Item = u32> + use<'a> {
    let (bytes, holders_at) = (extents.bytes, block.holders_at);
    (0..extents.geometry.holder_words() as u32).flat_map(move |i| {
        let word = bytes.w64(holders_at + u64::from(i) * 8).load(Relaxed);
        (0..64).filter(move |b| word & 1 << b != 0).map(move |b| i * 64 + b)
    })
}

fn bit(slot: u32) -> u64 {
    1 << (slot % 64)
}
