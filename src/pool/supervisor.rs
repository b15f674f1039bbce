//! The thread that starts workers, hears how they end, settles what they ran, and replaces them.
//!
//! One thread per pool, which lives as long as the pool: the kernel kills workers when the *thread* that started them
//! ends. It sleeps in `poll` over the pidfds of the workers, their channels, and a bell.
//!
//! ```text
//!   Empty(when) --spawn--> Taken: Starting --Here--> Starting --Ready(owner)--> Taken: Ready
//!      ^                            |                                              |
//!      +------ back-off 10 ms .. 1 s+--- if it had run nothing, and for no second -+
//!      +------ at once ------------------------------------------------------------+
//! ```
//!
//! **A death, in this order**: reap (the worker writes no more); hear what it had said (it may have been ready, and have
//! claimed, before we knew); hand its locks on; settle its task; clear what it held in the segment; start another.
//!
//! **Who dies before Ready**, or right after it without a task, is replaced later each time. If no worker comes for too
//! long (`patience`), a pool that starts is none, and later the tasks that are queued fail, and so do new ones at once,
//! instead of waiting; the pool goes on trying, and takes tasks again as soon as a worker is ready. A program that is not
//! ours (it exits or closes the channel without Here, or says nothing for [`HANDSHAKE`]) is found out in the first start.
//!
//! **A worker that is none any more.** A task may replace its process by another program (`exec`). That program keeps the
//! pid, so its pidfd says nothing; but the kernel has let go of the owner id, as at a death, and closed the channel. Where
//! a channel hangs up, and once a second for all, the owner is asked for. If it is gone and the process is there (with a
//! program in it: one that is just dying has none), it is killed, and the death goes its way.
//!
//! **Times** of others are measured in time in which this thread could run ([`Awake`]): a program that is stopped as a
//! whole (job control, a debugger, a frozen cgroup) has stopped its workers as well.

use super::{
    desk::Parent,
    patience::{Life, Patience, Verdict},
    wire::{self, Answer, Hello, MAGIC, MAX_MESSAGE, Refusal, Welcome},
    worker::{self, EXIT_DAMAGED, EXIT_LEFT, MARKER, Marker},
};
use crate::{
    error::{OsError, PoolError, PoolFault, TaskError},
    os::{
        channel, image,
        process::{self, Child, Exit, Signal},
    },
    segment::{Segment, owner::Owner},
    sync::word,
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd},
    io::Errno,
};
use std::{
    ffi::{CStr, CString, OsStr, OsString},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A program that is ours says Here within this time.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Between Here and Ready the image's constructors are through; what is left is short, but the machine may be busy.
const ATTACH: Duration = Duration::from_secs(30);
/// Between the end of a starting worker's channel and its own.
const GRACE: Duration = Duration::from_secs(1);
/// A worker that lived this long after it was ready is none that dies at once.
const SETTLED: Duration = Duration::from_secs(1);
/// How often the owner of a channel that hung up is asked for, during the first [`GRACE`].
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// While times are measured, sleeps end after this.
const TICK: Duration = Duration::from_millis(100);
/// Workers that were told to leave and do not (stopped, or stuck in an exit handler) are killed after this.
const FAREWELL: Duration = Duration::from_secs(5);
/// Each sleep ends after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// While there are tasks whose future was dropped: how often their results are cleared away.
const SWEEP: Duration = Duration::from_millis(100);

/// How a worker died that others have reaped.
const DIED_UNSEEN: PoolFault = PoolFault::WorkersDie { ready: false, signal: None, code: None };

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `None`: this program.
    pub(crate) exe: Option<PathBuf>,
    pub(crate) name: String,
    pub(crate) env: Vec<(OsString, OsString)>,
}

impl Plan {
    /// For messages.
    pub(crate) fn program(&self) -> PathBuf {
        self.exe
            .clone()
            .unwrap_or_else(|| std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()))
    }
}

