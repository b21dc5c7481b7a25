//! A load that cannot fit into memory is refused before weights are read, with all sizes.

use std::sync::atomic::AtomicBool;

use qwen3_vl::load::{LoadOptions, load, load_runner};
use qwen3_vl_core::KvMemory;
use qwen3_vl_core::load::LoadError;

use crate::support::demo;

#[test]
fn what_does_not_fit_is_refused_with_all_sizes() {
    let folder = demo::demo();
    let options = LoadOptions {
        kv_memory: Some(KvMemory::Bytes(1 << 60)),
        ..demo::options(folder.path())
    };
    let mut said = Vec::new();
    let error = load(
        &options,
        &mut |step| said.push(step.what),
        &AtomicBool::new(false),
    );
    let Err(LoadError::Unavailable(text)) = error else {
        panic!("{:?}", error.err())
    };
    for words in [
        "does not fit into the memory of the CPU",
        "1073741824.0 GiB for the KV cache",
        "GiB for its weights",
        "GiB to encode frames",
        "are free",
        "What would fit: a smaller kv-memory (",
    ] {
        assert!(text.contains(words), "{text} lacks {words:?}");
    }
    assert!(
        !said.iter().any(|what| what.contains("weights")),
        "{said:?}"
    );
}

/// A share is of what is free, but a small one leaves enough for a window.
#[test]
fn a_share_of_the_free_memory() {
    let folder = demo::demo();
    let tokens = |share| {
        let options = LoadOptions {
            kv_memory: Some(KvMemory::Share(share)),
            ..demo::options(folder.path())
        };
        let (_, runner) = load_runner(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
        runner.limits().kv_tokens
    };
    assert_eq!(tokens(1e-15), 2048);
    let (tenth, half) = (tokens(0.1), tokens(0.5));
    // Other programs come and go meanwhile.
    assert!(tenth > 2048 && half > 2 * tenth, "{tenth} and {half}");
}
