//! The encodings of what needs no marker: numbers, text, vectors, arrays, tuples.

use super::{Codec, Key, Plain, Source, receive_plain, receive_small};
use crate::error::EncodeError;
use bytemuck::Pod;

/// Types that are passed by value, through an integer or float of `$n` bytes.
macro_rules! by_value {
    ($($t:ty: $wire:ty, $to:expr, $from:expr;)*) => {$(
        impl Codec for $t {
            type Owned = $t;
            type Ref<'a> = $t;
            const SIZE: Option<usize> = Some(size_of::<$wire>());

            #[inline]
            fn borrow(owned: &$t) -> $t {
                *owned
            }
            #[inline]
            fn encode(value: $t, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                let to: fn($t) -> $wire = $to;
                out.extend_from_slice(&to(value).to_le_bytes());
                Ok(())
            }
            #[inline]
            fn decode(bytes: &[u8]) -> Option<$t> {
                let from: fn($wire) -> Option<$t> = $from;
                from(<$wire>::from_le_bytes(bytes.try_into().ok()?))
            }
            #[inline(always)]
            fn with_bytes<R>(value: $t, f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
                let to: fn($t) -> $wire = $to;
                Ok(f(&to(value).to_le_bytes()))
            }
        }
    )*};
}

macro_rules! numbers {
    ($($t:ty)*) => { by_value! { $($t: $t, |n| n, Some;)* } };
}
numbers!(i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64);
by_value! {
    usize: u64, |n| n as u64, |n| usize::try_from(n).ok();
    isize: i64, |n| n as i64, |n| isize::try_from(n).ok();
    bool: u8, u8::from, |n| match n { 0 => Some(false), 1 => Some(true), _ => None };
    char: u32, u32::from, |n| char::from_u32(n);
}

macro_rules! keys {
    ($($t:ty)*) => {$( impl Key for $t {} )*};
}
keys!(() bool char i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize String);

impl Codec for () {
    type Owned = ();
    type Ref<'a> = ();
    const SIZE: Option<usize> = Some(0);

    #[inline]
    fn borrow((): &()) {}
    #[inline]
    fn encode((): (), _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(())
    }
    #[inline]
    fn decode(bytes: &[u8]) -> Option<()> {
        bytes.is_empty().then_some(())
    }
    #[inline(always)]
    fn with_bytes<R>((): (), f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
        Ok(f(&[]))
    }
}

impl Codec for String {
    type Owned = String;
    type Ref<'a> = &'a str;

    fn borrow(owned: &String) -> &str {
        owned
    }
    fn encode(value: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Option<String> {
        str::from_utf8(bytes).ok().map(str::to_owned)
    }
    fn decode_into(bytes: &[u8], out: &mut String) -> bool {
        out.clear();
        str::from_utf8(bytes).map(|text| out.push_str(text)).is_ok()
    }
    #[inline]
    fn receive<S: Source>(source: &S, out: &mut Result<Option<String>, S::Error>) {
        let mut bytes = Vec::new();
        *out = source.read(&mut bytes).and_then(|found| match found {
            true => String::from_utf8(bytes).map(Some).map_err(|_| source.undecodable()),
            false => Ok(None),
        });
    }
    #[inline(always)]
    fn lying_in<'v>(value: &'v &str) -> Option<&'v [u8]> {
        Some(value.as_bytes())
    }
    #[inline(always)]
    fn with_bytes<R>(value: &str, f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
        Ok(f(value.as_bytes()))
    }
}

impl<T: Pod> Codec for Vec<T> {
    type Owned = Vec<T>;
    type Ref<'a> = &'a [T];

    fn borrow(owned: &Vec<T>) -> &[T] {
        owned
    }
    fn encode(value: &[T], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        const { assert!(size_of::<T>() > 0, "elements without bytes cannot be counted") }
        out.extend_from_slice(bytemuck::cast_slice(value));
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Option<Vec<T>> {
        let mut all = Vec::new();
        Self::decode_into(bytes, &mut all).then_some(all)
    }
    fn decode_into(bytes: &[u8], out: &mut Vec<T>) -> bool {
        const { assert!(size_of::<T>() > 0, "elements without bytes cannot be counted") }
        if !bytes.len().is_multiple_of(size_of::<T>()) {
            return false;
        }
        out.resize(bytes.len() / size_of::<T>(), T::zeroed());
        bytemuck::cast_slice_mut(out).copy_from_slice(bytes);
        true
    }
    #[inline(always)]
    fn lying_in<'v>(value: &'v &[T]) -> Option<&'v [u8]> {
        Some(bytemuck::cast_slice(value))
    }
    #[inline(always)]
    fn with_bytes<R>(value: &[T], f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
        const { assert!(size_of::<T>() > 0, "elements without bytes cannot be counted") }
        Ok(f(bytemuck::cast_slice(value)))
    }
}
impl<T: Pod + Eq> Key for Vec<T> {}

impl<T: Pod, const N: usize> Codec for [T; N] {
    type Owned = [T; N];
    type Ref<'a> = &'a [T; N];
    const SIZE: Option<usize> = Some(size_of::<[T; N]>());

