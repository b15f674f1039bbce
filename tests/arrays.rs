//! Arrays as users see them: bad input, claims against claims, chunks, all or nothing; by threads and by a pool's workers.

mod watchdog;

use allmend::{
    ArrayError, CreateError, Error, LockError, Pool, Resource, SharedArray, TaskError,
    array::{Chunk, lock_all, lock_all_timeout, try_lock_all},
};
use proptest::prelude::*;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

const SHORT: Duration = Duration::from_millis(20);

fn timed_out<G>(result: Result<G, LockError<G>>) -> bool {
    matches!(result, Err(LockError::Timeout { .. }))
}

fn is_deadlock<G>(result: Result<G, LockError<G>>) -> bool {
    matches!(result, Err(LockError::Deadlock))
}

/// Handles are `Debug` whatever their elements are: that this compiles is the test.
#[test]
fn handles_ask_nothing_of_their_elements() {
    fn handles<T: bytemuck::Pod>(a: &SharedArray<T>) -> [Box<dyn std::fmt::Debug>; 4] {
        let slices = Box::new(a.chunks(2));
        [Box::new(a.clone()), slices, Box::new(a.claims(2).unwrap()), Box::new(a.freeze().unwrap())]
    }
    let names = handles(&SharedArray::<u8>::new(3).unwrap()).map(|handle| format!("{handle:?}"));
    let starts = [
        "SharedArray { start: 0, len: 3,",
        "Slices {",
        "Claims { count: 2, len: 2,",
        "FrozenArray { start: 0, len: 3,",
    ];
    assert!(names.iter().zip(starts).all(|(name, start)| name.starts_with(start)), "{names:?}");
}

#[test]
fn bad_input_has_its_own_errors() {
    let _watchdog = watchdog::Watchdog::new("bad_input_has_its_own_errors");
    assert!(matches!(SharedArray::<u64>::new(0), Err(CreateError::Invalid(_))));
    assert!(matches!(SharedArray::<u8>::from_slice(&[]), Err(CreateError::Invalid(_))));
    assert!(matches!(SharedArray::<u8>::unlocked(0), Err(CreateError::Invalid(_))));
    assert!(matches!(SharedArray::<u8>::new(1 << 32), Err(CreateError::Invalid(_))));
    assert!(matches!(
        SharedArray::<u64>::new(usize::MAX),
        Err(CreateError::Full { what: Resource::Segment, .. })
    ));
    let a = SharedArray::from_slice(&[1u32, 2, 3, 4, 5]).unwrap();
    assert_eq!(a.get(5), Err(ArrayError::Index { index: 5, len: 5 }));
    assert_eq!(a.set(usize::MAX, 0), Err(ArrayError::Index { index: usize::MAX, len: 5 }));
    let slice = a.slice(1..3).unwrap();
    assert_eq!(slice.get(2), Err(ArrayError::Index { index: 2, len: 2 }), "a slice ends where it ends");
    assert_eq!(a.slice(2..6).err(), Some(ArrayError::Range { start: 2, end: 6, len: 5 }));
    #[allow(clippy::reversed_empty_ranges, reason = "the point")]
    let reversed = a.slice(3..2);
    assert_eq!(reversed.err(), Some(ArrayError::Range { start: 3, end: 2, len: 5 }));
    assert!(matches!(a.slice(..=usize::MAX), Err(ArrayError::Range { .. })));
    assert!(matches!(slice.slice(..3), Err(ArrayError::Range { len: 2, .. })));
    assert_eq!(a.copy_to(&mut [0; 4]), Err(ArrayError::Length { given: 4, len: 5 }));
    assert_eq!(a.copy_from(&[0; 6]), Err(ArrayError::Length { given: 6, len: 5 }));
    assert!(matches!(a.claims(0), Err(CreateError::Invalid(_))));
    assert!(matches!(a.slice(2..2).unwrap().claims(3), Err(CreateError::Invalid(_))));
    assert!(catch_unwind(|| a.chunks(0).len()).is_err());
    assert!(catch_unwind(|| a.windows(0, 1).len()).is_err());
    let words = SharedArray::<u16>::unlocked(3).unwrap();
    assert_eq!(words.get(3), Err(ArrayError::Index { index: 3, len: 3 }));
    assert_eq!(words.fetch_add(9, 1), Err(ArrayError::Index { index: 9, len: 3 }));
    assert!(postcard::to_stdvec(&a).is_err(), "outside of a pool");
    // An empty slice is one, and in nobody's way.
    let (empty, _all) = (a.slice(2..2).unwrap(), a.get_lock().unwrap());
    assert!(empty.is_empty() && empty.get_lock().unwrap().is_empty() && empty.to_vec().unwrap().is_empty());
    assert_eq!(empty.update(|elements| elements.len()), Ok(0));
}

