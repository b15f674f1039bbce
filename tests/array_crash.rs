//! Arrays under kills: every shared write of a claim, a chunk, a freeze and an `update`, and of the repair of each; stopped
//! holders; forked children.
//!
//! For N = 1, 2, .. until the operation completes: a victim stands still before its N-th shared write (in an `update` also
//! before each element), a neighbour works in another range, a third process wants the victim's range. Then the victim is
//! killed, or goes on. Whoever comes next must find all old or all new where that is promised, and be told which process
//! died where it is not; in the end everything is claimable and `verify()` is clean.
//!
//! Kill points exist in builds with `--cfg allmend_crash` only: `cargo crash --test array_crash`. The rest runs in each.

mod harness;

fn main() {
    #[cfg(not(allmend_crash))]
    harness::run(&others::TESTS);
    #[cfg(allmend_crash)]
    harness::run(&[&others::TESTS[..], &killed::TESTS[..]].concat());
}

/// `None` if the elements are not all the same.
fn whole(elements: &[u64]) -> Option<u64> {
    elements.iter().all(|element| *element == elements[0]).then_some(elements[0])
}

#[cfg(allmend_crash)]
mod killed {
    use crate::{
        harness::{
            End, Line, Sleep, Test, die, fork,
            kill::{Victim, end, every_write, goes_on_or_dies, victim},
            until, words,
        },
        whole,
    };
    use allmend::{ArrayError, LockError, SharedArray, array::lock_all, crash};
    use std::sync::atomic::Ordering::SeqCst;

    pub(super) const TESTS: [Test; 15] = [
        ("killed_in_an_update", || changes("update", |a| a.update(|x| x.fill(2)).unwrap(), true)),
        ("killed_with_a_guard", || {
            changes("get_lock, write, unlock", |a| a.get_lock().unwrap().fill(2), false)
        }),
        ("killed_with_several_guards", || changes("lock_all, write, unlock", write_two, false)),
        ("killed_in_a_first_update", first_update),
        ("killed_reading", reading),
        ("killed_around_a_bias", around_a_bias),
        ("killed_in_set", set),
        ("killed_in_a_freeze", freeze),
        ("killed_with_a_chunk", || chunk("chunk done", true)),
        ("killed_giving_a_chunk_back", || chunk("chunk given back", false)),
        ("killed_in_a_roll_back", roll_back),
        ("killed_in_an_acceptance", acceptance),
        ("killed_taking_over_a_row", take_over_a_row),
        ("control_update_without_undo", control_update_without_undo),
        ("control_claim_without_a_look", control_claim_without_a_look),
    ];

    const LEN: usize = 24;
    /// The victim's elements; the neighbour has those behind.
    const RANGE: usize = 16;

    fn array() -> SharedArray<u64> {
        SharedArray::from_slice(&[1; LEN]).unwrap()
    }

    fn write_two(a: &SharedArray<u64>) {
        let (low, high) = (a.slice(..8).unwrap(), a.slice(8..).unwrap());
        lock_all([&high, &low]).unwrap().iter_mut().for_each(|guard| guard.fill(2));
    }

    /// Another process works beside the one that stands still.
    fn neighbour(a: &SharedArray<u64>) {
        let beside = a.slice(RANGE..).unwrap();
        fork(|| {
            beside.update(|x| x.iter_mut().for_each(|x| *x += 1)).unwrap();
            beside.get_lock().unwrap()[0] += 1;
            drop(beside.read().unwrap());
            beside.set(0, 7).unwrap();
        })
        .succeeds("the neighbour");
    }

    /// Everything can be claimed, by this process and by others, and no memory is lost.
    fn is_sound(a: SharedArray<u64>, objects: u64) {
        a.get_lock().unwrap().fill(9);
        fork(|| a.update(|x| x.fill(8)).unwrap()).succeeds("a newcomer");
        assert_eq!(whole(&a.to_vec().unwrap()), Some(8));
        is_clean(a, objects);
    }

