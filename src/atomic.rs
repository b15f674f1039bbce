//! The one door to atomics: every word that another process or thread may write goes through it.
//!
//! | type | lives in | a kill point before each write |
//! |---|---|---|
//! | [`Word8`] .. [`Word64`] | shared bytes | yes |
//! | [`Private32`], [`Private64`] | this process's own memory | no |
//!
//! Three builds of one protocol:
//! * plain: a newtype over `core`'s atomic, [`step`] is nothing;
//! * `cfg(loom)`: over loom's, inside a model; [`step`] can end the model thread ([`kill_after`]);
//! * `cfg(allmend_crash)`: over `core`'s, and [`step`] counts, so that a test can have a real process killed
//!   before its N-th shared write, for every N ([`arm`]), and can break a [`Rule`] to see that it would notice.
//!
//! The types are newtypes, not re-exports, so that the lint which bans the raw ones can be kept everywhere else.
#![allow(clippy::disallowed_types, reason = "this is the door")]

#[cfg(not(loom))]
use core::sync::atomic as imp;
#[cfg(loom)]
use loom::sync::atomic as imp;

pub(crate) use imp::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $plain:ty) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[cfg_attr(not(loom), repr(transparent))]
        pub(crate) struct $name {
            value: imp::$atomic,
            #[cfg(loom)]
            sleepers: crate::os::futex::Sleepers,
        }

        #[allow(dead_code, reason = "each width has the same operations, whoever needs them")]
        impl $name {
            #[cfg(not(loom))]
            pub(crate) const fn new(value: $plain) -> Self {
                Self { value: imp::$atomic::new(value) }
            }

            #[cfg(loom)]
            pub(crate) fn new(value: $plain) -> Self {
                Self { value: imp::$atomic::new(value), sleepers: Default::default() }
            }

            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $plain {
                self.value.load(order)
            }

            #[inline]
            pub(crate) fn store(&self, value: $plain, order: Ordering) {
                step();
                self.value.store(value, order);
            }

            #[inline]
            pub(crate) fn swap(&self, value: $plain, order: Ordering) -> $plain {
                step();
                self.value.swap(value, order)
            }

            /// Failure loads with `Relaxed` unless `failure` says more.
            #[inline]
            pub(crate) fn compare_exchange(
                &self,
                current: $plain,
                new: $plain,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$plain, $plain> {
                step();
                self.value.compare_exchange(current, new, success, failure)
            }

            #[inline]
            pub(crate) fn fetch_add(&self, n: $plain, order: Ordering) -> $plain {
                step();
                self.value.fetch_add(n, order)
            }

            #[inline]
            pub(crate) fn fetch_sub(&self, n: $plain, order: Ordering) -> $plain {
                step();
                self.value.fetch_sub(n, order)
            }

            #[inline]
            pub(crate) fn fetch_and(&self, n: $plain, order: Ordering) -> $plain {
                step();
                self.value.fetch_and(n, order)
            }

            #[inline]
            pub(crate) fn fetch_or(&self, n: $plain, order: Ordering) -> $plain {
                step();
                self.value.fetch_or(n, order)
            }

            #[inline]
            pub(crate) fn fetch_xor(&self, n: $plain, order: Ordering) -> $plain {
                step();
                self.value.fetch_xor(n, order)
            }

            /// Where it is, for the futex call.
            #[cfg(not(loom))]
            #[inline]
            pub(crate) fn as_ptr(&self) -> *mut $plain {
                self.value.as_ptr()
            }

            /// The model's kernel queue of this word.
            #[cfg(loom)]
            pub(crate) fn sleepers(&self) -> &crate::os::futex::Sleepers {
                &self.sleepers
            }
        }
    };
}

word!(
    /// One shared byte.
    Word8, AtomicU8, u8
);
word!(
    /// Two shared bytes.
    Word16, AtomicU16, u16
);
word!(
    /// Four shared bytes: lock words and everything that a process can sleep on.
    Word32, AtomicU32, u32
);
word!(
    /// Eight shared bytes: bodies of objects, states, offsets.
    Word64, AtomicU64, u64
);

