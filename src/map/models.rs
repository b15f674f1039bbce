//! The map's protocol in the model checker: real readers beside real changes over a few words, and each rule broken.
//!
//! | model | what it says |
//! |---|---|
//! | `a_block_is_used_again_under_a_reader` | old, new, or nothing; never a mixture, never another key's value |
//! | `a_dead_writers_block_is_used_again` | a value whose writer died before its commit is never read |
//! | `a_pair_is_used_again_under_a_reader` | the same inline |
//! | `a_split_beside_a_reader` | a key that is there throughout is found |
//! | `a_move_beside_a_reader` | the same while its chain is made shorter |
//! | `a_hit_in_a_bucket_that_was_taken_away` | what a dead writer put into a free overflow bucket is never read |
//! | `a_hit_in_a_bucket_that_went_with_its_taker` | the same, where who took it away died, too |
//! | `a_reader_that_stood_still` | a key that is there is found, though a mover died before it told its chain, and the heir goes on |
//! | `recovery_of_a_split` | killed before each write of a split, recovered, and changed: what is found is what is there |
//!
//! Readers are spawned last: see `sync::tests`.

use super::{
    commit::{
        Found, Refusal, Space, add_block, add_pair, compact, find_block, find_pair, remove_block,
        replace_block, split,
    },
    mutation::{Mutation, breaking},
    probe::{Bucket, Memory, get_block, get_inline},
    recovery::{Marks, settle},
    shape::{BUCKET, FREE_BIT, LINK_BITS, NEXT, PAIRS, THERE, address},
};
use crate::atomic::{Killed, Relaxed, Release, Word64, kill_after};
use loom::thread;
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc, // model threads are coroutines of one thread
};

/// Words of a block: header, one of key, two of value.
const BLOCK: usize = 6;

/// A shard of a few words.
struct Shard {
    state: Word64,
    buckets: Vec<[Word64; BUCKET]>,
    overflow: Vec<[Word64; BUCKET]>,
    blocks: Vec<Vec<Word64>>,
    /// Private, as derived: links and places that are free.
    free_overflow: RefCell<Vec<u64>>,
    free_blocks: RefCell<Vec<u64>>,
    /// Hash of a pair's key.
    hash: fn(u64) -> u64,
}

impl Shard {
    fn new(buckets: u64, more: usize, overflow: usize, blocks: usize) -> Self {
        let bucket = || std::array::from_fn(|_| Word64::new(0));
        let block = || (0..BLOCK).map(|i| Word64::new(if i == 0 { FREE_BIT } else { 0 })).collect();
        Self {
            state: Word64::new(buckets),
            buckets: (0..buckets as usize + more).map(|_| bucket()).collect(),
            overflow: (0..overflow).map(|_| bucket()).collect(),
            blocks: (0..blocks).map(|_| block()).collect(),
            free_overflow: RefCell::new((1..=overflow as u64).rev().collect()),
            free_blocks: RefCell::new((1..=blocks as u64).rev().collect()),
            hash: |key| key,
        }
    }

    fn set(&self, key: u64, value: u64) -> Result<(), Refusal> {
        let bytes = key.to_ne_bytes();
        let value: Vec<u8> = [value.to_ne_bytes(); 2].concat();
        match find_block(self, key, &bytes)? {
            Found::There(spot) => replace_block(self, spot, key, &bytes, &value),
            Found::Not(unused, last) => add_block(self, unused, last, key, &bytes, &value),
        }
    }

    fn remove(&self, key: u64) {
        if let Ok(Found::There(spot)) = find_block(self, key, &key.to_ne_bytes()) {
            remove_block(self, spot);
        }
    }

    /// `Err`: overtaken.
    fn get(&self, key: u64) -> Result<Option<u64>, ()> {
        let mut seen = (0, 0);
        let found = get_block(self, key, &key.to_ne_bytes(), |block| {
            seen = (block[4].load(Relaxed), block[5].load(Relaxed));
            Some(())
        });
        let found = found.map_err(drop)?;
        if found {
            assert_eq!(seen.0, seen.1, "torn");
        }
        Ok(found.then_some(seen.0))
    }

