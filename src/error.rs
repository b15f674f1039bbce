//! One enum per operation, and their sum. All are `'static`, `Send`, `Sync` and serde, so that a task can
//! return them: system errors are kept as the call and its `errno`.
//!
//! A [`LockError`] can carry a guard. In what is stored, returned or sent there is `()` in its place: the guard was
//! released, and what it left is left for the next owner.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, convert::Infallible, fmt, ops::Range, path::PathBuf};

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

/// A lock was not taken, or not taken as it should be.
///
/// `G` is the guard that rides in [`Inherited`](LockError::Inherited): locks that are never inherited say
/// [`Infallible`], and where the guard was released there is `()`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(bound(serialize = "G: Stored", deserialize = "G: Stored"))]
#[non_exhaustive]
pub enum LockError<G = Infallible> {
    /// You hold the lock, and an owner before you died in the middle of a change. Look, mend, accept.
    #[error("{0}")]
    Inherited(Inherited<G>),
    /// This thread holds the lock already; waiting would last for ever.
    #[error("this thread holds the lock already: drop its guard first")]
    Deadlock,
    /// Held by a live process for the whole time-out. Also what `try_` forms return.
    #[error("the lock was held for the whole time-out{}", match .owner { Some(pid) => format!(" by process {pid}"), None => String::new() })]
    Timeout {
        /// The process that held it when we gave up, if it is known.
        owner: Option<u32>,
    },
    /// The object is open here for reading only.
    #[error("open for reading only")]
    ReadOnly,
    /// The array was frozen: nobody gets it for writing any more.
    #[error("the array is frozen")]
    Frozen,
    /// This process, or all together, hold as many claims on parts of one array as there is room for.
    #[error("too many claims on one array at a time")]
    TooManyClaims,
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
    /// The key of a map has no bytes, so it has no lock.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The kernel refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// What taking a lock gives: the guard, or why not. The guard may be in the error: [`LockError::Inherited`].
pub type LockResult<G> = std::result::Result<G, LockError<G>>;

impl<G> LockError<G> {
    /// Mends what a dead owner left, clears its mark, and goes on with the guard. For guards that may write ([`Inherit`]).
    ///
    /// # Errors
    /// All other errors pass through.
    ///
    /// ```
    /// use allmend::SharedArray;
    ///
    /// fn die_in_the_middle(pairs: SharedArray<u64>) {
    ///     let mut guard = pairs.get_lock().unwrap();
    ///     guard[0] = 7; // and not yet the other one
    ///     std::process::abort();
    /// }
    ///
    /// # fn main() -> allmend::Result<()> {
    /// let pairs = SharedArray::<u64>::new(2)?;
    /// let died = allmend::Pool::new(1)?.submit(die_in_the_middle, pairs.clone()).result();
    /// assert!(matches!(died, Err(allmend::TaskError::Died { .. })));
    /// let mut guard = pairs.get_lock().or_else(|e| e.repair(|half| half[1] = half[0]))?;
    /// assert_eq!(*guard, [7, 7]);
    /// # Ok(()) }
    /// ```
    pub fn repair(self, mend: impl FnOnce(&mut G)) -> LockResult<G>
    where
        G: Inherit,
    {
        match self {
            LockError::Inherited(mut inherited) => {
                mend(&mut inherited.guard);
                Ok(inherited.accept())
            }
            other => Err(other),
        }
    }

    /// Lets the guard go, if there is one; its mark stays for the next owner. What `?` into [`Error`] does. Written out
    /// it is needed before `?` into a boxed error that must be `Send`, because guards are not.
    ///
    /// ```
    /// use allmend::{LockError, SharedArray};
    ///
    /// fn first(array: &SharedArray<u64>) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    ///     Ok(array.read().map_err(LockError::release)?[0])
    /// }
    /// assert_eq!(first(&SharedArray::from_slice(&[5])?).unwrap(), 5);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn release(self) -> LockError<()> {
        self.map(drop)
    }

