//! A victim that is brought (ptrace) some instructions into an operation, and then killed there.
//!
//! A step costs tens of microseconds where a hypervisor takes each trap, so that `k` steps for each of thousands of `k`
//! would take hours. A [`Trace`] knows where a victim is after how many steps; from it follows, for each `k`, which
//! instruction shortly before it came up seldom until then. A debug register stops the next victim there, and the rest are
//! single steps. One that goes another way than the trace is found out by where it stands.
#![allow(unsafe_code, reason = "ptrace")]

use super::{Child, fork, stage};
use std::collections::HashMap;

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

/// One request that takes no memory of ours. What was wrong with others than a peek shows at the next wait, too.
fn ptrace(request: libc::c_uint, child: &Child, at: u64, data: u64) -> Result<u64, std::io::Error> {
    let pid = child.pid.as_raw_nonzero().get();
    // SAFETY: `pid` is our tracee and stands still; the request is about its registers and its way, not our memory.
    let done = unsafe { libc::ptrace(request, pid, at, data) };
    if done == -1 && request != libc::PTRACE_PEEKUSER {
        return Err(std::io::Error::last_os_error());
    }
    Ok(done as u64)
}

/// Lets a victim that stands still go on by `request`, until it stands again. `Through`: at the second marker.
fn go(child: &Child, request: libc::c_uint) -> Stepped {
    ptrace(request, child, 0, 0).expect("ptrace");
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
        if go(child, libc::PTRACE_SINGLESTEP) == Stepped::Through {
            return Stepped::Through;
        }
    }
    Stepped::Within
}

/// Lets one that was brought to instruction `k` go on to the end of `act`, if it is not there yet.
pub(crate) fn finish(child: &Child, k: u64) {
    if k == 0 || !is_at_marker(child) {
        assert_eq!(go(child, libc::PTRACE_CONT), Stepped::Through, "it was to come to its end");
    }
}

/// Did the last stop come from a marker?
fn is_at_marker(child: &Child) -> bool {
    let pid = child.pid.as_raw_nonzero().get();
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `pid` is our tracee and stands still; `info` lives through the call.
    let told = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, pid, 0, &raw mut info) };
    assert_eq!(told, 0, "ptrace: {}", std::io::Error::last_os_error());
    info.si_signo == libc::SIGSTOP
}

/// The address of the next instruction.
fn at(child: &Child) -> u64 {
    let rip = std::mem::offset_of!(libc::user_regs_struct, rip) as u64;
    ptrace(libc::PTRACE_PEEKUSER, child, rip, 0).expect("ptrace")
}

/// Sets a debug register; `false` if there are none here.
fn set_debug(child: &Child, register: u64, to: u64) -> bool {
    let place = std::mem::offset_of!(libc::user, u_debugreg) as u64 + 8 * register;
    ptrace(libc::PTRACE_POKEUSER, child, place, to).is_ok()
}

/// Steps a victim to its end; calls `each` before each instruction with its number and address. How many there are.
pub(crate) fn walk(child: &Child, mut each: impl FnMut(u64, u64)) -> u64 {
    let mut k = 0;
    loop {
        each(k, at(child));
        k += 1;
        if step(child, 1) == Stepped::Through {
            return k;
        }
    }
}

/// Where a victim is after how many steps.
#[derive(Debug)]
pub(crate) struct Trace {
    places: Vec<u64>,
    /// The how-manieth visit of its place this is; 0 if nothing can stop it there.
    visits: Vec<u64>,
}

/// Farther than that from a place to stop one need not look.
const NEAR: usize = 2_000;

impl Trace {
    pub(crate) fn new(places: Vec<u64>) -> Self {
        let mut seen = HashMap::new();
        let mut visits = Vec::new();
        for (k, place) in places.iter().enumerate() {
            // An instruction that repeats itself (`rep`) traps once per turn, and a debug register sees the first.
            let again = k > 0 && places[k - 1] == *place;
            if !again {
                *seen.entry(*place).or_insert(0u64) += 1;
            }
            // Where it stands at the start it is not stopped.
            visits.push(if again || *place == places[0] { 0 } else { seen[place] });
        }
        Self { places, visits }
    }

    /// How many instructions.
    pub(crate) fn len(&self) -> u64 {
        self.places.len() as u64
    }

    /// Has `child` before its instruction number `k`, from 0. `false`: it went another way.
    pub(crate) fn reach(&self, child: &Child, k: u64) -> bool {
        let k = k as usize;
        let near = (k.saturating_sub(NEAR)..=k).filter(|&j| self.visits[j] != 0);
        let cost = |j: usize| self.visits[j] + (k - j) as u64;
        let by_register = near.min_by_key(|&j| cost(j)).filter(|&j| cost(j) < k as u64);
        let mut left = k;
        if let Some(j) = by_register
            && set_debug(child, 0, self.places[j])
            && set_debug(child, 7, 1)
        {
            for _ in 0..self.visits[j] {
                if go(child, libc::PTRACE_CONT) == Stepped::Through {
                    return false;
                }
            }
            assert!(set_debug(child, 7, 0));
            if at(child) != self.places[j] {
                return false;
            }
            left = k - j;
        }
        step(child, left as u64) == Stepped::Within && at(child) == self.places[k]
    }
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
    round: impl FnMut(Child, Stepped),
) -> Rounds {
    let stride = |instructions| if takes_all() { 1 } else { instructions / ROUNDS + 1 };
    instructions(what, stride, prepare, act, round)
}

/// As [`every_instruction`], for each `stride`-th.
pub(crate) fn each_so_many(
    what: &str,
    stride: u64,
    prepare: impl Fn(),
    act: impl Fn(),
    round: impl FnMut(Child, Stepped),
) -> Rounds {
    instructions(what, |_| stride, prepare, act, round)
}

fn instructions(
    what: &str,
    stride: impl FnOnce(u64) -> u64,
    prepare: impl Fn(),
    act: impl Fn(),
    mut round: impl FnMut(Child, Stepped),
) -> Rounds {
    stage(&format!("{what}, how many instructions it has"));
    // Once freely: what is done once only, by those around the victim, is no part of its way.
    let first = traced(&prepare, &act);
    finish(&first, 0);
    round(first, Stepped::Through);
    let (victim, mut places) = (traced(&prepare, &act), Vec::new());
    walk(&victim, |_, place| places.push(place));
    round(victim, Stepped::Through);
    let trace = Trace::new(places);
    let instructions = trace.len() - 1;
    let stride = stride(instructions);
    let (mut rounds, mut k, mut by_steps) = (0, 0, false);
    loop {
        stage(&format!("{what}, killed after {k} instructions"));
        let child = traced(&prepare, &act);
        let stepped = if by_steps || k >= trace.len() {
            step(&child, k)
        } else if trace.reach(&child, k) {
            Stepped::Within
        } else {
            finish(&child, k);
            Stepped::Through
        };
        round(child, stepped);
        match stepped {
            Stepped::Within => (rounds, k, by_steps) = (rounds + 1, k + stride, false),
            // It may have gone another way: then once more, step by step.
            Stepped::Through if !by_steps && k < trace.len() => by_steps = true,
            Stepped::Through => return Rounds { rounds, instructions },
        }
    }
}