#[test]
fn a_slice_travels_both_ways() {
    let _watchdog = watchdog::Watchdog::new("a_slice_travels_both_ways");
    let pool = Pool::new(1).unwrap();
    let a = SharedArray::from_slice(&[1u32, 2, 3]).unwrap();
    // The same handle, twice around: still the same array.
    let back = pool.submit(|a: SharedArray<u32>| a.slice(1..).unwrap(), a.clone()).result().unwrap();
    assert_eq!((back.start(), back.len()), (1, 2));
    back.set(0, 9).unwrap();
    assert_eq!(a.to_vec().unwrap(), [1, 9, 3]);
}

#[test]
fn elements_are_aligned_and_large_ones_work() {
    let _watchdog = watchdog::Watchdog::new("elements_are_aligned_and_large_ones_work");
    #[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C, align(4096))]
    struct Page([u64; 512]);
    let a = SharedArray::<Page>::new(3).unwrap();
    a.set(1, Page([7; 512])).unwrap();
    let guard = a.read().unwrap();
    assert!(guard.as_ptr().is_aligned());
    assert_eq!((guard[0].0[0], guard[1].0[511], guard[2].0[0]), (0, 7, 0));
    let odd = SharedArray::from_slice(&[[1u8; 3]; 5]).unwrap();
    odd.slice(1..2).unwrap().copy_from(&[[9; 3]]).unwrap();
    assert_eq!(odd.to_vec().unwrap(), [[1; 3], [9; 3], [1; 3], [1; 3], [1; 3]]);
    assert!(allmend::verify().is_ok());
}

#[test]
fn claims_exclude_within_a_process() {
    let _watchdog = watchdog::Watchdog::new("claims_exclude_within_a_process");
    let a = SharedArray::<u64>::new(10).unwrap();
    let (left, right, middle) = (a.slice(..5).unwrap(), a.slice(5..).unwrap(), a.slice(3..7).unwrap());
    let elsewhere = |f: &(dyn Fn() -> bool + Sync)| thread::scope(|s| s.spawn(f).join().unwrap());
    {
        let mut guard = left.get_lock().unwrap();
        guard[4] = 4;
        assert!(is_deadlock(a.get_lock()) && is_deadlock(left.read()) && is_deadlock(middle.try_read()));
        assert_eq!(a.get(0), Err(ArrayError::Lock(LockError::Deadlock)));
        assert_eq!(a.set(0, 1), Err(ArrayError::Lock(LockError::Deadlock)));
        assert!(right.try_get_lock().is_ok() && a.get(5) == Ok(0), "disjoint");
        assert!(elsewhere(&|| timed_out(middle.try_get_lock())), "another thread");
        assert!(elsewhere(&|| timed_out(a.clone().read_timeout(SHORT))));
        assert!(elsewhere(&|| right.try_get_lock().is_ok()));
    }
    {
        let (_first, _second) = (a.read().unwrap(), middle.read().unwrap());
        assert!(is_deadlock(middle.try_get_lock()), "its own reader is in the way");
        assert!(elsewhere(&|| timed_out(middle.try_get_lock())));
        assert!(elsewhere(&|| middle.try_read().is_ok_and(|guard| guard[1] == 4)), "readers share");
    }
    assert!(elsewhere(&|| a.get_lock().is_ok()), "all are gone");
}

fn try_all(a: SharedArray<u64>) -> [bool; 3] {
    [timed_out(a.try_get_lock()), timed_out(a.try_read()), timed_out(a.get_lock_timeout(SHORT))]
}

#[test]
fn claims_exclude_between_processes() {
    let _watchdog = watchdog::Watchdog::new("claims_exclude_between_processes");
    let pool = Pool::new(1).unwrap();
    let a = SharedArray::<u64>::new(10).unwrap();
    let (left, middle, right) = (a.slice(..5).unwrap(), a.slice(3..7).unwrap(), a.slice(5..).unwrap());
    let there = |a: &SharedArray<u64>| pool.submit(try_all, a.clone()).result().unwrap();
    let guard = left.get_lock().unwrap();
    assert_eq!((there(&middle), there(&right)), ([true; 3], [false; 3]));
    drop(guard);
    let reader = left.read().unwrap();
    assert_eq!((there(&middle), there(&right)), ([true, false, true], [false; 3]));
    drop(reader);
    assert_eq!(there(&a), [false; 3]);
}

