//! The slots and the ring in the model checker: a submitter, waiters, workers that are killed, and their reaper.
//!
//! A worker that is killed unwinds out of the protocol; its thread then stands for the kernel (the death is known), for
//! the reaper (under the parent's lock, as in `desk`), and for the process that replaces it. All sleeps are unbounded
//! here, so a wake that must come and does not is a deadlock.

use super::*;
use crate::atomic::{Killed, kill_after};
use loom::thread;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex as Plain},
    time::Instant,
};

const FOR_EVER: Duration = Duration::MAX;
/// Items of each task.
const ITEMS: u32 = 2;

/// What the model checks, outside of the model's memory.
#[derive(Debug, Default)]
struct Truth {
    /// Runs of each item, by task and item.
    ran: Vec<[u32; ITEMS as usize]>,
    /// Items that were reported as lost.
    lost: Vec<[u32; ITEMS as usize]>,
}

#[derive(Debug)]
struct World {
    w32: Vec<Word32>,
    w64: Vec<Word64>,
    shape: Shape,
    closed: Word32,
    /// The parent's private lock, and the laps of the slots behind it.
    desk: loom::sync::Mutex<Vec<u32>>,
    truth: Plain<Truth>,
    /// The first task does not end before the second has: for models in which a late wake must be a deadlock.
    first_waits: bool,
    /// Workers go by entries only.
    entries_only: bool,
}

impl World {
    fn new(slots: usize, workers: usize, tasks: usize) -> Self {
        let shape = Shape::new(slots, workers, 2).unwrap();
        Self {
            w32: (0..shape.words32()).map(|_| Word32::new(0)).collect(),
            w64: (0..shape.words64()).map(|_| Word64::new(0)).collect(),
            shape,
            closed: Word32::new(0),
            desk: loom::sync::Mutex::new(vec![0; slots]),
            truth: Plain::new(Truth { ran: vec![[0; 2]; tasks], lost: vec![[0; 2]; tasks] }),
            first_waits: false,
            entries_only: false,
        }
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.w32, &self.w64, self.shape).unwrap()
    }

    /// Puts task `task` into `slot`; gives its lap.
    fn submit(&self, slot: usize, task: usize) -> u32 {
        let lap = self.queue(slot, task);
        self.ring().ring_one();
        lap
    }

    /// As `submit`, before the ring.
    fn queue(&self, slot: usize, task: usize) -> u32 {
        let ring = self.ring();
        let mut laps = self.desk.lock().unwrap();
        laps[slot] += 1;
        ring.payload(slot)[0].store(task as u64 + 1, Relaxed);
        assert!(ring.publish(slot, laps[slot]), "there is room");
        laps[slot]
    }

    fn wait(&self, slot: usize, lap: u32) {
        loop {
            match self.ring().wait(slot, lap, 0, FOR_EVER) {
                Waited::Done => break,
                Waited::NotYet => {}
                Waited::Over => panic!("a task is over before its results were taken"),
            }
        }
        assert_eq!(self.ring().progress(slot, lap).items, ITEMS, "all is over");
    }

    fn free(&self, slot: usize, lap: u32) {
        let _laps = self.desk.lock().unwrap();
        self.ring().free(slot, lap);
    }

    fn close(&self) {
        self.closed.store(1, Release);
        fence(SeqCst);
        self.ring().ring_all();
    }

    /// One life of a worker.
    fn live(&self, me: u32) {
        let ring = self.ring();
        let mut last = 0;
        loop {
            let mut look = ring.claim(me);
            if look == Look::Empty && self.closed.load(Acquire) == 1 {
                return;
            }
            if look == Look::Empty && !self.entries_only {
                look = ring.claim_in(me, last);
            }
            if look == Look::Empty {
                look = ring.idle(me, FOR_EVER, || self.closed.load(Acquire) == 0);
            }
            match look {
                Look::Claimed { slot, lap } => {
                    self.run(slot, lap, me);
                    last = slot;
                }
                Look::Empty => {}
                Look::Damaged => panic!("damaged"),
            }
        }
    }

    fn run(&self, slot: usize, lap: u32, me: u32) {
        let ring = self.ring();
        let task = ring.payload(slot)[0].load(Relaxed) as usize;
        assert!(task > 0, "the task was handed over");
        let mut progress = ring.progress(slot, lap);
        while progress.items < ITEMS {
            self.truth.lock().unwrap().ran[task - 1][progress.items as usize] += 1;
            progress.items += 1;
            ring.commit(slot, lap, progress);
        }
        if self.first_waits && task == 1 {
            while ring.wait(1, 1, 0, FOR_EVER) == Waited::NotYet {}
        }
        assert!(ring.finish(slot, lap, me), "nobody else changes a running slot");
    }

    /// What the desk does for a dead worker.
    fn bury(&self, dead: u32) {
        let ring = self.ring();
        let laps = self.desk.lock().unwrap();
        let slots: Vec<usize> = ring.running_in(dead).collect();
        for slot in slots {
            let lap = laps[slot];
            let task = ring.payload(slot)[0].load(Relaxed) as usize;
            let mut progress = ring.progress(slot, lap);
            if progress.items < ITEMS {
                self.truth.lock().unwrap().lost[task - 1][progress.items as usize] += 1;
                progress.items += 1;
                ring.commit(slot, lap, progress);
                if progress.items < ITEMS {
                    assert!(ring.requeue(slot, dead), "there is room");
                    continue;
                }
            }
            assert!(ring.finish(slot, lap, dead), "it was the dead one's");
        }
        ring.pay_wakes_of(dead);
    }

    /// What the desk does with a task for which no worker comes. Was it still there?
    fn retract(&self, slot: usize, lap: u32) -> bool {
        let ring = self.ring();
        let _laps = self.desk.lock().unwrap();
        if !ring.retract(slot) {
            return false;
        }
        let task = ring.payload(slot)[0].load(Relaxed) as usize;
        let over = ring.progress(slot, lap).items as usize;
        self.truth.lock().unwrap().lost[task - 1][over..].iter_mut().for_each(|lost| *lost += 1);
        ring.free(slot, lap);
        true
    }

    /// A worker, killed before its `kill`-th shared write; then its reaper, and its replacement. Was it killed?
    fn work(&self, me: u32, kill: Option<usize>) -> bool {
        kill_after(kill.unwrap_or(usize::MAX));
        let end = catch_unwind(AssertUnwindSafe(|| self.live(me)));
        match end {
            Ok(()) => {
                kill_after(usize::MAX);
                false
            }
            Err(end) if end.is::<Killed>() => {
                kill_after(usize::MAX);
                self.bury(me);
                self.live(me);
                true
            }
            Err(end) => resume_unwind(end),
        }
    }

    fn check(&self) {
        let truth = self.truth.lock().unwrap();
        for (ran, lost) in truth.ran.iter().flatten().zip(truth.lost.iter().flatten()) {
            // Killed between the run and its commit: both.
            assert!(*ran <= 1 && *lost <= 1 && ran + lost >= 1, "{truth:?}");
        }
    }
}

fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) -> usize {
    let (count, begin) = (Arc::new(Plain::new(0)), Instant::now());
    let counter = Arc::clone(&count);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(move || {
        *counter.lock().unwrap() += 1;
        model();
    });
    let count = *count.lock().unwrap();
    println!("{count} runs, {:.1} s", begin.elapsed().as_secs_f32());
    count
}

/// Runs `model` for every kill point there is; it says whether the kill came.
fn every_kill(preemptions: usize, model: impl Fn(usize) -> bool + Copy + Sync + Send + 'static) {
    for kill in 1.. {
        let killed = Arc::new(Plain::new(false));
        let note = Arc::clone(&killed);
        print!("killed before write {kill}: ");
        explore(preemptions, move || {
            if model(kill) {
                *note.lock().unwrap() = true;
            }
        });
        if !*killed.lock().unwrap() {
            assert!(kill > 5, "there are kill points");
            return;
        }
    }
}

fn must_fail(mutation: Mutation, says: &'static str, model: impl Fn() + Send + 'static) {
    crate::mutation::must_fail(&mutation, &[says], move || breaking(&[mutation], model));
}

/// One worker, one slot that is used twice, a waiter beside it.
fn recycled_slot(kill: Option<usize>) -> bool {
    let world = Arc::new(World::new(1, 1, 2));
    let worker = thread::spawn({
        let world = Arc::clone(&world);
        move || world.work(0, kill)
    });
    for task in 0..2 {
        let lap = world.submit(0, task);
        world.wait(0, lap);
        world.free(0, lap);
    }
    world.close();
    let killed = worker.join().unwrap();
    world.check();
    killed
}

/// Two workers want the one task; who does not get it sleeps, and takes over what the other one leaves.
fn two_workers(kill: Option<usize>) -> bool {
    let world = Arc::new(World::new(1, 2, 1));
    let lap = world.queue(0, 0);
    let workers = [0, 1].map(|me| {
        let world = Arc::clone(&world);
        thread::spawn(move || world.work(me, kill.filter(|_| me == 0)))
    });
    world.wait(0, lap);
    world.close();
    let killed = workers.map(|worker| worker.join().unwrap()).contains(&true);
    world.check();
    killed
}

