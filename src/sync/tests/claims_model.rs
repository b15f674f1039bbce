//! Claims in the model checker: shared, exclusive and a freeze against each other, one killed before every shared write.

use super::model::{ALIVE, Caught, Kernel, LONG, check, check_every_kill, must_fail, owner, spare};
use crate::{
    atomic::{Word32, Word64},
    os::futex,
    segment::owner::Owner,
    sync::{
        claims::{At, Claims, LINE32, LINE64, Mode, Record, Refused, Span, Table, Who},
        mutation::Mutation,
        word::Peers as _,
    },
};
use loom::{cell::UnsafeCell, thread};
use std::{convert::Infallible, rc::Rc, time::Duration};

const PROCESSES: usize = 2;

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
    fn new() -> Rc<Self> {
        let world = Rc::new(Self {
            kernel: Kernel::new(ALIVE),
            w32: (0..LINE32 * (PROCESSES + 2)).map(|_| Word32::new(0)).collect(),
            w64: (0..LINE64 * (PROCESSES + 1)).map(|_| Word64::new(0)).collect(),
            records: std::array::from_fn(|_| Record::new()),
            element: UnsafeCell::new(0),
        });
        for id in 0..=PROCESSES {
            // Everybody has a row: how one is got is not the matter of these models.
            let claim = world.take(id, Mode::Shared, Some(Duration::ZERO)).expect("free").0;
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
    ) -> Result<(crate::sync::claims::Claim, bool), Refused<Infallible>> {
        // As an array's hold does it.
        let (claims, who, span) = (self.claims(id), Who { me: owner(id), thread: 1 }, Span::new(0, 1));
        let on = |announced| claims.take_on(who, span, mode, announced);
        if let Some(claim) = claims.take_free(who, span, mode, on) {
            return Ok((claim, false));
        }
        let (claim, left) = claims.take(who, span, mode, &Around(&self.kernel), timeout)?;
        Ok((claim, !left.is_empty()))
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
    let marked =
        world.work(PROCESSES, Mode::Exclusive, Some(Duration::ZERO)).expect("nobody has it who lives");
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
                let ask = |announced| claims.take_on(who, Span::new(0, 1), Mode::Exclusive, announced);
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

fn a_freeze_against_a_writer() {
    check("freeze against exclusive", || {
        let world = World::new();
        let freezer = spawn(&world, 0, None, |world| world.freeze(0));
        let writer = spawn(&world, 1, None, |world| {
            let done = world.work(1, Mode::Exclusive, None);
            assert!(matches!(done, Ok(false) | Err(Refused::Frozen)), "{done:?}");
        });
        freezer.join().unwrap();
        writer.join().unwrap();
        spare();
        let refused = world.work(PROCESSES, Mode::Exclusive, Some(Duration::ZERO));
        assert_eq!(refused, Err(Refused::Frozen));
    });
}

#[test]
fn claims_exclude() {
    exclusive_against_exclusive();
    exclusive_against_shared();
    threads_of_one_process();
}

#[test]
fn after_a_freeze_nobody_writes() {
    a_freeze_against_a_writer();
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

#[test]
fn mutations() {
    must_fail(&[Mutation::ClaimWithoutFence], Caught::Race, exclusive_against_exclusive);
    must_fail(&[Mutation::ClaimWithoutFence], Caught::Race, exclusive_against_shared);
    must_fail(&[Mutation::ClaimWithoutFence], Caught::Race, threads_of_one_process);
    must_fail(&[Mutation::RelaxedRelease], Caught::Race, exclusive_against_exclusive);
    must_fail(
        &[Mutation::FrozenBeforeTheOthers],
        Caught::Saying("granted after a freeze"),
        a_freeze_against_a_writer,
    );
}