/// Orders memory; see each use for what it pairs with.
#[inline]
pub(crate) fn fence(order: Ordering) {
    imp::fence(order);
}

/// The full fence right behind a locked read-modify-write, for protocols in which two announce and then each looks for
/// the other. On x86-64 that instruction is the fence already, and only the compiler must be kept from moving loads;
/// elsewhere, and in models, it is a fence.
#[inline(always)]
pub(crate) fn fence_after_swap() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(SeqCst);
}

/// The full fence between a load and later ones, for who must see what was there when another made what the first load
/// saw. x86-64 takes loads in order, from one memory for all, so that there only the compiler must be kept from moving
/// them; elsewhere, and in models, it is a fence.
#[inline(always)]
pub(crate) fn fence_between_loads() {
    fence_after_swap();
}

/// Keeps the compiler from moving accesses over it. A kill finds what the instructions before it did, on every machine.
#[inline(always)]
pub(crate) fn compiler_fence() {
    core::sync::atomic::compiler_fence(SeqCst);
}

/// One pause of a spinning loop.
#[inline]
pub(crate) fn spin() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// A longer pause: another thread, on the same processor, goes on first.
pub(crate) fn give_way() {
    #[cfg(not(loom))]
    std::thread::yield_now();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Words of this process alone: no other process sees them, so a kill before a write to them means nothing.
pub(crate) use private::{Private32, Private64};

#[cfg_attr(loom, allow(dead_code, reason = "models make few of them"))]
mod private {
    use super::{Ordering, imp};

    macro_rules! private {
        ($name:ident, $atomic:ident, $plain:ty) => {
            /// As the shared word of that width, without kill points.
            #[derive(Debug, Default)]
            #[cfg_attr(not(loom), repr(transparent))]
            pub(crate) struct $name(imp::$atomic);

            #[allow(dead_code, reason = "both widths have the same operations, whoever needs them")]
            impl $name {
                #[cfg(not(loom))]
                pub(crate) const fn new(value: $plain) -> Self {
                    Self(imp::$atomic::new(value))
                }
                #[cfg(loom)]
                pub(crate) fn new(value: $plain) -> Self {
                    Self(imp::$atomic::new(value))
                }
                #[inline]
                pub(crate) fn load(&self, order: Ordering) -> $plain {
                    self.0.load(order)
                }
                #[inline]
                pub(crate) fn store(&self, value: $plain, order: Ordering) {
                    self.0.store(value, order);
                }
                #[inline]
                pub(crate) fn swap(&self, value: $plain, order: Ordering) -> $plain {
                    self.0.swap(value, order)
                }
                #[inline]
                pub(crate) fn compare_exchange(
                    &self,
                    current: $plain,
                    new: $plain,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$plain, $plain> {
                    self.0.compare_exchange(current, new, success, failure)
                }
                #[inline]
                pub(crate) fn fetch_add(&self, n: $plain, order: Ordering) -> $plain {
                    self.0.fetch_add(n, order)
                }
                #[inline]
                pub(crate) fn fetch_sub(&self, n: $plain, order: Ordering) -> $plain {
                    self.0.fetch_sub(n, order)
                }
            }
        };
    }
    private!(Private32, AtomicU32, u32);
    private!(Private64, AtomicU64, u64);
}

/// Called before every shared write and every wake: the place where a process can die.
#[cfg(not(any(loom, allmend_crash)))]
#[inline(always)]
pub(crate) fn step() {}

#[cfg(allmend_crash)]
pub(crate) use crash::{arm, break_rule, broken, step, steps};

/// A protection that a test of the kill-point build can take away, to see that it notices. Nothing of it is left in
/// other builds. (The rules that only a model checker can see broken are in `sync::mutation`.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(allmend_crash),
    allow(dead_code, unreachable_pub, reason = "asked for in every build, named by tests in one")
)]
pub enum Rule {
    /// A value is written to the spare buffer, and one store makes it count.
    CommitIsOneStore,
    /// A waiter asks whether the lock's holder lives.
    AskBeforeWaiting,
    /// What moves in a map is copied, the copy made to count, and only then cleared.
    CopyBeforeClearing,
    /// Who inherits a map's lock recovers before it changes anything.
    RecoverFirst,
    /// What a dead process left is cleared.
    SweepTheDead,
    /// Who clears what the dead left takes their claims on names away.
    RetractTheDead,
    /// A name keeps its object.
    NamesKeep,
    /// Who clears a block that was on its way asks whether an object names it.
    AskForTheParent,
    /// An update of a range says how to undo it before it changes an element.
    UndoFirst,
    /// Who claims looks at the claims of others.
    LookAtOthers,
    /// Who opens a named segment looks, under its lock, whether the name still leads there.
    LookAtTheName,
    /// Who takes a name away without being asked to has made sure that nobody is attached.
    AloneToUnlink,
}

