//! Records of shared bytes from arbitrary words: each decoder gives an error of its own type or a record whose fields are in
//! range, never panics, and what it accepts is what would be written for that record.

use crate::{
    SharedValue,
    atomic::{Relaxed, Word32, Word64},
    error::OpenError,
    os::shm::Facts,
    segment::{
        Kind, Segment, Stamp,
        extents::{self, Extent},
        layout::{EXTENT, Geometry, MAGIC, MOST_PROCESSES, VERSION, header},
        named::{HEAD, Head, NamedOptions},
        names::{self, BUCKETS, Card, Entry, LONGEST, List, Overwritten, Shelf, entry, list},
        owner::{MAX_GENERATION, MAX_SLOT, Owner},
        record,
        words::words_for,
    },
};
use proptest::{collection::vec, prelude::*};
use rustix::fd::AsFd;
use std::sync::Arc;

/// Any word, with the small ones, single bits, and ends of ranges often among them.
fn word() -> impl Strategy<Value = u64> {
    let edges = [0, u64::MAX, u64::from(u32::MAX), 1 << 30, (1 << 30) | 1, (1 << 32) | 1, EXTENT];
    prop_oneof![
        any::<u64>(),
        0u64..70,
        (0u32..64).prop_map(|bit| 1 << bit),
        proptest::sample::select(edges.to_vec())
    ]
}

/// As [`word`], for a record with owners in it: the tag, then an owner or nearly one.
fn tagged(tag_bits: u32) -> impl Strategy<Value = u64> {
    let owner = (0u64..1 << tag_bits, 0u64..1 << 20, 0u64..1 << 10);
    let near = (owner, 0u32..64, any::<bool>()).prop_map(move |((tag, generation, slot), bit, flip)| {
        ((generation << 10 | slot) << tag_bits | tag) ^ u64::from(flip) << bit
    });
    prop_oneof![word(), near]
}

fn check_owner(owner: Owner) -> Result<(), TestCaseError> {
    prop_assert!(
        (1..=MAX_SLOT).contains(&owner.slot()) && (1..=MAX_GENERATION).contains(&owner.generation())
    );
    prop_assert_eq!(Owner::new(owner.generation(), owner.slot()), Some(owner));
    Ok(())
}

proptest! {
    #[test]
    fn owners(word in tagged(0)) {
        let bits = word as u32;
        match Owner::from_bits(bits) {
            Some(owner) => {
                check_owner(owner)?;
                prop_assert_eq!(owner.bits(), bits);
            }
            None => {
                let (slot, generation) = (bits & MAX_SLOT, bits >> 10);
                prop_assert!(slot == 0 || generation == 0 || generation > MAX_GENERATION, "{:#x}", bits);
            }
        }
        prop_assert!((1..=MAX_GENERATION).contains(&Owner::next_generation(bits)));
    }

    #[test]
    fn extent_words(word in tagged(3)) {
        let Some(extent) = Extent::decode(word) else { return Ok(()) };
        prop_assert_eq!(extent.encode(), word);
        match extent {
            Extent::Free | Extent::Tail(_) => {}
            Extent::Claimed(owner) => check_owner(owner)?,
            Extent::Slab(class) => prop_assert!(usize::from(class) < extents::CLASSES),
            Extent::Run(n) => prop_assert!(n > 0),
        }
    }

    #[test]
    fn block_words(word in tagged(2)) {
        let Some(state) = extents::State::decode(word) else { return Ok(()) };
        prop_assert_eq!(state.encode(), word);
        match state {
            extents::State::Free | extents::State::Live => {}
            extents::State::Pending(owner) | extents::State::Dying(owner) => check_owner(owner)?,
            extents::State::Part(parent) => prop_assert!(parent > 0),
        }
    }

    #[test]
    fn states_of_names(word in tagged(2)) {
        let word = word as u32;
        let Some(state) = names::State::decode(word) else { return Ok(()) };
        prop_assert_eq!(state.encode(), word);
        if let names::State::Busy(owner) = state {
            check_owner(owner)?;
        }
    }

    #[test]
    fn words_of_object_records(word in word()) {
        let (kind, parts) = record::kind_and_parts(word);
        prop_assert!(kind <= u64::from(u32::MAX) && parts <= u64::from(u32::MAX));
        prop_assert_eq!(kind | parts << 32, word);
        let known = Kind::describe(kind) != "no object that we know";
        prop_assert_eq!(known, matches!(kind, 1..=10 | 14 | 15));
        // Where the first name was: the offset comes back, and the other reasons are left alone.
        let first = record::entry_of(word);
        prop_assert_eq!(record::first_name(first), word & record::FIRST_NAME);
        prop_assert!(first.is_multiple_of(64));
        let packed = record::first_name(word);
        prop_assert_eq!(packed & !record::FIRST_NAME, 0);
        prop_assert!(packed == 0 || record::entry_of(packed) == word);
    }
}

