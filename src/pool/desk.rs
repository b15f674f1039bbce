//! The parent's side of the slots: who submitted what, and where the results go.
//!
//! One private lock ([`Desk`]) stands before everything that the parent writes into the ring: filling and queueing
//! slots, taking results out of DONE slots, and acting for dead workers. Threads that wait for a result do so without
//! it, on the slot's own word.
//!
//! A [`Job`] is what a future and the desk know of one batch. While it is under way ([`UnderWay`], behind the lock), what the
//! argument needs (handles, buffer) is kept. Results are moved out of the slot by whoever comes first: the thread that waits
//! for them, which then has them, and nobody else; or, into the job, a submitter that finds no free slot (so a program may
//! keep any number of unread futures), and the supervisor, for futures that nobody waits for. So slots are bounded, and
//! futures are not.
//!
//! Lock order: desk, then a job's parts, then the segment's own lock. Objects are dropped outside of the desk's lock
//! where that is easy; it does no harm inside, as the segment never calls back.
//!
//! *In a forked child* the pool belongs to the parent: every entry looks first whether this process is the one that
//! made it ([`Parent::is_ours`]), before any private lock, which a thread that does not exist here may hold.

use super::{
    slot::{Ring, Shape, Waited, spins_after},
    trampoline::Code,
    wire::{
        self, BUFFERS, CLOSED_AT, Field, INLINE_AREA, MAGIC, MAGIC_AT, NOWHERE, Order, Tag, Task, pin_tag,
    },
    worker::codec,
};
use crate::{
    atomic::{AcqRel, Acquire, Private32, Private64, Relaxed, Release, SeqCst, fence},
    error::{CreateError, PoolError, TaskError},
    os::process::Bell,
    segment::{
        Kind, Object, PinChain, Segment, Stamp,
        handle::{self, Pins},
        owner::Owner,
        words::{load_bytes, store_bytes},
    },
};
use serde::de::DeserializeOwned;
use std::{
    collections::VecDeque,
    ops::Range,
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// Each sleep ends after this, to look again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A submitter without a free slot looks again after this: slots may also come free by futures that are read.
const ROOM_AGAIN: Duration = Duration::from_millis(20);

/// Names batches. One row for all pools of the process: pins are told apart by guardian and serial, and pools that live
/// at the same time have the same guardian. Taken [`SERIALS`] at a time. Relaxed: unique is enough.
static SERIAL: Private64 = Private64::new(1);
const SERIALS: u64 = 1 << 10;
/// Of a job that never reached a slot.
const NO_SERIAL: u64 = 0;

/// The record of one batch.
#[derive(Debug)]
pub(crate) struct Job {
    slot: usize,
    lap: u32,
    serial: u64,
    count: u32,
    /// Of its results' seals.
    key: u64,
    /// 1 when it is over, and `outcome` final. Release after that was written; Acquire before it is read without the desk.
    resolved: Private32,
    /// Results that nobody has taken yet. `None` also while the job is under way.
    outcome: Mutex<Option<Box<Outcome>>>,
}

/// The pool's own segment, and those of others that its workers have asked for: in all of these a worker may pin for us.
#[derive(Debug)]
struct Segments {
    own: Arc<Segment>,
    /// Not kept: each handle keeps its segment.
    lent: Mutex<Vec<Weak<Segment>>>,
}

impl Segments {
    /// What a result has pinned.
    fn unpin_chain(&self, job: &Job, item: u32, pins: Pins) {
        let other; // dropped here: its last handle may have gone
        let segment = match pins.segment == self.own.id() {
            true => &self.own,
            false => {
                other = Segment::by_id(pins.segment);
                // Gone here, so our pins there are a dead guardian's: who takes part clears them.
                let Some(other) = &other else { return };
                other
            }
        };
        // An error means that this is a forked child, whose pins these are not.
        if segment.unpin_chain(pins.chain, pin_tag(job.serial, item)) == Ok(false) {
            self.unpin(job, item);
        }
    }

    /// All that one item has pinned, if nothing tells where that is.
    fn unpin(&self, job: &Job, item: u32) {
        if job.serial == NO_SERIAL {
            return;
        }
        let wanted = pin_tag(job.serial, item);
        for segment in self.all() {
            // An error means that this is a forked child, whose pins these are not.
            let _ = segment.unpin(|_, tag| tag == wanted);
        }
    }

    fn lend(&self, segment: &Arc<Segment>) {
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.retain(|known| known.strong_count() > 0 && !ptr::eq(known.as_ptr(), Arc::as_ptr(segment)));
        lent.push(Arc::downgrade(segment));
    }

    fn all(&self) -> Vec<Arc<Segment>> {
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        [Arc::clone(&self.own)].into_iter().chain(lent.iter().filter_map(Weak::upgrade)).collect()
    }
}

/// What a job has come to, if its results wait for somebody to take them.
#[derive(Debug)]
struct Outcome {
    results: Results,
    time: Duration,
    segments: Arc<Segments>,
}

/// A job that has a slot.
#[derive(Debug)]
struct UnderWay {
    job: Arc<Job>,
    /// What the argument needs.
    #[allow(dead_code, reason = "held, and let go with the rest")]
    kept: Vec<Arc<Object>>,
    /// Items that died, in their order, if a worker died in it (which may have pinned a buffer without noting where).
    dead: Option<VecDeque<(u32, TaskError)>>,
}

/// The results of a batch that were not taken yet. They are taken in the order of the items, which is that of the
/// records, so a record is looked at when it is its turn.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Records, of which those before `at` were taken.
    bytes: Vec<u8>,
    at: usize,
    /// The item that is taken next.
    next: u32,
    /// Items that died, in their order.
    dead: VecDeque<(u32, TaskError)>,
    /// Why an item that neither died nor left a record has no result, if there is a reason. (In a box: errors are large,
    /// and results are moved for each task.)
    end: Option<Box<TaskError>>,
}

