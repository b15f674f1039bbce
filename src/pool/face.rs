//! `Pool` as users see it.
//!
//! A [`Pool`] is a handle; its clones share the workers. The last one waits for all tasks and ends the workers. Futures
//! and iterators share the desk only, not the workers' lives, except [`Map`], which submits as it goes and so is a
//! handle, too.

use super::{
    desk::{Job, Parent},
    future::{Map, TaskFuture, push_argument},
    supervisor::{self, Plan},
    trampoline::{self, Code},
    worker::{self, MARKER},
};
use crate::{
    error::{PoolError, TaskError},
    os::{memory, process},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError},
    thread::JoinHandle,
};

/// What can be an argument or a result of a task: everything that serde can encode and decode, and that borrows nothing.
///
/// Implemented for all such types; handles ([`crate::SharedValue`], [`crate::SharedAtomic`]) are among them, also inside
/// structures and collections.
pub trait Wire: Serialize + DeserializeOwned + 'static {}
impl<T: Serialize + DeserializeOwned + 'static> Wire for T {}

/// Pools within workers of pools within workers: deeper than this is taken for a program that starts itself for ever.
const MOST_DEPTH: u32 = 10;
/// Spins before a sleep, where there is a CPU for each worker and the submitter.
const SPINS: u32 = 2000;

thread_local! {
    /// The bytes of an argument on their way into a slot.
    static ARGUMENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}
/// A buffer of an argument or a result that is larger is not kept.
pub(super) const KEEP_BYTES: usize = 1 << 16;

/// Processes that run tasks. A handle: clones share the workers.
///
/// Workers are this very program, started again; what runs before `main` in it finds out that it is a worker, and `main`
/// never runs. So nothing needs to be registered or called, in programs, tests, examples and libraries alike. (Statics
/// that `main` sets, and arguments that it parses, are not seen by tasks: pass them in the argument.)
///
/// A task is a function or a closure that captures nothing. Its argument and its result travel by serde.
///
/// * A task that panics, or whose process dies, is an error in its own future. Others do not notice; the worker is
///   replaced.
/// * Workers end with this process, however it ends.
/// * When the last handle is dropped, it waits for all tasks, then ends the workers.
///
/// ```
/// use allmend::{Pool, TaskError};
///
/// fn square(n: u32) -> u32 {
///     n.checked_mul(n).expect("a small number")
/// }
///
/// # fn main() -> allmend::Result<()> {
/// let pool = Pool::builder().workers(2).name("squares").env("RUST_BACKTRACE", "0").build()?; // or Pool::new(2)?
/// let future = pool.submit(square, 12);
/// assert_eq!(future.result()?, 144);
///
/// let squares: Vec<u32> = pool.map(square, 0..1000).collect::<Result<_, _>>()?;
/// assert_eq!(squares[999], 998_001);
///
/// let panicked = pool.submit(square, 1 << 16).result();
/// assert!(matches!(panicked, Err(TaskError::Panicked { message, .. }) if message == "a small number"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Handle>,
    chunk: Option<usize>,
}

/// Whose drop ends the workers.
struct Handle {
    parent: Arc<Parent>,
    supervisor: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // In a forked child the pool is the parent's.
        let Some(supervisor) = self.supervisor.take() else { return };
        if !self.parent.is_ours() {
            // The thread is not here: its memory may be another thread's, which a detach would hit.
            std::mem::forget(supervisor);
            return;
        }
        self.parent.wait_for_all();
        self.parent.close();
        let _ = self.parent.bell.ring(); // an error: the supervisor looks within a second
        let _ = supervisor.join(); // it catches its own panics
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("workers", &self.workers()).field("chunk_size", &self.chunk).finish()
    }
}

impl Pool {
    /// `workers` processes, which are ready when this returns.
    ///
    /// # Errors
    /// See [`PoolBuilder::build`].
    pub fn new(workers: usize) -> Result<Self, PoolError> {
        Self::builder().workers(workers).build()
    }

    /// Everything else.
    pub fn builder() -> PoolBuilder {
        PoolBuilder { workers: None, name: "allmend-worker".into(), env: Vec::new(), exe: None }
    }

    pub(super) fn parent(&self) -> &Arc<Parent> {
        &self.handle.parent
    }

    /// Queues one task. Never fails: errors come out of the future.
    ///
    /// Waits while the queue is full: as many tasks as it has places (32 per worker, at least 256 and at most 4096) have
    /// not run yet. Results that nobody has taken need no place.
    ///
    /// An argument has at most 4 GiB when it is encoded, and so has a result; above that, the future says
    /// [`TaskError::TooLarge`].
    ///
    /// # Panics
    /// If the argument's `Serialize` does. Nothing is queued then.
    ///
    /// ```compile_fail
    /// # let pool = allmend::Pool::new(1).unwrap();
    /// let captured = String::from("a task captures nothing");
    /// pool.submit(move |n: usize| captured.len() + n, 1).detach();
    /// ```
    pub fn submit<F, A, R>(&self, f: F, argument: A) -> TaskFuture<R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Wire,
        R: Wire,
    {
        let _ = f; // it has no bytes: its type says all
        self.submit_code(trampoline::code_of::<F, A, R>(), &argument)
    }

