//! Segments that have a name in /dev/shm: found by programs that know nothing of each other, and gone with the last of
//! them.
//!
//! **Locks on bytes of the file** (open-file-description locks, which the kernel drops with their holder):
//!
//! | byte | shared | exclusive |
//! |---|---|---|
//! | [`LIFE`] = 0 | by every attached process, those that only look too, as long as it is | by who is about to take the name away because nobody is attached |
//! | 1.. and `ALIVE` + owner | | by the process that has this place: see `participants` |
//! | [`NAME`] | | by who takes the name away by wish, while others are attached |
//!
//! ```text
//! nameless --LIFE shared, header, magic--> nameless --linkat--> named, attached by its creator
//! named --open: LIFE shared, does the name still lead here?--> attached   (else: close, try again)
//! named --last out, sweep, open of a stale one: LIFE exclusive, does the name lead here?--> unlinked
//! named --remove: LIFE shared, NAME exclusive, does the name lead here?--> unlinked, those attached go on
//! ```
//!
//! Invariants
//! 1. A name leads to nothing or to a whole segment: it is given by one `linkat`, which replaces nothing.
//! 2. A name is taken from file X only by who holds LIFE of X exclusively, or LIFE shared and NAME exclusively, and found
//!    after that that the name leads to X. There is one such process at a time, and nothing else makes the name lead
//!    elsewhere, so what was found is still true at the `unlink`.
//! 3. Who holds LIFE of X shared, and found after that that the name leads to X, is attached to a named segment: only a
//!    wish takes the name from then on.
//! 4. A segment without PERSIST that nobody is attached to is *stale*: whoever meets it (an open, a create of any name, a
//!    sweep, a list says so) treats it as gone. So whether the last process left or was killed makes no difference.
//! 5. LIFE is held through the description that also holds the process's place, kept by a page that a fork does not
//!    inherit. A forked child enters at its first use, as an opener does; where the name was taken meanwhile it enters only
//!    if others are attached (the wish of 2), else the segment is [`CreateError::Removed`] for it.
//! 6. A description that holds LIFE or a place has an open descriptor only under this process's private lock, which a fork waits for.
//! 7. The bytes are mapped through other descriptions than that: a forked child inherits the mapping, and would keep the
//!    locks of its dead parent. For the same reason nothing is locked through the observer.
//!
//! Proof sketch that no two segments are alive under one name. Let Y be published while X has the name no more. X lost it
//! by 2. By the exclusive LIFE: then nobody was attached to X, and who comes late (it had opened X before) gets LIFE only
//! after the unlink, finds the name leading elsewhere, and leaves. By wish: that is what was wished.
//!
//! Killed here? Before `linkat`: a file without a name, which the kernel takes back. After it: a stale segment. Between
//! any two steps of taking a name away: as if it had not begun, and the locks are free. Nothing is repaired, it is begun
//! again by whoever comes next.
//!
//! Trusted: the length of the file, which cannot be sealed. Who may write the file may cut it, and then a touch of what
//! is missing is a SIGBUS. All else that is wrong with a file is found when it is opened, through its descriptor.