/// Starts the thread, and waits until all workers are ready.
pub(crate) fn start(parent: Arc<Parent>, plan: Plan) -> Result<JoinHandle<()>, PoolError> {
    let (tell, hear) = mpsc::sync_channel(1);
    let nul = |_| OsError::new("posix_spawn (a NUL in a name)", libc_einval());
    let exe = match &plan.exe {
        None => process::THIS_PROGRAM.to_owned(),
        Some(path) => CString::new(path.as_os_str().as_encoded_bytes()).map_err(nul)?,
    };
    let name = CString::new(plan.name.as_bytes()).map_err(nul)?;
    let run = move || {
        let seats: Vec<_> = (0..parent.workers()).map(|_| Seat::Empty { again: Instant::now() }).collect();
        let mut supervisor = Supervisor {
            parent: Arc::clone(&parent),
            plan,
            exe,
            name,
            patience: Patience::new(seats.len()),
            seats,
            awake: Awake { ran: Duration::ZERO, looked: Instant::now() },
            farewell: None,
            looked: Instant::now(),
        };
        let e = match catch_unwind(AssertUnwindSafe(|| supervisor.run(&tell))) {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e,
            Err(_) => PoolFault::Supervisor.into(), // a bug of ours, and no reason for anybody to wait for ever
        };
        supervisor.end_all();
        parent.give_up(&TaskError::Pool(e.clone()));
        let _ = tell.try_send(Err(e)); // nobody listens once the start is over
    };
    let thread = std::thread::Builder::new()
        .name("allmend-pool".into())
        .spawn(run)
        .map_err(|e| OsError::new("pthread_create", e.raw_os_error().unwrap_or_default()))?;
    match hear.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(e)) => {
            let _ = thread.join(); // it ends, with all workers, after it has told
            Err(e)
        }
        Err(_) => Err(PoolFault::Supervisor.into()),
    }
}

fn libc_einval() -> i32 {
    Errno::INVAL.raw_os_error()
}

#[derive(Debug)]
enum Seat {
    /// Nobody; to be filled at that time.
    Empty {
        again: Instant,
    },
    Taken(Worker),
}

#[derive(Debug)]
struct Worker {
    child: Child,
    channel: process::Kept,
    /// When it was started, or became ready. In awake time, as all times here.
    since: Duration,
    here: bool,
    /// Ready, under this id.
    owner: Option<Owner>,
    /// Since when its end of the channel is closed.
    silent: Option<Duration>,
    /// Since when its owner id is nobody's.
    gone: Option<Duration>,
    /// It had become another program.
    replaced: bool,
    refused: Option<Refusal>,
    /// Segments that it asked for.
    needs: Vec<u128>,
    /// Killed because it did not become a worker in time.
    expired: bool,
}

/// How long this thread was awake, or could have been.
#[derive(Debug)]
struct Awake {
    ran: Duration,
    looked: Instant,
}

impl Awake {
    /// Asked at least once in a [`TICK`] by who measures. What is far more than that was a stop.
    fn now(&mut self) -> Duration {
        let now = Instant::now();
        self.ran += now.saturating_duration_since(self.looked).min(2 * TICK);
        self.looked = now;
        self.ran
    }
}

struct Supervisor {
    parent: Arc<Parent>,
    plan: Plan,
    exe: CString,
    name: CString,
    seats: Vec<Seat>,
    patience: Patience,
    awake: Awake,
    /// When the pool was closed, in awake time.
    farewell: Option<Duration>,
    /// When the ring was last looked at.
    looked: Instant,
}

impl Supervisor {
    /// Until all have left. `Err`: the pool is at its end, and somebody must clean up.
    fn run(&mut self, tell: &mpsc::SyncSender<Result<(), PoolError>>) -> Result<(), PoolError> {
        let mut starting = true;
        loop {
            self.look_at_all()?;
            self.fill_seats(starting)?;
            self.check_times()?;
            self.check_owners()?;
            if starting && self.seats.iter().all(|seat| matches!(seat, Seat::Taken(w) if w.owner.is_some())) {
                starting = false;
                let _ = tell.send(Ok(()));
            }
            if self.parent.is_closed() && self.take_leave() {
                return Ok(());
            }
            let unread = self.parent.sweep();
            self.sleep_and_hear(if unread { SWEEP } else { LOOK_AGAIN }, starting)?;
        }
    }

    /// Once a second: were words overwritten that nobody else would miss? And is a worker still one, whose channel
    /// somebody else keeps open?
    fn look_at_all(&mut self) -> Result<(), PoolError> {
        if self.looked.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        self.looked = Instant::now();
        let now = self.awake.now();
        for index in 0..self.seats.len() {
            self.ask_owner(index, now)?;
        }
        let is_there = |index: usize| matches!(self.seats.get(index), Some(Seat::Taken(_)));
        if self.parent.is_damaged(is_there) { Err(PoolFault::Damaged.into()) } else { Ok(()) }
    }

