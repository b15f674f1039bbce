//! Claims, plainly: several processes over one table, against a model of intervals. The whole table is compared after each
//! step, decoded here by the layout that its head describes.

use crate::{
    atomic::{Relaxed, Word32, Word64},
    segment::owner::{OWNER_BITS, Owner},
    sync::claims::{At, Claim, Claims, LINE32, LINE64, Left, Mode, Record, Refused, Span, Table, Who},
};
use proptest::prelude::*;
use std::{collections::BTreeSet, convert::Infallible, time::Duration};

const TRY: Option<Duration> = Some(Duration::ZERO);
const ROWS: usize = 64;
const ENTRIES: usize = 7;
const EXCLUSIVE: u32 = 1 << 30;
const BIAS: usize = 3;
const BIASED: u32 = 1 << 31;
/// Claims to read that look around before one of them sets the bias.
const READS: u32 = 64;
const PROCESSES: usize = 3;
const LEN: u32 = 12;

#[derive(Clone, Debug)]
enum Step {
    Take { process: usize, thread: u64, start: u32, len: u32, mode: Mode },
    Release(usize),
    Decide(usize),
    Settle(usize),
    Abandon(usize),
    Repair(usize),
    Die(usize),
    Freeze(usize),
    Bias(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![2 => Just(Mode::Shared), 4 => Just(Mode::Exclusive), 1 => Just(Mode::Undecided)];
    let which = || any::<usize>();
    prop_oneof![
        16 => (0..PROCESSES, 1u64..3, 0..LEN, 1..6u32, mode).prop_map(|(process, thread, start, len, mode)| {
            Step::Take { process, thread, start, len: len.min(LEN - start), mode }
        }),
        5 => which().prop_map(Step::Release),
        1 => which().prop_map(Step::Decide),
        1 => which().prop_map(Step::Settle),
        2 => which().prop_map(Step::Abandon),
        6 => which().prop_map(Step::Repair),
        4 => (0..PROCESSES).prop_map(Step::Die),
        1 => (0..40 * PROCESSES).prop_map(Step::Freeze),
        4 => (0..PROCESSES).prop_map(Step::Bias),
    ]
}

/// A claim that a process of the model holds.
#[derive(Debug)]
struct Held {
    process: usize,
    thread: u64,
    span: (u32, u32),
    exclusive: bool,
    /// Is a mark left by its death?
    decided: bool,
    claim: Claim,
    left: Vec<Left>,
}

impl Held {
    fn elements(&self) -> impl Iterator<Item = u32> {
        self.span.0..self.span.1
    }

    fn excludes(&self, span: (u32, u32), exclusive: bool) -> bool {
        (self.exclusive || exclusive) && self.span.0 < span.1 && span.0 < self.span.1
    }
}

struct Dead<'a>(&'a BTreeSet<u32>);

impl crate::sync::claims::World for Dead<'_> {
    type Lost = Infallible;

    fn is_alive(&self, owner: Owner) -> Result<bool, Infallible> {
        Ok(!self.0.contains(&owner.bits()))
    }

    fn forget(&self, _: At) {}
}

