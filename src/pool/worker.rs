//! The life of a worker process, from the marker in its environment to its exit.
//!
//! ```text
//! loader -> trampoline::enter -> before_constructors   marker gone, dies with its parent, descriptor closed on exec
//!                             -> the image's other constructors
//!                             -> run                   says Here; hears Welcome + segment; attaches; says Ready
//!                                  loop: claim -> batch -> finish, or idle
//! ```
//!
//! **How it ends.** Told by the closed flag (`exit`, so that buffers are flushed and exit handlers run). With its parent,
//! however that died: the kernel's signal (PDEATHSIG); its parent's id, looked at whenever it wakes; the end of the
//! control channel, watched by a small thread, also while a task runs. Any one is enough.
//!
//! **A batch.** Argument bytes are copied to private memory first. Item by item: the function runs, its record is
//! appended to the result area, and one store of the progress word commits both. Killed before that store, the item
//! has not happened as far as results go; killed after it, it has. The reaper goes on from the progress word.
//!
//! **A panic** is noted by the hook before anything unwinds: in a thread-local, which becomes the item's error, and in
//! the slot's last words, which the reaper reads if the process does not survive (`panic = "abort"`, a panic in a
//! panic). The hook that was there before is called as well.

use super::{
    guests::Guests,
    slot::{Look, Progress, Ring, Shape, spins_after},
    trampoline::{self, overwritten},
    wire::{
        self, BUFFERS, CLOSED_AT, Field, Hello, INLINE_AREA, MAGIC, MAGIC_AT, MAX_MESSAGE, PAYLOAD, Refusal,
        Tag, Task, TooLong, Welcome, pin_tag, result_key,
    },
};
use crate::{
    atomic::{Acquire, Private32, Relaxed, Word64, spin},
    error::{CreateError, HandleError, OsError, PoolError, PoolFault, TaskError},
    os::{channel, image, memory, process},
    segment::{
        Kind, Object, PinChain, Place, Segment, Stamp, handle,
        owner::Owner,
        words::{load_bytes, store_bytes},
    },
};
use rustix::fd::{AsFd, OwnedFd, RawFd};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    ffi::OsStr,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// The environment variable that makes a worker: `channel:parent:depth`.
pub(crate) const MARKER: &str = "ALLMEND_WORKER";
/// The exit code of a worker that found its ring overwritten.
pub(crate) const EXIT_DAMAGED: i32 = 98;
/// The exit code of a worker that was refused, or could not attach: it has said why.
const EXIT_REFUSED: i32 = 97;
/// The exit code of a worker that a task has made unfit for others.
pub(crate) const EXIT_LEFT: i32 = 96;
/// Each sleep ends after this, to look at the parent and at the ring again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How deep in pools within pools this process is.
static DEPTH: Private32 = Private32::new(0);

/// See [`DEPTH`].
pub(crate) fn depth() -> u32 {
    DEPTH.load(Relaxed) // written before `main`
}

/// What the environment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marker {
    pub(crate) channel: RawFd,
    pub(crate) parent: u32,
    pub(crate) depth: u32,
}

impl Marker {
    pub(crate) fn parse(text: &OsStr) -> Option<Self> {
        let mut parts = text.to_str()?.split(':').map(|part| part.parse::<u32>().ok());
        let marker = Self {
            channel: RawFd::try_from(parts.next()??).ok()?,
            parent: parts.next()??,
            depth: parts.next()??,
        };
        parts.next().is_none().then_some(marker)
    }
}

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.channel, self.parent, self.depth)
    }
}

/// The first thing that a worker does.
pub(crate) fn before_constructors(marker: &Marker) {
    DEPTH.store(marker.depth, Relaxed);
    if !matches!(
        process::die_with_parent(marker.parent),
        Ok(process::Parent::Alive | process::Parent::Unseen)
    ) {
        process::kill_self();
    }
}

/// All that a worker knows.
#[derive(Debug)]
struct Worker {
    segment: Arc<Segment>,
    object: Arc<Object>,
    shape: Shape,
    index: u32,
    key: u64,
    spins: u32,
    /// This process, and no child that a task forked.
    me: Owner,
    /// The parent, for whom results are pinned.
    guardian: Owner,
    parent_pid: u32,
    /// To the parent.
    channel: process::Kept,
    /// What the channel is, in case that its number becomes another's.
    socket: memory::FileId,
    guests: Guests,
}

