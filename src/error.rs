//! One enum per operation, and their sum. All are `'static`, `Send`, `Sync` and serde, so that a task can
//! return them: system errors are kept as the call and its `errno`.

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, path::PathBuf};

/// `Result` with [`Error`], into which every error of the crate converts by `?`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A system call that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{call} failed: {}", std::io::Error::from_raw_os_error(*.errno))]
pub struct OsError {
    /// The call.
    pub call: Cow<'static, str>,
    /// Its `errno`.
    pub errno: i32,
}

/// A lock was not taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// This thread holds the lock already; waiting would last for ever.
    #[error("this thread holds the lock already: drop its guard first")]
    Deadlock,
    /// Held by a live process for the whole time-out. Also what `try_` forms return.
    #[error("the lock was held for the whole time-out{}", match .owner { Some(pid) => format!(" by process {pid}"), None => String::new() })]
    Timeout {
        /// The process that held it when we gave up, if it is known.
        owner: Option<u32>,
    },
    /// The bytes of the lock are not what a lock can be: somebody overwrote them.
    #[error("the lock's bytes were overwritten: whatever they protected cannot be trusted")]
    Damaged,
    /// The descriptors through which we ask who is alive were closed under us (as daemonising code does), so no
    /// lock is taken from anybody.
    #[error("the descriptors of this segment were closed under us: who is alive cannot be told")]
    DescriptorsLost,
    /// A forked child takes a place of its own in the segment, and all are taken.
    #[error(
        "all {max} places for processes are taken: all pools of a program, and the program, share one segment"
    )]
    TooManyProcesses {
        /// How many processes the segment was made for.
        max: u32,
    },
    /// This process was forked, and its parent dropped the object before it was used here.
    #[error("the object was dropped by the process that forked this one")]
    Gone,
    /// The kernel refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl From<CreateError> for LockError {
    /// A forked child takes a place of its own when it first locks.
    fn from(e: CreateError) -> Self {
        match e {
            CreateError::TooManyProcesses { max } => LockError::TooManyProcesses { max },
            CreateError::DescriptorsLost => LockError::DescriptorsLost,
            CreateError::Os(e) => LockError::Os(e),
            CreateError::Full { .. } | CreateError::Invalid(_) | CreateError::Damaged(_) => {
                LockError::Damaged
            }
        }
    }
}

/// A new object or segment was refused. Nothing was left behind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// No room: the segment's reservation, a memory limit, or /dev/shm. All else stays usable.
    #[error("no room for {bytes} bytes of shared memory")]
    Full {
        /// The size of the request, in bytes.
        bytes: u64,
    },
    /// A size that cannot be.
    #[error("not possible: {0}")]
    Invalid(Cow<'static, str>),
    /// All places for processes are taken.
    #[error(
        "all {max} places for processes are taken: all pools of a program, and the program, share one segment"
    )]
    TooManyProcesses {
        /// How many processes the segment was made for.
        max: u32,
    },
    /// See [`LockError::DescriptorsLost`].
    #[error("the descriptors of this segment were closed under us")]
    DescriptorsLost,
    /// The segment's bytes are not what we wrote.
    #[error("the segment was overwritten: {0}")]
    Damaged(Cow<'static, str>),
    /// The kernel refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// A handle did not arrive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The object is gone: its last holder dropped it, or died.
    #[error("the object is gone: nobody kept it")]
    Gone,
    /// Handles travel as arguments and results of tasks only; any other serializer would give a dangling name.
    #[error("a handle can only be sent through the pool, as an argument or a result")]
    OutsidePool,
    /// It is another kind of object, or of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the receiver asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// It belongs to a segment that this process does not have.
    #[error("the handle belongs to a segment that this process does not have")]
    UnknownSegment,
    /// Not the bytes of a handle.
    #[error("not the bytes of a handle")]
    Malformed,
    /// The object could not be held here.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// [`crate::verify`] found bytes that are neither free nor reachable exactly once, or that we never wrote.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// What is wrong, and where.
    #[error("{what} at offset {offset:#x}")]
    Damaged {
        /// In words.
        what: Cow<'static, str>,
        /// Bytes from the start of the segment.
        offset: u64,
    },
    /// The segment could not be made or read.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// A pool did not start, or cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// Zero workers.
    #[error("a pool needs at least one worker")]
    NoWorkers,
    /// The program that was started as a worker does not contain this crate's hook, or ran its `main` instead.
    #[error("{} did not become a worker: it lacks this crate's constructor, or is another build", .0.display())]
    NotAWorkerImage(PathBuf),
    /// Workers die before they are ready.
    #[error("workers die before they are ready: {0}")]
    Broken(String),
    /// No shared memory for it.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The kernel refused (process or descriptor limit, no /proc).
    #[error(transparent)]
    Os(#[from] OsError),
}

/// One task has no result. The pool and the other tasks are untouched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It panicked.
    #[error("the task panicked in process {pid} at {location}: {message}")]
    Panicked {
        /// The payload if it is text, else a note that it is not.
        message: String,
        /// `file:line:column`.
        location: String,
        /// As the worker saw it; empty unless `RUST_BACKTRACE` asks for one.
        backtrace: String,
        /// The worker.
        pid: u32,
    },
    /// Its worker died, or called `exit`.
    #[error("worker {pid} died in the task ({}){}{message}", match (.signal, .code) { (Some(s), _) => format!("signal {s}"), (None, Some(c)) => format!("exit code {c}"), (None, None) => "cause unknown".into() }, if .message.is_empty() { "" } else { ": " })]
    Died {
        /// The worker.
        pid: u32,
        /// The signal that killed it.
        signal: Option<i32>,
        /// What it exited with.
        code: Option<i32>,
        /// Its last words, if it had time for any.
        message: String,
    },
    /// Not ready in time: ask again.
    #[error("the result was not ready in time")]
    Timeout,
    /// Argument or result did not encode or decode.
    #[error("argument or result does not encode or decode: {0}")]
    Codec(String),
    /// A handle in the argument or result did not arrive.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// The pool was shut down.
    #[error("the pool was shut down")]
    Closed,
    /// `result_timeout` has given the result already.
    #[error("the result was taken already")]
    Taken,
    /// No worker could be started for it, or no memory was left for it.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Any error of the crate. Serialisable, so that a task may return it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// See [`LockError`].
    #[error(transparent)]
    Lock(#[from] LockError),
    /// See [`CreateError`].
    #[error(transparent)]
    Create(#[from] CreateError),
    /// See [`HandleError`].
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// See [`VerifyError`].
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// See [`PoolError`].
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// See [`TaskError`].
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A `std::io::Error`, as its `errno` (if it had one) and its text: tasks that read files may use `?`.
    #[error("{1}")]
    Io(Option<i32>, String),
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Io(e.raw_os_error(), e.to_string())
    }
}

impl OsError {
    pub(crate) fn new(call: &'static str, errno: i32) -> Self {
        Self { call: Cow::Borrowed(call), errno }
    }
}
