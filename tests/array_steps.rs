//! Arrays, killed at every machine instruction of a claim, a chunk and an `update`, in the compiled code as it ships.
//!
//! A victim is single-stepped (ptrace) k instructions into its change of a range, and stands still. Then a neighbour
//! works in the other range; whoever wants the victim's range gets it just when the victim does not have it; a waiter
//! goes to sleep. Then the victim is killed with SIGKILL. The waiter must get on: an `update` is all or nothing and
//! leaves no mark; after a guard the elements are whole, or the waiter is told which process died in which range.
//! `verify()` must be clean after each.
//!
//! Controls: elements that are changed in place must be found torn; a claim that asks nobody whether the other lives must
//! hang; one that does not look at others must be granted to both.
//!
//! Run: `cargo test --release --test array_steps` (x86-64); with `ALLMEND_LONG=1` each instruction is taken, else of an
//! operation with many of them each so-many-th.
#![allow(unsafe_code, reason = "the control's futex")]
#![allow(clippy::disallowed_types, reason = "the control's claims are not the crate's")]

mod harness;

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("single steps are done on x86-64 only");
    println!("0 passed, 0 failed");
}

#[cfg(target_arch = "x86_64")]
fn main() {
    stepped::main();
}

#[cfg(target_arch = "x86_64")]
mod stepped {
    use crate::harness::{
        self, Line, Sleep, fork, stage,
        steps::{Stepped, every_instruction, takes_all},
        until, words,
    };
    use allmend::{LockError, SharedArray};
    use std::{
        ops::Range,
        sync::atomic::{AtomicU64, Ordering::SeqCst},
    };

    pub(super) fn main() {
        harness::run(&[
            ("update_of_8_elements", || update(8)),
            ("update_of_100_elements", || update(100)),
            ("first_update_of_a_process", first_update),
            ("guard", guard),
            ("first_guard_of_a_process", first_guard),
            ("chunk", chunk),
            ("control_changed_in_place", control_changed_in_place),
            ("control_claim_that_asks_nobody", || control_claim(true)),
            ("control_claim_that_looks_at_nobody", || control_claim(false)),
        ]);
    }

    /// The neighbour's elements, behind the victim's.
    const BESIDE: usize = 4;

    fn whole(elements: &[u64]) -> Option<u64> {
        elements.iter().all(|element| *element == elements[0]).then_some(elements[0])
    }

    /// Locks a slice and accepts what is there: the elements, and who died in which. Then all of them are 1.
    fn accept(range: &SharedArray<u64>) -> (Vec<u64>, Option<(u32, Range<usize>)>) {
        let (mut guard, told) = match range.get_lock() {
            Ok(guard) => (guard, None),
            Err(LockError::Inherited(left)) => {
                let told = (left.pid(), left.range().expect("of elements"));
                (left.accept(), Some(told))
            }
            Err(other) => panic!("{other:?}"),
        };
        let found = guard.to_vec();
        guard.fill(1);
        (found, told)
    }

    /// What was seen over all rounds.
    #[derive(Debug, Default)]
    struct Seen {
        refused: u64,
        asleep: u64,
        old: u64,
        new: u64,
        told: u64,
        /// Neither old nor new, and told;
        torn: u64,
        /// and not told.
        broken: u64,
    }

