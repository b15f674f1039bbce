//! `Manager`: one segment, many objects that have names; and how a process that is not a worker of ours joins it.
//!
//! What a name means, and why it is given once however many ask, is in `segment/directory.rs`. Here is what users see
//! of it, and the way of a segment through `exec`:
//!
//! ```text
//! parent: share(&manager)  -> a copy of the descriptor, its number and the segment's id into the child's environment
//! child:  Manager::from_env() -> number -> file -> a sealed segment of ours, of that id -> joined
//! ```
//!
//! Killed here? A process that dies in a call leaves a claim, or an object without a name, that others clear; or a name
//! that stands, with its object whole. See `segment/names.rs`.

use crate::{
    array::{ArrayKind, SharedArray},
    codec::{Codec, Key},
    error::{CreateError, HandleError, NameFault, OpenError, VerifyError},
    map::{MapBuilder, SharedMap},
    number::Atomic,
    os::inherit,
    segment::{
        Kind, Object as Words, Place, Report, Segment, Stamp,
        directory::{Entry, FoundOrClaimed, LONGEST},
        named::NamedOptions,
        record::short_name,
    },
    shared_atomic::SharedAtomic,
    sync::{LockKind, Unlocked},
    value::SharedValue,
};
use bytemuck::Pod;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    process::Command,
    sync::Arc,
};

/// The environment of a child that was given segments: `number:id` of each, with commas between.
const SHARED: &str = "ALLMEND_SHARED";

/// So often a name may be taken away between our look-up and our hold, before we believe that the directory lies.
const GONE_AT_MOST: u32 = 10_000;

/// Every handle of this crate that can have a name in a [`Manager`]. Sealed.
#[allow(private_bounds, reason = "sealed")]
pub trait Object: Listed + Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

/// What the manager asks of a handle.
pub(crate) trait Listed: Sized {
    /// Kind, type and the type's name.
    fn expected() -> (Kind, Stamp, String);
    /// The object at that place, if it is one of this kind and type.
    fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError>;
    /// What the handle leads to.
    fn words(&self) -> &Arc<Words>;
}

impl<T: Pod, L: LockKind> Object for SharedValue<T, L> {}
impl<T: Pod, L: LockKind> Listed for SharedValue<T, L> {
    fn expected() -> (Kind, Stamp, String) {
        (L::VALUE, Stamp::of::<T>(), short_name::<T>())
    }
    fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        Self::open_in(segment, place)
    }
    fn words(&self) -> &Arc<Words> {
        self.object()
    }
}

impl<T: Atomic> Object for SharedAtomic<T> {}
impl<T: Atomic> Listed for SharedAtomic<T> {
    fn expected() -> (Kind, Stamp, String) {
        (Kind::Atomic, Stamp::of::<T>(), short_name::<T>())
    }
    fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        Self::open_in(segment, place)
    }
    fn words(&self) -> &Arc<Words> {
        self.object()
    }
}

impl<T: Pod, L: ArrayKind> Object for SharedArray<T, L> {}
impl<T: Pod, L: ArrayKind> Listed for SharedArray<T, L> {
    fn expected() -> (Kind, Stamp, String) {
        (L::KIND, Stamp::of::<T>(), short_name::<T>())
    }
    fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        Self::open_in(segment, place)
    }
    fn words(&self) -> &Arc<Words> {
        self.object()
    }
}

impl<K: Key, V: Codec> Object for SharedMap<K, V> {}
impl<K: Key, V: Codec> Listed for SharedMap<K, V> {
    fn expected() -> (Kind, Stamp, String) {
        let (stamp, name) = Self::expected();
        (Kind::Map, stamp, name)
    }
    fn open_in(segment: &Arc<Segment>, place: Place) -> Result<Self, HandleError> {
        Self::open_in(segment, place)
    }
    fn words(&self) -> &Arc<Words> {
        self.object()
    }
}

/// The array, if it has that many elements.
fn as_long_as<T: Pod, L: ArrayKind>(
    len: usize,
    name: &str,
    array: SharedArray<T, L>,
) -> Result<SharedArray<T, L>, OpenError> {
    if array.len() != len {
        return Err(OpenError::WrongType {
            name: name.into(),
            expected: format!("{len} elements"),
            found: format!("{} elements", array.len()),
        });
    }
    Ok(array)
}

