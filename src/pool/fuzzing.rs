//! What the wire's parsers do with bytes from anywhere: they return, and stay within the bytes. Driven by `fuzz/`.

use super::{Hello, INLINE_BYTES, LAST_WORDS, MAX_COUNT, PAYLOAD, Task, Welcome, decode, records};
use crate::{
    atomic::{Word32, Word64},
    error::TaskError,
};

/// The first byte chooses the parser, the rest is its input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => split(bytes),
        1 => {
            let _ = decode::<Welcome>(bytes).map(|welcome| welcome.shape());
            let _ = decode::<Hello>(bytes);
        }
        2 => {
            let _ = decode::<TaskError>(bytes);
            let _ = decode::<crate::Error>(bytes);
        }
        _ => task(bytes),
    }
}

fn split(bytes: &[u8]) {
    let Some((&count, bytes)) = bytes.split_first() else { return };
    let mut used = 0;
    for record in records(bytes, u32::from(count), 0) {
        let Ok(record) = record else { break };
        assert!(bytes.as_ptr_range().start <= record.body.as_ptr() && record.item < u32::from(count));
        used += 8 + record.body.len();
        assert!(used <= bytes.len(), "records within their bytes");
    }
}

fn task(bytes: &[u8]) {
    let mut words = bytes.chunks(8).map(|part| {
        let mut eight = [0; 8];
        eight[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(eight)
    });
    let mut next = || words.next().unwrap_or(0);
    let line: Vec<Word32> = (0..15).map(|_| Word32::new(next() as u32)).collect();
    let key = next();
    let words: Vec<Word64> = (0..PAYLOAD - 1).map(|_| Word64::new(next())).collect();
    let task = Task::new(&line, &words).expect("these are its lengths");
    let mut argument = Vec::new();
    assert!(task.argument(&mut argument).is_some() || argument.len() <= INLINE_BYTES);
    if let Some(sealed) = task.order(key, &argument) {
        assert!(sealed.order().count <= MAX_COUNT);
    }
    assert!(task.last_words().len() <= 3 * LAST_WORDS * 8);
    let _ = task.result_place(1);
}
