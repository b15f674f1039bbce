//! What a block's state word says; the table of its tags is in `extents`. Compiled in every build, loom included.

use super::owner::Owner;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Free,
    Pending(Owner),
    Live,
    /// Belongs to an object, which its record names. The number is never 0, and no two ties of a segment have the same.
    Part(u64),
    Dying(Owner),
}

impl State {
    /// PART number `count`, of a counter that starts anywhere.
    pub(crate) const fn part(count: u64) -> Self {
        State::Part(1 + (count & (u64::MAX >> 3)))
    }

    pub(crate) fn encode(self) -> u64 {
        match self {
            State::Free => 0,
            State::Pending(owner) => 1 | u64::from(owner.bits()) << 2,
            State::Live => 2,
            State::Part(number) => 2 | number << 2,
            State::Dying(owner) => 3 | u64::from(owner.bits()) << 2,
        }
    }

    /// `None` for a word that we never write.
    pub(crate) fn decode(word: u64) -> Option<Self> {
        let owner = || u32::try_from(word >> 2).ok().and_then(Owner::from_bits);
        match (word & 3, word >> 2) {
            (0, 0) => Some(State::Free),
            (1, _) => owner().map(State::Pending),
            (2, 0) => Some(State::Live),
            (2, number) => Some(State::Part(number)),
            (3, _) => owner().map(State::Dying),
            _ => None,
        }
    }
}
