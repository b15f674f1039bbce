//! The thread that starts workers, hears how they end, settles what they ran, and replaces them.
//!
//! One thread per pool, which lives as long as the pool: the kernel kills workers when the *thread* that started them
//! ends. It sleeps in `poll` over the pidfds of the workers, the channels of those that have not said Ready yet, and a
//! bell.
//!
//! ```text
//!   Empty(when) --spawn--> Taken: Starting --Here--> Starting --Ready(owner)--> Taken: Ready
//!      ^                            |                                              |
//!      +------ back-off 10 ms .. 1 s+                                              |
//!      +------ at once ------------------------------------------------------------+
//! ```
//!
//! **A death, in this order**: reap (the worker writes no more); hear what it had said (it may have been ready, and have
//! claimed, before we knew); hand its locks on; settle its task; clear what it held in the segment; start another.
//!
//! **Who dies before Ready** is counted, and waited for longer each time. After [`PATIENCE`] in a row, at the
//! start or with no worker left, the pool is broken: tasks fail instead of waiting for workers that never come. A program that is not ours (it
//! exits or closes the channel without Here, or says nothing for [`HANDSHAKE`]) is found out in the first start.

use super::{
    desk::Parent,
    wire::{self, Hello, MAGIC, MAX_MESSAGE, Welcome},
    worker::{self, EXIT_DAMAGED, MARKER, Marker},
};
use crate::{
    error::{OsError, PoolError, TaskError},
    os::{
        channel, image,
        process::{self, Child, Exit, Signal},
    },
    segment::owner::Owner,
    sync::word,
};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
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
/// So many deaths before Ready, in a row, are too many.
const PATIENCE: u32 = 5;
/// Workers that were told to leave and do not (stopped, or stuck in an exit handler) are killed after this.
const FAREWELL: Duration = Duration::from_secs(5);
/// Each sleep ends after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// While there are tasks whose future was dropped: how often their results are cleared away.
const SWEEP: Duration = Duration::from_millis(100);

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
    let broken = |what: &str| PoolError::Broken(what.to_owned());
    let nul = |_| OsError::new("posix_spawn (a NUL in a name)", libc_einval());
    let exe = match &plan.exe {
        None => process::THIS_PROGRAM.to_owned(),
        Some(path) => CString::new(path.as_os_str().as_encoded_bytes()).map_err(nul)?,
    };
    let name = CString::new(plan.name.as_bytes()).map_err(nul)?;
    let run = move || {
        let seats = (0..parent.workers()).map(|_| Seat::Empty { again: Instant::now() }).collect();
        let mut supervisor = Supervisor {
            parent: Arc::clone(&parent),
            plan,
            exe,
            name,
            seats,
            failures: 0,
            farewell: None,
            looked: Instant::now(),
        };
        // A panic here is a bug of ours, and still no reason for anybody to wait for ever.
        if let Ok(Ok(())) = catch_unwind(AssertUnwindSafe(|| supervisor.run(&tell))) {
            return;
        }
        supervisor.end_all();
        let e = broken("the supervisor thread failed");
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
        Err(_) => Err(broken("the supervisor thread ended")),
    }
}

fn overwritten() -> PoolError {
    PoolError::Broken("its shared memory was overwritten".into())
}

fn libc_einval() -> i32 {
    rustix::io::Errno::INVAL.raw_os_error()
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
    since: Instant,
    here: bool,
    /// Ready, under this id.
    owner: Option<Owner>,
    /// Since when its end of the channel is closed.
    silent: Option<Instant>,
    refused: Option<(String, bool)>,
    /// Killed because it did not become a worker in time.
    expired: bool,
}

struct Supervisor {
    parent: Arc<Parent>,
    plan: Plan,
    exe: CString,
    name: CString,
    seats: Vec<Seat>,
    /// Deaths before Ready, in a row.
    failures: u32,
    /// When the pool was closed.
    farewell: Option<Instant>,
    /// When the ring was last looked at.
    looked: Instant,
}

/// What stops a pool.
type Fatal = PoolError;

