//! The typed face where the front door does not lead: maps in other segments, and handles of other types.

use crate::{
    HandleError, MapError, Plain, Serde, SharedValue,
    atomic::{Relaxed, Word64},
    codec::{Codec, Key},
    map::SharedMap,
    segment::{Place, Segment},
};
use std::sync::Arc;

fn opens<K: Key, V: Codec>(segment: &Arc<Segment>, place: Place) -> Result<usize, HandleError> {
    SharedMap::<K, V>::open_in(segment, place).map(|map| map.len())
}

#[test]
fn a_map_is_opened_by_its_types_only() {
    let segment = Segment::private().unwrap();
    let map = SharedMap::<String, u64>::place_in(&segment).unwrap();
    map.insert("a", 1).unwrap();
    let place = map.object().place();
    let same = SharedMap::<String, u64>::open_in(&segment, place).unwrap();
    same.insert("b", 2).unwrap();
    assert_eq!((map.get("b").unwrap(), opens::<String, u64>(&segment, place)), (Some(2), Ok(2)));

    fn is_wrong(opened: Result<usize, HandleError>) {
        assert!(matches!(opened, Err(HandleError::WrongType { .. })), "{opened:?}");
    }
    is_wrong(opens::<String, i64>(&segment, place));
    is_wrong(opens::<String, u32>(&segment, place));
    is_wrong(opens::<u64, u64>(&segment, place));
    is_wrong(opens::<u64, String>(&segment, place));
    is_wrong(opens::<Vec<u8>, u64>(&segment, place));
    is_wrong(opens::<String, Serde<u64>>(&segment, place));
    is_wrong(opens::<String, Plain<u64>>(&segment, place));
    is_wrong(opens::<String, [u64; 1]>(&segment, place));
    let value = SharedValue::<u64>::place_in(&segment, 1).unwrap();
    is_wrong(opens::<String, u64>(&segment, value.object().place()));
    match SharedMap::<u64, u64>::open_in(&segment, place) {
        Err(HandleError::WrongType { expected, found }) => {
            assert_eq!(expected, "a SharedMap of (u64, u64)");
            assert!(found.starts_with("a SharedMap"), "{found}");
        }
        other => panic!("{other:?}"),
    }

    drop((map, same));
    assert_eq!(opens::<String, u64>(&segment, place), Err(HandleError::Gone));
    assert_eq!(segment.verify().unwrap().objects, 1);
}

/// The word of an inline map is what the types say, also for those that are not numbers.
#[test]
fn small_types_lie_in_the_table() {
    assert_eq!(SharedMap::<u64, u64>::INLINE, Some((8, 8)));
    assert_eq!(SharedMap::<(u16, bool), ()>::INLINE, Some((3, 0)));
    assert_eq!(SharedMap::<char, Plain<[u8; 5]>>::INLINE, Some((4, 5)));
    assert_eq!(SharedMap::<u64, [u8; 9]>::INLINE, None);
    assert_eq!(SharedMap::<String, u64>::INLINE, None);
}

/// One word after the other is 0, or has a bit turned over, and goes back: an update of each key ends, and is told of what
/// a look and a writer do not see alike.
fn updates_end<K: Key, V: Codec<Owned: Clone>>(keys: &[K::Owned], value: &V::Owned) {
    let segment = Segment::private().unwrap();
    let map = SharedMap::<K, V>::place_in(&segment).unwrap();
    for key in keys {
        map.insert(K::borrow(key), V::borrow(value)).unwrap();
    }
    let object = map.object();
    let parts = (0..object.parts()).filter_map(|part| object.part(part));
    let words: Vec<&Word64> = object.w64().iter().chain(parts.flatten()).collect();
    let mut refused = 0;
    for (i, word) in words.into_iter().filter(|word| word.load(Relaxed) != 0).enumerate() {
        let old = word.load(Relaxed);
        for new in [0, old ^ 1 << (i % 64)] {
            word.store(new, Relaxed);
            for key in keys {
                let done = map.update(K::borrow(key), |seen| seen.or_else(|| Some(value.clone())));
                refused += u32::from(matches!(done, Err(MapError::Damaged)));
            }
            word.store(old, Relaxed);
        }
    }
    assert!(refused > 0, "no word of the map matters");
}

/// The number of a shard's buckets is 0, which only an empty shard may say: then a look finds nothing there, as a writer does.
#[test]
fn a_look_and_a_writer_see_the_same_without_buckets() {
    let segment = Segment::private().unwrap();
    let map = SharedMap::<u64, u64>::place_in(&segment).unwrap();
    for key in 0..40 {
        map.insert(key, 3).unwrap();
    }
    for word in map.object().w64().iter().filter(|word| word.load(Relaxed) != 0) {
        let old = word.swap(0, Relaxed);
        for key in 0..40 {
            if map.get(key) == Ok(Some(3)) {
                assert_ne!(map.compare_and_set(key, Some(3), Some(3)), Ok(false), "key {key}");
            }
        }
        word.store(old, Relaxed);
    }
}

#[test]
fn an_update_ends_whatever_was_overwritten() {
    updates_end::<u64, u64>(&(0..40).collect::<Vec<_>>(), &3);
    updates_end::<String, String>(
        &(0..20).map(|key| key.to_string()).collect::<Vec<_>>(),
        &"three".to_owned(),
    );
}
