//! Where everything of a map is, as numbers: the object's words, addresses of buckets, words of slots, sizes of blocks.
//!
//! ```text
//! object   w32:  a lock word per shard, each on a line of its own | the key locks
//!          w64:  header | a line per shard: its state, the only word that readers look at | a row per shard: what only
//!                the holder of its lock looks at
//!          parts of each shard: chunks of buckets | chunks of overflow buckets | regions of blocks (not inline)
//! ```
//!
//! **Header**: 0, 1 seeds of the hash; 2 `log2(shards)`, widths of key and value (0: not inline), see [`Shape`], format;
//! 3 the most bytes that the map may take, 0 for no limit.
//! **Shard's line**: 0 the number of its buckets, 0 before the first entry.
//! **Shard's row** (derived, all of it: recovery makes it anew): see [`row`].
//!
//! **Hash**: the shard from its highest bits, the bucket from its lowest, the tag of a slot from both: the bits that decide
//! where the entry goes when its bucket is split, and some above them. So a split reads no block, and the longer a table,
//! the fewer bits of the tag tell the entries of a bucket apart: 15 of a shard of 32 768 buckets, 4 of the largest.
//!
//! **Bucket**: one line of 8 words.
//!
//! | layout | words | holds |
//! |---|---|---|
//! | out of line | 0..7 | slots: tag (26) and place (38) of a block, 0 empty |
//! | inline | 0..3, 3..6, 6 | keys, values, and which of them are there: version << 8, one bit each |
//! | both | 7 | NEXT: version << 32, link to an overflow bucket (its number + 1; 0 none) |
//!
//! **Place**: region << 30, distance from the region's start in units of 16 bytes. **Region**: word 0 how many words of it
//! are blocks (or header), 1 where its generations start; blocks from word 8 on.
//! **Block**: word 0 class (low 8 bits), generation (odd: free or being filled); 1 lengths of key (low half) and value,
//! or the next free block; 2 the key's hash; then key and value, each padded to words.

/// Words of a bucket. Smaller in the model checker, which looks at each.
pub(super) const BUCKET: usize = if cfg!(loom) { 4 } else { 8 };
/// The last word of a bucket.
pub(super) const NEXT: usize = BUCKET - 1;
/// Slots of a bucket out of line.
pub(super) const SLOTS: usize = BUCKET - 1;
/// Pairs of a bucket inline; keys first, then values.
pub(super) const PAIRS: usize = (BUCKET - 2) / 2;
/// The word that says which pairs are there.
pub(super) const THERE: usize = BUCKET - 2;
pub(super) const THERE_BITS: u64 = (1 << PAIRS) - 1;
pub(super) const THERE_VERSION: u64 = 1 << 8;

pub(super) const LINK_BITS: u64 = u32::MAX as u64;
pub(super) const LINK_VERSION: u64 = 1 << 32;

/// Bits of a place.
const PLACE_BITS: u32 = 38;
#[cfg(not(loom))]
const _: () = assert!(PLACE_BITS == crate::segment::lanes::BELOW);
pub(super) const MOST_PLACE: u64 = (1 << PLACE_BITS) - 1;
const REGION_SHIFT: u32 = 30;
/// The most bytes of a region: what a place can name.
#[cfg(not(loom))]
pub(super) const LARGEST_REGION: u64 = 16 << REGION_SHIFT;
/// The lowest bit of the hash that is in a slot's tag. A shard begins with 16 buckets; in the model checker, with one.
const TAG_SHIFT: u32 = if cfg!(loom) { 0 } else { 4 };

/// Words of a block before its key.
pub(super) const BLOCK_HEADER: usize = 3;
/// The lowest bit of a generation: set in a free block.
pub(super) const FREE_BIT: u64 = 1 << 8;
pub(super) const CLASS_BITS: u64 = 0xff;
/// Words of a region before its blocks.
#[cfg(not(loom))]
pub(super) const REGION_HEADER: usize = 8;

/// Which bucket of `n` has the entries of `hash`: linear hashing.
#[inline(always)]
pub(super) fn address(hash: u64, n: u64) -> u64 {
    // As many bits as `n` has.
    let mask = u64::MAX >> (n | 1).leading_zeros();
    let (wide, narrow) = (hash & mask, hash & (mask >> 1));
    if wide < n { wide } else { narrow }
}

/// How many low bits of the hash decide that an entry is in bucket `b` of `n`.
pub(super) fn width(b: u64, n: u64) -> u32 {
    let level = 63 - (n | 1).leading_zeros();
    let half = 1u64 << level;
    // Bucket b and its partner b + 2^level (or b - 2^level) are told apart once the upper one exists.
    if (b & (half - 1)) | half < n { level + 1 } else { level }
}