impl<K: Key, V: Codec> MapBuilder<K, V> {
    /// The map of that name in a manager; a new one with these settings if there is none. One that is there keeps those
    /// with which it was made: who must know has [`create`](Self::create).
    ///
    /// # Errors
    /// As [`Manager::value`] and [`MapBuilder::build`]; settings that cannot be are [`OpenError::Invalid`] also where the
    /// map is there.
    #[doc(alias = "name")]
    pub fn open_or_create(self, manager: &Manager, name: &str) -> Result<SharedMap<K, V>, OpenError> {
        self.check()?;
        manager.open_or_make(name, |segment| self.place_in(segment))
    }

    /// A new map of that name in a manager: of several processes that ask at the same time, one gets it.
    ///
    /// # Errors
    /// [`OpenError::ObjectExists`] if the name is taken; [`OpenError::ReadOnly`]; else as
    /// [`open_or_create`](Self::open_or_create).
    pub fn create(self, manager: &Manager, name: &str) -> Result<SharedMap<K, V>, OpenError> {
        self.check()?;
        checked(name)?;
        if manager.segment.find(name)?.is_some() {
            return Err(OpenError::ObjectExists { name: name.into() });
        }
        let map = self.place_in(&manager.segment)?;
        manager.publish(name, &map)?;
        Ok(map)
    }
}

/// Shared memory with a directory of objects in it.
///
/// Each method that is named after an object opens the one of that name, or creates it, whoever comes first: it is
/// created once, however many ask at the same time, and a process that dies in the middle is no obstacle. Look-up takes
/// no lock and waits for nobody. An object with a name stays while it has the name, also when no process uses it;
/// [`remove`](Self::remove) takes the name away, and the object goes with its last user.
///
/// A handle: clones are the same manager. So are the handles that it gives, which travel to workers of a
/// [`Pool`](crate::Pool) as all do.
///
/// ```
/// let manager = allmend::Manager::new()?;
/// let total = manager.value("total", 40i64)?;
/// *manager.value("total", 0i64)?.get_lock()? += 2; // the same one
/// assert_eq!(total.get(), 42);
/// # Ok::<(), allmend::Error>(())
/// ```
#[derive(Clone)]
pub struct Manager {
    segment: Arc<Segment>,
}

impl Manager {
    /// A private one: reached through its handles and its descriptor only, gone with its last process.
    ///
    /// # Errors
    /// [`CreateError::Full`] if there is no room, [`CreateError::Os`] if the kernel refuses.
    pub fn new() -> Result<Self, CreateError> {
        Ok(Self { segment: Segment::private()? })
    }

