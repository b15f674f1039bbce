//! The tie between an object and its part, as words: who makes it, who cuts it, and who mends it after a death.
//!
//! An object's table has one word per part, 0 for none; the part's record says which object it belongs to (by place and
//! generation), and which word of that table leads to it.
//!
//! ```text
//! tie:     PENDING(me), record; table word := part; state := PART(n)
//! untie:   PART(n) or PENDING(dead) --CAS--> PENDING(me); table word := 0; the caller frees it
//! settle:  PENDING(dead), named   --CAS--> PART(n), and a second look: no longer named? --CAS--> PENDING(me): freed
//!          PENDING(dead), unnamed: freed
//! take:    PART(n) of an object that is PENDING(me), or of the dead whose slot the caller clears --CAS--> PENDING(me): freed
//! reclaim: PART(n) of an object that is gone        --CAS--> PENDING(me): freed
//! ```
//!
//! Invariants
//! 1. A table word changes only under whatever excludes the object's other writers.
//! 2. PART says that the record names an object that is LIVE (or DYING, or PENDING of who takes it apart), whose table
//!    names the block.
//! 3. A part is freed only by who moved its state to PENDING(itself), which is one compare-exchange.
//! 4. *No two ties of a segment have the same number n*: each tie, and each `settle`, takes the next one of a counter in
//!    the header. So a compare-exchange from PART(n) speaks of that tie and of no later one, however long who makes it
//!    stood still before. n has 61 bits: at a thousand million ties in a second it comes round after 73 years. (Fewer
//!    bits beside an offset would come round within minutes, and a process may be stopped for hours.)
//! 5. Whose part it is is read from its record between a load of the state (Acquire) and a compare-exchange from what was
//!    loaded. A record is written in PENDING only, so by 4 the exchange that succeeds has read the record of that tie.
//!
//! `settle` (S) against the end of the object (E): S makes the block PART(n), fence, looks at the object again; E makes
//! that PENDING, fence, looks at each part's state. The fences are SeqCst, so S sees the end or E sees the part; either
//! frees it, by compare-exchange. S against an `untie` (and whatever follows): S's second look may find the block unnamed;
//! then its exchange from PART(n) fails, as who unties has moved the state first.
//!
//! Killed here? In `tie` before the table word: PENDING of a dead owner that nobody names: freed. After it: PENDING of a
//! dead owner that its object names: `settle` makes it a PART. In `untie` the same two cases, the other way round: until
//! the table word is 0 the part is still there. In `settle` between the two exchanges: PART(n), which is right if the
//! object is there. If E passed the block just before, the object is gone; who clears the next slot (this death left one)
//! reclaims it.
//!
//! Orderings: the table word is Release and pairs with the Acquire of who looks it up; the rest as in `extents`.

use super::{owner::Owner, state::State};
use crate::atomic::{AcqRel, Acquire, Relaxed, Release, SeqCst, Word64, fence};

/// A block as it is seen here: its state, and words of its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockCard<'a> {
    pub(crate) state: &'a Word64,
    pub(crate) generation: &'a Word64,
    /// Of a part: the object that it belongs to.
    pub(crate) object: &'a Word64,
    /// Of a part: that object's generation.
    pub(crate) life: &'a Word64,
    /// Of a part: its place in that object's table.
    pub(crate) index: &'a Word64,
}

/// Where the words are. Offsets may come from anywhere.
pub(crate) trait Kin {
    fn card(&self, at: u64) -> Option<BlockCard<'_>>;
    /// A word of the table of the object at `object`, as its record says.
    fn table_word(&self, object: u64, index: u64) -> Option<&Word64>;
    /// Where the part is that a table word, not 0, names.
    fn named_by(&self, word: u64) -> u64;
    /// The next number of a tie.
    fn count(&self) -> u64;
}

/// Ties a block that is PENDING(me), with its record, to its object. The caller excludes the object's other writers.
pub(crate) fn tie(kin: &impl Kin, part: BlockCard<'_>, table: &Word64, word: u64) {
    let number = number(kin);
    // Release: who sees the word sees the record and the contents.
    table.store(word, Release);
    // Release: who finds a PART finds it named.
    part.state.store(number.encode(), Release);
}

/// How often an `untie` tries: a dead process's part is settled once.
const TRIES: u32 = 4;