impl Results {
    /// The result of the next item of `job`; `Taken` behind the last one.
    pub(crate) fn take<R: DeserializeOwned>(&mut self, job: &Job, parent: &Parent) -> Result<R, TaskError> {
        let segments = &*parent.segments;
        let item = self.next;
        if item >= job.count {
            return Err(TaskError::Taken);
        }
        self.next += 1;
        if self.dead.front().is_some_and(|dead| dead.0 == item) {
            return self.dead.pop_front().map_or_else(|| Err(lost_result()), |(_, e)| Err(e));
        }
        let rest = &self.bytes[self.at..];
        let Some((record, behind)) =
            wire::split_record(rest, job.count, job.key).filter(|(r, _)| r.item == item)
        else {
            segments.unpin(job, item); // what it pinned before its record failed to appear
            return Err(self.end.as_deref().cloned().unwrap_or_else(lost_result));
        };
        self.at = self.bytes.len() - behind.len();
        let _unpin = record.is_pinned().then_some(Unpin(segments, job, record)); // decoded handles hold by themselves
        match record.tag {
            Tag::Value => {
                let (decoded, failure) = handle::decode(handle::here, || wire::decode(record.body));
                decoded.map_err(|e| codec(e, failure))
            }
            Tag::Error => Err(wire::decode(record.body).unwrap_or_else(|_| lost_result())),
            Tag::Argument => Err(lost_result()),
        }
    }

    /// Lets go of all that is left.
    pub(crate) fn discard(&mut self, job: &Job, parent: &Parent) {
        self.unpin_rest(job, &parent.segments);
        *self = Self { next: job.count, ..Self::default() };
    }

    fn unpin_rest(&self, job: &Job, segments: &Segments) {
        for record in wire::records(&self.bytes[self.at..], job.count, job.key).map_while(Result::ok) {
            drop(Unpin(segments, job, record));
        }
    }