    /// The one of that name, in `/dev/shm`: one, however many processes ask at the same time. Gone with its last process,
    /// unless it [persists](Self::persist).
    ///
    /// # Errors
    /// As [`Manager::open`] and [`Manager::create`], but for [`OpenError::NotFound`] and [`OpenError::Exists`].
    ///
    /// ```
    /// use allmend::Manager;
    ///
    /// let name = format!("allmend-doc-{}", std::process::id());
    /// let ours = Manager::open_or_create(&name)?;
    /// let total = ours.value("total", 5i64)?;
    /// // Another program, which knows nothing but the name:
    /// let theirs = Manager::open(&name)?;
    /// assert_eq!(theirs.value("total", 0i64)?.get(), 5);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn open_or_create(name: &str) -> Result<Self, OpenError> {
        Self::builder().open_or_create(name)
    }

    /// The one of that name.
    ///
    /// # Errors
    /// * [`OpenError::NotFound`] if there is none, [`OpenError::Name`] if there can be none;
    /// * [`OpenError::Foreign`] and [`OpenError::Mode`] if it is not this user's alone, or does not let this user in;
    /// * [`OpenError::NotAFile`], [`OpenError::Empty`], [`OpenError::HalfBuilt`], [`OpenError::NotASegment`],
    ///   [`OpenError::WrongVersion`], [`OpenError::Truncated`] and [`OpenError::Damaged`] if what has the name is none that
    ///   can be used;
    /// * [`OpenError::TooManyProcesses`] if all its places are taken, [`OpenError::Full`] if this process has no address
    ///   space for it, [`OpenError::Busy`] if a process was stopped while it takes the name away, [`OpenError::Os`].
    pub fn open(name: &str) -> Result<Self, OpenError> {
        Self::builder().open(name)
    }

    /// A new one of that name: of `x` it is the file `/dev/shm/allmend.x`.
    ///
    /// A name has 1 to 247 bytes, no `/` and no zero among them, and does not begin with a dot. (Names of objects have 1 to
    /// 255 bytes, and anything but zeros.)
    ///
    /// # Errors
    /// [`OpenError::Name`] if it is none; [`OpenError::Exists`] if something has it; [`OpenError::Full`] if there is no room
    /// for it, and which kind of room; [`OpenError::Invalid`] if the [builder's](Manager::builder) options cannot be, or are
    /// for [opening](OpenError::ReadOnly) only; [`OpenError::Busy`] as in [`open`](Self::open); [`OpenError::Os`].
    ///
    /// ```
    /// use allmend::{Manager, OpenError};
    ///
    /// let name = format!("allmend-doc-create-{}", std::process::id());
    /// let manager = Manager::create(&name)?;
    /// assert!(matches!(Manager::create(&name), Err(OpenError::Exists { .. })));
    /// drop(manager); // the last process leaves
    /// assert!(matches!(Manager::open(&name), Err(OpenError::NotFound { .. })));
    /// assert!(matches!(Manager::create("a/b"), Err(OpenError::Name { .. })));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn create(name: &str) -> Result<Self, OpenError> {
        Self::builder().create(name)
    }

    /// Size, number of processes, permissions, for reading only.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::default()
    }

    /// The locked value of that name; a new one, `init`, if there is none.
    ///
    /// # Errors
    /// [`OpenError::WrongType`] if the name is another kind of object's, or a value's of another type;
    /// [`OpenError::ObjectName`] if no object can have that name; [`OpenError::Full`] if it had to be created and there is
    /// no room; [`OpenError::NoObject`] if it had to be created in a manager that is open for
    /// [reading only](ManagerBuilder::read_only); [`OpenError::Damaged`] if the directory was overwritten. In a forked child
    /// that has not used the manager before, also what [`open`](Self::open) gives when there is no place for it.
    ///
    /// ```
    /// use allmend::{Manager, OpenError};
    ///
    /// let manager = Manager::new()?;
    /// let total = manager.value("total", 1u32)?;
    /// match manager.value("total", 1.0f64) {
    ///     Err(OpenError::WrongType { expected, found, .. }) => {
    ///         assert_eq!(expected, "a SharedValue of f64 (8 bytes, alignment 8)");
    ///         assert_eq!(found, "a SharedValue of u32 (4 bytes, alignment 4)");
    ///     }
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn value<T: Pod>(&self, name: &str, init: T) -> Result<SharedValue<T>, OpenError> {
        self.open_or_make(name, |segment| SharedValue::place_in(segment, init))
    }

    /// The atomic of that name; a new one, `init`, if there is none.
    ///
    /// # Errors
    /// As [`Manager::value`].
    ///
    /// ```
    /// let manager = allmend::Manager::new()?;
    /// manager.atomic("hits", 0u64)?.fetch_add(3);
    /// assert_eq!(manager.atomic("hits", 0u64)?.load(), 3);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn atomic<T: Atomic>(&self, name: &str, init: T) -> Result<SharedAtomic<T>, OpenError> {
        self.open_or_make(name, |segment| SharedAtomic::place_in(segment, init))
    }

    /// The array of that name; a new one of `len` zeros if there is none.
    ///
    /// # Errors
    /// As [`Manager::value`]; [`OpenError::WrongType`] also if it has another length; [`OpenError::Invalid`] without
    /// elements.
    ///
    /// ```
    /// use allmend::{Manager, OpenError};
    ///
    /// let manager = Manager::new()?;
    /// manager.array::<f64>("samples", 100)?.set(7, 0.5)?;
    /// assert_eq!(manager.array::<f64>("samples", 100)?.get(7)?, 0.5);
    /// match manager.array::<f64>("samples", 200) {
    ///     Err(OpenError::WrongType { expected, found, .. }) => {
    ///         assert_eq!((&*expected, &*found), ("200 elements", "100 elements"));
    ///     }
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn array<T: Pod>(&self, name: &str, len: usize) -> Result<SharedArray<T>, OpenError> {
        let array = self.open_or_make(name, |segment| SharedArray::place_in(segment, len, |_| ()))?;
        as_long_as(len, name, array)
    }

    /// The array without locks of that name ([`SharedArray::unlocked`]); a new one of `len` zeros if there is none.
    ///
    /// # Errors
    /// As [`Manager::array`].
    ///
    /// ```
    /// let manager = allmend::Manager::new()?;
    /// manager.unlocked_array::<u32>("counts", 4)?.fetch_add(2, 5)?;
    /// assert_eq!(manager.unlocked_array::<u32>("counts", 4)?.to_vec(), [0, 0, 5, 0]);
    /// # Ok::<(), allmend::Error>(())
    /// ```
    ///
    /// Elements that would be torn do not compile:
    ///
    /// ```compile_fail,E0080
    /// let manager = allmend::Manager::new().unwrap();
    /// let wide = manager.unlocked_array::<[u8; 3]>("wide", 4);
    /// ```
    pub fn unlocked_array<T: Pod>(
        &self,
        name: &str,
        len: usize,
    ) -> Result<SharedArray<T, Unlocked>, OpenError> {
        let array = self.open_or_make(name, |segment| SharedArray::place_unlocked(segment, len))?;
        as_long_as(len, name, array)
    }

    /// The map of that name; a new one if there is none. With settings: [`MapBuilder::open_or_create`].
    ///
    /// # Errors
    /// As [`Manager::value`].
    ///
    /// ```
    /// use allmend::{Manager, OpenError};
    ///
    /// let manager = Manager::new()?;
    /// manager.map::<String, u64>("scores")?.fetch_add("Ada", 3)?;
    /// assert_eq!(manager.map::<String, u64>("scores")?.get("Ada")?, Some(3));
    /// match manager.map::<String, i64>("scores") {
    ///     Err(OpenError::WrongType { found, .. }) => assert_eq!(found, "a SharedMap of (String, u64)"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn map<K: Key, V: Codec>(&self, name: &str) -> Result<SharedMap<K, V>, OpenError> {
        self.open_or_make(name, SharedMap::place_in)
    }

    /// An object that is there, of any type. Takes no lock, waits for nobody.
    ///
    /// # Errors
    /// [`OpenError::NoObject`] if nothing has that name; else as [`Manager::value`].
    ///
    /// ```
    /// use allmend::{Manager, OpenError, SharedValue};
    ///
    /// let manager = Manager::new()?;
    /// manager.value("limits", [1u64, 2])?;
    /// assert_eq!(manager.open_object::<SharedValue<[u64; 2]>>("limits")?.get(), [1, 2]);
    /// assert!(matches!(manager.open_object::<SharedValue<u64>>("other"), Err(OpenError::NoObject { .. })));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn open_object<O: Object>(&self, name: &str) -> Result<O, OpenError> {
        checked(name)?;
        for _ in 0..GONE_AT_MOST {
            let Some(entry) = self.segment.find(name)? else {
                return Err(OpenError::NoObject { name: name.into() });
            };
            if let Some(object) = self.open_entry(name, &entry)? {
                return Ok(object);
            }
        }
        Err(lying())
    }

    /// `None`: the name was taken away meanwhile.
    fn open_entry<O: Object>(&self, name: &str, entry: &Entry) -> Result<Option<O>, OpenError> {
        match O::open_in(&self.segment, entry.object) {
            Ok(object) => Ok(Some(object)),
            Err(HandleError::Gone) => Ok(None),
            Err(HandleError::Create(e)) => Err(e.into()),
            Err(HandleError::WrongType { found, .. }) => {
                let (kind, stamp, type_name) = O::expected();
                let found = self.segment.describe(entry.object).map_or(found, |found| {
                    let type_name = String::from_utf8_lossy(&entry.type_name);
                    describe(found.kind, &type_name, found.size, found.align)
                });
                Err(OpenError::WrongType {
                    name: name.into(),
                    expected: describe(kind as u64, &type_name, stamp.size, stamp.align),
                    found,
                })
            }
            Err(_) => Err(OpenError::Damaged(format!("the object named {name:?}").into())),
        }
    }

    fn open_or_make<O: Object>(
        &self,
        name: &str,
        make: impl Fn(&Arc<Segment>) -> Result<O, CreateError>,
    ) -> Result<O, OpenError> {
        match self.open_object(name) {
            Err(OpenError::NoObject { .. }) if !self.segment.is_read_only() => {}
            other => return other,
        }
        let (_, _, type_name) = O::expected();
        let mut made: Option<O> = None;
        for _ in 0..GONE_AT_MOST {
            match self.segment.find_or_claim(name, &type_name, made.is_some())? {
                FoundOrClaimed::Found(entry) => {
                    if let Some(object) = self.open_entry(name, &entry)? {
                        return Ok(object);
                    }
                }
                FoundOrClaimed::Claimed(claim) => {
                    let object = match made.take() {
                        Some(object) => object,
                        None => make(&self.segment)?,
                    };
                    if claim.publish(object.words()) {
                        return Ok(object);
                    }
                    made = Some(object); // we were taken for stopped: what others made counts, if it is there
                }
            }
        }
        Err(lying())
    }

    /// Gives a name to an object of this manager. It may have several. Of a slice of an array: to the whole array.
    ///
    /// # Errors
    /// [`OpenError::ObjectExists`] if the name is taken; [`OpenError::Elsewhere`] if the object lies in other memory than
    /// this manager's.
    ///
    /// ```
    /// use allmend::{Manager, OpenError, SharedValue};
    ///
    /// let manager = Manager::new()?;
    /// let total = manager.value("total", 1u8)?;
    /// manager.publish("sum", &total)?;
    /// manager.remove("total")?;
    /// assert_eq!(manager.value("sum", 0u8)?.get(), 1);
    /// let elsewhere = SharedValue::new(1u8)?;
    /// assert_eq!(manager.publish("other", &elsewhere), Err(OpenError::Elsewhere));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn publish<O: Object>(&self, name: &str, object: &O) -> Result<(), OpenError> {
        checked(name)?;
        let words = object.words();
        if !Arc::ptr_eq(words.segment(), &self.segment) {
            return Err(OpenError::Elsewhere);
        }
        self.segment.me()?; // a forked child learns here what it has lost
        if words.is_lost() {
            return Err(OpenError::Handle(HandleError::Gone));
        }
        let (_, _, type_name) = O::expected();
        for _ in 0..GONE_AT_MOST {
            match self.segment.find_or_claim(name, &type_name, true)? {
                FoundOrClaimed::Found(_) => return Err(OpenError::ObjectExists { name: name.into() }),
                FoundOrClaimed::Claimed(claim) => {
                    if claim.publish(words) {
                        return Ok(());
                    }
                }
            }
        }
        Err(lying())
    }

    /// Takes a name away from its object. Who has the object keeps it; it goes with its last user. A new object of that
    /// name is another one.
    ///
    /// # Errors
    /// [`OpenError::NoObject`] if nothing has that name.
    ///
    /// ```
    /// let manager = allmend::Manager::new()?;
    /// let old = manager.value("n", 1)?;
    /// manager.remove("n")?;
    /// assert_eq!((old.get(), manager.value("n", 2)?.get()), (1, 2));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn remove(&self, name: &str) -> Result<(), OpenError> {
        checked(name)?;
        match self.segment.remove_name(name)? {
            Some(_) => Ok(()),
            None => Err(OpenError::NoObject { name: name.into() }),
        }
    }

    /// The objects that have names, in no order, each as it was when it was looked at. Takes no lock.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if the directory was overwritten.
    ///
    /// ```
    /// let manager = allmend::Manager::new()?;
    /// manager.value("total", 1u32)?;
    /// let objects = manager.objects()?;
    /// let total = &objects[0];
    /// assert_eq!((&*total.name, &*total.kind, &*total.type_name), ("total", "SharedValue", "u32"));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn objects(&self) -> Result<Vec<ObjectInfo>, OpenError> {
        let info = |entry: Entry| {
            let found = self.segment.describe(entry.object)?; // else its name was taken away meanwhile
            let kind = Kind::describe(found.kind);
            Some(ObjectInfo {
                name: String::from_utf8_lossy(&entry.name).into_owned(),
                kind: kind.trim_start_matches("a ").trim_start_matches("an ").into(),
                type_name: String::from_utf8_lossy(&entry.type_name).into_owned(),
                bytes: found.bytes,
                users: found.users,
            })
        };
        Ok(self.segment.names()?.into_iter().filter_map(info).collect())
    }

    /// Its name, if it is a named one.
    pub fn name(&self) -> Option<&str> {
        self.segment.name()
    }

    /// Keeps it when its last process leaves, until it is removed.
    ///
    /// # Errors
    /// [`OpenError::Invalid`] if it has no name; [`OpenError::ReadOnly`].
    ///
    /// ```
    /// use allmend::{Manager, OpenError};
    ///
    /// let name = format!("allmend-doc-persist-{}", std::process::id());
    /// let manager = Manager::create(&name)?;
    /// manager.value("n", 5)?;
    /// manager.persist()?;
    /// drop(manager);
    /// let again = Manager::open(&name)?;
    /// assert_eq!(again.value("n", 0)?.get(), 5);
    /// again.unlink()?;
    /// assert!(matches!(Manager::new()?.persist(), Err(OpenError::Invalid(_))));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn persist(&self) -> Result<(), OpenError> {
        self.segment.persist()
    }

    /// Takes its name away. Who has it open keeps it; who opens or creates the name does not find it.
    ///
    /// # Errors
    /// [`OpenError::NotFound`] if it has it no more, [`OpenError::Invalid`] if it never had one; [`OpenError::ReadOnly`].
    pub fn unlink(&self) -> Result<(), OpenError> {
        self.segment.unlink()
    }

    /// Is every byte free, or reachable exactly once? As [`crate::verify`], of this manager's memory.
    ///
    /// # Errors
    /// [`VerifyError::Damaged`] with the place where something is wrong. A manager that is open for
    /// [reading only](ManagerBuilder::read_only) cannot clear what the dead left, without which nothing can be said, and
    /// gets [`CreateError::ReadOnly`] in [`VerifyError::Create`].
    pub fn verify(&self) -> Result<Report, VerifyError> {
        self.segment.verify()
    }

    /// A descriptor of the memory, to hand to another process (by `SCM_RIGHTS`, or as [`CommandExt::share`] does); see
    /// [`Manager::from_fd`]. Close-on-exec. Whoever has it may read and write all of the memory.
    ///
    /// # Errors
    /// [`OpenError::DescriptorsLost`] if it was closed under us.
    pub fn as_fd(&self) -> Result<BorrowedFd<'_>, OpenError> {
        Ok(self.segment.descriptor()?)
    }

    /// Joins the memory behind a descriptor that [`Manager::as_fd`] gave in another process, or in this one: then it is the
    /// same manager. The descriptor is used to open the memory anew, and closed.
    ///
    /// # Errors
    /// [`OpenError::NotOurs`] if it leads to no segment of this crate and layout; [`OpenError::Damaged`];
    /// [`OpenError::TooManyProcesses`].
    ///
    /// ```
    /// let manager = allmend::Manager::new()?;
    /// let same = allmend::Manager::from_fd(manager.as_fd()?.try_clone_to_owned()?)?;
    /// same.value("n", 5)?;
    /// assert_eq!(manager.value("n", 0)?.get(), 5);
    /// let null = allmend::Manager::from_fd(std::fs::File::open("/dev/null")?.into());
    /// assert!(matches!(null, Err(allmend::OpenError::NotOurs(_))));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn from_fd(fd: OwnedFd) -> Result<Self, OpenError> {
        Ok(Self { segment: Segment::join(fd)? })
    }

    /// The manager that this process's parent shared with it by [`CommandExt::share`]; of several the first.
    ///
    /// # Errors
    /// As [`Manager::all_from_env`].
    pub fn from_env() -> Result<Self, OpenError> {
        let mut all = Self::all_from_env()?;
        Ok(all.swap_remove(0))
    }

    /// The managers that this process's parent shared with it, at least one, in the order in which it did.
    ///
    /// # Errors
    /// [`OpenError::NotShared`] if it shared none, or a descriptor is not there, or leads to something else: a child of
    /// the child inherits the environment, and not the descriptor. Else as [`Manager::from_fd`].
    pub fn all_from_env() -> Result<Vec<Self>, OpenError> {
        let missing = |what: &'static str| OpenError::NotShared(what.into());
        let shared = std::env::var(SHARED).map_err(|_| missing("the environment says nothing of it"))?;
        let join = |text: &str| {
            let parsed = text.split_once(':').and_then(|(number, id)| {
                Some((number.parse::<RawFd>().ok()?, u128::from_str_radix(id, 16).ok()?))
            });
            let (number, id) = parsed.ok_or(missing("the environment was overwritten"))?;
            if let Some(segment) = Segment::by_id(id) {
                return Ok(Self { segment }); // asked for again
            }
            let fd = inherit::take(number)?.ok_or(missing("the descriptor is not there"))?;
            let segment = Segment::join(fd).map_err(|e| match OpenError::from(e) {
                OpenError::Damaged(what) | OpenError::NotOurs(what) => {
                    OpenError::NotShared(format!("the descriptor leads to no whole segment: {what}").into())
                }
                other => other,
            })?;
            if segment.id() != id {
                return Err(missing("the descriptor leads to another segment"));
            }
            inherit::keep(number);
            Ok(Self { segment })
        };
        shared.split(',').map(join).collect()
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("name", &self.name())
            .field("id", &format_args!("{:032x}", self.segment.id()))
            .finish()
    }
}