    /// The same with another guard.
    pub(crate) fn map<H>(self, f: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            LockError::Inherited(Inherited { guard, pid, range }) => {
                LockError::Inherited(Inherited { guard: f(guard), pid, range })
            }
            LockError::Deadlock => LockError::Deadlock,
            LockError::Timeout { owner } => LockError::Timeout { owner },
            LockError::ReadOnly => LockError::ReadOnly,
            LockError::Frozen => LockError::Frozen,
            LockError::TooManyClaims => LockError::TooManyClaims,
            LockError::Damaged => LockError::Damaged,
            LockError::DescriptorsLost => LockError::DescriptorsLost,
            LockError::TooManyProcesses { max } => LockError::TooManyProcesses { max },
            LockError::Gone => LockError::Gone,
            LockError::Encode(e) => LockError::Encode(e),
            LockError::Os(e) => LockError::Os(e),
        }
    }
}

#[allow(dead_code, reason = "for locks that build on others")]
impl LockError {
    /// As the error of a lock that can be inherited; this one was not.
    pub(crate) fn widen<G>(self) -> LockError<G> {
        self.map(|never| match never {})
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Inherited(inherited) => f.debug_tuple("Inherited").field(inherited).finish(),
            LockError::Deadlock => f.write_str("Deadlock"),
            LockError::Timeout { owner } => f.debug_struct("Timeout").field("owner", owner).finish(),
            LockError::ReadOnly => f.write_str("ReadOnly"),
            LockError::Frozen => f.write_str("Frozen"),
            LockError::TooManyClaims => f.write_str("TooManyClaims"),
            LockError::Damaged => f.write_str("Damaged"),
            LockError::DescriptorsLost => f.write_str("DescriptorsLost"),
            LockError::TooManyProcesses { max } => {
                f.debug_struct("TooManyProcesses").field("max", max).finish()
            }
            LockError::Gone => f.write_str("Gone"),
            LockError::Encode(e) => f.debug_tuple("Encode").field(e).finish(),
            LockError::Os(e) => f.debug_tuple("Os").field(e).finish(),
        }
    }
}

/// A lock that is yours, though an owner before you died in it, perhaps in the middle of a change.
///
/// Dropped unanswered, the lock is free again and keeps its mark: the next owner is told as well.
#[derive(Clone, PartialEq, Eq)]
#[must_use = "dropping it releases the lock and leaves its mark"]
pub struct Inherited<G> {
    guard: G,
    pid: u32,
    range: Option<(usize, usize)>,
}

impl<G> Inherited<G> {
    #[cfg_attr(loom, allow(dead_code, reason = "in a model there is no guard that can be inherited"))]
    /// `range` is which elements the dead owner may have left half changed, if the lock covers elements.
    pub(crate) fn new(guard: G, pid: u32, range: Option<Range<usize>>) -> Self {
        Self { guard, pid, range: range.map(|range| (range.start, range.end)) }
    }

    /// The process that died; 0 if it is not known any more which.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Of an array: the elements, counted from the start of the slice that was locked, that it may have left half
    /// changed. If several owners died in several places, from the first such element to the last.
    pub fn range(&self) -> Option<Range<usize>> {
        self.range.map(|(start, end)| start..end)
    }

    /// What it left, to look at.
    pub fn get_ref(&self) -> &G {
        &self.guard
    }

    /// What it left, to mend.
    pub fn get_mut(&mut self) -> &mut G {
        &mut self.guard
    }

    /// The guard, with its mark: the next owner is told as well. A reader cannot do more, since only who may write can say
    /// that the data are in order.
    ///
    /// ```
    /// use allmend::{LockError, SharedArray};
    ///
    /// let array = SharedArray::<u64>::new(2)?;
    /// let half = array.clone();
    /// let died = std::thread::spawn(move || {
    ///     let mut guard = half.get_lock().unwrap();
    ///     guard[0] = 7;
    ///     panic!("in the middle"); // leaves a mark, as a kill does
    /// });
    /// died.join().unwrap_err();
    ///
    /// let Err(LockError::Inherited(left)) = array.read() else { panic!("the mark says so") };
    /// assert_eq!((left.pid(), left.range()), (std::process::id(), Some(0..2)));
    /// assert_eq!(*left.into_guard(), [7, 0]);
    ///
    /// let Err(LockError::Inherited(left)) = array.get_lock() else { panic!("it is still there") };
    /// drop(left.accept());
    /// assert_eq!(*array.read()?, [7, 0]); // accepted as it is
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn into_guard(self) -> G {
        self.guard
    }

