//! Round trips, fixed bytes, and bytes that nobody wrote.

use super::{Codec, Key, Plain, Serde, serial};
use crate::error::EncodeError;
use bytemuck::{Pod, Zeroable};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
struct Point {
    x: i32,
    y: u16,
    z: u16,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Config {
    name: String,
    rate: Option<f32>,
    parts: Vec<Config>,
}

fn bytes_of<C: Codec>(value: &C::Owned) -> Vec<u8> {
    let mut bytes = vec![7]; // encode appends
    C::encode(C::borrow(value), &mut bytes).unwrap();
    assert_eq!(bytes.remove(0), 7);
    assert_eq!(C::with_bytes(C::borrow(value), <[u8]>::to_vec).unwrap(), bytes);
    assert!(C::SIZE.is_none_or(|size| size == bytes.len()));
    bytes
}

/// Comes back, also over another one, and from any alignment; not from fewer bytes, if their number is known.
fn comes_back<C: Codec>(value: &C::Owned, mut other: C::Owned) -> Vec<u8>
where
    C::Owned: PartialEq + Debug,
{
    let bytes = bytes_of::<C>(value);
    assert_eq!(C::decode(&bytes).as_ref(), Some(value));
    assert!(C::decode_into(&bytes, &mut other));
    assert_eq!(&other, value);
    for shift in 0..4 {
        let mut shifted = vec![0; shift];
        shifted.extend(&bytes);
        assert_eq!(C::decode(&shifted[shift..]).as_ref(), Some(value));
    }
    if let Some(size) = C::SIZE {
        assert!(size == 0 || C::decode(&bytes[..size - 1]).is_none());
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert!(C::decode(&longer).is_none());
        assert!(!C::decode_into(&longer, &mut other));
    }
    bytes
}

/// What comes out of any bytes is a value whose bytes are those: nothing is accepted in two spellings.
fn is_canonical<C: Key>(bytes: &[u8]) {
    if let Some(value) = C::decode(bytes) {
        assert_eq!(bytes_of::<C>(&value), bytes);
    }
}

#[test]
fn bytes_do_not_change_between_versions() {
    assert_eq!(bytes_of::<u32>(&0x0102_0304), [4, 3, 2, 1]);
    assert_eq!(bytes_of::<i16>(&-2), [0xfe, 0xff]);
    assert_eq!(bytes_of::<usize>(&3), [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes_of::<isize>(&-1), [0xff; 8]);
    assert_eq!(bytes_of::<f64>(&1.0), 1.0f64.to_bits().to_le_bytes());
    assert_eq!(bytes_of::<bool>(&true), [1]);
    assert_eq!(bytes_of::<char>(&'ß'), [0xdf, 0, 0, 0]);
    assert_eq!(bytes_of::<()>(&()), []);
    assert_eq!(bytes_of::<String>(&"aß".to_owned()), b"a\xc3\x9f");
    assert_eq!(bytes_of::<Vec<u16>>(&vec![1, 0x0203]), [1, 0, 3, 2]);
    assert_eq!(bytes_of::<[u8; 3]>(&[1, 2, 3]), [1, 2, 3]);
    assert_eq!(bytes_of::<Plain<Point>>(&Point { x: 1, y: 2, z: 3 }), [1, 0, 0, 0, 2, 0, 3, 0]);
    assert_eq!(bytes_of::<(String, u16)>(&("ab".to_owned(), 1)), [2, 0, 0, 0, b'a', b'b', 1, 0]);
    assert_eq!(bytes_of::<(u16, String)>(&(1, "ab".to_owned())), [1, 0, b'a', b'b']);
    assert_eq!(bytes_of::<Serde<(u32, Option<bool>)>>(&(300, Some(true))), [0xac, 2, 1, 1]);
    let nested = (("a".to_owned(), 1u8), vec![2u8], (), 3u8);
    assert_eq!(
        bytes_of::<((String, u8), Vec<u8>, (), u8)>(&nested),
        [6, 0, 0, 0, 1, 0, 0, 0, b'a', 1, 1, 0, 0, 0, 2, 3]
    );
}

#[test]
fn sizes_are_known_where_they_are_fixed() {
    assert_eq!(<(u32, u16)>::SIZE, Some(6));
    assert_eq!(<(u32, [u16; 3], (bool, ()), Plain<Point>)>::SIZE, Some(4 + 6 + 1 + 8));
    assert_eq!(<(u32, String)>::SIZE, None);
    assert_eq!(<(Vec<u8>, u32, u32)>::SIZE, None);
}

#[test]
fn bytes_that_are_no_values() {
    assert_eq!(bool::decode(&[2]), None);
    assert_eq!(char::decode(&0xd800u32.to_le_bytes()), None);
    assert_eq!(String::decode(&[0xff]), None);
    assert_eq!(Vec::<u32>::decode(&[1, 2, 3]), None);
    assert_eq!(<()>::decode(&[0]), None);
    assert_eq!(<(String, u8)>::decode(&[2, 0, 0, 0, b'a', 1]), None);
    assert_eq!(<(String, u8)>::decode(&[0xff, 0xff, 0xff, 0xff, b'a', 1]), None);
    assert_eq!(<(String, u8)>::decode(&[1, 0, 0]), None);
    assert_eq!(<(String, String)>::decode(&[2, 0, 0, 0, b'a']), None);
    assert_eq!(Serde::<u32>::decode(&[1, 1]), None);
    let mut old = "old".to_owned();
    assert!(!String::decode_into(&[0xff], &mut old));
}

#[test]
fn what_has_no_bytes_is_an_error() {
    struct Refuses;
    impl Serialize for Refuses {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("never"))
        }
    }
    assert!(serial::encode(&Refuses, &mut Vec::new()).is_err());

