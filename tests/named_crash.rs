//! Named segments, with a process killed (or stopped) before each shared write and each file step of what it does.
//!
//! For N = 1, 2, .. until the operation completes: a victim performs it and is stopped before its N-th step. A second
//! process comes to the same name at that moment. Then the victim is killed, or goes on. After that the second process
//! must have got in, whoever is attached must be attached to what has the name, the segment must be healthy, and in the
//! end nothing may be left in /dev/shm.
//!
//! Kill points exist in builds with `--cfg allmend_crash` only: `cargo crash --test named_crash`.
#![cfg_attr(allmend_crash, allow(unsafe_code, reason = "the environment, while there is one thread"))]

#[cfg(not(allmend_crash))]
fn main() {
    println!("needs a build with --cfg allmend_crash: cargo crash --test named_crash");
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
    use crate::harness::{self, Child, End, Line, die, fork, inode, inode_under, stage};
    use allmend::{
        Manager, ManagerBuilder, OpenError,
        crash::{self, Rule},
    };

    pub(super) fn main() {
        harness::run(&[
            ("create", create),
            ("create_in_the_place_of_a_stale_one", create_in_the_place_of_a_stale_one),
            ("open", open),
            ("open_to_look", open_to_look),
            ("open_of_a_stale_one", open_of_a_stale_one),
            ("open_of_a_persistent_one", open_of_a_persistent_one),
            ("open_while_the_last_one_leaves", open_while_the_last_one_leaves),
            ("last_out", last_out),
            ("last_out_to_look", last_out_to_look),
            ("last_out_with_forked_children", last_out_with_forked_children),
            ("not_the_last_out", not_the_last_out),
            ("remove_with_somebody_attached", remove_with_somebody_attached),
            ("remove_of_a_stale_one", remove_of_a_stale_one),
            ("unlink", unlink),
            ("two_removers", two_removers),
            ("sweep", sweep),
            ("persist", persist),
            ("first_use_in_a_forked_child", first_use_in_a_forked_child),
            ("control_without_a_look_at_the_name", control_without_a_look_at_the_name),
            ("control_unlinks_while_others_are_attached", control_unlinks_while_others_are_attached),
        ]);
    }

    fn small() -> ManagerBuilder {
        Manager::builder().reserve(4 << 20).max_processes(20)
    }

    fn look() -> ManagerBuilder {
        Manager::builder().read_only()
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Victim {
        Killed,
        /// It had fewer steps than that.
        Finished,
    }

    const KILLED: i32 = 40;
    const FINISHED: i32 = 41;

    /// One round for each step, each in a process without segments and under a name of its own. Ends with nothing left.
    fn every_step(what: &str, world: impl Fn(u64, &str) -> Victim) {
        let mut n = 1;
        loop {
            stage(&format!("{what}, kill point {n}"));
            let name = format!("crash-{}-{n}", std::process::id());
            let mut child = fork(|| {
                harness::exit_now(match world(n, &name) {
                    Victim::Killed => KILLED,
                    Victim::Finished => FINISHED,
                })
            });
            let end = child.end();
            allmend::clear_stale().unwrap();
            assert_eq!(inode_under(&name), None, "{what}, kill point {n}: left in /dev/shm");
            match end {
                End::Exit(KILLED) => n += 1,
                End::Exit(FINISHED) => break,
                other => panic!("{what}, kill point {n}: {other:?}"),
            }
        }
        println!("  {what}: {} kill points", n - 1);
        assert!(n > 1, "{what}: no step at all");
    }

    /// A victim that stops before its `n`-th step in `act`; `prepare` comes before and counts nothing.
    fn victim<X>(n: u64, prepare: impl FnOnce() -> X, act: impl FnOnce(X)) -> (Child, Victim) {
        let mut child = fork(|| {
            let prepared = prepare();
            crash::stop(n);
            act(prepared);
            crash::stop(u64::MAX);
        });
        match child.stops_or_ends() {
            None => (child, Victim::Killed),
            Some(end) => {
                assert_eq!(end, End::Exit(0), "the victim itself failed");
                (child, Victim::Finished)
            }
        }
    }

    fn end(mut child: Child, fate: Victim) {
        if fate == Victim::Killed {
            child.kill();
        }
    }

    /// A directory of its own, which nobody else on the machine sweeps, until the test is over.
    struct Directory(String);

    impl Directory {
        fn own() -> Self {
            let path = format!("/dev/shm/allmend-test-{}", std::process::id());
            std::fs::create_dir(&path).unwrap();
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var("ALLMEND_SHM_DIR", &path) };
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir(&self.0).expect("nothing is left in it");
        }
    }

    /// It has the name, it works, and it is healthy.
    fn is_well(segment: &Manager, name: &str) {
        assert_eq!(inode_under(name), Some(inode(segment)), "attached to what has the name");
        works(segment);
    }

    fn works(segment: &Manager) {
        let value = segment.value("works", 1u64).unwrap();
        value.update(|v| *v += 1).unwrap();
        assert_eq!(value.get(), 2);
        segment.remove("works").unwrap();
        drop(value);
        let report = segment.verify().unwrap();
        assert_eq!((report.busy, report.objects, report.names), (0, 0, 0), "{report:?}");
    }

    /// Comes to the name now, in a process of its own, while the victim stands still; gets in once that is dead.
    fn newcomer(name: &str) -> Child {
        fork(|| {
            let segment = small().open_or_create(name).unwrap();
            is_well(&segment, name);
        })
    }

    /// A process that is attached until it is told to leave.
    fn attached(name: &str, leave: &Line) -> Child {
        let ready = Line::new();
        let child = fork(|| {
            let segment = small().open_or_create(name).unwrap();
            ready.send(0);
            leave.receive();
            works(&segment);
            drop(segment);
        });
        ready.receive();
        child
    }

    fn leave_stale(name: &str) {
        let mut child = fork(|| {
            let segment = small().create(name).unwrap();
            let _value = segment.value("n", 7u64).unwrap();
            die()
        });
        assert!(child.end().was_killed());
    }

    fn leave_persistent(name: &str) {
        fork(|| small().create(name).unwrap().persist().unwrap()).succeeds("who makes it");
        assert!(inode_under(name).is_some());
    }

    // ---- create ----

    fn create() {
        every_step("create, publish", |n, name| {
            let (child, fate) = victim(n, || (), |()| drop(small().create(name).unwrap()));
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            let segment = small().create(name).unwrap();
            is_well(&segment, name);
            fate
        });
    }

    fn create_in_the_place_of_a_stale_one() {
        let _own = Directory::own();
        every_step("sweep, create, publish", |n, name| {
            leave_stale(name);
            let (child, fate) = victim(n, || (), |()| drop(small().create(name).unwrap()));
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            is_well(&small().open_or_create(name).unwrap(), name);
            fate
        });
    }

    // ---- open ----

    fn open() {
        every_step("open, and out, with another process attached", |n, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let id = inode_under(name);
            let (child, fate) = victim(n, || (), |()| drop(small().open(name).unwrap()));
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            assert_eq!(inode_under(name), id, "the same all the time");
            leave.send(0);
            other.succeeds("who was attached");
            fate
        });
    }

    fn open_to_look() {
        every_step("open to look, and out, with another process attached", |n, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let (child, fate) = victim(n, || (), |()| drop(look().open(name).unwrap()));
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            leave.send(0);
            other.succeeds("who was attached");
            fate
        });
    }

    fn open_of_a_stale_one() {
        let _own = Directory::own();
        every_step("open of a stale one", |n, name| {
            leave_stale(name);
            let refused = |opened: Result<Manager, OpenError>| {
                assert!(matches!(opened, Err(OpenError::NotFound { .. })))
            };
            let (child, fate) = victim(n, || (), |()| refused(small().open(name)));
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            fate
        });
    }

    fn open_of_a_persistent_one() {
        every_step("open of a persistent one, and out", |n, name| {
            leave_persistent(name);
            let id = inode_under(name);
            let (child, fate) = victim(n, || (), |()| drop(small().open(name).unwrap()));
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            assert_eq!(inode_under(name), id, "it stays");
            allmend::remove_segment(name).unwrap();
            fate
        });
    }

    /// The victim stands at each step of its open while the last one leaves, and goes on then.
    fn open_while_the_last_one_leaves() {
        for (what, options) in [("open", small()), ("open to look", look())] {
            every_step(&format!("{what} while the last one leaves, and a new one is made"), |n, name| {
                let leave = Line::new();
                let other = attached(name, &leave);
                let act = |()| match options.clone().open(name) {
                    Ok(segment) => assert_eq!(inode_under(name), Some(inode(&segment)), "what has the name"),
                    Err(OpenError::NotFound { .. }) => {}
                    Err(other) => panic!("{other}"),
                };
                let (child, fate) = victim(n, || (), act);
                leave.send(0);
                other.succeeds("the last one");
                let segment = small().open_or_create(name).unwrap();
                is_well(&segment, name);
                if fate == Victim::Killed {
                    child.go_on();
                    child.succeeds("the victim, after its stop");
                }
                is_well(&segment, name);
                fate
            });
        }
    }

    // ---- leave ----

    fn last_out() {
        every_step("last one out", |n, name| {
            let (child, fate) = victim(n, || small().create(name).unwrap(), drop);
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            if fate == Victim::Finished {
                assert_eq!(inode_under(name), None);
            }
            is_well(&small().open_or_create(name).unwrap(), name);
            fate
        });
    }

    fn last_out_to_look() {
        every_step("last one out, which only looked", |n, name| {
            let prepare = || {
                let leave = Line::new();
                let other = attached(name, &leave);
                let look = look().open(name).unwrap();
                leave.send(0);
                other.succeeds("the other one");
                look
            };
            let (child, fate) = victim(n, prepare, drop);
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            fate
        });
    }

    /// Children that inherited what the last one out has, and did not use it: one only lives on, or one drops it, too.
    /// Neither is to have a part in the locks with which the name is taken away.
    fn last_out_with_forked_children() {
        for drops in [false, true] {
            every_step("last one out, with a forked child", |n, name| {
                let (ready, go, gone, end) = (Line::new(), Line::new(), Line::new(), Line::new());
                let prepare = || {
                    let mut segment = Some(small().create(name).unwrap());
                    std::mem::forget(fork(|| {
                        // Its parent's end is not to be its own.
                        let _ = rustix::process::set_parent_process_death_signal(None);
                        ready.send(0);
                        go.receive();
                        drop(segment.take().filter(|_| drops));
                        gone.send(0);
                        end.receive();
                    }));
                    ready.receive();
                    segment
                };
                let (mut child, fate) = victim(n, prepare, drop);
                if drops {
                    go.send(0);
                    gone.receive();
                    let leave = Line::new();
                    let other = (inode_under(name).is_none()).then(|| attached(name, &leave));
                    if fate == Victim::Killed {
                        child.go_on();
                        child.succeeds("the last one out");
                    }
                    if let Some(other) = other {
                        assert!(inode_under(name).is_some(), "taken from somebody who is attached");
                        leave.send(0);
                        other.succeeds("who was attached");
                    }
                } else if fate == Victim::Killed {
                    child.kill();
                }
                newcomer(name).succeeds("a newcomer");
                if !drops {
                    go.send(0);
                    gone.receive();
                }
                end.send(0);
                fate
            });
        }
    }

    fn not_the_last_out() {
        every_step("out, with another process attached", |n, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let id = inode_under(name);
            let (child, fate) = victim(n, || small().open(name).unwrap(), drop);
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            assert_eq!(inode_under(name), id);
            leave.send(0);
            other.succeeds("who was attached");
            fate
        });
    }

    /// Attached in this process. (Who is forked from it afterwards enters at its first use.)
    fn fork_free(name: &str) -> Manager {
        small().open_or_create(name).unwrap()
    }

    // ---- take the name away ----

    fn remove_with_somebody_attached() {
        every_step("remove with somebody attached", |n, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let (child, fate) = victim(n, || (), |()| allmend::remove_segment(name).unwrap());
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            leave.send(0);
            other.succeeds("who was attached goes on");
            fate
        });
    }

    fn remove_of_a_stale_one() {
        let _own = Directory::own();
        every_step("remove of a stale one", |n, name| {
            leave_stale(name);
            let (child, fate) = victim(n, || (), |()| allmend::remove_segment(name).unwrap());
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            fate
        });
    }

    fn unlink() {
        every_step("unlink by who is attached", |n, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let prepare = || small().open(name).unwrap();
            let (child, fate) = victim(n, prepare, |segment| segment.unlink().unwrap());
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            leave.send(0);
            other.succeeds("who was attached goes on");
            fate
        });
    }

    /// The victim stands at each step of its remove; another removes, a new one is made, the victim goes on. It may have
    /// removed the old one or (from the start again) the new one, never the new one for the old.
    fn two_removers() {
        every_step("two removers, one of them late", |n, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let old = inode_under(name).unwrap();
            let prepare = || small().open(name).unwrap();
            let act = |segment: Manager| match segment.unlink() {
                Ok(()) | Err(OpenError::NotFound { .. }) => std::mem::forget(segment),
                Err(other) => panic!("{other}"),
            };
            let (child, fate) = victim(n, prepare, act);
            match allmend::remove_segment(name) {
                Ok(()) | Err(OpenError::NotFound { .. }) => {}
                // It has the lock on the name, and stands still with it.
                Err(OpenError::Busy { .. }) => assert_eq!(fate, Victim::Killed),
                Err(other) => panic!("{other}"),
            }
            let new = small().open_or_create(name).unwrap();
            if fate == Victim::Killed {
                child.go_on();
                child.succeeds("the victim, after its stop");
            }
            if inode(&new) != old {
                is_well(&new, name);
            }
            leave.send(0);
            other.succeeds("who was attached");
            fate
        });
    }

    fn sweep() {
        let _own = Directory::own();
        every_step("sweep of one that is stale and one that is not", |n, name| {
            let live = format!("{name}-live");
            let segment = fork_free(&live);
            leave_stale(name);
            let (child, fate) = victim(n, || (), |()| _ = allmend::clear_stale().unwrap());
            let late = newcomer(name);
            end(child, fate);
            late.succeeds("a newcomer");
            is_well(&segment, &live);
            drop(segment);
            assert_eq!(inode_under(&live), None);
            fate
        });
    }

    fn persist() {
        every_step("persist, and out", |n, name| {
            let prepare = || small().create(name).unwrap();
            let act = |segment: Manager| {
                segment.persist().unwrap();
                drop(segment);
            };
            let (child, fate) = victim(n, prepare, act);
            end(child, fate);
            // Kept, or not: as a whole.
            match small().open(name) {
                Ok(segment) => is_well(&segment, name),
                Err(OpenError::NotFound { .. }) => assert_eq!(inode_under(name), None),
                Err(other) => panic!("{other}"),
            }
            if inode_under(name).is_some() {
                allmend::remove_segment(name).unwrap();
            } else {
                assert_eq!(fate, Victim::Killed);
            }
            fate
        });
    }

    fn first_use_in_a_forked_child() {
        let _own = Directory::own();
        every_step("first use in a forked child", |n, name| {
            let segment = fork_free(name);
            let value = segment.value("n", 1u64).unwrap();
            segment.remove("n").unwrap();
            let (child, fate) = victim(n, || (), |()| value.update(|v| *v = 2).unwrap());
            let late = fork(|| drop(small().open(name).unwrap()));
            end(child, fate);
            late.succeeds("a newcomer");
            assert!([1, 2].contains(&*value.get_lock().unwrap()));
            drop(value);
            is_well(&segment, name);
            assert_eq!(segment.verify().unwrap().processes, 1);
            fate
        });
    }

    // ---- what the rules are for ----

    /// Does `world` fail at any point?
    fn fails_somewhere(what: &str, world: impl Fn(u64, &str) -> bool) {
        let failed = (1..200).find(|&n| {
            stage(&format!("{what}, point {n}"));
            let name = format!("control-{}-{n}", std::process::id());
            let mut child = fork(|| harness::exit_now(i32::from(world(n, &name))));
            let end = child.end();
            let _ = allmend::remove_segment(&name);
            end == End::Exit(1)
        });
        println!("  {what}: fails at point {failed:?}");
        assert!(failed.is_some(), "{what}: nothing notices");
    }

    fn control_without_a_look_at_the_name() {
        fails_somewhere("open without a look at the name", |n, name| {
            let (leave, reply) = (Line::new(), Line::new());
            let other = attached(name, &leave);
            let (child, fate) = victim(
                n,
                || crash::break_rule(Rule::LookAtTheName),
                |()| {
                    let opened = small().open(name).ok();
                    let wrong = opened.is_some_and(|segment| inode_under(name) != Some(inode(&segment)));
                    reply.send(wrong.into());
                },
            );
            leave.send(0);
            other.succeeds("the last one");
            if fate == Victim::Killed {
                child.go_on();
                child.succeeds("the victim, after its stop");
            }
            reply.receive() == 1
        });
    }

    fn control_unlinks_while_others_are_attached() {
        fails_somewhere("out without being alone", |_, name| {
            let leave = Line::new();
            let other = attached(name, &leave);
            let id = inode_under(name);
            fork(|| {
                crash::break_rule(Rule::AloneToUnlink);
                drop(small().open(name).unwrap());
            })
            .succeeds("who breaks the rule");
            let failed = inode_under(name) != id;
            leave.send(0);
            other.succeeds("who was attached");
            failed
        });
    }
}
