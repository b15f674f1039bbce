//! Whatever the bytes are: no panic, nothing outside of them, and what was written comes back.

use super::*;
use proptest::prelude::*;

fn word() -> impl Strategy<Value = u64> {
    // Heads that are nearly right are the interesting ones.
    prop_oneof![
        any::<u64>(),
        (0..40u64, 0..4u64, 0..5u64).prop_map(|(len, item, tag)| len | item << 32 | tag << 52)
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_split_within_their_bounds(
        words in proptest::collection::vec(word(), 0..12),
        cut in 0..8usize,
        count in 0..5u32,
    ) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(bytes.len().saturating_sub(cut));
        let whole = bytes.as_ptr_range();
        let mut used = 0;
        for (i, record) in records(&bytes, count, 0).enumerate() {
            prop_assert!(i <= words.len(), "it ends");
            let Ok(record) = record else { break };
            let body = record.body.as_ptr_range();
            prop_assert!(whole.start <= body.start && body.end <= whole.end);
            prop_assert!(record.item < count);
            used += 8 + record.body.len();
            prop_assert!(used <= bytes.len());
        }
    }

    #[test]
    fn records_come_back(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6)) {
        let mut bytes = Vec::new();
        for (item, body) in (0..).zip(&bodies) {
            push_record::<TooLong>(&mut bytes, item, Tag::Argument, |out| { out.extend(body); Ok(()) }).unwrap();
            let before = bytes.clone();
            push_record(&mut bytes, item, Tag::Error, |out| { out.push(1); Err(TooLong) }).unwrap_err();
            prop_assert_eq!(&before, &bytes, "an error leaves nothing behind");
        }
        let back: Result<Vec<_>, _> = records(&bytes, bodies.len() as u32, 0).collect();
        let back = back.unwrap();
        prop_assert!(back.iter().map(|r| r.body).eq(bodies.iter().map(|b| &b[..])));
        prop_assert!(back.iter().all(|r| r.tag == Tag::Argument && !r.is_pinned()));
        prop_assert!(back.iter().map(|r| r.item).eq(0..bodies.len() as u32));
    }

    #[test]
    fn results_come_back_unless_a_bit_was_changed(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..4),
        pins in proptest::collection::vec((any::<u128>(), any::<u32>()), 0..3),
        (key, at) in any::<(u64, proptest::sample::Index)>(),
    ) {
        let pins: Vec<_> =
            pins.into_iter().map(|(segment, row)| Pins { segment, chain: PinChain(row) }).collect();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for (item, body) in (0..).zip(&bodies) {
            let mut record = Vec::new();
            push_record::<TooLong>(&mut record, item, Tag::Value, |out| { out.extend(body); Ok(()) }).unwrap();
            seal_record(&mut record, key, &pins);
            bytes.extend(record);
            ends.push(bytes.len());
        }
        let count = bodies.len() as u32;
        let back: Vec<_> = records(&bytes, count, key).map(Result::unwrap).collect();
        prop_assert!(back.iter().map(|r| r.body).eq(bodies.iter().map(|b| &b[..])));
        prop_assert!(back.iter().all(|r| r.tag == Tag::Value && r.pins().eq(pins.iter().copied())));
        prop_assert!(records(&bytes, count, key ^ 1).next().unwrap().is_err(), "another task's");
        let bit = at.index(8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
        let whole = ends.iter().filter(|&&end| end <= bit / 8).count();
        let left = records(&bytes, count, key).map_while(Result::ok);
        // A changed tag makes an argument of it, which nobody takes for a result.
        prop_assert_eq!(left.take_while(|r| r.tag != Tag::Argument).count(), whole);
    }

    #[test]
    fn arbitrary_messages_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = decode::<Welcome>(&bytes);
        let _ = decode::<Hello>(&bytes);
        let _ = decode::<Answer>(&bytes);
        let _ = decode::<crate::error::TaskError>(&bytes);
    }

    #[test]
    fn arbitrary_tasks_are_read_within_their_bounds(
        line in proptest::collection::vec(any::<u32>(), 15),
        words in proptest::collection::vec(any::<u64>(), PAYLOAD - 1),
        area in any::<u8>(),
        key in any::<u64>(),
    ) {
        let line: Vec<Word32> = line.into_iter().map(Word32::new).collect();
        let words: Vec<Word64> = words.into_iter().map(Word64::new).collect();
        let task = Task::new(&line, &words).unwrap();
        let mut argument = Vec::new();
        prop_assert!(task.argument(&mut argument).is_some() || argument.len() <= INLINE_BYTES);
        prop_assert!(task.last_words().len() <= 3 * LAST_WORDS * 8);
        prop_assert_eq!(task.result_place(area).is_some(), area == 1 || area == 2);
        prop_assert_eq!(task.order(key, &argument), None, "no seal by chance");
        let order = Order { trampoline: 1, function: 2, serial: 3, count: 4, timed: false };
        task.set_order(key, &order, &argument);
        prop_assert_eq!(task.order(key, &argument).map(|sealed| sealed.0), Some(order));
        prop_assert_eq!(task.order(key ^ 1, &argument), None);
        argument.push(0);
        prop_assert_eq!(task.order(key, &argument), None);
        argument.pop();
        for field in [LineField::Code, LineField::Function, LineField::Seal, LineField::Serial] {
            task.set_line(field, task.get_line(field) ^ 1 << 40);
            prop_assert_eq!(task.order(key, &argument), None);
            task.set_line(field, task.get_line(field) ^ 1 << 40);
        }
        for changed in [5, 4 | TIMED] {
            task.line[LineField::Count as usize].store(changed, Relaxed);
            prop_assert_eq!(task.order(key, &argument), None);
        }
    }

    #[test]
    fn fields_of_a_task_do_not_overlap(
        bytes in proptest::collection::vec(any::<u8>(), 0..=INLINE_BYTES),
        serial in any::<u64>(),
        count in 1..MAX_COUNT,
        timed in any::<bool>(),
    ) {
        let line: Vec<Word32> = (0..15).map(|_| Word32::new(u32::MAX)).collect();
        let words: Vec<Word64> = (0..PAYLOAD - 1).map(|_| Word64::new(u64::MAX)).collect();
        let task = Task::new(&line, &words).unwrap();
        let place = Place { at: 5, generation: 6 };
        task.set_argument(&bytes, None);
        let order = Order { trampoline: 2, function: 3, serial, count, timed };
        task.set_order(1, &order, &bytes);
        for area in [1, 2] {
            task.set_result_place(area, place);
        }
        task.set(Field::Nanos, 4);
        task.set(Field::LastWordsBytes, 7);
        task.set(Field::BufferPins, 8);
        store_bytes(task.result_area(), &[0; INLINE_BYTES]);
        let mut argument = vec![1; 3];
        prop_assert_eq!(task.argument(&mut argument), None);
        prop_assert_eq!(&argument, &bytes);
        prop_assert_eq!(task.order(1, &argument).map(|sealed| sealed.0), Some(order));
        prop_assert_eq!(task.get(Field::BufferPins), 8);
        prop_assert_eq!((task.result_place(1), task.result_place(2)), (Some(place), Some(place)));
        prop_assert_eq!((task.get(Field::Nanos), task.get(Field::LastWordsBytes)), (4, 7));
        task.set_argument(&[9; INLINE_BYTES + 1], Some(place));
        prop_assert_eq!(task.argument(&mut Vec::new()), Some((place, INLINE_BYTES as u64 + 1)));
        prop_assert_eq!((task.result_place(1), task.get(Field::LastWordsBytes)), (Some(place), 7));
    }

    #[test]
    fn last_words_are_cut_at_a_character(text in "\\PC{0,300}") {
        let words: Vec<Word64> = (0..PAYLOAD - 1).map(|_| Word64::new(u64::MAX)).collect();
        let line: Vec<Word32> = (0..15).map(|_| Word32::new(u32::MAX)).collect();
        let task = Task::new(&line, &words).unwrap();
        task.set_last_words(&text);
        let back = task.last_words();
        prop_assert!(text.starts_with(&back));
        prop_assert!(back.len() == text.len() || back.len() > LAST_WORDS * 8 - 4);
    }

    #[test]
    fn progress_fits_into_a_word(items in 0..Progress::MAX_ITEMS, area in 0..4u8, words in 0..1u64 << 39, lap in any::<u32>()) {
        let progress = Progress { items, area, bytes: 8 * words };
        prop_assert_eq!(Progress::from_bits(progress.bits(lap), lap), progress);
        let later = lap.wrapping_add(1);
        prop_assert_eq!(Progress::from_bits(progress.bits(lap), later), Progress::default(), "of another lap");
    }
}

#[test]
fn nothing_may_follow_a_body() {
    let mut bytes = Vec::new();
    encode(&(1u8, 2u8), &mut bytes).unwrap();
    assert_eq!(decode::<(u8, u8)>(&bytes), Ok((1, 2)));
    assert!(decode::<u8>(&bytes).is_err());
}
