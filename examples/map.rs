//! A dictionary for processes. First the notebook's example of `multiprocessing.Manager`, then the words of real text (the
//! licences and every source file of this crate) are counted by several workers into one map.
//!
//! Run: `cargo run --release --example map`. Fails if a count differs from that of one process.

use allmend::{Plain, Pool, Result, Serde, SharedMap};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Instant,
};

fn print_shared((task_id, shared): (u64, SharedMap<u64, u64>)) -> Result<Option<u64>> {
    let value = shared.get(task_id)?;
    println!("{value:?}");
    Ok(value)
}

fn managers() -> Result<()> {
    let shared = SharedMap::<u64, u64>::new()?;
    shared.extend((0..10).map(|el| (el, el * 10)))?;
    let pool = Pool::new(3)?;
    let tasks = (0..10).map(|task_id| (task_id, shared.clone()));
    for (task_id, value) in pool.map(print_shared, tasks).flatten_errors().enumerate() {
        assert_eq!(value?, Some(task_id as u64 * 10));
    }
    Ok(())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// A task: one file, word by word, into the map that all share. Gives how many there were.
fn count((path, counts): (PathBuf, SharedMap<String, u64>)) -> Result<u64> {
    let mut n = 0;
    for word in words(&std::fs::read_to_string(path)?) {
        counts.fetch_add(word, 1)?;
        n += 1;
    }
    Ok(n)
}

/// All files below `folder` whose name ends so.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, ending, found)?;
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    Ok(())
}

fn word_counts() -> Result<()> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![home.join("LICENSE-APACHE"), home.join("LICENSE-MIT")];
    for folder in ["src", "tests", "examples"] {
        files(&home.join(folder), ".rs", &mut texts)?;
    }

    let start = Instant::now();
    let mut expected = HashMap::<String, u64>::new();
    for path in &texts {
        for word in words(&std::fs::read_to_string(path)?) {
            *expected.entry(word.to_owned()).or_default() += 1;
        }
    }
    let alone = start.elapsed();

    let counts = SharedMap::<String, u64>::new()?;
    let pool = Pool::new(2)?;
    let start = Instant::now();
    let mut total = 0;
    for n in pool.map(count, texts.iter().map(|path| (path.clone(), counts.clone()))).flatten_errors() {
        total += n?;
    }
    let together = start.elapsed();

    println!("{} files, {total} words, {} different ones", texts.len(), counts.len());
    println!("alone {alone:.1?}, two workers into one map {together:.1?}");
    let mut most: Vec<(String, u64)> = counts.iter().collect::<Result<_, _>>()?;
    most.sort_by_key(|(word, n)| (std::cmp::Reverse(*n), word.clone()));
    for (word, n) in most.iter().take(5) {
        println!("{n:7} {word}");
    }
    assert_eq!(counts.snapshot()?, expected, "the counts are those of one process");
    assert_eq!(total, expected.values().sum::<u64>());
    Ok(())
}

#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Point {
    x: f64,
    y: f64,
}

#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
struct Config {
    name: String,
    rate: Option<f64>,
}

fn other_types() -> Result<()> {
    let points = SharedMap::<(String, u32), Plain<Point>>::new()?;
    points.insert(("a", 1), &Point { x: 1.0, y: 2.0 })?;
    points.update(("a", 1), |p| p.map(|p| Point { x: p.x + 1.0, ..p }))?;
    for entry in &points {
        let ((name, id), p) = entry?;
        println!("{name} {id}: {} {}", p.x, p.y);
        assert_eq!((p.x, p.y), (2.0, 2.0));
    }

    let configs = SharedMap::<String, Serde<Config>>::new()?;
    let config = Config { name: "fast".into(), rate: None };
    configs.insert("default", &config)?;
    assert_eq!(configs.get("default")?, Some(config));

    // A section of several steps on one key: who also locks it waits, plain reads and writes do not.
    let stock = SharedMap::<String, u64>::new()?;
    let guard = stock.get_lock("apples")?;
    let n = stock.get("apples")?.unwrap_or(0);
    stock.insert("apples", n + 2)?;
    drop(guard);
    assert_eq!(stock.get("apples")?, Some(2));
    Ok(())
}

fn main() -> Result<()> {
    managers()?;
    word_counts()?;
    other_types()
}
