//! A victim that is single-stepped (ptrace) some instructions into an operation, and then killed there.
#![allow(unsafe_code, reason = "ptrace")]

use super::{Child, fork, stage};

/// What happened when the victim was to make `k` steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stepped {
    /// It stands between two instructions.
    Within,
    /// It was through before that.
    Through,
}

/// Of the instructions of a debug build each so-many-th is taken.
pub(crate) const STRIDE: u64 = if cfg!(debug_assertions) { 16 } else { 1 };

/// How many rounds a test has if it is not to be long.
const ROUNDS: u64 = if cfg!(debug_assertions) { 60 } else { 300 };

/// A child that stands before `act`, ready to be stepped. `prepare` runs freely.
pub(crate) fn traced(prepare: impl FnOnce(), act: impl FnOnce()) -> Child {
    let mut child = fork(|| {
        prepare();
        // SAFETY: asks to be traced by the parent; touches no memory.
        let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        assert_eq!(traced, 0, "ptrace: {}", std::io::Error::last_os_error());
        marker();
        act();
        marker();
    });
    assert_eq!(child.stops_or_ends(), None, "the first marker");
    child
}

/// Stops a traced process for its tracer.
fn marker() {
    // SAFETY: a signal to this thread, which its tracer takes.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// One request that takes no memory of ours.
fn ptrace(request: libc::c_uint, child: &Child, at: u64, data: u64) -> u64 {
    let pid = child.pid.as_raw_nonzero().get();
    // SAFETY: `pid` is our tracee and stands still; the request is about its memory and registers, not ours.
    let done = unsafe { libc::ptrace(request, pid, at, data) };
    // What a peek finds may be -1; what else can be wrong shows at the next wait.
    let peeks = [libc::PTRACE_PEEKTEXT, libc::PTRACE_PEEKUSER].contains(&request);
    assert!(peeks || done == 0, "ptrace: {}", std::io::Error::last_os_error());
    done as u64
}

/// Waits for the victim's next stop. `Through`: at the second marker.
fn stopped(child: &Child) -> Stepped {
    let pid = child.pid.as_raw_nonzero().get();
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert!(waited == pid && libc::WIFSTOPPED(status), "the victim ended by itself: {status:#x}");
    match libc::WSTOPSIG(status) {
        libc::SIGTRAP => Stepped::Within,
        libc::SIGSTOP => Stepped::Through,
        other => panic!("the victim got signal {other}"),
    }
}

pub(crate) fn step(child: &Child, k: u64) -> Stepped {
    for _ in 0..k {
        ptrace(libc::PTRACE_SINGLESTEP, child, 0, 0);
        if stopped(child) == Stepped::Through {
            return Stepped::Through;
        }
    }
    Stepped::Within
}

/// Where the next instruction is.
const RIP: u64 = std::mem::offset_of!(libc::user_regs_struct, rip) as u64;
/// The instruction of a breakpoint, of one byte.
const INT3: u64 = 0xcc;

/// The way that one victim took, so that the next can be let run for most of it: to a breakpoint.
struct Path {
    /// Where it was after so many steps, and how often it had been there before.
    at: Vec<(u64, u64)>,
}

impl Path {
    /// Of a victim that goes it all.
    fn of(victim: &Child) -> Self {
        let (mut at, mut seen) = (Vec::new(), std::collections::HashMap::new());
        loop {
            let place = ptrace(libc::PTRACE_PEEKUSER, victim, RIP, 0);
            let before: &mut u64 = seen.entry(place).or_default();
            at.push((place, *before));
            *before += 1;
            if step(victim, 1) == Stepped::Through {
                return Self { at };
            }
        }
    }

    /// Brings a victim `k` steps far. `Through`: it took another way, or has not so many.
    fn walk(&self, child: &Child, k: u64) -> Stepped {
        let k = k as usize;
        let cost = |&j: &usize| 3 * self.at[j].1 as usize + (k - j);
        let last = k.min(self.at.len() - 1);
        match (0..=last).rev().take(4096).min_by_key(cost) {
            Some(j) if cost(&j) < k => {
                let (place, before) = self.at[j];
                if run_to(child, place, before) == Stepped::Through {
                    return Stepped::Through;
                }
                step(child, (k - j) as u64)
            }
            _ => step(child, k as u64),
        }
    }
}

/// Lets a victim run until it is at that place for the time after `before` times.
fn run_to(child: &Child, place: u64, before: u64) -> Stepped {
    let text = ptrace(libc::PTRACE_PEEKTEXT, child, place, 0);
    for left in (0..=before).rev() {
        ptrace(libc::PTRACE_POKETEXT, child, place, text & !0xff | INT3);
        ptrace(libc::PTRACE_CONT, child, 0, 0);
        if stopped(child) == Stepped::Through {
            return Stepped::Through;
        }
        assert_eq!(ptrace(libc::PTRACE_PEEKUSER, child, RIP, 0), place + 1, "at the breakpoint");
        ptrace(libc::PTRACE_POKETEXT, child, place, text);
        ptrace(libc::PTRACE_POKEUSER, child, RIP, place);
        if left > 0 && step(child, 1) == Stepped::Through {
            return Stepped::Through;
        }
    }
    Stepped::Within
}

/// Is each instruction taken, however many there are?
pub(crate) fn takes_all() -> bool {
    std::env::var_os("ALLMEND_LONG").is_some()
}

/// How many rounds there were, in how many instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) rounds: u64,
    pub(crate) instructions: u64,
}

impl std::fmt::Display for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} kill points in {} instructions", self.rounds, self.instructions)
    }
}

/// A round for each instruction of `act`: the victim stands still after `k` of them, and `round` does the rest and kills
/// it. With many instructions only each so-many-th is taken, unless `ALLMEND_LONG` is set.
pub(crate) fn every_instruction(
    what: &str,
    prepare: impl Fn(),
    act: impl Fn(),
    mut round: impl FnMut(Child, Stepped),
) -> Rounds {
    stage(&format!("{what}, how many instructions it has"));
    // Twice: what is done once only, by those around the victim, is no part of its way.
    let mut walked = || {
        let victim = traced(&prepare, &act);
        let path = Path::of(&victim);
        round(victim, Stepped::Through);
        path
    };
    walked();
    let path = walked();
    let instructions = path.at.len() as u64 - 1;
    let stride = if takes_all() { 1 } else { instructions / ROUNDS + 1 };
    let (mut rounds, mut k, mut by_steps) = (0, 0, false);
    loop {
        stage(&format!("{what}, killed after {k} instructions"));
        let child = traced(&prepare, &act);
        let stepped = if by_steps { step(&child, k) } else { path.walk(&child, k) };
        round(child, stepped);
        match stepped {
            Stepped::Within => (rounds, k, by_steps) = (rounds + 1, k + stride, false),
            // It may have taken another way past the breakpoint: then once more, step by step.
            Stepped::Through if !by_steps => by_steps = true,
            Stepped::Through => return Rounds { rounds, instructions },
        }
    }
}
