//! Names in the model checker: look-ups beside who gives, takes away and gives again; creators against each other, one
//! of which dies at each of its writes; and blocks that become others under a look-up.

use super::*;
use crate::atomic::{Killed, kill_after};
use loom::thread;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc, // model threads are coroutines of one thread
    sync::{Arc, Mutex as Plain},
};

/// Blocks of a model: entries and lists of at most two names.
#[derive(Debug)]
struct Block {
    generation: Word64,
    state: Word32,
    words: Vec<Word64>,
}

#[derive(Debug)]
struct World {
    bucket: Word64,
    blocks: Vec<Block>,
    /// Words of the objects that are named, 1 once they are made.
    objects: Vec<Word64>,
    alive: Vec<Word32>,
}

/// Of a creator: an entry and a list for each try.
const BLOCKS: usize = 8;

const A: &[u8] = b"a";
const B: &[u8] = b"b";

fn at(block: usize) -> u64 {
    (block as u64 + 1) * 64
}

fn owner(id: usize) -> Owner {
    Owner::new(1, id as u32 + 1).unwrap()
}

/// Where object `n` would be.
fn object(n: usize) -> Place {
    Place { at: n as u64 + 1, generation: n as u64 + 1 }
}

impl Shelf for World {
    fn bucket(&self, _: u64) -> &Word64 {
        &self.bucket
    }

    fn card(&self, at: u64) -> Option<Card<'_>> {
        let Block { generation, state, words } = self.blocks.get((at / 64).checked_sub(1)? as usize)?;
        Some(Card { generation, state, words })
    }
}

impl World {
    fn new(blocks: usize) -> Self {
        let block = || Block {
            generation: Word64::new(0),
            state: Word32::new(0),
            words: (0..6).map(|_| Word64::new(0)).collect(),
        };
        Self {
            bucket: Word64::new(0),
            blocks: (0..blocks).map(|_| block()).collect(),
            objects: (0..2).map(|_| Word64::new(0)).collect(),
            alive: (0..2).map(|_| Word32::new(1)).collect(),
        }
    }

    fn entry(&self, block: usize, life: u64, claimer: usize, name: &[u8]) -> Line {
        let block_ = &self.blocks[block];
        begin_life(&block_.generation, life);
        write_entry(&block_.state, &block_.words, owner(claimer), name, b"");
        Line { hash: hash_of(name), at: at(block) }
    }

    fn list(&self, block: usize, life: u64, lines: &[Line]) -> u64 {
        begin_life(&self.blocks[block].generation, life);
        write_list(&self.blocks[block].words, 0, lines);
        at(block)
    }

    fn seen(&self) -> List {
        List::read(self, 0, |_| true).expect("overwritten")
    }

    fn make(&self, n: usize) -> Place {
        self.objects[n].store(1, Relaxed);
        object(n)
    }

    fn publish(&self, block: usize, claimer: usize, n: usize) -> bool {
        publish(&self.blocks[block].state, &self.blocks[block].words, owner(claimer), self.make(n))
    }

    /// `name` is object `n`'s, in entry `block`, listed by `list`.
    fn given(&self, block: usize, list: usize, name: &[u8], n: usize) {
        let line = self.entry(block, 1, 0, name);
        let new = self.list(list, 1, &[line]);
        assert!(replace_list(self, &self.seen(), new));
        assert!(self.publish(block, 0, n));
    }

    fn find(&self, name: &[u8]) -> Option<Entry> {
        find(self, name).expect("overwritten")
    }

    /// What is found is whole: the object is made.
    fn look(&self, name: &[u8]) -> Option<Place> {
        let found = self.find(name).filter(|found| found.state == State::Set)?;
        let n = (found.object.at as usize).checked_sub(1).expect("a name without its place");
        assert_eq!(found.object, object(n), "a name with half a place");
        assert_eq!(self.objects[n].load(Relaxed), 1, "a name before its object");
        Some(found.object)
    }

