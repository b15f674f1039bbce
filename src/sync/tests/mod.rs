//! Each protocol of the room: in the model checker, with its mutations (`cargo loom`), and plainly.
//!
//! | model | what it says |
//! |---|---|
//! | `one_is_killed_anywhere` (`_beside_a_try`, `_beside_a_timed_wait`) | three processes, one killed before its n-th shared write for every n: exclusion, no lost commit, nobody sleeps for ever |
//! | `two_are_killed_anywhere` | the heir dies too, also in its takeover |
//! | `a_wake_spent_on_the_dead_is_healed` | no owner dies, but the woken waiter does |
//! | `a_notice_needs_no_time_outs` | with a supervisor's notice, no sleep needs its bound |
//! | `who_gives_up_wakes_another` | a time-out does not swallow a wake. The first version of the word failed this one |
//! | `a_timed_lock_..` | a time-out at any moment; a holder that lives and stays |
//! | `threads_of_one_process` | between compare-exchange and record a thread holds the lock unconfirmed |
//! | `what_is_not_repaired_stays_inherited` | poison, for data that are written in place |
//! | `claims_exclude`, `after_a_freeze_nobody_writes` | claims on ranges: two processes, or threads, in each other's way, and a freeze |
//! | `a_claimer_is_killed_anywhere` | a claimer dies before its n-th shared write for every n: others go on, a mark only where one wrote |
//! | `reads_are_whole_..` | readers of a cell beside writers that live, die and inherit |
//!
//! Each file of models ends with `mutations`: the same models with one rule broken, which must fail, and by the
//! failure that the rule prevents.
//!
//! Two traps, both met here. A yield hides lost wake-ups, so nothing in a model spins. And loom misses a schedule in
//! which a store overtakes an earlier load if the storing thread has loaded that word meanwhile (its issue 166): who
//! only reads is spawned last, and each model has a mutation that shows it is not blind.
//!
//! A death in a model is a panic that the process's closure catches, then a Release store to its liveness word, which
//! the asker loads with Acquire. That the kernel's release of a file lock orders memory so is an assumption; the
//! kernel drops a process's files after its last thread has stopped, behind locks of its own.

#[cfg(not(loom))]
mod cell;
#[cfg(not(loom))]
mod claims;
#[cfg(not(loom))]
mod word;

#[cfg(loom)]
mod cell_model;
#[cfg(loom)]
mod claims_model;
#[cfg(loom)]
mod model;
#[cfg(loom)]
mod word_model;
