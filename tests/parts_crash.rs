//! Parts of objects, killed before each shared write of an attach, a detach, the end of their object, and of the repair of
//! each.
//!
//! For N = 1, 2, .. until the operation completes: a victim stands still before its N-th shared write, a neighbour
//! attaches and detaches another part of the same object; then the victim is killed, or goes on. A part is there and
//! whole, or not there; its place can be used again; and `verify()` finds no more and no less than what is named.
//!
//! Control: who clears what the dead left and does not ask whether an object names it frees what is named.
//!
//! Kill points exist in builds with `--cfg allmend_crash` only: `cargo crash --test parts_crash`.

#[cfg(not(allmend_crash))]
fn main() {
    println!("needs a build with --cfg allmend_crash: cargo crash --test parts_crash");
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
        self, End, Line, exit_now, fork,
        kill::{Victim, end, every_write, goes_on_or_dies, victim},
        words,
    };
    use allmend::crash::{self, Parts};
    use std::sync::atomic::Ordering::SeqCst;

    pub(super) fn main() {
        harness::run(&[
            ("attach", attach),
            ("attach_in_a_new_extent", attach_in_a_new_extent),
            ("detach", detach),
            ("detach_of_what_a_dead_process_left", detach_of_what_a_dead_process_left),
            ("detach_takes_nothing_from_the_living", detach_takes_nothing_from_the_living),
            ("end_of_an_object", end_of_an_object),
            ("repair", repair),
            ("repair_of_an_end", repair_of_an_end),
            ("repair_against_the_end_of_the_object", repair_against_the_end_of_the_object),
            ("control_without_asking_the_object", control_without_asking_the_object),
        ]);
    }

    /// A block of a slab, one with room for a power of two, and a run of 4 extents.
    const SIZES: [u64; 3] = [100, 4096, 3 << 20];

    /// Nobody works: how many objects and parts are there?
    fn found() -> (u64, u64) {
        let report = allmend::verify().expect("a healthy segment");
        assert_eq!((report.busy, report.processes), (0, 1), "{report:?}");
        (report.objects, report.parts)
    }

    /// Another process works beside the one that stands still.
    fn neighbour(parts: &Parts) {
        fork(|| {
            for bytes in SIZES {
                parts.attach(1, bytes, 5);
                assert_eq!(parts.ends(1), Some([5; 2]));
                parts.detach(1).unwrap();
                assert_eq!(parts.ends(1), None);
            }
        })
        .succeeds("the neighbour");
    }

    /// Its first place can be used again, whatever is there; then the object goes, with what belongs to it.
    fn goes_with_its_parts(parts: Parts) {
        let there = parts.ends(0).is_some();
        assert_eq!(found(), (1, there.into()));
        parts.detach(0).unwrap();
        assert_eq!(found(), (1, 0));
        parts.attach(0, 2000, 9);
        assert_eq!((parts.ends(0), found()), (Some([9; 2]), (1, 1)));
        drop(parts);
        assert_eq!(found(), (0, 0));
    }

    /// A victim changes the first part of an object; another process looks at it meanwhile.
    fn changes(what: &str, before: Option<u64>, bytes: u64, warm: bool, act: fn(&Parts, u64)) {
        for goes_on in [false, true] {
            let seen = words();
            every_write(&format!("{what} {bytes} bytes, goes on {goes_on}"), |n| {
                let parts = Parts::new(2);
                if warm {
                    neighbour(&parts); // extents for each size are there
                }
                if let Some(stamp) = before {
                    parts.attach(0, bytes, stamp);
                }
                let prepare = || assert_eq!(parts.ends(1), None);
                let (child, fate) = victim(n, prepare, |()| act(&parts, bytes));
                let look = || assert!([None, Some([7; 2])].contains(&parts.ends(0)), "half a part");
                look();
                fork(look).succeeds("who looks");
                neighbour(&parts);
                goes_on_or_dies(child, fate, goes_on);
                let there = parts.ends(0).is_some();
                assert!(fate == Victim::Killed && !goes_on || there != before.is_some());
                seen[usize::from(there)].fetch_add(1, SeqCst);
                goes_with_its_parts(parts);
                fate
            });
            let [not, there] = std::array::from_fn(|i| seen[i].load(SeqCst));
            println!("  the part is there at {there}, and not at {not}");
            assert!(goes_on || there > 0 && not > 0, "the test saw too little");
        }
    }

    fn attach() {
        SIZES.into_iter().for_each(|bytes| changes("attach", None, bytes, true, |p, b| p.attach(0, b, 7)));
    }

    fn attach_in_a_new_extent() {
        for bytes in SIZES {
            changes("first attach", None, bytes, false, |p, b| p.attach(0, b, 7));
        }
    }

    fn detach() {
        for bytes in SIZES {
            changes("detach", Some(7), bytes, true, |p, _| p.detach(0).unwrap());
        }
    }

    /// Leaves a part of the object that is named, and PENDING for a dead process: the last write of an attach makes it a
    /// part.
    fn die_in_attach(parts: &Parts, bytes: u64) {
        let mut victim = fork(|| {
            parts.attach(0, bytes, 7);
            parts.detach(0).unwrap(); // what is done once only
            crash::arm(u64::MAX);
            parts.attach(0, bytes, 7);
            let last = crash::steps();
            parts.detach(0).unwrap();
            crash::arm(last);
            parts.attach(0, bytes, 7);
        });
        assert!(victim.end().was_killed());
        assert_eq!(parts.ends(0), Some([7; 2]), "named, and whole");
    }

    fn detach_of_what_a_dead_process_left() {
        for bytes in SIZES {
            every_write(&format!("detach of {bytes} bytes that a dead process attached"), |n| {
                let parts = Parts::new(2);
                die_in_attach(&parts, bytes);
                let prepare = || assert_eq!(parts.ends(1), None);
                let (child, fate) = victim(n, prepare, |()| parts.detach(0).unwrap());
                neighbour(&parts);
                end(child, fate);
                assert!(parts.ends(0).is_none() || fate == Victim::Killed);
                goes_with_its_parts(parts);
                fate
            });
        }
    }

    /// A detach by who should not: the part is on its way, in the hands of a process that stands still.
    fn detach_takes_nothing_from_the_living() {
        for bytes in SIZES {
            let refused = words();
            every_write(&format!("attach of {bytes} bytes beside a detach"), |n| {
                let parts = Parts::new(2);
                neighbour(&parts);
                let prepare = || assert_eq!(parts.ends(1), None);
                let (child, fate) = victim(n, prepare, |()| parts.attach(0, bytes, 7));
                let named = parts.ends(0).is_some() && fate == Victim::Killed;
                assert_eq!(parts.detach(0).is_err(), named, "it is the victim's");
                refused[0].fetch_add(named.into(), SeqCst);
                goes_on_or_dies(child, fate, true);
                goes_with_its_parts(parts);
                fate
            });
            assert!(refused[0].load(SeqCst) > 0, "it stands between the word and the state once");
        }
    }

    fn with_parts() -> Parts {
        let parts = Parts::new(3);
        SIZES.into_iter().enumerate().for_each(|(index, bytes)| parts.attach(index, bytes, 7));
        parts
    }

    fn end_of_an_object() {
        for goes_on in [false, true] {
            every_write(&format!("the last handle of an object with parts, goes on {goes_on}"), |n| {
                let other = Parts::new(2);
                let (child, fate) = victim(n, with_parts, drop);
                neighbour(&other);
                goes_on_or_dies(child, fate, goes_on);
                assert_eq!(found(), (1, 0));
                goes_with_its_parts(other);
                fate
            });
        }
    }

    /// Who clears up dies in it, at each write, after a death in an attach and in a detach.
    fn repair() {
        for bytes in SIZES {
            let mut points = 0;
            let named = |parts: &Parts| die_in_attach(parts, bytes);
            let unnamed = |parts: &Parts| {
                // Before the word of the table.
                let mut victim = fork(|| {
                    parts.attach(0, bytes, 7);
                    parts.detach(0).unwrap();
                    crash::arm(2);
                    parts.attach(0, bytes, 7);
                });
                assert!(victim.end().was_killed());
            };
            let ways: [&dyn Fn(&Parts); 2] = [&named, &unnamed];
            for (what, die) in ["named", "not named"].into_iter().zip(ways) {
                points += every_write(&format!("repair of {bytes} bytes, {what}"), |n| {
                    let parts = Parts::new(2);
                    die(&parts);
                    let (child, fate) = victim(
                        n,
                        || _ = parts.ends(1),
                        |()| _ = allmend::verify().expect("a healthy segment"),
                    );
                    end(child, fate);
                    assert_eq!(parts.ends(0).is_some(), what == "named");
                    goes_with_its_parts(parts);
                    fate
                });
            }
            assert!(points > 4, "{points}");
        }
    }

    fn repair_of_an_end() {
        let mut points = 0;
        for at in (1..).step_by(2) {
            let dies = || {
                let mut victim = fork(|| {
                    let parts = with_parts();
                    crash::arm(at);
                    drop(parts);
                });
                victim.end().was_killed()
            };
            // Is there a write of that number?
            let there = fork(|| {
                let _other = Parts::new(1);
                exit_now(i32::from(!dies()));
            })
            .end();
            if there != End::Exit(0) {
                break;
            }
            points += every_write(&format!("repair of an end that was killed at write {at}"), |n| {
                let other = Parts::new(2);
                assert!(dies());
                let (child, fate) =
                    victim(n, || _ = other.ends(1), |()| _ = allmend::verify().expect("a healthy segment"));
                end(child, fate);
                assert_eq!(found(), (1, 0));
                goes_with_its_parts(other);
                fate
            });
        }
        println!("  repair of an end: {points} kill points");
        assert!(points > 10);
    }

    /// Who clears up stands still, at each write, and the object ends meanwhile.
    fn repair_against_the_end_of_the_object() {
        for bytes in SIZES {
            for goes_on in [false, true] {
                let what = format!("repair of {bytes} bytes against the end, goes on {goes_on}");
                every_write(&what, |n| {
                    let other = Parts::new(2);
                    let (go, ready) = (Line::new(), Line::new());
                    // It alone holds the object.
                    let holder = fork(|| {
                        let parts = Parts::new(2);
                        die_in_attach(&parts, bytes);
                        ready.send(0);
                        go.receive();
                        drop(parts);
                        ready.send(0);
                        go.receive();
                    });
                    ready.receive();
                    let prepare = || {
                        other.attach(1, 64, 3);
                        other.detach(1).unwrap();
                    };
                    let (child, fate) =
                        victim(n, prepare, |()| _ = allmend::verify().expect("a healthy segment"));
                    go.send(0);
                    ready.receive();
                    goes_on_or_dies(child, fate, goes_on);
                    go.send(0);
                    holder.succeeds("the holder");
                    assert_eq!(found(), (1, 0));
                    goes_with_its_parts(other);
                    fate
                });
            }
        }
    }

    // ---- control ----

    fn control_without_asking_the_object() {
        let seen = words();
        every_write("control: who clears up does not ask whether an object names it", |n| {
            let parts = Parts::new(2);
            neighbour(&parts);
            let prepare = || assert_eq!(parts.ends(1), None);
            let (child, fate) = victim(n, prepare, |()| {
                parts.attach(0, 100, 7);
                parts.detach(0).unwrap();
            });
            end(child, fate);
            crash::break_rule(crash::Rule::AskForTheParent);
            seen[0].fetch_add(allmend::verify().is_err().into(), SeqCst);
            fate
        });
        println!("  named, and free: {}", seen[0].load(SeqCst));
        assert!(seen[0].load(SeqCst) > 0, "the test does not notice a part that is taken from its object");
    }
}
