//! A round for each shared write of an operation: the victim is stopped before it, others work, then it is killed.
//! In builds with kill points only.

use super::{Child, End, exit_now, fork, stage};
use allmend::crash;

/// What became of the victim of one round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Victim {
    Killed,
    /// It had fewer writes than that.
    Finished,
}

const KILLED: i32 = 40;
const FINISHED: i32 = 41;

/// One round in a process with a segment of its own.
fn round(n: u64, world: &dyn Fn(u64) -> Victim) -> Victim {
    let mut child = fork(|| {
        exit_now(match world(n) {
            Victim::Killed => KILLED,
            Victim::Finished => FINISHED,
        })
    });
    match child.end() {
        End::Exit(KILLED) => Victim::Killed,
        End::Exit(FINISHED) => Victim::Finished,
        other => panic!("kill point {n}: {other:?}"),
    }
}

/// A round for each write. Of the thousands of writes that fill a large value only some are taken.
pub(crate) fn every_write(what: &str, world: impl Fn(u64) -> Victim) -> u64 {
    stage(&format!("{what}, how many writes it has"));
    let (mut n, mut points) = (1, 0);
    // Two steps: where it ends (doubling, then halving), and then each point.
    let mut end = 1;
    while end < 1 << 40 && round(end, &world) == Victim::Killed {
        end *= 2;
    }
    let (mut low, mut high) = (end / 2, end);
    while high - low > 1 {
        let middle = (low + high) / 2;
        match round(middle, &world) {
            Victim::Killed => low = middle,
            Victim::Finished => high = middle,
        }
    }
    let stride = low / 32;
    while n <= low {
        stage(&format!("{what}, kill point {n} of {low}"));
        assert_eq!(round(n, &world), Victim::Killed, "{what}: {n} of {low}");
        points += 1;
        n += if low > 1_000 && n >= 60 && n + 60 < low { stride.min(low - 60 - n).max(1) } else { 1 };
    }
    let skipped = if points < low {
        format!(" (of {low}: the filling of a large value is sampled)")
    } else {
        String::new()
    };
    println!("  {what}: {points} kill points{skipped}");
    assert!(points > 0, "{what}: no write at all");
    points
}

/// A victim that stops before its `n`-th write in `act`; `prepare` comes before and counts nothing.
pub(crate) fn victim<X>(n: u64, prepare: impl FnOnce() -> X, act: impl FnOnce(X)) -> (Child, Victim) {
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

pub(crate) fn end(mut child: Child, fate: Victim) {
    if fate == Victim::Killed {
        child.kill();
    }
}

/// Of a victim that was killed or was through.
pub(crate) fn goes_on_or_dies(child: Child, fate: Victim, goes_on: bool) {
    if goes_on && fate == Victim::Killed {
        child.go_on();
        child.succeeds("the victim, after its stop");
    } else {
        end(child, fate);
    }
}
