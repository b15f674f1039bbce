//! Killed at every machine instruction of lock + commit + unlock, in the compiled code as it ships.
//!
//! A victim is single-stepped (ptrace) k instructions into an update of a `SharedValue` and then killed with SIGKILL,
//! for every k until the update is complete. A second process wants the lock meanwhile, and is asleep in the futex when
//! the victim has it. It must get on and find a value that is old or new; `verify()` must be clean after each.
//!
//! Controls: the same steps over a record that is written in place must find torn values, and over a lock that asks
//! nobody must find a waiter that sleeps without bound on a dead process's lock.
//!
//! Run: `cargo test --release --test step_kill` (x86-64). A debug build has many times the instructions, and the test
//! takes each 16th of them; the compiled code that counts is the optimised one.
#![allow(unsafe_code, reason = "ptrace")]
#![allow(clippy::disallowed_types, reason = "the control's record and lock are not the crate's")]

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
        self, Line, Sleep, fork,
        steps::{STRIDE, Stepped, each_so_many, every_instruction},
        until, words,
    };
    use allmend::{Manager, SharedAtomic, SharedValue};
    use bytemuck::Pod;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    pub(super) fn main() {
        harness::run(&[
            ("update_of_8_bytes", || update::<u64>("8 bytes")),
            ("update_of_64_bytes", || update::<[u64; 8]>("64 bytes")),
            ("update_of_100_words", || update_some::<[u64; 100]>("800 bytes, each 7th instruction", 7)),
            ("create_and_drop", create_and_drop),
            ("name_given_and_taken", name_given_and_taken),
            ("control_written_in_place", control_written_in_place),
            ("control_lock_that_asks_nobody", control_lock_that_asks_nobody),
        ]);
    }

    fn whole<T: Pod>(value: &T) -> Option<u64> {
        let words = bytemuck::cast_slice::<_, u64>(std::slice::from_ref(value));
        words.iter().all(|w| *w == words[0]).then_some(words[0])
    }

    fn make<T: Pod>(k: u64) -> T {
        let mut value = T::zeroed();
        bytemuck::cast_slice_mut::<_, u64>(std::slice::from_mut(&mut value)).fill(k);
        value
    }

    fn update<T: Pod>(what: &str) {
        update_some::<T>(what, 1);
    }

    /// A block is created and dropped: nothing leaks.
    fn create_and_drop() {
        let value = SharedValue::new(1u64).unwrap();
        let act = || drop(SharedValue::new([5u64; 8]).unwrap());
        let prepare = || {
            value.get();
            act(); // what is done once only
        };
        let rounds = every_instruction("create and drop", prepare, act, |mut child, _| {
            let another = SharedValue::new([6u64; 8]).unwrap();
            child.kill();
            assert_eq!((value.get(), another.get()), (1, [6; 8]));
            drop(another);
            let report = allmend::verify().unwrap();
            assert_eq!((report.objects, report.busy), (1, 0));
        });
        println!("  create and drop of a block: {rounds}, leaks 0");
    }

    /// A name is given to a new object, and taken away again: the name leads to a whole object or to nothing, everybody
    /// can give it anew, and nothing leaks.
    fn name_given_and_taken() {
        let manager = Manager::new().unwrap();
        let other = manager.atomic("other", 1u64).unwrap();
        let act = || {
            manager.atomic("name", 5u64).unwrap();
            manager.remove("name").unwrap();
        };
        let (mut absent, mut present) = (0, 0);
        // Once freely: what is done once only.
        let rounds = every_instruction("a name given and taken", act, act, |mut child, stepped| {
            // The victim stands still, alive, and may have the name half given: a look-up does not wait for it.
            match manager.open_object::<SharedAtomic<u64>>("name") {
                Ok(found) => assert_eq!(found.load(), 5),
                Err(allmend::OpenError::NoObject { .. }) => {}
                Err(e) => panic!("{e}"),
            }
            child.kill();
            let found = manager.atomic("name", 7u64).unwrap();
            match (found.load(), stepped) {
                (5, Stepped::Within) => present += 1,
                (7, Stepped::Within) => absent += 1,
                (7, Stepped::Through) => {}
                wrong => panic!("the name leads to {wrong:?}"),
            }
            drop(found);
            manager.remove("name").unwrap();
            let report = manager.verify().unwrap();
            assert_eq!((report.objects, report.names, report.busy, other.load()), (1, 1, 0, 1));
        });
        println!("  a name given and taken: {rounds}, absent {absent}, present {present}, leaks 0");
        assert!(absent > 1 && present > 0, "the test saw too little");
    }

    fn update_some<T: Pod>(what: &str, stride: u64) {
        let value = SharedValue::new(make::<T>(1)).unwrap();
        let base = SharedValue::new(0u64).unwrap();
        let (start, reply, inherited) = (Line::new(), Line::new(), Line::new());
        // One waiter for all rounds: takes the lock, says what it found, puts the value back.
        let waiter = fork(|| {
            loop {
                base.get();
                start.receive();
                let mut guard = value.get_lock().unwrap();
                inherited.send(guard.inherited().unwrap_or(0).into());
                reply.send(whole(&*guard).unwrap_or(u64::MAX));
                *guard = make(1);
                drop(guard);
                reply.send(0);
            }
        });
        let (mut asleep, mut old, mut new, mut heirs, mut broken) = (0, 0, 0, 0, 0);
        let rounds = each_so_many(
            &format!("update of {what}"),
            stride * STRIDE,
            || _ = value.get(),
            || value.update(|v| *v = make(2)).unwrap(),
            |mut child, stepped| {
                let pid = child.pid.as_raw_pid() as u64;
                start.send(0);
                until(|| reply.has_some() || waiter.sleep() == Some(Sleep::Bounded) && !reply.has_some());
                let slept = !reply.has_some();
                child.kill();
                // The watchdog of the runner is the judge of hangs: the stage names the instruction.
                let (found, dead) = (reply.receive(), inherited.receive());
                assert_eq!(reply.receive(), 0);
                assert!(dead == 0 || dead == pid, "inherited from {dead}, the victim was {pid}");
                assert_eq!(whole(&value.get()), Some(1));
                let report = allmend::verify().unwrap();
                assert_eq!((report.objects, report.busy), (2, 0));
                if stepped == Stepped::Through {
                    assert_eq!((found, dead, slept), (2, 0, false));
                    return;
                }
                match found {
                    1 => old += 1,
                    2 => new += 1,
                    _ => broken += 1,
                }
                asleep += u64::from(slept);
                heirs += u64::from(dead == pid);
            },
        );
        println!(
            "  {what}: {rounds}, waiter asleep at {asleep}, lock inherited {heirs}, old {old}, new {new}, \
             hangs 0, broken {broken}"
        );
        assert_eq!(broken, 0);
        assert!(asleep > 0 && heirs > 0 && old > 0 && new > 0, "the test saw too little");
    }

    /// The same update without the two buffers: a record in shared memory that is written in place, under the lock.
    fn control_written_in_place() {
        let record = &words()[..8];
        let lock = SharedValue::new(0u64).unwrap();
        let fill = |k| record.iter().for_each(|word| word.store(k, SeqCst));
        let mut broken = 0;
        let prepare = || {
            fill(1);
            lock.get();
        };
        let act = || {
            let _guard = lock.get_lock().unwrap();
            fill(2);
        };
        let rounds = each_so_many("control, written in place", STRIDE, prepare, act, |mut child, _| {
            child.kill();
            drop(lock.get_lock().unwrap()); // the lock itself is fine
            let first = record[0].load(SeqCst);
            broken += u64::from(record.iter().any(|word| word.load(SeqCst) != first));
        });
        println!("  control, written in place: {rounds}, broken {broken}");
        assert!(broken > 0, "the test does not notice torn records");
    }

    /// A plain futex lock. A waiter that sleeps without bound on a word that nobody alive will change hangs.
    fn control_lock_that_asks_nobody() {
        let word = &words()[0];
        let mut hangs = 0;
        let what = "control, a lock that asks nobody";
        let act = || {
            plain_lock(word);
            plain_unlock(word);
        };
        let rounds = each_so_many(
            what,
            STRIDE,
            || word.store(0, SeqCst),
            act,
            |mut child, _| {
                let mut waiter = fork(|| plain_lock(word));
                child.kill();
                until(|| waiter.sleep() == Some(Sleep::Unbounded) || !waiter.is_running());
                hangs += u64::from(waiter.is_running());
                match waiter.is_running() {
                    true => waiter.kill(),
                    false => drop(waiter.end()),
                }
            },
        );
        println!("  {what}: {rounds}, hangs {hangs}");
        assert!(hangs > 0, "the test does not notice a hang");
    }

    fn plain_lock(word: &AtomicU64) {
        while word.swap(1, SeqCst) != 0 {
            // SAFETY: the low half of a word that stays mapped; no time-out; no further argument is used.
            unsafe {
                libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 1, std::ptr::null::<u8>())
            };
        }
    }

    fn plain_unlock(word: &AtomicU64) {
        word.store(0, SeqCst);
        // SAFETY: as above; a wake reads no memory.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }
}
