//! Memory shared with a child that is no worker of a pool: a plain `std::process::Command`. The child works on the
//! parent's objects, is killed in the middle once, and nothing is lost.
//!
//! `cargo run --release --example embed`

use allmend::{CommandExt, Manager, Result, SharedValue};
use std::process::Command;

const STEPS: u64 = 1_000;

/// Two numbers that change together.
type Account = SharedValue<[u64; 2]>;

fn step(account: &Account) -> Result<()> {
    let mut guard = account.get_lock()?;
    guard[0] += 1;
    guard[1] += 1;
    Ok(())
}

/// What the child does: it knows the name of the object, and gets the memory from its parent.
fn child(dies: bool) -> Result<()> {
    let manager = Manager::from_env()?;
    let account = manager.value("account", [0u64; 2])?;
    let begun = manager.atomic("steps of children", 0u64)?;
    for n in 0..STEPS {
        if dies && n == STEPS / 2 {
            let mut guard = account.get_lock()?;
            guard[0] += 1; // in the middle of a change, with the lock in its hands
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        step(&account)?;
        begun.fetch_add(1);
    }
    Ok(())
}

fn main() -> Result<()> {
    if let Some(how) = std::env::args().nth(1) {
        return child(how == "dies");
    }
    let manager = Manager::new()?;
    let account = manager.value("account", [0u64; 2])?;
    let by_children = manager.atomic("steps of children", 0u64)?;
    for how in ["dies", "lives"] {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg(how).share(&manager)?.spawn()?;
        (0..STEPS).try_for_each(|_| step(&account))?;
        let status = child.wait()?;
        println!("child {} that {how}: {status}; account {:?}", child.id(), account.get());
        assert_eq!(status.success(), how == "lives");
    }
    let [a, b] = account.get();
    let expected = 2 * STEPS + by_children.load();
    println!("account {a} and {b}, expected {expected}; of that by children {}", by_children.load());
    assert_eq!((a, b, by_children.load()), (expected, expected, STEPS + STEPS / 2));
    for object in manager.objects()? {
        println!("{}: a {} of {}, {} bytes", object.name, object.kind, object.type_name, object.bytes);
    }
    assert_eq!(manager.verify()?.busy, 0);
    Ok(())
}
