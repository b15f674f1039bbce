//! Handles: what arrives, what does not, and that nothing else comes of their bytes.

mod decode;

use super::{Kind, Object, PinChain, Segment, Stamp, handle, layout::Geometry};
use crate::{CreateError, HandleError, SharedAtomic, SharedValue, atomic::Relaxed, sync::Unlocked};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

fn encoded<T: Serialize>(value: &T) -> (Vec<u8>, Vec<Arc<Object>>) {
    let (bytes, kept, failure) = handle::encode_argument(|| postcard::to_stdvec(value));
    assert_eq!(failure, None);
    (bytes.unwrap(), kept)
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HandleError> {
    let (value, failure) = handle::decode(handle::here, || postcard::from_bytes(bytes));
    value.map_err(|_| failure.unwrap_or(HandleError::Malformed))
}

#[test]
fn a_handle_arrives_and_is_the_same_object() {
    let value = SharedValue::new(5u32).unwrap();
    let (bytes, kept) = encoded(&value);
    assert_eq!(kept.len(), 1, "the submitter keeps it");
    let there: SharedValue<u32> = decoded(&bytes).unwrap();
    *there.get_lock().unwrap() += 1;
    assert_eq!(value.get(), 6);
}

#[test]
fn a_kept_handle_outlives_its_owner_and_a_stale_one_is_gone() {
    let value = SharedValue::new(5u32).unwrap();
    let (bytes, kept) = encoded(&value);
    drop(value);
    assert_eq!(decoded::<SharedValue<u32>>(&bytes).map(|v| v.get()), Ok(5));
    drop(kept);
    assert_eq!(decoded::<SharedValue<u32>>(&bytes).map(|v| v.get()), Err(HandleError::Gone));
    // Another object in the same place is still not that one.
    let others: Vec<_> = (0..100).map(|i| SharedValue::new(i as u32).unwrap()).collect();
    assert_eq!(decoded::<SharedValue<u32>>(&bytes).map(|v| v.get()), Err(HandleError::Gone));
    drop(others);
}

#[test]
fn another_type_or_kind_is_refused_by_name() {
    let (bytes, _kept) = encoded(&SharedValue::new(5u32).unwrap());
    let wrong = |found: Result<(), HandleError>| match found {
        Err(HandleError::WrongType { expected, found }) => (expected, found),
        other => panic!("{other:?}"),
    };
    let of_i32 = wrong(decoded::<SharedValue<i32>>(&bytes).map(drop));
    assert_eq!(of_i32, ("a SharedValue of i32".into(), "a SharedValue of 4 bytes".into()));
    wrong(decoded::<SharedValue<u32, Unlocked>>(&bytes).map(drop));
    wrong(decoded::<SharedAtomic<u32>>(&bytes).map(drop));
    assert!(decoded::<SharedValue<u32>>(&bytes).is_ok(), "a refusal takes nothing away");
}

/// As when two programs are built from two versions of one type.
#[test]
fn a_type_of_the_same_name_and_another_size_is_refused() {
    mod before {
        #[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
        #[repr(C)]
        pub(super) struct Config(pub(super) u32, pub(super) u32);
    }
    mod larger {
        #[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
        #[repr(C)]
        pub(super) struct Config(u32, u32, u32);
    }
    mod aligned {
        #[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
        #[repr(C)]
        pub(super) struct Config(u64);
    }
    fn is_wrong<T>(found: Result<T, HandleError>) -> bool {
        matches!(found, Err(HandleError::WrongType { .. }))
    }
    let (bytes, _kept) = encoded(&SharedValue::new(before::Config(1, 2)).unwrap());
    assert!(is_wrong(decoded::<SharedValue<larger::Config>>(&bytes)));
    assert!(is_wrong(decoded::<SharedValue<aligned::Config>>(&bytes)));
    assert_eq!(decoded::<SharedValue<before::Config>>(&bytes).map(|value| value.get().1), Ok(2));
}

#[test]
fn outside_of_the_pool_it_neither_leaves_nor_arrives() {
    let value = SharedValue::new(5u32).unwrap();
    let (bytes, _kept) = encoded(&value);
    assert!(postcard::to_stdvec(&value).is_err());
    assert!(postcard::from_bytes::<SharedValue<u32>>(&bytes).is_err());
    // A handle that is serialised by a task on its own account, while the pool's own work goes on around it.
    let ((), _, failure) = handle::encode_argument(|| ());
    assert_eq!(failure, None);
    assert!(postcard::to_stdvec(&value).is_err(), "the scope ends with the pool's work");
}

#[test]
fn of_a_segment_that_is_not_here() {
    let value = SharedValue::new(5u32).unwrap();
    let (mut bytes, _kept) = encoded(&value);
    bytes[0] ^= 1; // the segment's id comes first
    assert_eq!(decoded::<SharedValue<u32>>(&bytes).map(drop), Err(HandleError::UnknownSegment));
}

proptest! {
    /// Whatever the bytes: an error, or a handle that works; and the segment is sound afterwards.
    #[test]
    fn arbitrary_bytes_are_no_handle(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decoded::<SharedValue<u64>>(&bytes).map(|v| v.get());
        let _ = decoded::<Vec<SharedAtomic<i8>>>(&bytes);
    }

    /// Offsets and generations of all kinds under the right segment id.
    #[test]
    fn arbitrary_places_are_no_handle(at in any::<u64>(), near in 0u64..1 << 22, generation in 0u64..64) {
        let segment = Segment::default_segment().unwrap();
        let held: Vec<_> = (0..4).map(|i| SharedValue::new([i as u64; 20]).unwrap()).collect();
        let first = segment.geometry().first_extent * super::layout::EXTENT;
        for at in [at, near, first + near, first + near / 64 * 64, first + near / 8 * 8] {
            let place = super::Place { at, generation };
            for kind in [Kind::Value, Kind::Atomic, Kind::Buffer] {
                let _ = segment.open(place, kind, (Stamp::of::<u64>(), "u64"));
            }
        }
        for (i, value) in held.iter().enumerate() {
            prop_assert_eq!(value.get(), [i as u64; 20]);
        }
        prop_assert!(segment.verify().is_ok());
    }

    /// Any two numbers in a header: a geometry whose parts are in order and inside, or none.
    #[test]
    fn geometry_is_sound_or_none(reserve in any::<u64>(), extents in 0u64..1 << 20, max in any::<u32>(), few in 0u32..1100) {
        for (reserve, max) in [(reserve, max), (reserve, few), (extents << 20, few), (extents << 20, max)] {
            if let Some(g) = Geometry::new(reserve, max) {
                prop_assert!(g.row_at(g.max_processes) + super::layout::ROW <= g.extents_at);
                prop_assert!(g.extents_at + g.extents * 8 <= g.names_at);
                prop_assert!(g.bucket_at(super::names::BUCKETS - 1) + 8 <= g.pins_at);
                prop_assert!(g.pin_at(super::layout::PIN_ROWS - 1) < g.first_extent * super::layout::EXTENT);
                prop_assert!(g.first_extent < g.extents && g.extents * super::layout::EXTENT == g.reserve);
                prop_assert!(g.holder_words() * 64 > u64::from(g.max_processes));
            }
        }
    }
}

#[test]
fn a_segment_that_is_not_ours_is_refused() {
    use crate::os::memory;
    let damaged = |fd| match Segment::adopt(fd) {
        Err(CreateError::Damaged(what) | CreateError::NotASegment(what)) => what.into_owned(),
        other => panic!("{other:?}"),
    };
    let sealed = |bytes| memory::create_sealed(bytes).unwrap();
    assert_eq!(damaged(sealed(1 << 12)), "its size is none that we give");
    assert_eq!(damaged(sealed(1 << 24)), "it does not begin as one, or is not ready");
    let open = rustix::fs::memfd_create(c"open", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&open, 1 << 24).unwrap();
    assert_eq!(damaged(open), "its size is not sealed, and it has no name");

    // One of ours, with one header word changed.
    let with = |at: u64, value: u64| {
        let fd = sealed(1 << 24);
        let ours = Segment::default_segment().unwrap();
        let mapping = memory::Mapping::new(rustix::fd::AsFd::as_fd(&fd), 1 << 24).unwrap();
        let copy = super::bytes::Bytes::new(mapping);
        for at in (0..48).step_by(8) {
            let word = ours.header_word(at);
            copy.w64(at).store(word, crate::atomic::Relaxed);
        }
        copy.w64(super::layout::header::RESERVE).store(1 << 24, crate::atomic::Relaxed);
        copy.w64(at).store(value, crate::atomic::Relaxed);
        damaged(fd)
    };
    use super::layout::header;
    assert!(with(header::VERSION, 99).starts_with("it has another layout"));
    assert_eq!(with(header::RESERVE, 1 << 25), "its sizes contradict each other");
    assert_eq!(with(header::MAX_PROCESSES, 0), "its sizes contradict each other");
    assert_eq!(with(header::MAX_PROCESSES, 1 << 40), "its sizes contradict each other");
}

#[test]
fn a_further_private_segment_is_not_the_default_and_ends_with_its_last_handle() {
    let of_its_own = Segment::private().unwrap();
    let default = Segment::default_segment().unwrap();
    assert_ne!(of_its_own.id(), default.id());
    let value = SharedValue::<u64>::place_in(&of_its_own, 5).unwrap();
    let count = SharedAtomic::place_in(&of_its_own, 1u8).unwrap();
    let place = value.object().place();
    *SharedValue::<u64>::open_in(&of_its_own, place).unwrap().get_lock().unwrap() += 1;
    assert_eq!(SharedAtomic::<u8>::open_in(&of_its_own, count.object().place()).unwrap().fetch_add(1), 1);
    assert!(matches!(SharedAtomic::<u64>::open_in(&of_its_own, place), Err(HandleError::WrongType { .. })));
    assert!(matches!(SharedValue::<u32>::open_in(&of_its_own, place), Err(HandleError::WrongType { .. })));
    assert_eq!(of_its_own.verify().unwrap().objects, 2);

    let joined = Segment::join(of_its_own.descriptor().unwrap().try_clone_to_owned().unwrap()).unwrap();
    assert!(Arc::ptr_eq(&joined, &of_its_own), "one attach per segment and process");
    let id = of_its_own.id();
    drop((joined, of_its_own));
    assert!(Segment::by_id(id).is_some(), "a handle keeps its segment");
    assert_eq!(value.get(), 6);
    drop((value, count));
    assert!(Segment::by_id(id).is_none());
}

/// The last handle goes in one thread while another joins: never two records of one part, none lost.
#[test]
fn joining_while_the_last_handle_goes() {
    let segment = Segment::private().unwrap();
    let fd = segment.descriptor().unwrap().try_clone_to_owned().unwrap();
    drop(segment);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..200u64 {
                    let segment = Segment::join(fd.try_clone().unwrap()).unwrap();
                    let value = SharedValue::<u64>::place_in(&segment, i).unwrap();
                    assert_eq!(value.get(), i);
                }
            });
        }
    });
    let segment = Segment::join(fd).unwrap();
    let report = segment.verify().unwrap();
    assert_eq!((report.objects, report.processes), (0, 1));
}

