//! The directory: objects by name, in every segment. The protocol is in `names`; this is where its words lie, who holds
//! what, and what happens to claims.
//!
//! Lists and entries are blocks like those of objects, so claiming, holding and freeing them, and what becomes of them
//! when a process dies, is what `extents` and `keep` say: an entry that nobody lists and a list that no bucket leads to
//! go with their last holder. A SET entry keeps its object.
//!
//! **Once, however many ask.** Who wants to create an object first claims its name: an entry BUSY(me) in the list. The
//! others then wait for that entry (a bounded sleep on its state word), and open what it names. If the claimer dies, the
//! next takes the claim away; if it lives and is not through after [`PATIENCE`], too: so a stopped claimer delays who
//! wants to create the same name, and keeps nobody out. It finds its claim gone when it goes on, and takes the object that
//! is there by then, or publishes its own, for which it waits no more: who has made an object is never behind somebody who
//! has not. Look-up takes no lock, sees no claims, and waits for nobody.
//!
//! Killed here? See `names`. What a dead process listed as BUSY is moved to GONE by the next who wants that name, or by
//! who clears the dead's slot (`keep`); lists with GONE entries in them are written anew by the next who changes that
//! list, and by `verify`.

use super::{
    Kind, Object, Segment, Stamp,
    extents::{Block, Extents},
    keep::Place,
    names::{self, BUCKETS, Card, Line, List, MOST_LISTED, Overwritten, ROUNDS, Shelf, State, entry, list},
    owner::Owner,
    record,
};
use crate::{
    atomic::{self, Acquire, Relaxed, Rule, Word64},
    error::{CreateError, HandleError, Resource},
    os::futex,
};
use std::{sync::Arc, time::Duration};

pub(crate) use super::names::{Entry, LONGEST};

/// How long who wants to create a name waits for a living process that is at it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Sleeps on the state of a claim: from, to.
const SLEEPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(64)];
/// What never comes to rest in [`ROUNDS`] looks: two honest processes change a list once each time they look.
const ENDLESS: Overwritten = Overwritten("a list of names that changes without end");

impl From<Overwritten> for CreateError {
    fn from(Overwritten(what): Overwritten) -> Self {
        CreateError::Damaged(what.into())
    }
}

/// What a held block of the directory itself cannot be.
fn overwritten(e: HandleError) -> CreateError {
    match e {
        HandleError::Create(e) => e,
        _ => CreateError::Damaged("a block of the directory".into()),
    }
}

impl Shelf for Extents<'_> {
    fn bucket(&self, index: u64) -> &Word64 {
        self.bytes.w64(self.geometry.bucket_at(index % BUCKETS))
    }

    fn card(&self, at: u64) -> Option<Card<'_>> {
        let block = self.locate(at)?;
        let word = |word: u64| self.bytes.w64(block.at + word * 8);
        let words = word(record::WORDS).load(Relaxed);
        let (n32, n64) = (words & u64::from(u32::MAX), words >> 32);
        let body = self.geometry.record_bytes();
        let body64 = body + (n32 * 4).next_multiple_of(8);
        (n32 > 0 && body64 + n64 * 8 <= block.bytes).then(|| Card {
            generation: word(record::GENERATION),
            state: &self.bytes.words32(block.at + body, 1)[0],
            words: self.bytes.words64(block.at + body64, n64 as usize),
        })
    }
}