struct World {
    w32: Vec<Word32>,
    w64: Vec<Word64>,
    records: Vec<Record>,
    owners: Vec<Owner>,
    born: u32,
    dead: BTreeSet<u32>,
    // the model
    held: Vec<Held>,
    marked: BTreeSet<u32>,
    frozen: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            w32: (0..LINE32 * (ROWS + 1)).map(|_| Word32::new(0)).collect(),
            w64: (0..LINE64 * ROWS).map(|_| Word64::new(0)).collect(),
            records: (0..PROCESSES).map(|_| Record::new()).collect(),
            owners: Vec::new(),
            born: 0,
            dead: BTreeSet::new(),
            held: Vec::new(),
            marked: BTreeSet::new(),
            frozen: false,
        };
        world.owners = (0..PROCESSES).map(|_| world.new_owner()).collect();
        world
    }

    fn new_owner(&mut self) -> Owner {
        self.born += 1;
        Owner::new(self.born, self.born % 7 + 1).unwrap()
    }

    fn claims(&self, process: usize) -> Claims<'_> {
        let table = Table::new(&self.w32, &self.w64).unwrap();
        Claims { table, record: &self.records[process] }
    }

    fn take(
        &self,
        process: usize,
        thread: u64,
        span: (u32, u32),
        mode: Mode,
    ) -> Result<(Claim, Vec<Left>), Refused<Infallible>> {
        let who = Who { me: self.owners[process], thread };
        let (claims, asked) = (self.claims(process), Span::new(span.0, span.1));
        let on = |announced| claims.take_on(who, asked, mode, announced, &Dead(&self.dead));
        if let Some(claim) = claims.take_free(who, asked, mode, on) {
            return Ok((claim, Vec::new()));
        }
        claims.take(who, asked, mode, &Dead(&self.dead), TRY)
    }

    fn take_checked(&mut self, process: usize, thread: u64, span: (u32, u32), mode: Mode) {
        let exclusive = mode != Mode::Shared;
        let in_the_way: Vec<_> = self.held.iter().filter(|held| held.excludes(span, exclusive)).collect();
        let (own, others): (Vec<&Held>, Vec<&Held>) =
            in_the_way.iter().partition(|held| held.process == process);
        let outcome = self.take(process, thread, span, mode);
        match &outcome {
            Err(Refused::Deadlock) => assert!(own.iter().any(|held| held.thread == thread)),
            Err(Refused::Timeout { owner }) if own.is_empty() => {
                assert!(others.iter().any(|held| self.owners[held.process] == *owner));
            }
            Err(Refused::Timeout { owner }) => {
                assert_eq!(*owner, self.owners[process], "its own claims come first");
                assert!(own.iter().any(|held| held.thread != thread));
            }
            Err(Refused::Frozen) => assert!(self.frozen && exclusive && in_the_way.is_empty()),
            Err(other) => panic!("{other:?}"),
            Ok((_, left)) => {
                assert!(in_the_way.is_empty(), "granted against {in_the_way:?}");
                assert!(!(self.frozen && exclusive), "granted after a freeze");
                let told: BTreeSet<u32> = left
                    .iter()
                    .map(|mark| mark.span.common(Span::new(span.0, span.1)))
                    .flat_map(|common| common.start()..common.end())
                    .collect();
                let expected: BTreeSet<u32> = self.marked.range(span.0..span.1).copied().collect();
                assert_eq!(told, expected, "what is told of the dead");
            }
        }
        if let Ok((claim, left)) = outcome {
            let decided = mode == Mode::Exclusive;
            self.held.push(Held { process, thread, span, exclusive, decided, claim, left });
        }
    }

    /// So many free entries for that process. They are far behind the elements of the model.
    fn make_room(&self, process: usize, entries: usize) {
        let far = |i: usize| 1_000 + i as u32;
        let made: Vec<_> = (0..entries)
            .map(|i| self.take(process, 9, (far(i), far(i) + 1), Mode::Shared).expect("room").0)
            .collect();
        made.iter().for_each(|claim| self.claims(process).release(claim));
    }

    fn run(&mut self, step: &Step) {
        let index = |which: &usize, len: usize| which.checked_rem(len);
        match step {
            Step::Take { process, thread, start, len, mode } => {
                self.take_checked(*process, *thread, (*start, start + len), *mode);
            }
            Step::Release(which) => {
                let Some(i) = index(which, self.held.len()) else { return };
                let held = self.held.swap_remove(i);
                self.claims(held.process).release(&held.claim);
            }
            Step::Decide(which) | Step::Settle(which) => {
                let Some(i) = index(which, self.held.len()) else { return };
                if !self.held[i].exclusive {
                    return;
                }
                let (decides, held) = (matches!(step, Step::Decide(_)), &self.held[i]);
                let claims = self.claims(held.process);
                if decides {
                    claims.decide(&held.claim)
                } else {
                    claims.settle(&held.claim)
                }
                self.held[i].decided = decides;
            }
            Step::Abandon(which) => {
                let Some(i) = index(which, self.held.len()) else { return };
                if !self.held[i].exclusive {
                    return;
                }
                let held = self.held.swap_remove(i);
                self.claims(held.process).abandon(&held.claim);
                self.marked.extend(held.elements().filter(|_| held.decided));
            }
            Step::Repair(which) => {
                let Some(i) = index(which, self.held.len()) else { return };
                let left = std::mem::take(&mut self.held[i].left);
                let held = &self.held[i];
                if !held.exclusive || left.is_empty() {
                    return; // for reading, or all that it was told of is mended
                }
                self.make_room(held.process, left.len());
                // Another holder that mended the middle of a mark moved what is behind it: that stays, and is told again.
                let own = Span::new(held.span.0, held.span.1);
                let moved: BTreeSet<u32> = left
                    .iter()
                    .flat_map(|mark| {
                        let (row, entry) = (mark.at.index() / ENTRIES, mark.at.index() % ENTRIES);
                        let line = &self.w32[LINE32 * (row + 1)..][..LINE32];
                        let (word, held) =
                            (line[1 + entry].load(Relaxed), line[1 + ENTRIES + entry].load(Relaxed));
                        let lives = self.owners.iter().any(|live| live.bits() == word & OWNER_BITS);
                        let now = match word & EXCLUSIVE != 0 && held != 0 && !lives {
                            true => Span::from_bits(self.w64[LINE64 * row + entry].load(Relaxed)),
                            false => Span::EMPTY, // it is no mark any more
                        };
                        let told = mark.span.common(own);
                        (told.start()..told.end()).filter(move |&i| !(now.start()..now.end()).contains(&i))
                    })
                    .collect();
                self.claims(held.process).repair(&held.claim, held.thread, &left, &Dead(&self.dead));
                let mended = held.span.0..held.span.1;
                self.marked.retain(|element| !mended.contains(element) || moved.contains(element));
            }
            Step::Die(process) => {
                let (died, live): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.held).into_iter().partition(|held| held.process == *process);
                self.held = live;
                for held in died.iter().filter(|held| held.exclusive && held.decided) {
                    self.marked.extend(held.elements());
                }
                self.dead.insert(self.owners[*process].bits());
                self.owners[*process] = self.new_owner();
                self.records[*process] = Record::new();
            }
            Step::Freeze(process) => {
                if *process < PROCESSES
                    && let Ok((claim, _)) = self.take(*process, 1, (0, LEN), Mode::Shared)
                {
                    self.claims(*process).freeze();
                    self.claims(*process).release(&claim);
                    self.frozen = true;
                }
            }
            Step::Bias(process) => self.claims(*process).set_bias(self.owners[*process]),
        }
    }

    fn is_biased(&self) -> bool {
        self.w32[BIAS].load(Relaxed) & BIASED != 0
    }

    /// The table says what the model says.
    fn compare(&self) {
        let mut claims = Vec::new();
        let mut marked = BTreeSet::new();
        for row in 0..ROWS {
            let line = &self.w32[LINE32 * (row + 1)..][..LINE32];
            for entry in 0..ENTRIES {
                let word = line[1 + entry].load(Relaxed);
                let (held, owner) = (line[1 + ENTRIES + entry].load(Relaxed), word & OWNER_BITS);
                let span = Span::from_bits(self.w64[LINE64 * row + entry].load(Relaxed));
                if word == 0 {
                    continue;
                }
                let exclusive = word & EXCLUSIVE != 0;
                match self.owners.iter().position(|live| live.bits() == owner) {
                    Some(process) => {
                        let marks = exclusive && held != 0;
                        claims.push((process, (span.start(), span.end()), exclusive, marks));
                    }
                    None if exclusive && held != 0 => marked.extend(span.start()..span.end()),
                    None => {}
                }
            }
        }
        let mut expected: Vec<_> =
            self.held.iter().map(|held| (held.process, held.span, held.exclusive, held.decided)).collect();
        claims.sort_unstable();
        expected.sort_unstable();
        assert_eq!(claims, expected, "claims that are held");
        assert_eq!(marked, self.marked, "elements that are marked");
        assert_eq!(self.claims(0).table.is_frozen(), self.frozen);
        let writers = self.held.iter().any(|held| held.exclusive);
        assert!(!self.is_biased() || !writers && self.marked.is_empty(), "readers are let in beside these");
    }
}