#[test]
fn a_panic_leaves_a_mark_and_only_where_it_was() {
    let _watchdog = watchdog::Watchdog::new("a_panic_leaves_a_mark_and_only_where_it_was");
    let a = SharedArray::from_slice(&[1u64; 10]).unwrap();
    let part = a.slice(2..8).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = part.get_lock().unwrap();
        guard[0] = 99;
        panic!("in the middle");
    }));
    assert!(panicked.is_err());
    assert!(a.slice(..2).unwrap().get_lock().is_ok() && a.slice(8..).unwrap().read().is_ok());
    let refused = Error::from(a.get_lock().unwrap_err());
    let Error::Lock(LockError::Inherited(inherited)) = refused else { panic!("{refused:?}") };
    assert_eq!((inherited.pid(), inherited.range()), (std::process::id(), Some(2..8)));
    assert!(matches!(a.get(3), Err(ArrayError::Lock(LockError::Inherited(_)))), "the mark stays");
    assert!(matches!(a.freeze(), Err(ArrayError::Lock(LockError::Inherited(_)))));
    // Mended in the middle: both ends stay marked.
    let mended = a.slice(4..6).unwrap().get_lock().or_else(|e| e.repair(|guard| guard.fill(5)));
    drop(mended.unwrap());
    assert_eq!(a.slice(4..6).unwrap().to_vec(), Ok(vec![5, 5]));
    for (range, marked) in [(0..2, false), (2..4, true), (4..6, false), (6..8, true), (8..10, false)] {
        assert_eq!(a.slice(range.clone()).unwrap().to_vec().is_err(), marked, "{range:?}");
    }
    let Err(LockError::Inherited(mut inherited)) = a.get_lock() else { panic!("marked") };
    assert_eq!((inherited.range(), inherited.get_mut()[2]), (Some(2..8), 99));
    let mut guard = inherited.accept();
    guard[2] = 1;
    drop(guard);
    assert_eq!(a.to_vec().unwrap(), [1, 1, 1, 1, 5, 5, 1, 1, 1, 1]);
    assert!(a.freeze().is_ok());
}

fn die_holding(a: SharedArray<u64>) {
    let mut guard = a.get_lock().unwrap();
    guard[0] = 77;
    std::process::abort();
}

#[test]
fn a_dead_owner_is_reported_with_its_range_and_pid() {
    let _watchdog = watchdog::Watchdog::new("a_dead_owner_is_reported_with_its_range_and_pid");
    let pool = Pool::new(1).unwrap();
    let a = SharedArray::<u64>::new(100).unwrap();
    for round in 0..20u64 {
        let part = a.slice(10..20).unwrap();
        let Err(TaskError::Died { pid, .. }) = pool.submit(die_holding, part).result() else {
            panic!("lives")
        };
        assert!(a.slice(20..).unwrap().get_lock().is_ok() && a.get(9) == Ok(0));
        let Err(LockError::Inherited(inherited)) = a.slice(5..50).unwrap().get_lock() else {
            panic!("{round}")
        };
        assert_eq!((inherited.pid(), inherited.range()), (pid, Some(5..15)));
        drop(inherited);
        let mended = a.get_lock().or_else(|e| e.repair(|guard| guard[10] = round)).unwrap();
        assert_eq!(mended[10], round);
        drop(mended);
        assert!(a.get_lock().is_ok());
    }
    drop(pool);
    assert!(allmend::verify().is_ok());
}

fn read_and_die(a: SharedArray<u64>) {
    let guard = a.read().unwrap();
    assert_eq!(guard[0], 0);
    std::process::abort();
}

#[test]
fn a_dead_reader_was_never_there() {
    let _watchdog = watchdog::Watchdog::new("a_dead_reader_was_never_there");
    let pool = Pool::new(1).unwrap();
    let a = SharedArray::<u64>::new(10).unwrap();
    for _ in 0..10 {
        assert!(matches!(pool.submit(read_and_die, a.clone()).result(), Err(TaskError::Died { .. })));
        assert!(a.get_lock().is_ok());
    }
}

