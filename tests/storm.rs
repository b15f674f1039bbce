//! A storm: workers add to a ledger under its lock, and every few milliseconds one of them is killed and replaced.
//!
//! What must hold: what was acknowledged is there; of each dead worker at most one addition is there that it had no
//! time to acknowledge; `total` is the sum of the parts at every look, not only at the end; nothing leaks; nobody hangs.
//!
//! Short form: 10 s. Long form (`ALLMEND_LONG=1`): at least a minute and 10,000 kills. The seed is printed;
//! `ALLMEND_SEED` repeats it.

mod harness;

use allmend::{SharedAtomic, SharedValue};
use bytemuck::{Pod, Zeroable};
use harness::{Child, Random, fork, stage, until};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

const WORKERS: usize = 4;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ledger {
    total: u64,
    per_worker: [u64; WORKERS],
}

impl Ledger {
    fn is_whole(&self) -> bool {
        self.total == self.per_worker.iter().sum::<u64>()
    }
}

fn main() {
    harness::run(&[("storm", storm)]);
}

struct World {
    ledger: SharedValue<Ledger>,
    /// What each worker has acknowledged.
    acknowledged: Vec<SharedAtomic<u64>>,
    /// Longest time between two additions of a worker that lived through it, in nanoseconds.
    stall: SharedAtomic<u64>,
    /// Locks that were inherited from a dead worker.
    inherited: SharedAtomic<u64>,
}

impl World {
    fn worker(&self, i: usize, mut random: Random) -> ! {
        // The killer comes first: there are more workers than CPUs.
        let _ = rustix::process::nice(10);
        // Things that a death leaves behind.
        let _own = SharedValue::new([i as u64; 20]).unwrap();
        let mut last = Instant::now();
        loop {
            let mut guard = self.ledger.get_lock().unwrap();
            assert!(guard.is_whole(), "a torn ledger under the lock");
            self.inherited.fetch_add(guard.inherited().is_some().into());
            guard.total += 1;
            work(random.below(2_000)); // between the halves of the update
            guard.per_worker[i] += 1;
            drop(guard);
            self.acknowledged[i].fetch_add(1);
            work(random.below(500));
            let now = Instant::now();
            self.stall.fetch_max((now - last).as_nanos() as u64);
            last = now;
            if random.below(16) == 0 {
                black_box(SharedValue::new([random.next(); 100]).unwrap());
            }
        }
    }

    fn start(&self, i: usize, random: &mut Random) -> Child {
        let seed = random.next();
        fork(|| self.worker(i, Random::seeded(seed)))
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.iter().map(SharedAtomic::load).collect()
    }
}

fn work(units: u64) {
    for i in 0..units {
        black_box(i);
    }
}

fn storm() {
    let long = std::env::var_os("ALLMEND_LONG").is_some();
    let (at_least, kills_wanted) = if long { (60, 10_000) } else { (10, 1_000) };
    let at_least = Duration::from_secs(at_least);
    let mut random = Random::new();
    let world = World {
        ledger: SharedValue::new(Ledger::zeroed()).unwrap(),
        acknowledged: (0..WORKERS).map(|_| SharedAtomic::new(0).unwrap()).collect(),
        stall: SharedAtomic::new(0).unwrap(),
        inherited: SharedAtomic::new(0).unwrap(),
    };
    let kept = allmend::verify().unwrap().objects;
    let begin = Instant::now();
    let mut workers: Vec<Child> = (0..WORKERS).map(|i| world.start(i, &mut random)).collect();
    let mut deaths = [0u64; WORKERS];
    let mut kills = 0;
    while begin.elapsed() < at_least || kills < kills_wanted {
        // The rhythm of the storm, not a wait for anybody.
        std::thread::sleep(Duration::from_micros(random.below(2_500)));
        let i = random.below(WORKERS as u64) as usize;
        stage(&format!("kill {kills}, of worker {i}"));
        workers[i].kill();
        kills += 1;
        deaths[i] += 1;
        check(&world, &deaths);
        // Somebody gets on, whoever died with the lock.
        let before = world.ledger.get().total;
        workers[i] = world.start(i, &mut random);
        if kills % 100 == 0 {
            allmend::verify().expect("a healthy segment in the storm");
        }
        until(|| world.ledger.get().total != before);
    }
    for (i, mut worker) in workers.into_iter().enumerate() {
        worker.kill();
        deaths[i] += 1;
    }
    check(&world, &deaths);
    let end = *world.ledger.get_lock().unwrap();
    let acknowledged: u64 = world.acknowledged().iter().sum();
    assert!(end.is_whole());
    let report = allmend::verify().unwrap();
    assert_eq!((report.objects, report.busy, report.processes), (kept, 0, 1), "a leak: {report:?}");
    println!(
        "  {kills} kills in {:.1?}, {} additions, {} acknowledged, {} locks inherited from the dead, \
         longest stall of a survivor {:.1?}, {} KiB of shared memory",
        begin.elapsed(),
        end.total,
        acknowledged,
        world.inherited.load(),
        Duration::from_nanos(world.stall.load()),
        report.committed / 1024,
    );
    assert!(world.inherited.load() > 0, "no worker died with the lock: the storm is too calm");
}

/// At any moment: the ledger is whole, nothing acknowledged is missing, and at most one addition per death (and one of
/// the living that is just being acknowledged) is more than that.
fn check(world: &World, deaths: &[u64; WORKERS]) {
    let acknowledged = world.acknowledged();
    let ledger = world.ledger.get();
    assert!(ledger.is_whole(), "a torn ledger: {} != {:?}", ledger.total, ledger.per_worker);
    for (i, acknowledged) in acknowledged.into_iter().enumerate() {
        let there = ledger.per_worker[i];
        assert!(acknowledged <= there, "worker {i}: {acknowledged} acknowledged, {there} there");
    }
    // Looked at the other way round, so that what is acknowledged meanwhile does not count against anybody.
    let ledger = world.ledger.get();
    for (i, acknowledged) in world.acknowledged().into_iter().enumerate() {
        let more = ledger.per_worker[i].saturating_sub(acknowledged);
        assert!(
            more <= deaths[i] + 1,
            "worker {i}: {more} additions that nobody acknowledged, {} deaths",
            deaths[i]
        );
    }
}
