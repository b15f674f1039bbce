//! The lock word in the model checker: three processes, futex and death modelled, a kill before every shared write.

use super::model::{ALIVE, Caught, Kernel, LONG, Single, check, check_every_kill, must_fail, owner, spare};
use crate::{
    atomic::{Ordering, Relaxed, Word32, Word64},
    os::futex,
    segment::owner::Owner,
    sync::{
        cell::Committed,
        mutation::Mutation,
        word::{self, Acquired, Holder, Peers, Refused},
    },
};
use loom::{cell::UnsafeCell, thread};
use std::{
    convert::Infallible,
    rc::Rc, // model threads are coroutines of one thread
    sync::{Arc, Mutex},
    time::Duration,
};

/// A lock and what it protects.
#[derive(Debug)]
struct World {
    kernel: Kernel,
    word: Word32,
    /// The value, of one word: its number of commits.
    value: [Word64; 1],
    /// loom fails if two are here that are not ordered by the lock.
    section: UnsafeCell<()>,
    /// The truth. Not a word of the model: it is counted in the step that commits.
    commits: Mutex<u64>,
}

type Outcome = Result<Acquired, Refused<Infallible>>;

impl World {
    fn new(question: Ordering) -> Rc<Self> {
        Rc::new(Self {
            kernel: Kernel::new(question),
            word: Word32::new(0),
            value: [Word64::new(0)],
            section: UnsafeCell::new(()),
            commits: Mutex::new(0),
        })
    }

    fn lock(&self, me: Owner, timeout: Option<Duration>) -> Outcome {
        let outcome = word::lock(&self.word, me, &Single(&self.kernel), timeout);
        match outcome {
            Ok(_) => self.section.with_mut(|_| ()),
            Err(Refused::Timeout { .. }) => assert!(timeout.is_some(), "a time-out out of nowhere"),
            Err(refused) => panic!("refused: {refused:?}"),
        }
        outcome
    }

    fn unlock(&self, me: Owner) {
        self.section.with_mut(|_| ());
        word::unlock(&self.word, me).expect("the word of a held lock names its holder");
    }

    /// `*value.get_lock() += 1`.
    fn increment(&self, me: Owner, timeout: Option<Duration>) -> Outcome {
        let outcome = self.lock(me, timeout);
        match outcome {
            Ok(Acquired::Inherited { .. }) => word::repair(&self.word, me).expect("still ours"),
            Ok(Acquired::Clean) => {}
            Err(_) => return outcome,
        }
        let cell = Committed::new(&self.value, 8);
        let mut value = [0; 8];
        cell.read_locked(&mut value);
        cell.commit(&(u64::from_ne_bytes(value) + 1).to_ne_bytes());
        *self.commits.lock().unwrap() += 1;
        self.unlock(me);
        outcome
    }

    /// Whatever happened: the lock can be had, and no committed update is lost.
    fn is_whole(&self, me: Owner) {
        let _ = self.lock(me, Some(Duration::ZERO)).expect("nobody holds it who lives");
        let mut value = [0; 8];
        Committed::new(&self.value, 8).read_locked(&mut value);
        assert_eq!(u64::from_ne_bytes(value), *self.commits.lock().unwrap(), "lost update");
    }
}

/// The process that looks at the end.
const MAIN: usize = 3;
const TRY: Option<Duration> = Some(Duration::ZERO);
/// One sleep long.
const SHORT: Option<Duration> = Some(Duration::from_millis(1));
/// Over before the first sleep of one who waits without a time-out.
const SHORTER: Option<Duration> = Some(Duration::from_micros(500));

/// Process `id` on a model thread of its own, killed before its `kill`-th write; was it?
fn spawn(
    world: &Rc<World>,
    id: usize,
    kill: Option<usize>,
    body: impl FnOnce(&World) + 'static,
    after: impl FnOnce(&World) + 'static,
) -> thread::JoinHandle<bool> {
    let world = world.clone();
    thread::spawn(move || world.kernel.run(id, kill, || body(&world), || after(&world)))
}