    /// As `directory` does it, as process `id` with blocks `BLOCKS * id..`: the object that has the name in the end.
    fn open_or_create(&self, id: usize, patient: bool) -> Place {
        let (mut life, mut made) = (0, false);
        loop {
            match self.find(A) {
                Some(Entry { state: State::Set, object, .. }) => return object,
                Some(found) => {
                    let State::Busy(by) = found.state else { unreachable!("GONE is not found") };
                    // Acquire: the kernel lets go of a dead process's lock after its last write.
                    let lives = self.alive[by.slot() as usize - 1].load(Acquire) == 1;
                    if patient && lives && !made {
                        thread::yield_now();
                    } else {
                        let card = self.card(found.place.at).expect("a block");
                        retract(card.state, found.state);
                    }
                }
                None => {
                    // Each try has blocks of its own: none is used again, so none has to be held.
                    assert!(2 * life < BLOCKS, "too many tries for this model");
                    let block = BLOCKS * id + 2 * life;
                    life += 1;
                    let list = self.seen();
                    let mine = self.entry(block, 1, id, A);
                    let mut lines = vec![mine];
                    let mut taken = false;
                    for line in &list.lines {
                        match Entry::read(self, &list, line.at).expect("overwritten") {
                            Some(entry) if entry.state == State::Gone => {}
                            _ => taken = true,
                        }
                    }
                    lines.truncate(2);
                    let new = self.list(block + 1, 1, &lines);
                    if taken || !replace_list(self, &list, new) {
                        continue;
                    }
                    made = true;
                    if self.publish(block, id, id) {
                        return object(id);
                    }
                }
            }
        }
    }
}

fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    crate::mutation::explore(name, None, model);
}

fn must_fail(mutation: Mutation, says: &'static str, model: impl FnOnce() + Send + 'static) {
    crate::mutation::must_fail(&mutation, &[says], move || breaking(&[mutation], model));
}

// ---- publish against look-up ----

fn a_name_is_given() {
    let outcomes = Arc::new(Plain::new((false, false)));
    let seen = Arc::clone(&outcomes);
    explore("a name is given beside a look-up", move || {
        let world = Rc::new(World::new(2));
        let giver = thread::spawn({
            let world = Rc::clone(&world);
            move || world.given(0, 1, A, 0)
        });
        // In a thread of its own, spawned last: loom looks at the last access to a word only (its issue 166).
        let reader = thread::spawn({
            let world = Rc::clone(&world);
            move || world.look(A)
        });
        giver.join().unwrap();
        match reader.join().unwrap() {
            Some(_) => seen.lock().unwrap().0 = true,
            None => seen.lock().unwrap().1 = true,
        }
        assert!(world.look(A).is_some());
    });
    assert_eq!(*outcomes.lock().unwrap(), (true, true), "both happen among the executions");
}

#[test]
fn a_name_that_is_found_is_whole() {
    a_name_is_given();
}

// ---- blocks that become others ----

/// `a` is taken away, and its entry and list become those of `b`, while somebody looks for `a`.
fn blocks_become_others() {
    explore("blocks become others beside a look-up", || {
        let world = Rc::new(World::new(2));
        world.given(0, 1, A, 0);
        let other = thread::spawn({
            let world = Rc::clone(&world);
            move || {
                assert!(retract(&world.blocks[0].state, State::Set));
                assert!(replace_list(&*world, &world.seen(), 0));
                let line = world.entry(0, 2, 0, B);
                let new = world.list(1, 2, &[line]);
                assert!(replace_list(&*world, &world.seen(), new));
                assert!(world.publish(0, 0, 1));
            }
        });
        let reader = thread::spawn({
            let world = Rc::clone(&world);
            move || {
                let found = world.look(A);
                assert!(found.is_none() || found == Some(object(0)), "another's object");
            }
        });
        other.join().unwrap();
        reader.join().unwrap();
    });
}

