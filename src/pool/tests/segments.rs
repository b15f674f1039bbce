//! Handles of segments other than the pool's own: to workers that run and to those that start later, and back.

use super::*;
use crate::{HandleError, segment::Segment};
use rustix::fd::OwnedFd;
use std::sync::Arc;

type Values = Vec<SharedValue<u64>>;

/// Another one in the same segment.
fn neighbour(value: &SharedValue<u64>, n: u64) -> SharedValue<u64> {
    SharedValue::place_in(value.object().segment(), n).unwrap()
}

fn add((value, n): (SharedValue<u64>, u64)) -> u64 {
    *value.get_lock().unwrap() += n;
    value.get()
}

fn give_back(values: Values) -> (Values, SharedValue<u64>) {
    let sum = values.iter().map(SharedValue::get).sum();
    let new = neighbour(&values[0], sum);
    (values, new)
}

/// Gives a handle of a segment that nobody else has.
fn of_its_own(n: u64) -> SharedValue<u64> {
    SharedValue::place_in(&Segment::private().unwrap(), n).unwrap()
}

fn give_back_and_die(values: Values) -> (Values, SharedValue<u64>) {
    let made = give_back(values);
    if made.1.get().is_multiple_of(2) {
        kill_self();
    }
    made
}

fn descriptor(segment: &Segment) -> OwnedFd {
    segment.descriptor().unwrap().try_clone_to_owned().unwrap()
}

/// Objects, pins and processes, when what others are letting go is gone.
fn until(segment: &Arc<Segment>, wanted: (u64, u64)) {
    loop {
        let report = segment.verify().unwrap();
        if (report.objects, report.pins) == wanted {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn there_and_back_in_any_segment() {
    within_a_minute(|| {
        let before = Segment::private().unwrap();
        let pool = Pool::new(2).unwrap();
        let after = Segment::private().unwrap();
        let own = SharedValue::new(1).unwrap();
        for segment in [&before, &after] {
            let value = SharedValue::place_in(segment, 0).unwrap();
            for result in pool.with_chunk_size(3).map(add, (0..100).map(|n| (value.clone(), n))) {
                result.unwrap();
            }
            assert_eq!(value.get(), 99 * 100 / 2);
            // Of several segments in one argument and one result.
            let values = vec![neighbour(&value, 2), own.clone(), value.clone()];
            let futures: Vec<_> = (0..50).map(|_| pool.submit(give_back, values.clone())).collect();
            let mut given_back = Vec::new();
            for future in futures {
                let (back, new) = future.result().unwrap();
                assert!(back.iter().map(SharedValue::get).eq([2, 1, 4950]));
                assert!(Arc::ptr_eq(new.object().segment(), segment));
                assert_eq!(new.get(), 4953);
                given_back = back;
            }
            // Only now: each task has read what it sums.
            *given_back[0].get_lock().unwrap() += 1;
            assert_eq!(values[0].get(), 3, "one object");
            *given_back[0].get_lock().unwrap() -= 1;
            drop(given_back);
            // A worker that starts later, and results that nobody reads.
            pool.submit(die_if, 1_000).result().unwrap_err();
            for _ in 0..20 {
                pool.submit(give_back, values.clone()).detach();
                assert_eq!(pool.submit(add, (values[0].clone(), 0)).result(), Ok(2));
            }
            drop((values, value));
            until(segment, (0, 0));
        }
    });
}

#[test]
fn workers_that_die_with_it() {
    within_a_minute(|| {
        let segment = Segment::private().unwrap();
        let pool = Pool::new(2).unwrap();
        let values: Vec<_> = (0..40).map(|n| SharedValue::place_in(&segment, n).unwrap()).collect();
        let items = values.iter().map(|value| vec![value.clone()]);
        for (n, result) in (0..).zip(pool.with_chunk_size(4).map(give_back_and_die, items)) {
            match result {
                Ok((_, new)) => assert!(new.get() == n && n % 2 == 1),
                Err(TaskError::Died { signal: Some(9), .. }) => assert_eq!(n % 2, 0),
                Err(e) => panic!("{e}"),
            }
        }
        until(&segment, (40, 0));
        drop(values);
        until(&segment, (0, 0));
    });
}

/// The parent must have the segment: a worker's own one is an error, before it is sent; one that was let go since, too.
#[test]
fn of_a_segment_that_the_parent_does_not_have() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        for n in 0..3 {
            let made = pool.submit(of_its_own, n).result().map(|value| value.get());
            assert_eq!(made, Err(TaskError::Handle(HandleError::UnknownSegment)));
        }
        let segment = Segment::private().unwrap();
        let fd = descriptor(&segment);
        let value = SharedValue::place_in(&segment, 5u64).unwrap();
        let future = pool.submit(|value: SharedValue<u64>| value, value);
        drop(segment);
        while !future.done() {
            std::thread::yield_now();
        }
        let result = future.result().map(|value| value.get());
        assert_eq!(result, Err(TaskError::Handle(HandleError::UnknownSegment)));
        // What was pinned for us is swept, as we are another one there now.
        let segment = Segment::join(fd).unwrap();
        until(&segment, (0, 0));
    });
}

