//! Bytes in and out of shared words.
//!
//! Another process may write the same words meanwhile. So nothing here makes a reference into them: each word is one
//! `Relaxed` atomic access, and what comes out is a private copy that may mix old and new words, but is never
//! undefined. Who needs more than that (order, wholeness) brings fences and a version: see `sync::cell`.
//!
//! Whole words first, then a tail of less than one word, which is stored padded with zeros. Byte order is the
//! machine's: shared memory does not travel. Pure safe code, compiled in every build.

use crate::atomic::{
    Ordering::Relaxed, // ordered by the caller, as above
    Word64,
};

const WORD: usize = size_of::<u64>();

/// How many words hold `bytes` bytes.
pub(crate) const fn words_for(bytes: usize) -> usize {
    bytes.div_ceil(WORD)
}

/// Stores `bytes` into the first [`words_for`] of them.
///
/// # Panics
///
/// If there are fewer words than that.
#[inline]
pub(crate) fn store_bytes(words: &[Word64], bytes: &[u8]) {
    let words = &words[..words_for(bytes.len())];
    let (whole, tail) = bytes.as_chunks::<WORD>();
    for (word, &bytes) in words.iter().zip(whole) {
        word.store(u64::from_ne_bytes(bytes), Relaxed);
    }
    if !tail.is_empty() {
        let mut last = [0; WORD];
        last[..tail.len()].copy_from_slice(tail);
        words[whole.len()].store(u64::from_ne_bytes(last), Relaxed);
    }
}

/// Copies the first `out.len()` bytes of the words.
///
/// # Panics
///
/// If there are fewer.
#[inline(always)] // where the length is known, no loop is left
pub(crate) fn load_bytes(words: &[Word64], out: &mut [u8]) {
    let words = &words[..words_for(out.len())];
    let (pairs, rest) = out.as_chunks_mut::<{ 2 * WORD }>();
    for (i, bytes) in pairs.iter_mut().enumerate() {
        *bytes = both(words[2 * i].load(Relaxed), words[2 * i + 1].load(Relaxed));
    }
    let words = &words[2 * pairs.len()..];
    let (whole, tail) = rest.as_chunks_mut::<WORD>();
    for (word, bytes) in words.iter().zip(whole.iter_mut()) {
        *bytes = word.load(Relaxed).to_ne_bytes();
    }
    if !tail.is_empty() {
        let last = words[whole.len()].load(Relaxed).to_ne_bytes();
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

/// Two words, one behind the other, as one store: a processor has room for a few dozen stores that wait for what they
/// store.
#[inline(always)]
fn both(first: u64, second: u64) -> [u8; 2 * WORD] {
    #[cfg(target_arch = "x86_64")]
    return bytemuck::cast(bytemuck::cast::<_, std::arch::x86_64::__m128i>([first, second]));
    #[cfg(not(target_arch = "x86_64"))]
    bytemuck::cast([first, second])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_and_nothing_else_is_touched(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let words: Vec<_> = (0..12).map(|_| Word64::new(u64::MAX)).collect();
            store_bytes(&words, &bytes);
            let mut out = vec![0; bytes.len()];
            load_bytes(&words, &mut out);
            prop_assert_eq!(&out, &bytes);

            let used = words_for(bytes.len());
            let mut padded = vec![1; used * WORD];
            load_bytes(&words, &mut padded);
            prop_assert!(padded[bytes.len()..].iter().all(|&b| b == 0), "the tail is padded with zeros");
            prop_assert!(words[used..].iter().all(|w| w.load(Relaxed) == u64::MAX), "words behind are untouched");
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn too_few_words_to_store() {
        store_bytes(&[Word64::new(0)], &[0; 9]);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn too_few_words_to_load() {
        load_bytes(&[Word64::new(0)], &mut [0; 9]);
    }
}
