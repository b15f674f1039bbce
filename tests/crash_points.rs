//! Real processes, killed (or stopped) before each shared write of an operation, for every one of them.
//!
//! For N = 1, 2, .. until the operation completes: a victim performs it and is stopped before its N-th shared write.
//! Others then work on the same objects; then the victim is killed with SIGKILL (or goes on). After that the survivors
//! must get on, values must be old or new, and `verify()` must find exactly the objects that somebody holds.
//!
//! Kill points exist in builds with `--cfg allmend_crash` only: `cargo crash --test crash_points`.

#[cfg(not(allmend_crash))]
fn main() {
    println!("needs a build with --cfg allmend_crash: cargo crash --test crash_points");
    println!("0 passed, 0 failed");
}

#[cfg(allmend_crash)]
mod harness;

#[cfg(allmend_crash)]
fn main() {
    killed::main();
}

#[cfg(allmend_crash)]
mod killed {
    use crate::harness::{
        self, Child, End, Line, Sleep, die, fork,
        kill::{Victim, end, every_write, victim},
        stage, until, words,
    };
    use allmend::{LockError, SharedValue, VerifyError, crash};
    use bytemuck::Pod;
    use std::sync::atomic::Ordering::SeqCst;

    pub(super) fn main() {
        harness::run(&[
            ("update_of_8_bytes", || update::<u64>("8 bytes")),
            ("update_of_64_bytes", || update::<[u64; 8]>("64 bytes")),
            ("takeover", takeover),
            ("attach", attach),
            ("attach_to_a_dirty_slot", attach_to_a_dirty_slot),
            ("create_small", || create::<u64>("a block of 128 bytes")),
            ("create_in_a_new_extent", || create::<[u64; 50]>("the first block of an extent")),
            ("create_run", || create::<Large>("a run of 3 extents")),
            ("drop_last_small", || drop_last::<u64>("a block")),
            ("drop_last_run", || drop_last::<Large>("a run of 3 extents")),
            ("drop_not_last", drop_not_last),
            ("drop_against_drop", drop_against_drop),
            ("drop_against_an_heir", drop_against_an_heir),
            ("lost_objects_are_gone", lost_objects_are_gone),
            ("a_late_hold_touches_nobody", a_late_hold_touches_nobody),
            ("killed_with_a_late_bit", killed_with_a_late_bit),
            ("killed_with_a_late_bit_in_a_drop", killed_with_a_late_bit_in_a_drop),
            ("sweep", sweep),
            ("contended_wait", contended_wait),
            ("memory_of_a_run_is_reused", memory_of_a_run_is_reused),
            ("control_write_in_place_is_torn", control_write_in_place_is_torn),
            ("control_without_asking_hangs", control_without_asking_hangs),
            ("control_without_sweep_leaks", control_without_sweep_leaks),
        ]);
    }

    /// Two buffers of it take three extents.
    type Large = [u64; 140_000];

    /// Values of which a mixture can be told.
    trait Sample: Pod {
        fn make(k: u64) -> Self {
            let mut value = Self::zeroed();
            bytemuck::cast_slice_mut::<_, u64>(std::slice::from_mut(&mut value)).fill(k);
            value
        }
        /// `None` if it is torn.
        fn read(&self) -> Option<u64> {
            let words = bytemuck::cast_slice::<_, u64>(std::slice::from_ref(self));
            words.iter().all(|w| *w == words[0]).then_some(words[0])
        }
    }
    impl<T: Pod> Sample for T {}

    /// Live objects of this process's segment, which has to be healthy and quiet.
    fn objects() -> u64 {
        let report = allmend::verify().expect("a healthy segment");
        assert_eq!(report.busy, 0, "nobody is at anything: {report:?}");
        report.objects
    }

    // ---- values ----

