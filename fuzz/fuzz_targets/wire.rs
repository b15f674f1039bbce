//! The pool's wire: records, messages and the fields of a task, out of arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| allmend::fuzzing::wire(bytes));
