//! The layout of what parent and workers tell each other, in shared memory and over the control socket.
//!
//! # The ring object, 64-bit words
//!
//! | words | |
//! |---|---|
//! | 0 | [`MAGIC`]: layout and version |
//! | 1 | closed: 1 as soon as workers are to leave |
//! | .. `Shape::HEADER` | reserved |
//! | head, tail, sleepers, entries | see `slot.rs` |
//! | `slots` x [`PAYLOAD`] | the tasks: progress word, then [`Field`]s and three areas of bytes |
//!
//! and in its 32-bit words, behind the state of each slot: [`LineField`]s, and the argument if it is tiny.
//!
//! # A task
//!
//! A task is a *batch*: `count` calls of one function. Its argument is `count` records, in the line of
//! the state, in the slot, or in a `Buffer` object that the parent holds: which, is told by its length. Its results are records too, one per finished item, in the order in which items finished, in
//! the area that the progress word names: inline, or one of two places for a `Buffer` that the worker made and pinned
//! for the parent. A buffer that is too small is replaced: the records are copied to a larger one, its address is noted
//! in the other place, and the progress word of the next item switches over, with the same store that commits the item.
//!
//! # A record
//!
//! A little-endian head word, a seal (not in arguments, which have one seal together), the body, padded to 8 bytes, and
//! three words for each segment in which it has pins for the receiver: the segment's id, and where they are. The head:
//!
//! | bits | |
//! |---|---|
//! | 0..32 | length of the body in bytes |
//! | 32..52 | item of the batch |
//! | 52..56 | tag: argument 1, value 2, error 3 (a `TaskError`) |
//! | 56..63 | segments in which it has pins |
//!
//! # Trust
//!
//! Bytes that another process wrote are copied out first, and then parsed with every length checked: [`records`] gives
//! slices of what it was given, or stops with [`Malformed`]. Addresses are checked by `Segment::open`. What cannot be
//! checked by looking at it carries a seal over a key that is not in shared memory ([`checksum`]): the code offsets of a
//! task, its argument (one seal for all of the task), and each result (with the task's serial in it, so that bytes which
//! an earlier task left there are none of this one). Overwritten, these are an error, and never reach a decoder: some
//! types decode for ever, or as deep as the bytes say. The seal is not cryptography, and need not be: who can talk to our
//! workers over the control socket is our own process.

use super::slot::{Progress, Ring, Shape};
pub(crate) use crate::codec::serial::{decode, encode};
use crate::{
    atomic::{Relaxed, Word32, Word64},
    error::PoolError,
    segment::{
        PinChain, Place,
        handle::Pins,
        words::{load_bytes, store_bytes},
    },
};
use serde::{Deserialize, Serialize};

/// "allmend", and the version of the layout. Raise it with every change here or in `slot.rs`.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"allmend\x04");
/// Header word of the magic.
pub(crate) const MAGIC_AT: usize = 0;
/// Header word of the closed flag.
pub(crate) const CLOSED_AT: usize = 1;

/// What every task needs, as indices into the 32-bit words behind the slot's state: they come with the claim. Each of
/// two words, but the count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum LineField {
    /// Code offset of the trampoline.
    Code = 0,
    /// 1 + code offset of the function itself, where that is chosen at run time; else 0.
    Function = 2,
    /// [`checksum`] of all these, and of the argument.
    Seal = 4,
    /// Never used twice in a pool: pins are named by it.
    Serial = 6,
    /// Bytes of the argument.
    ArgumentBytes = 8,
    /// Items, and whether the time is to be taken (`TIMED`).
    Count = 10,
}

/// In the count's word: the parent wants to know how long it takes.
const TIMED: u32 = 1 << 31;
/// Where tiny arguments begin in the line: room for a record of 8 bytes.
const TINY_AT: usize = 11;
const TINY_BYTES: usize = 16;

/// The other fields of a task, as indices into the payload behind the progress word.
///
/// Laid out by cache lines, since each line that both sides touch costs a transfer: on the first are the progress, the
/// time, and the beginning of the results; on another what few tasks need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Field {
    /// How long the batch ran, in nanoseconds, as its worker saw it, if that was asked for.
    Nanos = 0,
    /// The argument's buffer, if it needs one: its generation,
    ArgumentGeneration = RARE_AT,
    /// and its offset.
    ArgumentOffset = RARE_AT + 1,
    /// The two places for a result buffer: offset, generation.
    ResultPlaces = RARE_AT + 2,
    /// Bytes of the last words.
    LastWordsBytes = RARE_AT + 6,
    /// Where the pins of the result buffers are: a [`PinChain`].
    BufferPins = RARE_AT + 7,
}

