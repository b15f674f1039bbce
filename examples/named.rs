//! Two programs, started independently, share named memory: they know its name, and the names of the objects in it. This
//! example starts itself twice and hands nothing over.
//!
//! `cargo run --release --example named`

use allmend::{Manager, OpenError, Result};
use std::{process::Command, thread};

const ADDS: u64 = 10_000;

/// One of the two. Which of them is first, and creates, nobody knows.
fn program(name: &str) -> Result<()> {
    let manager = Manager::open_or_create(name)?;
    let total = manager.value("total", 0i64)?;
    let all = manager.array::<u64>("programs", 2)?;
    let ready = manager.atomic("ready", 0u32)?;
    for _ in 0..ADDS {
        *total.get_lock()? += 1;
    }
    // Whoever comes first takes the first element.
    all.update(|all| *all.iter_mut().find(|n| **n == 0).expect("two") = u64::from(std::process::id()))?;
    ready.fetch_add(1);
    while ready.load() < 2 {
        thread::yield_now();
    }
    println!("program {}: total {}", std::process::id(), total.get());
    Ok(())
}

fn main() -> Result<()> {
    if let Some(name) = std::env::args().nth(1) {
        return program(&name);
    }
    let name = format!("example-{}", std::process::id());
    // To look at the end, this one is there, too; the two do not need it.
    let manager = Manager::create(&name)?;
    let start = || Command::new(std::env::current_exe()?).arg(&name).spawn();
    let mut programs = [start()?, start()?];
    for program in &mut programs {
        assert!(program.wait()?.success());
    }
    let total = manager.value("total", 0i64)?.get();
    println!("{name}: total {total}, expected {}", 2 * ADDS);
    assert_eq!(total, 2 * ADDS as i64);
    let mut were = manager.array::<u64>("programs", 2)?.to_vec()?;
    let mut ids = programs.map(|program| u64::from(program.id()));
    were.sort_unstable();
    ids.sort_unstable();
    println!("the array says {were:?}, the programs were {ids:?}");
    assert_eq!(were, ids);
    match manager.value("total", 0.0f64) {
        Err(OpenError::WrongType { expected, found, .. }) => println!("total is {found}, not {expected}"),
        other => panic!("{other:?}"),
    }
    for object in manager.objects()? {
        println!("{}: a {} of {}, {} bytes", object.name, object.kind, object.type_name, object.bytes);
    }
    assert_eq!(manager.verify()?.busy, 0);
    manager.unlink()?;
    assert!(matches!(Manager::open(&name), Err(OpenError::NotFound { .. })));
    Ok(())
}