static WORKER: OnceLock<Worker> = OnceLock::new();

thread_local! {
    /// The slot of the task that this thread runs.
    static TASK: Cell<Option<usize>> = const { Cell::new(None) };
    /// What the hook has seen of that task's panic.
    static PANIC: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

#[derive(Clone, Debug, Default)]
struct Seen {
    message: String,
    location: String,
    backtrace: String,
}

/// The rest of the process's life.
pub(crate) fn run(channel: OwnedFd, marker: Marker) -> ! {
    // The number came without close-on-exec, through the spawn; a copy has it, and what a task starts shall not
    // keep our channel open.
    let channel = match rustix::io::fcntl_setfd(&channel, rustix::io::FdFlags::CLOEXEC) {
        Ok(()) => channel,
        Err(_) => std::process::exit(EXIT_REFUSED), // no descriptor: not started by a pool
    };
    say(&channel, &Hello::Here);
    match attach(channel, &marker) {
        Ok(worker) => {
            let worker = WORKER.get_or_init(|| worker);
            install_hook();
            if let Err(e) = watch(worker) {
                refuse(&worker.channel, e.into());
            }
            say(&worker.channel, &Hello::Ready(worker.me.bits()));
            worker.work()
        }
        Err((channel, why)) => refuse(&channel, why),
    }
}

fn say(channel: &impl AsFd, hello: &Hello) {
    let mut bytes = Vec::new();
    // A parent that cannot be spoken to is gone or going, which the watchers notice.
    if wire::encode(hello, &mut bytes).is_ok() {
        let _ = channel::send(channel.as_fd(), &bytes, &[]);
    }
}

fn refuse(channel: &impl AsFd, why: Refusal) -> ! {
    say(channel, &Hello::Refused(why));
    std::process::exit(EXIT_REFUSED)
}

fn attach(channel: OwnedFd, marker: &Marker) -> Result<Worker, (OwnedFd, Refusal)> {
    let (_, socket) = match memory::stat(channel.as_fd()) {
        Ok(found) => found,
        Err(e) => return Err((channel, e.into())),
    };
    match enter(&channel) {
        Ok(part) => {
            let Part { segment, object, welcome, shape, me, guardian } = part;
            Ok(Worker {
                shape,
                index: welcome.index,
                key: welcome.key,
                spins: welcome.spins,
                segment,
                object,
                me,
                guardian,
                parent_pid: marker.parent,
                channel: channel.into(),
                socket,
                guests: Guests::default(),
            })
        }
        Err(refusal) => Err((channel, refusal)),
    }
}

/// What the welcome says and leads to.
struct Part {
    segment: Arc<Segment>,
    object: Arc<Object>,
    welcome: Welcome,
    shape: Shape,
    me: Owner,
    guardian: Owner,
}

fn enter(channel: &OwnedFd) -> Result<Part, Refusal> {
    let mut buffer = [0; MAX_MESSAGE];
    let (len, mut fds) = match channel::receive(channel.as_fd(), &mut buffer, 1, None) {
        Ok(channel::Received::Message { len, fds }) => (len, fds),
        Ok(_) => process::kill_self(), // the parent is gone
        Err(e) => return Err(e.into()),
    };
    let welcome: Welcome = wire::decode(&buffer[..len]).map_err(|_| Refusal::OtherBuild)?;
    if welcome.magic != MAGIC || welcome.build_id != image::build_id() {
        return Err(Refusal::OtherBuild);
    }
    let segment = Segment::adopt(fds.pop().ok_or(PoolFault::Damaged)?)?; // it comes with each welcome
    let (at, generation) = welcome.ring;
    let place = Place { at, generation };
    let object = segment.open(place, Kind::PoolRing, (Stamp::NONE, "slots")).map_err(|e| match e {
        HandleError::Create(e) => e.into(),
        _ => PoolError::from(PoolFault::Damaged),
    })?;
    let shape = welcome.shape().ok_or(PoolFault::Damaged)?;
    let sound = Ring::new(object.w32(), object.w64(), shape).is_some()
        && welcome.index < welcome.workers
        && object.w64()[MAGIC_AT].load(Acquire) == MAGIC;
    let guardian = Owner::from_bits(welcome.parent).filter(|_| sound);
    let guardian = guardian.ok_or(PoolFault::Damaged)?;
    let me = segment.me()?;
    Ok(Part { segment, object, welcome, shape, me, guardian })
}

/// Leaves with the parent, also in the middle of a task; hears its answers; and drops guests that have gone at home.
fn watch(worker: &'static Worker) -> Result<(), OsError> {
    let body = move || {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let heard = match worker.has_channel() {
                true => channel::receive(worker.channel.as_fd(), &mut buffer, 1, Some(LOOK_AGAIN))
                    .map_err(|e| worker.guests.lose(e))
                    .ok(),
                false => {
                    std::thread::park_timeout(LOOK_AGAIN);
                    None
                }
            };
            match heard {
                Some(channel::Received::Message { len, fds }) => worker.guests.hear(&buffer[..len], fds),
                Some(channel::Received::Nothing) | None if !orphaned() => {}
                _ if worker.is_closed() => return, // leaves by itself
                _ => process::kill_self(),
            }
            worker.guests.forget();
        }
    };
    std::thread::Builder::new()
        .name("allmend-watch".into())
        .stack_size(64 << 10)
        .spawn(body)
        .map(drop)
        .map_err(|e| OsError::new("pthread_create", e.raw_os_error().unwrap_or_default()))
}

