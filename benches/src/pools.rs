//! The pool tables: start, round trip, throughput; ours, bare primitives, procspawn.
//!
//! procspawn's traps (research, pool.md): a handle that is not joined blocks its worker, so handles are joined in the
//! order of submission; three descriptors per queued task, so the window stays at or under 1000.

use crate::harness::{Goals, Samples, Settings, Table, digits, nanos};
use crate::{ours, peers};
use std::collections::VecDeque;
use std::time::Duration;

/// How often a waiter looks before it sleeps, in the ping-pong. The pool's own number, where it has a CPU for each worker
/// and the submitter: so with 1 worker on 2 CPUs. With 2 workers it does not spin at all.
const SPINS: u32 = 2000;
/// Submits in flight: half of what the smallest pool has places for.
const WINDOW: usize = 128;

fn echo(n: u64) -> u64 {
    n
}

fn echo_all(items: Vec<u64>) -> Vec<u64> {
    items
}

const STAY: Duration = Duration::from_millis(10);

fn stay(_: ()) -> u32 {
    std::thread::sleep(STAY);
    std::process::id()
}

fn procspawn_pool(workers: usize) -> procspawn::Pool {
    procspawn::Pool::new(workers).expect("a pool of procspawn")
}

/// Nanoseconds until both workers have answered. They cannot meet as ours do, so each stays for a while, which is
/// subtracted.
fn procspawn_start() -> f64 {
    for _ in 0..20 {
        let mut kept = None;
        let mut pids = [0; 2];
        let time = nanos(|| {
            let pool = procspawn_pool(2);
            let answers = [pool.spawn((), stay), pool.spawn((), stay)];
            pids = answers.map(|answer| answer.join().expect("an answer"));
            kept = Some(pool);
        });
        drop(kept); // its end is not part of the start
        if pids[0] != pids[1] {
            return time - STAY.as_nanos() as f64;
        }
        // on a busy machine one worker can be so late that the other gives both answers
    }
    panic!("the second worker of procspawn never came in time");
}

fn procspawn_round_trips(n: u64) -> Vec<f64> {
    let pool = procspawn_pool(1);
    let round = |i| assert_eq!(pool.spawn(i, echo).join().expect("an answer"), i);
    (0..n / 10).for_each(round);
    (0..n).map(|i| nanos(|| round(i))).collect()
}

fn procspawn_rate(n: u64, batch: u64, window: usize) -> f64 {
    let pool = procspawn_pool(2);
    let mut sum = 0;
    let time = nanos(|| {
        let mut flying = VecDeque::with_capacity(window);
        for i in 0..n / batch {
            if flying.len() == window {
                let first: procspawn::JoinHandle<Vec<u64>> = flying.pop_front().expect("a full window");
                sum += first.join().expect("an answer").iter().sum::<u64>();
            }
            flying.push_back(pool.spawn((i * batch..(i + 1) * batch).collect::<Vec<_>>(), echo_all));
        }
        sum += flying.into_iter().map(|h| h.join().expect("an answer").iter().sum::<u64>()).sum::<u64>();
    });
    assert_eq!(sum, n * (n - 1) / 2, "an answer was wrong");
    n as f64 / time * 1e9
}

fn our_round_trips(workers: usize, n: u64) -> Vec<f64> {
    let pool = ours::pool(workers);
    ours::round_trips(&pool, n / 10);
    ours::round_trips(&pool, n)
}

fn percentile(mut times: Vec<f64>, p: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * p / 100]
}

/// All of them.
pub fn tables(settings: &Settings, goals: &mut Goals) {
    println!("## Pool: tasks that return their argument, a u64\n");
    start(settings, goals);
    round_trip(settings, goals);
    throughput(settings, goals);
}

