//! Several words compared at once: the processor's vectors, in one place.
//!
//! Nothing shared is touched here: the words come as copies, each loaded by one atomic access.
#![allow(unsafe_code, reason = "a function for which the compiler is told what the processor has")]

/// How many low bits of a word are not looked at by [`tagged`].
pub(crate) const BELOW: u32 = 38;

/// Which of the words have `tag` in their upper 26 bits, as bits.
#[inline(always)]
pub(crate) fn tagged(words: [u64; 7], tag: u32) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: each x86_64 has SSE2.
        unsafe { sse2(words, tag) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    one_by_one(words, tag)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(words: [u64; 7], tag: u32) -> u64 {
    words.iter().rev().fold(0, |hits, word| hits << 1 | u64::from(word >> BELOW == u64::from(tag)))
}

/// A third of the instructions, and in registers that little else needs: while the words are on their way from memory,
/// the instructions that wait for them are what keeps the processor from beginning with the next look.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn sse2(words: [u64; 7], tag: u32) -> u64 {
    use std::arch::x86_64::{
        _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_epi8, _mm_packs_epi16,
        _mm_packs_epi32, _mm_set_epi64x, _mm_set1_epi32, _mm_setzero_si128, _mm_shuffle_ps, _mm_srli_epi32,
    };
    let [a, b, c, d, e, f, g] = words.map(u64::cast_signed);
    let pair = |low, high| _mm_castsi128_ps(_mm_set_epi64x(high, low));
    let tags = _mm_set1_epi32(tag.cast_signed());
    // The upper half of each of four words, as lanes of 32 bits.
    let same =
        |upper| _mm_cmpeq_epi32(_mm_srli_epi32::<{ BELOW as i32 - 32 }>(_mm_castps_si128(upper)), tags);
    let first = same(_mm_shuffle_ps::<0b11_01_11_01>(pair(a, b), pair(c, d)));
    let second = same(_mm_shuffle_ps::<0b11_01_11_01>(pair(e, f), pair(g, 0)));
    let bytes = _mm_packs_epi16(_mm_packs_epi32(first, second), _mm_setzero_si128());
    u64::from(_mm_movemask_epi8(bytes).cast_unsigned()) & 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn at_once_is_one_by_one(
            mut words in any::<[u64; 7]>(),
            tag in prop_oneof![Just(0), Just((1 << 26) - 1), 0u32..1 << 26],
            equal in 0u64..1 << 7,
        ) {
            for (i, word) in words.iter_mut().enumerate() {
                if equal >> i & 1 != 0 {
                    *word = *word & ((1 << BELOW) - 1) | u64::from(tag) << BELOW;
                }
            }
            prop_assert_eq!(tagged(words, tag), one_by_one(words, tag));
            prop_assert_eq!(tagged(words, tag) & equal, equal);
        }
    }
}