    /// Starts workers where there is none and it is time.
    fn fill_seats(&mut self, starting: bool) -> Result<(), PoolError> {
        if self.parent.is_closed() {
            return Ok(());
        }
        for index in 0..self.seats.len() {
            match &self.seats[index] {
                Seat::Empty { again } if *again <= Instant::now() => {}
                _ => continue,
            }
            match self.spawn(index) {
                Ok(worker) => self.seats[index] = Seat::Taken(worker),
                Err(e) if starting => return Err(e),
                Err(e) => self.take_note(index, Life::Unready, starting, || e)?,
            }
        }
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> Result<Worker, PoolError> {
        self.parent.segment().descriptor()?; // what it could not be given
        let (ours, theirs) = channel::pair()?;
        // The child gets it under the number that it has here: no descriptor that the host left inheritable has it.
        let number = theirs.as_raw_fd();
        let marker =
            Marker { channel: number, parent: process::pid(), depth: worker::depth() + 1 }.to_string();
        let marker = (OsStr::new(MARKER), OsStr::new(&marker));
        let own = self.plan.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let extra: Vec<_> = own.filter(|(name, _)| *name != MARKER).chain([marker]).collect();
        let mut name = self.name.as_bytes().to_vec();
        name.extend_from_slice(format!("-{index}").as_bytes());
        let name = CString::new(name).map_err(|_| OsError::new("posix_spawn", libc_einval()))?;
        let arguments: [&CStr; 1] = [&name];
        let child =
            process::spawn(&self.exe, &arguments, &extra, &[(theirs.as_fd(), number)]).map_err(|e| {
                // It has ended, and the host, or the kernel for it, has reaped it.
                let gone = e.errno == Errno::SRCH.raw_os_error();
                if gone { DIED_UNSEEN.into() } else { PoolError::from(e) }
            })?;
        drop(theirs);
        let mut worker = Worker {
            child,
            channel: ours.into(),
            since: self.awake.now(),
            here: false,
            owner: None,
            silent: None,
            gone: None,
            replaced: false,
            refused: None,
            needs: Vec::new(),
            expired: false,
        };
        if let Err(e) = self.welcome(index, worker.channel.as_fd()) {
            // It is gone already, and its end says why; or it was refused what it needs.
            let gone = [Errno::PIPE, Errno::CONNRESET].map(Errno::raw_os_error);
            if !matches!(&e, PoolError::Os(e) if gone.contains(&e.errno)) {
                worker.refused = Some(e.into());
            }
            let _ = worker.child.kill(Signal::KILL);
        }
        Ok(worker)
    }

    fn welcome(&self, index: usize, channel: BorrowedFd<'_>) -> Result<(), PoolError> {
        let place = self.parent.object().place();
        let welcome = Welcome {
            magic: MAGIC,
            build_id: image::build_id().to_vec(),
            ring: (place.at, place.generation),
            parent: self.parent.me().bits(),
            index: index as u32,
            slots: self.parent.slots() as u32,
            workers: self.parent.workers() as u32,
            spins: self.parent.spins(),
            key: self.parent.key(),
        };
        let mut bytes = Vec::new();
        wire::encode(&welcome, &mut bytes).map_err(|_| PoolFault::Supervisor)?;
        channel::send(channel, &bytes, &[self.parent.segment().descriptor()?])?;
        Ok(())
    }

    /// Those that did not become workers in time are killed; their end is heard as any other.
    fn check_times(&mut self) -> Result<(), PoolError> {
        let now = self.awake.now();
        for (index, seat) in self.seats.iter_mut().enumerate() {
            let Seat::Taken(worker) = seat else { continue };
            let age = now - worker.since;
            if worker.owner.is_some() {
                if age > SETTLED {
                    self.patience.settled(index);
                }
                continue;
            }
            // The channel of a dying worker closes before its end is reported: hence a grace.
            let late = age > if worker.here { ATTACH } else { HANDSHAKE }
                || worker.silent.is_some_and(|since| now - since > GRACE);
            if late && !worker.expired {
                worker.expired = true;
                worker.child.kill(Signal::KILL)?;
            }
        }
        Ok(())
    }

    /// Those whose channel hung up: are they still there?
    fn check_owners(&mut self) -> Result<(), PoolError> {
        let now = self.awake.now();
        for index in 0..self.seats.len() {
            if matches!(&self.seats[index], Seat::Taken(worker) if worker.is_doubtful(now)) {
                self.ask_owner(index, now)?;
            }
        }
        Ok(())
    }

    /// Kills what is no worker any more: see the header.
    fn ask_owner(&mut self, index: usize, now: Duration) -> Result<(), PoolError> {
        let Seat::Taken(worker) = &mut self.seats[index] else { return Ok(()) };
        // An error: the descriptors were closed under us, and nothing can be said of anybody.
        let Some(Ok(false)) = worker.owner.map(|owner| self.parent.segment().is_alive(owner)) else {
            return Ok(());
        };
        let since = *worker.gone.get_or_insert(now);
        worker.replaced |= worker.child.has_program();
        if worker.replaced || now - since > GRACE {
            worker.child.kill(Signal::KILL)?; // its end is heard as any other
        }
        Ok(())
    }

    /// The pool is closed: have all left?
    fn take_leave(&mut self) -> bool {
        let now = self.awake.now();
        let late = now - *self.farewell.get_or_insert(now) > FAREWELL;
        let mut left = true;
        for seat in &mut self.seats {
            if let Seat::Taken(worker) = seat {
                left = false;
                if late || worker.owner.is_none() {
                    let _ = worker.child.kill(Signal::KILL); // an error: it is gone already
                }
            }
        }
        left
    }

    fn sleep_and_hear(&mut self, at_most: Duration, starting: bool) -> Result<(), PoolError> {
        let mut fds = vec![self.parent.bell.as_fd()];
        let mut whose = Vec::new();
        let mut timeout = at_most;
        let now = Instant::now();
        let awake = self.awake.now();
        if self.farewell.is_some() {
            timeout = timeout.min(TICK);
        }
        for (index, seat) in self.seats.iter().enumerate() {
            match seat {
                Seat::Taken(worker) => {
                    fds.push(worker.child.pidfd());
                    whose.push((index, true));
                    if worker.silent.is_none() {
                        fds.push(worker.channel.as_fd());
                        whose.push((index, false));
                    }
                    if worker.is_doubtful(awake) {
                        timeout = timeout.min(ASK_AGAIN);
                    }
                    if worker.owner.is_none() || awake - worker.since <= SETTLED {
                        timeout = timeout.min(TICK);
                    }
                }
                Seat::Empty { .. } if self.farewell.is_some() => {}
                // Not longer than a tick, as the time without workers is measured.
                Seat::Empty { again } => {
                    timeout = timeout.min(TICK).min(again.saturating_duration_since(now));
                }
            }
        }
        let ready = process::poll(&fds, Some(timeout))?;
        drop(fds);
        let now = self.awake.now();
        if ready[0] {
            self.parent.bell.silence()?;
        }
        for ((index, ended), _) in whose.into_iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            if ended {
                self.ended(index, starting)?;
            } else {
                self.hear(index, now);
            }
        }
        Ok(())
    }

