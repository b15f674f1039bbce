//! Names of objects, as words: what a look-up may believe, and the three stores that make and take a name.
//!
//! ```text
//! bucket word --> list: n, (hash, entry) * n --> entry: state, hash, object, name, type name
//! ```
//!
//! A name belongs to one of [`BUCKETS`] buckets, by its hash. **A bucket is one word**: 0, or where its *list* is. A list
//! never changes; who adds or drops entries writes a new one and puts it into the word by one compare-exchange. **An
//! entry** is a block of its own that is written before it is listed. All that changes in it are its state and, while
//! that is BUSY and by its claimer alone, the object that it names:
//!
//! | state | rest | meaning | goes to |
//! |---|---|---|---|
//! | BUSY | claimer | its claimer is making the object | SET by its claimer; GONE by anybody |
//! | SET | | the object has this name | GONE by who takes the name away |
//! | GONE | | nobody's name: dropped by the next who writes the list | |
//!
//! ```text
//! claim:   entry BUSY(me) --> list' = list + entry --> bucket word: list -> list'
//! publish: object's place into the entry --> BUSY(me) -> SET        (the name counts from this store on)
//! retract: SET -> GONE                                              (and no longer from this one on)
//! ```
//!
//! Invariants
//! 1. A state only moves forward, by compare-exchange from exactly what was seen.
//! 2. Of the entries of one name in a list at most one is not GONE: who lists one has looked at the list that its
//!    compare-exchange replaces.
//! 3. An entry is listed once, by who made it, and leaves the lists only as GONE.
//! 4. Who changes a state or replaces a list holds that block: it cannot become another one meanwhile.
//! 5. A block's generation is stored (Release) before anything else of that life, with a fence behind it.
//!
//! **Look-up** holds nothing and writes nothing, so the blocks may become others under it. It reads generations before
//! and after: g = list's generation; bucket word again; contents; generation still g. By 5, if contents of a later life
//! were read, the second look at the generation sees that life. And the bucket word between the two says that in life g
//! the list *was* the bucket's. The same for an entry: its generation, then word and list once more, its contents, its
//! generation. So what is found was true at one moment of the look-up.
//!
//! Killed here? A claim before the bucket word: a block that nobody lists, which goes with its dead holder. After it: an
//! entry BUSY(dead): the next who wants the name, or who clears what the dead left, moves it to GONE. After SET: the name
//! stands. After GONE, before the list is written anew: a listed GONE entry, which means nothing. Between a new list and
//! the end of the old one: a block that nobody lists.
//!
//! What comes from shared bytes is bounded before it is used: a list's length by its block and [`MOST_LISTED`], lengths
//! of names by their entry, rounds by [`ROUNDS`].

use super::owner::Owner;
use crate::atomic::{AcqRel, Acquire, Relaxed, Release, Word32, Word64, fence, spin};

/// Buckets of a directory.
#[cfg(not(loom))] // models have one
pub(crate) const BUCKETS: u64 = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 12;
/// Most entries of one bucket.
pub(crate) const MOST_LISTED: usize = 1 << 16;
/// Longest name, and longest name of a type that is kept.
pub(crate) const LONGEST: usize = 255;
/// So often a look-up is overtaken before it gives up: lists that change without end are nobody's honest work.
pub(crate) const ROUNDS: u32 = 1 << 16;

/// An object's name within its segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) generation: u64,
}

/// Words of a list's body.
pub(crate) mod list {
    /// Which bucket it belongs to.
    pub(crate) const BUCKET: usize = 0;
    pub(crate) const LEN: usize = 1;
    /// Hash and offset of each entry.
    pub(crate) const PAIRS: usize = 2;
}

/// Words of an entry's body; its state is a 32-bit word of its own.
pub(crate) mod entry {
    pub(crate) const HASH: usize = 0;
    pub(crate) const AT: usize = 1;
    pub(crate) const GENERATION: usize = 2;
    /// Bytes of the name (low half), and of the type's name behind it.
    pub(crate) const LENGTHS: usize = 3;
    pub(crate) const TEXT: usize = 4;
}

/// What an entry's state word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Busy(Owner),
    Set,
    Gone,
}