/// A task may fork. If its child comes back here too, it would be a second worker of the same name: it ends instead, and
/// the result is the worker's alone.
fn leave_if_forked() {
    if WORKER.get().is_some_and(|worker| worker.segment.me_now() != Some(worker.me)) {
        process::leave();
    }
}

fn orphaned() -> bool {
    WORKER.get().is_some_and(|worker| process::parent(worker.parent_pid) == process::Parent::Gone)
}

fn install_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        note_panic(info);
        previous(info);
    }));
}

fn note_panic(info: &PanicHookInfo<'_>) {
    // With `panic = "abort"` any thread's panic is the end of the task.
    let slot = TASK.get().or_else(|| {
        cfg!(panic = "abort").then(|| ABORTS.load(Relaxed) as usize).and_then(|s| s.checked_sub(1))
    });
    let Some(slot) = slot else { return };
    let message = text_of(info.payload());
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    if let Some(task) = WORKER.get().and_then(|worker| Task::of(&worker.ring(), slot)) {
        // A panic in a destructor that runs because of a panic: the first one is what happened, the others follow.
        let before = PANIC.with_borrow(|seen| seen.as_ref().map(|_| task.last_words() + "; then "));
        task.set_last_words(&format!("{}panicked at {location}: {message}", before.unwrap_or_default()));
    }
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => backtrace.to_string(),
        _ => String::new(),
    };
    PANIC.set(Some(Seen { message, location, backtrace }));
}

/// 1 + the running slot, for threads of a task in programs whose panics abort.
static ABORTS: Private32 = Private32::new(0);

fn text_of(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic whose payload is not text".to_owned(),
    }
}

/// Private buffers that live as long as the worker.
#[derive(Debug, Default)]
struct Buffers {
    argument: Vec<u8>,
    record: Vec<u8>,
}

/// More than this is not asked for in advance.
const EXPECT_WORDS: usize = (1 << 20) / 8;
/// More than this is given back after each batch.
const KEEP_BYTES: usize = 1 << 20;

