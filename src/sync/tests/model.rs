//! What the models share: processes that can be killed, runs that are counted, failures that are demanded.

use crate::{
    atomic::{Acquire, Killed, Ordering, Release, Word32, kill_after},
    segment::owner::Owner,
    sync::{
        mutation::{Mutation, breaking},
        word::{Holder, Peers},
    },
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How a question about a life is asked, unless a mutation says otherwise.
pub(super) const ALIVE: Ordering = Acquire;

/// The processes of a model: who lives, as the kernel would say it. A word is 1 while its process lives.
#[derive(Debug)]
pub(super) struct Kernel {
    alive: [Word32; 4],
    /// [`ALIVE`], or broken.
    question: Ordering,
}

impl Kernel {
    pub(super) fn new(question: Ordering) -> Self {
        Self { alive: std::array::from_fn(|_| Word32::new(1)), question }
    }

    /// Process `id` lives no more.
    pub(super) fn ends(&self, id: usize) {
        self.alive[id].store(0, Release);
    }

    /// Runs process `id`, killed before its `kill`-th shared write if that is given. When it is killed, its life ends
    /// (Release: the assumption is that the kernel lets go of a dead process's file lock after the process's last
    /// write, and that who finds it gone acquires), and `after` does what the world does then.
    pub(super) fn run(
        &self,
        id: usize,
        kill: Option<usize>,
        body: impl FnOnce(),
        after: impl FnOnce(),
    ) -> bool {
        kill_after(kill.unwrap_or(usize::MAX));
        let end = catch_unwind(AssertUnwindSafe(body));
        match end {
            Ok(()) => {
                spare();
                false
            }
            Err(end) if end.is::<Killed>() => {
                self.ends(id);
                after();
                true
            }
            Err(end) => resume_unwind(end), // an assertion, or loom's
        }
    }
}

/// This model thread is not killed any more.
pub(super) fn spare() {
    kill_after(usize::MAX);
}

/// Longer than any bounded sleep.
pub(super) const LONG: Duration = Duration::from_secs(1);

/// The owner id of process `id`.
pub(super) fn owner(id: usize) -> Owner {
    Owner::new(1, id as u32 + 1).unwrap()
}

/// A process with one thread.
#[derive(Debug)]
pub(super) struct Single<'a>(pub(super) &'a Kernel);

impl Peers for Single<'_> {
    type Lost = std::convert::Infallible;

    fn is_alive(&self, owner: Owner) -> Result<bool, Self::Lost> {
        Ok(self.0.alive[owner.slot() as usize - 1].load(self.0.question) != 0)
    }

    fn holder(&self) -> Holder {
        Holder::Nobody
    }

    fn sleeping(&self, _: &Word32, _: Owner, sleep: impl FnOnce()) {
        sleep();
    }
}

/// Checks one model in all its executions.
pub(super) fn check(name: &str, model: impl Fn() + Send + Sync + 'static) {
    check_within(name, None, model);
}

/// The same, with fewer preemptions: for models that would take many minutes.
pub(super) fn check_within(name: &str, preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let (begin, executions) = (Instant::now(), Arc::new(Mutex::new(0)));
    let mut builder = loom::model::Builder::new();
    // 3: real bugs of the lock word pass at 2.
    builder.preemption_bound = preemptions.or(builder.preemption_bound).or(Some(3));
    builder.max_branches = builder.max_branches.max(10_000); // some models have much to set up
    let count = executions.clone();
    builder.check(move || {
        *count.lock().unwrap() += 1;
        model();
    });
    let executions = *executions.lock().unwrap();
    println!("{name}: {executions} executions, {:.2?}", begin.elapsed());
}

/// Checks a model for every kill point of its victim: `model(n, killed)` kills it before its `n`-th shared write, and
/// calls `killed` if that came to pass. Ends with the first `n` that no execution reaches; there must be `at_least`
/// many before.
pub(super) fn check_every_kill<M>(name: &str, at_least: usize, model: M)
where
    M: Fn(usize, &dyn Fn()) + Send + Sync + 'static,
{
    check_every_kill_within(name, None, at_least, model);
}

/// The same, as [`check_within`].
pub(super) fn check_every_kill_within<M>(name: &str, preemptions: Option<usize>, at_least: usize, model: M)
where
    M: Fn(usize, &dyn Fn()) + Send + Sync + 'static,
{
    let model = Arc::new(model);
    for n in 1.. {
        let (killed, model) = (Arc::new(Mutex::new(false)), model.clone());
        let seen = killed.clone();
        check_within(&format!("{name}, killed before write {n}"), preemptions, move || {
            model(n, &|| *seen.lock().unwrap() = true)
        });
        if !*killed.lock().unwrap() {
            assert!(n > at_least, "{name}: only {} kill points", n - 1);
            return;
        }
    }
}

/// How a broken protocol shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Caught {
    /// All sleep for ever.
    Deadlock,
    /// Two were in the section, or the second did not see what the first had done.
    Race,
    /// An assertion of the model with these words.
    Saying(&'static str),
}

/// Demands that `check` fails with these rules broken, and so.
pub(super) fn must_fail(
    mutations: &'static [Mutation],
    caught: Caught,
    check: impl FnOnce() + Send + 'static,
) {
    let expected = match caught {
        Caught::Deadlock => "deadlock; threads",
        Caught::Race => "Causality violation",
        Caught::Saying(words) => words,
    };
    crate::mutation::must_fail(&mutations, &[expected], move || breaking(mutations, check));
}