fn start(settings: &Settings, goals: &mut Goals) {
    let rows: [(&str, &dyn Fn() -> f64); 3] = [
        ("**Pool::new(2)**, until both have answered", &ours::start),
        ("two bare posix_spawns of this executable that end at once, until reaped", &|| {
            nanos(peers::two_bare_spawns)
        }),
        ("procspawn, until both have answered", &procspawn_start),
    ];
    let mut samples = vec![Samples::default(); rows.len()];
    let times = settings.scaled(20) as usize;
    settings.interleave(rows.len(), |i| {
        let starts = (0..times).map(|_| rows[i].1()).collect();
        samples[i].push(percentile(starts, 50) / 1e6);
    });
    println!("### Start of two workers (median of {times} in each repetition)\n");
    let mut table = Table::new(&["", "ms", "/ two bare posix_spawns"]);
    for ((name, _), ms) in rows.iter().zip(&samples) {
        table.row(&[*name, &ms.show(), &digits(ms.over(&samples[1]).median())]);
    }
    table.print();
    goals.at_most("pool: start of 2 workers / two bare posix_spawns", 3.0, samples[0].over(&samples[1]));
}

fn round_trip(settings: &Settings, goals: &mut Goals) {
    let n = settings.scaled(20_000);
    let rounds = n as u32;
    let rows: [(String, &dyn Fn() -> Vec<f64>); 5] = [
        ("**Pool**, 1 worker".into(), &|| our_round_trips(1, n)),
        ("**Pool**, 2 workers".into(), &|| our_round_trips(2, n)),
        (format!("bare futex ping-pong, spin {SPINS}"), &|| peers::ping_pong(rounds, SPINS)),
        ("bare futex ping-pong, spin 0".into(), &|| peers::ping_pong(rounds, 0)),
        ("procspawn, 1 worker".into(), &|| procspawn_round_trips(n / 10)),
    ];
    let mut middle = vec![Samples::default(); rows.len()];
    let mut late = middle.clone();
    settings.interleave(rows.len(), |i| {
        let times = rows[i].1();
        middle[i].push(percentile(times.clone(), 50) / 1e3);
        late[i].push(percentile(times, 99) / 1e3);
    });
    println!("### Round trip of one task, {n} in each repetition (procspawn a tenth)\n");
    println!(
        "Spin 0 has two values: about 5 us when both ends happen to share a core, about 12 us across cores.\n"
    );
    let mut table = Table::new(&["", "median, us", "p99, us"]);
    for (i, (name, _)) in rows.iter().enumerate() {
        table.row(&[name, &middle[i].show(), &late[i].show()]);
    }
    table.print();
    let what = format!("pool: no-op round trip / futex ping-pong, both spin {SPINS} (1 worker)");
    goals.at_most(&what, 2.5, middle[0].over(&middle[2]));
    let what = "pool: no-op round trip / futex ping-pong, both without spin (2 workers)";
    goals.at_most(what, 2.5, middle[1].over(&middle[3]));
}

fn throughput(settings: &Settings, goals: &mut Goals) {
    let (ours, theirs, mapped) =
        (settings.scaled(200_000), settings.scaled(10_000), settings.scaled(2_000_000));
    let with_pool = |f: &dyn Fn(&allmend::Pool) -> f64| {
        let pool = ours::pool(2);
        ours::round_trips(&pool, 100);
        f(&pool)
    };
    let rows: [(String, &dyn Fn() -> f64); 5] = [
        (format!("**Pool::submit**, {WINDOW} in flight"), &|| with_pool(&|p| ours::rate(p, ours, WINDOW))),
        (format!("procspawn, {WINDOW} in flight"), &|| procspawn_rate(theirs, 1, WINDOW)),
        ("procspawn, 1000 in flight".into(), &|| procspawn_rate(theirs, 1, 1000)),
        ("**Pool::map**, automatic batches".into(), &|| with_pool(&|p| ours::map_rate(p, mapped))),
        ("procspawn, 1000 items a task by hand".into(), &|| procspawn_rate(mapped, 1000, 16)),
    ];
    let mut samples = vec![Samples::default(); rows.len()];
    settings.interleave(rows.len(), |i| samples[i].push(rows[i].1() / 1e3));
    println!("### Throughput, two workers\n");
    let mut table = Table::new(&["", "thousand items a second", "/ the same of procspawn"]);
    for (i, (name, _)) in rows.iter().enumerate() {
        let peer = if i < 3 { 1 } else { 4 };
        table.row(&[name, &samples[i].show(), &digits(samples[i].over(&samples[peer]).median())]);
    }
    table.print();
    let faster = if samples[1].median() > samples[2].median() { &samples[1] } else { &samples[2] };
    let what = "pool: unbatched no-op tasks a second / procspawn (the faster of its two)";
    goals.at_least(what, 20.0, samples[0].over(faster));
}