impl Worker {
    fn ring(&self) -> Ring<'_> {
        Ring::new(self.object.w32(), self.object.w64(), self.shape).expect("checked in the handshake")
    }

    /// A task may close what is not its own, and the number may be its own file's by now.
    fn has_channel(&self) -> bool {
        matches!(memory::stat(self.channel.as_fd()), Ok((_, now)) if now == self.socket)
    }

    /// Asks the parent for a segment, and joins it. The watcher hears the answer.
    #[cold]
    fn ask(&self, id: u128) -> Result<Arc<Segment>, HandleError> {
        self.guests.get(id, || {
            if !self.has_channel() {
                return Err(CreateError::DescriptorsLost.into());
            }
            say(&self.channel, &Hello::Need(id));
            Ok(())
        })
    }

    fn is_closed(&self) -> bool {
        self.object.w64()[CLOSED_AT].load(Acquire) != 0 // pairs with the Release of the supervisor
    }

    fn work(&self) -> ! {
        let ring = self.ring();
        let mut buffers = Buffers::default();
        let mut misses = 0;
        let mut looked = Instant::now();
        let mut last = 0; // the slot that we had last
        loop {
            let look = match ring.claim(self.index) {
                Look::Empty if self.is_closed() => std::process::exit(0),
                // The gap before the next task of a submitter that waits for each is far shorter than a sleep.
                Look::Empty
                    if (0..spins_after(misses, self.spins)).any(|_| {
                        spin();
                        ring.state(last).is_ready() || ring.has_work()
                    }) =>
                {
                    misses = 0;
                    match ring.claim_in(self.index, last) {
                        Look::Empty => continue,
                        look => look,
                    }
                }
                Look::Empty => {
                    misses += 1;
                    // Somebody waits for what a slot says that we do, and only we know that we do not.
                    if looked.elapsed() > LOOK_AGAIN {
                        looked = Instant::now();
                        if ring.running_in(self.index).next().is_some() {
                            std::process::exit(EXIT_DAMAGED);
                        }
                    }
                    ring.idle(self.index, LOOK_AGAIN, || !self.is_closed() && !orphaned())
                }
                look => look,
            };
            match look {
                Look::Claimed { slot, lap } if self.batch(&ring, slot, lap, &mut buffers) => last = slot,
                Look::Claimed { .. } | Look::Damaged => std::process::exit(EXIT_DAMAGED),
                Look::Empty => {}
            }
        }
    }

    /// Runs what is left of a batch. `false`: the slot was overwritten.
    fn batch(&self, ring: &Ring<'_>, slot: usize, lap: u32, buffers: &mut Buffers) -> bool {
        let Some(task) = Task::of(ring, slot) else { return false };
        let mut progress = ring.progress(slot, lap);
        let fetched = self.fetch(&task, &mut buffers.argument);
        let Buffers { argument, record } = buffers;
        let Some(sealed) = task.order(self.key, if fetched.is_ok() { argument } else { &[] }) else {
            // Overwritten, so nothing of it can be believed, nor said in its name: the parent finds no results.
            return ring.finish(slot, lap, self.index);
        };
        let wire::Order { count, serial, timed, .. } = *sealed.order();
        let key = result_key(self.key, serial);
        let begun = timed.then(Instant::now);
        let trampoline = trampoline::resolve(sealed);
        let mut items = wire::records(argument, count, key);
        let Some(mut output) = self.output(&task, progress, sealed.order()) else { return false };
        TASK.set(Some(slot));
        if cfg!(panic = "abort") {
            ABORTS.store(slot as u32 + 1, Relaxed); // read by this task's own threads
        }
        for item in 0..count {
            let body = match items.next() {
                Some(Ok(found)) if found.item == item && found.tag == Tag::Argument => Some(found.body),
                _ => None,
            };
            if item < progress.items {
                continue;
            }
            let mut call = Call {
                body: &[],
                function: sealed.order().function,
                record,
                item,
                tag: pin_tag(serial, item),
            };
            call.record.clear();
            let done = match (&trampoline, body) {
                (Err(e), _) => Err(Box::new(e.clone())),
                (_, None) => Err(Box::new(overwritten())),
                (Ok(trampoline), Some(body)) => {
                    call.body = body;
                    guarded(&task, *trampoline, &mut call)
                }
            };
            if let Err(e) = done {
                call.fail(&e);
            }
            let pins = handle::take_pinned(); // also of a result that failed behind a handle
            wire::seal_record(call.record, key, &pins);
            if let Err(e) = output.append(&mut progress, call.record) {
                call.fail(&no_memory(e));
                wire::seal_record(call.record, key, &pins);
                // Without room for the error either, the parent finds no record and says so.
                let _ = output.append(&mut progress, call.record);
            }
            progress.items = item + 1;
            ring.commit(slot, lap, progress);
        }
        TASK.set(None);
        drop(items);
        for buffer in [argument, record] {
            if buffer.capacity() > KEEP_BYTES {
                *buffer = Vec::new();
            }
        }
        if let Some(begun) = begun {
            task.set(Field::Nanos, begun.elapsed().as_nanos() as u64);
        }
        let finished = ring.finish(slot, lap, self.index);
        // A task may have closed what is not its own. The next one shall not be told: another worker takes it.
        if finished && !self.segment.has_descriptors() {
            std::process::exit(EXIT_LEFT);
        }
        finished
    }

    /// The argument of a task, in private memory.
    fn fetch(&self, task: &Task<'_>, into: &mut Vec<u8>) -> Result<(), TaskError> {
        let Some((place, bytes)) = task.argument(into) else { return Ok(()) };
        let object = self.segment.open(place, Kind::Buffer, (Stamp::NONE, "bytes"))?;
        if bytes.div_ceil(8) > object.w64().len() as u64 {
            return Err(overwritten());
        }
        into.resize(bytes as usize, 0);
        load_bytes(object.w64(), into);
        Ok(())
    }

    /// The result area as the progress word names it.
    fn output<'a>(&'a self, task: &Task<'a>, progress: Progress, order: &wire::Order) -> Option<Output<'a>> {
        let buffer = match progress.area {
            INLINE_AREA => None,
            area => {
                let place = task.result_place(area)?;
                Some(self.segment.open(place, Kind::Buffer, (Stamp::NONE, "bytes")).ok()?)
            }
        };
        let wire::Order { count, serial, .. } = *order;
        let output = Output { worker: self, task: *task, area: progress.area, buffer, count, serial };
        (progress.bytes as usize / 8 <= output.words().len()).then_some(output)
    }
}