fn fill(claims: allmend::Claims<u32>) -> allmend::Result<usize> {
    let mut n = 0;
    while let Some(mut chunk) = claims.claim()? {
        let start = chunk.start() as u32;
        for (i, element) in chunk.iter_mut().enumerate() {
            *element += start + i as u32;
        }
        chunk.done();
        n += 1;
    }
    Ok(n)
}

fn die_in_a_chunk(claims: allmend::Claims<u32>) {
    let mut chunk = claims.claim().unwrap().expect("one is to do");
    chunk[0] = 1_000_000;
    std::process::abort();
}

#[test]
fn each_chunk_is_done_once() {
    let _watchdog = watchdog::Watchdog::new("each_chunk_is_done_once");
    let pool = Pool::new(2).unwrap();
    let a = SharedArray::<u32>::new(10_007).unwrap();
    let claims = a.claims(100).unwrap();
    assert_eq!((claims.count(), claims.is_done()), (101, false));
    let done: usize = pool.map(fill, vec![claims.clone(); 4]).map(|n| n.unwrap().unwrap()).sum();
    assert_eq!((done, claims.is_done(), claims.remaining()), (101, true, 0));
    assert!(claims.claim().unwrap().is_none());
    assert!(a.to_vec().unwrap().into_iter().eq(0..10_007));
}

#[test]
fn a_chunk_whose_owner_died_can_be_claimed_again_and_says_so() {
    let _watchdog = watchdog::Watchdog::new("a_chunk_whose_owner_died_can_be_claimed_again_and_says_so");
    let pool = Pool::new(1).unwrap();
    let a = SharedArray::<u32>::new(100).unwrap();
    let claims = a.claims(10).unwrap();
    let Err(TaskError::Died { pid, .. }) = pool.submit(die_in_a_chunk, claims.clone()).result() else {
        panic!("it lives")
    };
    assert!(
        matches!(a.get_lock(), Err(LockError::Inherited(_))),
        "who does not know of chunks is told as well"
    );
    let mut seen = Vec::new();
    {
        // One is held here and given back; a panic gives back, too.
        let held = claims.claim().unwrap().expect("to do");
        assert_eq!(held.inherited(), None);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _chunk = claims.claim().unwrap().expect("to do");
            panic!("in a chunk");
        }));
        assert!(panicked.is_err());
    }
    while let Some(mut chunk) = claims.claim().unwrap() {
        if let Some(dead) = chunk.inherited() {
            assert_eq!((dead, chunk[0]), (pid, 1_000_000));
            chunk.fill(0);
            seen.push(chunk.index());
        }
        chunk.done();
    }
    assert_eq!(seen.len(), 1);
    assert!(claims.is_done() && a.to_vec().unwrap().iter().all(|&n| n == 0));
}

/// The first chunk of an array of which nobody has kept another handle.
fn first_chunk() -> Chunk<u64> {
    SharedArray::from_slice(&[7, 8]).unwrap().claims(1).unwrap().claim().unwrap().expect("to do")
}

#[test]
fn a_chunk_keeps_what_it_is_of() {
    let _watchdog = watchdog::Watchdog::new("a_chunk_keeps_what_it_is_of");
    let mut chunk = first_chunk();
    // Were its memory free, these would have it.
    let others = [(); 64].map(|()| SharedArray::from_slice(&[1u64, 1]).unwrap());
    assert_eq!((&*chunk, chunk.start(), chunk.index()), (&[7][..], 0, 0));
    chunk[0] = 9;
    assert!(others.iter().all(|other| other.to_vec().unwrap() == [1, 1]));
    assert!(allmend::verify().is_ok());
    chunk.done();
    assert!(allmend::verify().is_ok());
}

#[test]
fn chunks_wait_for_who_has_their_elements() {
    let _watchdog = watchdog::Watchdog::new("chunks_wait_for_who_has_their_elements");
    let a = SharedArray::<u8>::new(4).unwrap();
    let claims = a.claims(4).unwrap();
    let reader = a.read().unwrap();
    assert!(matches!(claims.claim().map(drop), Err(LockError::Deadlock)));
    thread::scope(|s| {
        let there = s.spawn(|| {
            assert!(matches!(claims.try_claim().map(drop), Err(LockError::Timeout { .. })));
            assert!(matches!(claims.claim_timeout(SHORT).map(drop), Err(LockError::Timeout { .. })));
        });
        there.join().unwrap();
        let waits = s.spawn(|| claims.claim().unwrap().expect("to do").done());
        drop(reader);
        waits.join().unwrap();
    });
    assert!(claims.is_done());
}