/// The rare options of a [`Manager`].
///
/// ```
/// let small = allmend::Manager::builder().reserve(64 << 20).max_processes(8).new()?;
/// small.value("n", 1)?;
/// # Ok::<(), allmend::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it makes nothing until `new`, `create`, `open` or `open_or_create`"]
pub struct ManagerBuilder(NamedOptions);

impl ManagerBuilder {
    /// Bytes of address space for objects: how large a new one can become. Memory is found as it is used. Rounded up to the
    /// MiB; tables come on top. Where it does not fit, under `RLIMIT_AS` or `RLIMIT_FSIZE`, that is [`OpenError::Full`].
    ///
    /// If this is not said: as much as the machine has memory, but at least 1 GiB and at most 64 GiB; less under these
    /// limits, where halves are tried until one fits.
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.0.reserve = Some(bytes);
        self
    }

    /// So many processes can take part in a new one at a time, 1 to 1023 (else [`OpenError::Invalid`]); 127 if this is not
    /// said. Up to 127 cost nothing, more cost each object a little.
    pub fn max_processes(mut self, processes: u32) -> Self {
        self.0.max_processes = Some(processes);
        self
    }

    /// Permission bits of a new named one, and the most that an existing one may have; 0o600 if this is not said. A new one
    /// has at least these, and nothing to execute: else [`OpenError::Invalid`]. The umask does not count.
    pub fn mode(mut self, mode: u32) -> Self {
        self.0.mode = mode;
        self
    }

    /// Another user's named one will do, too, with whatever permissions, if these let us in: to read and write, or, of a
    /// [read-only](Self::read_only) one, to read. Who may write it can do to its users what a
    /// [limitation](crate::docs::limitations) says.
    pub fn foreign(mut self, yes: bool) -> Self {
        self.0.foreign = yes;
        self
    }

    /// Opens a named one for reading only: look-up works, and so do `get` and `load` of values, atomics, maps and unlocked
    /// arrays. What takes a lock, the claims of an array and with them all of its reads too, is `ReadOnly`; so is a change of
    /// a map. Writes without a lock, of atomics, unlocked values and unlocked arrays, panic. An object that is not there is
    /// [`OpenError::NoObject`], also where it would be created otherwise.
    ///
    /// ```
    /// use allmend::{LockError, Manager, OpenError};
    ///
    /// let name = format!("allmend-doc-look-{}", std::process::id());
    /// let manager = Manager::create(&name)?;
    /// let total = manager.value("total", 5)?;
    /// let look = Manager::builder().read_only().open(&name)?;
    /// assert_eq!(look.value("total", 0)?.get(), 5);
    /// assert_eq!(look.value("total", 0)?.set(6), Err(LockError::ReadOnly));
    /// assert!(matches!(look.value("other", 0), Err(OpenError::NoObject { .. })));
    /// # Ok::<(), allmend::Error>(())
    /// ```
    pub fn read_only(mut self) -> Self {
        self.0.read_only = true;
        self
    }

    /// See [`Manager::open_or_create`].
    ///
    /// # Errors
    /// As there.
    pub fn open_or_create(self, name: &str) -> Result<Manager, OpenError> {
        Ok(Manager { segment: Segment::open_or_create_named(name, &self.0)? })
    }

    /// See [`Manager::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(self, name: &str) -> Result<Manager, OpenError> {
        Ok(Manager { segment: Segment::open_named(name, &self.0)? })
    }

    /// See [`Manager::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(self, name: &str) -> Result<Manager, OpenError> {
        Ok(Manager { segment: Segment::create_named(name, &self.0)? })
    }

    /// A private one; see [`Manager::new`].
    ///
    /// # Errors
    /// [`OpenError::Full`] when the memory cannot be had; [`OpenError::Invalid`] if the options cannot be;
    /// [`OpenError::ReadOnly`].
    #[allow(
        clippy::new_ret_no_self,
        clippy::wrong_self_convention,
        reason = "as `Manager::new`, with options"
    )]
    pub fn new(self) -> Result<Manager, OpenError> {
        if self.0.read_only {
            return Err(OpenError::ReadOnly);
        }
        Ok(Manager { segment: Segment::private_of(&self.0)? })
    }
}

