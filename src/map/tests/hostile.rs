//! Bytes that somebody else writes over, while operations run: an error or a value, and always an end.

use super::*;
use crate::atomic::Word64;

fn operations(engine: &Engine, salt: u64) {
    let mut out = Vec::new();
    for k in 0..40u64 {
        let key = (k * 7 % 64).to_ne_bytes();
        let _ = engine.get(&key, &mut out);
        let _ = match (k + salt) % 6 {
            0 => engine.insert(&key, &salt.to_ne_bytes(), Some(&mut out)),
            1 => engine.remove(&key, Some(&mut out)),
            2 => engine.compare_and_set(&key, Some(&key), None),
            3 => engine.fetch_add8(&key, 1).map(|_| true),
            4 => engine.insert(&key, &key, None),
            _ => engine.contains(&key),
        };
    }
    let (mut batch, mut cursor) = (VecDeque::new(), Some(Cursor::default()));
    for _ in 0..1 << 16 {
        let Some(from) = cursor else { break };
        cursor = engine.scan(from, &mut batch).unwrap_or(None);
        batch.clear();
    }
    let _ = engine.stats();
    let _ = engine.len();
}

fn filled(segment: &Arc<Segment>, inline: bool) -> Engine {
    let engine = engine(segment, INLINE.filter(|_| inline));
    for key in 0..64u64 {
        engine.insert(&key.to_ne_bytes(), &key.to_ne_bytes(), None).unwrap();
    }
    engine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 60 } else { 600 }))]
    #[test]
    fn overwritten_words(
        inline in any::<bool>(),
        writes in proptest::collection::vec((any::<usize>(), any::<u64>(), 0u32..64), 1..30),
    ) {
        let segment = private();
        let engine = filled(&segment, inline);
        for (i, (at, value, bits)) in writes.into_iter().enumerate() {
            let words = words(&engine);
            let word: &Word64 = words[at % words.len()];
            match i % 3 {
                0 => word.store(value, Relaxed),
                1 => word.store(word.load(Relaxed) ^ 1 << bits, Relaxed),
                _ => word.store(words[value as usize % words.len()].load(Relaxed), Relaxed),
            }
            operations(&engine, i as u64);
        }
        // Recovery of anything ends, too.
        engine.try_recover_all();
        operations(&engine, 0);
    }
}

/// The same with the overwriting in another thread, at any moment.
#[test]
fn overwritten_while_it_runs() {
    for inline in [true, false] {
        for round in 0..if cfg!(debug_assertions) { 4 } else { 40 } {
            let segment = private();
            let engine = filled(&segment, inline);
            let stop = crate::atomic::Private32::new(0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut random = round * 2 + 1u64;
                    while stop.load(Relaxed) == 0 {
                        let words = words(&engine);
                        for _ in 0..50 {
                            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            words[(random >> 20) as usize % words.len()]
                                .fetch_xor(1 << (random >> 58), Relaxed);
                        }
                    }
                });
                (0..20).for_each(|salt| operations(&engine, salt));
                stop.store(1, Relaxed);
            });
        }
    }
}