fn join<const N: usize>(processes: [thread::JoinHandle<bool>; N]) -> [bool; N] {
    processes.map(|process| process.join().unwrap())
}

/// After a death, time passes for those who sleep: what the bound of a sleep is for.
fn time_outs(world: &World) {
    futex::time_passes(&world.word, LONG);
}

/// Three processes increment once each.
fn three(question: Ordering, kills: [Option<usize>; 3], killed: &dyn Fn(), forms: [Option<Duration>; 3]) {
    let world = World::new(question);
    let processes = [0, 1, 2].map(|id| {
        let body = move |world: &World| {
            let _ = world.increment(owner(id), forms[id]);
        };
        spawn(&world, id, kills[id], body, time_outs)
    });
    if join(processes)[0] {
        killed();
    }
    world.is_whole(owner(MAIN));
}

fn three_without_death() {
    check("three processes", || three(ALIVE, [None; 3], &|| (), [None; 3]));
}

fn three_with_a_victim(question: Ordering) {
    check_every_kill("three processes", 4, move |n, killed| {
        three(question, [Some(n), None, None], killed, [None; 3]);
    });
}

#[test]
fn nobody_dies() {
    three_without_death();
}

#[test]
fn one_is_killed_anywhere() {
    three_with_a_victim(ALIVE);
}

#[test]
fn one_is_killed_anywhere_beside_a_try() {
    check_every_kill("two and a try", 4, |n, killed| {
        three(ALIVE, [Some(n), None, None], killed, [None, TRY, None]);
    });
}

/// The heir dies too, also in its takeover.
#[test]
fn two_are_killed_anywhere() {
    for second in 1..=8 {
        check_every_kill(&format!("another killed before write {second}"), 3, move |n, killed| {
            let world = World::new(ALIVE);
            let kills = [Some(n), Some(second)];
            let processes = [0, 1].map(|id| {
                let body = move |world: &World| {
                    let _ = world.increment(owner(id), None);
                };
                spawn(&world, id, kills[id], body, time_outs)
            });
            if join(processes)[0] {
                killed();
            }
            world.is_whole(owner(MAIN));
        });
    }
}

/// A waiter is killed while others hold and wait: no owner dies at all, but the wake may have been spent on the dead.
fn a_waiter_is_killed() {
    check_every_kill("the woken waiter", 2, |n, killed| {
        let world = World::new(ALIVE);
        let _ = world.lock(owner(MAIN), None);
        let victim = |world: &World| {
            let _ = world.lock(owner(0), None);
            spare(); // it dies waiting, or not at all
            world.unlock(owner(0));
        };
        let victim = spawn(&world, 0, Some(n), victim, time_outs);
        let other = |world: &World| {
            let _ = world.increment(owner(1), None);
        };
        let other = spawn(&world, 1, None, other, time_outs);
        world.unlock(owner(MAIN));
        if victim.join().unwrap() {
            killed();
        }
        other.join().unwrap();
        world.is_whole(owner(MAIN));
    });
}

#[test]
fn a_wake_spent_on_the_dead_is_healed() {
    a_waiter_is_killed();
}

/// A supervisor's notice makes time-outs unnecessary: here no sleep has a bound. The main thread is the supervisor.
fn with_notice() {
    check_every_kill("three processes, unbounded, and a notice", 3, |n, killed| {
        let world = World::new(ALIVE);
        let [victim, others @ ..] = [0, 1, 2].map(|id| {
            let body = move |world: &World| {
                let _ = world.lock(owner(id), None);
                world.unlock(owner(id));
            };
            spawn(&world, id, (id == 0).then_some(n), body, |_| ())
        });
        if victim.join().unwrap() {
            killed();
            word::retire(&world.word, owner(0));
        }
        for other in others {
            other.join().unwrap();
        }
        world.is_whole(owner(MAIN));
    });
}

#[test]
fn a_notice_needs_no_time_outs() {
    crate::sync::mutation::breaking(&[Mutation::UnboundedSleep], with_notice);
}

