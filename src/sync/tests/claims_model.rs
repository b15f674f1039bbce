//! Claims in the model checker: shared, exclusive and a freeze against each other, one killed before every shared write.

use super::model::{
    ALIVE, Caught, Kernel, LONG, check, check_every_kill, check_every_kill_within, check_within, must_fail,
    owner, spare,
};
use crate::{
    atomic::{Relaxed, Word32, Word64},
    os::futex,
    segment::owner::Owner,
    sync::{
        claims::{At, Claim, Claims, LINE32, LINE64, Left, Mode, Record, Refused, Span, Table, Who},
        mutation::Mutation,
        word::Peers as _,
    },
};
use loom::{cell::UnsafeCell, thread};
use std::{cell::Cell, convert::Infallible, rc::Rc, time::Duration};

const PROCESSES: usize = 2;
const TRY: Option<Duration> = Some(Duration::ZERO);

/// An array of one element, and who claims it.
#[derive(Debug)]
struct World {
    kernel: Kernel,
    w32: Vec<Word32>,
    w64: Vec<Word64>,
    records: [Record; PROCESSES + 1],
    /// loom fails if a writer is here beside anybody who is not ordered by the claims.
    element: UnsafeCell<u32>,
}

struct Around<'a>(&'a Kernel);

impl crate::sync::claims::World for Around<'_> {
    type Lost = Infallible;

    fn is_alive(&self, owner: Owner) -> Result<bool, Infallible> {
        super::model::Single(self.0).is_alive(owner)
    }

    fn forget(&self, _: At) {}
}

impl World {
    /// Everybody has a row, of his own number.
    fn new() -> Rc<Self> {
        Self::with_rows(0..=PROCESSES)
    }

    fn with_rows(processes: impl IntoIterator<Item = usize>) -> Rc<Self> {
        let world = Rc::new(Self {
            kernel: Kernel::new(ALIVE),
            w32: (0..LINE32 * (PROCESSES + 2)).map(|_| Word32::new(0)).collect(),
            w64: (0..LINE64 * (PROCESSES + 1)).map(|_| Word64::new(0)).collect(),
            records: std::array::from_fn(|_| Record::new()),
            element: UnsafeCell::new(0),
        });
        for id in processes {
            let claim = world.take(id, Mode::Shared, TRY).expect("free").0;
            world.claims(id).release(&claim);
        }
        world
    }

    fn claims(&self, id: usize) -> Claims<'_> {
        let table = Table::new(&self.w32, &self.w64).expect("words for it");
        Claims { table, record: &self.records[id] }
    }

    fn take(
        &self,
        id: usize,
        mode: Mode,
        timeout: Option<Duration>,
    ) -> Result<(Claim, bool), Refused<Infallible>> {
        let (claim, left) = self.take_at(id, (0, 1), mode, timeout)?;
        Ok((claim, !left.is_empty()))
    }

    /// As an array's hold does it.
    fn take_at(
        &self,
        id: usize,
        (start, end): (u32, u32),
        mode: Mode,
        timeout: Option<Duration>,
    ) -> Result<(Claim, Vec<Left>), Refused<Infallible>> {
        let (claims, who, span) = (self.claims(id), Who { me: owner(id), thread: 1 }, Span::new(start, end));
        let on = |announced| claims.take_on(who, span, mode, announced, &Around(&self.kernel));
        match claims.take_free(who, span, mode, on) {
            Some(claim) => Ok((claim, Vec::new())),
            None => claims.take(who, span, mode, &Around(&self.kernel), timeout),
        }
    }

    /// Process `id` writes, or reads; a mark that it finds it mends.
    fn work(&self, id: usize, mode: Mode, timeout: Option<Duration>) -> Result<bool, Refused<Infallible>> {
        let (claim, marked) = self.take(id, mode, timeout)?;
        match mode {
            Mode::Shared => {
                self.element.with(|_| ());
            }
            _ => {
                assert!(!self.claims(id).table.is_frozen(), "granted after a freeze");
                self.element.with_mut(|_| ());
            }
        }
        self.claims(id).release(&claim);
        Ok(marked)
    }

    fn freeze(&self, id: usize) {
        let Ok((claim, _)) = self.take(id, Mode::Shared, None) else { return };
        self.claims(id).freeze();
        self.claims(id).release(&claim);
        self.element.with(|_| ()); // nobody writes any more
    }
}