    /// Says 2, and writes 3.
    struct Liar;
    impl Codec for Liar {
        type Owned = ();
        type Ref<'a> = ();
        const SIZE: Option<usize> = Some(2);
        fn borrow((): &()) {}
        fn encode((): (), out: &mut Vec<u8>) -> Result<(), EncodeError> {
            out.extend([0; 3]);
            Ok(())
        }
        fn decode(_: &[u8]) -> Option<()> {
            Some(())
        }
    }
    assert!(<(Liar, u8)>::encode(((), 1), &mut Vec::new()).is_err());
}

#[test]
fn bytes_of_one_may_be_asked_for_inside_of_another() {
    let nested = <(u8, u8)>::with_bytes((1, 2), |outer| {
        <(u8, u8)>::with_bytes((3, 4), |inner| [outer, inner].concat()).unwrap()
    });
    assert_eq!(nested.unwrap(), [1, 2, 3, 4]);
}

fn config() -> impl Strategy<Value = Config> {
    let leaf = (any::<String>(), proptest::option::of(-1e9f32..1e9));
    let leaf = leaf.prop_map(|(name, rate)| Config { name, rate, parts: Vec::new() });
    leaf.prop_recursive(3, 12, 3, |inner| {
        (any::<String>(), prop::collection::vec(inner, 0..3)).prop_map(|(name, parts)| Config {
            name,
            rate: None,
            parts,
        })
    })
}

fn point() -> impl Strategy<Value = Point> {
    any::<(i32, u16, u16)>().prop_map(|(x, y, z)| Point { x, y, z })
}