const INLINE: usize = 512 / 8;
const LAST_WORDS: usize = 384 / 8;
const RESULT_AT: usize = 1;
const RARE_AT: usize = 71;
const ARGUMENT_AT: usize = 79;
const LAST_WORDS_AT: usize = ARGUMENT_AT + INLINE;

/// Words per slot, its progress word included.
pub(crate) const PAYLOAD: usize = 1 + LAST_WORDS_AT + LAST_WORDS;
/// Bytes of argument or results that fit into the slot.
pub(crate) const INLINE_BYTES: usize = INLINE * 8;

/// The result area inside the slot, for [`Progress::area`]; 1 and 2 are the two places.
pub(crate) const INLINE_AREA: u8 = 0;

/// The largest body of a record.
pub(crate) const MAX_BODY: usize = u32::MAX as usize - 8;

const _: () = {
    assert!(PAYLOAD.is_multiple_of(8), "slots begin with a cache line");
    assert!(Field::LastWordsBytes as usize == Field::ResultPlaces as usize + 4);
    assert!(RESULT_AT + INLINE <= RARE_AT && (Field::BufferPins as usize) < ARGUMENT_AT);
    assert!((1 + RARE_AT).is_multiple_of(8) && (1 + ARGUMENT_AT).is_multiple_of(8));
    assert!(1 + TINY_AT + TINY_BYTES / 4 == 16, "a line");
    assert!(MAX_COUNT < TIMED);
};

/// No buffer: no object has generation 0.
pub(crate) const NOWHERE: Place = Place { at: 0, generation: 0 };

/// The task in one slot: fields and areas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task<'a> {
    line: &'a [Word32],
    words: &'a [Word64],
}

impl<'a> Task<'a> {
    /// The one in `slot`.
    pub(crate) fn of(ring: &Ring<'a>, slot: usize) -> Option<Self> {
        Self::new(ring.line(slot), ring.payload(slot))
    }

    /// Over `Ring::line` and `Ring::payload`.
    fn new(line: &'a [Word32], words: &'a [Word64]) -> Option<Self> {
        (line.len() == TINY_AT + TINY_BYTES / 4 && words.len() == PAYLOAD - 1).then_some(Self { line, words })
    }

    /// Relaxed: fields are handed over by the slot's state, or by its progress.
    pub(crate) fn get(&self, field: Field) -> u64 {
        self.words[field as usize].load(Relaxed)
    }
    pub(crate) fn set(&self, field: Field, value: u64) {
        self.words[field as usize].store(value, Relaxed);
    }
    fn get_line(&self, field: LineField) -> u64 {
        let at = field as usize;
        u64::from(self.line[at].load(Relaxed)) | u64::from(self.line[at + 1].load(Relaxed)) << 32
    }
    fn set_line(&self, field: LineField, value: u64) {
        self.line[field as usize].store(value as u32, Relaxed);
        self.line[field as usize + 1].store((value >> 32) as u32, Relaxed);
    }

    /// Notes what is to be done, and seals it together with its argument.
    pub(crate) fn set_order(&self, key: u64, order: &Order, argument: &[u8]) {
        let seal = order.seal(key, argument); // first: a worker may be looking at the line
        self.set_line(LineField::Code, order.trampoline);
        self.set_line(LineField::Function, order.function);
        self.set_line(LineField::Serial, order.serial);
        self.line[LineField::Count as usize].store(order.count_word(), Relaxed);
        self.set_line(LineField::Seal, seal);
    }
    /// What is to be done, if nobody but a holder of the key has written it, and this argument.
    pub(crate) fn order(&self, key: u64, argument: &[u8]) -> Option<Sealed> {
        let count = self.line[LineField::Count as usize].load(Relaxed);
        let order = Order {
            trampoline: self.get_line(LineField::Code),
            function: self.get_line(LineField::Function),
            serial: self.get_line(LineField::Serial),
            count: count & !TIMED,
            timed: count & TIMED != 0,
        };
        (order.count <= MAX_COUNT && self.get_line(LineField::Seal) == order.seal(key, argument))
            .then_some(Sealed(order))
    }

