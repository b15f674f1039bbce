//! Ties in the model checker: what a dead process left between two of its writes is settled, beside who unties it and ties
//! the same block again, and beside the end of its object, with another in its place.

use super::*;
use crate::{mutation, segment::names::begin_life};
use loom::thread;
use std::rc::Rc; // model threads are coroutines of one thread

/// One object with a table of one word, and one block that can be its part.
#[derive(Debug)]
struct World {
    count: Word64,
    state: Word64,
    generation: Word64,
    table: Word64,
    block: Block,
}

#[derive(Debug)]
struct Block {
    state: Word64,
    generation: Word64,
    object: Word64,
    life: Word64,
    index: Word64,
}

const OBJECT: u64 = 64;
const PART: u64 = 128;

fn owner(id: u32) -> Owner {
    Owner::new(1, id).unwrap()
}

const DEAD: u32 = 1;
const SWEEPER: u32 = 2;
const USER: u32 = 3;

impl Kin for World {
    fn card(&self, at: u64) -> Option<BlockCard<'_>> {
        let Block { object, life, index, .. } = &self.block;
        (at == OBJECT).then_some(BlockCard {
            state: &self.state,
            generation: &self.generation,
            object,
            life,
            index,
        })
    }
    fn table_word(&self, object: u64, index: u64) -> Option<&Word64> {
        (object == OBJECT && index == 0).then_some(&self.table)
    }
    fn named_by(&self, word: u64) -> u64 {
        word
    }
    fn count(&self) -> u64 {
        self.count.fetch_add(1, Relaxed)
    }
}

impl World {
    /// An object of generation 1, and a block that a process was about to tie to it, or to untie: it is named.
    fn new() -> Self {
        let word = Word64::new;
        Self {
            count: word(0),
            state: word(State::Live.encode()),
            generation: word(1),
            table: word(PART),
            block: Block {
                state: word(State::Pending(owner(DEAD)).encode()),
                generation: word(0),
                object: word(OBJECT),
                life: word(1),
                index: word(0),
            },
        }
    }

    fn part(&self) -> BlockCard<'_> {
        let Block { state, generation, object, life, index } = &self.block;
        BlockCard { state, generation, object, life, index }
    }

    fn free(&self, word: &Word64, from: State) {
        let _ = word.compare_exchange(from.encode(), State::Free.encode(), AcqRel, Relaxed);
    }

    /// Clears what the dead process left in the block.
    fn sweep(&self) {
        let (me, dead) = (owner(SWEEPER), State::Pending(owner(DEAD)));
        if self.block.state.load(Acquire) != dead.encode() {
            return;
        }
        match settle(self, PART, self.part(), dead, me) {
            Settled::Stays => {}
            Settled::Mine => self.free(&self.block.state, State::Pending(me)),
            Settled::Unnamed => self.free(&self.block.state, dead),
        }
    }

    /// Takes the block back if it is a part of an object that is gone.
    fn reclaim(&self) {
        let me = owner(SWEEPER);
        if reclaim(self, self.part(), me) {
            self.free(&self.block.state, State::Pending(me));
        }
    }

    /// Under the object's lock.
    fn detach(&self) {
        let me = owner(USER);
        let untied =
            untie(self.part(), (OBJECT, 0), &self.table, me, |other| Ok::<_, ()>(other != owner(DEAD)));
        assert_eq!(untied, Ok(true), "a live part was taken from its object");
        self.free(&self.block.state, State::Pending(me));
    }

    /// Under the object's lock. `false`: there is no block.
    fn attach(&self, life: u64) -> bool {
        let (free, mine) = (State::Free.encode(), State::Pending(owner(USER)).encode());
        if self.block.state.compare_exchange(free, mine, AcqRel, Relaxed).is_err() {
            return false;
        }
        begin_life(&self.block.generation, 0);
        self.block.object.store(OBJECT, Relaxed);
        self.block.life.store(life, Relaxed);
        self.block.index.store(0, Relaxed);
        tie(self, self.part(), &self.table, PART);
        true
    }

    /// The object's last holder lets it go.
    fn end(&self) {
        let me = owner(USER);
        self.state.store(State::Pending(me).encode(), Release);
        before_taking();
        if self.table.load(Acquire) == PART && take(self.part(), OBJECT, me) {
            self.free(&self.block.state, State::Pending(me));
        }
        self.free(&self.state, State::Pending(me));
    }

    /// Another object begins in the same place.
    fn begin(&self) {
        let (free, mine) = (State::Free.encode(), State::Pending(owner(USER)).encode());
        assert!(self.state.compare_exchange(free, mine, AcqRel, Relaxed).is_ok());
        begin_life(&self.generation, 2);
        self.table.store(0, Relaxed);
        self.state.store(State::Live.encode(), Release);
    }

    /// Nobody works: the block is a part that is named, or free and not named.
    fn check(&self, named: bool) {
        let state = State::decode(self.block.state.load(Acquire)).expect("a state that we write");
        assert_eq!(self.table.load(Acquire) == PART, named, "the table");
        match named {
            true => {
                assert!(matches!(state, State::Part(_)), "a live part was taken from its object: {state:?}")
            }
            false => assert_eq!(state, State::Free, "a block is lost"),
        }
    }
}

