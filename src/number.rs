//! Numbers and flags that have an atomic form: how each lies in the low bits of a 64-bit word, and how it adds.
//!
//! Traits only, and sealed: shared words are changed by whoever holds them. Pure, nothing to kill.

use crate::codec::Codec;
use std::fmt::Debug;

pub(crate) mod sealed {
    /// How a type lies in the low bits of a word.
    pub trait Bits64: Copy {
        fn to_word(self) -> u64;
        fn from_word(word: u64) -> Self;
    }
    /// How it adds.
    pub trait Arithmetic: Bits64 {
        /// May the whole word be added to? Not so for floats.
        const WRAPS: bool;
        fn plus(self, n: Self) -> Self;
        fn minus(self, n: Self) -> Self;
        fn larger(self, n: Self) -> Self;
        fn smaller(self, n: Self) -> Self;
    }
}

/// Types with an atomic form: integers of 8 to 64 bits, `bool`, `f32`, `f64`. Sealed.
pub trait Atomic: sealed::Bits64 + PartialEq + Debug + Send + Sync + 'static {}
/// Those that add: integers, which wrap around, and floats. In a container each stands for itself.
pub trait Number: Atomic + sealed::Arithmetic + for<'a> Codec<Owned = Self, Ref<'a> = Self> {}
/// Those with bits to set and clear: integers and `bool`.
pub trait Bits: Atomic {}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl sealed::Bits64 for $t {
            fn to_word(self) -> u64 { self as u64 }
            fn from_word(word: u64) -> Self { word as $t }
        }
        impl sealed::Arithmetic for $t {
            const WRAPS: bool = true;
            fn plus(self, n: Self) -> Self { self.wrapping_add(n) }
            fn minus(self, n: Self) -> Self { self.wrapping_sub(n) }
            fn larger(self, n: Self) -> Self { self.max(n) }
            fn smaller(self, n: Self) -> Self { self.min(n) }
        }
        impl Atomic for $t {}
        impl Number for $t {}
        impl Bits for $t {}
    )*};
}
integers!(i8 i16 i32 i64 u8 u16 u32 u64);

macro_rules! floats {
    ($($t:ty, $bits:ty;)*) => {$(
        impl sealed::Bits64 for $t {
            fn to_word(self) -> u64 { u64::from(self.to_bits()) }
            fn from_word(word: u64) -> Self { <$t>::from_bits(word as $bits) }
        }
        impl sealed::Arithmetic for $t {
            const WRAPS: bool = false;
            fn plus(self, n: Self) -> Self { self + n }
            fn minus(self, n: Self) -> Self { self - n }
            fn larger(self, n: Self) -> Self { self.max(n) }
            fn smaller(self, n: Self) -> Self { self.min(n) }
        }
        impl Atomic for $t {}
        impl Number for $t {}
    )*};
}
floats!(f32, u32; f64, u64;);

impl sealed::Bits64 for bool {
    fn to_word(self) -> u64 {
        u64::from(self)
    }
    fn from_word(word: u64) -> Self {
        word & 1 == 1
    }
}
impl Atomic for bool {}
impl Bits for bool {}