/// One item; a panic becomes its error. (In a box: errors are large, and what is moved for each item should not be.)
fn guarded(
    task: &Task<'_>,
    trampoline: trampoline::Trampoline,
    call: &mut Call<'_>,
) -> Result<(), Box<TaskError>> {
    if PANIC.with_borrow(Option::is_some) {
        PANIC.take();
        task.set(Field::LastWordsBytes, 0); // the item before caught a panic by itself
    }
    // Unwind safe: what the panic left half done is the record, which is cleared, and what the task itself holds.
    let done = catch_unwind(AssertUnwindSafe(|| trampoline(call).map_err(Box::new)));
    leave_if_forked();
    done.unwrap_or_else(|payload| {
        let seen = PANIC.take().unwrap_or_else(|| Seen {
            message: text_of(&*payload),
            location: "an unknown place".into(), // `resume_unwind`, or the task replaced the hook
            ..Seen::default()
        });
        task.set(Field::LastWordsBytes, 0);
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again); // a payload whose drop panics with a payload ...
        }
        let Seen { message, location, backtrace } = seen;
        Err(Box::new(TaskError::Panicked { message, location, backtrace, pid: process::pid() }))
    })
}

fn no_memory(e: CreateError) -> TaskError {
    TaskError::Pool(e.into())
}

/// Where records go.
struct Output<'a> {
    worker: &'a Worker,
    task: Task<'a>,
    area: u8,
    buffer: Option<Arc<Object>>,
    /// Items of the task.
    count: u32,
    serial: u64,
}

