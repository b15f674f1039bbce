//! Workers that kill themselves before their n-th shared write, for every n: in claim, run and finish of a task, in
//! each write of a batch, of a result that outgrows its place, of handles in a result, and in their drop.
//!
//! One test, in a program of its own, so that `verify` counts its objects only.
#![cfg(allmend_crash)]

use allmend::{Pool, SharedValue, TaskError};

const ITEMS: u32 = 6;

fn arm(n: u64) {
    allmend::crash::arm(n);
}

fn is_big(i: u32) -> bool {
    i % 3 == 1
}

fn bytes(i: u32) -> Vec<u8> {
    vec![i as u8; if is_big(i) { 700 } else { 3 }]
}

fn make((i, _argument): (u32, SharedValue<u32>)) -> (u32, Vec<u8>, SharedValue<u32>) {
    (i, bytes(i), SharedValue::new(i).unwrap())
}

/// How many died (0 or 1).
fn round(n: u64) -> u32 {
    let pool = Pool::new(1).unwrap();
    let mut died = u32::from(pool.submit(arm, n).result().is_err());
    let argument = SharedValue::new(7).unwrap();
    let items = (0..ITEMS).map(|i| (i, argument.clone()));
    for (i, result) in (0..).zip(pool.with_chunk_size(3).map(make, items)) {
        match result {
            Ok((m, found, value)) => assert_eq!((m, found, value.get()), (i, bytes(i), i)),
            Err(TaskError::Died { signal: Some(9), .. }) => died += 1,
            Err(e) => panic!("killed before write {n}, item {i}: {e}"),
        }
    }
    // What nobody reads is cleared away, too.
    pool.submit(make, (1, argument)).detach();
    died
}

#[test]
fn killed_before_every_shared_write() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(std::time::Duration::from_secs(300))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            eprintln!("watchdog: a round hangs");
            std::process::abort();
        }
    });
    let (mut n, mut deaths) = (0, 0);
    // An idle worker writes, too, as often as it likes: so the end is a row of rounds in which it died in no item.
    let mut quiet = 0;
    while quiet < 20 {
        n += 1;
        let died = round(n);
        let report = allmend::verify().unwrap();
        assert_eq!((report.objects, report.pins), (0, 0), "killed before write {n}: {report:?}");
        assert!(died <= 1, "one death, one item");
        deaths += died;
        quiet = if died == 0 { quiet + 1 } else { 0 };
    }
    println!("{n} rounds, {deaths} deaths in an item");
    assert!(deaths > 30, "it bites");
    drop(end);
    watchdog.join().unwrap();
}