impl Supervisor {
    /// `Err`: somebody must clean up.
    fn run(&mut self, tell: &mpsc::SyncSender<Result<(), PoolError>>) -> Result<(), OsError> {
        let mut starting = true;
        loop {
            if let Err(e) =
                self.look_at_ring().and_then(|()| self.fill_seats(starting)).and_then(|()| self.check_times())
            {
                self.end_all();
                self.parent.give_up(&TaskError::Pool(e.clone()));
                let _ = tell.try_send(Err(e));
                return Ok(());
            }
            if starting && self.seats.iter().all(|seat| matches!(seat, Seat::Taken(w) if w.owner.is_some())) {
                starting = false;
                let _ = tell.send(Ok(()));
            }
            if self.parent.is_closed() && self.take_leave() {
                return Ok(());
            }
            let unread = self.parent.sweep();
            if let Err(e) = self.sleep_and_hear(if unread { SWEEP } else { LOOK_AGAIN }, starting)? {
                self.end_all();
                self.parent.give_up(&TaskError::Pool(e.clone()));
                let _ = tell.try_send(Err(e));
                return Ok(());
            }
        }
    }

    /// Once a second: were words overwritten that nobody else would miss?
    fn look_at_ring(&mut self) -> Result<(), Fatal> {
        if self.looked.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        self.looked = Instant::now();
        let is_there = |index: usize| matches!(self.seats.get(index), Some(Seat::Taken(_)));
        if self.parent.is_damaged(is_there) { Err(overwritten()) } else { Ok(()) }
    }

