//! Encodings of keys and values: arbitrary bytes decode to a value or to nothing, and what decoded encodes to bytes that
//! decode to the same; of a key, to the very same bytes.
#![no_main]

use allmend::{Codec, Key, Plain, Serde};
use std::collections::BTreeMap;

fn value<C: Codec>(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let first = C::decode(bytes)?;
    let mut once = Vec::new();
    C::encode(C::borrow(&first), &mut once).expect("it came from bytes");
    let second = C::decode(&once).expect("what was encoded decodes");
    let mut twice = Vec::new();
    C::encode(C::borrow(&second), &mut twice).expect("as before");
    let mut third = second;
    assert!(C::decode_into(&once, &mut third), "what decodes decodes in place");
    Some((once, twice))
}

fn of<C: Codec>(bytes: &[u8]) {
    if let Some((once, twice)) = value::<C>(bytes) {
        assert_eq!(once, twice, "the same value has the same bytes");
    }
}

fn key<K: Key>(bytes: &[u8]) {
    if let Some((once, _)) = value::<K>(bytes) {
        assert_eq!(once, bytes, "a key is its bytes");
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 16 {
        0 => key::<u64>(bytes),
        1 => key::<bool>(bytes),
        2 => key::<char>(bytes),
        3 => key::<String>(bytes),
        4 => key::<Vec<u8>>(bytes),
        5 => key::<Vec<u32>>(bytes),
        6 => key::<[u16; 5]>(bytes),
        7 => key::<Plain<[u64; 2]>>(bytes),
        8 => key::<(String, u32, String)>(bytes),
        9 => key::<(Vec<u16>, (bool, char), String, ())>(bytes),
        10 => of::<f64>(bytes),
        11 => of::<(f32, Vec<f64>)>(bytes),
        12 => of::<Serde<Vec<Option<String>>>>(bytes),
        13 => of::<Serde<BTreeMap<u32, (i64, String)>>>(bytes),
        14 => of::<(Serde<Option<u64>>, String)>(bytes),
        _ => of::<Serde<Result<u8, [i32; 3]>>>(bytes),
    }
});