fn must_fail(mutation: Mutation, says: &'static str, model: fn()) {
    mutation::must_fail(&mutation, &[says], move || breaking(&[mutation], model));
}

/// `user` works with the object while the block is swept; says whether the block is named in the end.
fn beside_a_sweep(name: &str, user: fn(&World) -> bool) {
    beside(name, World::new, World::sweep, user);
}

/// `user` and `other` work in one world at the same time.
fn beside(name: &str, begin: fn() -> World, other: fn(&World), user: fn(&World) -> bool) {
    mutation::explore(name, None, move || {
        let world = Rc::new(begin());
        let other = thread::spawn({
            let world = Rc::clone(&world);
            move || other(&world)
        });
        let user = thread::spawn({
            let world = Rc::clone(&world);
            move || user(&world)
        });
        other.join().unwrap();
        let named = user.join().unwrap();
        world.check(named);
    });
}

/// The object's user unties the block and ties it again.
fn tied_again() {
    beside_a_sweep("a part is untied and tied again beside a sweep", |world| {
        world.detach();
        world.attach(1)
    });
}

/// The object ends.
fn the_end() {
    beside_a_sweep("an object ends beside a sweep of its part", |world| {
        world.end();
        world.table.store(0, Relaxed); // for `check`: what a free block says means nothing
        false
    });
}

/// The object ends, and another one in its place has the same block for a part.
fn the_next_object() {
    beside_a_sweep("an object ends and another begins beside a sweep", |world| {
        world.end();
        world.begin();
        world.attach(2)
    });
}

#[test]
fn a_part_that_is_tied_again_is_not_freed() {
    tied_again();
}

#[test]
fn a_part_goes_with_its_object() {
    the_end();
}

#[test]
fn a_part_of_the_next_object_is_not_freed() {
    the_next_object();
}

/// Who settles is killed at each of its writes, while the object ends; the next who clears the dead is done with it.
#[test]
fn who_settles_dies() {
    who_settles_died();
}

fn who_settles_died() {
    use crate::atomic::{Killed, kill_after};
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    for n in 1..6 {
        mutation::explore(
            &format!("who settles is killed before write {n}, and the object ends"),
            None,
            move || {
                let world = Rc::new(World::new());
                let sweeper = thread::spawn({
                    let world = Rc::clone(&world);
                    move || {
                        kill_after(n);
                        match catch_unwind(AssertUnwindSafe(|| world.sweep())) {
                            Ok(()) => kill_after(usize::MAX),
                            Err(end) if end.is::<Killed>() => {}
                            Err(end) => resume_unwind(end),
                        }
                    }
                });
                let user = thread::spawn({
                    let world = Rc::clone(&world);
                    move || world.end()
                });
                sweeper.join().unwrap();
                user.join().unwrap();
                let heir = owner(USER);
                match State::decode(world.block.state.load(Acquire)) {
                    Some(from @ State::Pending(who)) if who != heir => {
                        assert_eq!(settle(&*world, PART, world.part(), from, heir), Settled::Unnamed);
                        world.free(&world.block.state, from);
                    }
                    Some(State::Part(_)) => {
                        world.begin(); // another object, in the place of the one that ended
                        assert!(
                            reclaim(&*world, world.part(), heir),
                            "a part of an object that is gone stays"
                        );
                        world.free(&world.block.state, State::Pending(heir));
                    }
                    _ => {}
                }
                world.table.store(0, Relaxed);
                world.check(false);
            },
        );
    }
}

/// Who clears the dead looks at a part that is sound, beside what its object's user does.
fn beside_a_reclaim(name: &str, user: fn(&World) -> bool) {
    let swept = || {
        let world = World::new();
        world.sweep(); // of the dead: it is a PART
        world
    };
    beside(name, swept, World::reclaim, user);
}

#[test]
fn no_part_of_the_living_is_reclaimed() {
    beside_a_reclaim("a part is untied and tied again beside a reclaim", |world| {
        world.detach();
        world.attach(1)
    });
    beside_a_reclaim("an object ends beside a reclaim", |world| {
        world.end();
        world.table.store(0, Relaxed);
        false
    });
    beside_a_reclaim("an object ends and another begins beside a reclaim", |world| {
        world.end();
        world.begin();
        world.attach(2)
    });
}

mod mutations {
    use super::*;

    #[test]
    fn life_ignored() {
        must_fail(Mutation::LifeIgnored, "a part of an object that is gone", who_settles_died);
    }

    #[test]
    fn numbers_repeat() {
        must_fail(Mutation::NumbersRepeat, "a live part was taken from its object", tied_again);
        must_fail(Mutation::NumbersRepeat, "a live part was taken from its object", the_next_object);
    }

    #[test]
    fn one_look() {
        must_fail(Mutation::OneLook, "a block is lost", the_end);
    }

    #[test]
    fn settle_without_fence() {
        must_fail(Mutation::SettleWithoutFence, "a block is lost", the_end);
    }
}