proptest! {
    #[test]
    fn numbers_come_back(a in any::<[u64; 2]>(), b in any::<[i128; 2]>(), c in any::<[char; 2]>(), d in any::<bool>()) {
        comes_back::<u64>(&a[0], a[1]);
        comes_back::<u32>(&(a[0] as u32), 1);
        comes_back::<i16>(&(a[0] as i16), 1);
        comes_back::<u8>(&(a[0] as u8), 1);
        comes_back::<usize>(&(a[0] as usize), 1);
        comes_back::<isize>(&(a[0] as isize), 1);
        comes_back::<i128>(&b[0], b[1]);
        comes_back::<u128>(&(b[0] as u128), 1);
        comes_back::<char>(&c[0], c[1]);
        comes_back::<bool>(&d, false);
        comes_back::<()>(&(), ());
        let float = f64::from_bits(a[0]);
        prop_assert_eq!(f64::decode(&bytes_of::<f64>(&float)).map(f64::to_bits), Some(a[0]));
        let float = f32::from_bits(a[0] as u32);
        prop_assert_eq!(f32::decode(&bytes_of::<f32>(&float)).map(f32::to_bits), Some(a[0] as u32));
    }

    #[test]
    fn the_rest_comes_back(s in any::<String>(), v in any::<Vec<u32>>(), p in point(), c in config(), n in any::<u16>()) {
        comes_back::<String>(&s, "another".into());
        comes_back::<Vec<u32>>(&v, vec![1, 2, 3]);
        comes_back::<Vec<u8>>(&s.clone().into_bytes(), vec![]);
        comes_back::<[u64; 3]>(&[u64::from(n); 3], [1; 3]);
        comes_back::<Plain<Point>>(&p, Point::zeroed());
        comes_back::<Serde<Config>>(&c, Config { name: String::new(), rate: None, parts: vec![] });
        comes_back::<(String, u16)>(&(s.clone(), n), (String::new(), 0));
        comes_back::<(u16, Vec<u32>, String)>(&(n, v.clone(), s.clone()), (0, vec![], String::new()));
        comes_back::<((String, u16), Serde<Config>, Plain<Point>, Vec<u32>)>(
            &((s.clone(), n), c.clone(), p, v),
            ((s, n), c, p, vec![]),
        );
    }

    #[test]
    fn different_keys_have_different_bytes(a in any::<(String, String, u8)>(), b in any::<(String, String, u8)>()) {
        type K = (String, String, u8);
        prop_assert_eq!(a == b, bytes_of::<K>(&a) == bytes_of::<K>(&b));
        // The same text, cut elsewhere.
        let whole = format!("{}{}", a.0, a.1);
        for cut in (0..=whole.len()).filter(|&cut| whole.is_char_boundary(cut)) {
            let other = (whole[..cut].to_owned(), whole[cut..].to_owned(), a.2);
            prop_assert_eq!(a == other, bytes_of::<K>(&a) == bytes_of::<K>(&other));
        }
    }

    #[test]
    fn any_bytes_are_a_value_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        is_canonical::<bool>(&bytes);
        is_canonical::<char>(&bytes);
        is_canonical::<u64>(&bytes);
        is_canonical::<usize>(&bytes);
        is_canonical::<String>(&bytes);
        is_canonical::<Vec<u32>>(&bytes);
        is_canonical::<[u16; 4]>(&bytes);
        is_canonical::<Plain<Point>>(&bytes);
        is_canonical::<(String, u16)>(&bytes);
        is_canonical::<(Vec<u8>, (bool, String), u8)>(&bytes);
        is_canonical::<(u8, String, Vec<u16>, ())>(&bytes);
        let _ = Serde::<Config>::decode(&bytes);
        let _ = Serde::<(String, Vec<u64>, Option<char>)>::decode(&bytes);
        let _ = f64::decode(&bytes);
    }

    /// The first length is small, so that more of them get behind it.
    #[test]
    fn almost_right_bytes_are_a_value_or_none(len in 0u32..12, tail in prop::collection::vec(any::<u8>(), 0..16)) {
        let bytes: Vec<u8> = len.to_le_bytes().into_iter().chain(tail).collect();
        is_canonical::<(Vec<u8>, u16)>(&bytes);
        is_canonical::<((Vec<u8>, bool), String)>(&bytes);
    }
}