impl State {
    pub(crate) const fn encode(self) -> u32 {
        match self {
            State::Busy(owner) => owner.bits() << 2 | 1,
            State::Set => 2,
            State::Gone => 3,
        }
    }

    /// `None` for a word that we never write.
    pub(crate) fn decode(word: u32) -> Option<Self> {
        match word {
            2 => Some(State::Set),
            3 => Some(State::Gone),
            _ if word & 3 == 1 => Owner::from_bits(word >> 2).map(State::Busy),
            _ => None,
        }
    }
}

/// FNV-1a, with its bits mixed once more: the same in all programs.
pub(crate) fn hash_of(name: &[u8]) -> u64 {
    let h =
        name.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let h = (h ^ (h >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

/// The bucket of a hash.
pub(crate) fn bucket_of(hash: u64) -> u64 {
    hash >> (64 - BUCKET_BITS)
}

/// A block as the protocol sees it. Which words there are was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Card<'a> {
    pub(crate) generation: &'a Word64,
    pub(crate) state: &'a Word32,
    pub(crate) words: &'a [Word64],
}

/// Where the words are.
pub(crate) trait Shelf {
    /// The word of a bucket, below [`BUCKETS`].
    fn bucket(&self, index: u64) -> &Word64;
    /// The block at an offset that may come from anywhere.
    fn card(&self, at: u64) -> Option<Card<'_>>;
}

/// The bytes are not what we write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Overwritten(pub(crate) &'static str);

/// A line of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) hash: u64,
    pub(crate) at: u64,
}

/// What a bucket's word led to at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct List {
    pub(crate) bucket: u64,
    /// `None`: the word was 0.
    pub(crate) place: Option<Place>,
    /// Those lines that were asked for.
    pub(crate) lines: Vec<Line>,
}

impl List {
    /// The list of `bucket`, of it the lines that `wanted(hash)` names.
    pub(crate) fn read(
        shelf: &impl Shelf,
        bucket: u64,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Self, Overwritten> {
        let word = shelf.bucket(bucket);
        for _ in 0..ROUNDS {
            // Relaxed: what counts is the second look.
            let at = word.load(Relaxed);
            if at == 0 {
                return Ok(Self { bucket, place: None, lines: Vec::new() });
            }
            if let Some(card) = shelf.card(at) {
                // Acquire: the look at the bucket comes after it; pairs with the Release of `begin_life`.
                let generation = card.generation.load(Acquire);
                // Acquire: pairs with the Release that put the list there.
                let order = unless(Mutation::BucketNotAcquired, Acquire);
                if broken(Mutation::BucketNotAskedAgain) || word.load(order) == at {
                    let lines = copy_lines(&card, &wanted);
                    fence(Acquire); // after the contents; pairs with the fence of `begin_life`
                    if broken(Mutation::GenerationNotAskedAgain)
                        || card.generation.load(Relaxed) == generation
                    {
                        let lines = lines.ok_or(Overwritten("the length of a list of names"))?;
                        return Ok(Self { bucket, place: Some(Place { at, generation }), lines });
                    }
                }
            } else if word.load(Acquire) == at {
                return Err(Overwritten("the place of a list of names"));
            }
            spin();
        }
        Err(Overwritten("a list of names that changes without end"))
    }

    /// Is it still the bucket's?
    pub(crate) fn is_current(&self, shelf: &impl Shelf) -> bool {
        let at = self.place.map_or(0, |place| place.at);
        shelf.bucket(self.bucket).load(Acquire) == at
            && self.place.is_none_or(|place| {
                // Acquire: as in `read`; life `generation` was the one when the word was read, or a later one is seen.
                shelf.card(place.at).is_some_and(|card| card.generation.load(Acquire) == place.generation)
            })
    }
}

fn copy_lines(card: &Card<'_>, wanted: &impl Fn(u64) -> bool) -> Option<Vec<Line>> {
    let len = usize::try_from(card.words.get(list::LEN)?.load(Relaxed)).ok()?;
    let lines = card.words[list::PAIRS..].as_chunks::<2>().0.get(..len)?;
    if len > MOST_LISTED {
        return None;
    }
    let lines = lines.iter().map(|[hash, at]| Line { hash: hash.load(Relaxed), at: at.load(Relaxed) });
    Some(lines.filter(|line| wanted(line.hash)).collect())
}

/// An entry as it was at one moment, copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) state: State,
    pub(crate) hash: u64,
    /// Of a SET one.
    pub(crate) object: Place,
    pub(crate) name: Vec<u8>,
    pub(crate) type_name: Vec<u8>,
}