/// A worker, and a waiter that comes at any time, in a thread of its own.
fn late_waiter(kill: Option<usize>) -> bool {
    late_waiter_in(World::new(1, 1, 1), kill)
}

fn late_waiter_in(world: World, kill: Option<usize>) -> bool {
    let world = Arc::new(world);
    let lap = world.submit(0, 0);
    let worker = thread::spawn({
        let world = Arc::clone(&world);
        move || world.work(0, kill)
    });
    let waiter = thread::spawn({
        let world = Arc::clone(&world);
        move || world.wait(0, lap)
    });
    waiter.join().unwrap();
    world.close();
    let killed = worker.join().unwrap();
    world.check();
    killed
}

/// A task is taken back at any time: before a worker has it, or after its death has queued the rest of it again. Its
/// waiter goes on. The slot is used again, and its old entry leads to the new task.
fn taken_back(kill: Option<usize>) -> bool {
    let world = Arc::new(World::new(1, 1, 2));
    let lap = world.queue(0, 0);
    let worker = thread::spawn({
        let world = Arc::clone(&world);
        move || world.work(0, kill)
    });
    let waiter = thread::spawn({
        let world = Arc::clone(&world);
        move || while world.ring().wait(0, lap, 0, FOR_EVER) == Waited::NotYet {}
    });
    if !world.retract(0, lap) {
        world.wait(0, lap);
        world.free(0, lap);
    }
    let lap = world.submit(0, 1);
    world.wait(0, lap);
    world.close();
    waiter.join().unwrap();
    let killed = worker.join().unwrap();
    world.check();
    killed
}

/// A worker that finds tasks by their entries and without, in two slots, of which one is used again.
fn two_slots(kill: Option<usize>) -> bool {
    let world = Arc::new(World::new(2, 1, 3));
    let worker = thread::spawn({
        let world = Arc::clone(&world);
        move || world.work(0, kill)
    });
    let first = world.submit(0, 0);
    let second = world.submit(1, 1);
    world.wait(0, first);
    world.free(0, first);
    let third = world.submit(0, 2);
    world.wait(1, second);
    world.wait(0, third);
    world.close();
    let killed = worker.join().unwrap();
    world.check();
    killed
}

#[test]
fn tasks_are_found_without_their_entries() {
    explore(3, || {
        two_slots(None);
    });
}

#[test]
fn killed_before_every_write_in_two_slots() {
    every_kill(1, |kill| two_slots(Some(kill)));
}

#[test]
fn a_slot_is_used_again() {
    explore(3, || {
        recycled_slot(None);
    });
}

#[test]
fn workers_share_the_ring() {
    explore(2, || {
        two_workers(None);
    });
}

/// Two workers that sleep; the first task does not end before the second has. While worker 0 wakes up by itself and
/// takes the first task, the second is pushed, and the ring goes to worker 0, whose bit is still set.
fn ring_for_two() {
    let mut world = World::new(2, 2, 2);
    world.first_waits = true;
    let world = Arc::new(world);
    let asleep = Arc::new(Word32::new(0));
    let worker = thread::spawn({
        let (world, asleep) = (Arc::clone(&world), Arc::clone(&asleep));
        move || {
            let look = world.ring().idle(1, FOR_EVER, || {
                asleep.store(1, Release);
                futex::wake(&asleep, 1);
                true
            });
            if let Look::Claimed { slot, lap } = look {
                world.run(slot, lap, 1);
            }
            world.live(1);
        }
    });
    while asleep.load(Acquire) == 0 {
        futex::wait(&asleep, 0, FOR_EVER);
    }
    let first = world.queue(0, 0);
    let parent = thread::spawn({
        let world = Arc::clone(&world);
        move || {
            let second = world.submit(1, 1);
            world.wait(0, first);
            world.wait(1, second);
            world.close();
        }
    });
    if let Look::Claimed { slot, lap } = world.ring().idle(0, FOR_EVER, || true) {
        world.run(slot, lap, 0);
    }
    world.live(0);
    parent.join().unwrap();
    worker.join().unwrap();
    world.check();
}

/// A worker died after its claim, before it advanced head: its entry is still there when the slot is filled again, and
/// may be the way to the next task before that one's own entry counts.
fn old_entry() {
    let world = Arc::new(World::new(1, 1, 2));
    let lap = world.queue(0, 0);
    world.ring().state_word(0).store(State::ready(lap).claimed(0).0, Relaxed);
    world.truth.lock().unwrap().lost[0] = [1; 2];
    world.ring().commit(0, lap, Progress { items: ITEMS, ..Progress::default() });
    assert!(world.ring().finish(0, lap, 0));
    world.free(0, lap);
    let worker = thread::spawn({
        let world = Arc::clone(&world);
        move || world.live(0)
    });
    let lap = world.submit(0, 1);
    world.wait(0, lap);
    world.close();
    worker.join().unwrap();
    world.check();
}