/// Moves the part to PENDING(me), and clears its word, which is number `index` of the object's table. The caller excludes
/// the object's other writers. `false`: the part's record names another object or word, so the table was overwritten.
pub(crate) fn untie<E>(
    part: BlockCard<'_>,
    (object, index): (u64, u64),
    table: &Word64,
    me: Owner,
    is_alive: impl Fn(Owner) -> Result<bool, E>,
) -> Result<bool, E> {
    // PART, or PENDING of a dead process until somebody settles it, which happens once. What is PENDING of a living
    // one is none of this object's, as the caller excludes the others.
    for _ in 0..TRIES {
        let seen = part.state.load(Acquire);
        let may_be = match State::decode(seen) {
            Some(State::Part(_)) => true,
            Some(State::Pending(owner)) => owner != me && !is_alive(owner)?,
            _ => false,
        };
        // Invariant 5.
        if !may_be || (part.object.load(Relaxed), part.index.load(Relaxed)) != (object, index) {
            return Ok(false);
        }
        if part.state.compare_exchange(seen, State::Pending(me).encode(), AcqRel, Relaxed).is_ok() {
            // Release: who finds the block free finds it unnamed.
            table.store(0, Release);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a part from the object at `object`, which is PENDING of the caller. `true`: it is PENDING(me).
#[must_use]
pub(crate) fn take(part: BlockCard<'_>, object: u64, me: Owner) -> bool {
    let seen = part.state.load(Acquire);
    matches!(State::decode(seen), Some(State::Part(_)))
        && part.object.load(Relaxed) == object // invariant 5
        && part.state.compare_exchange(seen, State::Pending(me).encode(), AcqRel, Relaxed).is_ok()
}

/// Is the object of a part there, and does its table lead to the block at `at`?
pub(crate) fn is_named(kin: &impl Kin, at: u64, part: BlockCard<'_>) -> bool {
    let index = part.index.load(Relaxed);
    is_there(kin, part, |object| {
        // Acquire: pairs with the Release of an `untie`.
        let word = kin.table_word(object, index).map_or(0, |word| word.load(Acquire));
        word != 0 && kin.named_by(word) == at
    })
}

/// Is the object of a part there, with its generation before and after `question`, and is that answered by yes?
fn is_there(kin: &impl Kin, part: BlockCard<'_>, question: impl FnOnce(u64) -> bool) -> bool {
    let (object, life) = (part.object.load(Relaxed), part.life.load(Relaxed));
    let Some(card) = kin.card(object) else { return false };
    // Acquire: the state comes after it; pairs with the Release of `begin_life`.
    if card.generation.load(Acquire) != life && !broken(Mutation::LifeIgnored) {
        return false;
    }
    // Acquire: record and table are whole.
    let state = State::decode(card.state.load(Acquire));
    if !matches!(state, Some(State::Live | State::Dying(_))) {
        return false;
    }
    let yes = question(object);
    fence(Acquire); // after the record and the table; pairs with the fence of `begin_life`
    yes && (card.generation.load(Relaxed) == life || broken(Mutation::LifeIgnored))
}

/// Takes a part whose object is gone, which somebody who was killed in [`settle`] left. `true`: it is PENDING(me).
#[must_use]
pub(crate) fn reclaim(kin: &impl Kin, part: BlockCard<'_>, me: Owner) -> bool {
    let seen = part.state.load(Acquire);
    matches!(State::decode(seen), Some(State::Part(_)))
        && !is_there(kin, part, |_| true) // invariant 5
        && part.state.compare_exchange(seen, State::Pending(me).encode(), AcqRel, Relaxed).is_ok()
}

/// What became of a block that a dead process left PENDING.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Settled {
    /// A part that its object names; or who has the object has moved on.
    Stays,
    /// It was named, and is no longer: it is PENDING(me).
    Mine,
    /// Nobody names it: as it was.
    Unnamed,
}

/// Settles a block that the caller found PENDING of a dead process, `from`.
pub(crate) fn settle(kin: &impl Kin, at: u64, part: BlockCard<'_>, from: State, me: Owner) -> Settled {
    if !is_named(kin, at, part) {
        return Settled::Unnamed;
    }
    let tied = number(kin).encode();
    if part.state.compare_exchange(from.encode(), tied, AcqRel, Relaxed).is_err() {
        return Settled::Stays;
    }
    if !broken(Mutation::SettleWithoutFence) {
        fence(SeqCst); // with that of `before_taking`
    }
    if broken(Mutation::OneLook) || is_named(kin, at, part) {
        return Settled::Stays;
    }
    // Invariant 4: of this tie, or not at all.
    match part.state.compare_exchange(tied, State::Pending(me).encode(), AcqRel, Relaxed) {
        Ok(_) => Settled::Mine,
        Err(_) => Settled::Stays,
    }
}

/// Between the store that makes an object PENDING and the first [`take`] of its parts.
pub(crate) fn before_taking() {
    fence(SeqCst);
}

/// PART, with a number of its own.
fn number(kin: &impl Kin) -> State {
    State::part(if broken(Mutation::NumbersRepeat) { 0 } else { kin.count() })
}

/// Ways to break this protocol that the models must notice; nothing in a real build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(loom), allow(dead_code, reason = "asked for in real builds, made only in models"))]
enum Mutation {
    /// All ties have the same number.
    NumbersRepeat,
    /// Who settles looks at the object once.
    OneLook,
    /// An object is asked for by its place alone.
    LifeIgnored,
    /// Who settles does not order its second look behind the PART.
    SettleWithoutFence,
}

crate::mutation::breaks!(Mutation);

#[cfg(all(test, loom))]
#[path = "tests/loom_tie.rs"]
mod loom_tie;