    /// The data are in order: clears the mark and gives the guard. For guards that may write ([`Inherit`]); a reader has
    /// [`into_guard`](Self::into_guard).
    pub fn accept(mut self) -> G
    where
        G: Inherit,
    {
        self.guard.clear_mark();
        self.guard
    }
}

impl<G> fmt::Debug for Inherited<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inherited")
            .field("pid", &self.pid)
            .field("range", &self.range())
            .finish_non_exhaustive()
    }
}

impl<G> fmt::Display for Inherited<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock's last owner, ")?;
        match self.pid {
            0 => f.write_str("a process that is not known any more,")?,
            pid => write!(f, "process {pid},")?,
        }
        f.write_str(" died in the middle of a change")?;
        match &self.range {
            Some((start, end)) => write!(f, " of elements {start}..{end}"),
            None => Ok(()),
        }
    }
}

/// A guard that can clear the mark of a dead owner, since it may write: [`ArrayGuard`](crate::ArrayGuard), several of
/// them, and [`KeyGuard`](crate::KeyGuard). Sealed: users only call.
///
/// A [`ReadGuard`](crate::ReadGuard) cannot:
///
/// ```compile_fail,E0277
/// let array = allmend::SharedArray::<u64>::new(2).unwrap();
/// let guard = array.read().or_else(|e| e.repair(|_| ()));
/// ```
#[allow(private_bounds, reason = "sealed")]
pub trait Inherit: Marked {}

impl<G: Marked> Inherit for G {}

/// How the mark of a dead owner is cleared.
pub(crate) trait Marked {
    /// The data behind the guard are whole again.
    fn clear_mark(&mut self);
}

/// What stands in the place of a guard in an error that can be stored and sent.
pub(crate) trait Stored: Sized {
    /// The guard that is none, if such an error can carry one.
    fn stored() -> Option<Self>;
}

impl Stored for () {
    fn stored() -> Option<Self> {
        Some(())
    }
}

impl Stored for Infallible {
    fn stored() -> Option<Self> {
        None
    }
}

impl<G: Stored> Serialize for Inherited<G> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (self.pid, self.range).serialize(serializer)
    }
}

impl<'de, G: Stored> Deserialize<'de> for Inherited<G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (pid, range) = Deserialize::deserialize(deserializer)?;
        let guard = G::stored().ok_or(de::Error::custom("a lock of this kind is never inherited"))?;
        Ok(Self { guard, pid, range })
    }
}

impl<G> LockError<G> {
    /// Why this process takes no part in the segment: a forked child takes a place of its own when it first locks. (No
    /// `From`: a `?` on what is created in a function that locks is to be an [`Error`], not a lock that is damaged.)
    #[cfg(not(loom))] // models have their places
    #[cold]
    pub(crate) fn outside(e: CreateError) -> Self {
        match e {
            CreateError::TooManyProcesses { max } => LockError::TooManyProcesses { max },
            CreateError::DescriptorsLost => LockError::DescriptorsLost,
            CreateError::ReadOnly => LockError::ReadOnly,
            CreateError::Removed => LockError::Gone,
            CreateError::Os(e) => LockError::Os(e),
            CreateError::Damaged(_) => LockError::Damaged,
            // Of making a segment or an object, and of joining one: who takes a place does neither.
            CreateError::Full { .. } | CreateError::Invalid(_) | CreateError::NotASegment(_) => {
                LockError::Damaged
            }
        }
    }
}

