//! Known ways to break the protocols, one list beside each.
//!
//! A model is worth what its mutations cost: a checker that passes on a broken protocol says nothing about the right
//! one. So each rule that is easy to lose has a name in its room, the code asks `broken` where it keeps the rule, and
//! the models break one at a time and demand a failure, with the words of what the rule prevents. In a real build
//! `broken` is the constant `false` and nothing of this is left.

/// What asks for a list of rules, `Mutation`, in the module that has it: `broken`, `unless` and, for models, `breaking`.
macro_rules! breaks {
    ($visibility:vis $mutation:ident) => {
        /// Is this rule broken in the model that runs now?
        #[cfg(not(loom))]
        #[inline(always)]
        $visibility const fn broken(_: $mutation) -> bool {
            false
        }

        #[cfg(loom)]
        $visibility fn broken(mutation: $mutation) -> bool {
            BROKEN.with_borrow(|broken| broken.contains(&mutation))
        }

        /// `order`, unless the rule is broken.
        #[allow(dead_code, reason = "not every list has rules about orders")]
        #[inline(always)]
        $visibility fn unless(mutation: $mutation, order: $crate::atomic::Ordering) -> $crate::atomic::Ordering {
            if broken(mutation) { $crate::atomic::Relaxed } else { order }
        }

        #[cfg(loom)]
        std::thread_local! {
            // std's, not loom's: all threads of a model run on the one thread of their test, and shall share it.
            static BROKEN: std::cell::RefCell<Vec<$mutation>> = const { std::cell::RefCell::new(Vec::new()) };
        }

        /// Runs `f` with these rules broken.
        #[cfg(all(test, loom))]
        $visibility fn breaking<R>(mutations: &[$mutation], f: impl FnOnce() -> R) -> R {
            struct Mend;
            impl Drop for Mend {
                fn drop(&mut self) {
                    BROKEN.with_borrow_mut(Vec::clear);
                }
            }
            let _mend = Mend;
            BROKEN.with_borrow_mut(|broken| broken.extend(mutations));
            f()
        }
    };
}
pub(crate) use breaks;

/// Runs all executions of a model, with at most so many preemptions in each.
#[cfg(all(test, loom))]
pub(crate) fn explore(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    use std::sync::{Arc, Mutex};
    let (begin, executions) = (std::time::Instant::now(), Arc::new(Mutex::new(0)));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.or(builder.preemption_bound).or(Some(3));
    let count = Arc::clone(&executions);
    builder.check(move || {
        *count.lock().unwrap() += 1;
        model();
    });
    println!("{name}: {} executions, {:.2?}", executions.lock().unwrap(), begin.elapsed());
}

/// Demands that `model`, in which `rule` is broken, fails, saying one of these.
#[cfg(all(test, loom))]
pub(crate) fn must_fail(rule: &impl std::fmt::Debug, says: &[&str], model: impl FnOnce() + Send + 'static) {
    // On a thread of its own: a model that failed leaves its coroutines behind.
    let end = std::thread::spawn(model).join().expect_err("the model passed with the rule broken");
    let said = end.downcast_ref::<String>().map(String::as_str).or(end.downcast_ref::<&str>().copied());
    let said = said.unwrap_or("a panic without words");
    println!("{rule:?}: {}", said.lines().next().unwrap_or_default());
    assert!(says.iter().any(|words| said.contains(words)), "{rule:?} was caught for another reason: {said}");
}