fn encode(head: &Head) -> [u64; HEAD] {
    let Geometry { reserve, max_processes, .. } = head.geometry;
    let id = [head.id as u64, (head.id >> 64) as u64];
    [MAGIC, VERSION, id[0], id[1], reserve, u64::from(max_processes), u64::from(head.persistent)]
}

/// The first words of a file: anything, or a right header with some words changed; and the file's length.
fn head() -> impl Strategy<Value = ([u64; HEAD], u64)> {
    let right = (1u64..1 << 10, 1u64..=u64::from(MOST_PROCESSES), any::<[u64; 2]>(), 0u64..2);
    let right = right
        .prop_map(|(n, max, id, persist)| [MAGIC, VERSION, id[0], id[1], (n + 4) * EXTENT, max, persist]);
    let changed = (right, vec((0..HEAD, word()), 0..3)).prop_map(|(mut words, changes)| {
        changes.into_iter().for_each(|(i, word)| words[i] = word);
        words
    });
    let words = prop_oneof![any::<[u64; HEAD]>(), changed];
    (words, prop_oneof![Just(None), word().prop_map(Some)])
        .prop_map(|(words, bytes)| (words, bytes.unwrap_or(words[4])))
}

proptest! {
    #[test]
    fn heads((words, bytes) in head()) {
        let [magic, version, .., reserve, max, persist] = words;
        match Head::decode(words, bytes, "n") {
            Ok(head) => {
                prop_assert_eq!(encode(&head)[..HEAD - 1].to_vec(), words[..HEAD - 1].to_vec());
                prop_assert_eq!(head.persistent, persist != 0);
                let geometry = head.geometry;
                prop_assert_eq!((geometry.reserve, bytes), (reserve, reserve));
                prop_assert!((1..=MOST_PROCESSES).contains(&geometry.max_processes));
                prop_assert!(geometry.first_extent < geometry.extents && geometry.extents * EXTENT == bytes);
            }
            Err(OpenError::HalfBuilt { .. }) => prop_assert_eq!(magic, 0),
            Err(OpenError::NotASegment { .. }) => prop_assert!(magic != 0 && magic != MAGIC),
            Err(OpenError::WrongVersion { found, .. }) => {
                prop_assert!(magic == MAGIC && found == version && version != VERSION);
            }
            Err(OpenError::Truncated { .. }) => prop_assert!(bytes < reserve),
            Err(OpenError::Damaged(_)) => prop_assert!(
                bytes != reserve || u32::try_from(max).ok().and_then(|max| Geometry::new(reserve, max)).is_none()
            ),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    /// Files of any few bytes.
    #[test]
    fn heads_of_files(bytes in vec(any::<u8>(), 0..120), is_ours in any::<bool>()) {
        let file = rustix::fs::memfd_create(c"head", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut bytes = bytes;
        if let Some(first) = bytes.get_mut(..8).filter(|_| is_ours) {
            first.copy_from_slice(&MAGIC.to_ne_bytes());
        }
        let written = rustix::io::pwrite(&file, &bytes, 0).unwrap();
        prop_assert_eq!(written, bytes.len());
        let facts = Facts::of(file.as_fd()).unwrap();
        match Head::read(file.as_fd(), &facts, "n") {
            Err(OpenError::Empty { .. }) => prop_assert!(bytes.is_empty()),
            Err(OpenError::NotASegment { .. }) => prop_assert!(!is_ours || bytes.len() < HEAD * 8),
            Err(OpenError::HalfBuilt { .. }) => prop_assert_eq!(&bytes[..8], &[0; 8]),
            Err(OpenError::WrongVersion { .. } | OpenError::Truncated { .. } | OpenError::Damaged(_)) => {
                prop_assert!(is_ours);
            }
            other => prop_assert!(false, "{:?}", other.map(|head| head.geometry)),
        }
    }
}

/// A bucket and blocks of arbitrary words.
#[derive(Debug)]
struct Anything {
    bucket: Word64,
    blocks: Vec<(Word64, Word32, Vec<Word64>)>,
}

const A: &[u8] = b"a";

impl Anything {
    fn new(bucket: u64, blocks: &[(u64, u32, Vec<u64>)]) -> Self {
        let block = |(generation, state, words): &(u64, u32, Vec<u64>)| {
            let words = words.iter().map(|&word| Word64::new(word)).collect();
            (Word64::new(*generation), Word32::new(*state), words)
        };
        Self { bucket: Word64::new(bucket), blocks: blocks.iter().map(block).collect() }
    }
}

impl Shelf for Anything {
    fn bucket(&self, index: u64) -> &Word64 {
        assert!(index < BUCKETS);
        &self.bucket
    }

    fn card(&self, at: u64) -> Option<Card<'_>> {
        let index = usize::try_from(at / 64).ok()?.checked_sub(1)?;
        let (generation, state, words) = self.blocks.get(index).filter(|_| at.is_multiple_of(64))?;
        Some(Card { generation, state, words })
    }
}

/// Words that often are the place of a block, the hash of a name, or lengths.
fn word_of_names() -> impl Strategy<Value = u64> {
    let lengths = (0u64..20, 0u64..20).prop_map(|(name, of_type)| name | of_type << 32);
    let at = (1u64..4).prop_map(|block| block * 64);
    prop_oneof![word(), at, lengths, Just(names::hash_of(A)), Just(u64::from(A[0]))]
}

fn hash() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(names::hash_of(A)), 1 => word()]
}