    /// What a worker has said.
    fn hear(&mut self, index: usize, now: Duration) {
        let Seat::Taken(worker) = &mut self.seats[index] else { return };
        if worker.hear(now) {
            let pid = worker.child.pid();
            self.set_pid(index, Some(pid));
            self.patience.ready();
            self.parent.set_hopeless(None);
        }
        self.answer(index);
    }

    /// Gives a worker the segments that it asked for. One that hears nothing asks again.
    fn answer(&mut self, index: usize) {
        let Seat::Taken(worker) = &mut self.seats[index] else { return };
        for id in std::mem::take(&mut worker.needs) {
            let segment = Segment::by_id(id);
            let open = segment.as_ref().and_then(|s| Some((s.me().ok()?, s.descriptor().ok()?)));
            if let Some(segment) = segment.as_ref().filter(|_| open.is_some()) {
                self.parent.lend(segment); // before it can pin
            }
            let answer = Answer { segment: id, parent: open.map_or(0, |(me, _)| me.bits()) };
            let mut bytes = Vec::new();
            if wire::encode(&answer, &mut bytes).is_ok() {
                let fds: Vec<_> = open.iter().map(|(_, fd)| *fd).collect();
                let _ = channel::send(worker.channel.as_fd(), &bytes, &fds);
            }
        }
    }

    fn set_pid(&self, index: usize, pid: Option<u32>) {
        self.parent.pids.lock().unwrap_or_else(PoisonError::into_inner)[index] = pid;
    }