/// One line of [`Manager::objects`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// What it is: `SharedValue`, `SharedAtomic`, ...
    pub kind: String,
    /// The type of what is in it.
    pub type_name: String,
    /// Bytes of its body: what is in it, with locks and second copies.
    pub bytes: u64,
    /// Ids of the processes that use it now.
    pub users: Vec<u32>,
}

/// Shares a manager with a child that is no worker of ours.
pub trait CommandExt: private::Sealed {
    /// The child that this command starts inherits the manager's memory, and gets at it by [`Manager::from_env`]. Other
    /// children do not. May be called for several managers. The manager's memory stays at least as long as the command.
    ///
    /// # Errors
    /// [`OpenError::DescriptorsLost`] if the manager's descriptor was closed under us; [`OpenError::Os`].
    ///
    /// ```no_run
    /// use allmend::{CommandExt, Manager};
    ///
    /// let manager = Manager::new()?;
    /// let total = manager.value("total", 0i64)?;
    /// let mut child = std::process::Command::new("another-program").share(&manager)?.spawn()?;
    /// child.wait()?; // it did `Manager::from_env()?.value("total", 0i64)?`
    /// println!("{}", total.get());
    /// # Ok::<(), allmend::Error>(())
    /// ```
    fn share(&mut self, manager: &Manager) -> Result<&mut Self, OpenError>;
}