/// Does the test break this rule?
#[cfg(not(allmend_crash))]
#[inline(always)]
pub(crate) const fn broken(_: Rule) -> bool {
    false
}

/// Kill points in real processes.
#[cfg(allmend_crash)]
mod crash {
    use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};

    static STEPS: AtomicU64 = AtomicU64::new(0);
    static LAST: AtomicU64 = AtomicU64::new(u64::MAX);
    static ACT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
    static BROKEN: AtomicU64 = AtomicU64::new(0);

    /// From now on this rule is not kept in this process.
    pub(crate) fn break_rule(rule: super::Rule) {
        BROKEN.fetch_or(1 << rule as u32, SeqCst);
    }

    pub(crate) fn broken(rule: super::Rule) -> bool {
        BROKEN.load(SeqCst) & 1 << rule as u32 != 0
    }

    /// From now on: `act` (which dies, or stops for a while) is called before the `n`-th step, counted from 1.
    /// `u64::MAX` never.
    pub(crate) fn arm(n: u64, act: fn()) {
        ACT.store(act as *mut (), SeqCst);
        STEPS.store(0, SeqCst);
        LAST.store(n, SeqCst);
    }

    /// Steps since [`arm`].
    pub(crate) fn steps() -> u64 {
        STEPS.load(SeqCst)
    }

    #[allow(unsafe_code, reason = "a function pointer through an atomic")]
    pub(crate) fn step() {
        if STEPS.fetch_add(1, SeqCst) + 1 == LAST.load(SeqCst) {
            let act = ACT.load(SeqCst);
            assert!(!act.is_null(), "armed without an act");
            // SAFETY: `arm` stored a `fn()` there before it set LAST, and nothing else is ever stored.
            let act: fn() = unsafe {
                #[allow(clippy::disallowed_methods, reason = "see above")]
                core::mem::transmute(act)
            };
            act()
        }
    }
}

#[cfg(loom)]
pub(crate) use model::{Killed, kill_after, step};

/// Kill points in model threads.
#[cfg(loom)]
mod model {
    use std::cell::Cell;

    loom::thread_local! {
        static LEFT: Cell<usize> = Cell::new(usize::MAX);
    }

    /// What a killed model thread unwinds with. The thread's closure catches it and then does what the kernel
    /// does at a death.
    #[derive(Debug)]
    pub(crate) struct Killed;

    /// This model thread is killed before its `n`-th step from now, counted from 1.
    pub(crate) fn kill_after(n: usize) {
        LEFT.with(|left| left.set(n));
    }

    pub(crate) fn step() {
        let kill = LEFT.with(|left| match left.get() {
            usize::MAX => false,
            1 => {
                left.set(usize::MAX);
                true
            }
            n => {
                left.set(n - 1);
                false
            }
        });
        if kill {
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}