/// Where the entries that move to bucket `n` come from when there are `n` buckets.
pub(super) fn split_source(n: u64) -> u64 {
    n & !(1 << (63 - (n | 1).leading_zeros()))
}

/// Do the entries of `hash` go to bucket `n` when there are `n` buckets?
#[inline(always)]
pub(super) fn goes_to(hash: u64, n: u64) -> bool {
    hash & (u64::MAX >> (n | 1).leading_zeros()) == n
}

/// The same of the entry in a slot that is not empty, as far as the slot tells: of an entry of the bucket that is split, it
/// tells it exactly.
#[inline(always)]
pub(super) fn slot_goes_to(word: u64, n: u64) -> bool {
    goes_to(hash_of_tag(slot_tag(word)) | (n & ((1 << TAG_SHIFT) - 1)), n)
}

/// The tag of a slot: never needed to be other than 0, since a place is never 0.
#[inline(always)]
pub(super) fn tag(hash: u64) -> u64 {
    hash >> TAG_SHIFT & ((1 << (64 - PLACE_BITS)) - 1)
}

/// A hash with that tag: its other bits are 0.
#[inline(always)]
pub(super) fn hash_of_tag(tag: u64) -> u64 {
    tag << TAG_SHIFT
}

#[inline(always)]
pub(super) fn slot_word(hash: u64, place: u64) -> u64 {
    tag(hash) << PLACE_BITS | place
}

#[inline(always)]
pub(super) fn slot_tag(word: u64) -> u64 {
    word >> PLACE_BITS
}

#[inline(always)]
pub(super) fn slot_place(word: u64) -> u64 {
    word & MOST_PLACE
}

pub(super) fn place(region: usize, word: usize) -> u64 {
    ((region as u64) << REGION_SHIFT) | (word as u64 / 2)
}

/// Region, and distance in words.
#[inline(always)]
pub(super) fn place_parts(place: u64) -> (usize, usize) {
    ((place >> REGION_SHIFT) as usize, ((place & ((1 << REGION_SHIFT) - 1)) * 2) as usize)
}

#[cfg(not(loom))]
pub(crate) use self::sizes::*;

#[cfg(not(loom))]
mod sizes {
    use crate::segment::words::words_for;
    use std::ops::Range;