    fn update<T: Sample>(what: &str) {
        let seen = words(); // 0: old, 1: new, 2: inherited, 3: asleep
        // The survivor comes after the death.
        every_write(&format!("lock, commit, unlock of {what}, heir comes later"), |n| {
            let value = SharedValue::new(T::make(1)).unwrap();
            let (child, fate) =
                victim(n, || _ = value.get(), |()| value.update(|v| *v = T::make(2)).unwrap());
            let pid = child.pid.as_raw_pid() as u32;
            let before = value.get().read().expect("get is not torn");
            end(child, fate);
            let mut guard = value.get_lock().unwrap();
            let found = guard.read().expect("not torn");
            assert_eq!(found, before, "the death changed nothing");
            assert!([1, 2].contains(&found) && (fate == Victim::Killed || found == 2), "{found}");
            assert!(guard.inherited().is_none_or(|dead| dead == pid), "{:?}", guard.inherited());
            seen[found as usize - 1].fetch_add(1, SeqCst);
            seen[2].fetch_add(guard.inherited().is_some().into(), SeqCst);
            *guard = T::make(3);
            drop(guard);
            assert_eq!(value.get().read(), Some(3));
            assert_eq!(objects(), 1);
            drop(value);
            assert_eq!(objects(), 0);
            fate
        });
        assert!((0..3).all(|i| seen[i].load(SeqCst) > 0), "old, new and inherited were all seen");

        // The survivor waits for the lock, asleep if the victim has it.
        for goes_on in [false, true] {
            let fate_of = if goes_on { "goes on" } else { "killed" };
            every_write(&format!("the same of {what} with a waiter, victim {fate_of}"), |n| {
                let value = SharedValue::new(T::make(1)).unwrap();
                let (start, reply) = (Line::new(), Line::new());
                let waiter = fork(|| {
                    value.get();
                    start.receive();
                    let mut guard = value.get_lock().unwrap();
                    reply.send(guard.read().unwrap_or(u64::MAX));
                    *guard = T::make(3);
                });
                let (child, fate) =
                    victim(n, || _ = value.get(), |()| value.update(|v| *v = T::make(2)).unwrap());
                start.send(0);
                until(|| {
                    reply.has_some()
                        || waiter.sleep() == Some(Sleep::Bounded) && waiter_waits(&waiter, &reply)
                });
                seen[3].fetch_add((!reply.has_some()).into(), SeqCst);
                if goes_on && fate == Victim::Killed {
                    child.go_on();
                    child.succeeds("the victim, after its stop");
                } else {
                    end(child, fate);
                }
                let found = reply.receive();
                assert!([1, 2].contains(&found) && (fate == Victim::Killed || found == 2), "{found}");
                waiter.succeeds("the waiter");
                let last = value.get().read();
                assert!(last == Some(3) || goes_on && last == Some(2), "{last:?}");
                assert_eq!(objects(), 1);
                fate
            });
        }
        println!("  waiter asleep at the kill: {} times", seen[3].load(SeqCst));
        assert!(seen[3].load(SeqCst) > 0);
    }

    /// The pipe read is no futex, so a futex sleep before the reply is the lock's.
    fn waiter_waits(waiter: &Child, reply: &Line) -> bool {
        !reply.has_some() && waiter.sleep() == Some(Sleep::Bounded)
    }

    fn takeover() {
        every_write("takeover of a dead owner's lock, commit, unlock", |n| {
            let value = SharedValue::new([1u64; 8]).unwrap();
            let mut first = fork(|| {
                let mut guard = value.get_lock().unwrap();
                *guard = [9; 8];
                die()
            });
            let first_pid = first.pid.as_raw_pid() as u32;
            assert!(first.end().was_killed());
            let (child, fate) = victim(
                n,
                || _ = value.get(),
                |()| {
                    let mut guard = value.get_lock().unwrap();
                    assert_eq!((guard.inherited(), *guard), (Some(first_pid), [1; 8]));
                    *guard = [2; 8];
                },
            );
            end(child, fate);
            let guard = value.get_lock().unwrap();
            assert!(*guard == [1; 8] || *guard == [2; 8], "{:?}", *guard);
            drop(guard);
            assert_eq!(value.get_lock().unwrap().inherited(), None, "repaired once and for all");
            assert_eq!(objects(), 1);
            fate
        });
    }