/// Who looked while a chunk was to do finds it done by the other.
#[test]
fn a_chunk_that_two_look_at_is_done_by_one() {
    let _watchdog = watchdog::Watchdog::new("a_chunk_that_two_look_at_is_done_by_one");
    const CHUNKS: usize = 5_000;
    let a = SharedArray::<u8>::new(CHUNKS).unwrap();
    let claims = a.claims(1).unwrap();
    let work = || {
        while let Some(mut chunk) = claims.claim().unwrap() {
            chunk[0] += 1;
            chunk.done();
        }
    };
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(work);
        }
    });
    assert!(a.to_vec().unwrap().iter().all(|&times| times == 1));
    // Both wait for who has its elements.
    let start = std::sync::Barrier::new(3);
    for _ in 0..100 {
        let claims = a.claims(CHUNKS).unwrap();
        let work = || {
            start.wait();
            claims.claim().unwrap().map(Chunk::done).is_some()
        };
        let done: usize = thread::scope(|s| {
            let held = a.get_lock().unwrap();
            let both = [s.spawn(work), s.spawn(work)];
            start.wait();
            thread::yield_now();
            drop(held);
            both.map(|one| usize::from(one.join().unwrap())).iter().sum()
        });
        assert_eq!(done, 1);
    }
}

/// A destructor that runs because of a panic may change an array, too.
#[test]
fn a_guard_that_began_in_a_panic_leaves_no_mark() {
    let _watchdog = watchdog::Watchdog::new("a_guard_that_began_in_a_panic_leaves_no_mark");
    struct Notes(SharedArray<u32>);
    impl Drop for Notes {
        fn drop(&mut self) {
            self.0.get_lock().unwrap()[0] = 1;
        }
    }
    let a = SharedArray::<u32>::new(2).unwrap();
    let notes = AssertUnwindSafe(Notes(a.clone()));
    assert!(
        catch_unwind(move || {
            let _notes = notes;
            panic!("with notes to write");
        })
        .is_err()
    );
    assert_eq!(a.get_lock().unwrap().to_vec(), [1, 0]);
}

#[test]
fn a_frozen_array_is_read_without_a_lock() {
    let _watchdog = watchdog::Watchdog::new("a_frozen_array_is_read_without_a_lock");
    let pool = Pool::new(1).unwrap();
    let a = SharedArray::from_slice(&[1u64, 2, 3]).unwrap();
    let writer = a.slice(..1).unwrap().get_lock().unwrap();
    assert_eq!(a.freeze().map(|_| ()), Err(ArrayError::Lock(LockError::Deadlock)));
    drop(writer);
    let frozen = a.slice(1..).unwrap().freeze().unwrap();
    assert_eq!(*frozen, [2, 3]);
    assert!(a.is_frozen() && matches!(a.try_get_lock(), Err(LockError::Frozen)));
    assert_eq!(a.set(0, 9), Err(ArrayError::Lock(LockError::Frozen)));
    assert_eq!(a.update(|all| all.fill(0)), Err(ArrayError::Lock(LockError::Frozen)));
    assert!(matches!(a.claims(1).unwrap().claim().map(drop), Err(LockError::Frozen)));
    assert_eq!((a.get(2), a.read().unwrap().len()), (Ok(3), 3));
    let there = pool.submit(|f: allmend::FrozenArray<u64>| (f.iter().sum(), f.clone()), frozen);
    let (sum, back): (u64, _) = there.result().unwrap();
    assert_eq!((sum, &*back), (5, &[2, 3][..]));
}

#[test]
fn a_freeze_waits_as_long_as_it_was_told() {
    let _watchdog = watchdog::Watchdog::new("a_freeze_waits_as_long_as_it_was_told");
    let late = |e: ArrayError| matches!(e, ArrayError::Lock(LockError::Timeout { owner: Some(_) }));
    let a = SharedArray::from_slice(&[1u64, 2, 3]).unwrap();
    let writer = a.slice(2..).unwrap().get_lock().unwrap();
    thread::scope(|s| {
        let there = s.spawn(|| {
            assert!(a.try_freeze().is_err_and(late));
            assert!(a.slice(..1).unwrap().freeze_timeout(SHORT).is_err_and(late), "it is of the whole array");
            assert!(!a.is_frozen() && a.set(0, 5).is_ok());
        });
        there.join().unwrap();
        let waits = s.spawn(|| a.freeze_timeout(Duration::MAX).unwrap()[0]);
        drop(writer);
        assert_eq!(waits.join().unwrap(), 5);
    });
    assert!(a.is_frozen() && a.try_freeze().is_ok() && a.freeze_timeout(SHORT).is_ok());
}

