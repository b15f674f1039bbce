//! What both segment targets do: a segment with one object of each kind, and every operation on them. All of it must
//! return, with a value or an error; which one does not matter.

pub mod kept;

use allmend::{Manager, SharedArray, SharedAtomic, SharedMap, SharedValue};
use std::time::Duration;

/// Long enough to take a lock that is free, short enough for a lock whose word names a living owner.
const PATIENCE: Duration = Duration::from_millis(2);

/// The input, byte by byte; zeros behind its end.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    pub fn number(&mut self, bytes: u32) -> u64 {
        (0..bytes).fold(0, |n, i| n | u64::from(self.byte()) << (8 * i))
    }

    /// A word in the place of `old`: anything, one bit away, or a little more.
    pub fn word(&mut self, old: u64) -> u64 {
        match self.byte() {
            choice @ 0..=63 => old ^ 1 << choice,
            choice @ 64..=127 => old.wrapping_add(u64::from(choice)).wrapping_sub(96),
            128..=160 => u64::from(self.byte()),
            161..=192 => self.number(4),
            _ => self.number(8),
        }
    }
}

/// A small segment with everything in it.
pub fn furnished() -> Manager {
    let manager = Manager::builder().reserve(16 << 20).max_processes(7).new().expect("a segment");
    manager.value("small", 7u32).expect("a value");
    manager.value("large", [7u64; 40]).expect("a value");
    manager.atomic("atomic", 7i64).expect("an atomic");
    let numbers = manager.map::<u64, u64>("numbers").expect("a map");
    let words = manager.map::<String, Vec<u8>>("words").expect("a map");
    for i in 0..40u8 {
        numbers.insert(u64::from(i), 7).expect("room");
        words.insert(&format!("word {i}"), &vec![i; usize::from(i) * 5]).expect("room");
    }
    manager.array::<u64>("array", 40).expect("an array");
    manager
}

/// What a process keeps in its hands while the bytes change.
pub struct Hands {
    small: Option<SharedValue<u32>>,
    large: Option<SharedValue<[u64; 40]>>,
    atomic: Option<SharedAtomic<i64>>,
    numbers: Option<SharedMap<u64, u64>>,
    words: Option<SharedMap<String, Vec<u8>>>,
    array: Option<SharedArray<u64>>,
    /// How many more times everything is looked at: that costs as much as a hundred other operations.
    looks: u32,
}

impl Hands {
    pub fn open(manager: &Manager) -> Self {
        Self {
            small: manager.open_object("small").ok(),
            large: manager.open_object("large").ok(),
            atomic: manager.open_object("atomic").ok(),
            numbers: manager.open_object("numbers").ok(),
            words: manager.open_object("words").ok(),
            array: manager.open_object("array").ok(),
            looks: 2,
        }
    }

    /// One operation.
    pub fn work(&mut self, manager: &Manager, choice: u8) {
        match choice % 40 {
            0 => drop(manager.objects()),
            1 if self.looks > 0 => {
                self.looks -= 1;
                drop(manager.verify());
            }
            2 => drop(manager.open_object::<SharedValue<u32>>("small")),
            3 => drop(manager.open_object::<SharedValue<[u64; 40]>>("large")),
            4 => drop(manager.open_object::<SharedValue<u8>>("small")),
            5 => drop(manager.value("new", u64::from(choice))),
            6 => drop(manager.remove("new")),
            7 => drop(manager.remove("small")),
            8 => drop(manager.atomic("another", choice)),
            9 => *self = Self { looks: self.looks, ..Self::open(manager) },
            10 => {
                if let Some(small) = &self.small {
                    small.get();
                    let _ = small.get_lock_timeout(PATIENCE).map(|mut guard| *guard += 1);
                }
            }
            11 => {
                if let Some(large) = &self.large {
                    large.get();
                    let _ = large.get_lock_timeout(PATIENCE).map(|mut guard| guard[3] += 1);
                }
            }
            12 => {
                if let Some(atomic) = &self.atomic {
                    atomic.fetch_add(1);
                }
            }
            13 => drop(self.small.as_ref().map(|small| manager.publish("again", small))),
            14 => self.large = None,
            15 => drop((0..20).map(|i| manager.value(&format!("row {i}"), [i; 4])).collect::<Vec<_>>()),
            16..=23 => self.look_up(choice),
            24 => drop(manager.array::<u64>("array", usize::from(choice))),
            25 => drop(manager.open_object::<SharedArray<u32>>("array")),
            26 => drop(manager.array::<u8>("bytes", 1 + usize::from(choice))),
            27 => self.array = None,
            operation => {
                if let Some(array) = &self.array {
                    elements(array, operation, usize::from(choice / 40));
                }
            }
        }
    }