use super::{
    attached::{Local, Segment, local},
    bytes::Bytes,
    census::{clear_stale, sweep_name},
    layout::{EXTENT, Geometry, MAGIC, MOST_PROCESSES, VERSION, header},
    words,
};
use crate::{
    atomic::{self, Private32, Relaxed, Release, Rule},
    error::{CreateError, NameFault, OpenError, OsError, Resource},
    os::{
        liveness::{self, Lock, Observer},
        memory::{self, FileId, ForkAware, Mapping},
        process,
        shm::{self, Facts, LONGEST_NAME, ShmName},
    },
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{sync::Arc, time::Duration};

/// Slot 0 has no owner, so its byte is free for this.
pub(super) const LIFE: u64 = 0;
/// Behind the bytes of all owners.
const NAME: u64 = 1 << 41;
/// Words of the header that are kept in all versions.
pub(super) const HEAD: usize = 7;

/// Whoever is in the way is between two system calls: it is over at once, unless that process is stopped.
const PATIENCE: u32 = 64;
const PAUSES: u32 = 2_000;
const PAUSE: Duration = Duration::from_millis(1);

/// How a named segment is made, or opened.
#[derive(Clone, Debug)]
pub(crate) struct NamedOptions {
    /// Bytes of address space for the objects of a new one; `None`: as large as a private one.
    pub(crate) reserve: Option<u64>,
    /// Places for processes in a new one.
    pub(crate) max_processes: Option<u32>,
    /// Permission bits of a new one; the most that an existing one may have.
    pub(crate) mode: u32,
    /// Another user's will do, with whatever permissions.
    pub(crate) foreign: bool,
    /// Without a place in it, and without a write to it.
    pub(crate) read_only: bool,
}

impl Default for NamedOptions {
    fn default() -> Self {
        Self { reserve: None, max_processes: None, mode: 0o600, foreign: false, read_only: false }
    }
}

/// What a segment with a name has besides.
#[derive(Debug)]
pub(crate) struct Named {
    name: Box<str>,
    at: ShmName,
    /// Set if it is open for reading only: 1 while this process holds LIFE, 0 in a forked child that does not.
    entered: Option<ForkAware>,
}

/// The first words of a file that is one of ours.
pub(super) struct Head {
    pub(super) id: u128,
    pub(super) geometry: Geometry,
    pub(super) persistent: bool,
}

impl Head {
    /// Through the descriptor: nothing is mapped yet, and a file that is cut meanwhile is an answer, not a signal.
    pub(super) fn read(fd: BorrowedFd<'_>, facts: &Facts, name: &str) -> Result<Self, OpenError> {
        if facts.bytes == 0 {
            return Err(OpenError::Empty { name: name.into() });
        }
        match shm::words(fd, 0)? {
            Some(words) => Self::decode(words, facts.bytes, name),
            None => Err(OpenError::NotASegment { name: name.into() }),
        }
    }

    /// What these words say of a file of so many bytes.
    pub(super) fn decode(words: [u64; HEAD], bytes: u64, name: &str) -> Result<Self, OpenError> {
        let name = || name.to_owned();
        let [magic, version, low, high, reserve, max, persist] = words;
        match magic {
            MAGIC => {}
            0 => return Err(OpenError::HalfBuilt { name: name() }),
            _ => return Err(OpenError::NotASegment { name: name() }),
        }
        if version != VERSION {
            return Err(OpenError::WrongVersion { name: name(), found: version, expected: VERSION });
        }
        if bytes < reserve {
            return Err(OpenError::Truncated { name: name(), bytes, expected: reserve });
        }
        let geometry = Geometry::new(reserve, u32::try_from(max).unwrap_or(0))
            .filter(|geometry| geometry.reserve == bytes)
            .ok_or(OpenError::Damaged("its sizes contradict each other".into()))?;
        Ok(Self { id: u128::from(low) | u128::from(high) << 64, geometry, persistent: persist != 0 })
    }
}

fn persists(fd: BorrowedFd<'_>) -> Result<bool, OsError> {
    Ok(shm::words::<HEAD>(fd, 0)?.is_some_and(|words| words[6] != 0))
}

/// The place of a name that can be one.
fn place(name: &str) -> Result<ShmName, OpenError> {
    let fault = match name {
        "" => Some(NameFault::Empty),
        _ if name.contains('/') => Some(NameFault::Slash),
        _ if name.contains('\0') => Some(NameFault::Zero),
        _ if name.starts_with('.') => Some(NameFault::LeadingDot),
        _ if name.len() > LONGEST_NAME => Some(NameFault::TooLong { longest: LONGEST_NAME }),
        _ => None,
    };
    match fault {
        None => Ok(ShmName::new(name)),
        Some(fault) => Err(OpenError::Name { name: name.into(), fault }),
    }
}

/// Is this file one that we want to look into?
fn admit(at: &ShmName, name: &str, options: &NamedOptions, facts: &Facts) -> Result<(), OpenError> {
    let name = || name.to_owned();
    if let Some(what) = facts.oddity {
        return Err(OpenError::NotAFile { name: name(), path: at.path(), found: what.into() });
    }
    if options.foreign {
        return Ok(());
    }
    if facts.owner != shm::user() {
        return Err(OpenError::Foreign { name: name(), owner: facts.owner });
    }
    if facts.mode & !options.mode != 0 {
        return Err(OpenError::Mode { name: name(), found: facts.mode, allowed: options.mode });
    }
    Ok(())
}

/// Why a name could not be opened. `Ok`: it leads nowhere.
fn refused(at: &ShmName, name: &str, options: &NamedOptions, error: OsError) -> Result<(), OpenError> {
    let oddities = [libc::EISDIR, libc::ELOOP, libc::ENXIO, libc::ENODEV, libc::EACCES, libc::EPERM];
    if error.errno == libc::ENOENT {
        return Ok(());
    }
    if oddities.contains(&error.errno)
        && let Some(facts) = at.facts()?
    {
        admit(at, name, options, &facts)?;
        if error.errno == libc::EACCES {
            let allowed = if options.foreign { 0o7777 } else { options.mode };
            return Err(OpenError::Mode { name: name.into(), found: facts.mode, allowed });
        }
    }
    Err(error.into())
}

/// Tries again, but not for ever.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    fn is_left(&mut self) -> bool {
        self.0 += 1;
        if self.0 > PATIENCE {
            let _ = process::poll(&[], Some(PAUSE)); // nothing can be waited for: it is another's system call
        } else {
            std::thread::yield_now();
        }
        self.0 < PATIENCE + PAUSES
    }

    fn or_busy(&mut self, name: &str) -> Result<(), OpenError> {
        if self.is_left() { Ok(()) } else { Err(OpenError::Busy { name: name.into() }) }
    }
}

