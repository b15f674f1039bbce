//! Random operations against plain models: values of several types, the allocator by creating and dropping objects of
//! random sizes, and every atomic operation against std's arithmetic.

use allmend::{SharedAtomic, SharedValue};
use bytemuck::{Pod, Zeroable};
use proptest::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Tests here count the objects of the process's one segment, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

fn objects() -> u64 {
    let report = allmend::verify().expect("a healthy segment");
    assert_eq!(report.busy, 0, "{report:?}");
    report.objects
}

// ---- values ----

#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
struct Record {
    id: u64,
    weight: f32,
    flags: [u8; 4],
    history: [u32; 22],
}

#[derive(Clone, Debug)]
enum Op {
    Get(usize),
    Set(usize, u8),
    Update(usize, u8),
    Commit(usize, u8),
    Discard(usize, u8),
    LookOnly(usize),
    Panic(usize, u8),
    CloneAndDrop(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..4usize;
    prop_oneof![
        at.clone().prop_map(Op::Get),
        (at.clone(), any::<u8>()).prop_map(|(i, n)| Op::Set(i, n)),
        (at.clone(), any::<u8>()).prop_map(|(i, n)| Op::Update(i, n)),
        (at.clone(), any::<u8>()).prop_map(|(i, n)| Op::Commit(i, n)),
        (at.clone(), any::<u8>()).prop_map(|(i, n)| Op::Discard(i, n)),
        at.clone().prop_map(Op::LookOnly),
        (at.clone(), any::<u8>()).prop_map(|(i, n)| Op::Panic(i, n)),
        at.prop_map(Op::CloneAndDrop),
    ]
}

/// A value of which every byte depends on `n`.
fn make<T: Pod>(n: u8) -> T {
    let mut value = T::zeroed();
    for (i, byte) in bytemuck::bytes_of_mut(&mut value).iter_mut().enumerate() {
        *byte = n.wrapping_mul(31).wrapping_add(i as u8);
    }
    value
}

fn bytes<T: Pod>(value: &T) -> Vec<u8> {
    bytemuck::bytes_of(value).to_vec()
}

/// Changes one byte: most of the value has to survive the copy.
fn touch<T: Pod>(value: &mut T, n: u8) {
    let bytes = bytemuck::bytes_of_mut(value);
    let at = n as usize % bytes.len();
    bytes[at] = bytes[at].wrapping_add(n | 1);
}

fn values_follow_the_model<T: Pod + Send + Sync + std::panic::RefUnwindSafe>(ops: &[Op]) {
    let mut model: Vec<T> = (0..4).map(make).collect();
    let shared: Vec<SharedValue<T>> = model.iter().map(|v| SharedValue::new(*v).unwrap()).collect();
    for op in ops {
        match *op {
            Op::Get(i) => assert_eq!(bytes(&shared[i].get()), bytes(&model[i])),
            Op::Set(i, n) => {
                shared[i].set(make(n)).unwrap();
                model[i] = make(n);
            }
            Op::Update(i, n) => {
                let before = shared[i].update(|v| {
                    let before = *v;
                    touch(v, n);
                    before
                });
                assert_eq!(bytes(&before.unwrap()), bytes(&model[i]));
                touch(&mut model[i], n);
            }
            Op::Commit(i, n) => {
                let mut guard = shared[i].get_lock().unwrap();
                touch(&mut *guard, n);
                assert_eq!(bytes(&shared[i].get()), bytes(&model[i]), "not before the commit");
                guard.commit();
                touch(&mut model[i], n);
            }
            Op::Discard(i, n) => {
                let mut guard = shared[i].try_get_lock().unwrap();
                touch(&mut *guard, n);
                guard.discard();
            }
            Op::LookOnly(i) => {
                let guard = shared[i].get_lock().unwrap();
                assert_eq!((bytes(&*guard), guard.inherited()), (bytes(&model[i]), None));
            }
            Op::Panic(i, n) => {
                let panicked = std::panic::catch_unwind(|| {
                    let mut guard = shared[i].get_lock().unwrap();
                    touch(&mut *guard, n);
                    std::panic::resume_unwind(Box::new(()));
                });
                assert!(panicked.is_err());
            }
            Op::CloneAndDrop(i) => drop(shared[i].clone()),
        }
    }
    for (shared, model) in shared.iter().zip(&model) {
        assert_eq!(bytes(&shared.get()), bytes(model));
    }
}

// ---- objects ----

#[derive(Clone, Debug)]
enum Life {
    /// Of a size by this index.
    Create(usize),
    /// The one at this index, modulo how many there are.
    Drop(usize),
    Clone(usize),
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        5 => (0..8usize).prop_map(Life::Create),
        3 => any::<usize>().prop_map(Life::Drop),
        1 => any::<usize>().prop_map(Life::Clone),
    ]
}