/// A new object or segment was refused. Nothing was left behind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// No room. All else stays usable.
    #[error("no room for {bytes} bytes of shared memory: {what}")]
    Full {
        /// The size of the request, in bytes.
        bytes: u64,
        /// What there is not enough of.
        what: Resource,
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
    /// The segment is open here for reading only.
    #[error("open for reading only")]
    ReadOnly,
    /// This process was forked, and all who took part in the named segment were gone before it was used here: its name
    /// is gone, or another segment's by now.
    #[error("all who took part in the named segment were gone before this forked process used it")]
    Removed,
    /// What was to be joined is none of ours.
    #[error("no segment of this crate: {0}")]
    NotASegment(Cow<'static, str>),
    /// The segment's bytes are not what we wrote.
    #[error("the segment was overwritten: {0}")]
    Damaged(Cow<'static, str>),
    /// The kernel refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// What there is not enough of, where there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Resource {
    /// What the segment was [made for](crate::ManagerBuilder::reserve), or the map.
    #[error("the segment, or the map, was not made for more")]
    Segment,
    /// The machine's memory; of a named segment, or in a container, also what /dev/shm may have of it.
    #[error("the machine has no more memory for it, or /dev/shm may have no more")]
    Memory,
    /// This process's address space (`RLIMIT_AS`).
    #[error("this process has not so much address space (ulimit -v)")]
    AddressSpace,
    /// The size of files (`RLIMIT_FSIZE`), which limits shared memory too.
    #[error("this process may not make such large files (ulimit -f)")]
    FileSize,
}

#[cfg(not(loom))]
impl CreateError {
    /// A new object that nobody else knows could not be used.
    pub(crate) fn of_new<G>(e: LockError<G>, what: &'static str) -> Self {
        match e {
            LockError::DescriptorsLost => Self::DescriptorsLost,
            LockError::TooManyProcesses { max } => Self::TooManyProcesses { max },
            LockError::Os(e) => Self::Os(e),
            _ => Self::Damaged(what.into()),
        }
    }
}

/// A manager, or an object in it, was not created, opened, listed or removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No segment can have that name.
    #[error("{name:?} is no name for a segment: {fault}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// There is none of that name, or its last process is gone.
    #[error("there is no segment named {name:?}: create it first, or open_or_create it")]
    NotFound {
        /// The name.
        name: String,
    },
    /// Something has that name already.
    #[error("{name:?} exists already: open it, or remove it first")]
    Exists {
        /// The name.
        name: String,
    },
    /// It belongs to another user.
    #[error(
        "segment {name:?} belongs to user {owner}: say that another user's will do, if you trust that user"
    )]
    Foreign {
        /// The name.
        name: String,
        /// User id.
        owner: u32,
    },
    /// Its permissions are wider than what was asked for, or do not let us in.
    #[error("segment {name:?} has permissions {found:o}, {}", match .found & !.allowed {
        0 => "which do not let this user in: have its owner change them, or open it for reading only".into(),
        _ => format!("not {:o}: ask for that mode, or have its owner change it", .allowed),
    })]
    Mode {
        /// The name.
        name: String,
        /// Its permission bits.
        found: u32,
        /// Those that it may have. Has it no others, they are too narrow to let this user in.
        allowed: u32,
    },
    /// Something that is no regular file has the name.
    #[error("{found} has the name of segment {name:?}: remove {}, or take another name", .path.display())]
    NotAFile {
        /// The name.
        name: String,
        /// Where it is.
        path: PathBuf,
        /// What it is, in words.
        found: Cow<'static, str>,
    },
    /// A file without a single byte has the name.
    #[error("the file of segment {name:?} is empty: no segment of ours; remove it")]
    Empty {
        /// The name.
        name: String,
    },
    /// The file begins with zeros: something began to make a segment, and did not end.
    #[error("segment {name:?} was never finished by whatever made it: remove it")]
    HalfBuilt {
        /// The name.
        name: String,
    },
    /// A file that is none of ours has the name.
    #[error("the file of {name:?} is no segment of this crate: remove it, or take another name")]
    NotASegment {
        /// The name.
        name: String,
    },
    /// What a descriptor leads to is none of ours.
    #[error("the descriptor leads to no segment of this crate: {0}")]
    NotOurs(Cow<'static, str>),
    /// Somebody cut its end off. Nobody can use it any more.
    #[error("segment {name:?} was cut to {bytes} of {expected} bytes: remove it")]
    Truncated {
        /// The name.
        name: String,
        /// How long its file is.
        bytes: u64,
        /// How long it was made.
        expected: u64,
    },
    /// Another version of this crate made it.
    #[error(
        "segment {name:?} has layout {found}, this program has {expected}: build both with one version of the crate"
    )]
    WrongVersion {
        /// The name.
        name: String,
        /// Its version of the layout.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// No object can have that name.
    #[error("{name:?} is no name for an object: {fault}")]
    ObjectName {
        /// The name.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// No object has that name.
    #[error("no object is named {name:?}")]
    NoObject {
        /// The name.
        name: String,
    },
    /// An object has that name already.
    #[error("an object is named {name:?} already: remove the name first")]
    ObjectExists {
        /// The name.
        name: String,
    },
    /// The object of that name is another kind of object, or of another type.
    #[error("{name:?} is {found}, not {expected}")]
    WrongType {
        /// The name.
        name: String,
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The object lies in other memory than the manager's.
    #[error("the object lies in other memory than this manager's: create it through the manager")]
    Elsewhere,
    /// This process was not started with a manager shared.
    #[error("no manager was shared with this process: {0}")]
    NotShared(Cow<'static, str>),
    /// The object is gone.
    #[error(transparent)]
    Handle(HandleError),
    /// No room: memory in /dev/shm, address space, or a limit on the size of files.
    #[error("no room for {bytes} bytes of shared memory: {what}")]
    Full {
        /// The size of the request, in bytes.
        bytes: u64,
        /// What there is not enough of.
        what: Resource,
    },
    /// All places for processes are taken.
    #[error("all {max} places for processes in the segment are taken")]
    TooManyProcesses {
        /// How many processes the segment was made for.
        max: u32,
    },
    /// It is open here for reading only, or was to be made so.
    #[error("open for reading only")]
    ReadOnly,
    /// Another process has been between two system calls for seconds: it is stopped while it opens or removes the segment.
    #[error("another process is stopped while it removes segment {name:?}: try again")]
    Busy {
        /// The name.
        name: String,
    },
    /// See [`LockError::DescriptorsLost`].
    #[error("the descriptors of this segment were closed under us")]
    DescriptorsLost,
    /// Its bytes are not what we wrote.
    #[error("the segment was overwritten: {0}")]
    Damaged(Cow<'static, str>),
    /// Options that cannot be.
    #[error("not possible: {0}")]
    Invalid(Cow<'static, str>),
    /// The kernel refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// What is wrong with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It has a slash in it.
    #[error("it has a slash in it")]
    Slash,
    /// It has a zero byte in it.
    #[error("it has a zero byte in it")]
    Zero,
    /// It begins with a dot.
    #[error("it begins with a dot")]
    LeadingDot,
    /// It is too long for a file's.
    #[error("it is longer than {longest} bytes")]
    TooLong {
        /// The most bytes that one can have.
        longest: usize,
    },
}

impl From<CreateError> for OpenError {
    fn from(e: CreateError) -> Self {
        match e {
            CreateError::Full { bytes, what } => OpenError::Full { bytes, what },
            CreateError::TooManyProcesses { max } => OpenError::TooManyProcesses { max },
            CreateError::DescriptorsLost => OpenError::DescriptorsLost,
            CreateError::ReadOnly => OpenError::ReadOnly,
            CreateError::Removed => {
                OpenError::Damaged("its processes were gone before this fork used it".into())
            }
            CreateError::NotASegment(why) => OpenError::NotOurs(why),
            CreateError::Damaged(what) => OpenError::Damaged(what),
            CreateError::Invalid(what) => OpenError::Invalid(what),
            CreateError::Os(e) => OpenError::Os(e),
        }
    }
}

/// Elements of an array were not reached, or not changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// No such element.
    #[error("there is no element {index}: the array has {len}")]
    Index {
        /// What was asked for.
        index: usize,
        /// How many elements there are.
        len: usize,
    },
    /// A range that is not within the array, or ends before it begins.
    #[error("elements {start}..{end} are not within an array of {len}")]
    Range {
        /// Its first element.
        start: usize,
        /// The element behind its last.
        end: usize,
        /// How many elements there are.
        len: usize,
    },
    /// Two lengths that have to be equal.
    #[error("{given} elements were given for {len}")]
    Length {
        /// How many elements the caller has.
        given: usize,
        /// How many this array has.
        len: usize,
    },
    /// The lock behind it. A guard that rode in it was released; its mark stays.
    #[error(transparent)]
    Lock(LockError<()>),
    /// No memory for what an all-or-nothing change needs.
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl<G> From<LockError<G>> for ArrayError {
    fn from(e: LockError<G>) -> Self {
        ArrayError::Lock(e.release())
    }
}

/// A handle did not arrive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The object is gone: its last holder dropped it, or died.
    #[error("the object is gone: nobody kept it")]
    Gone,
    /// Handles travel as arguments and results of tasks only; any other serializer would give a dangling name. In its hands
    /// (`serde_json::to_string(&value)`) this is an error of *its* type, with this text: serde lets a value say no in text
    /// only ([`serde::ser::Error::custom`]). So is bytes' way back into a handle.
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
    /// A worker started a pool whose worker started a pool, and so on: so deep is taken for a program that starts itself
    /// for ever.
    #[error(
        "pools are nested {depth} deep already: a pool within a worker of a pool, and so on, and no more is allowed"
    )]
    TooDeep {
        /// How deep this process is.
        depth: u32,
    },
    /// Its workers, its words or its supervisor.
    #[error("the pool does not work: {0}")]
    Broken(#[from] PoolFault),
    /// No shared memory for it, or no place there for a worker.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The kernel refused (process or descriptor limit, no /proc), us or a worker that was about to start.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// Why a pool does not work, where it lacks nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum PoolFault {
    /// Its workers die before they can do anything: this is how the last one did.
    #[error("workers die before they {} ({})", if *.ready { "take a task" } else { "are ready" }, ending(*.signal, *.code))]
    WorkersDie {
        /// It had been ready, and died before it took one of the tasks that waited.
        ready: bool,
        /// The signal that killed it.
        signal: Option<i32>,
        /// What it exited with.
        code: Option<i32>,
    },
    /// Its words in shared memory were overwritten.
    #[error("its shared memory was overwritten")]
    Damaged,
    /// The thread that watches over its workers panicked: an error in this crate.
    #[error("its supervisor thread failed")]
    Supervisor,
}

fn ending(signal: Option<i32>, code: Option<i32>) -> String {
    match (signal, code) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "cause unknown".into(),
    }
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
    #[error("worker {pid} died in the task ({}){}{message}", ending(*.signal, *.code), if .message.is_empty() { "" } else { ": " })]
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
    /// Argument or result did not encode or decode. In words: what a `Serialize` or `Deserialize` has to say reaches us as
    /// text only (serde's `Error::custom`).
    #[error("argument or result does not encode or decode: {0}")]
    Codec(String),
    /// Argument or result has more bytes than a task can carry.
    #[error("an argument or result is larger than {limit} bytes")]
    TooLarge {
        /// The most that it can have.
        limit: usize,
    },
    /// Its function is not in the program that workers run, but in another shared library.
    #[error("the function is not in the image that workers run (another shared library?)")]
    NotInImage,
    /// Its argument or result was overwritten in shared memory; or memory was so short that not even the error of that
    /// had room.
    #[error("task or result was overwritten in shared memory, or there was no room for it")]
    Lost,
    /// A handle in the argument or result did not arrive.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// The pool was shut down.
    #[error("the pool was shut down")]
    Closed,
    /// `result_timeout` has given the result already.
    #[error("the result was taken already")]
    Taken,
    /// No worker could be started for it, or no memory was left for it. Each task that cannot be run says this, until the
    /// pool has a worker again; with [`PoolFault::Damaged`], [`PoolFault::Supervisor`] and a system call that its
    /// supervisor cannot do without, the pool is at its end.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// A key or a value has no bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("it cannot be encoded: {why}")]
#[non_exhaustive]
pub struct EncodeError {
    /// In words.
    pub why: Cow<'static, str>,
}

impl EncodeError {
    /// For a [`Codec`](crate::Codec) of one's own.
    pub fn new(why: impl Into<Cow<'static, str>>) -> Self {
        Self { why: why.into() }
    }
}

/// A map did not do it. It is as before, and usable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// No room: the map's limit, the segment's reservation, a memory limit, or /dev/shm. What is there can be read and
    /// removed, and then there is room again.
    #[error("no room for another entry")]
    Full,
    /// A key or a value over the limit.
    #[error("{bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// Its size, in bytes.
        bytes: usize,
        /// The most that it can have.
        limit: usize,
    },
    /// A key or a value has no bytes.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The bytes of an entry do not decode: somebody wrote them as another type, or over them.
    #[error("an entry's bytes are not those of its type (its key: {key:?})")]
    Decode {
        /// The key's bytes.
        key: Vec<u8>,
    },
    /// The map is open here for reading only.
    #[error("open for reading only")]
    ReadOnly,
    /// A lock within: [`LockError::Damaged`], or why this process cannot take part.
    #[error(transparent)]
    Lock(LockError<()>),
    /// The structure was overwritten by somebody.
    #[error("the map's bytes were overwritten")]
    Damaged,
}

impl<G> From<LockError<G>> for MapError {
    fn from(e: LockError<G>) -> Self {
        match e {
            LockError::ReadOnly => MapError::ReadOnly,
            LockError::Damaged => MapError::Damaged,
            LockError::Encode(e) => MapError::Encode(e),
            other => MapError::Lock(other.release()),
        }
    }
}

/// Any error of the crate. Serialisable, so that a task may return it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// See [`LockError`]. A guard that rode in it was released; its mark stays.
    #[error(transparent)]
    Lock(LockError<()>),
    /// See [`CreateError`].
    #[error(transparent)]
    Create(#[from] CreateError),
    /// See [`ArrayError`].
    #[error(transparent)]
    Array(#[from] ArrayError),
    /// See [`OpenError`].
    #[error(transparent)]
    Open(#[from] OpenError),
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
    /// See [`MapError`].
    #[error(transparent)]
    Map(#[from] MapError),
    /// See [`EncodeError`].
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A `std::io::Error`, as its `errno` (if it had one) and its text: tasks that read files may use `?`.
    #[error("{1}")]
    Io(Option<i32>, String),
}

impl<G> From<LockError<G>> for Error {
    fn from(e: LockError<G>) -> Self {
        Error::Lock(e.release())
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Io(e.raw_os_error(), e.to_string())
    }
}

#[cfg(not(loom))] // models make no system call
impl OsError {
    pub(crate) fn new(call: &'static str, errno: i32) -> Self {
        Self { call: Cow::Borrowed(call), errno }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A guard that tells what became of it.
    #[derive(Debug, Default)]
    struct Guard<'a> {
        cleared: Option<&'a std::cell::Cell<bool>>,
        mended: bool,
    }

    impl Marked for Guard<'_> {
        fn clear_mark(&mut self) {
            self.cleared.expect("a cell").set(true);
        }
    }

    #[test]
    fn an_inherited_guard_is_refused_mended_or_accepted() {
        let cleared = std::cell::Cell::new(false);
        let inherited = || {
            let guard = Guard { cleared: Some(&cleared), mended: false };
            LockError::Inherited(Inherited::new(guard, 7, Some(2..5)))
        };
        let refused: Error = inherited().into();
        let Error::Lock(LockError::Inherited(stored)) = &refused else { panic!("{refused:?}") };
        assert_eq!((stored.pid(), stored.range(), cleared.get()), (7, Some(2..5), false), "the mark stays");
        assert_eq!(
            refused.to_string(),
            "the lock's last owner, process 7, died in the middle of a change of elements 2..5"
        );

        let guard = inherited().repair(|guard| guard.mended = true).expect("the guard");
        assert!(guard.mended && cleared.replace(false), "mended, and the mark is gone");
        let timeout = LockError::<Guard<'_>>::Timeout { owner: None };
        assert!(matches!(timeout.repair(|_| panic!("nothing to mend")), Err(LockError::Timeout { .. })));

        let LockError::Inherited(mut inherited) = inherited() else { panic!("made as one") };
        inherited.get_mut().mended = true;
        assert!(inherited.get_ref().mended && !cleared.get());
        assert!(inherited.accept().mended && cleared.get());
    }

    #[test]
    fn errors_travel() {
        let stored = LockError::Inherited(Inherited::new((), 0, None));
        let there = postcard::to_stdvec(&Error::from(stored.clone())).expect("encodes");
        assert_eq!(postcard::from_bytes::<Error>(&there), Ok(Error::Lock(stored.clone())));
        let there = postcard::to_stdvec(&stored).expect("encodes");
        assert!(postcard::from_bytes::<LockError>(&there).is_err(), "a value's lock is never inherited");
        let timeout: LockError = LockError::Timeout { owner: Some(3) };
        let there = postcard::to_stdvec(&timeout).expect("encodes");
        assert_eq!(postcard::from_bytes(&there), Ok(timeout));
        let there = ArrayError::from(LockError::<Infallible>::Deadlock);
        assert_eq!(there, ArrayError::Lock(LockError::Deadlock));
    }
}