/// The observer's descriptor.
fn seen_by(observer: &Observer) -> Result<BorrowedFd<'_>, CreateError> {
    observer.checked().map_err(|_| CreateError::DescriptorsLost)
}

/// Takes the name from `file` if nobody is attached to it (and nobody else, where `fd` holds LIFE itself) and it does not
/// persist. `false`: it has it still, or never had. LIFE is not held by `fd` afterwards.
pub(super) fn sweep(at: &ShmName, fd: BorrowedFd<'_>, file: FileId) -> Result<bool, OsError> {
    let alone = liveness::try_lock(fd, LIFE, Lock::Exclusive)?;
    let swept = if alone || atomic::broken(Rule::AloneToUnlink) {
        // Invariant 2.
        persists(fd).and_then(|persists| Ok(!persists && at.leads_to(file)? && at.unlink()?))
    } else {
        Ok(false)
    };
    liveness::unlock(fd, LIFE)?;
    swept
}

/// After an attach that failed: we may have been in the way of the last one out.
fn let_go(at: &ShmName, fd: BorrowedFd<'_>, file: FileId) -> Result<(), OsError> {
    match sweep(at, fd, file) {
        Ok(_) => Ok(()),
        // A description that only reads gets no exclusive lock.
        Err(_) => {
            liveness::unlock(fd, LIFE)?;
            match liveness::reopen(fd) {
                Ok(other) => sweep(at, other.as_fd(), file).map(drop),
                Err(_) => Ok(()), // not ours to take away
            }
        }
    }
}

impl Named {
    /// In a forked child, at first use: a description that holds LIFE. See invariant 5.
    pub(super) fn enter(&self, observer: &Observer) -> Result<OwnedFd, CreateError> {
        let via = seen_by(observer)?;
        let description = match self.entered {
            None => liveness::reopen(via)?,
            Some(_) => liveness::reopen_to_read(via)?,
        };
        let (fd, file) = (description.as_fd(), observer.file());
        let mut patience = Patience::default();
        loop {
            let is_named = self.at.leads_to(file)?;
            // Places are held by those only who are attached; LIFE for a moment also by who is just finding out.
            if !is_named && liveness::held_by_others(fd, 1, u64::from(MOST_PROCESSES))?.is_none() {
                return Err(CreateError::Removed);
            }
            if liveness::try_lock(fd, LIFE, Lock::Shared)? {
                if !is_named || self.at.leads_to(file)? {
                    return Ok(description);
                }
                liveness::unlock(fd, LIFE)?;
            }
            if !patience.is_left() {
                return Err(CreateError::Removed);
            }
        }
    }