/// So many as limitations.rs says.
#[test]
fn a_process_has_so_many_claims_at_a_time() {
    let _watchdog = watchdog::Watchdog::new("a_process_has_so_many_claims_at_a_time");
    let a = SharedArray::<u8>::new(200).unwrap();
    let mut slices = a.chunks(1);
    let mut held: Vec<_> = slices.by_ref().take(112).map(|one| one.get_lock().unwrap()).collect();
    let one_more = slices.next().unwrap();
    assert!(matches!(one_more.get_lock(), Err(LockError::TooManyClaims)));
    assert!(matches!(one_more.read(), Err(LockError::TooManyClaims)));
    assert_eq!(one_more.set(0, 1), Err(ArrayError::Lock(LockError::TooManyClaims)));
    held.pop();
    assert!(one_more.get_lock().is_ok(), "there is room again");
}

/// No room for what an update has to undo.
#[test]
fn an_update_without_memory_changes_nothing() {
    let _watchdog = watchdog::Watchdog::new("an_update_without_memory_changes_nothing");
    const LEN: usize = 700_000;
    let manager = allmend::Manager::builder().reserve(8 << 20).max_processes(20).new().unwrap();
    let a = manager.array::<u64>("large", LEN).unwrap();
    let full = a.update(|elements| elements.fill(1));
    assert!(
        matches!(full, Err(ArrayError::Create(CreateError::Full { what: Resource::Segment, .. }))),
        "{full:?}"
    );
    assert_eq!(a.to_vec().unwrap(), [0; LEN]);
    assert_eq!(a.slice(..1_000).unwrap().update(|elements| elements.fill(2)), Ok(()));
    assert_eq!((a.get(999), a.get(1_000)), (Ok(2), Ok(0)));
    manager.verify().unwrap();
}

#[test]
fn several_are_locked_at_once() {
    let _watchdog = watchdog::Watchdog::new("several_are_locked_at_once");
    let (a, b) = (SharedArray::<u64>::new(8).unwrap(), SharedArray::<u64>::new(8).unwrap());
    let (low, high) = (a.slice(..4).unwrap(), a.slice(4..).unwrap());
    thread::scope(|s| {
        for order in [[&low, &b, &high], [&high, &low, &b], [&b, &high, &low]] {
            s.spawn(move || {
                for _ in 0..200 {
                    let mut guards = lock_all(order).unwrap();
                    guards.iter_mut().for_each(|guard| guard[0] += 1);
                }
            });
        }
    });
    assert_eq!(a.get(0).unwrap() + a.get(4).unwrap() + b.get(0).unwrap(), 1_800);
    assert!(is_deadlock(lock_all([&low, &a])), "they overlap");
    assert!(a.try_get_lock().is_ok(), "and nothing stays locked");
    let reader = high.read().unwrap();
    thread::scope(|s| {
        s.spawn(|| {
            assert!(timed_out(try_lock_all([&b, &high, &low])));
            assert!(timed_out(lock_all_timeout([&b, &high, &low], SHORT)));
            let others = try_lock_all([&low, &b]).expect("nothing stays locked");
            assert!(others.iter().all(|guard| guard.len() >= 4));
        });
    });
    drop(reader);
    assert_eq!(lock_all_timeout([&b, &high, &low], SHORT).unwrap().map(|guard| guard.len()), [8, 4, 4]);
}

#[test]
fn an_update_is_all_or_nothing() {
    let _watchdog = watchdog::Watchdog::new("an_update_is_all_or_nothing");
    let a = SharedArray::from_slice(&[1u16; 100]).unwrap();
    let part = a.slice(10..20).unwrap();
    assert_eq!(part.update(|elements| std::mem::replace(&mut elements[3], 7)), Ok(1));
    assert!(
        catch_unwind(AssertUnwindSafe(|| part.update(|elements| {
            elements.fill(9);
            panic!("in an update");
        })))
        .is_err()
    );
    let mut expected = [1; 100];
    expected[13] = 7;
    assert_eq!(a.to_vec().unwrap(), expected);
    assert!(allmend::verify().is_ok());
}