    fn contended_wait() {
        for n in 1..=24 {
            stage(&format!("contended wait, kill point {n}"));
            let value = SharedValue::new(1u64).unwrap();
            let (held, release, reply) = (Line::new(), Line::new(), Line::new());
            let holder = fork(|| {
                let guard = value.get_lock().unwrap();
                held.send(0);
                release.receive();
                drop(guard);
            });
            held.receive();
            let other = fork(|| {
                let mut guard = value.get_lock().unwrap();
                *guard += 1;
                drop(guard);
                reply.send(0);
            });
            // Even rounds: the other sleeps first; odd ones: the victim is the first to sleep.
            if n % 2 == 0 {
                until(|| other.sleep() == Some(Sleep::Bounded));
            }
            let (child, fate) = victim(n, || _ = value.get(), |()| drop(value.get_lock().unwrap()));
            assert_eq!(fate, Victim::Killed, "it waits for ever, with writes at each look");
            until(|| other.sleep() == Some(Sleep::Bounded));
            if n % 3 == 0 {
                // Woken by the unlock, then killed: the wake is spent on a dead process.
                release.send(0);
                holder.succeeds("the holder");
                end(child, fate);
            } else {
                end(child, fate);
                release.send(0);
                holder.succeeds("the holder");
            }
            reply.receive();
            other.succeeds("the other waiter");
            assert_eq!((value.get(), objects()), (2, 1));
        }
        println!("  a waiter killed at each of its first 24 writes, another one waiting");
        // Killed by somebody else while it is really asleep.
        for _ in 0..20 {
            let value = SharedValue::new(1u64).unwrap();
            let guard = value.get_lock().unwrap();
            let mut asleep = fork(|| drop(value.get_lock()));
            until(|| asleep.sleep() == Some(Sleep::Bounded));
            let other = fork(|| drop(value.get_lock().unwrap()));
            until(|| other.sleep() == Some(Sleep::Bounded));
            asleep.kill();
            drop(guard);
            other.succeeds("the other waiter");
            assert_eq!(objects(), 1);
        }
    }

    // ---- taking part ----

    fn attach() {
        every_write("attach of a forked child and its first update", |n| {
            let value = SharedValue::new(1u64).unwrap();
            let other = SharedValue::new(0u64).unwrap();
            let (child, fate) = victim(n, || (), |()| value.update(|v| *v = 2).unwrap());
            // Another newcomer while this one stands still.
            fork(|| other.update(|v| *v = 1).unwrap()).succeeds("a newcomer");
            end(child, fate);
            assert!([1, 2].contains(&*value.get_lock().unwrap()));
            fork(|| value.update(|v| *v = 3).unwrap()).succeeds("the next newcomer");
            assert_eq!((value.get(), other.get(), objects()), (3, 1, 2));
            assert_eq!(allmend::verify().unwrap().processes, 1);
            fate
        });
    }

    /// Leaves all that a dying process can leave: holds, a held lock, a block and a run half made.
    fn leave_dirt(value: &SharedValue<u64>, at: u64) {
        let mut child = fork(|| {
            let own = (SharedValue::new(5u64).unwrap(), SharedValue::new([5u64; 20_000]).unwrap());
            let _guard = value.get_lock().unwrap();
            crash::arm(at);
            let more = (SharedValue::new([6u64; 20_000]).unwrap(), SharedValue::new([6u64; 50]).unwrap());
            drop((more, own));
            die()
        });
        assert!(child.end().was_killed());
    }

    fn attach_to_a_dirty_slot() {
        let value = SharedValue::new(1u64).unwrap();
        let (ready, never) = (Line::new(), Line::new());
        // All places but one are taken, so that each newcomer gets the one where somebody has just died.
        let sleepers: Vec<_> = (0..125)
            .map(|_| {
                let sleeper = fork(|| {
                    value.get();
                    ready.send(0);
                    never.receive();
                });
                ready.receive();
                sleeper
            })
            .collect();
        assert_eq!(objects(), 1);
        let (mut points, mut n, mut dirt) = (0, 1, 3);
        loop {
            stage(&format!("attach to a dirty slot, kill point {n}"));
            leave_dirt(&value, dirt);
            let (child, fate) = victim(n, || (), |()| value.update(|v| *v += 1).unwrap());
            end(child, fate);
            drop(value.get_lock().unwrap());
            assert_eq!(objects(), 1, "kill point {n}, dirt {dirt}");
            if fate == Victim::Finished {
                break;
            }
            points += 1;
            n += 1;
            dirt = 1 + (dirt * 7) % 20; // half a block, half a run, ...
        }
        println!("  attach to the slot of a dead process: {points} kill points");
        assert!(points > 10);
        drop(sleepers);
        assert_eq!((objects(), allmend::verify().unwrap().processes), (1, 1));
    }