/// Pins are taken away along their chain, and no other row is asked; a chain that leads elsewhere says so.
#[test]
fn a_chain_of_pins_is_its_own() {
    let segment = Segment::private().unwrap();
    let me = segment.me().unwrap();
    let values: Vec<_> = (0..200).map(|i| SharedValue::<u64>::place_in(&segment, i).unwrap()).collect();
    let pin = |value: &SharedValue<u64>, tag, before| segment.pin(value.object(), me, tag, before).unwrap();
    let none = PinChain::default();
    let mut chains = [none; 2];
    for (i, value) in values.iter().enumerate() {
        chains[i % 2] = pin(value, 7, chains[i % 2]);
    }
    let other = pin(&values[0], 8, none);
    let mixed = pin(&values[1], 7, other);
    drop(values);
    let left = || {
        let report = segment.verify().unwrap();
        (report.objects, report.pins)
    };
    assert_eq!(left(), (200, 202));
    assert_eq!(segment.unpin_chain(chains[0], 8), Ok(false), "of another tag");
    assert_eq!(left(), (200, 202));
    assert_eq!(segment.unpin_chain(chains[0], 7), Ok(true));
    assert_eq!(left(), (101, 102), "of the same tag, and not in this chain");
    assert_eq!(segment.unpin_chain(chains[0], 7), Ok(false), "they are gone");
    assert_eq!(segment.unpin_chain(mixed, 7), Ok(false), "it leads to a row that is another's");
    assert_eq!(left(), (101, 101));
    for wrong in [u32::MAX, 1 << 16, 5000] {
        assert_eq!(segment.unpin_chain(PinChain(wrong), 7), Ok(false), "no row");
    }
    assert_eq!(segment.unpin_chain(none, 7), Ok(true), "nothing");
    segment.unpin(|_, tag| tag == 7).unwrap();
    assert_eq!(left(), (1, 1));
    assert_eq!(segment.unpin_chain(other, 8), Ok(true));
    assert_eq!(left(), (0, 0));
    // Rows are used again.
    let value = SharedValue::<u64>::place_in(&segment, 1).unwrap();
    for _ in 0..100_000 {
        assert_eq!(segment.unpin_chain(pin(&value, 9, none), 9), Ok(true));
    }
}