/// Elements of all widths: each byte arrives, and the neighbours' stay.
#[test]
fn elements_of_all_widths_are_kept_whole() {
    let _watchdog = watchdog::Watchdog::new("elements_of_all_widths_are_kept_whole");
    fn set<T: bytemuck::Pod + PartialEq + std::fmt::Debug>() -> [T; 5] {
        let value = |from: u8| {
            let bytes: Vec<u8> = (from..).take(size_of::<T>()).collect();
            bytemuck::pod_read_unaligned::<T>(&bytes)
        };
        let a = SharedArray::from_slice(&[value(0x41); 5]).unwrap();
        a.set(1, value(0x51)).unwrap();
        a.set(3, value(0x61)).unwrap();
        let expected = [0x41, 0x51, 0x41, 0x61, 0x41].map(value);
        assert_eq!(a.to_vec().unwrap(), expected);
        assert_eq!(std::array::from_fn(|i| a.get(i).unwrap()), expected);
        expected
    }
    set::<[u8; 3]>();
    set::<[u8; 4]>();
    set::<[u32; 2]>();
    set::<[u64; 3]>();
    set::<u128>();
    macro_rules! words {
        ($($t:ty)*) => {$(
            let expected = set::<$t>();
            let words = SharedArray::<$t>::unlocked(5).unwrap();
            expected.iter().enumerate().for_each(|(i, &value)| words.set(i, value).unwrap());
            assert_eq!(words.to_vec(), expected);
            assert_eq!(std::array::from_fn(|i| words.get(i).unwrap()), expected);
            assert_eq!(words.compare_exchange(1, expected[0], expected[3]), Ok(Err(expected[1])));
            assert_eq!(words.compare_exchange(1, expected[1], expected[3]), Ok(Ok(expected[1])));
            assert_eq!(words.to_vec(), [0, 3, 2, 3, 4].map(|i| expected[i]));
        )*};
    }
    words!(u8 u16 i16 u32 f32 u64 f64);
}

#[test]
fn unlocked_elements_are_atomics() {
    let _watchdog = watchdog::Watchdog::new("unlocked_elements_are_atomics");
    let pool = Pool::new(2).unwrap();
    let a = SharedArray::<u32>::unlocked(16).unwrap();
    fn count(a: SharedArray<u32, allmend::sync::Unlocked>) -> allmend::Result<()> {
        for i in 0..10_000 {
            a.fetch_add(i % a.len(), 1)?;
        }
        Ok(())
    }
    pool.map(count, vec![a.slice(4..8).unwrap(); 4]).for_each(|done| done.unwrap().unwrap());
    let mut expected = [0; 16];
    expected[4..8].fill(10_000);
    assert_eq!(a.to_vec(), expected);
    assert_eq!(a.compare_exchange(0, 1, 5), Ok(Err(0)));
    assert_eq!((a.compare_exchange(0, 0, 5), a.get(0)), (Ok(Ok(0)), Ok(5)));
    let bytes = SharedArray::<i8>::unlocked(3).unwrap();
    bytes.set(1, -1).unwrap();
    assert_eq!((bytes.fetch_add(1, 2), bytes.to_vec()), (Ok(-1), vec![0, 1, 0]));
    let floats = SharedArray::<f64>::unlocked(2).unwrap();
    assert_eq!(
        (floats.fetch_add(1, 0.5), floats.fetch_add(1, 0.5), floats.get(1)),
        (Ok(0.0), Ok(0.5), Ok(1.0))
    );
}

/// Takes random ranges to write or to read; a writer's range is all its own mark while it is there.
fn storm((a, seed, rounds): (SharedArray<u64>, u64, u64)) -> allmend::Result<()> {
    let mut state = seed;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for round in 0..rounds {
        let start = random(a.len());
        let slice = a.slice(start..start + 1 + random(a.len() - start))?;
        if random(3) > 0 {
            let mark = seed << 32 | round << 1 | 1;
            let mut guard = slice.get_lock()?;
            for element in guard.iter_mut() {
                assert_eq!(*element & 1, 0, "somebody writes here");
                *element = mark;
            }
            assert!(guard.iter().all(|&element| element == mark), "somebody wrote here");
            guard.iter_mut().for_each(|element| *element = mark & !1);
        } else {
            let guard = slice.read()?;
            let first: Vec<u64> = guard.to_vec();
            assert!(first.iter().all(|element| element & 1 == 0), "a reader beside a writer");
            assert_eq!(first, *guard, "somebody wrote under a reader");
        }
    }
    Ok(())
}