    /// Notes the argument, which is in a buffer if it is longer than [`INLINE_BYTES`], and is copied here otherwise.
    pub(crate) fn set_argument(&self, bytes: &[u8], buffer: Option<Place>) {
        self.set_line(LineField::ArgumentBytes, bytes.len() as u64);
        if let Some(place) = buffer {
            self.set(Field::ArgumentOffset, place.at);
            self.set(Field::ArgumentGeneration, place.generation);
        } else if bytes.len() <= TINY_BYTES {
            for (word, part) in self.line[TINY_AT..].iter().zip(bytes.chunks(4)) {
                let mut four = [0; 4];
                four[..part.len()].copy_from_slice(part);
                word.store(u32::from_ne_bytes(four), Relaxed);
            }
        } else {
            store_bytes(&self.words[ARGUMENT_AT..ARGUMENT_AT + INLINE], bytes);
        }
    }
    /// Copies the argument, or says where the buffer is with these many bytes of it.
    pub(crate) fn argument(&self, into: &mut Vec<u8>) -> Option<(Place, u64)> {
        let bytes = self.get_line(LineField::ArgumentBytes);
        into.clear();
        if bytes > INLINE_BYTES as u64 {
            let (at, generation) = (self.get(Field::ArgumentOffset), self.get(Field::ArgumentGeneration));
            return Some((Place { at, generation }, bytes));
        }
        let bytes = bytes as usize;
        if bytes <= TINY_BYTES {
            for word in &self.line[TINY_AT..] {
                into.extend_from_slice(&word.load(Relaxed).to_ne_bytes());
            }
            into.truncate(bytes);
        } else {
            into.resize(bytes, 0);
            load_bytes(&self.words[ARGUMENT_AT..ARGUMENT_AT + INLINE], into);
        }
        None
    }
    pub(crate) fn result_area(&self) -> &'a [Word64] {
        &self.words[RESULT_AT..RESULT_AT + INLINE]
    }

    /// The buffer that an area of [`Progress::area`] names.
    pub(crate) fn result_place(&self, area: u8) -> Option<Place> {
        let at = Field::ResultPlaces as usize + 2 * (usize::from(area).checked_sub(1).filter(|&i| i < 2)?);
        Some(Place { at: self.words[at].load(Relaxed), generation: self.words[at + 1].load(Relaxed) })
    }
    pub(crate) fn set_result_place(&self, area: u8, place: Place) {
        let at = Field::ResultPlaces as usize + 2 * (usize::from(area) - 1);
        self.words[at].store(place.at, Relaxed);
        self.words[at + 1].store(place.generation, Relaxed);
    }

    /// What a panicking task leaves for the case that it does not survive its panic.
    pub(crate) fn set_last_words(&self, words: &str) {
        let mut end = words.len().min(LAST_WORDS * 8);
        while !words.is_char_boundary(end) {
            end -= 1;
        }
        store_bytes(&self.words[LAST_WORDS_AT..], &words.as_bytes()[..end]);
        self.set(Field::LastWordsBytes, end as u64);
    }
    pub(crate) fn last_words(&self) -> String {
        let mut bytes = vec![0; (self.get(Field::LastWordsBytes) as usize).min(LAST_WORDS * 8)];
        load_bytes(&self.words[LAST_WORDS_AT..], &mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    /// Code offset of the trampoline.
    pub(crate) trampoline: u64,
    /// 1 + the function's offset, or 0.
    pub(crate) function: u64,
    /// Names what it pins.
    pub(crate) serial: u64,
    /// Items.
    pub(crate) count: u32,
    /// Is the time to be taken?
    pub(crate) timed: bool,
}

impl Order {
    fn count_word(&self) -> u32 {
        self.count | if self.timed { TIMED } else { 0 }
    }

    fn seal(&self, key: u64, argument: &[u8]) -> u64 {
        let key = fold(key ^ self.trampoline, KEYS[1] ^ self.function);
        checksum(fold(key ^ self.serial, KEYS[2]), u64::from(self.count_word()), argument)
    }
}

/// An order whose seal was right: see `trampoline.rs` for what that is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sealed(Order);

impl Sealed {
    pub(crate) fn order(&self) -> &Order {
        &self.0
    }
}

/// Numbers without a pattern: the first digits behind the point of the square roots of 2, 3, 5, 7, made odd.
const KEYS: [u64; 4] =
    [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

/// Both halves of a product.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Of a word and of bytes, under a key: one multiplication for each 16 bytes.
pub(crate) fn checksum(key: u64, word: u64, bytes: &[u8]) -> u64 {
    let mut a = fold(key ^ word, KEYS[0]);
    let (quads, rest) = bytes.as_chunks::<32>();
    if !quads.is_empty() {
        let mut b = a ^ KEYS[3]; // two that do not wait for each other
        for quad in quads {
            let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|byte| quad[8 * i + byte]));
            a = fold(a ^ word(0), key ^ word(1));
            b = fold(b ^ word(2), key ^ word(3) ^ KEYS[1]);
        }
        a ^= b.rotate_left(32);
    }
    let (words, tail) = rest.as_chunks::<8>();
    for word in words {
        a = fold(a ^ u64::from_ne_bytes(*word), key ^ KEYS[2]);
    }
    if !tail.is_empty() {
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        a = fold(a ^ u64::from_ne_bytes(last), key ^ KEYS[2]);
    }
    fold(a ^ bytes.len() as u64, key ^ KEYS[3])
}