    /// `act` changes all `len` elements from 1 to 2 under an exclusive claim, and says in the word when it has it.
    fn changes(
        what: &str,
        len: usize,
        prepare: fn(&SharedArray<u64>),
        act: fn(&SharedArray<u64>, &AtomicU64),
    ) -> Seen {
        let a = SharedArray::from_slice(&vec![1u64; len + BESIDE]).unwrap();
        let (range, beside) = (a.slice(..len).unwrap(), a.slice(len..).unwrap());
        let (within, start, reply) = (&words()[0], Line::new(), Line::new());
        // One waiter for all rounds.
        let waiter = fork(|| {
            range.get(0).unwrap();
            loop {
                start.receive();
                let (found, told) = accept(&range);
                let (pid, covered) = told.unwrap_or((0, 0..0));
                reply.send(whole(&found).unwrap_or(0));
                reply.send(pid.into());
                reply.send(u64::from(covered == (0..len)));
            }
        });
        let mut seen = Seen::default();
        let rounds = every_instruction(
            what,
            || {
                prepare(&range);
                within.store(0, SeqCst);
            },
            || act(&range, within),
            |mut child, stepped| {
                let pid = child.pid.as_raw_pid() as u64;
                // The victim stands still, alive.
                beside.update(|x| x.iter_mut().for_each(|x| *x += 1)).expect("nobody is in the way there");
                beside.try_get_lock().expect("nor here")[0] += 1;
                let has_it = within.load(SeqCst) == 1;
                let refused = match range.try_get_lock() {
                    Ok(_) => false,
                    Err(LockError::Timeout { owner }) => owner.map(u64::from) == Some(pid),
                    Err(other) => panic!("{other:?}"),
                };
                assert!(refused || !has_it, "granted beside a living holder");
                start.send(0);
                until(|| reply.has_some() || waiter.sleep() == Some(Sleep::Bounded) && !reply.has_some());
                let asleep = !reply.has_some();
                assert!(asleep || !has_it, "granted beside a living holder");
                child.kill();
                // The watchdog of the runner is the judge of hangs: the stage names the instruction.
                let (found, told, all_of_it) = (reply.receive(), reply.receive(), reply.receive());
                assert!(told == 0 || (told, all_of_it) == (pid, 1), "told of {told}, the victim was {pid}");
                assert_eq!(whole(&range.to_vec().unwrap()), Some(1));
                let report = allmend::verify().unwrap();
                assert_eq!((report.objects, report.busy), (1, 0), "{report:?}");
                if stepped == Stepped::Through {
                    assert_eq!((refused, asleep, found, told), (false, false, 2, 0));
                    return;
                }
                match (found, told) {
                    (1, _) => seen.old += 1,
                    (2, _) => seen.new += 1,
                    (_, 0) => seen.broken += 1,
                    _ => seen.torn += 1,
                }
                seen.refused += u64::from(refused);
                seen.asleep += u64::from(asleep);
                seen.told += u64::from(told != 0);
            },
        );
        drop(waiter);
        drop((range, beside));
        // All that the dead left can be claimed, and goes with the array.
        a.update(|x| x.fill(3)).unwrap();
        assert_eq!(a.to_vec().unwrap(), vec![3; len + BESIDE]);
        drop(a);
        let report = allmend::verify().unwrap();
        assert_eq!((report.objects, report.parts, report.busy), (0, 0, 0), "{report:?}");
        let Seen { refused, asleep, old, new, told, torn, broken } = seen;
        println!(
            "  {what}: {rounds}, others refused at {refused}, waiter asleep \
             at {asleep}, old {old}, new {new}, told who died {told} (torn {torn}), hangs 0, broken {broken}"
        );
        assert!(refused > 0 && asleep > 0 && old > 0, "the test saw too little");
        seen
    }

    fn in_an_update(range: &SharedArray<u64>, within: &AtomicU64) {
        let change = |x: &mut [u64]| {
            within.store(1, SeqCst);
            x.fill(2);
            within.store(0, SeqCst);
        };
        range.update(change).unwrap();
    }

    fn update(len: usize) {
        // Once freely: what is done once only.
        let prepare = |range: &SharedArray<u64>| range.update(|x| x.fill(1)).unwrap();
        let seen = changes(&format!("update of {len} elements"), len, prepare, in_an_update);
        assert!(seen.new > 0, "the test saw too little");
        assert_eq!((seen.told, seen.torn, seen.broken), (0, 0, 0), "an update is all or nothing");
    }

    /// With a row to take in the table, where rows of dead processes lie with their marks and undo records.
    fn first_update() {
        let seen = changes("first update of a process", 8, |range| _ = range.slice(..0), in_an_update);
        assert!(seen.new > 0 || !takes_all(), "the test saw too little");
        assert_eq!((seen.told, seen.torn, seen.broken), (0, 0, 0), "an update is all or nothing");
    }

    fn with_a_guard(range: &SharedArray<u64>, within: &AtomicU64) {
        let mut guard = range.get_lock().unwrap();
        within.store(1, SeqCst);
        guard.fill(2);
        within.store(0, SeqCst);
    }

    fn guard() {
        let prepare = |range: &SharedArray<u64>| _ = range.get(0).unwrap();
        let seen = changes("guard of 100 elements", 100, prepare, with_a_guard);
        assert!(seen.told > 0 && seen.new > 0, "the test saw too little");
        assert_eq!(seen.broken, 0, "who finds half a change is told");
    }

    fn first_guard() {
        let seen = changes("first guard of a process", 100, |_| (), with_a_guard);
        assert!(seen.told > 0 && seen.new > 0 || !takes_all(), "the test saw too little");
        assert_eq!(seen.broken, 0, "who finds half a change is told");
    }

    const CHUNK: usize = 100;