/// The parent lets a segment go and takes part in it anew, under another id, while a worker has it still.
#[test]
fn the_parent_comes_back_as_another() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let mut segment = Segment::private().unwrap();
        let mut ids = HashSet::new();
        for n in 0..20 {
            assert!(ids.insert(segment.me().unwrap().bits()));
            let value = SharedValue::place_in(&segment, n).unwrap();
            let (back, new) = pool.submit(give_back, vec![value]).result().unwrap();
            assert_eq!((back[0].get(), new.get()), (n, n));
            drop((back, new));
            until(&segment, (0, 0));
            let fd = descriptor(&segment);
            let let_go = Arc::downgrade(&segment);
            drop(segment);
            // The supervisor answers a worker's question through a handle of its own, and drops what an argument kept:
            // as long as it is at that, this process has the segment still, and a join gives the same.
            while let_go.strong_count() > 0 {
                std::thread::yield_now();
            }
            segment = Segment::join(fd).unwrap();
        }
    });
}

fn descriptors_and_maps(pid: u32) -> (usize, usize) {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    (fds, maps.lines().filter(|line| line.contains("memfd:allmend")).count())
}

/// One after the other: what the parent has dropped, workers drop.
#[test]
fn many_segments_leave_nothing() {
    within_a_minute(|| {
        let pool = Pool::new(1).unwrap();
        let worker = pool.submit(pid_of_worker, ()).result().unwrap();
        let before = descriptors_and_maps(worker);
        for round in 0..3 {
            for n in 0..50 {
                let value = SharedValue::place_in(&Segment::private().unwrap(), n).unwrap();
                assert_eq!(pool.submit(add, (value, round)).result(), Ok(n + round));
            }
            while descriptors_and_maps(worker) != before {
                std::thread::yield_now();
            }
        }
        assert_eq!(pool.submit(pid_of_worker, ()).result(), Ok(worker));
    });
}

/// A worker is killed before each of its shared writes: those of joining, holding and pinning among them.
#[cfg(allmend_crash)]
#[test]
fn killed_before_every_shared_write_with_another_segment() {
    fn arm(n: u64) {
        crate::atomic::arm(n, || kill_self());
    }
    within_a_minute(|| {
        let (mut deaths, mut quiet, mut n) = (0, 0, 0);
        while quiet < 5 {
            n += 1;
            let segment = Segment::private().unwrap();
            let pool = Pool::new(1).unwrap();
            let worker = pool.submit(pid_of_worker, ()).result().unwrap();
            let mut died = u32::from(pool.submit(arm, n).result().is_err());
            let values: Vec<_> = (0..4).map(|i| SharedValue::place_in(&segment, i).unwrap()).collect();
            let items = values.iter().map(|value| vec![value.clone()]);
            for (i, result) in (0..).zip(pool.with_chunk_size(2).map(give_back, items)) {
                match result {
                    Ok((back, new)) => assert_eq!((back[0].get(), new.get()), (i, i)),
                    Err(TaskError::Died { signal: Some(9), .. }) => died += 1,
                    Err(e) => panic!("killed before write {n}: {e}"),
                }
            }
            assert!(died <= 1);
            // It may also have died with nothing to do, or in this task.
            let is_gone = pool.submit(pid_of_worker, ()).result() != Ok(worker);
            drop(pool);
            let left = segment.verify().unwrap();
            assert_eq!((left.objects, left.pins), (4, 0), "killed before write {n}");
            deaths += died;
            quiet = if is_gone { 0 } else { quiet + 1 };
        }
        println!("{n} rounds, {deaths} deaths");
        assert!(deaths > 30, "it bites");
    });
}