    fn is_clean(a: SharedArray<u64>, objects: u64) {
        let report = allmend::verify().expect("a healthy segment");
        assert_eq!((report.objects, report.busy, report.processes), (objects, 0, 1), "{report:?}");
        drop(a);
        let report = allmend::verify().expect("a healthy segment");
        assert_eq!((report.objects, report.parts, report.busy), (objects - 1, 0, 0), "{report:?}");
    }

    /// Locks `a` and accepts what is there: the elements, and who died in which.
    fn accept(a: &SharedArray<u64>) -> (Vec<u64>, Option<(u32, std::ops::Range<usize>)>) {
        match a.get_lock() {
            Ok(guard) => (guard.to_vec(), None),
            Err(LockError::Inherited(left)) => {
                let told = (left.pid(), left.range().expect("of elements"));
                (left.accept().to_vec(), Some(told))
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    /// `act` changes all elements of the range from 1 to 2. Is it all or nothing?
    fn changes(what: &str, act: fn(&SharedArray<u64>), atomic: bool) {
        for goes_on in [false, true] {
            let seen = words(); // 0: old, 1: new, 2: half, 3: told, 4: asleep
            every_write(&format!("{what}, goes on {goes_on}"), |n| {
                let a = array();
                let range = a.slice(..RANGE).unwrap();
                let (start, reply) = (Line::new(), Line::new());
                let waiter = fork(|| {
                    a.get(LEN - 1).unwrap();
                    start.receive();
                    let (found, told) = accept(&range);
                    reply.send(whole(&found).unwrap_or(0));
                    let (pid, covered) = told.unwrap_or((0, 0..0));
                    reply.send(pid.into());
                    // What is half changed is within what is told.
                    let outside = found.iter().enumerate().filter(|(i, _)| !covered.contains(i));
                    reply.send(outside.filter(|(_, x)| **x == 2).count() as u64);
                    range.get_lock().unwrap().fill(3);
                });
                let (child, fate) = victim(n, || _ = a.get(0), |()| act(&range));
                let pid = child.pid.as_raw_pid() as u64;
                neighbour(&a);
                start.send(0);
                until(|| reply.has_some() || waiter.sleep() == Some(Sleep::Bounded) && !reply.has_some());
                seen[4].fetch_add((!reply.has_some()).into(), SeqCst);
                goes_on_or_dies(child, fate, goes_on);
                let (found, told, outside) = (reply.receive(), reply.receive(), reply.receive());
                waiter.succeeds("the waiter");
                assert!(told == 0 || told == pid && !goes_on, "told of {told}, the victim was {pid}");
                assert!(found != 0 || told != 0 && !atomic, "torn, told {told}");
                assert!(told == 0 || !atomic, "an update leaves no mark");
                assert!([0, RANGE as u64].contains(&outside) || told != 0, "{outside}");
                assert!(fate == Victim::Killed || (found, told) == (2, 0), "{found} {told}");
                match found {
                    1 => seen[0].fetch_add(1, SeqCst),
                    2 => seen[1].fetch_add(1, SeqCst),
                    _ => seen[2].fetch_add(1, SeqCst),
                };
                seen[3].fetch_add((told != 0).into(), SeqCst);
                let last = whole(&range.to_vec().unwrap());
                assert!(last == Some(3) || goes_on && last == Some(2), "{last:?}");
                drop(range);
                is_sound(a, 1);
                fate
            });
            let [old, new, half, told, asleep] = std::array::from_fn(|i| seen[i].load(SeqCst));
            println!("  old {old}, new {new}, half {half}, told {told}, waiter asleep {asleep}");
            assert!(new > 0 && asleep > 0 && (old > 0 || goes_on));
            assert_eq!(told > 0, !atomic && !goes_on, "who died with a guard in hand is told of");
        }
    }

    /// With the attach, and the row in the table.
    fn first_update() {
        every_write("a forked child's first update", |n| {
            let a = array();
            let range = a.slice(..RANGE).unwrap();
            let (child, fate) = victim(n, || (), |()| range.update(|x| x.fill(2)).unwrap());
            neighbour(&a);
            end(child, fate);
            let found = whole(&range.to_vec().unwrap());
            assert!(found == Some(2) || found == Some(1) && fate == Victim::Killed, "{found:?}");
            drop(range);
            is_sound(a, 1);
            fate
        });
    }

    fn reading() {
        for goes_on in [false, true] {
            every_write(&format!("get, read, unlock, goes on {goes_on}"), |n| {
                let a = array();
                let act = |()| {
                    a.get(3).unwrap();
                    assert_eq!(a.slice(..RANGE).unwrap().read().unwrap()[3], 1);
                };
                let (child, fate) = victim(n, || _ = a.get(0), act);
                neighbour(&a);
                fork(|| _ = a.read().unwrap()).succeeds("another reader");
                goes_on_or_dies(child, fate, goes_on);
                assert_eq!(accept(&a.slice(..RANGE).unwrap()), (vec![1; RANGE], None));
                is_sound(a, 1);
                fate
            });
        }
    }

    /// A reader who has to look around sets a bias, and ends it as a writer.
    fn around_a_bias() {
        for goes_on in [false, true] {
            every_write(&format!("the bias set and ended, goes on {goes_on}"), |n| {
                let a = array();
                let prepare = || {
                    let other = a.read().unwrap();
                    (0..60).for_each(|_| drop(a.read().unwrap()));
                    other
                };
                let act = |other| {
                    (0..6).for_each(|_| assert_eq!(a.read().unwrap()[3], 1));
                    drop(other);
                    a.slice(..RANGE).unwrap().update(|x| x.fill(2)).unwrap();
                };
                let (child, fate) = victim(n, prepare, act);
                fork(|| _ = a.slice(RANGE..).unwrap().read().unwrap()).succeeds("another reader");
                goes_on_or_dies(child, fate, goes_on);
                let (found, told) = accept(&a.slice(..RANGE).unwrap());
                assert!(whole(&found).is_some() && told.is_none(), "{found:?} {told:?}");
                is_sound(a, 1);
                fate
            });
        }
    }

    fn set() {
        every_write("set of one element", |n| {
            let a = array();
            let (child, fate) = victim(n, || _ = a.get(0), |()| a.set(3, 2).unwrap());
            neighbour(&a);
            end(child, fate);
            let found = a.get(3).unwrap();
            assert!(found == 2 || found == 1 && fate == Victim::Killed, "{found}");
            is_sound(a, 1);
            fate
        });
        // Of more than a word: by an update.
        every_write("set of one element of 32 bytes", |n| {
            let wide = SharedArray::from_slice(&[[1u64; 4]; 3]).unwrap();
            let (child, fate) = victim(n, || _ = wide.get(0), |()| wide.set(1, [2; 4]).unwrap());
            end(child, fate);
            let found = wide.get(1).unwrap();
            assert!(found == [2; 4] || found == [1; 4] && fate == Victim::Killed, "{found:?}");
            assert_eq!((wide.get(0), wide.get(2)), (Ok([1; 4]), Ok([1; 4])));
            fate
        });
    }

    fn freeze() {
        for goes_on in [false, true] {
            every_write(&format!("freeze, goes on {goes_on}"), |n| {
                let a = array();
                let (child, fate) = victim(n, || _ = a.get(0), |()| assert_eq!(a.freeze().unwrap()[3], 1));
                fork(|| _ = a.read().unwrap()).succeeds("a reader");
                goes_on_or_dies(child, fate, goes_on);
                let frozen = a.is_frozen();
                assert!(frozen || fate == Victim::Killed && !goes_on);
                match a.update(|x| x.fill(2)) {
                    Ok(()) => assert!(!frozen),
                    Err(ArrayError::Lock(LockError::Frozen)) => assert!(frozen),
                    Err(other) => panic!("{other:?}"),
                }
                let expected = if frozen { 1 } else { 2 };
                fork(|| assert_eq!(whole(&a.freeze().unwrap()), Some(expected))).succeeds("another freezer");
                assert_eq!(whole(&a.to_vec().unwrap()), Some(expected));
                is_clean(a, 1);
                fate
            });
        }
    }

    fn chunk(what: &str, done: bool) {
        let seen = words(); // 0: done once, 1: again and told
        every_write(what, |n| {
            let a = array();
            let claims = a.claims(8).unwrap();
            let (child, fate) = victim(
                n,
                || _ = a.get(0),
                |()| {
                    let mut chunk = claims.claim().unwrap().unwrap();
                    chunk.fill(2);
                    if done {
                        chunk.done();
                    }
                },
            );
            let pid = child.pid.as_raw_pid() as u32;
            // The others' chunk can be had beside the one that stands still.
            fork(|| {
                let mut chunk = claims.try_claim().unwrap().unwrap();
                chunk.fill(4);
                chunk.done();
            })
            .succeeds("another worker");
            end(child, fate);
            let mut handed = Vec::new();
            while let Some(mut chunk) = claims.claim().unwrap() {
                assert!([None, Some(pid), Some(0)].contains(&chunk.inherited()), "{:?}", chunk.inherited());
                // Something was written, and nobody said so: only after the victim gave it back as whole.
                let half = whole(&chunk).is_none();
                assert!(chunk.inherited().is_some() || !half, "half a chunk that says nothing");
                seen[1].fetch_add(chunk.inherited().is_some().into(), SeqCst);
                handed.push(chunk.index());
                chunk.fill(5);
                chunk.done();
            }
            assert!(claims.is_done() && claims.remaining() == 0);
            assert!((1..=2).contains(&handed.len()), "{handed:?}");
            let found = a.to_vec().unwrap();
            assert!(
                found.chunks(8).all(|chunk| whole(chunk).is_some_and(|x| [2, 4, 5].contains(&x))),
                "{found:?}"
            );
            seen[0].fetch_add(found.contains(&2).into(), SeqCst);
            assert!(fate == Victim::Killed || found.contains(&2) == done);
            drop(claims);
            is_sound(a, 1);
            fate
        });
        let [once, told] = std::array::from_fn(|i| seen[i].load(SeqCst));
        println!("  done by the victim {once}, again and told {told}");
        assert!(told > 0 && (once > 0) == done);
    }

    /// A process that dies before the `at`-th write behind its claim, within an update of the range; was there one?
    fn dies_in_an_update(range: &SharedArray<u64>, at: u64) -> bool {
        let mut child = fork(|| {
            let change = |x: &mut [u64]| {
                x.fill(2);
                crash::arm(at);
            };
            range.update(change).unwrap();
        });
        child.end().was_killed()
    }

    /// Ways to come upon a dead process's update.
    const HEIRS: [(&str, fn(&SharedArray<u64>)); 6] = [
        ("get of one element", |range| assert!([1, 2].contains(&range.get(5).unwrap()))),
        ("a look at a part", |range| _ = range.slice(2..6).unwrap().read().unwrap()),
        ("a lock of a part", |range| drop(range.slice(4..8).unwrap().get_lock().unwrap())),
        ("a lock of more", |range| drop(range.get_lock().unwrap())),
        ("an update of a part, without change", |range| range.slice(9..).unwrap().update(|_| ()).unwrap()),
        ("copies", |range| _ = range.to_vec().unwrap()),
    ];

    fn roll_back() {
        for (name, act) in HEIRS {
            let mut points = 0;
            for at in (1..).step_by(4) {
                // Is there one?
                let there = fork(|| assert!(dies_in_an_update(&array().slice(..RANGE).unwrap(), at))).end();
                if there != End::Exit(0) {
                    break;
                }
                points += every_write(&format!("{name}, after a death at write {at}"), |n| {
                    let a = array();
                    let range = a.slice(..RANGE).unwrap();
                    assert!(dies_in_an_update(&range, at));
                    let (child, fate) = victim(n, || _ = a.get(LEN - 1), |()| act(&range));
                    let heir = child.pid.as_raw_pid() as u32;
                    neighbour(&a);
                    end(child, fate);
                    // A part first, then all: a part that was put back must not hide the rest.
                    let part = range.slice(7..9).unwrap();
                    let told = accept(&part).1.or(accept(&range).1);
                    assert!(told.as_ref().is_none_or(|(pid, _)| *pid == heir), "{told:?}");
                    let found = range.to_vec().unwrap();
                    assert!(whole(&found).is_some_and(|x| [1, 2].contains(&x)), "torn: {found:?}");
                    drop((range, part));
                    is_sound(a, 1);
                    fate
                });
            }
            println!("  {name}: {points} kill points");
        }
    }

    fn acceptance() {
        let seen = words();
        for (from, to) in [(0, RANGE), (4, 8), (0, 8), (8, RANGE)] {
            every_write(&format!("acceptance of {from}..{to} of a dead process's range"), |n| {
                let a = array();
                let range = a.slice(..RANGE).unwrap();
                let mut first = fork(|| {
                    let mut guard = range.get_lock().unwrap();
                    guard[..RANGE / 2].fill(2);
                    die()
                });
                let pid = first.pid.as_raw_pid() as u32;
                assert!(first.end().was_killed());
                let own = range.slice(from..to).unwrap();
                let act = |()| match own.get_lock() {
                    Err(LockError::Inherited(left)) => {
                        assert_eq!((left.pid(), left.range()), (pid, Some(0..to - from)));
                        left.accept().fill(3);
                    }
                    other => panic!("{other:?}"),
                };
                let (child, fate) = victim(n, || _ = a.get(LEN - 1), act);
                let heir = child.pid.as_raw_pid() as u32;
                neighbour(&a);
                end(child, fate);
                for part in [0..from, to..RANGE].into_iter().filter(|part| !part.is_empty()) {
                    let told = accept(&range.slice(part.clone()).unwrap()).1;
                    assert_eq!(told, Some((pid, 0..part.len())), "{part:?} is the first one's still");
                }
                let (found, told) = accept(&own);
                match told {
                    None => assert_eq!(whole(&found), Some(3), "the heir's change was whole"),
                    Some((who, part)) => {
                        assert!((who == pid || who == heir) && part == (0..to - from), "{who}, {part:?}");
                        assert_eq!(fate, Victim::Killed);
                        seen[usize::from(who == heir)].fetch_add(1, SeqCst);
                    }
                }
                drop((range, own));
                is_sound(a, 1);
                fate
            });
        }
        let [of_first, of_heir] = std::array::from_fn(|i| seen[i].load(SeqCst));
        println!("  told of the first {of_first}, of the heir {of_heir}");
        assert!(of_first > 0 && of_heir > 0);
    }

    /// Reads element by element, with all entries of a row, and is killed: no marks, so all of them can be had again.
    fn dies_with_a_row(range: &SharedArray<u64>) {
        let mut first = fork(|| {
            let _guards: Vec<_> = (0..7).map(|i| range.slice(i..i + 1).unwrap().read().unwrap()).collect();
            die()
        });
        assert!(first.end().was_killed());
    }

    /// Whoever sweeps a dead process's row is killed, and the next, many times: no row and no entry is lost.
    fn take_over_a_row() {
        for has_a_row in [true, false] {
            let points =
                every_write(&format!("sweep of a dead process's row, by one with a row {has_a_row}"), |n| {
                    let (a, other) = (array(), array());
                    let range = a.slice(..RANGE).unwrap();
                    let prepare = || {
                        // With a row it meets the dead in its way; without one it takes theirs.
                        let attached = if has_a_row { &a } else { &other };
                        attached.get(LEN - 1).unwrap();
                        dies_with_a_row(&range);
                    };
                    let (child, fate) = victim(n, prepare, |()| drop(range.get_lock().unwrap()));
                    end(child, fate);
                    // Rows are for as many processes as there are places: each of these takes one, if they are not used
                    // again.
                    fork(|| _ = accept(&range)).succeeds("the next");
                    // A mark that was accepted, at most: its entry is free when its row is taken.
                    assert!(crash::entries_in_use(&a) <= 1, "entries of the dead are left");
                    drop(range);
                    is_sound(a, 2);
                    fate
                });
            // The row's name, two writes for each of its entries, the name again; and what a claim writes.
            assert!(points > 16, "the sweep was not reached: {points} kill points");
        }
    }

    // ---- controls ----

    fn control_update_without_undo() {
        let torn = words();
        every_write("control: an update that does not say first how to undo it", |n| {
            let a = array();
            let prepare = || {
                a.get(0).unwrap();
                crash::break_rule(crash::Rule::UndoFirst);
            };
            let (child, fate) = victim(n, prepare, |()| a.update(|x| x.fill(2)).unwrap());
            end(child, fate);
            torn[0].fetch_add(whole(&accept(&a).0).is_none().into(), SeqCst);
            fate
        });
        println!("  torn ranges: {}", torn[0].load(SeqCst));
        assert!(torn[0].load(SeqCst) > 0, "the test does not notice torn ranges");
    }

    fn control_claim_without_a_look() {
        let both = words();
        every_write("control: a claim that does not look at the others", |n| {
            let a = array();
            let (child, fate) = victim(n, || _ = a.get(0), |()| a.get_lock().unwrap().fill(2));
            crash::break_rule(crash::Rule::LookAtOthers);
            let mine = a.try_get_lock();
            let held = mine.is_ok();
            drop(mine);
            goes_on_or_dies(child, fate, true);
            both[0].fetch_add((held && fate == Victim::Killed).into(), SeqCst);
            both[1].fetch_add((fate == Victim::Killed).into(), SeqCst);
            fate
        });
        let [both, all] = std::array::from_fn(|i| both[i].load(SeqCst));
        println!("  granted beside the victim: {both} of {all}");
        assert_eq!(both, all, "the control is no control");
        // With the look, it is refused where the victim holds, or is about to.
        let refused = words();
        every_write("the same with the look", |n| {
            let a = array();
            let (child, fate) = victim(n, || _ = a.get(0), |()| a.get_lock().unwrap().fill(2));
            refused[0].fetch_add(a.try_get_lock().is_err().into(), SeqCst);
            goes_on_or_dies(child, fate, true);
            fate
        });
        assert!(refused[0].load(SeqCst) > 0);
    }
}

/// What needs no kill points.
mod others {
    use crate::{
        harness::{Line, Sleep, Test, die, fork, until, words},
        whole,
    };
    use allmend::{LockError, SharedArray};
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::Ordering::SeqCst,
        time::Duration,
    };

    pub(super) const TESTS: [Test; 6] = [
        ("stopped_holder", stopped_holder),
        ("guard_across_fork", guard_across_fork),
        ("parent_killed_while_the_child_lives", parent_killed_while_the_child_lives),
        ("dropped_before_the_childs_first_use", dropped_before_the_childs_first_use),
        ("panics_use_nothing_up", panics_use_nothing_up),
        ("deaths_use_nothing_up", deaths_use_nothing_up),
    ];

    const SHORT: Duration = Duration::from_millis(5);

    fn is_timeout<T>(result: Result<T, LockError<impl Sized>>, pid: u32) -> bool {
        matches!(result, Err(LockError::Timeout { owner }) if owner == Some(pid))
    }

    fn stopped_holder() {
        let a = SharedArray::from_slice(&[1u64; 24]).unwrap();
        let (own, other) = (a.slice(..16).unwrap(), a.slice(16..).unwrap());
        let (held, go) = (Line::new(), Line::new());
        let mut holder = fork(|| {
            let mut guard = own.get_lock().unwrap();
            guard.fill(2);
            held.send(0);
            guard[0] = go.receive();
        });
        held.receive();
        holder.stop();
        let pid = holder.pid.as_raw_pid() as u32;
        for _ in 0..20 {
            assert!(is_timeout(own.get_lock_timeout(SHORT), pid));
            assert!(is_timeout(own.slice(3..4).unwrap().read_timeout(SHORT), pid));
            assert!(is_timeout(a.try_read(), pid));
            assert!(a.claims(4).unwrap().try_claim().unwrap().is_none_or(|chunk| chunk.start() >= 16));
            other.update(|x| x.iter_mut().for_each(|x| *x += 1)).unwrap();
            other.get_lock().unwrap()[0] = 5;
            assert_eq!(other.read().unwrap()[0], 5);
            assert_eq!(a.get(16), Ok(5));
            fork(|| assert!(whole(&other.to_vec().unwrap()[1..]).is_some())).succeeds("a reader");
        }
        let waiter = fork(|| assert_eq!(own.get_lock().unwrap()[0], 3));
        until(|| waiter.sleep() == Some(Sleep::Bounded));
        holder.go_on();
        go.send(3);
        holder.succeeds("the holder");
        waiter.succeeds("the waiter");
        assert!(a.try_get_lock().is_ok());
        assert!(allmend::verify().is_ok());
    }

    fn panics<R>(f: impl FnOnce() -> R) -> bool {
        catch_unwind(AssertUnwindSafe(f)).is_err()
    }

    fn guard_across_fork() {
        let a = SharedArray::from_slice(&[1u64; 16]).unwrap();
        let claims = a.slice(8..).unwrap().claims(4).unwrap();
        // In options: the child drops its copies in place.
        let mut guard = Some(a.slice(..4).unwrap().get_lock().unwrap());
        let mut reader = Some(a.slice(4..8).unwrap().read().unwrap());
        let mut chunk = Some(claims.claim().unwrap().unwrap());
        let parent = std::process::id();
        // Before the child takes part, and after it.
        for attached in [false, true] {
            fork(|| {
                if attached {
                    assert_eq!(a.get(15), Ok(1));
                }
                assert!(panics(|| guard.as_ref().unwrap()[0]), "a slice of the parent's elements");
                assert!(panics(|| guard.as_mut().unwrap()[0] = 9));
                assert!(panics(|| reader.as_ref().unwrap()[0]));
                assert!(panics(|| chunk.as_ref().unwrap()[0]));
                assert!(panics(|| chunk.as_mut().unwrap()[0] = 9));
                drop((guard.take(), reader.take()));
                match chunk.take() {
                    Some(chunk) if attached => chunk.done(),
                    chunk => drop(chunk),
                }
                assert!(is_timeout(a.slice(..4).unwrap().try_get_lock(), parent), "the parent's still");
                assert!(is_timeout(a.slice(4..8).unwrap().try_get_lock(), parent));
                let mut own = claims.claim().unwrap().expect("one is left");
                assert_eq!((own.index(), own.inherited()), (1, None));
                own.fill(1);
                assert!(claims.claim().unwrap().is_none());
                drop(own);
                a.slice(12..).unwrap().get_lock().unwrap().fill(1);
            })
            .succeeds("the child");
            assert_eq!(claims.remaining(), 2);
        }
        let (guard, reader, chunk) = (guard.unwrap(), reader.unwrap(), chunk.unwrap());
        assert_eq!((guard[0], reader[0], chunk[0]), (1, 1, 1));
        drop((guard, reader));
        chunk.done();
        assert_eq!(claims.remaining(), 1);
        assert!(a.get_lock().is_ok());
    }

    fn parent_killed_while_the_child_lives() {
        let a = SharedArray::from_slice(&[1u64; 16]).unwrap();
        let result = words();
        let (ready, go) = (Line::new(), Line::new());
        let own = a.slice(..8).unwrap();
        let mut parent = fork(|| {
            let guard = own.get_lock().unwrap();
            let me = std::process::id();
            let _child = fork(|| {
                let _ = rustix::process::set_parent_process_death_signal(None);
                ready.send(0);
                go.receive();
                assert!(panics(|| guard[0]));
                assert!(a.update(|_| ()).is_err(), "the mark is there until it is accepted");
                match own.get_lock() {
                    Err(LockError::Inherited(left)) => {
                        assert_eq!((left.pid(), left.range()), (me, Some(0..8)));
                        left.accept().fill(4);
                    }
                    other => panic!("{other:?}"),
                }
                a.update(|x| x[8] = 5).unwrap();
                result[0].store(1, SeqCst);
            });
            ready.receive();
            die()
        });
        assert!(parent.end().was_killed());
        go.send(0);
        until(|| result[0].load(SeqCst) != 0);
        assert_eq!((a.get(0), a.get(8)), (Ok(4), Ok(5)));
        assert!(a.get_lock().is_ok());
    }

    /// The parent lets the array go; its child, which has not taken part yet, must not touch what is there now.
    fn dropped_before_the_childs_first_use() {
        let mut a = Some(SharedArray::from_slice(&[1u64; 16]).unwrap());
        let mut frozen = Some(SharedArray::from_slice(&[1u64; 16]).unwrap().freeze().unwrap());
        // Its array stays: so the claim of a chunk would be had.
        let kept = SharedArray::from_slice(&[1u64; 16]).unwrap();
        let mut claims = Some(kept.claims(4).unwrap());
        let go = Line::new();
        let child = fork(|| {
            let (a, frozen, claims) = (a.take().unwrap(), frozen.take().unwrap(), claims.take().unwrap());
            go.receive();
            assert_eq!(kept.get(0), Ok(1));
            assert!(matches!(claims.claim(), Err(LockError::Gone)));
            assert!(matches!(a.get_lock(), Err(LockError::Gone)));
            assert!(matches!(a.read(), Err(LockError::Gone)));
            assert!(a.get(0).is_err() && a.set(0, 9).is_err() && a.update(|x| x.fill(9)).is_err());
            assert!(a.freeze().is_err() && a.claims(4).unwrap().claim().is_err());
            assert!(panics(|| frozen[0]));
            drop((a, frozen, claims));
        });
        drop((a.take(), frozen.take(), claims.take()));
        let next = SharedArray::from_slice(&[5u64; 16]).unwrap();
        go.send(0);
        child.succeeds("the child");
        assert_eq!(whole(&next.to_vec().unwrap()), Some(5));
        let report = allmend::verify().unwrap();
        assert_eq!((report.objects, report.busy), (2, 0), "{report:?}");
    }

    /// More of them than a process has entries.
    fn panics_use_nothing_up() {
        let a = SharedArray::from_slice(&[1u64; 16]).unwrap();
        for _ in 0..300 {
            assert!(panics(|| a.update(|_| panic!("in an update"))));
            let guard = a.slice(4..8).unwrap();
            assert!(panics(|| {
                let _guard = guard.get_lock().unwrap();
                panic!("with a guard");
            }));
            drop(guard.get_lock().or_else(|e| e.repair(|x| x.fill(1))).unwrap());
        }
        assert!(a.update(|x| x.fill(2)).is_ok());
    }

    /// More of them than there are places.
    fn deaths_use_nothing_up() {
        let a = SharedArray::from_slice(&[1u64; 16]).unwrap();
        let part = a.slice(4..8).unwrap();
        for _ in 0..300 {
            let mut child = fork(|| {
                let _reader = a.slice(8..).unwrap().read().unwrap();
                let _guard = part.get_lock().unwrap();
                die()
            });
            assert!(child.end().was_killed());
            fork(|| drop(part.get_lock().unwrap_err())).succeeds("who leaves the mark");
            drop(part.get_lock().or_else(|e| e.repair(|x| x.fill(1))).unwrap());
        }
        assert!(a.update(|x| x.fill(2)).is_ok());
        assert!(allmend::verify().is_ok());
    }
}
