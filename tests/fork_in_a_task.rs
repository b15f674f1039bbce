//! A task that forks: its child ends where the task ends, and is no second worker.
#![allow(unsafe_code, reason = "fork")]

mod watchdog;

use allmend::{Pool, SharedAtomic, SharedValue};

/// Forks; both come back. Each adds 1 to the value, and one of them gives the result.
fn fork_and_return((value, returns): (SharedValue<u64>, SharedAtomic<u64>)) -> u32 {
    // SAFETY: the child runs on in this thread with what this crate promises after a fork, and ends with the task.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    *value.get_lock().unwrap() += 1;
    returns.fetch_add(1);
    if child > 0 {
        let mut status = 0;
        // SAFETY: waits for our own child; `status` lives through the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child ends quietly");
    }
    std::process::id()
}

#[test]
fn the_child_of_a_task_is_no_worker() {
    let _watchdog = watchdog::Watchdog::new("fork_in_a_task");
    let pool = Pool::new(2).unwrap();
    let (value, returns) = (SharedValue::new(0).unwrap(), SharedAtomic::new(0).unwrap());
    let workers = pool.workers();
    for pid in pool.map(fork_and_return, vec![(value.clone(), returns.clone()); 20]) {
        assert!(workers.contains(&pid.unwrap()), "the result is the worker's, not its child's");
    }
    assert_eq!((value.get(), returns.load()), (40, 40), "both sides of each fork ran the task");
    assert_eq!(pool.workers(), workers, "nobody was replaced");
    drop(pool);
    drop((value, returns));
    let left = allmend::verify().unwrap();
    assert_eq!((left.objects, left.pins, left.processes), (0, 0, 1));
}