    /// A worker's end: see the header for the order.
    fn ended(&mut self, index: usize, starting: bool) -> Result<(), PoolError> {
        let again = Instant::now();
        let Seat::Taken(mut worker) = std::mem::replace(&mut self.seats[index], Seat::Empty { again }) else {
            return Ok(());
        };
        let exit = worker.child.wait()?;
        let now = self.awake.now();
        worker.hear(now);
        self.set_pid(index, None);
        if let Some(owner) = worker.owner {
            for word in self.parent.segment().words_awaited_from(owner) {
                word::retire(word, owner);
            }
        }
        let pid = worker.child.pid();
        let (signal, code) = match exit {
            Exit::Signal(signal) => (Some(signal), None),
            Exit::Code(code) => (None, Some(code)),
            Exit::Unknown => (None, None),
        };
        let replaced = worker.replaced;
        let toll = self.parent.bury(index as u32, |mut message| {
            if replaced && message.is_empty() {
                message = "it had replaced its process by another program, which was ended".into();
            }
            TaskError::Died { pid, signal, code, message }
        });
        self.parent.forget_dead();
        if self.parent.is_closed() {
            return Ok(());
        }
        if exit == Exit::Code(EXIT_DAMAGED) {
            return Err(PoolFault::Damaged.into());
        }
        let life = if worker.owner.is_none() {
            Life::Unready
        } else if toll.worked || exit == Exit::Code(EXIT_LEFT) || now - worker.since > SETTLED {
            Life::Useful
        } else {
            Life::Idle { tasks: toll.waiting }
        };
        let stranger = match &worker.refused {
            Some(why) => *why == Refusal::OtherBuild,
            None => !worker.here && (worker.expired || matches!(exit, Exit::Code(_))),
        };
        if stranger && starting {
            return Err(PoolError::NotAWorkerImage(self.plan.program()));
        }
        let program = self.plan.program();
        self.take_note(index, life, starting, || match worker.refused {
            _ if stranger => PoolError::NotAWorkerImage(program),
            Some(Refusal::Failed(e)) => e,
            _ => PoolFault::WorkersDie { ready: life != Life::Unready, signal, code }.into(),
        })
    }

    /// A worker's life is over: when is the next one started, and is there hope?
    fn take_note(
        &mut self,
        index: usize,
        life: Life,
        starting: bool,
        why: impl FnOnce() -> PoolError,
    ) -> Result<(), PoolError> {
        let now = self.awake.now();
        for other in 0..self.seats.len() {
            self.hear(other, now); // one may have become ready just now
        }
        let others = self.seats.iter().any(|seat| matches!(seat, Seat::Taken(w) if w.owner.is_some()));
        let Verdict { wait, give_up } = self.patience.ended(index, life, others, starting, now);
        self.seats[index] = Seat::Empty { again: Instant::now() + wait };
        match give_up {
            true if starting => return Err(why()),
            true => self.parent.set_hopeless(Some(&TaskError::Pool(why()))),
            false => {}
        }
        Ok(())
    }

    /// Kills and reaps everybody.
    fn end_all(&mut self) {
        for index in 0..self.seats.len() {
            let again = Instant::now();
            if let Seat::Taken(mut worker) = std::mem::replace(&mut self.seats[index], Seat::Empty { again })
            {
                // Errors: the descriptors were closed under us, and their numbers may be others' by now. The worker
                // hears the end of its channel, or of this thread.
                if worker.child.kill(Signal::KILL).and_then(|()| worker.child.wait()).is_err() {
                    std::mem::forget(worker);
                }
            }
            self.set_pid(index, None);
        }
        self.parent.forget_dead();
    }
}

impl Worker {
    /// Its channel hung up a moment ago, so its owner may be about to go.
    fn is_doubtful(&self, now: Duration) -> bool {
        self.owner.is_some() && self.silent.is_some_and(|since| now - since <= GRACE)
    }

    /// All that it has said until `now`. Has it become ready with that?
    fn hear(&mut self, now: Duration) -> bool {
        let was_ready = self.owner.is_some();
        self.listen(now);
        let is_new = !was_ready && self.owner.is_some();
        if is_new {
            self.since = now;
        }
        is_new
    }

    fn listen(&mut self, now: Duration) {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            match channel::receive(self.channel.as_fd(), &mut buffer, 0, Some(Duration::ZERO)) {
                Ok(channel::Received::Message { len, .. }) => match wire::decode(&buffer[..len]) {
                    Ok(Hello::Here) => self.here = true,
                    Ok(Hello::Ready(owner)) => self.owner = Owner::from_bits(owner),
                    Ok(Hello::Need(segment)) => self.needs.push(segment),
                    Ok(Hello::Refused(why)) => self.refused = Some(why),
                    // Not one of ours.
                    Err(_) => self.silent = self.silent.or(Some(now)),
                },
                Ok(channel::Received::Nothing) => return,
                Ok(channel::Received::Closed) | Err(_) => {
                    self.silent = self.silent.or(Some(now));
                    return;
                }
            }
        }
    }
}