    // ---- objects ----

    /// While the victim stands still: others create, drop and verify.
    fn others_work<T: Sample>() {
        let (a, b) = (SharedValue::new(T::make(7)).unwrap(), SharedValue::new(7u64).unwrap());
        allmend::verify().expect("healthy, though somebody is at something");
        assert_eq!((a.get().read(), b.get()), (Some(7), 7));
        drop(a);
        fork(|| {
            let c = SharedValue::new(T::make(8)).unwrap();
            allmend::verify().expect("healthy, though somebody is at something");
            assert_eq!(c.get().read(), Some(8));
        })
        .succeeds("another process");
        allmend::verify().expect("healthy, though somebody is at something");
    }

    fn create<T: Sample>(what: &str) {
        every_write(&format!("create of {what}"), |n| {
            let value = SharedValue::new(1u64).unwrap();
            let (child, fate) = victim(
                n,
                || _ = value.get(),
                |()| {
                    let new = SharedValue::new(T::make(6)).unwrap();
                    crash::stop(u64::MAX);
                    assert_eq!(new.get().read(), Some(6));
                    std::mem::forget(new);
                },
            );
            others_work::<T>();
            end(child, fate);
            assert_eq!(objects(), 1);
            let again = SharedValue::new(T::make(4)).unwrap();
            assert_eq!((again.get().read(), value.get(), objects()), (Some(4), 1, 2));
            drop((again, value));
            assert_eq!(objects(), 0);
            fate
        });
    }

    fn drop_last<T: Sample>(what: &str) {
        for goes_on in [false, true] {
            every_write(&format!("drop of the last handle of {what}, goes on: {goes_on}"), |n| {
                let value = SharedValue::new(1u64).unwrap();
                let (child, fate) = victim(n, || SharedValue::new(T::make(6)).unwrap(), drop);
                others_work::<T>();
                if goes_on && fate == Victim::Killed {
                    child.go_on();
                    child.succeeds("the victim, after its stop");
                } else {
                    end(child, fate);
                }
                assert_eq!((value.get(), objects()), (1, 1));
                drop(value);
                assert_eq!(objects(), 0);
                fate
            });
        }
    }

    fn drop_not_last() {
        every_write("drop of a handle whose object others hold", |n| {
            let value = SharedValue::new([1u64; 8]).unwrap();
            let (child, fate) = victim(n, || _ = value.get(), |()| drop(read_out(&value)));
            end(child, fate);
            value.set([2; 8]).unwrap();
            assert_eq!((value.get(), objects()), ([2; 8], 1));
            drop(value);
            assert_eq!(objects(), 0);
            fate
        });
    }

