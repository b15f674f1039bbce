//! The lock word, plainly: against a model of its table of transitions, with made-up peers, and among real threads.

use crate::{
    atomic::{Private64, Relaxed, Word32},
    segment::owner::{OWNER_BITS, Owner},
    sync::word::{self, Acquired, Corrupt, Holder, Peers, Refused},
};
use proptest::prelude::*;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    time::{Duration, Instant},
};

const TRY: Option<Duration> = Some(Duration::ZERO);
const CONTENDED: u32 = 1 << 31;
const POISON: u32 = 1 << 30;

fn owner(id: u32) -> Owner {
    Owner::new(1, id + 1).unwrap()
}

/// A world in which everything is known beforehand.
#[derive(Debug)]
struct World {
    dead: BTreeSet<u32>,
    holder: Holder,
    lost: bool,
    /// What was noted before each sleep.
    slept: RefCell<Vec<Owner>>,
}

impl World {
    fn new(dead: impl IntoIterator<Item = Owner>) -> Self {
        let dead = dead.into_iter().map(Owner::bits).collect();
        Self { dead, holder: Holder::Nobody, lost: false, slept: RefCell::default() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lost;

impl Peers for World {
    type Lost = Lost;

    fn is_alive(&self, owner: Owner) -> Result<bool, Lost> {
        if self.lost { Err(Lost) } else { Ok(!self.dead.contains(&owner.bits())) }
    }

    fn holder(&self) -> Holder {
        self.holder
    }

    fn sleeping(&self, _: &Word32, expected: Owner, sleep: impl FnOnce()) {
        self.slept.borrow_mut().push(expected);
        sleep();
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Try(u32),
    Unlock(u32),
    Repair(u32),
    Die(u32),
    Retire(u32),
    /// Somebody is about to sleep.
    Contend,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 0..4u32;
    let step = prop_oneof![
        4 => id.clone().prop_map(Step::Try),
        4 => id.clone().prop_map(Step::Unlock),
        1 => id.clone().prop_map(Step::Repair),
        1 => id.clone().prop_map(Step::Die),
        1 => id.prop_map(Step::Retire),
        1 => Just(Step::Contend),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// Every sequence of steps, beside a lock that is plain fields.
    #[test]
    fn transitions(steps in steps()) {
        let word = Word32::new(0);
        let mut world = World::new([]);
        // The model: who holds it, may somebody sleep, is it inherited.
        let (mut held, mut contended, mut poisoned) = (None::<u32>, false, false);
        for step in steps {
            match step {
                Step::Try(id) if world.dead.contains(&owner(id).bits()) || held == Some(id) => continue,
                Step::Try(id) => {
                    let outcome = word::lock(&word, owner(id), &world, TRY);
                    let expected = match held {
                        None if poisoned => Ok(Acquired::Inherited { dead: None }),
                        None => Ok(Acquired::Clean),
                        Some(other) if world.dead.contains(&owner(other).bits()) => {
                            (contended, poisoned) = (true, true);
                            Ok(Acquired::Inherited { dead: Some(owner(other)) })
                        }
                        Some(other) => Err(Refused::Timeout { owner: Some(owner(other)) }),
                    };
                    prop_assert_eq!(outcome, expected);
                    if outcome.is_ok() {
                        held = Some(id);
                    }
                }
                Step::Unlock(id) => {
                    let outcome = word::unlock(&word, owner(id));
                    prop_assert_eq!(outcome, if held == Some(id) { Ok(()) } else { Err(Corrupt) });
                    if outcome.is_ok() {
                        (held, contended) = (None, false);
                    }
                }
                Step::Repair(id) => {
                    let outcome = word::repair(&word, owner(id));
                    prop_assert_eq!(outcome, if held == Some(id) { Ok(()) } else { Err(Corrupt) });
                    poisoned &= outcome.is_err();
                }
                Step::Die(id) => drop(world.dead.insert(owner(id).bits())),
                Step::Retire(id) if !world.dead.contains(&owner(id).bits()) => continue,
                Step::Retire(id) => {
                    prop_assert_eq!(word::retire(&word, owner(id)), held == Some(id));
                    if held == Some(id) {
                        (held, contended, poisoned) = (None, false, true);
                    }
                }
                Step::Contend if held.is_some() => {
                    word.fetch_or(CONTENDED, Relaxed);
                    contended = true;
                }
                Step::Contend => continue,
            }
            let bits = held.map_or(0, |id| owner(id).bits())
                | if contended { CONTENDED } else { 0 }
                | if poisoned { POISON } else { 0 };
            prop_assert_eq!(word.load(Relaxed), bits, "after {:?}", step);
            prop_assert_eq!(word::holder(&word), Ok(held.map(owner)));
        }
    }

    /// Whatever stands there: a try ends, and changes only what is free or a dead owner's.
    #[test]
    fn any_bits(bits in any::<u32>(), sparse in any::<bool>(), dead in any::<bool>()) {
        let bits = if sparse { bits & (CONTENDED | POISON | 1 << 10 | 1) } else { bits };
        let (word, me) = (Word32::new(bits), Owner::new(7, 7).unwrap());
        prop_assume!(bits & OWNER_BITS != me.bits());
        let named = Owner::from_bits(bits & OWNER_BITS);
        let outcome = word::lock(&word, me, &World::new(named.filter(|_| dead)), TRY);
        let expected = match named {
            Some(named) if dead => Ok(Acquired::Inherited { dead: Some(named) }),
            Some(named) => Err(Refused::Timeout { owner: Some(named) }),
            None if bits == 0 => Ok(Acquired::Clean),
            None if bits == POISON => Ok(Acquired::Inherited { dead: None }),
            None => Err(Refused::Corrupt),
        };
        prop_assert_eq!(outcome, expected);
        if outcome.is_err() {
            prop_assert_eq!(word.load(Relaxed), bits);
            prop_assert_eq!((word::unlock(&word, me), word::repair(&word, me)), (Err(Corrupt), Err(Corrupt)));
            prop_assert_eq!(word.load(Relaxed), bits, "never a store over what is not ours");
        } else {
            prop_assert!(word.load(Relaxed) & OWNER_BITS == me.bits());
        }
    }
}

#[test]
fn a_waiter_takes_over_without_a_sleep() {
    let (word, world) = (Word32::new(owner(0).bits()), World::new([owner(0)]));
    assert_eq!(word::lock(&word, owner(1), &world, None), Ok(Acquired::Inherited { dead: Some(owner(0)) }));
    assert!(world.slept.borrow().is_empty(), "asked before the first sleep");
}

#[test]
fn nothing_is_taken_when_nobody_can_tell_who_lives() {
    let word = Word32::new(owner(0).bits());
    let world = World { lost: true, ..World::new([owner(0)]) };
    for timeout in [None, TRY] {
        assert_eq!(word::lock(&word, owner(1), &world, timeout), Err(Refused::Lost(Lost)));
    }
    assert_eq!(word.load(Relaxed), owner(0).bits());
}

#[test]
fn a_timed_lock_waits_its_time_and_notes_whom_it_waits_for() {
    let (word, world) = (Word32::new(owner(0).bits()), World::new([]));
    let (begin, timeout) = (Instant::now(), Duration::from_millis(20));
    let refused = Err(Refused::Timeout { owner: Some(owner(0)) });
    assert_eq!(word::lock(&word, owner(1), &world, Some(timeout)), refused);
    assert!(begin.elapsed() >= timeout);
    let slept = world.slept.borrow();
    assert!(slept.len() >= 2 && slept.iter().all(|&noted| noted == owner(0)), "{slept:?}");
    assert_eq!(word.load(Relaxed), owner(0).bits() | CONTENDED);
}

#[test]
fn a_time_out_beyond_the_clock_is_none() {
    let (word, world) = (Word32::new(owner(0).bits()), World::new([owner(0)]));
    assert!(word::lock(&word, owner(1), &world, Some(Duration::MAX)).is_ok());
}

#[test]
fn relock_by_the_same_thread_is_an_error_and_by_another_waits() {
    let word = Word32::new(owner(0).bits());
    let mut world = World { holder: Holder::ThisThread, ..World::new([]) };
    for timeout in [None, TRY] {
        assert_eq!(word::lock(&word, owner(0), &world, timeout), Err(Refused::Deadlock));
    }
    world.holder = Holder::OtherThread;
    let refused = Err(Refused::Timeout { owner: Some(owner(0)) });
    for timeout in [TRY, Some(Duration::from_millis(3))] {
        assert_eq!(word::lock(&word, owner(0), &world, timeout), refused);
    }
}

#[test]
fn a_word_that_names_us_and_nobody_confirms_is_corrupt_but_not_at_once() {
    let (word, world) = (Word32::new(owner(0).bits()), World::new([]));
    let refused = Err(Refused::Timeout { owner: Some(owner(0)) });
    assert_eq!(word::lock(&word, owner(0), &world, TRY), refused, "a record may be about to be written");
    let begin = Instant::now();
    assert_eq!(word::lock(&word, owner(0), &world, None), Err(Refused::Corrupt));
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[test]
fn an_overwritten_word_refuses_its_holder() {
    let word = Word32::new(0);
    assert_eq!(word::lock(&word, owner(0), &World::new([]), None), Ok(Acquired::Clean));
    word.store(owner(1).bits() | CONTENDED, Relaxed);
    assert_eq!(word::repair(&word, owner(0)), Err(Corrupt));
    assert_eq!(word::unlock(&word, owner(0)), Err(Corrupt));
    assert_eq!(word.load(Relaxed), owner(1).bits() | CONTENDED);
}

/// Threads with an identity each, as processes have: the real futex, the real clock.
#[test]
fn threads_exclude_each_other() {
    const THREADS: u32 = 4;
    const ROUNDS: u64 = 20_000;
    let (word, count) = (Word32::new(0), Private64::new(0));
    std::thread::scope(|scope| {
        for id in 0..THREADS {
            let (word, count) = (&word, &count);
            scope.spawn(move || {
                let world = World::new([]);
                for _ in 0..ROUNDS {
                    assert_eq!(word::lock(word, owner(id), &world, None), Ok(Acquired::Clean));
                    count.store(count.load(Relaxed) + 1, Relaxed); // a lost one would show
                    word::unlock(word, owner(id)).unwrap();
                }
            });
        }
    });
    assert_eq!((count.load(Relaxed), word.load(Relaxed)), (u64::from(THREADS) * ROUNDS, 0));
}

/// A sleeper, and an unlock that wakes it; then a sleeper, and the notice that its holder died.
#[test]
fn sleepers_are_woken_by_an_unlock_and_by_a_notice() {
    for notice in [false, true] {
        let word = Word32::new(owner(0).bits());
        let acquired = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| word::lock(&word, owner(1), &World::new([]), None));
            while word.load(Relaxed) & CONTENDED == 0 {
                std::thread::yield_now();
            }
            if notice {
                assert!(word::retire(&word, owner(0)));
            } else {
                word::unlock(&word, owner(0)).unwrap();
            }
            waiter.join().unwrap()
        });
        let expected = if notice { Acquired::Inherited { dead: None } } else { Acquired::Clean };
        assert_eq!(acquired, Ok(expected));
        assert!(!word::retire(&word, owner(0)), "not theirs any more");
    }
}