/// After a death, time passes for those who sleep.
fn time_outs(world: &World) {
    world.w32.iter().for_each(|word| futex::time_passes(word, LONG));
}

fn spawn(
    world: &Rc<World>,
    id: usize,
    kill: Option<usize>,
    body: impl FnOnce(&World) + 'static,
) -> thread::JoinHandle<bool> {
    let world = world.clone();
    thread::spawn(move || world.kernel.run(id, kill, || body(&world), || time_outs(&world)))
}

/// Two processes claim the element, each so often; the first may be killed.
fn two(modes: [Mode; 2], kill: Option<usize>, killed: &dyn Fn()) {
    let world = World::new();
    let processes = [1, 0].map(|id| {
        spawn(&world, id, kill.filter(|_| id == 0), move |world| {
            world.work(id, modes[id], None).expect("it waits, and gets it");
        })
    });
    let ends = processes.map(|process| process.join().unwrap());
    if ends[1] {
        killed();
    }
    spare();
    let marked = world.work(PROCESSES, Mode::Exclusive, TRY).expect("nobody has it who lives");
    assert!(!marked || ends[1] && modes[0] == Mode::Exclusive, "a mark that nobody left");
}

fn exclusive_against_exclusive() {
    check("exclusive against exclusive", || two([Mode::Exclusive; 2], None, &|| ()));
}

fn exclusive_against_shared() {
    check("exclusive against shared", || two([Mode::Exclusive, Mode::Shared], None, &|| ()));
}