mod directory {
    //! Names against a plain map, full lists, and what other bytes do.

    use super::*;
    use crate::segment::directory::{Claim, FoundOrClaimed};

    fn claimed(segment: &Arc<Segment>, name: &str) -> Claim {
        match segment.find_or_claim(name, "u64", false).unwrap() {
            FoundOrClaimed::Claimed(claim) => claim,
            FoundOrClaimed::Found(found) => panic!("{name} is there: {found:?}"),
        }
    }

    fn give(segment: &Arc<Segment>, name: &str, value: &SharedValue<u64>) {
        assert!(claimed(segment, name).publish(value.object()));
    }

    fn get(segment: &Arc<Segment>, name: &str) -> Option<u64> {
        let found = segment.find(name).unwrap()?;
        Some(SharedValue::<u64>::open_in(segment, found.object).unwrap().get())
    }

    #[test]
    fn a_name_keeps_its_object_until_it_is_taken_away() {
        let segment = Segment::private().unwrap();
        let value = SharedValue::<u64>::place_in(&segment, 7).unwrap();
        assert!(segment.find("seven").unwrap().is_none());
        give(&segment, "seven", &value);
        drop(value);
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.names, report.busy), (1, 1, 0));
        assert_eq!(get(&segment, "seven"), Some(7));
        let held =
            SharedValue::<u64>::open_in(&segment, segment.find("seven").unwrap().unwrap().object).unwrap();
        assert!(segment.remove_name("seven").unwrap().is_some());
        assert!(segment.remove_name("seven").unwrap().is_none());
        // Another object of that name; the handle of the old one stays what it is.
        give(&segment, "seven", &SharedValue::<u64>::place_in(&segment, 8).unwrap());
        assert_eq!((held.get(), get(&segment, "seven")), (7, Some(8)));
        drop(held);
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.names, report.busy), (1, 1, 0));
    }

    #[test]
    fn an_object_of_several_names_goes_with_the_last() {
        let segment = Segment::private().unwrap();
        let value = SharedValue::<u64>::place_in(&segment, 7).unwrap();
        for name in ["a", "b", "c"] {
            give(&segment, name, &value);
        }
        drop(value);
        for name in ["a", "c", "b"] {
            assert_eq!(get(&segment, name), Some(7));
            assert!(segment.remove_name(name).unwrap().is_some());
        }
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.names, report.busy), (0, 0, 0));
    }

    #[test]
    fn a_claim_that_is_dropped_leaves_the_name_free() {
        let segment = Segment::private().unwrap();
        drop(claimed(&segment, "x"));
        let taken = claimed(&segment, "x");
        assert!(segment.find("x").unwrap().is_none(), "a claim is no name");
        // Somebody who has an object already takes the claim away at once.
        let other = match segment.find_or_claim("x", "u64", true).unwrap() {
            FoundOrClaimed::Claimed(claim) => claim,
            FoundOrClaimed::Found(found) => panic!("{found:?}"),
        };
        let [a, b] = [1, 2].map(|i| SharedValue::<u64>::place_in(&segment, i).unwrap());
        assert!(!taken.publish(a.object()));
        assert!(other.publish(b.object()));
        drop((a, b));
        assert_eq!(get(&segment, "x"), Some(2));
        let report = segment.verify().unwrap();
        assert_eq!((report.objects, report.names, report.busy), (1, 1, 0));
    }

    /// Found by the fuzzer: what is listed but cannot be held was asked for again for ever.
    #[test]
    fn listed_blocks_that_were_freed_by_a_stray_write_end_every_search() {
        for freed in ["the list", "the entry"] {
            let segment = Segment::private().unwrap();
            give(&segment, "x", &SharedValue::<u64>::place_in(&segment, 7).unwrap());
            let entry = segment.find("x").unwrap().unwrap().place.at;
            let bucket = crate::segment::names::bucket_of(crate::segment::names::hash_of(b"x"));
            let list = segment.header_word(segment.geometry().bucket_at(bucket));
            let at = if freed == "the list" { list } else { entry };
            let block = segment.extents().locate(at).unwrap();
            segment.extents().state(&block).store(0, crate::atomic::Relaxed);
            let ends = segment.find_or_claim("x", "u64", true).is_err();
            assert!(segment.remove_name("x").is_err() || (ends && freed == "the list"), "{freed}");
        }
    }

    #[test]
    fn names_of_all_lengths() {
        let segment = Segment::private().unwrap();
        let value = SharedValue::<u64>::place_in(&segment, 7).unwrap();
        let names: Vec<String> = (1..=255).map(|n| "n".repeat(n)).collect();
        names.iter().for_each(|name| give(&segment, name, &value));
        for name in &names {
            let found = segment.find(name).unwrap().unwrap();
            assert_eq!((found.name.as_slice(), found.type_name.as_slice()), (name.as_bytes(), &b"u64"[..]));
        }
        assert_eq!(segment.names().unwrap().len(), 255);
        assert_eq!(segment.verify().unwrap().names, 255);
    }

    proptest! {
        /// Names come and go, in a few buckets and many, and with claims that are left over.
        #[test]
        fn as_a_plain_map(steps in proptest::collection::vec((0u8..5, 0u64..24), 1..120)) {
            let segment = Segment::private().unwrap();
            let mut model = std::collections::HashMap::new();
            let mut left = Vec::new();
            for (i, (what, n)) in steps.into_iter().enumerate() {
                let (name, i) = (format!("name-{n}"), i as u64);
                match what {
                    0 | 1 => match segment.find_or_claim(&name, "u64", true).unwrap() {
                        FoundOrClaimed::Claimed(claim) => {
                            prop_assert!(!model.contains_key(&name));
                            let value = SharedValue::<u64>::place_in(&segment, i).unwrap();
                            prop_assert!(claim.publish(value.object()));
                            model.insert(name, i);
                        }
                        FoundOrClaimed::Found(found) => {
                            prop_assert!(model.contains_key(&name));
                            prop_assert_eq!(found.name, name.as_bytes());
                        }
                    },
                    2 => {
                        let removed = segment.remove_name(&name).unwrap();
                        prop_assert_eq!(removed.is_some(), model.remove(&name).is_some());
                    }
                    // A claim in the hands of somebody who does not go on: others take it away.
                    3 if !model.contains_key(&name) => left.push(match segment.find_or_claim(&name, "u64", true).unwrap() {
                        FoundOrClaimed::Claimed(claim) => claim,
                        FoundOrClaimed::Found(found) => panic!("{found:?}"),
                    }),
                    _ => prop_assert_eq!(get(&segment, &name), model.get(&name).copied()),
                }
            }
            for n in 0..24 {
                let name = format!("name-{n}");
                prop_assert_eq!(get(&segment, &name), model.get(&name).copied());
            }
            drop(left);
            let report = segment.verify().unwrap();
            let n = model.len() as u64;
            prop_assert_eq!((report.objects, report.names, report.busy), (n, n, 0));
        }
    }
}

