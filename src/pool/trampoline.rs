//! From a number to code: how a task names its function, and how a worker comes to be. The room's only unsafe file.
//!
//! **A task names code by an offset** inside the image ([`crate::os::image`]). For each (`F`, `A`, `R`) the compiler
//! makes one instance of [`run`], whose type is always [`Trampoline`]; its offset is what travels. `F` is a function item
//! or a closure that captures nothing: it has no bytes, so there is nothing to send, and the worker's instance makes it
//! out of nothing. A function that is chosen at run time travels as a second offset, beside that of [`run_pointer`].
//!
//! Why an offset may be called, in one place:
//! 1. it was made by [`offset_of`] in a process that runs the same build (build ids are compared in the handshake);
//! 2. its seal over the pool's key, which is not in shared memory, says that nobody overwrote it (`wire::Order`);
//! 3. it leads into the executable segments of our image (`code_at` checks).
//!
//! **A worker is our own executable, started again.** The entry of `.init_array` below runs before `main`, finds the
//! marker in the environment, and never comes back: `main` does not run in a worker. Without the marker it does nothing.

#![allow(unsafe_code, reason = "code from an offset, a value of a type without bytes, a constructor")]

use super::{
    wire::Sealed,
    worker::{self, Call},
};
use crate::{
    error::TaskError,
    os::image::{self, Constructor},
};
use libc::{c_char, c_int};
use rustix::fd::{FromRawFd, OwnedFd, RawFd};
use serde::{Serialize, de::DeserializeOwned};
use std::ffi::OsStr;

/// Runs one item: argument bytes in, result bytes out.
pub(crate) type Trampoline = fn(&mut Call<'_>) -> Result<(), TaskError>;

/// The instance for a function without bytes.
fn run<F, A, R>(call: &mut Call<'_>) -> Result<(), TaskError>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    const { assert!(size_of::<F>() == 0, "a task captures nothing: pass it in the argument") }
    let argument: A = call.argument()?;
    // SAFETY: `F` has size 0, so a dangling, aligned pointer is valid for a read of it. `F` has a value: the one that
    // the submitter passed, which `Copy + Send + 'static` allows to be copied to another thread, at any later time.
    let function: F = unsafe { std::ptr::NonNull::<F>::dangling().read() };
    let result = function(argument);
    call.give(&result)
}

/// The instance for a function that is named by [`Call::function`].
fn run_pointer<A, R>(call: &mut Call<'_>) -> Result<(), TaskError>
where
    A: DeserializeOwned,
    R: Serialize,
{
    let argument: A = call.argument()?;
    let code = call.function().and_then(|offset| image::code_at(offset as i64)).ok_or_else(overwritten)?;
    // SAFETY: same size; the offset was made from a `fn(A) -> R` beside this very instance: see the header, 1 to 3.
    let function: fn(A) -> R = unsafe {
        #[allow(clippy::disallowed_methods, reason = "there is no other way to a function from an address")]
        std::mem::transmute::<*const (), fn(A) -> R>(code)
    };
    let result = function(argument);
    call.give(&result)
}

/// The task is not what was submitted.
pub(crate) fn overwritten() -> TaskError {
    TaskError::Lost
}

/// The names of a task's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Code {
    pub(crate) trampoline: u64,
    /// 1 + the function's offset, or 0.
    pub(crate) function: u64,
}

fn offset_of(code: *const ()) -> Result<u64, TaskError> {
    // A library that was loaded into another program has an image of its own, which workers do not have.
    image::anchor_offset_of(code).map(|offset| offset as u64).ok_or(TaskError::NotInImage)
}

/// The name of `F`'s instance.
pub(crate) fn code_of<F, A, R>() -> Result<Code, TaskError>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    let instance: Trampoline = run::<F, A, R>;
    Ok(Code { trampoline: offset_of(instance as *const ())?, function: 0 })
}

/// The name of a function pointer.
pub(crate) fn code_of_pointer<A, R>(function: fn(A) -> R) -> Result<Code, TaskError>
where
    A: DeserializeOwned,
    R: Serialize,
{
    let instance: Trampoline = run_pointer::<A, R>;
    let function = offset_of(function as *const ())?.wrapping_add(1);
    Ok(Code { trampoline: offset_of(instance as *const ())?, function })
}

/// The code behind a name.
pub(crate) fn resolve(sealed: Sealed) -> Result<Trampoline, TaskError> {
    let code = image::code_at(sealed.order().trampoline as i64).ok_or_else(overwritten)?;
    // SAFETY: same size; the offset was made from a `Trampoline` by `code_of`: see the header, 1 to 3.
    Ok(unsafe {
        #[allow(clippy::disallowed_methods, reason = "there is no other way to a function from an address")]
        std::mem::transmute::<*const (), Trampoline>(code)
    })
}

// --- becoming a worker ---

/// The entry that the loader calls before `main`.
#[used]
// SAFETY: the section holds pointers to functions of this type, and the loader calls each once.
#[unsafe(link_section = ".init_array")]
static ENTRY: Constructor = enter;

/// Keeps the entry in programs whose linker drops what nobody names.
pub(crate) fn keep_entry() {
    std::hint::black_box(&ENTRY);
}

extern "C" fn enter(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) {
    let Some(marker) = std::env::var_os(worker::MARKER) else { return };
    let Some(marker) = worker::Marker::parse(&marker) else { return };
    forget(worker::MARKER.as_ref());
    // SAFETY: the parent put a channel under this number for us, says the marker, and nobody else knows of it: no code
    // of this program ran before, but for other constructors, which do not own what they did not open.
    let channel = unsafe { take(marker.channel) };
    worker::before_constructors(&marker);
    // SAFETY: we are the constructor behind ENTRY, these are our arguments, and `worker::run` never returns.
    unsafe { image::run_remaining_constructors(&ENTRY, argc, argv, envp) };
    worker::run(channel, marker)
}

fn forget(name: &OsStr) {
    // SAFETY: before `main`; another constructor may have started a thread, which then must not read the environment at
    // this moment. A library cannot do better, and the marker must be gone before anything else is started.
    unsafe { std::env::remove_var(name) };
}

/// # Safety
/// Nobody else owns the descriptor of this number.
unsafe fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