    /// Starts workers where there is none and it is time.
    fn fill_seats(&mut self, starting: bool) -> Result<(), Fatal> {
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
                Err(e) if starting => return Err(e.into()),
                Err(e) => self.failed(index, starting, || e.to_string())?,
            }
        }
        Ok(())
    }

    fn spawn(&self, index: usize) -> Result<Worker, OsError> {
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
        let child = process::spawn(&self.exe, &arguments, &extra, &[(theirs.as_fd(), number)])?;
        drop(theirs);
        let worker = Worker {
            child,
            channel: ours.into(),
            since: Instant::now(),
            here: false,
            owner: None,
            silent: None,
            refused: None,
            expired: false,
        };
        if self.welcome(index, worker.channel.as_fd()).is_err() {
            // It is gone already, or will be: its end says why.
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
        wire::encode(&welcome, &mut bytes).map_err(|e| PoolError::Broken(e.to_string()))?;
        channel::send(channel, &bytes, &[self.parent.segment().descriptor()?])?;
        Ok(())
    }

    /// Those that did not become workers in time are killed; their end is heard as any other.
    fn check_times(&mut self) -> Result<(), Fatal> {
        for seat in &mut self.seats {
            // The channel of a dying worker closes before its end is reported: hence a grace.
            let late = |worker: &Worker| {
                worker.since.elapsed() > if worker.here { ATTACH } else { HANDSHAKE }
                    || worker.silent.is_some_and(|since| since.elapsed() > GRACE)
            };
            if let Seat::Taken(worker) = seat
                && worker.owner.is_none()
                && !worker.expired
                && late(worker)
            {
                worker.expired = true;
                worker.child.kill(Signal::KILL)?;
            }
        }
        Ok(())
    }

    /// The pool is closed: have all left?
    fn take_leave(&mut self) -> bool {
        let since = *self.farewell.get_or_insert_with(Instant::now);
        let late = since.elapsed() > FAREWELL;
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

    fn sleep_and_hear(&mut self, at_most: Duration, starting: bool) -> Result<Result<(), Fatal>, OsError> {
        let mut fds = vec![self.parent.bell.as_fd()];
        let mut whose = Vec::new();
        let mut timeout = at_most;
        let now = Instant::now();
        for (index, seat) in self.seats.iter().enumerate() {
            match seat {
                Seat::Taken(worker) => {
                    fds.push(worker.child.pidfd());
                    whose.push((index, true));
                    if worker.owner.is_none() && worker.silent.is_none() {
                        fds.push(worker.channel.as_fd());
                        whose.push((index, false));
                    }
                }
                Seat::Empty { .. } if self.farewell.is_some() => {}
                Seat::Empty { again } => timeout = timeout.min(again.saturating_duration_since(now)),
            }
        }
        let ready = process::poll(&fds, Some(timeout))?;
        drop(fds);
        if ready[0] {
            self.parent.bell.silence()?;
        }
        for ((index, ended), _) in whose.into_iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let Seat::Taken(worker) = &mut self.seats[index] else { continue };
            if !ended {
                worker.hear();
                self.note(index);
            } else if let Err(e) = self.ended(index, starting)? {
                return Ok(Err(e));
            }
        }
        Ok(Ok(()))
    }

    /// Keeps what others want to know of a worker.
    fn note(&mut self, index: usize) {
        let Seat::Taken(worker) = &self.seats[index] else { return };
        if worker.owner.is_some() {
            self.failures = 0;
            self.set_pid(index, Some(worker.child.pid()));
        }
    }

    fn set_pid(&self, index: usize, pid: Option<u32>) {
        self.parent.pids.lock().unwrap_or_else(PoisonError::into_inner)[index] = pid;
    }

    /// A worker's end: see the header for the order.
    fn ended(&mut self, index: usize, starting: bool) -> Result<Result<(), Fatal>, OsError> {
        let again = Instant::now();
        let Seat::Taken(mut worker) = std::mem::replace(&mut self.seats[index], Seat::Empty { again }) else {
            return Ok(Ok(()));
        };
        let exit = worker.child.wait()?;
        worker.hear();
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
        self.parent.bury(index as u32, |message| TaskError::Died { pid, signal, code, message });
        self.parent.forget_dead();
        if self.parent.is_closed() {
            return Ok(Ok(()));
        }
        if exit == Exit::Code(EXIT_DAMAGED) {
            return Ok(Err(overwritten()));
        }
        if worker.owner.is_some() {
            return Ok(Ok(()));
        }
        let stranger = match &worker.refused {
            Some((_, other_build)) => *other_build,
            None => !worker.here && (worker.expired || matches!(exit, Exit::Code(_))),
        };
        if stranger && (starting || !self.anyone_ready()) {
            return Ok(Err(PoolError::NotAWorkerImage(self.plan.program())));
        }
        Ok(self.failed(index, starting, || match (worker.refused, exit) {
            (Some((why, _)), _) => why,
            (None, Exit::Code(code)) => format!("exit code {code}"),
            (None, Exit::Signal(signal)) => format!("signal {signal}"),
            (None, Exit::Unknown) => "cause unknown".into(),
        }))
    }

    fn anyone_ready(&self) -> bool {
        self.seats.iter().any(|seat| matches!(seat, Seat::Taken(worker) if worker.owner.is_some()))
    }

    /// No worker came of it: try again later, unless that has gone on for too long.
    fn failed(&mut self, index: usize, starting: bool, why: impl FnOnce() -> String) -> Result<(), Fatal> {
        self.failures += 1;
        if self.failures >= PATIENCE && (starting || !self.anyone_ready()) {
            return Err(PoolError::Broken(why()));
        }
        let wait = Duration::from_millis(10 << (self.failures - 1).min(7)).min(Duration::from_secs(1));
        self.seats[index] = Seat::Empty { again: Instant::now() + wait };
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
    /// All that it has said.
    fn hear(&mut self) {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            match channel::receive(self.channel.as_fd(), &mut buffer, 0, Some(Duration::ZERO)) {
                Ok(channel::Received::Message { len, .. }) => match wire::decode(&buffer[..len]) {
                    Ok(Hello::Here) => self.here = true,
                    Ok(Hello::Ready(owner)) => self.owner = Owner::from_bits(owner),
                    Ok(Hello::Refused { why, other_build }) => self.refused = Some((why, other_build)),
                    // Not one of ours.
                    Err(_) => self.silent = self.silent.or_else(|| Some(Instant::now())),
                },
                Ok(channel::Received::Nothing) => return,
                Ok(channel::Received::Closed) | Err(_) => {
                    self.silent = self.silent.or_else(|| Some(Instant::now()));
                    return;
                }
            }
        }
    }
}
