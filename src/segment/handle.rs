//! Handles by serde: an object's name, and who keeps the object while only the name exists.
//!
//! A handle is `(segment id, offset, generation)`. It can travel inside the pool only, which opens one of three scopes
//! around serde's work:
//!
//! | scope | what a handle does there |
//! |---|---|
//! | argument | the submitter keeps the object (an `Arc`) until the task is resolved |
//! | result | the worker pins it for the guardian, who unpins it when it has decoded: see [`Pins`] |
//! | decode | becomes an object again, held by this process |
//!
//! An object may be in any segment that this process has. The guardian has an owner id of its own in each, so who opens
//! the scope says how it is found out ([`Guardian`]), and also how to come by a segment that is not here yet ([`Find`]).
//!
//! Outside of these a handle neither serialises nor deserialises ([`HandleError::OutsidePool`]): a name that nobody
//! keeps would dangle. serde's errors carry text at best, so the typed cause is kept beside and taken by the scope.

use super::{Kind, Object, PinChain, Place, Segment, Stamp, owner::Owner};
use crate::error::HandleError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

/// As whom the receiver of a result takes part in a segment.
pub(crate) type Guardian = fn(&Segment) -> Result<Owner, HandleError>;
/// How to get a segment by its id.
pub(crate) type Find = fn(u128) -> Result<Arc<Segment>, HandleError>;

/// A segment that this process has.
pub(crate) fn here(id: u128) -> Result<Arc<Segment>, HandleError> {
    Segment::by_id(id).ok_or(HandleError::UnknownSegment)
}

/// The pins that one result has in one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pins {
    /// The segment's id.
    pub(crate) segment: u128,
    /// Where they are.
    pub(crate) chain: PinChain,
}

#[derive(Clone, Copy)]
enum Scope {
    Outside,
    Argument,
    Result { guardian: Guardian, tag: u64 },
    Decode(Find),
}

thread_local! {
    // Entered and left for each item of each task, in which there is a handle seldom: so these four have no
    // destructors, and the three that have are looked at only when a flag says that there is something in them.
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::Outside) };
    static HAS_KEPT: Cell<bool> = const { Cell::new(false) };
    static HAS_FAILED: Cell<bool> = const { Cell::new(false) };
    static HAS_PINNED: Cell<bool> = const { Cell::new(false) };
    static PINNED: RefCell<Vec<Pins>> = const { RefCell::new(Vec::new()) };
    static KEPT: RefCell<Vec<Arc<Object>>> = const { RefCell::new(Vec::new()) };
    static FAILURE: RefCell<Option<HandleError>> = const { RefCell::new(None) };
}

#[inline]
fn take_kept() -> Vec<Arc<Object>> {
    if HAS_KEPT.replace(false) { KEPT.take() } else { Vec::new() }
}

/// Puts the previous scope back, also when serde's or a user's code panics.
struct Restore(Scope);

impl Drop for Restore {
    #[inline] // into the code of users' types, as is all that is between
    fn drop(&mut self) {
        SCOPE.set(self.0);
    }
}

#[inline]
fn within<R>(scope: Scope, f: impl FnOnce() -> R) -> (R, Option<HandleError>) {
    HAS_FAILED.set(false);
    let outer = Restore(SCOPE.replace(scope));
    let result = f();
    drop(outer);
    let failure = if HAS_FAILED.replace(false) { FAILURE.take() } else { None };
    (result, failure)
}

/// What an argument keeps around which another one is encoded.
struct Outer(Vec<Arc<Object>>);

impl Drop for Outer {
    #[inline]
    fn drop(&mut self) {
        drop(take_kept()); // what a panic left
        if !self.0.is_empty() {
            KEPT.set(std::mem::take(&mut self.0));
            HAS_KEPT.set(true);
        }
    }
}

fn failed(e: &HandleError) {
    FAILURE.set(Some(e.clone()));
    HAS_FAILED.set(true);
}

/// Runs `f`, which serialises a task's argument; gives the objects that the submitter must keep.
pub(crate) fn encode_argument<R>(f: impl FnOnce() -> R) -> (R, Vec<Arc<Object>>, Option<HandleError>) {
    let outer = Outer(take_kept());
    let (result, failure) = within(Scope::Argument, f);
    let kept = take_kept();
    drop(outer);
    (result, kept, failure)
}

/// Runs `f`, which serialises a task's result; each handle in it is pinned for the guardian under `tag`, also if `f` fails
/// or panics behind it: see [`take_pinned`].
pub(crate) fn encode_result<R>(
    guardian: Guardian,
    tag: u64,
    f: impl FnOnce() -> R,
) -> (R, Option<HandleError>) {
    within(Scope::Result { guardian, tag }, f)
}

/// What [`encode_result`] has pinned in this thread since this was asked last.
pub(crate) fn take_pinned() -> Vec<Pins> {
    if HAS_PINNED.replace(false) { PINNED.take() } else { Vec::new() }
}

/// Runs `f`, which deserialises an argument or a result.
pub(crate) fn decode<R>(find: Find, f: impl FnOnce() -> R) -> (R, Option<HandleError>) {
    within(Scope::Decode(find), f)
}

/// Pins the object, and notes that in the chain of its segment.
fn pin(object: &Object, guardian: Guardian, tag: u64) -> Result<(), HandleError> {
    let segment = object.segment();
    let guardian = guardian(segment)?;
    PINNED.with_borrow_mut(|pinned| {
        let known = pinned.iter_mut().find(|pins| pins.segment == segment.id());
        let before = known.as_ref().map_or_else(PinChain::default, |pins| pins.chain);
        let chain = segment.pin(object, guardian, tag, before)?;
        match known {
            Some(pins) => pins.chain = chain,
            None => pinned.push(Pins { segment: segment.id(), chain }),
        }
        HAS_PINNED.set(true);
        Ok(())
    })
}

#[derive(Serialize, Deserialize)]
struct Name {
    segment: (u64, u64),
    at: u64,
    generation: u64,
}

/// For the `Serialize` of every handle.
pub(crate) fn serialize<S: Serializer>(object: &Arc<Object>, serializer: S) -> Result<S::Ok, S::Error> {
    let kept = match SCOPE.get() {
        Scope::Argument => {
            KEPT.with_borrow_mut(|kept| kept.push(Arc::clone(object)));
            HAS_KEPT.set(true);
            Ok(())
        }
        Scope::Result { guardian, tag } => pin(object, guardian, tag),
        Scope::Outside | Scope::Decode(_) => Err(HandleError::OutsidePool),
    };
    if let Err(e) = kept {
        failed(&e);
        return Err(ser::Error::custom(e));
    }
    let (id, place) = (object.segment().id(), object.place());
    Name { segment: (id as u64, (id >> 64) as u64), at: place.at, generation: place.generation }
        .serialize(serializer)
}

/// For the `Deserialize` of every handle: the object, held, if it is there and is one of that kind and type.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    kind: Kind,
    expected: (Stamp, &str),
) -> Result<Arc<Object>, D::Error> {
    let fail = |e: HandleError| {
        failed(&e);
        de::Error::custom(e)
    };
    let Scope::Decode(find) = SCOPE.get() else { return Err(fail(HandleError::OutsidePool)) };
    let name = Name::deserialize(deserializer)?;
    let id = u128::from(name.segment.0) | u128::from(name.segment.1) << 64;
    let segment = find(id).map_err(fail)?;
    segment.open(Place { at: name.at, generation: name.generation }, kind, expected).map_err(fail)
}
