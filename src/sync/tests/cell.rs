//! The committed cell, plainly: all sizes, and readers beside a writer among real threads.

use crate::{
    atomic::{Relaxed, Word64},
    sync::cell::{Committed, cell_words},
};
use proptest::prelude::*;

fn words(bytes: usize) -> Vec<Word64> {
    (0..cell_words(bytes)).map(|_| Word64::new(0)).collect()
}

#[test]
fn small_values_are_one_word() {
    assert_eq!([0, 1, 8, 9, 16, 17, 4096].map(cell_words), [1, 1, 1, 5, 5, 7, 1025]);
}

proptest! {
    #[test]
    fn what_was_committed_last_is_read(values in proptest::collection::vec(any::<[u8; 40]>(), 0..5), size in 0..=40usize) {
        let words = words(size);
        let cell = Committed::new(&words, size);
        let mut last = vec![0; size];
        for value in &values {
            cell.commit(&value[..size]);
            last.copy_from_slice(&value[..size]);
        }
        let (mut free, mut locked) = (vec![1; size], vec![1; size]);
        prop_assert!(cell.read_once(&mut free));
        cell.read_locked(&mut locked);
        prop_assert_eq!((&free, &locked), (&last, &last));
    }

    /// A writer that is killed in the spare buffer, and one that finds what it left.
    #[test]
    fn the_spare_buffer_is_nobodys_business(junk in any::<[u64; 2]>(), before in 0..3u64) {
        let words = words(16);
        let cell = Committed::new(&words, 16);
        for i in 0..before {
            cell.commit(&[i as u8 + 1; 16]);
        }
        let spare = if before.is_multiple_of(2) { 3..5 } else { 1..3 };
        for (word, junk) in words[spare].iter().zip(junk) {
            word.store(junk, Relaxed);
        }
        let mut out = [0; 16];
        prop_assert!(cell.read_once(&mut out));
        prop_assert_eq!(out, [before as u8; 16]);
        cell.commit(&[9; 16]);
        prop_assert!(cell.read_once(&mut out));
        prop_assert_eq!(out, [9; 16]);
    }

    /// Any version that anybody stored: some bytes of the cell, never an end.
    #[test]
    fn hostile_versions(version in any::<u64>()) {
        let words = words(24);
        words[0].store(version, Relaxed);
        let (cell, mut out) = (Committed::new(&words, 24), [1; 24]);
        prop_assert!(cell.read_once(&mut out));
        prop_assert_eq!(out, [0; 24]);
        cell.commit(&[5; 24]);
        prop_assert!(cell.read_once(&mut out));
        prop_assert_eq!(out, [5; 24]);
    }
}

#[test]
#[should_panic(expected = "out of range")]
fn too_few_words() {
    let words = words(16);
    Committed::new(&words[1..], 16);
}

/// Values up to 4 KiB whose words are all equal, beside one writer: no copy that was accepted mixes two of them, and
/// the value never goes back.
#[test]
fn readers_beside_a_writer() {
    for bytes in [8, 16, 256, 4096] {
        const COMMITS: u64 = 5_000;
        let words = words(bytes);
        let cell = Committed::new(&words, bytes);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (mut out, mut last) = (vec![0; bytes], 0);
                    while last < COMMITS {
                        if cell.read_once(&mut out) {
                            let (all, _) = out.as_chunks::<8>();
                            assert!(all.iter().all(|word| *word == all[0]), "torn");
                            let value = u64::from_ne_bytes(all[0]);
                            assert!(last <= value, "the value went back");
                            last = value;
                        }
                    }
                });
            }
            let mut value = vec![0; bytes];
            for i in 1..=COMMITS {
                value.as_chunks_mut::<8>().0.fill(i.to_ne_bytes());
                cell.commit(&value);
            }
        });
    }
}