    fn set_pair(&self, key: u64, value: u64) {
        match find_pair(self, (self.hash)(key), key).unwrap() {
            Found::There(spot) => spot.value().store(value, Release),
            Found::Not(unused, last) => add_pair(self, unused, last, key, value).unwrap(),
        }
    }

    fn remove_pair(&self, key: u64) {
        if let Found::There(spot) = find_pair(self, (self.hash)(key), key).unwrap() {
            spot.remove_pair();
        }
    }

    fn get_pair(&self, key: u64) -> Result<Option<u64>, ()> {
        get_inline(self, (self.hash)(key), key).map_err(drop)
    }

    /// What the heir does.
    fn recover(&self, inline: bool) {
        #[derive(Default)]
        struct Marked(Vec<u64>, Vec<u64>);
        impl Marks for Marked {
            fn block(&mut self, place: u64) -> bool {
                self.0.push(place);
                true
            }
            fn overflow(&mut self, link: u64) -> bool {
                self.1.push(link);
                true
            }
        }
        let mut marked = Marked::default();
        settle(self, inline, &mut marked).unwrap();
        let free = |n: usize, used: &[u64]| (1..=n as u64).rev().filter(|x| !used.contains(x)).collect();
        *self.free_overflow.borrow_mut() = free(self.overflow.len(), &marked.1);
        *self.free_blocks.borrow_mut() = free(self.blocks.len(), &marked.0);
        for &place in &*self.free_blocks.borrow() {
            let life = &self.blocks[place as usize - 1][0];
            if life.load(Relaxed) & FREE_BIT == 0 {
                life.store(life.load(Relaxed) | FREE_BIT, Relaxed);
            }
        }
        crate::atomic::fence(Release);
    }
}

impl Memory for Shard {
    fn state(&self) -> &Word64 {
        &self.state
    }
    fn bucket(&self, b: u64) -> Option<Bucket<'_>> {
        self.buckets.get(b as usize)
    }
    fn overflow(&self, link: u64) -> Option<Bucket<'_>> {
        self.overflow.get((link as usize).checked_sub(1)?)
    }
    fn block(&self, place: u64) -> Option<&[Word64]> {
        self.blocks.get((place as usize).checked_sub(1)?).map(Vec::as_slice)
    }
}

impl Space for Shard {
    fn hash_of(&self, key: u64) -> u64 {
        (self.hash)(key)
    }
    fn take_overflow(&self) -> Result<u64, Refusal> {
        self.free_overflow.borrow_mut().pop().ok_or(Refusal::Full(64))
    }
    fn give_overflow(&self, link: u64) {
        self.free_overflow.borrow_mut().push(link);
    }
    fn take_block(&self, words: u64) -> Result<u64, Refusal> {
        assert!(words as usize <= BLOCK);
        self.free_blocks.borrow_mut().pop().ok_or(Refusal::Full(words * 8))
    }
    fn give_block(&self, place: u64) {
        self.free_blocks.borrow_mut().push(place);
    }
}

fn check(name: &str, model: impl Fn() + Send + Sync + 'static) {
    check_within(name, 3, model);
}

fn check_within(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    crate::mutation::explore(name, Some(preemptions), model);
}

fn must_fail(mutation: Mutation, says: &'static [&'static str], model: fn()) {
    crate::mutation::must_fail(&mutation, says, move || breaking(&[mutation], model));
}

/// Runs `body`, killed before its `n`-th write; was it?
fn killed(n: usize, body: impl FnOnce()) -> bool {
    kill_after(n);
    let end = catch_unwind(AssertUnwindSafe(body));
    kill_after(NEVER);
    match end {
        Ok(()) => false,
        Err(end) if end.is::<Killed>() => true,
        Err(end) => resume_unwind(end),
    }
}

