//! Results: of one task, and of a row of them.
//!
//! Nothing here touches shared memory; it asks the desk. Dropping a future or an iterator detaches what was submitted:
//! it still runs, and the supervisor clears its results away.

use super::{
    Pool, Wire,
    desk::{Job, Parent, Results},
    face::KEEP_BYTES,
    trampoline::Code,
    wire::{self, Tag},
    worker::codec,
};
use crate::{
    error::{Error, TaskError},
    segment::{Object, handle},
};
use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    iter::Fuse,
    marker::PhantomData,
    sync::Arc,
    time::{Duration, Instant},
};

thread_local! {
    /// The bytes of a result on their way out of a slot.
    static RESULT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The result of a task, some day.
///
/// Dropped, the task still runs, and its result is thrown away ([`TaskFuture::detach`] says that this is meant). Each
/// future resolves, whatever becomes of its worker, and each failure is the error of one future only.
///
/// ```
/// use allmend::{Pool, TaskError};
/// use std::time::Duration;
///
/// # fn main() -> allmend::Result<()> {
/// let pool = Pool::new(1)?;
/// let mut future = pool.submit(|n: u32| n + 1, 41);
/// let answer = loop {
///     match future.result_timeout(Duration::from_millis(10)) {
///         Err(TaskError::Timeout) => println!("not yet"),
///         other => break other?,
///     }
/// };
/// assert_eq!(answer, 42);
/// assert!(future.done());
///
/// pool.submit(|n: u32| println!("{n}"), 7).detach(); // runs before the pool ends
/// # Ok(()) }
/// ```
#[doc(alias = "Future")]
#[must_use = "errors come out of `result`; call `detach` if you mean to ignore them"]
pub struct TaskFuture<R> {
    parent: Arc<Parent>,
    job: Arc<Job>,
    result: PhantomData<fn() -> R>,
}

impl<R> TaskFuture<R> {
    pub(super) fn new(parent: &Arc<Parent>, job: Arc<Job>) -> Self {
        Self { parent: Arc::clone(parent), job, result: PhantomData }
    }

    /// Is it finished, in one way or another? Does not wait for it.
    ///
    /// If its worker died, it is finished as soon as the supervisor has seen that, moments later.
    pub fn done(&self) -> bool {
        self.job.is_resolved() || self.parent.wait(&self.job, Some(Instant::now()))
    }

    /// Lets it run, and forgets it. If it panics, or its worker dies, nobody is told; the worker is replaced as ever. The drop
    /// of the last handle of the pool waits for it.
    pub fn detach(self) {}
}

impl<R: Wire> TaskFuture<R> {
    /// Waits for it.
    ///
    /// # Errors
    /// What became of the task, if it has no result: see [`TaskError`]. `Closed` in a forked child, to which the pool
    /// does not belong.
    pub fn result(self) -> Result<R, TaskError> {
        self.take(None).unwrap_or(Err(TaskError::Closed))
    }

    /// Waits for it, for at most `timeout`.
    ///
    /// # Errors
    /// [`TaskError::Timeout`] if it is not ready: it goes on, ask again as often as you like. [`TaskError::Taken`] once
    /// the result was given out. All else as [`TaskFuture::result`].
    pub fn result_timeout(&mut self, timeout: Duration) -> Result<R, TaskError> {
        let deadline = Instant::now().checked_add(timeout); // one that no clock can show is none
        self.take(deadline).unwrap_or_else(|| {
            Err(if self.parent.is_ours() { TaskError::Timeout } else { TaskError::Closed })
        })
    }

    /// `None`: not yet.
    fn take(&self, deadline: Option<Instant>) -> Option<Result<R, TaskError>> {
        // Taken while it is used: decoding a result may run a user's code, which may wait for another.
        let (mut results, _) =
            self.parent.results(&self.job, deadline, RESULT.try_with(Cell::take).unwrap_or_default())?;
        let result = results.take(&self.job, &self.parent);
        let bytes = results.into_buffer();
        if bytes.capacity() <= KEEP_BYTES {
            _ = RESULT.try_with(|kept| kept.set(bytes)); // not in a thread that ends
        }
        Some(result)
    }
}

impl<R> Drop for TaskFuture<R> {
    fn drop(&mut self) {
        if !self.job.is_resolved() {
            self.parent.detach();
        }
    }
}

impl<R> fmt::Debug for TaskFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFuture").field("resolved", &self.job.is_resolved()).finish_non_exhaustive()
    }
}

