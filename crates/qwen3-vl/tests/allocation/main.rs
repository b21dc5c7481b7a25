//! What loading allocates: what the header of a file can make the reader allocate, and what a model
//! takes. A program of its own, because it counts
//! all that is allocated.
#![allow(missing_docs, clippy::unwrap_used)]

mod estimate;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use qwen3_vl::weights::gguf::Gguf;
use qwen3_vl_testing::gguf::{GgufFile, TensorData, Value, texts};

/// Bytes that are allocated, and the most that were since [`peak`] began.
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator, with numbers beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Tests of one program may run side by side: each holds this while it counts.
static ALONE: Mutex<()> = Mutex::new(());

/// Most bytes that were allocated at once by `work`.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    drop(work());
    MOST.load(Ordering::Relaxed) - before
}

fn sample() -> Vec<u8> {
    let mut file = GgufFile::default();
    file.set("general.architecture", "qwen3vl");
    file.set("tokens", texts((0..200).map(|id| format!("token {id}"))));
    file.set("kinds", Value::Array(5, vec![Value::I32(1); 200]));
    let nested = vec![texts(["a", "b"]), texts([""; 0])];
    file.set("nested", Value::Array(9, nested));
    file.tensors = ["a", "b", "c"]
        .map(|name| TensorData {
            name: name.into(),
            shape: vec![4, 32],
            kind: 8,
            bytes: vec![0; 4 * 34],
            offset: None,
        })
        .into();
    file.bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever lengths and counts the file claims, memory is a small multiple of what it has.
    #[test]
    fn memory_is_bounded_by_the_file(
        at in any::<prop::sample::Index>(),
        length in prop_oneof![
            Just(u64::MAX),
            Just(1u64 << 62),
            Just(1u64 << 40),
            Just(1u64 << 33),
            Just(1u64 << 24),
            any::<u64>(),
            0..100_000u64,
        ],
        bytes in prop::sample::select(vec![1usize, 4, 8]),
    ) {
        let _alone = ALONE.lock().unwrap();
        let mut file = sample();
        let at = at.index(file.len() - 8);
        file[at..at + bytes].copy_from_slice(&length.to_le_bytes()[..bytes]);
        let size = file.len();
        let most = peak(|| Gguf::from_bytes(file));
        prop_assert!(most <= 4 * size + (64 << 10), "{most} bytes for {size}");
    }
}

/// Such files as are read: the header is held once, its texts and lists have no memory of their
/// own.
#[test]
fn a_large_vocabulary_is_held_once() {
    let _alone = ALONE.lock().unwrap();
    let mut file = GgufFile::default();
    file.set("tokens", texts((0..100_000).map(|id| id.to_string())));
    let file = file.bytes();
    let size = file.len();
    let most = peak(|| Gguf::from_bytes(file).unwrap());
    // While it grows there are an old and a new copy.
    assert!(most <= 2 * size + 4096, "{most} bytes for {size}");
}