#[test]
fn one_is_killed_anywhere_beside_a_timed_wait() {
    check_every_kill("one, a timed one and a try", 4, |n, killed| {
        three(ALIVE, [Some(n), None, None], killed, [None, SHORT, TRY]);
    });
}

/// A waiter that gives up may have been the one that was woken: it must wake another. The others' sleeps are
/// longer than the time that passes here, so nothing else wakes them.
fn one_gives_up() {
    check("one gives up, others do not", || {
        let world = World::new(ALIVE);
        let processes = [0, 1, 2].map(|id| {
            let body = move |world: &World| {
                let _ = world.increment(owner(id), if id == 1 { SHORTER } else { None });
                if id == 0 {
                    let _ = world.increment(owner(id), None); // barges in before the one it woke
                }
            };
            spawn(&world, id, None, body, time_outs)
        });
        futex::time_passes(&world.word, SHORTER.unwrap());
        let _ = join(processes);
        world.is_whole(owner(MAIN));
    });
}

#[test]
fn who_gives_up_wakes_another() {
    one_gives_up();
}

/// A time-out that may come at any moment: the main thread is the clock.
#[test]
fn a_timed_lock_times_out_or_gets_it() {
    let seen = Arc::new(Mutex::new((false, false)));
    let outcomes = seen.clone();
    check("two, a timed one and a clock", move || {
        let world = World::new(ALIVE);
        let outcomes = outcomes.clone();
        let timed = move |world: &World| match world.increment(owner(0), SHORT) {
            Ok(_) => outcomes.lock().unwrap().0 = true,
            Err(_) => outcomes.lock().unwrap().1 = true,
        };
        let blocking = |world: &World| {
            let _ = world.increment(owner(1), None);
        };
        let processes =
            [spawn(&world, 0, None, timed, time_outs), spawn(&world, 1, None, blocking, time_outs)];
        futex::time_passes(&world.word, LONG);
        let _ = join(processes);
        world.is_whole(owner(MAIN));
    });
    assert_eq!(*seen.lock().unwrap(), (true, true), "both ends are among the executions");
}

/// A holder that lives and never unlocks (a leaked guard, a stopped process).
#[test]
fn a_timed_lock_ends_and_names_the_live_holder() {
    check("a holder that stays", || {
        let world = World::new(ALIVE);
        let _ = world.lock(owner(MAIN), None);
        for timeout in [TRY, SHORT] {
            let world = world.clone();
            let waiter = thread::spawn({
                let world = world.clone();
                move || {
                    let refused = Err(Refused::Timeout { owner: Some(owner(MAIN)) });
                    assert_eq!(world.lock(owner(0), timeout), refused);
                }
            });
            futex::time_passes(&world.word, LONG);
            waiter.join().unwrap();
        }
        world.unlock(owner(MAIN));
    });
}

/// A thread of a process, with the process's private record of who holds the lock.
struct Threaded<'a> {
    kernel: Single<'a>,
    record: &'a Word32,
    thread: u32,
}

impl Peers for Threaded<'_> {
    type Lost = Infallible;

    fn is_alive(&self, owner: Owner) -> Result<bool, Infallible> {
        self.kernel.is_alive(owner)
    }

    fn holder(&self) -> Holder {
        match self.record.load(Relaxed) {
            0 => Holder::Nobody,
            thread if thread == self.thread => Holder::ThisThread,
            _ => Holder::OtherThread,
        }
    }

    fn sleeping(&self, word: &Word32, expected: Owner, sleep: impl FnOnce()) {
        self.kernel.sleeping(word, expected, sleep);
    }
}

