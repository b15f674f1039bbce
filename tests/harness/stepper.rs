//! A short way to a process's `k`-th instruction, over all of an operation.
//!
//! A step costs tens of microseconds where a hypervisor takes each trap, so that `k` steps for each of thousands of `k`
//! would take hours. A [`Trace`] knows where a process is after how many steps; from it follows, for each `k`, which
//! instruction shortly before it came up seldom until then. A debug register stops the process there, and the rest are
//! single steps. A process that goes another way than the trace is found out by where it stands.

#![allow(unsafe_code, reason = "ptrace")]

use super::{Child, steps::Stepped};
use std::collections::HashMap;

/// Lets a tracee that stands still go on by `request`, until it stands again.
fn go(child: &Child, request: libc::c_uint) -> Stepped {
    let pid = child.pid.as_raw_nonzero().get();
    // SAFETY: `pid` is our tracee and stands still.
    let done = unsafe { libc::ptrace(request, pid, 0, 0) };
    assert_eq!(done, 0, "ptrace: {}", std::io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert!(waited == pid && libc::WIFSTOPPED(status), "the victim ended by itself: {status:#x}");
    match libc::WSTOPSIG(status) {
        libc::SIGTRAP => Stepped::Within,
        libc::SIGSTOP => Stepped::Through, // the second marker
        other => panic!("the victim got signal {other}"),
    }
}

fn step(child: &Child, k: u64) -> Stepped {
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
    let pid = child.pid.as_raw_nonzero().get();
    // SAFETY: `pid` is our tracee and stands still.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, pid, 8 * libc::RIP as usize, 0) };
    word as u64
}

/// Sets a debug register; `false` if there are none here.
fn set_debug(child: &Child, register: usize, to: u64) -> bool {
    let pid = child.pid.as_raw_nonzero().get();
    let place = std::mem::offset_of!(libc::user, u_debugreg) + 8 * register;
    // SAFETY: `pid` is our tracee and stands still.
    unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid, place, to) == 0 }
}

/// Steps a child to the end; calls `each` before each instruction with its number and address.
pub(crate) fn walk(child: &Child, mut each: impl FnMut(u64, u64)) -> u64 {
    let mut k = 0;
    loop {
        each(k, at(child));
        if step(child, 1) == Stepped::Through {
            return k;
        }
        k += 1;
    }
}

/// Where a process is after how many steps.
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