#[test]
fn a_ring_for_a_second_task_is_passed_on() {
    explore(2, ring_for_two);
}

#[test]
fn an_old_entry_leads_to_a_whole_task() {
    explore(3, old_entry);
}

#[test]
fn waiters_come_at_any_time() {
    explore(3, || {
        late_waiter(None);
    });
}

#[test]
fn killed_before_every_write_with_a_late_waiter() {
    every_kill(3, |kill| late_waiter(Some(kill)));
}

#[test]
fn killed_before_every_write_in_a_recycled_slot() {
    every_kill(2, |kill| recycled_slot(Some(kill)));
}

#[test]
fn killed_before_every_write_beside_another() {
    every_kill(1, |kill| two_workers(Some(kill)));
}

#[test]
fn a_task_is_taken_back() {
    explore(2, || {
        taken_back(None);
    });
}

#[test]
fn killed_before_every_write_while_its_task_is_taken_back() {
    every_kill(2, |kill| taken_back(Some(kill)));
}

/// A submitter without a slot is woken when one comes free.
fn room(slots: usize) {
    explore(3, move || {
        let world = Arc::new(World::new(slots, 1, 1));
        let worker = thread::spawn({
            let world = Arc::clone(&world);
            move || world.work(0, None)
        });
        world.submit(0, 0);
        while !world.ring().state(0).is_done() {
            world.ring().wait_for_room(FOR_EVER, || world.ring().state(0).is_done());
        }
        world.close();
        worker.join().unwrap();
        world.check();
    });
}

#[test]
fn room_is_waited_for() {
    room(1);
}

/// With so many slots, who waits for room waits for head.
#[test]
fn room_is_waited_for_by_head() {
    room(4);
}

#[test]
fn mutation_passes_the_entries_of_others() {
    must_fail(Mutation::PassesOthers, "deadlock", || {
        explore(3, || {
            two_slots(None);
        });
    });
}

#[test]
fn mutation_an_entry_is_kept() {
    must_fail(Mutation::EntryKept, "deadlock", || room(4));
}

#[test]
fn mutation_passes_before_the_fence() {
    must_fail(Mutation::PassesBeforeFence, "deadlock", || room(4));
}

#[test]
fn mutation_a_claim_that_skips() {
    must_fail(Mutation::SkippingClaim, "deadlock", || {
        explore(3, || {
            late_waiter_in(World { entries_only: true, ..World::new(1, 1, 1) }, None);
        });
    });
}

#[test]
fn mutation_entry_before_ready() {
    must_fail(Mutation::EntryBeforeReady, "deadlock", || {
        explore(3, || {
            recycled_slot(None);
        });
    });
}

#[test]
fn mutation_ready_hands_nothing_over() {
    must_fail(Mutation::RelaxedReady, "Truth", || {
        explore(3, old_entry);
    });
}

#[test]
fn mutation_sleep_without_look() {
    must_fail(Mutation::SleepWithoutLook, "deadlock", || {
        explore(3, || {
            recycled_slot(None);
        });
    });
}

#[test]
fn mutation_ring_kept() {
    must_fail(Mutation::RingKept, "deadlock", || {
        explore(2, ring_for_two);
    });
}

#[test]
fn mutation_waiter_overwritten() {
    must_fail(Mutation::WaiterOverwritten, "deadlock", || {
        explore(3, || {
            late_waiter(None);
        });
    });
}

#[test]
fn mutation_taken_back_from_a_worker() {
    must_fail(Mutation::RetractSwaps, "nobody else changes a running slot", || {
        explore(2, || {
            taken_back(None);
        });
    });
}

/// Only the waiter can be overwritten here: the worker comes later.
#[test]
fn mutation_taken_back_from_a_waiter() {
    must_fail(Mutation::RetractSwaps, "deadlock", || {
        explore(2, || {
            let world = Arc::new(World::new(1, 1, 1));
            let lap = world.queue(0, 0);
            let waiter = thread::spawn({
                let world = Arc::clone(&world);
                move || while world.ring().wait(0, lap, 0, FOR_EVER) == Waited::NotYet {}
            });
            assert!(world.retract(0, lap), "nobody else has it");
            waiter.join().unwrap();
            world.check();
        });
    });
}

#[test]
fn mutation_wakes_unpaid() {
    must_fail(Mutation::WakesUnpaid, "deadlock", || every_kill(2, |kill| late_waiter(Some(kill))));
}