/// A batch should keep a worker busy for about this long: what a batch costs us is lost in it.
const BATCH_TIME: Duration = Duration::from_micros(200);
/// A batch that took longer than this was too large.
const BATCH_TOO_LONG: Duration = Duration::from_millis(2);
/// Batches grow to at most so many items, and
const BATCH_ITEMS: usize = 1 << 16;
/// end after so many bytes of arguments.
const BATCH_BYTES: usize = 256 << 10;
/// Batches under way, per worker.
const WINDOW: usize = 8;

/// Results of [`Pool::map`], in the order of the items. It drives the tasks: the next ones are submitted as results are
/// taken, and at most eight batches per worker are under way. Dropped, what is under way still runs, and the rest of the
/// items is never asked for.
///
/// If a worker dies, `next` gives [`TaskError::Died`] for the item that it ran, and the results of all others.
///
/// ```
/// use allmend::{Pool, TaskError};
///
/// fn divide((a, b): (u32, u32)) -> u32 {
///     if b == 0 { std::process::abort() } else { a / b }
/// }
///
/// # fn main() -> allmend::Result<()> {
/// let mut quotients = Pool::new(2)?.map(divide, [(6, 3), (6, 0), (6, 2)]);
/// assert_eq!(quotients.next(), Some(Ok(2)));
/// assert!(matches!(quotients.next(), Some(Err(TaskError::Died { signal: Some(6), .. }))));
/// assert_eq!(quotients.next(), Some(Ok(3)));
/// assert_eq!(quotients.next(), None);
/// # Ok(()) }
/// ```
#[must_use = "errors come out of the iterator, and it drives the tasks"]
pub struct Map<I: Iterator, R> {
    pool: Pool,
    code: Result<Code, TaskError>,
    items: Fuse<I>,
    /// The batch whose results are given out, and how many of them are left.
    open: Option<(Arc<Job>, Results, u32)>,
    /// Batches behind it.
    window: VecDeque<Arc<Job>>,
    limit: usize,
    size: usize,
    fixed: bool,
    /// For [`Map::fill`].
    argument: Vec<u8>,
    result: PhantomData<fn() -> R>,
}