/// Words of a block: anything, or nearly those of a list, or of an entry.
fn words_of_names() -> impl Strategy<Value = Vec<u64>> {
    let line = (hash(), prop_oneof![8 => (1u64..4).prop_map(|block| block * 64), 1 => word()]);
    let lists = (word(), vec(line, 0..4), prop_oneof![4 => Just(None), 1 => word().prop_map(Some)]).prop_map(
        |(bucket, lines, len)| {
            let mut words = vec![bucket, len.unwrap_or(lines.len() as u64)];
            words.extend(lines.into_iter().flat_map(|(hash, at)| [hash, at]));
            words
        },
    );
    let text = vec(prop_oneof![1 => Just(u64::from(A[0])), 1 => word()], 0..8);
    let lengths = (0u64..70, 0u64..70).prop_map(|(name, of_type)| name | of_type << 32);
    let lengths =
        prop_oneof![2 => lengths, 1 => (0u64..30).prop_map(|of_type| 1 | of_type << 32), 1 => word()];
    let entries =
        (hash(), word(), word(), lengths, text).prop_map(|(hash, at, generation, lengths, text)| {
            let mut words = vec![hash, at, generation, lengths];
            words.extend(text);
            words
        });
    prop_oneof![vec(word_of_names(), 0..12), lists, entries]
}