impl Entry {
    /// The entry at `at`, which `list` names. `None`: the list is no longer the bucket's, look again.
    pub(crate) fn read(shelf: &impl Shelf, list: &List, at: u64) -> Result<Option<Self>, Overwritten> {
        let Some(card) = shelf.card(at) else {
            return if list.is_current(shelf) { Err(Overwritten("the place of a name")) } else { Ok(None) };
        };
        // Acquire: the look at the list comes after it; pairs with the Release of `begin_life`.
        let generation = card.generation.load(Acquire);
        if !list.is_current(shelf) {
            return Ok(None);
        }
        // Acquire: a SET one's object is there; pairs with the Release of `publish`.
        let state = card.state.load(unless(Mutation::StateNotAcquired, Acquire));
        let copy = copy_entry(&card);
        fence(Acquire); // after the contents; pairs with the fence of `begin_life`
        if !broken(Mutation::GenerationNotAskedAgain) && card.generation.load(Relaxed) != generation {
            return Ok(None);
        }
        let wrong = Overwritten("the record of a name");
        let (hash, object, name, type_name) = copy.ok_or(wrong)?;
        let state = State::decode(state).ok_or(wrong)?;
        Ok(Some(Self { place: Place { at, generation }, state, hash, object, name, type_name }))
    }
}

fn copy_entry(card: &Card<'_>) -> Option<(u64, Place, Vec<u8>, Vec<u8>)> {
    let (head, text) = card.words.split_at_checked(entry::TEXT)?;
    let word = |i: usize| head[i].load(Relaxed);
    let lengths = word(entry::LENGTHS);
    let (name, of_type) = ((lengths as u32) as usize, (lengths >> 32) as usize);
    if !(1..=LONGEST).contains(&name)
        || of_type > LONGEST
        || super::words::words_for(name + of_type) > text.len()
    {
        return None;
    }
    let mut bytes = vec![0; name + of_type];
    super::words::load_bytes(text, &mut bytes);
    let type_name = bytes.split_off(name);
    let object = Place { at: word(entry::AT), generation: word(entry::GENERATION) };
    Some((word(entry::HASH), object, bytes, type_name))
}

/// The entry of that name that is not GONE.
pub(crate) fn find(shelf: &impl Shelf, name: &[u8]) -> Result<Option<Entry>, Overwritten> {
    let hash = hash_of(name);
    'again: for _ in 0..ROUNDS {
        let list = List::read(shelf, bucket_of(hash), |other| other == hash)?;
        for line in &list.lines {
            match Entry::read(shelf, &list, line.at)? {
                None => {
                    spin();
                    continue 'again;
                }
                Some(found) if found.name == name && found.state != State::Gone => return Ok(Some(found)),
                Some(_) => {}
            }
        }
        return Ok(None);
    }
    Err(Overwritten("a list of names that changes without end"))
}

/// The first store into a block that begins a new life.
pub(crate) fn begin_life(generation: &Word64, number: u64) {
    // Release: who sees the new number sees that the block was given up before.
    generation.store(number, unless(Mutation::LifeBeginsRelaxed, Release));
    if !broken(Mutation::LifeBeginsWithoutFence) {
        fence(Release); // before everything else of this life: who reads any of it sees the new number after a fence
    }
}

/// Words of the body of an entry.
#[cfg(not(loom))] // models bring their own
pub(crate) fn entry_words(name: &[u8], type_name: &[u8]) -> usize {
    entry::TEXT + super::words::words_for(name.len() + type_name.len())
}