impl Output<'_> {
    fn words(&self) -> &[Word64] {
        self.buffer.as_ref().map_or(self.task.result_area(), |buffer| buffer.w64())
    }

    /// Writes a record behind those that `progress` counts, and notes it there; the caller commits.
    fn append(&mut self, progress: &mut Progress, record: &[u8]) -> Result<(), CreateError> {
        let at = progress.bytes as usize / 8;
        let words = at + record.len() / 8;
        if words > self.words().len() {
            self.grow(
                at,
                words,
                words + (record.len() / 8).saturating_mul((self.count - 1 - progress.items) as usize),
            )?;
        }
        store_bytes(&self.words()[at..], record);
        progress.bytes += record.len() as u64;
        progress.area = self.area;
        Ok(())
    }

    /// Moves to a larger buffer. The old one stays pinned until the parent has the results.
    #[cold]
    fn grow(&mut self, used: usize, needed: usize, expected: usize) -> Result<(), CreateError> {
        let segment = &self.worker.segment;
        // What is expected: as if all records that are to come were like this one.
        let words = needed.max(2 * self.words().len()).max(expected.min(EXPECT_WORDS)).next_multiple_of(8);
        let buffer = segment.create(Kind::Buffer, Stamp::NONE, 0, words, |_| ())?;
        let before = PinChain(self.task.get(Field::BufferPins) as u32);
        let pins = segment.pin(&buffer, self.worker.guardian, pin_tag(self.serial, BUFFERS), before)?;
        self.task.set(Field::BufferPins, u64::from(pins.0));
        for (to, from) in buffer.w64().iter().zip(&self.words()[..used]) {
            to.store(from.load(Relaxed), Relaxed); // our own words; handed over by the commit
        }
        self.area = if self.area == 1 { 2 } else { 1 };
        self.task.set_result_place(self.area, buffer.place());
        self.buffer = Some(buffer);
        Ok(())
    }
}

/// One item, as the trampoline sees it.
pub(crate) struct Call<'a> {
    body: &'a [u8],
    function: u64,
    record: &'a mut Vec<u8>,
    item: u32,
    tag: u64,
}

impl Call<'_> {
    /// The offset of a function that was chosen at run time.
    pub(crate) fn function(&self) -> Option<u64> {
        self.function.checked_sub(1)
    }

    /// Its argument.
    pub(crate) fn argument<A: DeserializeOwned>(&self) -> Result<A, TaskError> {
        let (decoded, failure) = handle::decode(find, || wire::decode(self.body));
        decoded.map_err(|e| codec(e, failure))
    }

    /// Its result. Handles in it are kept for the parent, in whose segment they are.
    pub(crate) fn give<R: Serialize>(&mut self, result: &R) -> Result<(), TaskError> {
        leave_if_forked();
        let (item, tag) = (self.item, self.tag);
        wire::push_record(self.record, item, Tag::Value, |out| {
            let (encoded, failure) = handle::encode_result(guardian_in, tag, || wire::encode(result, out));
            encoded.map_err(|e| codec(e, failure))
        })
    }

    /// Its error.
    fn fail(&mut self, e: &TaskError) {
        self.record.clear();
        // An error is text and numbers; that it does not encode cannot happen, and leaves no record if it does.
        let _ = wire::push_record(self.record, self.item, Tag::Error, |out| {
            wire::encode(e, out).map_err(|e| codec(e, None))
        });
    }
}

/// As whom our parent takes part in a segment: for it we pin what is in results.
fn guardian_in(segment: &Segment) -> Result<Owner, HandleError> {
    let worker = this_worker().ok_or(HandleError::OutsidePool)?;
    if segment.id() == worker.segment.id() {
        return Ok(worker.guardian);
    }
    worker.guests.guardian_in(segment, || worker.ask(segment.id()))
}

/// A segment that a handle in an argument names. The parent has it, since it has the handle.
fn find(id: u128) -> Result<Arc<Segment>, HandleError> {
    if let Some(segment) = Segment::by_id(id) {
        return Ok(segment);
    }
    this_worker().ok_or(HandleError::UnknownSegment)?.ask(id)
}

/// Not in a child that a task forked.
fn this_worker() -> Option<&'static Worker> {
    WORKER.get().filter(|worker| worker.segment.me_now() == Some(worker.me))
}

/// The error of serde's work, with its typed cause if a handle was that.
pub(crate) fn codec(e: postcard::Error, failure: Option<HandleError>) -> TaskError {
    failure.map_or_else(|| TaskError::Codec(e.to_string()), TaskError::Handle)
}

impl From<TooLong> for TaskError {
    fn from(_: TooLong) -> Self {
        TaskError::TooLarge { limit: wire::MAX_BODY }
    }
}

const _: () = assert!(PAYLOAD < 1 << 16);