/// Under which the results of one task are sealed.
pub(crate) fn result_key(key: u64, serial: u64) -> u64 {
    fold(key ^ serial, KEYS[2])
}

/// Names what one item of one task pinned: unique in the life of the process that submits.
pub(crate) fn pin_tag(serial: u64, item: u32) -> u64 {
    serial << 20 | u64::from(item)
}
/// The "item" that stands for the result buffers of a task.
pub(crate) const BUFFERS: u32 = Progress::MAX_ITEMS - 1;
/// Items of a batch are below this.
pub(crate) const MAX_COUNT: u32 = BUFFERS;

// --- records ---

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    Argument = 1,
    Value = 2,
    Error = 3,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) tag: Tag,
    pub(crate) item: u32,
    pub(crate) body: &'a [u8],
    pins: &'a [u8],
}

impl Record<'_> {
    /// The pins of handles in it, for each segment in which there are some.
    pub(crate) fn pins(&self) -> impl Iterator<Item = Pins> {
        self.pins.as_chunks::<PINS_BYTES>().0.iter().map(|pins| {
            let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| pins[8 * i + byte]));
            Pins { segment: u128::from(word(0)) | u128::from(word(1)) << 64, chain: PinChain(word(2) as u32) }
        })
    }

    /// Are there any?
    pub(crate) fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }
}

const PINS_BYTES: usize = 24;
/// A result has pins in at most so many segments.
const MAX_PINS: u64 = 127;

/// Not the records that one of us writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// Bytes before the body.
fn head_bytes(tag: Tag) -> usize {
    if tag == Tag::Argument { 8 } else { 16 }
}

/// Appends a record whose body `write` appends; on an error nothing is left behind. That of a result counts for nothing
/// before [`seal_record`].
pub(crate) fn push_record<E: From<TooLong>>(
    out: &mut Vec<u8>,
    item: u32,
    tag: Tag,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    let head = head_bytes(tag);
    // Of a length that is known here: the call of a general copy costs more than these bytes.
    match tag {
        Tag::Argument => out.extend_from_slice(&[0; 8]),
        Tag::Value | Tag::Error => out.extend_from_slice(&[0; 16]),
    }
    // The result is looked at where it is: errors are large, and to move one that is not there costs more than the rest.
    match write(out) {
        Ok(()) => {}
        Err(e) => {
            out.truncate(start);
            return Err(e);
        }
    }
    let body = out.len() - start - head;
    if body > MAX_BODY {
        out.truncate(start);
        return Err(TooLong.into());
    }
    let head = body as u64 | u64::from(item) << 32 | (tag as u64) << 52;
    out[start..start + 8].copy_from_slice(&head.to_le_bytes());
    while !out.len().is_multiple_of(8) {
        out.push(0);
    }
    Ok(())
}

/// A body beyond [`MAX_BODY`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooLong;