/// Questions of `keep`.
impl Extents<'_> {
    /// Does its bucket's list name the entry in that block?
    pub(super) fn is_listed(&self, block: &Block) -> Result<bool, Overwritten> {
        let hash = self.card(block.at).and_then(|card| Some(card.words.get(entry::HASH)?.load(Relaxed)));
        let Some(hash) = hash else { return Ok(false) };
        let list = List::read(self, names::bucket_of(hash), |other| other == hash)?;
        Ok(list.lines.iter().any(|line| line.at == block.at))
    }

    /// Does its bucket's word lead to the list in that block?
    pub(super) fn is_list(&self, block: &Block) -> bool {
        let bucket = self.card(block.at).and_then(|card| Some(card.words.get(list::BUCKET)?.load(Relaxed)));
        bucket.is_some_and(|bucket| bucket < BUCKETS && self.bucket(bucket).load(Acquire) == block.at)
    }

    /// Does the entry at `at` name that object?
    pub(super) fn names(&self, at: u64, object: Place) -> bool {
        let Some(block) = self.locate(at) else { return false };
        let kind = self.bytes.w64(block.at + record::KIND * 8).load(Relaxed);
        record::kind_and_parts(kind).0 == Kind::Name as u64
            && self.card(at).is_some_and(|card| {
                let word = |i: usize| card.words.get(i).map(|word| word.load(Relaxed));
                // Acquire: the place is the one of this state.
                card.state.load(Acquire) == State::Set.encode()
                    && word(entry::AT) == Some(object.at)
                    && word(entry::GENERATION) == Some(object.generation)
            })
    }

    /// As [`Self::names`], whichever entry.
    pub(super) fn is_named_anywhere(&self, object: Place) -> Result<bool, Overwritten> {
        let mut found = false;
        self.each_entry(|entry| found |= entry.state == State::Set && entry.object == object)?;
        Ok(found)
    }

    /// Every entry, each as it is when it comes up.
    fn each_entry(&self, mut f: impl FnMut(Entry)) -> Result<(), Overwritten> {
        for bucket in 0..BUCKETS {
            for entry in self.entries(bucket)? {
                f(entry);
            }
        }
        Ok(())
    }

    /// The entries of a bucket at one moment (their states may be later ones).
    fn entries(&self, bucket: u64) -> Result<Vec<Entry>, Overwritten> {
        for _ in 0..ROUNDS {
            let list = List::read(self, bucket, |_| true)?;
            let entries: Option<Vec<_>> =
                list.lines.iter().map(|line| Entry::read(self, &list, line.at)).collect::<Result<_, _>>()?;
            if let Some(entries) = entries {
                return Ok(entries);
            }
        }
        Err(ENDLESS)
    }

    /// Moves an entry that a dead process claimed to GONE.
    pub(super) fn retract_dead(&self, block: &Block, dead: impl Fn(Owner) -> bool) {
        let kind = self.bytes.w64(block.at + record::KIND * 8).load(Relaxed);
        if record::kind_and_parts(kind).0 != Kind::Name as u64 || atomic::broken(Rule::RetractTheDead) {
            return;
        }
        let Some(card) = self.card(block.at) else { return };
        let state = State::decode(card.state.load(Acquire));
        if let Some(State::Busy(owner)) = state
            && dead(owner)
        {
            // Not held: but no life of this block says BUSY(dead) later than now.
            names::retract(card.state, State::Busy(owner));
        }
    }
}

/// The right to give a name. Dropped without [`Claim::publish`], the name is free again.
#[derive(Debug)]
pub(crate) struct Claim {
    entry: Arc<Object>,
    me: Owner,
    hash: u64,
    ended: bool,
}

impl Claim {
    /// The object, which this process holds, has the name. `false`: the claim was taken away.
    #[must_use]
    pub(crate) fn publish(mut self, object: &Object) -> bool {
        let segment = self.entry.segment();
        segment.keep(self.me).note_name(object.place(), self.entry.place());
        let state = self.entry.first32();
        let set = names::publish(state, self.entry.w64(), self.me, object.place());
        futex::wake(state, u32::MAX);
        self.ended = set;
        set
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // In a child that was forked within a claim: it is the parent's.
        if self.ended || self.entry.me_now() != Some(self.me) {
            return;
        }
        let state = self.entry.first32();
        names::retract(state, State::Busy(self.me));
        futex::wake(state, u32::MAX);
        // If there is no memory for the list without it, a GONE entry stays in it, which means nothing.
        let _ = self.entry.segment().rewrite_list(names::bucket_of(self.hash), None);
    }
}

/// What [`Segment::find_or_claim`] found.
#[derive(Debug)]
pub(crate) enum FoundOrClaimed {
    Found(Entry),
    Claimed(Claim),
}