    /// This process holds LIFE no more: was it the last one?
    pub(super) fn leave(&self, observer: &Observer) {
        let file = observer.file();
        // Not through the observer: a forked child has inherited it, so invariant 2 would not hold between it and us, and
        // it would keep a lock with which we are killed. By name: if that does not lead here, nothing is to be taken away.
        // (The mapping keeps the file, so that no other one is the same.) What cannot be done now is left for the next sweep.
        let Ok(fd) = self.at.open(true) else { return };
        if Facts::of(fd.as_fd()).is_ok_and(|facts| facts.file == file) {
            let _ = sweep(&self.at, fd.as_fd(), file);
        }
    }
}

/// What came of one look at a name.
enum Attempt {
    Done(Arc<Segment>),
    Missing,
    Again,
    /// It says that it is a segment that we have. (Which is dropped after the lock: it may be the last reference.)
    Impostor(Arc<Segment>),
}

fn impostor(_: Arc<Segment>) -> OpenError {
    OpenError::Damaged("it has the id of another segment".into())
}

impl Segment {
    /// A new segment under that name, with this process in it. What stale segments there are is swept first.
    pub(crate) fn create_named(name: &str, options: &NamedOptions) -> Result<Arc<Self>, OpenError> {
        let at = place(name)?;
        if options.read_only {
            return Err(OpenError::ReadOnly);
        }
        let _ = clear_stale(); // what it could not take away is in nobody's way but under our own name
        let mut patience = Patience::default();
        loop {
            if let Some(segment) = Self::try_create(&at, name, options)? {
                return Ok(segment);
            }
            // Something has the name. If its last process has just gone, it has not.
            if sweep_name(&at)?.is_none() && at.facts()?.is_some() {
                return Err(OpenError::Exists { name: name.into() });
            }
            patience.or_busy(name)?;
        }
    }

    /// The segment of that name. The same one, if this process has it already.
    pub(crate) fn open_named(name: &str, options: &NamedOptions) -> Result<Arc<Self>, OpenError> {
        let at = place(name)?;
        let mut patience = Patience::default();
        loop {
            match Self::try_open(&at, name, options)? {
                Attempt::Done(segment) => {
                    if segment.is_entered()? {
                        return Ok(segment);
                    }
                }
                Attempt::Missing => return Err(OpenError::NotFound { name: name.into() }),
                Attempt::Again => {}
                Attempt::Impostor(known) => return Err(impostor(known)),
            }
            patience.or_busy(name)?;
        }
    }