/// Finishes the result that is alone in `record`: where its pins are, and the seal.
pub(crate) fn seal_record(record: &mut Vec<u8>, key: u64, pins: &[Pins]) {
    for pins in pins {
        for word in [pins.segment as u64, (pins.segment >> 64) as u64, u64::from(pins.chain.0)] {
            record.extend_from_slice(&word.to_le_bytes());
        }
    }
    let Some((head, rest)) = record.split_first_chunk_mut::<8>() else { return };
    let Some((seal, rest)) = rest.split_first_chunk_mut::<8>() else { return };
    let word = u64::from_le_bytes(*head) | (pins.len() as u64).min(MAX_PINS) << 56;
    *head = word.to_le_bytes();
    *seal = checksum(key, word, rest).to_le_bytes();
}

/// The records in `bytes`; stops behind the first that is malformed. `key`: of [`result_key`], for results.
pub(crate) fn records(
    bytes: &[u8],
    count: u32,
    key: u64,
) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        if bytes.is_empty() {
            return None;
        }
        let one = split_record(bytes, count, key);
        if let Some((_, behind)) = one {
            rest = Some(behind);
        }
        Some(one.map(|(record, _)| record).ok_or(Malformed))
    })
}

/// The first record, and what is behind it; `None` if it is malformed, or not what was sealed.
pub(crate) fn split_record(bytes: &[u8], count: u32, key: u64) -> Option<(Record<'_>, &[u8])> {
    let (head, mut rest) = bytes.split_first_chunk::<8>()?;
    let head = u64::from_le_bytes(*head);
    let length = head as u32 as usize;
    let item = (head >> 32) as u32 & (Progress::MAX_ITEMS - 1);
    let tag = match head >> 52 & 0xf {
        1 => Tag::Argument,
        2 => Tag::Value,
        3 => Tag::Error,
        _ => return None,
    };
    let pins = (head >> 56) as usize * PINS_BYTES;
    if head >> 63 != 0 || item >= count {
        return None;
    }
    let mut seal = None;
    if head_bytes(tag) == 16 {
        let (word, behind) = rest.split_first_chunk::<8>()?;
        (seal, rest) = (Some(u64::from_le_bytes(*word)), behind);
    }
    let padded = length.checked_next_multiple_of(8)?;
    let end = padded.checked_add(pins)?;
    let (whole, behind) = rest.split_at_checked(end)?;
    if seal.is_some_and(|seal| seal != checksum(key, head, whole)) {
        return None;
    }
    Some((Record { tag, item, body: &whole[..length], pins: &whole[padded..] }, behind))
}

// --- the control socket ---

/// The parent's first message; the segment's descriptor travels with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) magic: u64,
    pub(crate) build_id: Vec<u8>,
    /// The ring object: offset and generation.
    pub(crate) ring: (u64, u64),
    /// The parent's owner id in the segment.
    pub(crate) parent: u32,
    pub(crate) index: u32,
    pub(crate) slots: u32,
    pub(crate) workers: u32,
    pub(crate) spins: u32,
    pub(crate) key: u64,
}

impl Welcome {
    pub(crate) fn shape(&self) -> Option<Shape> {
        Shape::new(self.slots as usize, self.workers as usize, PAYLOAD)
    }
}

/// What a worker says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// The hook runs. Said before anything else, so that another program can be told from one of ours that died.
    Here,
    /// Attached to the segment under this owner id, and ready.
    Ready(u32),
    /// A handle in its task, or in a result, is of the segment with this id: the parent's [`Answer`] is awaited.
    Need(u128),
    /// It will not be ready.
    Refused(Refusal),
}

/// Why a worker that was started is none. Builds may differ here: what [`Refusal::OtherBuild`] is in bytes never changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// It is another build than the parent.
    OtherBuild,
    /// It could not attach.
    Failed(PoolError),
}

impl<E: Into<PoolError>> From<E> for Refusal {
    fn from(e: E) -> Self {
        Refusal::Failed(e.into())
    }
}

/// What the parent says to [`Hello::Need`]; the segment's descriptor travels with it, if there is one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) segment: u128,
    /// As whom the parent takes part in it; 0 if it does not.
    pub(crate) parent: u32,
}

/// Bytes that a message may have at most.
pub(crate) const MAX_MESSAGE: usize = 4096;

#[cfg(test)]
#[path = "tests/wire.rs"]
mod tests;

#[cfg(fuzzing)]
#[path = "fuzzing.rs"]
pub(crate) mod fuzzing;