    /// Gives the buffer back.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

impl Job {
    /// One that failed before it reached a slot.
    pub(crate) fn failed(e: TaskError, parent: &Parent) -> Arc<Self> {
        let results = Results { end: Some(Box::new(e)), ..Results::default() };
        let outcome = Outcome { results, time: Duration::ZERO, segments: Arc::clone(&parent.segments) };
        Arc::new(Self {
            slot: 0,
            lap: 0,
            serial: NO_SERIAL,
            count: 1,
            key: 0,
            resolved: Private32::new(1),
            outcome: Mutex::new(Some(Box::new(outcome))),
        })
    }

    pub(crate) fn is_resolved(&self) -> bool {
        self.resolved.load(Acquire) == 1
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Box<Outcome>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The results of a resolved job, and how long it ran in the worker that finished it. Who has them discards what it
    /// does not take.
    fn take_all(&self) -> (Results, Duration) {
        match self.outcome().take() {
            Some(outcome) => {
                let Outcome { results, time, .. } = *outcome;
                (results, time)
            }
            None => (Results { next: self.count, ..Results::default() }, Duration::ZERO),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let outcome = self.outcome.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(outcome) = outcome {
            outcome.results.unpin_rest(self, &outcome.segments);
        }
    }
}

fn lost_result() -> TaskError {
    TaskError::Lost
}

/// What is behind the desk's lock.
#[derive(Debug)]
struct Desk {
    free: Vec<usize>,
    laps: Vec<u32>,
    jobs: Vec<Option<UnderWay>>,
    /// How often something was queued: what the ring's tail must be.
    pushes: u64,
    serials: Range<u64>,
    /// Why nothing is taken any more.
    end: Option<TaskError>,
    /// Why nothing is taken at the moment: no worker comes.
    hopeless: Option<TaskError>,
    /// Of each worker: has something that it finished been collected?
    worked: Vec<bool>,
}

/// What a worker that died has left.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Toll {
    /// It had run something.
    pub(crate) worked: bool,
    /// There were tasks that nobody had taken.
    pub(crate) waiting: bool,
}

impl Desk {
    fn next_serial(&mut self) -> u64 {
        self.serials.next().unwrap_or_else(|| {
            let first = SERIAL.fetch_add(SERIALS, Relaxed);
            self.serials = first + 1..first + SERIALS;
            first
        })
    }

    /// Is it under way?
    fn has(&self, job: &Arc<Job>) -> bool {
        self.jobs[job.slot].as_ref().is_some_and(|under_way| Arc::ptr_eq(&under_way.job, job))
    }

    fn refusal(&self) -> Option<&TaskError> {
        self.end.as_ref().or(self.hopeless.as_ref())
    }
}

/// Unpins one item's handles once they are decoded, also when a user's `Deserialize` panics.
struct Unpin<'a>(&'a Segments, &'a Job, wire::Record<'a>);

impl Drop for Unpin<'_> {
    fn drop(&mut self) {
        for pins in self.2.pins() {
            self.0.unpin_chain(self.1, self.2.item, pins);
        }
    }
}

/// The process that made the pool.
#[derive(Debug)]
pub(crate) struct Parent {
    segments: Arc<Segments>,
    object: Arc<Object>,
    shape: Shape,
    me: Owner,
    key: u64,
    spins: u32,
    /// How many waits in a row ended in a sleep. A hint.
    misses: Private32,
    desk: Mutex<Desk>,
    /// Futures that were dropped before they were ready: their slots wait for the supervisor.
    detached: Private32,
    /// 1 when the pool is closed. Private, as what is in shared memory may be overwritten.
    closed: Private32,
    /// Wakes the supervisor.
    pub(crate) bell: Bell,
    /// Process ids of the workers, by index.
    pub(crate) pids: Mutex<Vec<Option<u32>>>,
}