/// `a` stays; its list is replaced by another, and then becomes one of another bucket.
fn a_list_becomes_another() {
    explore("a list becomes another beside a look-up", || {
        let world = Rc::new(World::new(3));
        world.given(0, 1, A, 0);
        let other = thread::spawn({
            let world = Rc::clone(&world);
            move || {
                let seen = world.seen();
                let new = world.list(2, 1, &seen.lines);
                assert!(replace_list(&*world, &seen, new));
                world.list(1, 2, &[]);
            }
        });
        let reader = thread::spawn({
            let world = Rc::clone(&world);
            move || assert_eq!(world.look(A), Some(object(0)), "a name that is there was not found")
        });
        other.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_look_up_finds_what_is_there_while_blocks_become_others() {
    blocks_become_others();
    a_list_becomes_another();
}

// ---- creators ----

/// Both wait for each other, or the second one takes the first for stopped.
fn two_creators(patient: bool) {
    // Who does not wait has many ways to go on: with more preemptions these are too many executions.
    let preemptions = (!patient).then_some(1);
    crate::mutation::explore(&format!("two creators, patient: {patient}"), preemptions, move || {
        let world = Rc::new(World::new(2 * BLOCKS));
        let [one, two] = [0, 1].map(|id| {
            let world = Rc::clone(&world);
            thread::spawn(move || world.open_or_create(id, patient || id == 0))
        });
        let (one, two) = (one.join().unwrap(), two.join().unwrap());
        assert_eq!(one, two, "two objects of one name");
        assert_eq!(world.look(A), Some(one), "the name is another's");
    });
}

#[test]
fn of_two_creators_one_creates() {
    two_creators(true);
}

#[test]
fn a_living_creator_that_is_overtaken_takes_what_is_there() {
    two_creators(false);
}

fn a_creator_dies() {
    for n in 1.. {
        let killed = Arc::new(Plain::new(false));
        let note = Arc::clone(&killed);
        explore(&format!("a creator that is killed before write {n}"), move || {
            let world = Rc::new(World::new(2 * BLOCKS));
            let victim = thread::spawn({
                let world = Rc::clone(&world);
                move || {
                    kill_after(n);
                    let end = catch_unwind(AssertUnwindSafe(|| world.open_or_create(0, true)));
                    match end {
                        Ok(object) => {
                            kill_after(usize::MAX);
                            Some(object)
                        }
                        Err(end) if end.is::<Killed>() => {
                            world.alive[0].store(0, Release);
                            None
                        }
                        Err(end) => resume_unwind(end),
                    }
                }
            });
            let heir = thread::spawn({
                let world = Rc::clone(&world);
                move || world.open_or_create(1, true)
            });
            let (first, second) = (victim.join().unwrap(), heir.join().unwrap());
            *note.lock().unwrap() |= first.is_none();
            assert!(first.is_none_or(|first| first == second), "two objects of one name");
            assert_eq!(world.look(A), Some(second), "the name is another's");
        });
        if !*killed.lock().unwrap() {
            assert!(n > 10, "there are kill points");
            return;
        }
    }
}

#[test]
fn a_creator_that_dies_keeps_nobody_out() {
    a_creator_dies();
}

mod mutations {
    use super::*;
    use Mutation::*;

    #[test]
    fn list_relaxed() {
        must_fail(ListRelaxed, "overwritten", a_name_is_given);
    }

    #[test]
    fn bucket_not_acquired() {
        must_fail(BucketNotAcquired, "overwritten", a_name_is_given);
    }

    #[test]
    fn published_before_its_place() {
        must_fail(PublishedBeforeItsPlace, "a name without its place", a_name_is_given);
    }

    #[test]
    fn published_relaxed() {
        must_fail(PublishedRelaxed, "a name", a_name_is_given);
    }

    #[test]
    fn state_not_acquired() {
        must_fail(StateNotAcquired, "a name", a_name_is_given);
    }

    #[test]
    fn generation_not_asked_again() {
        must_fail(GenerationNotAskedAgain, "a name with half a place", blocks_become_others);
    }

    #[test]
    fn life_begins_without_fence() {
        must_fail(LifeBeginsWithoutFence, "a name with half a place", blocks_become_others);
    }

    #[test]
    fn bucket_not_asked_again() {
        must_fail(BucketNotAskedAgain, "was not found", a_list_becomes_another);
    }

    #[test]
    fn life_begins_relaxed() {
        must_fail(LifeBeginsRelaxed, "was not found", a_list_becomes_another);
    }

    #[test]
    fn list_by_store() {
        must_fail(ListByStore, "of one name", || two_creators(true));
    }

    #[test]
    fn publish_by_store() {
        must_fail(PublishByStore, "of one name", || two_creators(false));
    }

    #[test]
    fn retract_by_store() {
        must_fail(RetractByStore, "of one name", || two_creators(false));
    }
}