mod private {
    pub trait Sealed {}
    impl Sealed for std::process::Command {}
}

impl CommandExt for Command {
    fn share(&mut self, manager: &Manager) -> Result<&mut Self, OpenError> {
        let number = inherit::give(self, manager.as_fd()?)?;
        let mine = format!("{}:{:032x}", number, manager.segment.id());
        // What this command was given before; not what this process inherited itself.
        let before = self.get_envs().find(|(name, _)| *name == SHARED).and_then(|(_, value)| value);
        let all = match before.and_then(|before| before.to_str()) {
            Some(before) => format!("{before},{mine}"),
            None => mine,
        };
        Ok(self.env(SHARED, all))
    }
}

/// Can an object have that name?
fn checked(name: &str) -> Result<(), OpenError> {
    let fault = match name {
        "" => NameFault::Empty,
        _ if name.contains('\0') => NameFault::Zero,
        _ if name.len() > LONGEST => NameFault::TooLong { longest: LONGEST },
        _ => return Ok(()),
    };
    Err(OpenError::ObjectName { name: name.into(), fault })
}

fn describe(kind: u64, type_name: &str, size: u32, align: u32) -> String {
    match size {
        // Its numbers are those of the encodings.
        _ if kind == Kind::Map as u64 => format!("{} of {type_name}", Kind::describe(kind)),
        0 => Kind::describe(kind).into(),
        _ => format!("{} of {type_name} ({size} bytes, alignment {align})", Kind::describe(kind)),
    }
}

fn lying() -> OpenError {
    OpenError::Damaged("a name leads to an object that is not there".into())
}