    /// Is this process attached? It is, but for a forked child that opens what it has inherited: that enters now, not at
    /// its first use, so that what was opened does not go with the parent. `false`: it is gone, look again.
    fn is_entered(&self) -> Result<bool, CreateError> {
        match self.me() {
            Ok(_) | Err(CreateError::ReadOnly) => Ok(true),
            Err(CreateError::Removed) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The segment of that name, made if there is none: one, however many ask at the same time.
    pub(crate) fn open_or_create_named(name: &str, options: &NamedOptions) -> Result<Arc<Self>, OpenError> {
        let at = place(name)?;
        let (mut patience, mut swept) = (Patience::default(), false);
        loop {
            match Self::try_open(&at, name, options)? {
                Attempt::Done(segment) => {
                    if segment.is_entered()? {
                        return Ok(segment);
                    }
                }
                Attempt::Missing if options.read_only => {
                    return Err(OpenError::NotFound { name: name.into() });
                }
                Attempt::Missing => {
                    if !std::mem::replace(&mut swept, true) {
                        let _ = clear_stale();
                    }
                    if let Some(segment) = Self::try_create(&at, name, options)? {
                        return Ok(segment);
                    }
                }
                Attempt::Again => {}
                Attempt::Impostor(known) => return Err(impostor(known)),
            }
            patience.or_busy(name)?;
        }
    }

    /// `None`: something has the name.
    fn try_create(at: &ShmName, name: &str, options: &NamedOptions) -> Result<Option<Arc<Self>>, OpenError> {
        let mut geometry = geometry_for(options)?;
        loop {
            match Self::try_create_with(at, name, options, geometry) {
                // Less address space than memory (RLIMIT_AS): half of it may do, if no size was asked for.
                Err(OpenError::Os(OsError { errno: errno @ (libc::ENOMEM | libc::EFBIG), .. })) => {
                    let full = OpenError::Full { bytes: geometry.reserve, what: too_large(errno) };
                    if options.reserve.is_some() {
                        return Err(full);
                    }
                    let half = geometry.reserve / 2 / EXTENT * EXTENT;
                    geometry = Geometry::new(half, geometry.max_processes).ok_or(full)?;
                }
                other => return other,
            }
        }
    }

    fn try_create_with(
        at: &ShmName,
        name: &str,
        options: &NamedOptions,
        geometry: Geometry,
    ) -> Result<Option<Arc<Self>>, OpenError> {
        let mut local = local()?;
        let local = local.get_or_insert_default();
        let file = at.create_nameless(options.mode)?;
        shm::set_length(file.as_fd(), geometry.reserve)?;
        let observer = Observer::open(file.as_fd())?;
        // Mapped before it has a name, so by ourselves: who cannot map it leaves no name behind. Through the observer:
        // invariant 7.
        let bytes = Bytes::new(Mapping::new(seen_by(&observer)?, geometry.reserve as usize)?);
        let segment = Self {
            id: memory::random_id()?,
            geometry,
            bytes,
            observer,
            identity: local.identity()?,
            registered: Private32::new(0),
            named: Some(Named { name: name.into(), at: at.clone(), entered: None }),
        };
        segment.write_header()?;
        segment.bytes.w64(header::NAME_BYTES).store(name.len() as u64, Relaxed);
        let room = segment.bytes.words64(header::NAME, LONGEST_NAME.div_ceil(8));
        words::store_bytes(room, name.as_bytes());
        if !liveness::try_lock(file.as_fd(), LIFE, Lock::Shared)? {
            return Err(OpenError::Busy { name: name.into() });
        }
        let (segment, own) = segment.take_part(file.as_fd())?;
        segment.finish_header();
        if !at.publish(file.as_fd())? {
            return Ok(None);
        }
        local.register(&segment, own);
        Ok(Some(segment))
    }

    fn try_open(at: &ShmName, name: &str, options: &NamedOptions) -> Result<Attempt, OpenError> {
        let mut local = local()?;
        let local = local.get_or_insert_default();
        let file = match at.open(!options.read_only) {
            Ok(file) => file,
            Err(e) => return refused(at, name, options, e).map(|()| Attempt::Missing),
        };
        let facts = Facts::of(file.as_fd())?;
        admit(at, name, options, &facts)?;
        let head = Head::read(file.as_fd(), &facts, name)?;
        match liveness::held_by_others(file.as_fd(), LIFE, 1)? {
            Some(Lock::Exclusive) => return Ok(Attempt::Again),
            None if !head.persistent => {
                // Invariant 4: it is gone, and only its name is left.
                return match at.open(true) {
                    Ok(file) if Facts::of(file.as_fd())?.file == facts.file => {
                        sweep(at, file.as_fd(), facts.file)?;
                        Ok(Attempt::Again)
                    }
                    Ok(_) => Ok(Attempt::Again),
                    Err(_) => Ok(Attempt::Missing), // not ours to take away
                };
            }
            Some(Lock::Shared) | None => {}
        }
        if !liveness::try_lock(file.as_fd(), LIFE, Lock::Shared)? {
            return Ok(Attempt::Again);
        }
        let attempt = Self::try_attach(local, at, name, options, &head, (file.as_fd(), facts.file));
        if !matches!(attempt, Ok(Attempt::Done(_))) {
            let_go(at, file.as_fd(), facts.file)?;
        }
        attempt
    }

    /// `file` holds LIFE. What of it stays open is closed by the caller.
    fn try_attach(
        local: &mut Local,
        at: &ShmName,
        name: &str,
        options: &NamedOptions,
        head: &Head,
        (fd, file): (BorrowedFd<'_>, FileId),
    ) -> Result<Attempt, OpenError> {
        // Invariant 3: opening the name again is the look where it leads, and gives the observer.
        let (observer, is_moved) = if atomic::broken(Rule::LookAtTheName) {
            (Observer::open(fd)?, false)
        } else {
            let (again, is_moved) = match at.open_lifted(!options.read_only) {
                Ok(again) => again,
                Err(e) => return refused(at, name, options, e).map(|()| Attempt::Again),
            };
            let now = Facts::of(again.as_fd())?;
            if now.file != file || !now.has_name {
                return Ok(Attempt::Again);
            }
            if now.bytes < head.geometry.reserve {
                let expected = head.geometry.reserve;
                return Err(OpenError::Truncated { name: name.into(), bytes: now.bytes, expected });
            }
            (Observer::of(again, file), is_moved)
        };
        if let Some(known) = local.find(head.id, options.read_only) {
            if known.observer.file() == file {
                return Ok(Attempt::Done(known));
            }
            return Ok(Attempt::Impostor(known));
        }
        let full = |e: OsError| match e.errno {
            libc::ENOMEM => OpenError::Full { bytes: head.geometry.reserve, what: too_large(e.errno) },
            _ => e.into(),
        };
        let mapping = if options.read_only {
            Mapping::read_only(observer.just_opened(), head.geometry.reserve as usize).map_err(full)?
        } else if atomic::broken(Rule::LookAtTheName) {
            Mapping::new(seen_by(&observer)?, head.geometry.reserve as usize).map_err(full)?
        } else {
            match at.map((observer.just_opened(), is_moved), head.geometry.reserve).map_err(full)? {
                Some(mapping) if mapping.bytes() as u64 == head.geometry.reserve => mapping,
                _ => return Ok(Attempt::Again), // its name was taken by wish, and another has it
            }
        };
        let bytes = Bytes::new(mapping);
        if Self::id_in(&bytes) != head.id {
            return Ok(Attempt::Again);
        }
        let word = local.identity()?;
        let (identity, entered) =
            if options.read_only { (ForkAware::none(), Some(word)) } else { (word, None) };
        let (segment, own) = Self {
            id: head.id,
            geometry: head.geometry,
            bytes,
            observer,
            identity,
            registered: Private32::new(0),
            named: Some(Named { name: name.into(), at: at.clone(), entered }),
        }
        .take_part(fd)?;
        local.register(&segment, own);
        Ok(Attempt::Done(segment))
    }

    /// For [`Segment::join`]: the segment behind a descriptor that another process gave us, if it is a named one.
    pub(super) fn join_named(fd: &OwnedFd) -> Result<Option<Arc<Self>>, CreateError> {
        let facts = Facts::of(fd.as_fd())?;
        let Ok(head) = Head::read(fd.as_fd(), &facts, "") else { return Ok(None) };
        let observer = Observer::open(fd.as_fd())?;
        let bytes = Bytes::new(Mapping::new(seen_by(&observer)?, head.geometry.reserve as usize)?);
        let mut name = vec![0; bytes.w64(header::NAME_BYTES).load(Relaxed).min(LONGEST_NAME as u64) as usize];
        words::load_bytes(bytes.words64(header::NAME, LONGEST_NAME.div_ceil(8)), &mut name);
        let Ok(name) = String::from_utf8(name) else { return Ok(None) };
        let Ok(at) = place(&name) else { return Ok(None) };
        let mut local = local()?;
        let local = local.get_or_insert_default();
        if let Some(known) = local.find(head.id, false) {
            return Ok(Some(known));
        }
        let named = Named { name: name.into(), at, entered: None };
        let description = named.enter(&observer)?;
        let (segment, own) = Self {
            id: head.id,
            geometry: head.geometry,
            bytes,
            observer,
            identity: local.identity()?,
            registered: Private32::new(0),
            named: Some(named),
        }
        .take_part(description.as_fd())?;
        local.register(&segment, own);
        Ok(Some(segment))
    }

    /// Takes a name away. Those who are attached go on, and whoever opens the name does not find them.
    pub(crate) fn remove_named(name: &str) -> Result<(), OpenError> {
        let at = place(name)?;
        let options = NamedOptions { mode: 0o7777, ..NamedOptions::default() };
        let mut patience = Patience::default();
        loop {
            let _no_fork = local()?;
            let file = match at.open(true) {
                Ok(file) => file,
                Err(e) => {
                    refused(&at, name, &options, e)?;
                    return Err(OpenError::NotFound { name: name.into() });
                }
            };
            let (fd, facts) = (file.as_fd(), Facts::of(file.as_fd())?);
            admit(&at, name, &options, &facts)?;
            if liveness::try_lock(fd, LIFE, Lock::Exclusive)? || liveness::try_lock(fd, LIFE, Lock::Shared)? {
                let taken = take_name(&at, fd, facts.file);
                liveness::unlock(fd, LIFE)?;
                if taken? {
                    return Ok(());
                }
            }
            drop(_no_fork);
            patience.or_busy(name)?;
        }
    }

    /// Takes this segment's name away, as [`Segment::remove_named`]; never another segment's that has it by now.
    pub(crate) fn unlink(&self) -> Result<(), OpenError> {
        let (named, fd) = self.to_change()?;
        let (name, file) = (&*named.name, self.observer.file());
        let mut patience = Patience::default();
        while named.at.leads_to(file)? {
            if take_name(&named.at, fd.as_fd(), file)? {
                return Ok(());
            }
            patience.or_busy(name)?;
        }
        Err(OpenError::NotFound { name: name.into() })
    }

    /// Keeps the segment when the last process leaves.
    pub(crate) fn persist(&self) -> Result<(), OpenError> {
        self.to_change()?;
        self.bytes.w64(header::PERSIST).store(1, Release); // seen by whoever gets LIFE after us
        Ok(())
    }

    /// A description of our own, in a segment with a name that we take part in.
    fn to_change(&self) -> Result<(&Named, OwnedFd), OpenError> {
        let named = self.named.as_ref().ok_or(OpenError::Invalid("the segment has no name".into()))?;
        self.me()?;
        Ok((named, liveness::reopen(self.descriptor()?)?))
    }

    /// What it is opened under, if it is a named one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.named.as_ref().map(|named| &*named.name)
    }

    /// Is it open for reading only?
    pub(crate) fn is_read_only(&self) -> bool {
        self.entered().is_some()
    }

    /// See [`Named`].
    pub(super) fn entered(&self) -> Option<ForkAware> {
        self.named.as_ref().and_then(|named| named.entered)
    }
}

/// By wish: with LIFE in hand (our own process may be attached), and NAME. `false`: another is at it, or it is gone.
fn take_name(at: &ShmName, fd: BorrowedFd<'_>, file: FileId) -> Result<bool, OsError> {
    if !liveness::try_lock(fd, NAME, Lock::Exclusive)? {
        return Ok(false);
    }
    let taken = at.leads_to(file).and_then(|leads| Ok(leads && at.unlink()?)); // invariant 2
    liveness::unlock(fd, NAME)?;
    taken
}

/// What is in the way of a segment of a size, by what `ftruncate` and `mmap` say.
pub(super) fn too_large(errno: i32) -> Resource {
    if errno == libc::EFBIG { Resource::FileSize } else { Resource::AddressSpace }
}

/// How large a new segment is.
pub(super) fn geometry_for(options: &NamedOptions) -> Result<Geometry, OpenError> {
    if options.mode & !0o666 != 0 || options.mode & 0o600 != 0o600 {
        return Err(OpenError::Invalid(
            "a mode lets at least its owner read and write, and nobody execute".into(),
        ));
    }
    let usual = Geometry::default_private()?;
    let max = options.max_processes.unwrap_or(usual.max_processes);
    if !(1..=MOST_PROCESSES).contains(&max) {
        return Err(OpenError::Invalid(format!("places for 1 to {MOST_PROCESSES} processes").into()));
    }
    let most = memory::file_size_limit().min(isize::MAX as u64) / EXTENT * EXTENT;
    let Some(wish) = options.reserve else {
        let full = OpenError::Full { bytes: usual.reserve, what: Resource::FileSize };
        return Geometry::new(usual.reserve, max).ok_or(full);
    };
    let what =
        if most < isize::MAX as u64 / EXTENT * EXTENT { Resource::FileSize } else { Resource::AddressSpace };
    let full = OpenError::Full { bytes: wish, what };
    // So many extents for objects, and the tables' before them, of which there are more for more extents.
    let objects = wish.div_ceil(EXTENT).max(1);
    let mut extents = objects.checked_add(1).ok_or(full.clone())?;
    loop {
        let reserve = extents.checked_mul(EXTENT).filter(|&reserve| reserve <= most).ok_or(full.clone())?;
        match Geometry::new(reserve, max) {
            Some(geometry) if geometry.extents - geometry.first_extent >= objects => return Ok(geometry),
            Some(geometry) => extents = objects + geometry.first_extent,
            None => extents += 1,
        }
    }
}