impl Segment {
    /// What has that name. Takes no lock, waits for nobody.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Entry>, CreateError> {
        Ok(names::find(&self.extents(), name.as_bytes())?.filter(|entry| entry.state == State::Set))
    }

    /// All names, each as it is when it comes up.
    pub(crate) fn names(&self) -> Result<Vec<Entry>, CreateError> {
        let mut names = Vec::new();
        self.extents().each_entry(|entry| {
            if entry.state == State::Set {
                names.push(entry);
            }
        })?;
        Ok(names)
    }

    /// What has that name, or the right to give it to an object of that type. Waits for whoever is just giving it, unless
    /// we `have` an object already.
    pub(crate) fn find_or_claim(
        self: &Arc<Self>,
        name: &str,
        type_name: &str,
        have: bool,
    ) -> Result<FoundOrClaimed, CreateError> {
        let (mut waited, mut sleep) = (Duration::ZERO, SLEEPS[0]);
        for _ in 0..ROUNDS {
            let Some(found) = names::find(&self.extents(), name.as_bytes())? else {
                match self.claim_name(name, type_name)? {
                    Some(claim) => return Ok(FoundOrClaimed::Claimed(claim)),
                    None => continue,
                }
            };
            let State::Busy(owner) = found.state else { return Ok(FoundOrClaimed::Found(found)) };
            let lives = || self.is_alive(owner).map_err(|_| CreateError::DescriptorsLost);
            if !have && waited < PATIENCE && (atomic::broken(Rule::AskBeforeWaiting) || lives()?) {
                let began = futex::now();
                if let Some(card) = self.extents().card(found.place.at) {
                    futex::wait(card.state, found.state.encode(), sleep);
                }
                (waited, sleep) = (waited + began.elapsed(), (sleep * 2).min(SLEEPS[1]));
                continue;
            }
            self.retract(&found)?;
        }
        Err(ENDLESS.into())
    }

    /// Moves an entry to GONE, if it still says what was seen.
    fn retract(self: &Arc<Self>, seen: &Entry) -> Result<bool, CreateError> {
        match self.open(seen.place, Kind::Name, (Stamp::NONE, "nothing")) {
            Ok(held) => {
                let retracted = names::retract(held.first32(), seen.state);
                futex::wake(held.first32(), u32::MAX);
                Ok(retracted)
            }
            Err(HandleError::Gone) => Ok(false),
            Err(e) => Err(overwritten(e)),
        }
    }

    /// Takes the name away from its object; `None`: there is no such name. The object goes with its last holder.
    pub(crate) fn remove_name(self: &Arc<Self>, name: &str) -> Result<Option<Entry>, CreateError> {
        self.me()?;
        for _ in 0..ROUNDS {
            let Some(found) = self.find(name)? else { return Ok(None) };
            if self.retract(&found)? {
                self.unnamed(found.object);
                // Without memory for the new list the GONE entry stays in the old one, which means nothing.
                match self.rewrite_list(names::bucket_of(found.hash), None) {
                    Ok(_) | Err(CreateError::Full { .. }) => {}
                    Err(e) => return Err(e),
                }
                return Ok(Some(found));
            }
        }
        Err(ENDLESS.into())
    }

    /// `None`: somebody else has or wants the name.
    fn claim_name(self: &Arc<Self>, name: &str, type_name: &str) -> Result<Option<Claim>, CreateError> {
        let (name, me) = (name.as_bytes(), self.me()?);
        let type_name = &type_name.as_bytes()[..type_name.floor_char_boundary(LONGEST)];
        let words = names::entry_words(name, type_name);
        let entry = self.create(Kind::Name, Stamp::NONE, 1, words, |object| {
            names::write_entry(object.first32(), object.w64(), me, name, type_name);
        })?;
        let hash = names::hash_of(name);
        let taken = self.rewrite_list(names::bucket_of(hash), Some((hash, name, entry.place().at)))?;
        Ok((!taken).then_some(Claim { entry, me, hash, ended: false }))
    }

    /// Writes the list of a bucket anew: with an entry more, unless its name is there (`true`); without those that are
    /// GONE (of all entries, or where one is added, of those of its hash).
    fn rewrite_list(
        self: &Arc<Self>,
        bucket: u64,
        add: Option<(u64, &[u8], u64)>,
    ) -> Result<bool, CreateError> {
        'again: for _ in 0..ROUNDS {
            let extents = self.extents();
            let list = List::read(&extents, bucket, |_| true)?;
            // Held, so that its block does not become another list under our compare-exchange.
            let _held = match list.place.map(|place| self.open(place, Kind::NameList, (Stamp::NONE, "names")))
            {
                None => None,
                Some(Ok(held)) => Some(held),
                Some(Err(HandleError::Gone)) => continue,
                Some(Err(e)) => return Err(overwritten(e)),
            };
            let (mut lines, mut gone) = (Vec::with_capacity(list.lines.len() + 1), Vec::new());
            for &line in &list.lines {
                if add.is_none_or(|(hash, ..)| hash == line.hash) {
                    match Entry::read(&extents, &list, line.at)? {
                        None => continue 'again,
                        Some(entry) if entry.state == State::Gone => {
                            gone.push(entry.place);
                            continue;
                        }
                        Some(entry) if add.is_some_and(|(_, name, _)| name == entry.name) => return Ok(true),
                        Some(_) => {}
                    }
                }
                lines.push(line);
            }
            match add {
                Some((hash, _, at)) => lines.push(Line { hash, at }),
                None if gone.is_empty() => return Ok(false),
                None => {}
            }
            if lines.len() > MOST_LISTED {
                return Err(CreateError::Full { bytes: 16, what: Resource::Segment });
            }
            if !list.is_current(&extents) {
                continue;
            }
            let new = match lines.is_empty() {
                true => None,
                false => Some(self.create(
                    Kind::NameList,
                    Stamp::NONE,
                    1,
                    names::list_words(lines.len()),
                    |object| names::write_list(object.w64(), bucket, &lines),
                )?),
            };
            let at = new.as_ref().map_or(0, |new| new.place().at);
            if names::replace_list(&extents, &list, at) {
                gone.into_iter().for_each(|place| self.unnamed(place));
                return Ok(false);
            }
        }
        Err(ENDLESS.into())
    }

    /// Drops listed entries that are GONE. `Err`: no memory for the new lists, or the directory was overwritten.
    pub(super) fn tidy_names(self: &Arc<Self>) -> Result<(), CreateError> {
        for bucket in 0..BUCKETS {
            if self.extents().bucket(bucket).load(Relaxed) != 0 {
                self.rewrite_list(bucket, None)?;
            }
        }
        Ok(())
    }

    /// Is every bucket a list of entries that know it, each name there once, and each SET one the name of an object? How
    /// many names there are, and how many entries on their way.
    pub(super) fn check_names(
        &self,
        lives: impl Fn(Owner) -> bool,
    ) -> Result<(u64, u64), (&'static str, u64)> {
        let extents = self.extents();
        let (mut set, mut busy) = (0, 0);
        for bucket in 0..BUCKETS {
            let at = self.geometry().bucket_at(bucket);
            let entries = extents.entries(bucket).map_err(|Overwritten(what)| (what, at))?;
            let mut seen = std::collections::HashSet::new();
            for entry in &entries {
                let at = entry.place.at;
                let kind =
                    |at: u64| record::kind_and_parts(self.bytes().w64(at + record::KIND * 8).load(Relaxed)).0;
                if entry.hash != names::hash_of(&entry.name)
                    || names::bucket_of(entry.hash) != bucket
                    || kind(at) != Kind::Name as u64
                    || std::str::from_utf8(&entry.name).is_err()
                {
                    return Err(("a name in another's place", at));
                }
                if !self.is_there(entry.place) {
                    return Err(("a list that names no entry", at));
                }
                match entry.state {
                    State::Set if !self.is_there(entry.object) => {
                        return Err(("a name that leads to no object", at));
                    }
                    State::Set => set += 1,
                    State::Busy(owner) if !lives(owner) => {
                        return Err(("a name claimed by a dead process", at));
                    }
                    State::Busy(_) | State::Gone => busy += 1,
                }
                if entry.state != State::Gone && !seen.insert(&entry.name) {
                    return Err(("a name that is there twice", at));
                }
            }
        }
        Ok((set, busy))
    }
}