    /// A bitwise copy of a handle, in a process that will never drop the original.
    #[allow(
        unsafe_code,
        reason = "a forked child ends without destructors: the original is never dropped in it"
    )]
    fn read_out<T: Pod>(value: &SharedValue<T>) -> SharedValue<T> {
        // SAFETY: as many copies are made as there are originals, and no original is used or dropped after this.
        unsafe { std::ptr::read(value) }
    }

    fn drop_against_drop() {
        for large in [false, true] {
            for goes_on in [false, true] {
                let what = format!("drop while another drops (run: {large}, goes on: {goes_on})");
                every_write(&what, |n| {
                    let base = SharedValue::new(1u64).unwrap();
                    if large {
                        one_drop_race(n, goes_on, &base, SharedValue::new([1u64; 20_000]).unwrap())
                    } else {
                        one_drop_race(n, goes_on, &base, SharedValue::new([1u64; 8]).unwrap())
                    }
                });
            }
        }
        // Both stand still somewhere in their drops; then each goes on or is killed.
        for (n, m, fates, large) in (1..=7)
            .flat_map(|n| (1..=7).map(move |m| (n, m)))
            .flat_map(|(n, m)| (0..4).map(move |fates| (n, m, fates)))
            .flat_map(|(n, m, fates)| [false, true].map(|large| (n, m, fates, large)))
        {
            stage(&format!("drops that stand at {n} and {m}, fates {fates}, run: {large}"));
            let base = SharedValue::new(1u64).unwrap();
            if large {
                two_drops(n, m, fates, &base, SharedValue::new([1u64; 140_000]).unwrap());
            } else {
                two_drops(n, m, fates, &base, SharedValue::new([1u64; 8]).unwrap());
            }
        }
        println!("  392 pairs of drops that meet");
    }

    fn one_drop_race<T: Pod>(
        n: u64,
        goes_on: bool,
        base: &SharedValue<u64>,
        value: SharedValue<T>,
    ) -> Victim {
        let (child, fate) = victim(n, || _ = base.get(), |()| drop(read_out(&value)));
        drop(value);
        allmend::verify().expect("healthy, though somebody is at something");
        if goes_on && fate == Victim::Killed {
            child.go_on();
            child.succeeds("the victim, after its stop");
        } else {
            end(child, fate);
        }
        assert_eq!(objects(), 1);
        fate
    }

    fn two_drops<T: Pod>(n: u64, m: u64, fates: u32, base: &SharedValue<u64>, value: SharedValue<T>) {
        let (attached, act) = (Line::new(), Line::new());
        let ready = || _ = base.get();
        let mut a = Slow::new(n, &attached, &act, ready, || drop(read_out(&value)));
        // `act` is one line: the first is let go before the second is there.
        let later = Line::new();
        let mut b = Slow::new(m, &attached, &later, ready, || drop(read_out(&value)));
        drop(value);
        let one = a.acts(&act);
        let two = b.acts(&later);
        allmend::verify().expect("healthy, though somebody is at something");
        a.ends(one, fates & 1 != 0);
        allmend::verify().expect("healthy, though somebody is at something");
        b.ends(two, fates & 2 != 0);
        assert_eq!(objects(), 1);
    }

    /// A victim that first lets others do something between its attach and its act.
    struct Slow(Child);

    impl Slow {
        fn new(n: u64, attached: &Line, act: &Line, prepare: impl FnOnce(), body: impl FnOnce()) -> Self {
            let child = fork(|| {
                prepare();
                attached.send(0);
                act.receive();
                crash::stop(n);
                body();
                crash::stop(u64::MAX);
            });
            attached.receive();
            Self(child)
        }

        fn acts(&mut self, act: &Line) -> Victim {
            act.send(0);
            match self.0.stops_or_ends() {
                None => Victim::Killed,
                Some(end) => {
                    assert_eq!(end, End::Exit(0), "the victim itself failed");
                    Victim::Finished
                }
            }
        }

        fn ends(self, fate: Victim, goes_on: bool) {
            if goes_on && fate == Victim::Killed {
                self.0.go_on();
                self.0.succeeds("the victim, after its stop");
            } else {
                end(self.0, fate);
            }
        }
    }

    /// The last holder drops; a forked child that inherited the handle, and has no hold of its own yet, attaches.
    fn drop_against_an_heir() {
        let seen = words(); // 0: the heir got it, 1: it was gone
        for goes_on in [false, true] {
            every_write(
                &format!("drop of the last hold against an heir's attach (goes on: {goes_on})"),
                |n| {
                    let base = SharedValue::new(1u64).unwrap();
                    let value = SharedValue::new([1u64; 8]).unwrap();
                    let (act, done, exit) = (Line::new(), Line::new(), Line::new());
                    let heir = fork(|| {
                        act.receive();
                        base.get(); // attaches, and takes holds
                        let got = value.get_lock();
                        done.send(match &got {
                            Ok(guard) if **guard == [1; 8] => 0,
                            Err(LockError::Gone) => 1,
                            other => panic!("{other:?}"),
                        });
                        exit.receive();
                        if let Ok(mut guard) = got {
                            assert_eq!(*guard, [1; 8]);
                            *guard = [2; 8];
                            drop(guard);
                            assert_eq!(value.get(), [2; 8], "held, so nobody reused it");
                        }
                    });
                    let (attached, start) = (Line::new(), Line::new());
                    let mut slow =
                        Slow::new(n, &attached, &start, || _ = base.get(), || drop(read_out(&value)));
                    drop(value); // the victim is the last to hold it
                    let fate = slow.acts(&start);
                    act.send(0);
                    let gone = done.receive();
                    seen[gone as usize].fetch_add(1, SeqCst);
                    slow.ends(fate, goes_on);
                    let reuses = SharedValue::new([7u64; 8]).unwrap();
                    assert_eq!(objects(), 3 - gone);
                    exit.send(0);
                    heir.succeeds("the heir");
                    assert_eq!((objects(), reuses.get()), (2, [7; 8]));
                    fate
                },
            );
        }
        println!(
            "  the heir got it {} times, {} times it was gone",
            seen[0].load(SeqCst),
            seen[1].load(SeqCst)
        );
        assert!(seen[0].load(SeqCst) > 0 && seen[1].load(SeqCst) > 0);
    }

    /// A process that is about to hold a run stands still; the run is freed and its memory becomes other objects. When
    /// it goes on, its bit must not land in them.
    fn a_late_hold_touches_nobody() {
        every_write("attach of an heir whose runs became blocks", |n| {
            let base = SharedValue::new(1u64).unwrap();
            drop(SharedValue::new(2u64).unwrap()); // no run's generation is by chance what LIVE is
            let runs: Vec<_> = (0..3).map(|_| SharedValue::new([u64::MAX; 9_000]).unwrap()).collect();
            // The heir shall get place 65: its bit is the one that says LIVE in a state word.
            for _ in 0..63 {
                fork(|| _ = base.get()).succeeds("a child");
            }
            assert_eq!(objects(), 4); // and nobody but us holds the runs
            let (child, fate) = victim(n, || (), |()| _ = base.get());
            drop(runs);
            // Small and middle-sized blocks in what was the runs' first extents.
            let blocks = blocks(0);
            if fate == Victim::Killed {
                child.go_on();
                child.succeeds("the heir, after its stop");
            }
            assert_eq!(objects(), 1 + 3 * 40);
            let more = self::blocks(1_000);
            assert_eq!(objects(), 1 + 6 * 40);
            for (first, (a, b, c)) in [(0, &blocks), (1_000, &more)] {
                for i in 0..40 {
                    let at = i as usize;
                    let n = first + i;
                    assert!(
                        a[at].get() == [n; 200] && b[at].get() == [n; 100] && c[at].get() == [n; 50],
                        "{n}"
                    );
                }
            }
            fate
        });
    }

    /// An heir that attaches, and so takes a hold of what it inherited: it stops before its `n`-th write. When it goes on,
    /// it makes that one write, and is killed before the next.
    fn heir_of_one_more_write(n: u64) -> (Child, Victim) {
        extern "C" fn die_before_the_next(_: i32) {
            crash::arm(1);
        }
        victim(n, || harness::before_going_on(die_before_the_next), |()| _ = allmend::verify().unwrap())
    }

    /// Lets it make that write. (If that was the last one it lives until its end.)
    fn one_more_write(mut child: Child, fate: Victim) {
        if fate == Victim::Killed {
            child.go_on();
            let end = child.stops_or_ends();
            assert!(end.is_some_and(|end| end.was_killed() || end == End::Exit(0)), "{end:?}");
        }
    }

    /// A process sees an object, the object goes, the process sets its bit in what was the object's place, and is
    /// killed before it looks again. The bit speaks of nobody, and must not stay, whatever the place is by then.
    fn killed_with_a_late_bit() {
        late_bit::<[u64; 8]>("a block");
        late_bit::<[u64; 20_000]>("a run of one extent");
        late_bit::<Large>("a run of 3 extents");
    }

    fn late_bit<T: Sample>(what: &str) {
        for reused in ["after the death", "before the bit is set", "before the bit is set, and gone again"] {
            every_write(&format!("late bit of a dead heir in {what}, used again {reused}"), |n| {
                let value = SharedValue::new(T::make(6)).unwrap();
                let (child, fate) = heir_of_one_more_write(n);
                drop(value);
                let new = || SharedValue::new(T::make(7)).unwrap();
                let early = (reused != "after the death").then(new);
                let early = early.filter(|_| reused == "before the bit is set");
                one_more_write(child, fate);
                assert_eq!(objects(), u64::from(early.is_some()), "the dead heir is forgotten");
                let again = early.unwrap_or_else(new);
                assert_eq!((again.get().read(), objects()), (Some(7), 1));
                drop(again);
                assert_eq!(objects(), 0, "its last handle is gone");
                fate
            });
        }
    }

    /// The same while the process that drops the object stands still before each of its writes: the dead heir is swept
    /// before that process goes on, or is killed, too.
    fn killed_with_a_late_bit_in_a_drop() {
        for (large, goes_on) in [(false, false), (false, true), (true, false), (true, true)] {
            for m in 1.. {
                let stood = words();
                let what =
                    format!("late bit in a drop that stands at {m} (run: {large}, goes on: {goes_on})");
                every_write(&what, |n| {
                    let (fate, stands) = if large {
                        late_bit_in_a_drop(n, m, goes_on, SharedValue::new([6u64; 20_000]).unwrap())
                    } else {
                        late_bit_in_a_drop(n, m, goes_on, SharedValue::new([6u64; 8]).unwrap())
                    };
                    stood[0].fetch_add((stands == Victim::Killed).into(), SeqCst);
                    fate
                });
                if stood[0].load(SeqCst) == 0 {
                    assert!(m > 2, "a drop is more than that");
                    break;
                }
            }
        }
    }

    fn late_bit_in_a_drop<T: Pod>(n: u64, m: u64, goes_on: bool, value: SharedValue<T>) -> (Victim, Victim) {
        let (attached, act) = (Line::new(), Line::new());
        let attach = || _ = allmend::verify().unwrap();
        let mut dropper = Slow::new(m, &attached, &act, attach, || drop(read_out(&value)));
        let (heir, fate) = heir_of_one_more_write(n);
        drop(value);
        let stands = dropper.acts(&act);
        one_more_write(heir, fate);
        allmend::verify().expect("healthy, though somebody is at something");
        dropper.ends(stands, goes_on);
        assert_eq!(objects(), 0);
        (fate, stands)
    }

    type Blocks = (Vec<SharedValue<[u64; 200]>>, Vec<SharedValue<[u64; 100]>>, Vec<SharedValue<[u64; 50]>>);

    /// Three extents of blocks, so that whichever run the heir was at, its place is among them.
    fn blocks(first: u64) -> Blocks {
        let range = || first..first + 40;
        (
            range().map(|i| SharedValue::new([i; 200]).unwrap()).collect(),
            range().map(|i| SharedValue::new([i; 100]).unwrap()).collect(),
            range().map(|i| SharedValue::new([i; 50]).unwrap()).collect(),
        )
    }

    /// What a forked child inherited but never held is not touched, whoever has its place by now.
    fn lost_objects_are_gone() {
        let base = SharedValue::new(1u64).unwrap();
        let value = SharedValue::new([1u64; 8]).unwrap();
        let atomic = allmend::SharedAtomic::new(1u64).unwrap();
        let act = Line::new();
        let heir = fork(|| {
            act.receive();
            base.get();
            assert!(matches!(value.get_lock(), Err(LockError::Gone)));
            assert!(matches!(value.try_get_lock(), Err(LockError::Gone)));
            assert!(matches!(value.set([3; 8]), Err(LockError::Gone)));
            let panics = |f: &dyn Fn()| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).expect_err("it is gone");
            };
            panics(&|| _ = value.get());
            panics(&|| _ = atomic.fetch_add(1));
            panics(&|| _ = atomic.load());
        });
        drop((value, atomic));
        let reuse = (SharedValue::new([7u64; 8]).unwrap(), allmend::SharedAtomic::new(7u64).unwrap());
        act.send(0);
        heir.succeeds("the heir");
        assert_eq!((reuse.0.get(), reuse.1.load(), objects()), ([7; 8], 7, 3));
    }

    // ---- repair ----

    fn sweep() {
        every_write("clearing what dead processes left (the repairer is killed)", |n| {
            let value = SharedValue::new(1u64).unwrap();
            for at in [1, 2, 4, 8, 12, 20_010, 40_020] {
                leave_dirt(&value, at);
            }
            let (child, fate) = victim(n, || _ = value.get(), |()| _ = allmend::verify().unwrap());
            match allmend::verify() {
                Ok(_) => {}
                other => panic!("while another process repairs: {other:?}"),
            }
            end(child, fate);
            drop(value.get_lock().unwrap());
            assert_eq!(objects(), 1);
            fate
        });
    }

    /// What was a run's body becomes blocks and other runs: nothing of its bytes may be taken for a hold.
    fn memory_of_a_run_is_reused() {
        let value = SharedValue::new(1u64).unwrap();
        for round in 0..4 {
            let large = SharedValue::new(Large::make(u64::MAX)).unwrap();
            large.set(Large::make(u64::MAX)).unwrap(); // both buffers
            drop(large);
            let block = SharedValue::new(1u64).unwrap();
            let page = SharedValue::new([1u64; 200]).unwrap(); // a class of its own: takes the run's first extent
            let shorter = SharedValue::new([1u64; 20_000]).unwrap(); // a run from its second
            assert_eq!(objects(), 4);
            drop((block, page, shorter));
            assert_eq!(objects(), 1, "round {round}: an object outlived its last handle");
        }
        assert_eq!(value.get(), 1);
    }

    // ---- controls: without a protection the same checks must fail ----

    fn control_write_in_place_is_torn() {
        let torn = words();
        every_write("control: a commit in place", |n| {
            let value = SharedValue::new([1u64; 8]).unwrap();
            let (child, fate) = victim(
                n,
                || {
                    value.get();
                    crash::break_rule(crash::Rule::CommitIsOneStore);
                },
                |()| value.update(|v| *v = [2; 8]).unwrap(),
            );
            end(child, fate);
            torn[0].fetch_add(value.get().read().is_none().into(), SeqCst);
            fate
        });
        println!("  torn values: {}", torn[0].load(SeqCst));
        assert!(torn[0].load(SeqCst) > 0, "the test does not notice torn values");
    }

    fn control_without_asking_hangs() {
        let stuck = words();
        every_write("control: a waiter that does not ask who lives", |n| {
            let value = SharedValue::new(1u64).unwrap();
            let (child, fate) = victim(n, || _ = value.get(), |()| value.update(|v| *v = 2).unwrap());
            end(child, fate);
            crash::break_rule(crash::Rule::AskBeforeWaiting);
            let refused = matches!(value.try_get_lock(), Err(LockError::Timeout { .. }));
            stuck[0].fetch_add(refused.into(), SeqCst); // nobody is left who could unlock it
            fate
        });
        println!("  locked for ever: {}", stuck[0].load(SeqCst));
        assert!(stuck[0].load(SeqCst) > 0, "the test does not notice a lock that nobody will free");
    }

    fn control_without_sweep_leaks() {
        let leaks = words();
        every_write("control: nobody clears what the dead left", |n| {
            let value = SharedValue::new(1u64).unwrap();
            let (child, fate) =
                victim(n, || _ = value.get(), |()| std::mem::forget(SharedValue::new([6u64; 50]).unwrap()));
            end(child, fate);
            crash::break_rule(crash::Rule::SweepTheDead);
            let leaked = match allmend::verify() {
                Ok(report) => report.objects + report.busy != 1,
                Err(VerifyError::Damaged { .. }) => true,
                Err(other) => panic!("{other}"),
            };
            leaks[0].fetch_add(leaked.into(), SeqCst);
            fate
        });
        println!("  leaks: {}", leaks[0].load(SeqCst));
        assert!(leaks[0].load(SeqCst) > 0, "the test does not notice leaks");
    }
}