    #[inline]
    fn borrow(owned: &[T; N]) -> &[T; N] {
        owned
    }
    #[inline]
    fn encode(value: &[T; N], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(bytemuck::cast_slice(value));
        Ok(())
    }
    #[inline]
    fn decode(bytes: &[u8]) -> Option<[T; N]> {
        let mut all = [T::zeroed(); N];
        Self::decode_into(bytes, &mut all).then_some(all)
    }
    #[inline]
    fn decode_into(bytes: &[u8], out: &mut [T; N]) -> bool {
        let to: &mut [u8] = bytemuck::cast_slice_mut(out);
        to.len() == bytes.len() && {
            to.copy_from_slice(bytes);
            true
        }
    }
    #[inline(always)]
    fn receive<S: Source>(source: &S, out: &mut Result<Option<[T; N]>, S::Error>) {
        receive_plain(source, out);
    }
    const AT_ONCE: bool = size_of::<Self::Owned>() <= super::AT_ONCE;
    #[inline(always)]
    fn receive_at_once<S: Source>(source: &S) -> Option<Option<[T; N]>> {
        receive_small(source)
    }
    #[inline(always)]
    fn lying_in<'v>(value: &'v &[T; N]) -> Option<&'v [u8]> {
        Some(bytemuck::cast_slice(*value))
    }
    #[inline(always)]
    fn with_bytes<R>(value: &[T; N], f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
        Ok(f(bytemuck::cast_slice(value)))
    }
}
impl<T: Pod + Eq, const N: usize> Key for [T; N] {}

impl<T: Pod> Codec for Plain<T> {
    type Owned = T;
    type Ref<'a> = &'a T;
    const SIZE: Option<usize> = Some(size_of::<T>());

    #[inline]
    fn borrow(owned: &T) -> &T {
        owned
    }
    #[inline]
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(bytemuck::bytes_of(value));
        Ok(())
    }
    #[inline]
    fn decode(bytes: &[u8]) -> Option<T> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
    #[inline(always)]
    fn receive<S: Source>(source: &S, out: &mut Result<Option<T>, S::Error>) {
        receive_plain(source, out);
    }
    const AT_ONCE: bool = size_of::<Self::Owned>() <= super::AT_ONCE;
    #[inline(always)]
    fn receive_at_once<S: Source>(source: &S) -> Option<Option<T>> {
        receive_small(source)
    }
    #[inline(always)]
    fn lying_in<'v>(value: &'v &T) -> Option<&'v [u8]> {
        Some(bytemuck::bytes_of(*value))
    }
    #[inline(always)]
    fn with_bytes<R>(value: &T, f: impl FnOnce(&[u8]) -> R) -> Result<R, EncodeError> {
        Ok(f(bytemuck::bytes_of(value)))
    }
}
impl<T: Pod + Eq> Key for Plain<T> {}

// --- tuples ---

/// Appends one that is not the last: its length comes first, unless everybody knows it.
fn encode_part<C: Codec>(value: C::Ref<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let head = if C::SIZE.is_some() { 0 } else { size_of::<u32>() };
    let start = out.len() + head;
    out.resize(start, 0);
    C::encode(value, out)?;
    let len = out.len().checked_sub(start).ok_or_else(|| EncodeError::new("a part took bytes away"))?;
    match C::SIZE {
        Some(size) if size != len => Err(EncodeError::new("a part does not have the size that it promises")),
        Some(_) => Ok(()),
        None => {
            let len = u32::try_from(len).map_err(|_| EncodeError::new("a part of a tuple is over 4 GiB"))?;
            out[start - head..start].copy_from_slice(&len.to_le_bytes());
            Ok(())
        }
    }
}

/// Takes one that is not the last off the front.
fn decode_part<C: Codec>(bytes: &mut &[u8]) -> Option<C::Owned> {
    let size = match C::SIZE {
        Some(size) => size,
        None => u32::from_le_bytes(*bytes.split_off(..size_of::<u32>())?.first_chunk()?) as usize,
    };
    C::decode(bytes.split_off(..size)?)
}

const fn sum(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => a.checked_add(b),
        _ => None,
    }
}

macro_rules! tuples {
    ($($($part:ident $i:tt),+ => $last:ident $l:tt;)*) => {$(
        impl<$($part: Codec,)+ $last: Codec> Codec for ($($part,)+ $last) {
            type Owned = ($($part::Owned,)+ $last::Owned);
            type Ref<'a> = ($($part::Ref<'a>,)+ $last::Ref<'a>);
            const SIZE: Option<usize> = {
                let size = $last::SIZE;
                $(let size = sum(size, $part::SIZE);)+
                size
            };

            fn borrow(owned: &Self::Owned) -> Self::Ref<'_> {
                ($($part::borrow(&owned.$i),)+ $last::borrow(&owned.$l))
            }
            fn encode(value: Self::Ref<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                $(encode_part::<$part>(value.$i, out)?;)+
                $last::encode(value.$l, out)
            }
            fn decode(mut bytes: &[u8]) -> Option<Self::Owned> {
                Some(($(decode_part::<$part>(&mut bytes)?,)+ $last::decode(bytes)?))
            }
        }
        impl<$($part: Key,)+ $last: Key> Key for ($($part,)+ $last) {}
    )*};
}
tuples! {
    A 0 => B 1;
    A 0, B 1 => C 2;
    A 0, B 1, C 2 => D 3;
}
