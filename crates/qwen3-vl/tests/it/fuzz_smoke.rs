//! Runs the fuzzed functions (`fuzz/`, docs/fuzzing.md) on the seeds and simple changes of them.

use std::fs;
use std::path::Path;

use qwen3_vl_testing::fuzz;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Changes, removes or doubles bytes, or takes them from another seed.
fn mangle(rng: &mut StdRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        let end = rng.random_range(at..=bytes.len().min(at + 20));
        match rng.random_range(0..4) {
            0 => bytes[at..end].fill(rng.random()),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.extend_from_within(at..end),
            _ => {
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

/// Replaces a value somewhere in the tree by another.
fn replace(rng: &mut StdRng, value: &mut Value) {
    let inner = match value {
        Value::Object(all) if !all.is_empty() && rng.random_bool(0.8) => {
            let at = rng.random_range(0..all.len());
            all.values_mut().nth(at)
        }
        Value::Array(all) if !all.is_empty() && rng.random_bool(0.8) => {
            let at = rng.random_range(0..all.len());
            all.get_mut(at)
        }
        _ => None,
    };
    if let Some(inner) = inner {
        return replace(rng, inner);
    }
    let odd = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1u64 << 63),
        json!(1e308),
        json!(1e-308),
        json!("\u{0}\u{202e}"),
        json!("x".repeat(100_000)),
        json!([]),
        json!({}),
        json!([0, 0, 0]),
        json!([u64::MAX, 1, 0]),
        json!({"type": "Sequence"}),
    ];
    *value = odd.choose(rng).unwrap().clone();
}

fn run(target: &str, read: fn(&[u8]), changes: usize) {
    let seeds = seeds(target);
    let mut rng = StdRng::seed_from_u64(1);
    seeds.iter().for_each(|seed| read(seed));
    for _ in 0..changes {
        let (seed, other) = (
            seeds.choose(&mut rng).unwrap(),
            seeds.choose(&mut rng).unwrap(),
        );
        read(&mangle(&mut rng, seed, other));
        // Changes files that are joined by zeros one by one.
        let mut parts: Vec<Vec<u8>> = seed.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        for part in &mut parts {
            if let Ok(mut value) = serde_json::from_slice(part) {
                replace(&mut rng, &mut value);
                *part = value.to_string().into_bytes();
            }
        }
        read(&parts.join(&0));
    }
}

#[test]
fn config() {
    run("config", fuzz::config, 20_000);
}

#[test]
fn generation() {
    run("generation", fuzz::generation, 20_000);
}

#[test]
fn processors() {
    run("processors", fuzz::processors, 20_000);
}

#[test]
fn gguf() {
    run("gguf", fuzz::gguf, 1_500);
}

#[test]
fn tokenizer() {
    run("tokenizer", fuzz::tokenizer, 1_500);
}

#[test]
fn weights() {
    run("weights", fuzz::weights, 1_500);
}

#[test]
fn quantization() {
    run("quantization", fuzz::quantization, 20_000);
}

#[test]
fn template() {
    run("template", fuzz::template, 5_000);
}

#[test]
fn reasoning() {
    run("reasoning", fuzz::reasoning, 50_000);
}

#[test]
fn hub() {
    run("hub", fuzz::hub, 20_000);
}