/// An object of one of several sizes: blocks of several classes, runs of one and more extents.
enum Object {
    Tiny(SharedValue<[u8; 3]>),
    Word(SharedAtomic<u64>),
    Small(SharedValue<[u64; 9]>),
    Page(SharedValue<[u64; 300]>),
    Large(SharedValue<[u64; 3_000]>),
    LargestBlock(SharedValue<[u64; 8_150]>),
    Run(SharedValue<[u64; 9_000]>),
    LongRun(SharedValue<[u64; 100_000]>),
}

impl Object {
    fn create(size: usize, n: u64) -> Self {
        match size {
            0 => Self::Tiny(SharedValue::new([n as u8; 3]).unwrap()),
            1 => Self::Word(SharedAtomic::new(n).unwrap()),
            2 => Self::Small(SharedValue::new([n; 9]).unwrap()),
            3 => Self::Page(SharedValue::new([n; 300]).unwrap()),
            4 => Self::Large(SharedValue::new([n; 3_000]).unwrap()),
            5 => Self::LargestBlock(SharedValue::new([n; 8_150]).unwrap()),
            6 => Self::Run(SharedValue::new([n; 9_000]).unwrap()),
            _ => Self::LongRun(SharedValue::new([n; 100_000]).unwrap()),
        }
    }

    /// Both buffers of it are filled, and all of it reads as `n`.
    fn is(&self, n: u64) -> bool {
        fn all<const N: usize>(value: &SharedValue<[u64; N]>, n: u64) -> bool {
            let before = value.get();
            value.set([n; N]).unwrap();
            before == [n; N] && value.get() == before
        }
        match self {
            Self::Tiny(v) => v.get() == [n as u8; 3],
            Self::Word(v) => v.load() == n,
            Self::Small(v) => all(v, n),
            Self::Page(v) => all(v, n),
            Self::Large(v) => all(v, n),
            Self::LargestBlock(v) => all(v, n),
            Self::Run(v) => all(v, n),
            Self::LongRun(v) => all(v, n),
        }
    }

    fn another(&self) -> Self {
        match self {
            Self::Tiny(v) => Self::Tiny(v.clone()),
            Self::Word(v) => Self::Word(v.clone()),
            Self::Small(v) => Self::Small(v.clone()),
            Self::Page(v) => Self::Page(v.clone()),
            Self::Large(v) => Self::Large(v.clone()),
            Self::LargestBlock(v) => Self::LargestBlock(v.clone()),
            Self::Run(v) => Self::Run(v.clone()),
            Self::LongRun(v) => Self::LongRun(v.clone()),
        }
    }
}

fn lives_follow_the_model(lives: &[Life]) {
    let before = objects();
    // Handles, with which object they are and what it holds.
    let mut handles: Vec<(u64, Object)> = Vec::new();
    let mut next = 0;
    for (i, life) in lives.iter().enumerate() {
        match life {
            Life::Create(size) => {
                handles.push((next, Object::create(*size, next | HIGH)));
                next += 1;
            }
            Life::Drop(at) if !handles.is_empty() => {
                handles.swap_remove(at % handles.len());
            }
            Life::Clone(at) if !handles.is_empty() => {
                let (id, object) = &handles[at % handles.len()];
                handles.push((*id, object.another()));
            }
            _ => {}
        }
        if i % 10 == 9 {
            let living: std::collections::HashSet<u64> = handles.iter().map(|(id, _)| *id).collect();
            assert_eq!(objects() - before, living.len() as u64);
        }
    }
    for (id, object) in &handles {
        assert!(object.is(id | HIGH), "object {id} was overwritten");
    }
    drop(handles);
    assert_eq!(objects(), before);
}

