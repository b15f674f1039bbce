//! Iteration: all entries, bucket by bucket, while others write.
//!
//! The order is that of the hash with its bits reversed. Buckets are told apart by the low bits of the hash, so a bucket
//! is a range in that order, and when it is split the range falls into two neighbours. A cursor is a place in the order:
//! whatever was split meanwhile, what comes after the cursor has not been given and what is before it has. So a key that is
//! there throughout is given exactly once; one that comes or goes meanwhile may be given or not.
//! (Redis's SCAN has this order for tables that double.)
//!
//! Each bucket is read as a whole without a lock (`probe::chain`); what is given of it was committed. A writer that is at
//! work, stopped or dead may have left an entry in two places: of two buckets only the right one gives it, and a chain
//! gives each key once.

use super::{
    engine::Engine,
    probe::{Entry, chain, contents},
    shape::BLOCK_HEADER,
    shard::hash_word,
};
use crate::{atomic::Relaxed, error::MapError, segment::words::load_bytes};
use std::collections::VecDeque;

/// How far an iteration has come: plain data, which can be kept and gone on from, in another process, too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Cursor {
    shard: u32,
    /// In the order above.
    at: u64,
}

/// Key and value of an entry.
type Bytes = (Vec<u8>, Vec<u8>);

impl Engine {
    /// Appends the entries (key, value) of the next bucket that has some, and says where to go on; `None` at the end.
    pub(crate) fn scan(&self, from: Cursor, out: &mut VecDeque<Bytes>) -> Result<Option<Cursor>, MapError> {
        let before = out.len();
        let mut cursor = from;
        while out.len() == before {
            if cursor.shard as usize >= self.layout().shards() {
                return Ok(None);
            }
            cursor = self.scan_bucket(cursor, out)?;
        }
        Ok(Some(cursor))
    }

    fn scan_bucket(&self, cursor: Cursor, out: &mut VecDeque<Bytes>) -> Result<Cursor, MapError> {
        let shard = self.scanned(cursor.shard as usize);
        let inline = self.layout().inline;
        let (hash, before) = (cursor.at.reverse_bits(), out.len());
        let (out, here) = (std::cell::RefCell::new(out), std::cell::Cell::new(0));
        let bits = self.looked(cursor.shard as usize, || {
            chain(
                &shard,
                hash,
                inline.is_some(),
                |bits| {
                    out.borrow_mut().truncate(before);
                    here.set(bits);
                },
                |entry| {
                    let (of, entry) = read(entry, inline, shard.seeds)?;
                    // Of other bits: moved away by a split, and given where it belongs.
                    let belongs = (of ^ hash).trailing_zeros() >= here.get();
                    if belongs && of.reverse_bits() >= cursor.at {
                        out.borrow_mut().push_back(entry);
                    }
                    Some(())
                },
            )
        })?;
        drop_doubles(out.into_inner(), before);
        let next_shard = Cursor { shard: cursor.shard + 1, at: 0 };
        if bits == 0 {
            return Ok(next_shard);
        }
        let range = 64 - bits;
        Ok(match ((cursor.at >> range) + 1).checked_shl(range).filter(|&at| at != 0) {
            Some(at) => Cursor { at, ..cursor },
            None => next_shard,
        })
    }
}

/// An entry that is being moved to the front of its chain lies there twice.
fn drop_doubles(out: &mut VecDeque<Bytes>, from: usize) {
    out.make_contiguous()[from..].sort_by(|a, b| a.0.cmp(&b.0));
    let mut i = from + 1;
    while i < out.len() {
        if out[i].0 == out[i - 1].0 {
            out.remove(i);
        } else {
            i += 1;
        }
    }
}

/// Hash, and key and value as bytes.
fn read(entry: Entry<'_>, inline: Option<(u8, u8)>, seeds: [u64; 2]) -> Option<(u64, Bytes)> {
    match entry {
        Entry::Pair(key, value) => {
            let (key_width, value_width) = inline?;
            let bytes = |word: u64, width: u8| word.to_ne_bytes()[..usize::from(width)].to_vec();
            Some((hash_word(seeds, key), (bytes(key, key_width), bytes(value, value_width))))
        }
        Entry::Block(block) => {
            let (key, value, key_words, value_words) = contents(block)?;
            let bytes = |words, len| {
                let mut bytes = vec![0; len];
                load_bytes(words, &mut bytes);
                bytes
            };
            Some((
                block.get(BLOCK_HEADER - 1)?.load(Relaxed),
                (bytes(key_words, key), bytes(value_words, value)),
            ))
        }
    }
}
