//! The committed cell in the model checker: readers without the lock beside writers that are killed.

use super::model::{ALIVE, Caught, Kernel, LONG, Single, check, check_every_kill, must_fail, owner};
use crate::{
    atomic::{Relaxed, Word32, Word64},
    os::futex,
    sync::{
        cell::{Committed, cell_words},
        mutation::Mutation,
        word::{self, Acquired},
    },
};
use loom::thread;
use std::{
    rc::Rc, // model threads are coroutines of one thread
    sync::{Arc, Mutex},
};

/// A value of two words that must always be equal.
const BYTES: usize = 16;

#[derive(Debug)]
struct World {
    kernel: Kernel,
    word: Word32,
    words: Vec<Word64>,
    /// The truth: counted in the step that commits.
    commits: Mutex<u64>,
}

impl World {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            kernel: Kernel::new(ALIVE),
            word: Word32::new(0),
            words: (0..cell_words(BYTES)).map(|_| Word64::new(0)).collect(),
            commits: Mutex::new(0),
        })
    }

    fn cell(&self) -> Committed<'_> {
        Committed::new(&self.words, BYTES)
    }

    fn commit(&self, value: u64) {
        let mut bytes = [0; BYTES];
        bytes.as_chunks_mut::<8>().0.fill(value.to_ne_bytes());
        self.cell().commit(&bytes);
        *self.commits.lock().unwrap() = value;
    }

    /// An increment under the lock, as process `id`.
    fn increment(&self, id: usize) {
        if let Acquired::Inherited { .. } =
            word::lock(&self.word, owner(id), &Single(&self.kernel), None).expect("without a time-out")
        {
            word::repair(&self.word, owner(id)).expect("ours");
        }
        let mut bytes = [0; BYTES];
        self.cell().read_locked(&mut bytes);
        let value = whole(bytes);
        assert_eq!(value, *self.commits.lock().unwrap(), "lost update");
        self.commit(value + 1);
        word::unlock(&self.word, owner(id)).expect("ours");
    }

    /// Reads `N` times without the lock; how often that worked.
    fn read<const N: usize>(&self) -> usize {
        let mut last = 0;
        let tries = [(); N].map(|()| {
            let mut bytes = [0; BYTES];
            let ok = self.cell().read_once(&mut bytes);
            if ok {
                let value = whole(bytes);
                assert!(last <= value, "the value went back");
                last = value;
            }
            ok
        });
        tries.into_iter().filter(|&ok| ok).count()
    }
}

fn whole(bytes: [u8; BYTES]) -> u64 {
    let &[a, b] = bytes.as_chunks::<8>().0 else { unreachable!() };
    assert_eq!(a, b, "torn");
    u64::from_ne_bytes(a)
}

fn reader_beside_a_writer() {
    let outcomes = Arc::new(Mutex::new((false, false)));
    let seen = outcomes.clone();
    check("a reader and a writer", move || {
        let world = World::new();
        let writer = thread::spawn({
            let world = world.clone();
            move || (1..=3).for_each(|value| world.commit(value))
        });
        let reader = spawn_reader::<2>(&world);
        writer.join().unwrap();
        match reader.join().unwrap() {
            2 => seen.lock().unwrap().0 = true,
            _ => seen.lock().unwrap().1 = true,
        }
        assert_eq!(world.read::<2>(), 2, "nobody writes");
    });
    assert_eq!(*outcomes.lock().unwrap(), (true, true), "reads succeed and fail among the executions");
}

/// Spawned after all writers: loom looks at the last access to a word only, and would not see that a store conflicts
/// with an earlier load of the reader if the writer itself has loaded the word since (its issue 166).
fn spawn_reader<const N: usize>(world: &Rc<World>) -> thread::JoinHandle<usize> {
    let world = world.clone();
    thread::spawn(move || world.read::<N>())
}

#[test]
fn reads_are_whole_or_refused() {
    reader_beside_a_writer();
}

fn reader_beside_dying_writers() {
    check_every_kill("a reader, a writer and its heir", 6, |n, killed| {
        let world = World::new();
        let [victim, heir] = [(0, Some(n)), (1, None)].map(|(id, kill)| {
            let world = world.clone();
            thread::spawn(move || {
                let after = || futex::time_passes(&world.word, LONG);
                world.kernel.run(id, kill, || world.increment(id), after)
            })
        });
        let reader = spawn_reader::<1>(&world);
        if victim.join().unwrap() {
            killed();
        }
        heir.join().unwrap();
        reader.join().unwrap();
        let mut bytes = [0; BYTES];
        assert!(world.cell().read_once(&mut bytes), "nobody writes, so a dead writer stops no reader");
        assert_eq!(whole(bytes), *world.commits.lock().unwrap(), "lost update");
    });
}

#[test]
fn reads_are_whole_while_writers_die() {
    reader_beside_dying_writers();
}

/// A value of one word, and a word that was written before it.
fn message() {
    check("a message", || {
        let words = Rc::new([Word64::new(0), Word64::new(0)]);
        let writer = thread::spawn({
            let words = words.clone();
            move || {
                words[1].store(1, Relaxed);
                Committed::new(&words[..1], 8).commit(&1u64.to_ne_bytes());
            }
        });
        let mut bytes = [0; 8];
        assert!(Committed::new(&words[..1], 8).read_once(&mut bytes), "one word is never refused");
        if u64::from_ne_bytes(bytes) == 1 {
            assert_eq!(words[1].load(Relaxed), 1, "a value without what came before it");
        }
        writer.join().unwrap();
    });
}

#[test]
fn who_sees_a_value_sees_what_came_before_it() {
    message();
}

mod mutations {
    use super::*;
    use Mutation::*;

    #[test]
    fn commit_without_fence() {
        must_fail(&[CommitWithoutFence], Caught::Saying("torn"), reader_beside_a_writer);
    }

    #[test]
    fn commit_without_fence_beside_the_lock() {
        must_fail(&[CommitWithoutFence], Caught::Saying("torn"), reader_beside_dying_writers);
    }

    #[test]
    fn read_without_fence_beside_the_lock() {
        must_fail(&[ReadWithoutFence], Caught::Saying("torn"), reader_beside_dying_writers);
    }

    #[test]
    fn read_without_fence() {
        must_fail(&[ReadWithoutFence], Caught::Saying("torn"), reader_beside_a_writer);
    }

    #[test]
    fn relaxed_commit() {
        must_fail(&[RelaxedCommit], Caught::Saying("torn"), reader_beside_a_writer);
    }

    #[test]
    fn relaxed_commit_of_one_word() {
        must_fail(&[RelaxedCommit], Caught::Saying("a value without what came before it"), message);
    }
}