    /// Of a map, fixed when it is made.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Shape {
        /// Bytes of each key and each value, if they are at most 8 each and the same for all: such entries live in the
        /// buckets.
        pub(crate) inline: Option<(u8, u8)>,
        /// What tells the types of keys and values apart: compared when a handle is opened.
        pub(crate) types: crate::segment::Stamp,
        /// How many entries will come, if that is known; 0 if not.
        pub(crate) expected: u64,
        /// The most bytes of buckets and blocks; 0 for no limit.
        pub(crate) max_bytes: u64,
    }

    /// The most bytes of a key.
    pub(crate) const LONGEST_KEY: usize = 1 << 20;
    /// The most bytes of a value.
    pub(crate) const LONGEST_VALUE: usize = 1 << 30;

    /// Words of the header.
    pub(in crate::map) const HEADER: usize = 8;
    /// Words of a shard's line.
    pub(in crate::map) const LINE: usize = 8;
    /// 32-bit words from one shard's lock to the next.
    pub(in crate::map) const LOCK_STRIDE: usize = 16;
    /// Key locks.
    pub(crate) const STRIPES: usize = 256;

    /// Words of a shard's row.
    pub(in crate::map) mod row {
        /// Entries.
        pub(in crate::map) const LEN: usize = 0;
        /// The first free overflow bucket, as a link.
        pub(in crate::map) const FREE_OVERFLOW: usize = 1;
        /// Overflow buckets `0..this` were used at least once.
        pub(in crate::map) const OVERFLOW_USED: usize = 2;
        /// The region that new blocks are cut from, + 1; 0 none.
        pub(in crate::map) const REGION: usize = 3;
        /// Bytes of the shard's parts.
        pub(in crate::map) const BYTES: usize = 4;
        /// First free block of each class (not inline).
        pub(in crate::map) const FREE: usize = 8;
    }

    /// Most buckets of a shard.
    pub(in crate::map) const MOST_BUCKETS: u64 = 1 << 26;
    const MOST_OVERFLOW: u64 = 1 << 24;
    /// Chunks of buckets: see [`chunk`].
    pub(in crate::map) const CHUNKS: usize = 340;
    pub(in crate::map) const OVERFLOW_CHUNKS: usize = 16 + 12 * 8;
    const _: () = assert!(chunk(MOST_BUCKETS - 1).0 == CHUNKS - 1);
    // Each bit that decides a split is in the tags.
    const _: () = assert!(MOST_BUCKETS <= 1 << (super::TAG_SHIFT + 64 - super::PLACE_BITS));
    const _: () = assert!(REGIONS <= 1 << (super::PLACE_BITS - super::REGION_SHIFT));
    const _: () = assert!(overflow_chunk(MOST_OVERFLOW - 1).0 == OVERFLOW_CHUNKS - 1);
    /// Regions of blocks of a shard.
    pub(in crate::map) const REGIONS: usize = 192;

    /// log2 of the buckets of a chunk, and the number of its first one less what the shift gives; by quarters of log2 of the
    /// bucket's number.
    const STEPS: [(u32, u64); 16] = {
        let mut steps = [(4, 0); 16];
        let (mut quarter, mut before) = (4, 16);
        while quarter < 16 {
            // 1024 buckets are 64 KiB, of which the segment wastes little. Above 2^18 a chunk is some extents of it.
            let shift = if quarter < 9 && quarter > 6 { 10 } else { 2 * quarter as u32 - 2 };
            let first = (1u64 << (2 * quarter)) >> shift;
            steps[quarter] = (shift, before - first);
            before += 3 * first;
            quarter += 1;
        }
        steps
    };

    /// Chunk of bucket `b`, how many buckets it has, and which one `b` is. Chunks have 16 buckets up to bucket 256; from
    /// there on 4 times as many for each 4 times, but 1024 from bucket 4096 to bucket 2^18.
    #[inline(always)]
    pub(in crate::map) const fn chunk(b: u64) -> (usize, u64, u64) {
        let quarter = (63 - (b | 64).leading_zeros()) / 2; // 3 below 256
        let (shift, base) = STEPS[(quarter & 15) as usize];
        let index = base.wrapping_add(b >> shift);
        (index as usize, 1 << shift, b & ((1 << shift) - 1))
    }

    /// Where chunks have 1024 buckets.
    const EVEN: Range<u64> = 1 << 12..1 << 18;
    const BEFORE_EVEN: u64 = chunk(EVEN.start).0 as u64 - (EVEN.start >> 10);

    /// Chunk of bucket `b`, and which one of it `b` is, as [`chunk`] says; `None` if no shard has so many.
    #[inline(always)]
    pub(in crate::map) fn chunk_of(b: u64) -> Option<(usize, u64)> {
        // In large maps, where a look waits for memory, this takes half of the instructions.
        if b.wrapping_sub(EVEN.start) < EVEN.end - EVEN.start {
            return Some((((b >> 10) + BEFORE_EVEN) as usize, b & 1023));
        }
        let (index, _, at) = chunk(b);
        (b < MOST_BUCKETS).then_some((index, at))
    }

    /// The same of overflow buckets, which are few: 4 times as many for each 4 times, from 256 on.
    #[inline(always)]
    pub(in crate::map) const fn overflow_chunk(b: u64) -> (usize, u64, u64) {
        let quarter = (63 - (b | 64).leading_zeros()) / 2;
        let shift = quarter * 2 - 2;
        let index = (quarter as u64 - 3) * 12 + (b >> shift);
        (index as usize, 1 << shift, b & ((1 << shift) - 1))
    }

    /// Classes of blocks.
    pub(in crate::map) const CLASSES: usize = 128;

    /// Words of a block of that class: steps of 2 words up to 16, then 4 steps per doubling.
    pub(in crate::map) const fn class_words(class: usize) -> u64 {
        if class < 8 {
            return (class as u64 + 1) * 2;
        }
        let (doubling, step) = ((class - 8) / 4, (class - 8) as u64 % 4);
        (16 << doubling) + ((step + 1) << doubling) * 4
    }

    /// The smallest class with room for so many words.
    pub(in crate::map) fn class_for(words: u64) -> Option<usize> {
        if words <= 16 {
            return Some((words.max(2).div_ceil(2) - 1) as usize);
        }
        let doubling = 59 - (words - 1).leading_zeros();
        let step = (words - 1 - (16 << doubling)) >> (doubling + 2);
        Some(8 + doubling as usize * 4 + step as usize).filter(|&class| class < CLASSES)
    }

    /// Words of a block for such a key and value.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests ask"))]
    pub(in crate::map) fn block_words(key: usize, value: usize) -> u64 {
        (super::BLOCK_HEADER + words_for(key) + words_for(value)) as u64
    }

    impl Shape {
        pub(in crate::map) fn shards(&self) -> usize {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let of_entries = (self.expected / 16_384).clamp(1, 64) as usize;
            (cpus * 2).clamp(8, 64).max(of_entries).next_power_of_two()
        }
    }

    /// Changes with every change of what a map's words mean.
    const FORMAT: u64 = 2;

    /// The numbers of one map.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(in crate::map) struct Layout {
        /// log2 of the number of shards, 1 to 6.
        pub(in crate::map) shard_bits: u32,
        pub(in crate::map) inline: Option<(u8, u8)>,
    }

    impl Layout {
        pub(in crate::map) fn encode(self) -> u64 {
            let (key, value) = self.inline.unwrap_or((0, 0));
            let inline = u64::from(self.inline.is_some()) << 24;
            u64::from(self.shard_bits) | u64::from(key) << 8 | u64::from(value) << 16 | inline | FORMAT << 32
        }

        /// `None` for a word that we never write.
        pub(in crate::map) fn decode(word: u64) -> Option<Self> {
            let byte = |i: u32| (word >> (8 * i)) as u8;
            let layout =
                Self { shard_bits: u32::from(byte(0)), inline: (byte(3) == 1).then_some((byte(1), byte(2))) };
            let fits = layout.inline.is_none_or(|(key, value)| key <= 8 && value <= 8);
            (fits && (1..=6).contains(&layout.shard_bits) && layout.encode() == word).then_some(layout)
        }

        pub(in crate::map) fn shards(self) -> usize {
            1 << self.shard_bits
        }

        pub(in crate::map) fn words32(self) -> usize {
            self.shards() * LOCK_STRIDE + STRIPES
        }

        pub(in crate::map) fn line(self, shard: usize) -> usize {
            HEADER + shard * LINE
        }

        fn row_words(self) -> usize {
            if self.inline.is_some() { row::FREE } else { row::FREE + CLASSES }
        }

        pub(in crate::map) fn row(self, shard: usize) -> usize {
            HEADER + self.shards() * LINE + shard * self.row_words()
        }

        pub(in crate::map) fn words64(self) -> usize {
            self.row(self.shards())
        }

        /// Parts of one shard.
        pub(in crate::map) fn shard_parts(self) -> usize {
            CHUNKS + OVERFLOW_CHUNKS + if self.inline.is_some() { 0 } else { REGIONS }
        }

        pub(in crate::map) fn parts(self) -> usize {
            self.shards() * self.shard_parts()
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use proptest::prelude::*;

        #[test]
        fn chunks_follow_one_another() {
            for chunk in [chunk, overflow_chunk] {
                let (mut last, mut b) = (0, 0);
                while b < 1 << 20 {
                    let (index, size, at) = chunk(b);
                    assert!(at == 0 && (index == last || index == last + 1), "{b}");
                    last = index;
                    assert_eq!(chunk(b + size - 1), (index, size, size - 1));
                    b += size;
                }
            }
            assert!(chunk_of(MOST_BUCKETS).is_none());
        }

        #[test]
        fn classes_rise_and_fit() {
            for class in 1..CLASSES {
                assert!(class_words(class) > class_words(class - 1));
                assert_eq!(class_words(class) % 2, 0);
            }
            assert!(class_words(CLASSES - 1) > block_words(LONGEST_KEY, LONGEST_VALUE));
        }

        proptest! {
            #[test]
            fn chunks_by_the_short_way_are_the_same(b in 0..MOST_BUCKETS, bits in 0u32..26) {
                for b in [b, b >> bits, EVEN.start - 1, EVEN.start, EVEN.end - 1, EVEN.end, EVEN.end + 1024] {
                    let (index, _, at) = chunk(b);
                    prop_assert_eq!(chunk_of(b), Some((index, at)));
                }
            }

            #[test]
            fn the_class_is_the_smallest_that_fits(words in 1u64..1 << 32) {
                let class = class_for(words).unwrap();
                prop_assert!(class_words(class) >= words);
                prop_assert!(class == 0 || class_words(class - 1) < words);
            }

            #[test]
            fn a_slot_knows_where_its_entry_goes(
                hash in any::<u64>(),
                at in 1u64..1 << super::super::PLACE_BITS,
                level in 4u32..26,
            ) {
                use super::super::*;
                let word = slot_word(hash, at);
                prop_assert_eq!((slot_place(word), slot_tag(word)), (at, tag(hash)));
                prop_assert_eq!(tag(hash_of_tag(tag(hash))), tag(hash));
                // When the bucket of this entry is split:
                let n = address(hash, 1 << level) | 1 << level;
                let goes = address(hash, n + 1) == n;
                prop_assert_eq!((goes_to(hash, n), slot_goes_to(word, n)), (goes, goes));
            }

            #[test]
            fn a_split_moves_entries_to_the_new_bucket_only(hash in any::<u64>(), n in 1u64..1 << 20) {
                use super::super::{address, split_source, width};
                let (before, after) = (address(hash, n), address(hash, n + 1));
                prop_assert!(before < n);
                prop_assert!(before == after || (after == n && before == split_source(n)));
                // All hashes with the same low bits, and no others, are in the same bucket.
                let bits = width(after, n + 1);
                prop_assert_eq!(address(hash & ((1 << bits) - 1), n + 1), after);
                prop_assert_eq!(address(hash ^ (1 << bits), n + 1), after);
                prop_assert!(bits == 0 || address(hash ^ (1 << (bits - 1)), n + 1) != after);
            }
        }
    }
}