    /// As [`Pool::submit`], for a function that is chosen at run time.
    ///
    /// ```
    /// # fn twice(n: u32) -> u32 { 2 * n }
    /// # fn half(n: u32) -> u32 { n / 2 }
    /// # fn main() -> allmend::Result<()> {
    /// let pool = allmend::Pool::new(1)?;
    /// for (f, expected) in [(twice as fn(u32) -> u32, 20), (half, 5)] {
    ///     assert_eq!(pool.submit_fn(f, 10).result()?, expected);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn submit_fn<A: Wire, R: Wire>(&self, f: fn(A) -> R, argument: A) -> TaskFuture<R> {
        self.submit_code(trampoline::code_of_pointer(f), &argument)
    }

    fn submit_code<A: Wire, R: Wire>(&self, code: Result<Code, TaskError>, argument: &A) -> TaskFuture<R> {
        // Taken while it is used: serialising an argument may run a user's code, which may submit.
        let mut bytes = ARGUMENT.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        let job = code.and_then(|code| {
            let kept = push_argument(&mut bytes, 0, argument)?;
            self.parent().submit(code, &bytes, 1, false, kept)
        });
        if bytes.capacity() <= KEEP_BYTES {
            _ = ARGUMENT.try_with(|kept| kept.set(bytes)); // not in a thread that ends
        }
        TaskFuture::new(self.parent(), job.unwrap_or_else(|e| Job::failed(e, self.parent())))
    }

    /// Results of `f` for each item, in their order. The first tasks start now, the rest as results are taken.
    ///
    /// Short tasks travel in batches, whose size is found by measuring. In a batch, too, a panic or a death is the error
    /// of one item. Tasks that wait for one another may meet in one batch, and then wait for ever: `submit` those, or
    /// use [`Pool::with_chunk_size`] 1.
    pub fn map<F, A, R, I>(&self, f: F, items: I) -> Map<I::IntoIter, R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Wire,
        R: Wire,
        I: IntoIterator<Item = A>,
    {
        let _ = f;
        Map::new(self.clone(), trampoline::code_of::<F, A, R>(), items.into_iter(), self.chunk)
    }

    /// The same workers; so many items of a [`Pool::map`] travel together (at least 1).
    #[must_use]
    pub fn with_chunk_size(&self, items: usize) -> Self {
        Self { handle: Arc::clone(&self.handle), chunk: Some(items.max(1)) }
    }

    /// Process ids of the workers, for display. One that died and is not replaced yet is left out. None in a forked child.
    pub fn workers(&self) -> Vec<u32> {
        if !self.parent().is_ours() {
            return Vec::new(); // before the lock, which a thread that is not here may hold
        }
        self.parent().pids.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().copied().collect()
    }
}

/// The rare options of a [`Pool`], which has an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct PoolBuilder {
    workers: Option<usize>,
    name: String,
    env: Vec<(OsString, OsString)>,
    exe: Option<PathBuf>,
}

impl PoolBuilder {
    /// How many; by default as many as this process may use CPUs (affinity and cgroup quota are counted).
    pub fn workers(mut self, n: usize) -> Self {
        self.workers = Some(n);
        self
    }

    /// How they are called in `ps` (their first argument); a number is appended. By default `allmend-worker`. The kernel takes
    /// some 128 KiB; [`PoolBuilder::build`] fails with [`PoolError::Os`] above that (`E2BIG`), and for a name with a zero
    /// byte (`EINVAL`).
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// An environment variable of the workers, besides those of this process. Replaces this process's own of that name, and
    /// one that was given before. With a zero byte in it, [`PoolBuilder::build`] fails with [`PoolError::Os`] (`EINVAL`).
    /// `ALLMEND_WORKER` is ours: it is not passed on.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Another program than our own, of the same build: for libraries in foreign hosts.
    pub fn worker_exe(mut self, path: impl Into<PathBuf>) -> Self {
        self.exe = Some(path.into());
        self
    }

    /// Starts the workers, and waits until they are ready.
    ///
    /// # Errors
    /// [`PoolError::NoWorkers`] for zero of them. [`PoolError::NotAWorkerImage`] if the program does not become a
    /// worker: at once if it ends, within seconds otherwise; also in a program that was itself started as a worker and
    /// ran its `main` instead. [`PoolFault::WorkersDie`](crate::PoolFault::WorkersDie) if they die before they are ready.
    /// [`PoolError::TooDeep`] in a worker of a pool in a worker, ten deep.
    /// [`CreateError::TooManyProcesses`](crate::CreateError::TooManyProcesses) if there are more of them than places left
    /// in the segment, and [`CreateError::Full`](crate::CreateError::Full) if memory is short. [`PoolError::Os`] for limits
    /// of processes and descriptors, whether this process or a worker met them, and without /proc. No process is left
    /// behind.
    pub fn build(self) -> Result<Pool, PoolError> {
        trampoline::keep_entry();
        let workers = self.workers.unwrap_or_else(process::cpus);
        if workers == 0 {
            return Err(PoolError::NoWorkers);
        }
        let plan = Plan { exe: self.exe, name: self.name, env: self.env };
        // A worker takes the marker out of its environment first of all. Found here, this is a program that was started
        // as a worker and ran on: it must not start more of itself.
        if std::env::var_os(MARKER).is_some() {
            return Err(PoolError::NotAWorkerImage(std::env::current_exe().unwrap_or_default()));
        }
        if worker::depth() >= MOST_DEPTH {
            return Err(PoolError::TooDeep { depth: worker::depth() });
        }
        let slots = workers.saturating_mul(32).clamp(256, 4096);
        let spins = if workers < process::cpus() { SPINS } else { 0 };
        let key = memory::random_id()? as u64;
        let parent = Arc::new(Parent::new(slots, workers, spins, key)?);
        let supervisor = supervisor::start(Arc::clone(&parent), plan)?;
        Ok(Pool { handle: Arc::new(Handle { parent, supervisor: Some(supervisor) }), chunk: None })
    }
}