fn state_of_names() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(names::State::Set.encode()), 1 => tagged(2).prop_map(|word| word as u32)]
}

/// Fields in range; and written anew, the words are those that were read.
fn check_entry(shelf: &Anything, found: &Entry) -> Result<(), TestCaseError> {
    prop_assert!((1..=LONGEST).contains(&found.name.len()) && found.type_name.len() <= LONGEST);
    let card = shelf.card(found.place.at).expect("it was read");
    prop_assert_eq!(found.place.generation, card.generation.load(Relaxed));
    prop_assert_eq!(found.state.encode(), card.state.load(Relaxed));
    let again: Vec<_> =
        (0..names::entry_words(&found.name, &found.type_name)).map(|_| Word64::new(0)).collect();
    prop_assert!(again.len() <= card.words.len());
    let state = Word32::new(0);
    names::write_entry(&state, &again, Owner::new(1, 1).unwrap(), &found.name, &found.type_name);
    prop_assert_eq!(again[entry::LENGTHS].load(Relaxed), card.words[entry::LENGTHS].load(Relaxed));
    prop_assert_eq!(found.object.at, card.words[entry::AT].load(Relaxed));
    prop_assert_eq!(found.object.generation, card.words[entry::GENERATION].load(Relaxed));
    prop_assert_eq!(found.hash, card.words[entry::HASH].load(Relaxed));
    let bytes = |words: &[Word64]| {
        let mut bytes = vec![0; found.name.len() + found.type_name.len()];
        crate::segment::words::load_bytes(&words[entry::TEXT..][..words_for(bytes.len())], &mut bytes);
        bytes
    };
    prop_assert_eq!(bytes(&again), bytes(card.words));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn lists_and_entries_of_names(
        bucket in word_of_names(),
        blocks in vec((word(), state_of_names(), words_of_names()), 3),
    ) {
        let shelf = Anything::new(bucket, &blocks);
        match names::find(&shelf, A) {
            Ok(None) | Err(Overwritten(_)) => {}
            Ok(Some(found)) => {
                prop_assert_eq!(&*found.name, A);
                prop_assert!(found.state != names::State::Gone);
                check_entry(&shelf, &found)?;
            }
        }
        let Ok(list) = List::read(&shelf, 7, |_| true) else { return Ok(()) };
        prop_assert_eq!(list.place.map_or(0, |place| place.at), bucket);
        let Some(card) = shelf.card(bucket) else {
            prop_assert!(bucket == 0 && list.lines.is_empty());
            return Ok(());
        };
        prop_assert_eq!(list.lines.len() as u64, card.words[list::LEN].load(Relaxed));
        // Written anew, the words are those that were read; behind them there may be more.
        let again: Vec<_> = (0..names::list_words(list.lines.len())).map(|_| Word64::new(0)).collect();
        names::write_list(&again, card.words[list::BUCKET].load(Relaxed), &list.lines);
        let values = |words: &[Word64]| words.iter().map(|w| w.load(Relaxed)).collect::<Vec<_>>();
        prop_assert_eq!(values(&again), values(&card.words[..again.len()]));
        for line in &list.lines {
            match Entry::read(&shelf, &list, line.at) {
                Ok(Some(found)) => check_entry(&shelf, &found)?,
                Ok(None) => prop_assert!(false, "nothing changes meanwhile"),
                Err(Overwritten(_)) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A segment with names in it, of whose words some are overwritten: whoever looks is given an error, or fields in range.
    /// With the words put back, all is as before.
    #[test]
    fn looks_into_an_overwritten_segment(changes in vec((any::<prop::sample::Index>(), word(), any::<bool>()), 1..12)) {
        let options = NamedOptions { reserve: Some(2 << 20), max_processes: Some(5), ..NamedOptions::default() };
        let segment = Segment::private_of(&options).unwrap();
        let values: Vec<_> = (0..3u64).map(|i| SharedValue::<u64>::place_in(&segment, i).unwrap()).collect();
        let name = |i: usize| format!("name {i}");
        for (i, value) in values.iter().enumerate() {
            match segment.find_or_claim(&name(i), "u64", true).unwrap() {
                crate::segment::directory::FoundOrClaimed::Claimed(claim) => assert!(claim.publish(value.object())),
                crate::segment::directory::FoundOrClaimed::Found(found) => panic!("{found:?}"),
            }
        }
        let at = targets(&segment, (0..3).map(name));
        let mut before = Vec::new();
        for (index, value, flip) in changes {
            let word = segment.bytes().w64(*index.get(&at));
            before.push((word, word.load(Relaxed)));
            word.store(if flip { word.load(Relaxed) ^ value } else { value }, Relaxed);
        }
        for i in 0..4 {
            if let Ok(Some(found)) = segment.find(&name(i)) {
                prop_assert_eq!(found.name, name(i).into_bytes());
                look_at(&segment, found.object)?;
            }
        }
        for found in segment.names().unwrap_or_default() {
            prop_assert!((1..=LONGEST).contains(&found.name.len()) && found.type_name.len() <= LONGEST);
            look_at(&segment, found.object)?;
            look_at(&segment, found.place)?;
        }
        for value in &values {
            look_at(&segment, value.object().place())?;
        }
        for (word, value) in before.into_iter().rev() {
            word.store(value, Relaxed);
        }
        let report = segment.verify().unwrap();
        prop_assert_eq!((report.objects, report.names, report.busy), (3, 3, 0));
    }
}

fn look_at(segment: &Arc<Segment>, place: crate::segment::Place) -> Result<(), TestCaseError> {
    let _ = segment.is_there(place);
    if let Some(block) = segment.extents().locate(place.at) {
        prop_assert!(block.at == place.at && block.at + block.bytes <= segment.geometry().reserve);
    }
    if let Some(found) = segment.describe(place) {
        prop_assert!(found.users.len() <= segment.geometry().max_processes as usize + 63);
    }
    Ok(())
}

/// Words of the header, the tables, and of the blocks that the names lead to.
fn targets(segment: &Arc<Segment>, names: impl Iterator<Item = String>) -> Vec<u64> {
    let geometry = segment.geometry();
    let mut at = vec![header::GENERATION, header::EXTENTS_USED, header::PINS_USED, header::PINS_COMMITTED];
    at.extend((0..geometry.extents).map(|index| geometry.extent_word_at(index)));
    at.extend((0..3).map(|word| geometry.row_at(1) + word * 8));
    for name in names {
        let found = segment.find(&name).unwrap().unwrap();
        let bucket = geometry.bucket_at(names::bucket_of(found.hash));
        at.push(bucket);
        for block in [segment.bytes().w64(bucket).load(Relaxed), found.place.at, found.object.at] {
            let located = segment.extents().locate(block).unwrap();
            at.push(located.state_at);
            at.extend((0..16).map(|word| block + word * 8));
        }
    }
    at
}

#[test]
fn an_object_of_no_kind_is_refused() {
    let segment = Segment::private().unwrap();
    let value = SharedValue::<u64>::place_in(&segment, 7).unwrap();
    let (place, stamp) = (value.object().place(), Stamp::of::<u64>());
    let word = segment.bytes().w64(place.at + record::KIND * 8);
    let before = word.load(Relaxed);
    for kind in [0, 11, 99, u64::from(u32::MAX), u64::MAX, before | 5 << 32] {
        word.store(kind, Relaxed);
        // Of this process's own handle, and of one without (which is what another process has).
        let refused = segment.open(place, Kind::Value, (stamp, "u64")).is_err();
        assert_eq!(refused, kind as u32 != before as u32, "{kind:#x}");
        assert!(segment.describe(place).is_some_and(|found| found.kind == kind & u64::from(u32::MAX)));
    }
    word.store(before, Relaxed);
    assert_eq!(value.get(), 7);
}