impl<I, R> Map<I, R>
where
    I: Iterator,
    I::Item: Wire,
{
    pub(super) fn new(pool: Pool, code: Result<Code, TaskError>, items: I, chunk: Option<usize>) -> Self {
        let parent = pool.parent();
        let limit = (WINDOW * parent.workers()).clamp(2, parent.slots().max(2));
        let mut map = Self {
            pool,
            code,
            items: items.fuse(),
            open: None,
            window: VecDeque::new(),
            limit,
            size: chunk.unwrap_or(1).clamp(1, wire::MAX_COUNT as usize - 1),
            fixed: chunk.is_some(),
            argument: Vec::new(),
            result: PhantomData,
        };
        map.fill();
        map
    }

    /// Waits for the first batch that is under way. `None`: there is no more.
    fn open_next(&mut self) -> Option<()> {
        self.fill();
        let job = self.window.front()?;
        let (results, time) = match self.pool.parent().results(job, None, Vec::new()) {
            Some(found) => found,
            None => {
                // A forked child: the items that were under way are the parent's, and each is told so here.
                let lost: u32 = self.window.iter().map(|job| job.count()).sum();
                self.window = (0..lost).map(|_| self.failed(TaskError::Closed)).collect();
                self.pool.parent().results(self.window.front()?, None, Vec::new())?
            }
        };
        let job = self.window.pop_front()?;
        let left = job.count();
        self.adapt(left as usize, time);
        self.open = Some((job, results, left));
        self.fill(); // the workers go on while its results are looked at
        Some(())
    }

    fn failed(&self, e: TaskError) -> Arc<Job> {
        Job::failed(e, self.pool.parent())
    }

    /// Submits batches until enough are under way.
    fn fill(&mut self) {
        while self.window.len() < self.limit && self.submit_batch() {}
    }

    /// `false`: no items are left.
    fn submit_batch(&mut self) -> bool {
        // The last batches are small, so that no worker gets much more to do than the others.
        let fair = match self.items.size_hint().1 {
            Some(left) if !self.fixed => (left / (2 * self.pool.parent().workers())).max(1),
            _ => usize::MAX,
        };
        let size = self.size.min(fair);
        let (mut count, mut kept) = (0, Vec::<Arc<Object>>::new());
        let mut error = None;
        self.argument.clear();
        while (count as usize) < size && (self.fixed || self.argument.len() < BATCH_BYTES) {
            let Some(item) = self.items.next() else { break };
            match push_argument(&mut self.argument, count, &item) {
                Ok(objects) => {
                    kept.extend(objects);
                    count += 1;
                }
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        if count > 0 {
            let job = match self.code.clone() {
                Ok(code) => self.pool.parent().submit(code, &self.argument, count, !self.fixed, kept),
                Err(e) => Err(e),
            };
            match job {
                Ok(job) => self.window.push_back(job),
                Err(e) => {
                    let failed: Vec<_> = (0..count).map(|_| self.failed(e.clone())).collect();
                    self.window.extend(failed);
                }
            }
        }
        let any = count > 0 || error.is_some();
        self.window.extend(error.map(|e| Job::failed(e, self.pool.parent())));
        any
    }

    /// Learns from a batch that is over.
    fn adapt(&mut self, items: usize, time: Duration) {
        if self.fixed || items < self.size || time.is_zero() {
            return; // smaller than what we would send now: it says little
        }
        if time < BATCH_TIME {
            let by_time = items as u128 * BATCH_TIME.as_nanos() / time.as_nanos() + 1;
            self.size =
                (2 * self.size).min(usize::try_from(by_time).unwrap_or(usize::MAX)).clamp(1, BATCH_ITEMS);
        } else if time > BATCH_TOO_LONG {
            self.size = (self.size / 2).max(1);
        }
    }
}

/// Appends one item's argument; gives the objects that must be kept for it.
pub(super) fn push_argument<A: Wire>(
    out: &mut Vec<u8>,
    item: u32,
    argument: &A,
) -> Result<Vec<Arc<Object>>, TaskError> {
    let mut objects = Vec::new();
    wire::push_record(out, item, Tag::Argument, |out| {
        let (encoded, kept, failure) = handle::encode_argument(|| wire::encode(argument, out));
        objects = kept;
        encoded.map_err(|e| codec(e, failure))
    })?;
    Ok(objects)
}

impl<I, R> Iterator for Map<I, R>
where
    I: Iterator,
    I::Item: Wire,
    R: Wire,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((job, results, left)) = &mut self.open
                && *left > 0
            {
                *left -= 1;
                return Some(results.take(job, self.pool.parent()));
            }
            self.open_next()?;
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let under_way = self.window.iter().map(|job| job.count() as usize).sum::<usize>() + self.open_items();
        let (least, most) = self.items.size_hint();
        (least.saturating_add(under_way), most.and_then(|most| most.checked_add(under_way)))
    }
}

impl<I: Iterator, R> Map<I, R> {
    /// For tasks that return a `Result` themselves: one `?` instead of two.
    ///
    /// ```
    /// # use allmend::{Pool, Result};
    /// # fn half(n: u32) -> Result<u32> { Ok(n / 2) }
    /// # fn main() -> Result<()> {
    /// let mut sum = 0;
    /// for half in Pool::new(2)?.map(half, 0..10).flatten_errors() {
    ///     sum += half?;
    /// }
    /// assert_eq!(sum, 20);
    /// # Ok(()) }
    /// ```
    pub fn flatten_errors<T, E>(self) -> FlattenErrors<Self>
    where
        Self: Iterator<Item = Result<Result<T, E>, TaskError>>,
        Error: From<E>,
    {
        FlattenErrors(self)
    }
}

impl<I: Iterator, R> Map<I, R> {
    fn open_items(&self) -> usize {
        self.open.as_ref().map_or(0, |(_, _, left)| *left as usize)
    }
}

impl<I: Iterator, R> Drop for Map<I, R> {
    fn drop(&mut self) {
        if let Some((job, results, _)) = &mut self.open {
            results.discard(job, self.pool.parent());
        }
        if self.window.iter().any(|job| !job.is_resolved()) {
            self.pool.parent().detach();
        }
    }
}

impl<I: Iterator, R> fmt::Debug for Map<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("batches", &self.window.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// See [`Map::flatten_errors`].
#[derive(Debug)]
#[must_use = "errors come out of the iterator, and it drives the tasks"]
pub struct FlattenErrors<M>(M);

impl<M, T, E> Iterator for FlattenErrors<M>
where
    M: Iterator<Item = Result<Result<T, E>, TaskError>>,
    Error: From<E>,
{
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.0.next()? {
            Ok(result) => result.map_err(Error::from),
            Err(e) => Err(e.into()),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