/// One at home, the other not. Each asks once: between a tag and its announcement others can but spin.
fn threads_of_one_process() {
    check("threads of one process", || {
        let world = World::new();
        let threads = [2, 1].map(|thread| {
            spawn(&world, 0, None, move |world| {
                let (claims, who) = (world.claims(0), Who { me: owner(0), thread });
                let ask = |announced| {
                    claims.take_on(who, Span::new(0, 1), Mode::Exclusive, announced, &Around(&world.kernel))
                };
                if let Some(claim) = claims.take_free(who, Span::new(0, 1), Mode::Exclusive, ask) {
                    world.element.with_mut(|_| ());
                    claims.release(&claim);
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// A freeze, of which the process may be killed, against a writer.
fn freeze_and_write(kill: Option<usize>, killed: &dyn Fn()) {
    let world = World::new();
    let freezer = spawn(&world, 0, kill, |world| world.freeze(0));
    let writer = spawn(&world, 1, None, |world| {
        let done = world.work(1, Mode::Exclusive, None);
        assert!(matches!(done, Ok(false) | Err(Refused::Frozen)), "{done:?}");
    });
    let was_killed = freezer.join().unwrap();
    writer.join().unwrap();
    if was_killed {
        killed();
    }
    spare();
    let frozen = world.claims(PROCESSES).table.is_frozen();
    assert!(frozen || was_killed);
    let after = world.work(PROCESSES, Mode::Exclusive, TRY);
    assert_eq!(after, if frozen { Err(Refused::Frozen) } else { Ok(false) });
    world.element.with(|_| ());
}

/// A thread writes; another of its process finds a word in shared memory that says that the array is frozen.
fn a_freeze_that_is_not_true() {
    check("a freeze that is not true", || {
        let world = World::new();
        let threads = [
            spawn(&world, 0, None, |world| {
                if let Ok((claim, _)) = world.take(0, Mode::Exclusive, TRY) {
                    world.element.with_mut(|_| ());
                    world.claims(0).release(&claim);
                }
            }),
            spawn(&world, 0, None, |world| {
                world.w32[0].store(1, Relaxed);
                if world.claims(0).is_frozen_here() {
                    world.element.with(|_| ());
                }
            }),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn a_freeze_against_a_writer() {
    check("freeze against exclusive", || freeze_and_write(None, &|| ()));
}

/// A dead reader's row, between one that meets it in its way and a newcomer that needs a row. `victim` may be killed.
fn a_row_changes_hands(victim: usize, kill: Option<usize>, killed: &dyn Fn()) {
    let [meets, newcomer, dead] = [0, 1, 2];
    let world = World::with_rows([meets, dead]);
    world.take(dead, Mode::Shared, TRY).expect("free");
    world.kernel.ends(dead);
    let processes = [(meets, Mode::Exclusive), (newcomer, Mode::Shared)].map(|(id, mode)| {
        spawn(&world, id, kill.filter(|_| id == victim), move |world| {
            world.work(id, mode, None).expect("it waits, and gets it");
        })
    });
    let ends = processes.map(|process| process.join().unwrap());
    if ends[victim] {
        killed();
    }
    spare();
    let marked = world.work(1 - victim, Mode::Exclusive, TRY).expect("nobody has it who lives");
    assert!(!marked || ends[meets], "a mark that nobody left");
}

fn a_dead_readers_row() {
    // The mutation shows at 2; at 3 these are 170 thousand executions, and as many per kill point.
    check_within("a dead reader's row", Some(2), || a_row_changes_hands(0, None, &|| ()));
}

/// A dead process has marked 0..3. One that has 1..2 mends it, and may be killed; another looks at 2..3. `rows` is the order
/// of the dead one's, the mender's and the looker's in the table, in which they are looked at.
fn mending_the_middle(rows: [usize; 3], mode: Mode, kill: Option<usize>, killed: &dyn Fn()) {
    let world = World::new();
    let [dead, mender, looker] = rows;
    let take =
        |world: &World, id, span, mode| world.take_at(id, span, mode, TRY).expect("nobody has it who lives");
    take(&world, dead, (0, 3), Mode::Exclusive);
    world.kernel.ends(dead);
    let (middle, left) = take(&world, mender, (1, 2), Mode::Exclusive);
    assert_eq!(left.len(), 1);
    let ends = [
        spawn(&world, looker, None, move |world| {
            let (claim, left) = take(world, looker, (2, 3), mode);
            assert!(!left.is_empty(), "granted, and not told of the dead");
            world.claims(looker).release(&claim);
        }),
        spawn(&world, mender, kill, move |world| {
            world.claims(mender).repair(&middle, 1, &left, &Around(&world.kernel));
            world.claims(mender).release(&middle);
        }),
    ];
    let [_, was_killed] = ends.map(|process| process.join().unwrap());
    if was_killed {
        killed();
    }
    spare();
    for (part, marked) in [((0, 1), true), ((1, 2), was_killed), ((2, 3), true)] {
        let (claim, left) = take(&world, looker, part, Mode::Exclusive);
        assert!(was_killed && part == (1, 2) || left.is_empty() != marked, "{part:?}: {left:?}");
        world.claims(looker).release(&claim);
    }
}

/// What is behind it moves to an entry that is looked at before the mark, and behind it.
const MOVES_FORWARD: [usize; 3] = [1, 0, 2];
const MOVES_BACK: [usize; 3] = [0, 1, 2];

fn a_look_while_the_middle_is_mended(rows: [usize; 3], mode: Mode) {
    check("a look while the middle of a mark is mended", move || {
        mending_the_middle(rows, mode, None, &|| ());
    });
}

/// Process 0 has left a mark on 0..3 at home, which process 1 was told of and is about to cut 2..3 from. Meanwhile process 2
/// mends the rest, so that the entry is free, and process 0 claims 0..3 with it: what is cut off is a claim's.
fn a_cut_into_a_claim() {
    check("a cut into a claim", || {
        let world = World::new();
        let get = |world: &World, id, span| world.take_at(id, span, Mode::Exclusive, TRY).expect("free");
        let (claim, _) = get(&world, 0, (0, 3));
        world.claims(0).abandon(&claim);
        get(&world, 0, (8, 9)); // its last entry: so that it looks for entries that are mended
        let (end, left) = get(&world, 1, (2, 3));
        assert_eq!(left.len(), 1);
        let cutter = spawn(&world, 1, None, move |world| {
            world.claims(1).repair(&end, 1, &left, &Around(&world.kernel));
            world.claims(1).release(&end);
        });
        let other = spawn(&world, 0, None, move |world| {
            for part in [(1, 2), (0, 1)] {
                let (claim, left) = get(world, 2, part);
                world.claims(2).repair(&claim, 1, &left, &Around(&world.kernel));
                world.claims(2).release(&claim);
            }
            if world.take_at(0, (0, 3), Mode::Exclusive, TRY).is_ok() {
                for element in 0..3 {
                    let second = world.take_at(2, (element, element + 1), Mode::Exclusive, TRY);
                    assert!(second.is_err(), "two have element {element}");
                }
            }
        });
        cutter.join().unwrap();
        other.join().unwrap();
    });
}

/// Process 0 reads, and sets the bias before it, or has set it already; process 1 writes; one of them may be killed.
fn readers_with_a_bias(set: bool, victim: usize, kill: Option<usize>, killed: &dyn Fn()) {
    let world = World::new();
    let bias = |world: &World| world.claims(0).set_bias(owner(0));
    if set {
        bias(&world);
    }
    let reads = move |world: &World| {
        if !set {
            bias(world);
        }
        world.work(0, Mode::Shared, None).expect("it waits, and gets it");
    };
    let writes = |world: &World| {
        world.work(1, Mode::Exclusive, None).expect("it waits, and gets it");
    };
    let processes = [
        spawn(&world, 1, kill.filter(|_| victim == 1), writes),
        spawn(&world, 0, kill.filter(|_| victim == 0), reads),
    ];
    let ends = processes.map(|process| process.join().unwrap());
    if ends.contains(&true) {
        killed();
    }
    spare();
    let marked = world.work(PROCESSES, Mode::Exclusive, TRY).expect("nobody has it who lives");
    assert!(!marked || ends[0], "a mark that nobody left");
}

fn a_bias_against_a_writer(set: bool) {
    check("a bias against exclusive", move || readers_with_a_bias(set, 0, None, &|| ()));
}

/// A reader is let in by a bias, which one writer ends while another has not asked for it yet. Each asks once.
fn a_bias_that_another_ends() {
    check_within("a bias that another ends", Some(3), || {
        let world = World::new();
        world.claims(0).set_bias(owner(0));
        let span = Span::new(0, 1);
        let at_once = |id: usize, mode| {
            move |world: &World| {
                let (claims, who) = (world.claims(id), Who { me: owner(id), thread: 1 });
                let gives_up = |announced: Option<Claim>| {
                    claims.release(&announced.expect("it is at home"));
                    None
                };
                if let Some(claim) = claims.take_free(who, span, mode, gives_up) {
                    match mode {
                        Mode::Shared => world.element.with(|_| ()),
                        _ => world.element.with_mut(|_| ()),
                    }
                    claims.release(&claim);
                }
            }
        };
        let ends = move |world: &World| {
            let (claims, who) = (world.claims(2), Who { me: owner(2), thread: 1 });
            if let Some(claim) = claims.take_on(who, span, Mode::Exclusive, None, &Around(&world.kernel)) {
                world.element.with_mut(|_| ());
                claims.release(&claim);
            }
        };
        let processes = [
            spawn(&world, 1, None, at_once(1, Mode::Exclusive)),
            spawn(&world, 2, None, ends),
            spawn(&world, 0, None, at_once(0, Mode::Shared)),
        ];
        for process in processes {
            process.join().unwrap();
        }
    });
}

#[test]
fn a_bias_lets_nobody_in_beside_a_writer() {
    a_bias_against_a_writer(true);
    a_bias_against_a_writer(false);
    a_bias_that_another_ends();
}

#[test]
fn a_reader_or_writer_is_killed_around_a_bias() {
    for (set, victim, least) in [(true, 0, 2), (true, 1, 4), (false, 0, 4), (false, 1, 4)] {
        check_every_kill_within("a bias against exclusive", Some(2), least, move |n, killed| {
            readers_with_a_bias(set, victim, Some(n), killed);
        });
    }
}

#[test]
fn who_claims_with_a_mended_entry_looks_at_its_range_again() {
    a_cut_into_a_claim();
}

#[test]
fn who_looks_while_the_middle_is_mended_is_told() {
    for rows in [MOVES_FORWARD, MOVES_BACK] {
        a_look_while_the_middle_is_mended(rows, Mode::Exclusive);
        a_look_while_the_middle_is_mended(rows, Mode::Shared);
    }
}

#[test]
fn a_mender_is_killed_anywhere() {
    for rows in [MOVES_FORWARD, MOVES_BACK] {
        check_every_kill("the middle is mended", 4, move |n, killed| {
            mending_the_middle(rows, Mode::Exclusive, Some(n), killed);
        });
    }
}

#[test]
fn claims_exclude() {
    exclusive_against_exclusive();
    exclusive_against_shared();
    threads_of_one_process();
}

#[test]
fn after_a_freeze_nobody_writes() {
    a_freeze_that_is_not_true();
    a_freeze_against_a_writer();
    check_every_kill("freeze against exclusive", 4, |n, killed| freeze_and_write(Some(n), killed));
}

#[test]
fn a_row_of_the_dead_has_one_heir() {
    a_dead_readers_row();
    for victim in [0, 1] {
        check_every_kill_within("a dead reader's row", Some(1), 8, move |n, killed| {
            a_row_changes_hands(victim, Some(n), killed);
        });
    }
}

/// As an update does it: process 0 claims undecided, decides, writes, settles and releases; it may be killed. What is told
/// of it depends on how far it came.
fn an_update(kill: Option<usize>, killed: &dyn Fn()) {
    let world = World::new();
    let came = Rc::new(Cell::new(0));
    let notes = came.clone();
    let updates = move |world: &World| {
        let (claim, _) = world.take(0, Mode::Undecided, None).expect("it waits, and gets it");
        notes.set(1);
        world.claims(0).decide(&claim);
        notes.set(2);
        world.element.with_mut(|_| ());
        world.claims(0).settle(&claim);
        notes.set(3);
        world.claims(0).release(&claim);
    };
    let reads = |world: &World| {
        world.work(1, Mode::Shared, None).expect("it waits, and gets it");
    };
    let ends =
        [spawn(&world, 1, None, reads), spawn(&world, 0, kill, updates)].map(|end| end.join().unwrap());
    if ends[1] {
        killed();
    }
    spare();
    let marked = world.work(PROCESSES, Mode::Exclusive, TRY).expect("nobody has it who lives");
    // A kill comes before a write: between the two it has decided, and not settled.
    assert_eq!(marked, came.get() == 2, "it came to {}", came.get());
}

#[test]
fn an_update_marks_until_it_is_settled() {
    check("an update", || an_update(None, &|| ()));
    check_every_kill("an update", 5, |n, killed| an_update(Some(n), killed));
}

#[test]
fn a_claimer_is_killed_anywhere() {
    check_every_kill("exclusive against exclusive", 4, |n, killed| {
        two([Mode::Exclusive; 2], Some(n), killed);
    });
    check_every_kill("a reader against exclusive", 4, |n, killed| {
        two([Mode::Shared, Mode::Exclusive], Some(n), killed);
    });
}

/// Who looks for a bias fences too.
const UNFENCED: [Mutation; 2] = [Mutation::ClaimWithoutFence, Mutation::BiasWithoutFence];

#[test]
fn mutations() {
    must_fail(&UNFENCED, Caught::Race, exclusive_against_exclusive);
    must_fail(&UNFENCED, Caught::Race, exclusive_against_shared);
    must_fail(&UNFENCED, Caught::Race, threads_of_one_process);
    must_fail(&[Mutation::RelaxedRelease], Caught::Race, exclusive_against_exclusive);
    must_fail(
        &[Mutation::FrozenBeforeTheOthers],
        Caught::Saying("granted after a freeze"),
        a_freeze_against_a_writer,
    );
    must_fail(&[Mutation::FreezeBelieved], Caught::Race, a_freeze_that_is_not_true);
    must_fail(&[Mutation::BiasKept], Caught::Race, || a_bias_against_a_writer(true));
    must_fail(&[Mutation::BiasWithoutLook], Caught::Race, || a_bias_against_a_writer(false));
    must_fail(&[Mutation::BiasWithoutFence], Caught::Race, a_bias_that_another_ends);
    must_fail(&[Mutation::TakeoverByStore], Caught::Race, a_dead_readers_row);
    must_fail(&[Mutation::OwnSpanBelieved], Caught::Saying("two have element"), a_cut_into_a_claim);
    for rows in [MOVES_FORWARD, MOVES_BACK] {
        must_fail(
            &[Mutation::SplitCountedLate],
            Caught::Saying("granted, and not told of the dead"),
            move || a_look_while_the_middle_is_mended(rows, Mode::Exclusive),
        );
    }
}