/// A part goes by the word that its record names, and by no other.
#[test]
fn a_part_is_taken_back_from_its_own_place_only() {
    let segment = Segment::private().unwrap();
    let object = |parts| segment.create_with_parts(Kind::Buffer, Stamp::NONE, 4, 3, parts, |_| ()).unwrap();
    let (owner, other) = (object(2), object(1));
    owner.attach_part(0, 64, |words| words[0].store(7, Relaxed)).unwrap();
    let word = owner.table()[0].load(Relaxed);
    for (table, index) in [(&owner, 1), (&other, 0)] {
        table.table()[index].store(word, Relaxed);
        assert!(table.detach_part(index).is_err());
        assert!(table.attach_part(index, 64, |_| panic!("there is one")).is_err());
        assert_eq!(table.table()[index].load(Relaxed), word, "it stays for `verify` to say");
        table.table()[index].store(0, Relaxed);
    }
    assert_eq!(owner.part(0).map(|words| words[0].load(Relaxed)), Some(7));
    // Nor does an object that goes take another's part with it.
    other.table()[0].store(word, Relaxed);
    drop(other);
    assert_eq!(owner.part(0).map(|words| words[0].load(Relaxed)), Some(7));
    assert!(segment.verify().is_ok());
    owner.detach_part(0).unwrap();
    assert_eq!(segment.verify().unwrap().parts, 0);
}