/// Before no write.
const NEVER: usize = usize::MAX;

const A: u64 = 2;
const B: u64 = 4;
const C: u64 = 6;
const D: u64 = 8;
/// Of a pair that needs a new overflow bucket, the last being the one that counts.
const WRITES_TO_AN_OVERFLOW: usize = 6;

// ---- out of line ----

fn a_block_is_used_again_under_a_reader() {
    check("a block is used again", || {
        let shard = Rc::new(Shard::new(1, 0, 0, 2));
        shard.set(A, 1).unwrap();
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                shard.set(A, 2).unwrap();
                shard.set(A, 3).unwrap(); // the first block again
            }
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get(A) {
                assert!(matches!(found, Some(1..=3)), "missed: {found:?}");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

fn a_dead_writers_block_is_used_again() {
    (1..8).for_each(|n| a_dead_writer(n, false));
}

/// The block that is filled in vain, and then again, is the one that the slot named when the reader looked.
fn a_dead_writers_block_is_used_again_for_its_slot() {
    a_dead_writer(7, true);
}

fn a_dead_writer(n: usize, once_before: bool) {
    let model = move || {
        let shard = Rc::new(Shard::new(1, 0, 0, 2));
        shard.set(A, 1).unwrap();
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                if once_before {
                    shard.set(A, 2).unwrap();
                }
                // Its 7th write commits, and is not made.
                assert!(killed(n, || shard.set(A, 99).unwrap()), "it had fewer writes");
                shard.recover(false);
                shard.set(A, 3).unwrap();
            }
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get(A) {
                assert!(matches!(found, Some(1..=3)), "uncommitted: {found:?}");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    };
    let name = format!("a dead writer's block, killed before write {n}");
    // Longer than the others: two preemptions show what the mutation breaks.
    check_within(&name, if once_before { 2 } else { 3 }, model);
}

fn another_key_gets_the_block() {
    check("another key gets the block", || {
        let shard = Rc::new(Shard::new(1, 0, 0, 1));
        shard.set(A, 1).unwrap();
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                shard.remove(A);
                shard.set(B, 7).unwrap();
            }
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get(A) {
                assert!(matches!(found, None | Some(1)), "another key's: {found:?}");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn blocks_are_used_again() {
    a_block_is_used_again_under_a_reader();
    another_key_gets_the_block();
}

#[test]
fn nobody_reads_what_a_dead_writer_did_not_commit() {
    a_dead_writers_block_is_used_again();
    a_dead_writers_block_is_used_again_for_its_slot();
}

// ---- inline ----

fn a_pair_is_used_again_under_a_reader() {
    check("a pair is used again", || {
        let shard = Rc::new(Shard::new(1, 0, 0, 0));
        shard.set_pair(A, 1);
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                shard.remove_pair(A);
                shard.set_pair(B, 7);
            }
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get_pair(A) {
                assert!(matches!(found, None | Some(1)), "another key's: {found:?}");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

fn a_split_beside_a_reader() {
    check("a split", || {
        // Keys 1 and 2 go to buckets 1 and 0 of two; both are in bucket 0 of one.
        let shard = Rc::new(Shard::new(1, 1, 1, 0));
        shard.set_pair(1, 10);
        let writer = thread::spawn({
            let shard = shard.clone();
            move || assert!(split(&*shard, true).unwrap())
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get_pair(1) {
                assert_eq!(found, Some(10), "a present key was missed");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

fn a_split_of_blocks_beside_a_reader() {
    check("a split of blocks", || {
        let shard = Rc::new(Shard::new(1, 1, 0, 1));
        shard.set(1, 10).unwrap();
        let writer = thread::spawn({
            let shard = shard.clone();
            move || assert!(split(&*shard, false).unwrap())
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get(1) {
                assert_eq!(found, Some(10), "a present key was missed");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

fn a_move_beside_a_reader() {
    check("a move", || {
        // One pair per bucket: A in the bucket, B in its overflow; A goes, and B moves to the front.
        let shard = Rc::new(Shard::new(1, 0, 1, 0));
        shard.set_pair(A, 1);
        shard.set_pair(B, 2);
        shard.remove_pair(A);
        let writer = thread::spawn({
            let shard = shard.clone();
            move || compact(&*shard, 0, true).unwrap()
        });
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get_pair(B) {
                assert_eq!(found, Some(2), "a present key was missed");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// The overflow bucket in which a reader stands goes, and is filled for a change that never counts.
fn a_hit_in_a_bucket_that_was_taken_away() {
    (1..8).for_each(|filler| an_overflow_bucket_again(2, NEVER, filler));
}

/// The same where the one who takes it away is killed, and its heir in the fill; then it is filled for good, with another key.
fn a_hit_in_a_bucket_that_went_with_its_taker() {
    // Before write 1 of the taker it still has its place.
    (2..4).for_each(|taker| (4..8).for_each(|filler| an_overflow_bucket_again(3, taker, filler)));
}

fn an_overflow_bucket_again(preemptions: usize, taker: usize, filler: usize) {
    let name =
        format!("an overflow bucket again, killed before write {taker} of the taker, {filler} of the filler");
    check_within(&name, preemptions, move || {
        let shard = Rc::new(Shard::new(1, 0, 1, 0));
        shard.set_pair(A, 1);
        shard.set_pair(B, 2);
        let writer = thread::spawn({
            let shard = shard.clone();
            move || {
                shard.remove_pair(B);
                if killed(taker, || compact(&*shard, 0, true).unwrap()) {
                    shard.recover(true);
                }
                if killed(filler, || shard.set_pair(C, 99)) {
                    shard.recover(true);
                } else {
                    shard.remove_pair(C);
                }
                if taker != NEVER {
                    shard.set_pair(D, 3);
                }
            }
        });
        let was_whole = filler > WRITES_TO_AN_OVERFLOW;
        let reader = thread::spawn(move || {
            if let Ok(found) = shard.get_pair(C) {
                assert!(found.is_none() || was_whole && found == Some(99), "uncommitted: {found:?}");
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A move is killed before each of its writes, under a reader; then the heir recovers, and uses again what became free.
fn a_reader_that_stood_still() {
    (1..8).for_each(|n| {
        check_within(&format!("a killed move under a reader, before write {n}"), 2, move || {
            let shard = Rc::new(Shard::new(1, 0, 1, 0));
            shard.set_pair(A, 1);
            shard.set_pair(B, 2);
            shard.remove_pair(A);
            let writer = thread::spawn({
                let shard = shard.clone();
                move || {
                    if killed(n, || compact(&*shard, 0, true).unwrap()) {
                        shard.recover(true);
                    }
                }
            });
            let reader = thread::spawn(move || {
                if let Ok(found) = shard.get_pair(B) {
                    assert_eq!(found, Some(2), "a present key was missed");
                }
            });
            writer.join().unwrap();
            reader.join().unwrap();
        });
    });
}

/// Without a reader: the states that a kill leaves, one after the other.
fn recovery_of_a_split() {
    for n in 1..40 {
        check(&format!("recovery of a split, killed before write {n}"), move || {
            let shard = Shard::new(1, 1, 3, 0);
            (1..=3).for_each(|key| shard.set_pair(key, key));
            killed(n, || _ = split(&shard, true));
            let find = |key| shard.get_pair(key).unwrap();
            (1..=3).for_each(|key| assert_eq!(find(key), Some(key), "a present key was missed"));
            shard.recover(true);
            let n = shard.state.load(Relaxed);
            for b in 0..n {
                let mut bucket = &shard.buckets[b as usize];
                loop {
                    let there = bucket[THERE].load(Relaxed) & 1 != 0;
                    assert!(
                        !there || address(bucket[0].load(Relaxed), n) == b,
                        "an entry that is not its own"
                    );
                    match bucket[NEXT].load(Relaxed) & LINK_BITS {
                        0 => break,
                        link => bucket = &shard.overflow[link as usize - 1],
                    }
                }
            }
            shard.set_pair(1, 11);
            shard.remove_pair(2);
            assert_eq!([1, 2, 3].map(find), [Some(11), None, Some(3)], "after recovery");
        });
    }
}

#[test]
fn pairs_are_used_again() {
    assert_eq!(PAIRS, 1);
    a_pair_is_used_again_under_a_reader();
}

#[test]
fn what_is_there_is_found() {
    a_split_beside_a_reader();
    a_split_of_blocks_beside_a_reader();
    a_move_beside_a_reader();
    a_reader_that_stood_still();
}

#[test]
fn what_was_never_linked_is_not_found() {
    a_hit_in_a_bucket_that_was_taken_away();
    a_hit_in_a_bucket_that_went_with_its_taker();
}

#[test]
fn a_killed_split_is_recovered() {
    recovery_of_a_split();
}

mod mutations {
    use super::*;

    const MIXED: &[&str] = &["torn", "another key's", "missed", "uncommitted"];
    const MISSED: &[&str] = &["a present key was missed"];

    #[test]
    fn hits_without_a_second_look() {
        must_fail(Mutation::HitWithoutVersion, MIXED, a_block_is_used_again_under_a_reader);
        must_fail(Mutation::HitWithoutVersion, MIXED, a_pair_is_used_again_under_a_reader);
    }

    #[test]
    fn hits_without_a_fence() {
        must_fail(Mutation::HitWithoutFence, MIXED, a_pair_is_used_again_under_a_reader);
    }

    #[test]
    fn the_generation_first() {
        must_fail(
            Mutation::GenerationFirst,
            &["uncommitted"],
            a_dead_writers_block_is_used_again_for_its_slot,
        );
    }

    #[test]
    fn fills_without_a_fence() {
        must_fail(Mutation::FillWithoutFence, MIXED, a_block_is_used_again_under_a_reader);
        must_fail(Mutation::FillWithoutFence, MIXED, a_pair_is_used_again_under_a_reader);
    }

    #[test]
    fn commits_that_release_nothing() {
        must_fail(Mutation::RelaxedCommit, MIXED, a_block_is_used_again_under_a_reader);
        must_fail(Mutation::RelaxedCommit, MIXED, a_pair_is_used_again_under_a_reader);
    }

    #[test]
    fn overflow_hits_without_a_second_look() {
        must_fail(
            Mutation::OverflowHitWithoutVersion,
            &["uncommitted"],
            a_hit_in_a_bucket_that_was_taken_away,
        );
    }

    #[test]
    fn an_unlink_without_a_version() {
        must_fail(
            Mutation::UnlinkWithoutVersion,
            &["uncommitted"],
            a_hit_in_a_bucket_that_went_with_its_taker,
        );
    }

    #[test]
    fn recovery_that_tells_nobody() {
        must_fail(Mutation::RecoverWithoutVersion, MISSED, a_reader_that_stood_still);
    }

    #[test]
    fn misses_without_a_second_look() {
        must_fail(Mutation::MissWithoutState, MISSED, a_split_beside_a_reader);
        must_fail(Mutation::MissWithoutVersion, MISSED, a_move_beside_a_reader);
    }

    #[test]
    fn misses_without_a_fence() {
        must_fail(Mutation::MissWithoutFence, MISSED, a_split_of_blocks_beside_a_reader);
    }

    #[test]
    fn moves_without_a_version() {
        must_fail(Mutation::MoveWithoutVersion, MISSED, a_move_beside_a_reader);
    }

    #[test]
    fn recovery_that_leaves_what_moved() {
        must_fail(Mutation::RecoverWithoutClearing, &["an entry that is not its own"], recovery_of_a_split);
    }
}