    /// One operation on the maps.
    fn look_up(&mut self, choice: u8) {
        let key = u64::from(choice / 24);
        if let Some(map) = &self.numbers {
            match choice % 8 {
                0 => drop(map.get(key)),
                1 => drop(map.insert(key + 38, key)),
                2 => drop(map.remove(key)),
                3 => drop(map.fetch_add(key, 1)),
                4 => drop(map.compare_and_set(key, Some(7), Some(8))),
                5 => drop((100..400).map(|i| map.insert(i, key)).collect::<Vec<_>>()),
                6 => drop(map.iter().take(1000).collect::<Vec<_>>()),
                _ => drop(map.clear()),
            }
        }
        if let Some(map) = &self.words {
            let word = format!("word {key}");
            match choice % 8 {
                0 => drop(map.get(&word)),
                1 => drop(map.insert(&word, &vec![choice; 1 << (key + 3)])),
                2 => drop(map.remove(&word)),
                3 => drop(map.update(&word, |old| {
                    old.map(|mut old| {
                        old.push(1);
                        old
                    })
                })),
                4 => drop(map.get_or_insert_with("new", || vec![1; 30])),
                5 => {
                    drop((0..60).map(|i| map.set(&format!("more {i}"), &word.as_bytes())).collect::<Vec<_>>())
                }
                6 => drop(map.iter().take(1000).collect::<Vec<_>>()),
                _ => drop(map.get_lock_timeout(&word, PATIENCE)),
            }
        }
    }
}

/// One operation of an array that cannot wait for ever: `get`, `set`, `update` and `freeze` wait as long as somebody
/// lives who is in the way, so they come after a look that found nobody.
fn elements(array: &SharedArray<u64>, choice: u8, at: usize) {
    let Ok(slice) = array.slice(at..array.len().min(at + 7)) else { return };
    match choice {
        28 => drop(slice.try_read().map(|elements| elements.iter().fold(0u64, |sum, n| sum ^ n))),
        29 => drop(slice.try_get_lock().map(|mut elements| elements.fill(at as u64))),
        30 => drop(array.read_timeout(PATIENCE).map(|elements| elements.len())),
        31 => {
            // Marks of the dead are mended.
            let lock = array.get_lock_timeout(PATIENCE);
            drop(lock.or_else(|left| left.repair(|elements| elements.fill(0))));
        }
        32 if array.try_get_lock().is_ok() => drop((slice.get(0), slice.get(at))),
        33 if array.try_get_lock().is_ok() => drop((slice.set(0, 1), slice.set(at, 2))),
        34 if array.try_get_lock().is_ok() => drop(slice.update(|elements| elements.reverse())),
        35 => {
            let Ok(claims) = array.claims(at + 1) else { return };
            for i in 0..array.len() {
                match claims.claim_timeout(PATIENCE) {
                    Ok(Some(mut chunk)) => {
                        chunk.fill(1);
                        if i % 3 != 0 {
                            chunk.done();
                        }
                    }
                    _ => break,
                }
            }
            let _ = (claims.is_done(), claims.remaining());
        }
        36 => drop(array.windows(at + 1, 3).map(|window| window.try_read().map(|e| e.len()).ok()).count()),
        37 if at == 2 && array.try_read().is_ok() => drop(array.freeze().map(|elements| elements.len())),
        37 => drop((array.is_frozen(), array.chunks(at + 1).map(|chunk| chunk.len()).sum::<usize>())),
        _ => {}
    }
}