/// Bits of every word of every object: bytes that would make bad holders, states and sizes.
const HIGH: u64 = 0xff00_ff00_ff00_ff00;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn values_are_their_model(ops in prop::collection::vec(op(), 0..60)) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = objects();
        values_follow_the_model::<u8>(&ops);
        values_follow_the_model::<[u8; 3]>(&ops);
        values_follow_the_model::<u64>(&ops);
        values_follow_the_model::<[u8; 9]>(&ops);
        values_follow_the_model::<[u32; 16]>(&ops);
        values_follow_the_model::<u128>(&ops);
        values_follow_the_model::<Record>(&ops);
        values_follow_the_model::<[u8; 100]>(&ops);
        prop_assert_eq!(objects(), before);
    }

    #[test]
    fn objects_live_as_long_as_a_handle(lives in prop::collection::vec(life(), 0..80)) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Large objects pass through the stack: more of it than a test has.
        std::thread::scope(|scope| {
            let stack = std::thread::Builder::new().stack_size(64 << 20);
            let done = stack.spawn_scoped(scope, || lives_follow_the_model(&lives)).unwrap().join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

// ---- atomics ----

macro_rules! integers {
    ($($name:ident: $t:ty;)*) => {$(
        proptest! {
            #[test]
            fn $name(first in any::<$t>(), ops in prop::collection::vec((0..10u8, any::<$t>(), any::<$t>()), 0..40)) {
                let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
                let (shared, mut model) = (SharedAtomic::new(first).unwrap(), first);
                for (op, n, m) in ops {
                    let old = model;
                    let got = match op {
                        0 => { model = n; shared.swap(n) }
                        1 => { model = model.wrapping_add(n); shared.fetch_add(n) }
                        2 => { model = model.wrapping_sub(n); shared.fetch_sub(n) }
                        3 => { model = model.max(n); shared.fetch_max(n) }
                        4 => { model = model.min(n); shared.fetch_min(n) }
                        5 => { model &= n; shared.fetch_and(n) }
                        6 => { model |= n; shared.fetch_or(n) }
                        7 => { model ^= n; shared.fetch_xor(n) }
                        8 => {
                            let expected = if n % 2 == 0 { model } else { m };
                            let done = shared.compare_exchange(expected, n);
                            prop_assert_eq!(done.is_ok(), expected == model);
                            if done.is_ok() { model = n }
                            done.unwrap_or_else(|found| found)
                        }
                        _ => { model = model.wrapping_mul(3); shared.fetch_update(|v| v.wrapping_mul(3)) }
                    };
                    prop_assert_eq!(got, old);
                    prop_assert_eq!(shared.load(), model);
                }
                shared.store(first);
                prop_assert_eq!(shared.load(), first);
            }
        }
    )*};
}
integers! {
    atomic_i8: i8; atomic_i16: i16; atomic_i32: i32; atomic_i64: i64;
    atomic_u8: u8; atomic_u16: u16; atomic_u32: u32; atomic_u64: u64;
}

macro_rules! floats {
    ($($name:ident: $t:ty;)*) => {$(
        proptest! {
            #[test]
            fn $name(first in any::<$t>(), ops in prop::collection::vec((0..6u8, any::<$t>()), 0..40)) {
                let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
                let (shared, mut model) = (SharedAtomic::new(first).unwrap(), first);
                for (op, n) in ops {
                    let old = model;
                    let got = match op {
                        0 => { model = n; shared.swap(n) }
                        1 => { model += n; shared.fetch_add(n) }
                        2 => { model -= n; shared.fetch_sub(n) }
                        3 => { model = model.max(n); shared.fetch_max(n) }
                        4 => { model = model.min(n); shared.fetch_min(n) }
                        _ => {
                            let done = shared.compare_exchange(model, n);
                            prop_assert!(done.is_ok(), "bitwise the same");
                            model = n;
                            done.unwrap_or_else(|found| found)
                        }
                    };
                    prop_assert_eq!(got.to_bits(), old.to_bits());
                    prop_assert_eq!(shared.load().to_bits(), model.to_bits());
                }
            }
        }
    )*};
}
floats! { atomic_f32: f32; atomic_f64: f64; }

proptest! {
    #[test]
    fn atomic_bool(first in any::<bool>(), ops in prop::collection::vec((0..5u8, any::<bool>()), 0..40)) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let (shared, mut model) = (SharedAtomic::new(first).unwrap(), first);
        for (op, n) in ops {
            let old = model;
            let got = match op {
                0 => { model = n; shared.swap(n) }
                1 => { model &= n; shared.fetch_and(n) }
                2 => { model |= n; shared.fetch_or(n) }
                3 => { model ^= n; shared.fetch_xor(n) }
                _ => {
                    let done = shared.compare_exchange(n, !n);
                    prop_assert_eq!(done.is_ok(), n == model);
                    if done.is_ok() { model = !n }
                    done.unwrap_or_else(|found| found)
                }
            };
            prop_assert_eq!((got, shared.load()), (old, model));
        }
    }
}