#[test]
fn nothing_is_left_of_a_mark_that_was_mended() {
    // Of a panic or a death; mended by its own process, or by another.
    for dies in [false, true] {
        for mender in [0, 1] {
            let mut world = World::new();
            world.make_room(1, 1); // it needs no row later, for which it would look into those of the dead
            world.take_checked(0, 1, (2, 5), Mode::Exclusive);
            world.run(&if dies { Step::Die(0) } else { Step::Abandon(0) });
            world.take_checked(mender, 2, (2, 5), Mode::Exclusive);
            world.run(&Step::Repair(0));
            world.run(&Step::Release(0));
            let is_clear = |world: &World| {
                let mut entries = world.w32[LINE32..].chunks(LINE32).flat_map(|line| &line[1..=ENTRIES]);
                entries.all(|word| word.load(Relaxed) == 0)
            };
            if dies || mender == 0 {
                assert!(is_clear(&world), "dies: {dies}, mender: {mender}");
            }
            // Its process sees to a mark of its own that another has mended: at its next claim that has to look around.
            for process in [1, 0] {
                world.take_checked(process, 3, (7, 8), Mode::Exclusive);
                world.run(&Step::Release(0));
            }
            assert!(is_clear(&world), "in the end; dies: {dies}, mender: {mender}");
        }
    }
}

#[test]
fn rows_of_the_dead_are_used_again() {
    let mut world = World::new();
    for mode in [Mode::Shared, Mode::Undecided] {
        for element in 0..2 * ROWS as u32 {
            world.take_checked(0, 1, (element, element + 1), mode);
            world.run(&Step::Die(0));
        }
    }
}

#[test]
fn readers_who_look_around_set_a_bias_and_a_writer_ends_it() {
    let mut world = World::new();
    let reads = |world: &World, process| {
        let (claim, _) = world.take(process, 1, (0, 2), Mode::Shared).unwrap();
        world.claims(process).release(&claim);
    };
    world.take_checked(1, 1, (0, LEN), Mode::Shared);
    for looks in 0..READS {
        assert!(!world.is_biased(), "after {looks}");
        reads(&world, 0);
    }
    assert!(world.is_biased());
    reads(&world, 0);
    world.run(&Step::Release(0));
    world.take_checked(1, 1, (2, 3), Mode::Exclusive);
    assert!(!world.is_biased());
    (0..3 * READS).for_each(|_| reads(&world, 0));
    assert!(!world.is_biased(), "somebody writes");
    // A mark stays in the way, until it is mended.
    world.run(&Step::Die(1));
    (0..3 * READS).for_each(|_| reads(&world, 0));
    assert!(!world.is_biased(), "there is a mark");
    world.take_checked(0, 1, (2, 3), Mode::Exclusive);
    world.run(&Step::Repair(0));
    world.run(&Step::Release(0));
    world.run(&Step::Bias(0));
    assert!(world.is_biased());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

    #[test]
    fn claims_are_intervals(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.compare();
        }
    }
}