/// Fills an entry that nobody sees yet.
pub(crate) fn write_entry(state: &Word32, words: &[Word64], claimer: Owner, name: &[u8], type_name: &[u8]) {
    words[entry::HASH].store(hash_of(name), Relaxed);
    words[entry::LENGTHS].store(name.len() as u64 | (type_name.len() as u64) << 32, Relaxed);
    super::words::store_bytes(&words[entry::TEXT..], &[name, type_name].concat());
    state.store(State::Busy(claimer).encode(), Relaxed);
}

/// Words of the body of a list of `len` entries.
#[cfg(not(loom))] // models bring their own
pub(crate) fn list_words(len: usize) -> usize {
    list::PAIRS + 2 * len
}

/// Fills a list that nobody sees yet.
pub(crate) fn write_list(words: &[Word64], bucket: u64, lines: &[Line]) {
    words[list::BUCKET].store(bucket, Relaxed);
    words[list::LEN].store(lines.len() as u64, Relaxed);
    for ([hash, at], line) in words[list::PAIRS..].as_chunks::<2>().0.iter().zip(lines) {
        hash.store(line.hash, Relaxed);
        at.store(line.at, Relaxed);
    }
}

/// Puts the list at `new` (0: none) in the place of `old`, which the caller holds if there is one. `false`: another was
/// faster.
#[must_use]
pub(crate) fn replace_list(shelf: &impl Shelf, old: &List, new: u64) -> bool {
    let (word, at) = (shelf.bucket(old.bucket), old.place.map_or(0, |place| place.at));
    // Release: the list and the entries in it are whole. Acquire: what we let go of was theirs before.
    let order = unless(Mutation::ListRelaxed, AcqRel);
    if broken(Mutation::ListByStore) {
        word.store(new, order);
        return true;
    }
    word.compare_exchange(at, new, order, Relaxed).is_ok()
}

/// The object has the name of the entry, which `me` claimed and holds. `false`: somebody took the claim away.
#[must_use]
pub(crate) fn publish(state: &Word32, words: &[Word64], me: Owner, object: Place) -> bool {
    let place = || {
        words[entry::AT].store(object.at, Relaxed);
        words[entry::GENERATION].store(object.generation, Relaxed);
    };
    if !broken(Mutation::PublishedBeforeItsPlace) {
        place();
    }
    // Release: the object and its place; pairs with the Acquire of `Entry::read`.
    let order = unless(Mutation::PublishedRelaxed, AcqRel);
    let set = if broken(Mutation::PublishByStore) {
        state.store(State::Set.encode(), order);
        true
    } else {
        state.compare_exchange(State::Busy(me).encode(), State::Set.encode(), order, Relaxed).is_ok()
    };
    if broken(Mutation::PublishedBeforeItsPlace) {
        place();
    }
    set
}

/// Moves a state that was seen to GONE. `false`: it is no longer that.
pub(crate) fn retract(state: &Word32, seen: State) -> bool {
    if broken(Mutation::RetractByStore) {
        state.store(State::Gone.encode(), Release);
        return true;
    }
    state.compare_exchange(seen.encode(), State::Gone.encode(), AcqRel, Relaxed).is_ok()
}

/// Ways to break this protocol that the models must notice; nothing in a real build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(loom), allow(dead_code, reason = "asked for in real builds, made only in models"))]
enum Mutation {
    /// A list is put into the bucket by a store.
    ListByStore,
    /// A new list releases nothing.
    ListRelaxed,
    /// A look-up acquires nothing from the bucket.
    BucketNotAcquired,
    /// The name counts before its place is there.
    PublishedBeforeItsPlace,
    /// A publish releases nothing.
    PublishedRelaxed,
    /// A look-up acquires nothing from a state.
    StateNotAcquired,
    /// A claimer publishes without a look whether the claim is still its own.
    PublishByStore,
    /// Who takes a claim away does not look whether it is still one.
    RetractByStore,
    /// A look-up does not ask for the bucket's word between generation and contents.
    BucketNotAskedAgain,
    /// A look-up does not look at generations a second time.
    GenerationNotAskedAgain,
    /// A new life's number releases nothing.
    LifeBeginsRelaxed,
    /// A new life's number is not before the rest.
    LifeBeginsWithoutFence,
}

crate::mutation::breaks!(Mutation);

#[cfg(all(test, loom))]
#[path = "tests/loom_names.rs"]
mod loom_names;