/// Two threads of one process and another process. Between its compare-exchange and its record a thread holds the lock
/// unconfirmed: the other must neither call that corrupt nor a deadlock.
#[test]
fn threads_of_one_process() {
    check("two threads of a process, and another process", || {
        let (world, record) = (World::new(ALIVE), Rc::new(Word32::new(0)));
        let threads = [1, 2].map(|thread| {
            let (world, record) = (world.clone(), record.clone());
            thread::spawn(move || {
                let peers = Threaded { kernel: Single(&world.kernel), record: &record, thread };
                let acquired = word::lock(&world.word, owner(0), &peers, None);
                assert_eq!(acquired, Ok(Acquired::Clean));
                record.store(thread, Relaxed);
                world.section.with_mut(|_| ());
                record.store(0, Relaxed);
                world.unlock(owner(0));
            })
        });
        let other = |world: &World| {
            let _ = world.increment(owner(1), None);
        };
        let other = spawn(&world, 1, None, other, time_outs);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        other.join().unwrap();
        world.is_whole(owner(MAIN));
    });
}

/// Two words that are written in place, as an array is: the second process leaves what it inherits as it is, the third
/// repairs it. A lock that is clean protects whole data.
fn in_place() {
    check_every_kill("three processes in place", 5, |n, killed| {
        let world = World::new(ALIVE);
        let record = Rc::new([Word64::new(0), Word64::new(0)]);
        let processes = [0, 1, 2].map(|id| {
            let record = record.clone();
            let body = move |world: &World| {
                let me = owner(id);
                let [a, b] = [0, 1].map(|i: usize| &record[i]);
                match world.lock(me, None).expect("without a time-out") {
                    Acquired::Inherited { .. } if id == 1 => return world.unlock(me),
                    Acquired::Inherited { .. } => {
                        b.store(a.load(Relaxed), Relaxed);
                        word::repair(&world.word, me).expect("still ours");
                    }
                    Acquired::Clean => assert_eq!(a.load(Relaxed), b.load(Relaxed), "clean, but torn"),
                }
                for half in [a, b] {
                    half.store(half.load(Relaxed) + 1, Relaxed);
                }
                world.unlock(me);
            };
            spawn(&world, id, (id == 0).then_some(n), body, time_outs)
        });
        if join(processes)[0] {
            killed();
        }
        if world.lock(owner(MAIN), TRY) == Ok(Acquired::Clean) {
            assert_eq!(record[0].load(Relaxed), record[1].load(Relaxed), "clean, but torn");
        }
    });
}

#[test]
fn what_is_not_repaired_stays_inherited() {
    in_place();
}

mod mutations {
    use super::*;
    use Mutation::*;

    #[test]
    fn takeover_by_store() {
        must_fail(&[TakeoverByStore], Caught::Race, || three_with_a_victim(ALIVE));
    }

    #[test]
    fn relaxed_liveness_query() {
        must_fail(&[], Caught::Race, || three_with_a_victim(Relaxed));
    }

    #[test]
    fn relaxed_lock() {
        must_fail(&[RelaxedLock], Caught::Race, three_without_death);
    }

    #[test]
    fn relaxed_unlock() {
        must_fail(&[RelaxedUnlock], Caught::Race, three_without_death);
    }

    #[test]
    fn unbounded_sleep_and_the_woken_waiter_is_killed() {
        must_fail(&[UnboundedSleep], Caught::Deadlock, a_waiter_is_killed);
    }

    #[test]
    fn unbounded_sleep_and_the_holder_is_killed() {
        must_fail(&[UnboundedSleep], Caught::Deadlock, || three_with_a_victim(ALIVE));
    }

    #[test]
    fn contended_dropped_after_a_sleep() {
        must_fail(&[ContendedDropped], Caught::Deadlock, three_without_death);
    }

    #[test]
    fn giving_up_silently() {
        must_fail(&[GivesUpSilently], Caught::Deadlock, one_gives_up);
    }

    #[test]
    fn unlock_without_wake() {
        must_fail(&[UnlockWithoutWake], Caught::Deadlock, three_without_death);
    }

    #[test]
    fn poison_dropped() {
        must_fail(&[PoisonDropped], Caught::Saying("clean, but torn"), in_place);
    }

    #[test]
    fn notice_without_change() {
        must_fail(&[NoticeWithoutChange, UnboundedSleep], Caught::Deadlock, with_notice);
    }

    #[test]
    fn relaxed_notice() {
        must_fail(&[RelaxedNotice, UnboundedSleep], Caught::Race, with_notice);
    }
}