impl Parent {
    pub(crate) fn new(slots: usize, workers: usize, spins: u32, key: u64) -> Result<Self, PoolError> {
        let segment = Segment::default_segment()?;
        let max = segment.places(); // one is ours; and there are never more places than a shape can have workers
        let shape = Shape::new(slots, workers, wire::PAYLOAD).filter(|_| workers < max as usize);
        let shape = shape.ok_or(CreateError::TooManyProcesses { max })?;
        let me = segment.me()?;
        let object =
            segment.create(Kind::PoolRing, Stamp::NONE, shape.words32(), shape.words64(), |object| {
                object.w64()[MAGIC_AT].store(MAGIC, Release); // workers look with Acquire
            })?;
        Ok(Self {
            segments: Arc::new(Segments { own: segment, lent: Mutex::new(Vec::new()) }),
            object,
            shape,
            me,
            key,
            spins,
            misses: Private32::new(0),
            desk: Mutex::new(Desk {
                free: (0..slots).rev().collect(), // low slots first: their memory is warm
                laps: vec![0; slots],
                jobs: (0..slots).map(|_| None).collect(),
                pushes: 0,
                serials: 0..0,
                end: None,
                hopeless: None,
                worked: vec![false; workers],
            }),
            detached: Private32::new(0),
            closed: Private32::new(0),
            bell: Bell::new()?,
            pids: Mutex::new(vec![None; workers]),
        })
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segments.own
    }
    /// A worker is given this one, too.
    pub(crate) fn lend(&self, segment: &Arc<Segment>) {
        self.segments.lend(segment);
    }
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }
    pub(crate) fn me(&self) -> Owner {
        self.me
    }
    pub(crate) fn key(&self) -> u64 {
        self.key
    }
    pub(crate) fn spins(&self) -> u32 {
        self.spins
    }
    pub(crate) fn workers(&self) -> usize {
        self.shape.workers()
    }
    pub(crate) fn slots(&self) -> usize {
        self.shape.slots()
    }

    /// Not in a forked child.
    pub(crate) fn is_ours(&self) -> bool {
        self.segment().me_now() == Some(self.me)
    }

    pub(crate) fn ring(&self) -> Ring<'_> {
        Ring::new(self.object.w32(), self.object.w64(), self.shape).expect("made with this shape")
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- submitters ---

    /// Queues `count` calls whose argument records are `argument`. Waits for a place.
    pub(crate) fn submit(
        &self,
        code: Code,
        argument: &[u8],
        count: u32,
        timed: bool,
        mut kept: Vec<Arc<Object>>,
    ) -> Result<Arc<Job>, TaskError> {
        if !self.is_ours() {
            return Err(TaskError::Closed);
        }
        let mut place = None;
        if argument.len() > wire::INLINE_BYTES {
            let words = argument.len().div_ceil(8);
            let buffer = self
                .segment()
                .create(Kind::Buffer, Stamp::NONE, 0, words, |buffer| store_bytes(buffer.w64(), argument))
                .map_err(PoolError::from)?;
            place = Some(buffer.place());
            kept.push(buffer);
        }
        let ring = self.ring();
        let mut desk = self.desk();
        loop {
            if let Some(end) = desk.refusal() {
                return Err(end.clone());
            }
            if let Some(slot) = self.free_slot(&mut desk) {
                let serial = desk.next_serial();
                let lap = desk.laps[slot].wrapping_add(1);
                let task = Task::of(&ring, slot).expect("made with this shape");
                let Code { trampoline, function } = code;
                let order = Order { trampoline, function, serial, count, timed };
                task.set_order(self.key, &order, argument);
                task.set_argument(argument, place);
                task.set_result_place(1, NOWHERE);
                task.set_result_place(2, NOWHERE);
                task.set(Field::LastWordsBytes, 0);
                task.set(Field::BufferPins, 0);
                if ring.publish(slot, lap) {
                    desk.pushes += 1;
                    let job = Arc::new(Job {
                        slot,
                        lap,
                        serial,
                        count,
                        key: wire::result_key(self.key, serial),
                        resolved: Private32::new(0),
                        outcome: Mutex::new(None),
                    });
                    desk.laps[slot] = lap;
                    desk.jobs[slot] = Some(UnderWay { job: Arc::clone(&job), kept, dead: None });
                    drop(desk);
                    ring.ring_one();
                    return Ok(job);
                }
                desk.free.push(slot);
            }
            drop(desk);
            ring.wait_for_room(ROOM_AGAIN, || (0..self.shape.slots()).any(|slot| ring.state(slot).is_done()));
            desk = self.desk();
        }
    }

    fn free_slot(&self, desk: &mut Desk) -> Option<usize> {
        if desk.free.is_empty() {
            self.collect_done(desk);
        }
        desk.free.pop()
    }

    // --- results ---

    fn collect_done(&self, desk: &mut Desk) {
        let ring = self.ring();
        for slot in 0..self.shape.slots() {
            if desk.jobs[slot].is_some() && ring.state(slot).is_done() {
                self.collect(desk, slot);
            }
        }
    }

    /// Moves the results of a DONE slot into its job, and frees the slot.
    fn collect(&self, desk: &mut Desk, slot: usize) {
        let Some(under_way) = desk.jobs[slot].take() else { return };
        let (results, time) = self.take_out(desk, &under_way.job, under_way.dead, Vec::new());
        let job = under_way.job;
        let outcome = Outcome { results, time, segments: Arc::clone(&self.segments) };
        *job.outcome() = Some(Box::new(outcome));
        job.resolved.store(1, Release); // still behind the lock, to which who finds the slot free comes first
    }

    /// Moves the results of a DONE slot out, and frees the slot.
    fn take_out(
        &self,
        desk: &mut Desk,
        job: &Job,
        dead: Option<VecDeque<(u32, TaskError)>>,
        buffer: Vec<u8>,
    ) -> (Results, Duration) {
        let ring = self.ring();
        let (bytes, time) = self.read_results(&ring, job, dead.is_some(), buffer);
        let mut results = Results { bytes, dead: dead.unwrap_or_default(), ..Results::default() };
        match desk.refusal() {
            Some(e) => results.end = Some(Box::new(e.clone())),
            None => {
                if let Some(worked) = desk.worked.get_mut(ring.state(job.slot).worker()) {
                    *worked = true;
                }
            }
        }
        ring.free(job.slot, job.lap);
        desk.free.push(job.slot);
        (results, time)
    }

    /// Copies the records out, then looks at them: nothing that a worker wrote is trusted. And how long it took.
    fn read_results(
        &self,
        ring: &Ring<'_>,
        job: &Job,
        mut buried: bool,
        mut bytes: Vec<u8>,
    ) -> (Vec<u8>, Duration) {
        bytes.clear();
        let Some(task) = Task::of(ring, job.slot) else { return (bytes, Duration::ZERO) };
        let progress = ring.progress(job.slot, job.lap);
        let time = Duration::from_nanos(task.get(Field::Nanos));
        let mut copy = |words: &[crate::atomic::Word64]| {
            if progress.bytes.div_ceil(8) <= words.len() as u64 {
                bytes.resize(progress.bytes as usize, 0);
                load_bytes(words, &mut bytes);
            }
        };
        if progress.area == INLINE_AREA {
            copy(task.result_area());
        } else if let Some(place) = task.result_place(progress.area)
            && let Ok(buffer) = self.segment().open(place, Kind::Buffer, (Stamp::NONE, "bytes"))
        {
            copy(buffer.w64());
        }
        if progress.items < job.count {
            self.segments.unpin(job, progress.items); // the pool ended in the middle of this item
            buried = true;
            ring.commit(job.slot, job.lap, progress); // a lap has a commit, if only this one: see `Progress`
        }
        if buried {
            self.segments.unpin(job, BUFFERS);
        } else if [1, 2].iter().any(|&area| task.result_place(area) != Some(NOWHERE)) {
            let chain = PinChain(task.get(Field::BufferPins) as u32);
            self.segments.unpin_chain(job, BUFFERS, Pins { segment: self.segment().id(), chain });
        }
        (bytes, time)
    }

    /// Waits until `job` is resolved, or the deadline. `false`: not yet.
    pub(crate) fn wait(&self, job: &Arc<Job>, deadline: Option<Instant>) -> bool {
        loop {
            if job.is_resolved() {
                return true;
            }
            match self.wait_once(job, deadline) {
                Waited::NotYet => return false,
                Waited::Done | Waited::Over => {
                    let mut desk = self.desk();
                    if desk.has(job) {
                        self.collect(&mut desk, job.slot);
                    }
                }
            }
        }
    }

    /// As [`Self::wait`]; then gives what was not taken yet, and how long it ran in the worker that finished it. `None`: not
    /// yet. `buffer` is for the results.
    pub(crate) fn results(
        &self,
        job: &Arc<Job>,
        deadline: Option<Instant>,
        buffer: Vec<u8>,
    ) -> Option<(Results, Duration)> {
        loop {
            if job.is_resolved() {
                return Some(job.take_all());
            }
            match self.wait_once(job, deadline) {
                Waited::NotYet => return None,
                Waited::Done | Waited::Over => {
                    let mut desk = self.desk();
                    if desk.has(job)
                        && let Some(under_way) = desk.jobs[job.slot].take()
                    {
                        // Ours now, and not put into the job, where others would look for them behind its lock.
                        let taken = self.take_out(&mut desk, job, under_way.dead, buffer);
                        job.resolved.store(1, Release);
                        drop(desk);
                        return Some(taken); // and then lets go of what the argument needed
                    }
                }
            }
        }
    }

    /// Waits until the slot of `job` is DONE, or gone on: whoever freed it resolves the job behind the lock. (Or the word
    /// was overwritten, and the job ends here.) `NotYet`: by the deadline, or this is a forked child, see `TaskFuture`.
    fn wait_once(&self, job: &Job, deadline: Option<Instant>) -> Waited {
        let ring = self.ring();
        loop {
            if !self.is_ours() {
                return Waited::NotYet;
            }
            let left =
                deadline.map_or(LOOK_AGAIN, |d| d.saturating_duration_since(Instant::now()).min(LOOK_AGAIN));
            // Relaxed: a hint.
            let misses = self.misses.load(Relaxed);
            let spins = if left.is_zero() { 0 } else { spins_after(misses, self.spins) };
            let mut waited = match spins {
                0 => Waited::NotYet,
                _ => ring.wait(job.slot, job.lap, spins, Duration::ZERO),
            };
            if spins > 0 {
                let next = if waited == Waited::NotYet { misses.wrapping_add(1) } else { 0 };
                if next != misses {
                    self.misses.store(next, Relaxed);
                }
            }
            if waited == Waited::NotYet {
                waited = ring.wait(job.slot, job.lap, 0, left);
            }
            if waited != Waited::NotYet || left.is_zero() {
                return waited;
            }
        }
    }

    /// Its future is gone before it was resolved.
    pub(crate) fn detach(&self) {
        if self.is_ours() {
            self.detached.fetch_add(1, Relaxed); // a hint for the supervisor
        }
    }

    /// Takes the results that nobody waits for. Are there such tasks still?
    pub(crate) fn sweep(&self) -> bool {
        // Before the look: a detach that comes later is seen by the next sweep.
        if self.detached.load(Relaxed) == 0 || self.detached.swap(0, AcqRel) == 0 {
            return false;
        }
        let mut desk = self.desk();
        self.collect_done(&mut desk);
        // Any job, not those that nobody has any more: a future that is just being dropped still has its own.
        let left = desk.jobs.iter().flatten().next().is_some();
        if left {
            self.detached.fetch_add(1, Relaxed);
        }
        left
    }

    /// Waits for all that was submitted.
    pub(crate) fn wait_for_all(&self) {
        loop {
            let next = {
                let mut desk = self.desk();
                self.collect_done(&mut desk);
                desk.jobs.iter().flatten().next().map(|under_way| Arc::clone(&under_way.job))
            };
            match next {
                Some(job) => self.wait(&job, None),
                None => return,
            };
        }
    }

    // --- for the supervisor ---

    /// Settles what a dead worker ran: the item at fault fails, what is behind it is queued again. The worker was
    /// reaped: it writes no more.
    pub(crate) fn bury(&self, worker: u32, death: impl Fn(String) -> TaskError) -> Toll {
        let ring = self.ring();
        let mut desk = self.desk();
        let is_waiting = |slot: usize| desk.jobs[slot].is_some() && ring.state(slot).is_ready();
        let waiting = (0..self.shape.slots()).any(is_waiting);
        let slots: Vec<usize> = ring.running_in(worker).collect();
        let ran = !slots.is_empty();
        for slot in slots {
            let Some(under_way) = &mut desk.jobs[slot] else { continue };
            let job = Arc::clone(&under_way.job);
            let dead = under_way.dead.get_or_insert_default();
            let mut progress = ring.progress(slot, job.lap);
            let task = Task::of(&ring, slot);
            if progress.items < job.count {
                let words = task.map(|task| task.last_words()).unwrap_or_default();
                if let Some(task) = task {
                    task.set(Field::LastWordsBytes, 0); // they were this death's, not the next one's
                }
                dead.push_back((progress.items, death(words)));
                self.segments.unpin(&job, progress.items); // handles of a result that was not committed
                progress.items += 1;
                ring.commit(slot, job.lap, progress);
                if progress.items < job.count {
                    if ring.requeue(slot, worker) {
                        desk.pushes += 1;
                        continue;
                    }
                    // No room in the ring, which its size rules out: the rest shares the fate.
                    let rest = (progress.items..job.count).map(|item| (item, death(String::new())));
                    dead.extend(rest);
                }
            }
            if let Some(task) = task {
                task.set(Field::Nanos, 0); // nobody measured
            }
            // `false` means that the state was overwritten meanwhile: the waiter finds out.
            let _ = ring.finish(slot, job.lap, worker);
        }
        self.collect_done(&mut desk); // or the next worker of that index would be thought to have done it
        let worked = std::mem::take(&mut desk.worked[worker as usize]) || ran;
        drop(desk);
        ring.pay_wakes_of(worker);
        Toll { worked, waiting }
    }

    /// No worker comes, and none is there: what is queued fails with `e`, and what is submitted, until one is ready.
    pub(crate) fn set_hopeless(&self, e: Option<&TaskError>) {
        let ring = self.ring();
        let mut desk = self.desk();
        desk.hopeless = e.cloned();
        for slot in 0..if e.is_some() { self.shape.slots() } else { 0 } {
            // Not what a worker has claimed, which comes right now.
            if desk.jobs[slot].is_some() && ring.retract(slot) {
                self.collect(&mut desk, slot);
            }
        }
    }

    /// The pool cannot go on: everything that is not done fails with `e`, and all that is submitted from now on. No
    /// worker lives.
    pub(crate) fn give_up(&self, e: &TaskError) {
        let ring = self.ring();
        let mut desk = self.desk();
        desk.end = Some(e.clone());
        for slot in 0..self.shape.slots() {
            if desk.jobs[slot].is_some() {
                ring.retract(slot);
                self.collect(&mut desk, slot);
            }
        }
    }

    /// Nothing is taken any more, and workers leave when they find nothing to do.
    pub(crate) fn close(&self) {
        self.desk().end.get_or_insert(TaskError::Closed);
        self.closed.store(1, Release); // before the word: see `is_damaged`
        self.object.w64()[CLOSED_AT].store(1, Release); // pairs with the Acquire of `Worker::is_closed`
        fence(SeqCst); // pairs with the fence in `Ring::idle`: a worker sees the flag, or hears its bell
        self.ring().ring_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Acquire) != 0
    }

    /// Were words overwritten so that somebody would wait for ever? `is_there`: the worker of that index is not reaped.
    pub(crate) fn is_damaged(&self, is_there: impl Fn(usize) -> bool) -> bool {
        let told = self.object.w64()[CLOSED_AT].load(Acquire) != 0;
        let desk = self.desk();
        let lap = |slot: usize| desk.jobs[slot].as_ref().map(|under_way| under_way.job.lap);
        told && !self.is_closed() || !self.ring().is_sound(desk.pushes, lap, is_there)
    }

    /// Clears what dead processes left.
    pub(crate) fn forget_dead(&self) {
        for segment in self.segments.all() {
            // An error means that the descriptors were closed under us: the next one who allocates tries again.
            let _ = segment.forget_dead();
        }
    }
}