    /// A chunk that a dead process had is done again; each is done once in the end.
    fn chunk() {
        let a = SharedArray::from_slice(&[1u64; 2 * CHUNK]).unwrap();
        let (mut again, mut done, mut torn) = (0, 0, 0);
        let slot = std::cell::RefCell::new(a.claims(CHUNK).unwrap());
        let rounds = every_instruction(
            "chunk claimed and done",
            || _ = a.get(0).unwrap(),
            || {
                let claims = slot.borrow();
                let mut chunk = claims.claim().unwrap().unwrap();
                chunk.fill(2);
                chunk.done();
            },
            |mut child, stepped| {
                let pid = child.pid.as_raw_pid() as u32;
                let claims = slot.replace(a.claims(CHUNK).unwrap());
                // Beside the one that stands still there is one to have.
                let mut beside = claims.try_claim().unwrap().expect("the other chunk");
                beside.fill(4);
                beside.done();
                child.kill();
                let mut handed = 0;
                while let Some(mut chunk) = claims.claim().unwrap() {
                    let inherited = chunk.inherited();
                    assert!(inherited.is_none_or(|of| of == pid), "{inherited:?}, the victim was {pid}");
                    assert!(inherited.is_some() || whole(&chunk).is_some(), "torn, and says nothing");
                    torn += u64::from(whole(&chunk).is_none());
                    again += u64::from(inherited.is_some());
                    handed += 1;
                    chunk.fill(5);
                    chunk.done();
                }
                assert!(claims.is_done() && handed <= 1, "{handed}");
                let found = a.to_vec().unwrap();
                let by_the_victim = found.contains(&2);
                assert!(
                    found.chunks(CHUNK).all(|chunk| whole(chunk).is_some_and(|x| [2, 4, 5].contains(&x)))
                );
                assert!(by_the_victim == (handed == 0), "{found:?}");
                assert!(stepped == Stepped::Within || by_the_victim);
                done += u64::from(by_the_victim && stepped == Stepped::Within);
                a.update(|x| x.fill(1)).unwrap();
                drop(claims);
                let report = allmend::verify().unwrap();
                assert_eq!((report.objects, report.busy), (2, 0), "{report:?}");
            },
        );
        println!(
            "  chunk claimed and done: {rounds}, done by the victim {done}, \
             again with its process id {again} (torn {torn}), lost 0"
        );
        assert!(done > 0 && again > 0, "the test saw too little");
    }

    // ---- controls ----

    /// The same elements, changed under a claim without a word of how to undo it: torn. (The heir is told, as it is of a
    /// guard; an update has nobody to tell.)
    fn control_changed_in_place() {
        let prepare = |range: &SharedArray<u64>| _ = range.get(0).unwrap();
        let seen = changes("control, changed in place", 400, prepare, with_a_guard);
        assert!(seen.torn + seen.broken > 0, "the test does not notice torn elements");
    }

    /// Claims as the crate's, but for what is left out: who claims announces itself and then looks whether the other has
    /// announced itself, or does not; who waits sleeps without asking whether the other lives.
    fn control_claim(looks: bool) {
        let page = words();
        let (mine, theirs, within) = (&page[0], &page[8], &page[16]);
        let what =
            if looks { "control, a claim that asks nobody" } else { "control, a claim without a look" };
        let (mut hangs, mut both) = (0, 0);
        let rounds = every_instruction(
            what,
            || page.iter().for_each(|word| word.store(0, SeqCst)),
            || {
                naive_claim(mine, theirs, looks);
                within.store(1, SeqCst);
                within.store(0, SeqCst);
                naive_release(mine);
            },
            |mut child, _| {
                let mut other = fork(|| naive_claim(theirs, mine, looks));
                let decided = || other.sleep() == Some(Sleep::Unbounded) || !other.is_running();
                until(decided);
                both += u64::from(within.load(SeqCst) == 1 && !other.is_running());
                child.kill();
                until(decided);
                hangs += u64::from(other.is_running());
                match other.is_running() {
                    true => other.kill(),
                    false => _ = other.end(),
                }
            },
        );
        println!("  {what}: {rounds}, hangs {hangs}, granted to both {both}");
        assert!(
            if looks { hangs > 0 && both == 0 } else { both > 0 && hangs == 0 },
            "the control is no control"
        );
    }

    fn naive_claim(mine: &AtomicU64, theirs: &AtomicU64, looks: bool) {
        mine.store(1, SeqCst);
        while looks && theirs.load(SeqCst) != 0 {
            stage("in the control's wait");
            // SAFETY: the low half of a word that stays mapped; no time-out; no further argument is used.
            unsafe {
                libc::syscall(libc::SYS_futex, theirs.as_ptr(), libc::FUTEX_WAIT, 1, std::ptr::null::<u8>())
            };
        }
    }

    fn naive_release(mine: &AtomicU64) {
        mine.store(0, SeqCst);
        // SAFETY: as above; a wake reads no memory.
        unsafe { libc::syscall(libc::SYS_futex, mine.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}