#[test]
fn a_storm_of_claims_excludes() {
    let _watchdog = watchdog::Watchdog::new("a_storm_of_claims_excludes");
    let rounds = if std::env::var_os("ALLMEND_LONG").is_some() { 200_000 } else { 3_000 };
    let a = SharedArray::<u64>::new(24).unwrap();
    let pool = Pool::new(2).unwrap();
    let workers: Vec<_> = (1..3).map(|seed| pool.submit(storm, (a.clone(), seed, rounds))).collect();
    thread::scope(|s| {
        for seed in 3..12 {
            let a = a.clone();
            s.spawn(move || storm((a, seed, rounds)).unwrap());
        }
    });
    workers.into_iter().for_each(|worker| worker.result().unwrap().unwrap());
    assert!(a.get_lock().is_ok());
}

#[derive(Clone, Debug)]
enum Op {
    Set(usize, u16),
    Slice(usize, usize),
    Fill(usize, usize, u16),
    Update(usize, usize, u16),
    CopyFrom(usize, Vec<u16>),
    Chunks(usize),
    Windows(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..40usize;
    prop_oneof![
        (at(), any::<u16>()).prop_map(|(i, v)| Op::Set(i, v)),
        (at(), at()).prop_map(|(a, b)| Op::Slice(a, b)),
        (at(), at(), any::<u16>()).prop_map(|(a, b, v)| Op::Fill(a, b, v)),
        (at(), at(), any::<u16>()).prop_map(|(a, b, v)| Op::Update(a, b, v)),
        (at(), proptest::collection::vec(any::<u16>(), 0..9)).prop_map(|(a, v)| Op::CopyFrom(a, v)),
        (1..20usize).prop_map(Op::Chunks),
        (1..20usize, 1..20usize).prop_map(|(l, s)| Op::Windows(l, s)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 128 }))]
    #[test]
    fn an_array_does_what_a_vec_does(mut model in proptest::collection::vec(any::<u16>(), 1..36), ops in proptest::collection::vec(op(), 0..40)) {
        let array = SharedArray::from_slice(&model).unwrap();
        for op in ops {
            match op {
                Op::Set(i, value) => {
                    let done = array.set(i, value).is_ok();
                    prop_assert_eq!(done, i < model.len());
                    if done { model[i] = value; }
                }
                Op::Slice(a, b) => {
                    let got = array.slice(a..b).ok().map(|slice| slice.to_vec().unwrap());
                    prop_assert_eq!(got.as_deref(), model.get(a..b));
                }
                Op::Fill(a, b, value) => {
                    if let Ok(slice) = array.slice(a..b) {
                        slice.get_lock().unwrap().fill(value);
                        model[a..b].fill(value);
                    }
                }
                Op::Update(a, b, value) => {
                    if let Ok(slice) = array.slice(a..b) {
                        slice.update(|elements| elements.fill(value)).unwrap();
                        model[a..b].fill(value);
                    }
                }
                Op::CopyFrom(a, values) => {
                    if let Ok(slice) = array.slice(a..a + values.len()) {
                        slice.copy_from(&values).unwrap();
                        model[a..a + values.len()].copy_from_slice(&values);
                    }
                }
                Op::Chunks(len) => {
                    let got: Vec<Vec<u16>> = array.chunks(len).map(|slice| slice.to_vec().unwrap()).collect();
                    let expected: Vec<Vec<u16>> = model.chunks(len).map(<[u16]>::to_vec).collect();
                    prop_assert_eq!(got, expected);
                }
                Op::Windows(len, step) => {
                    let slices = array.windows(len, step);
                    let count = slices.len();
                    let got: Vec<Vec<u16>> = slices.map(|slice| slice.to_vec().unwrap()).collect();
                    let expected: Vec<Vec<u16>> = model.windows(len).step_by(step).map(<[u16]>::to_vec).collect();
                    prop_assert_eq!((count, got), (expected.len(), expected));
                }
            }
        }
        prop_assert_eq!(array.to_vec().unwrap(), model);
    }
}
