//! Checkpoints of every format with something changed: each load ends in an error that names what
//! is wrong, or in a model that answers; nothing panics, and memory is bounded by the files.
//!
//! A program of its own, because it counts all that is allocated. cargo-nextest runs each test in a
//! process of its own; in one process they take turns.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used)]

mod allocator;
#[path = "../it/support/ask.rs"]
mod ask;
mod bytes;
mod cases;
mod folder;
mod gguf;
mod json;
mod panics;
mod tensors;
mod whole;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use qwen3_vl_testing::{Checkpoint, Format, gguf::GgufFile, write_checkpoint_like};
use rand::SeedableRng;
use rand::rngs::StdRng;

use cases::{Cases, Place};
use folder::Folder;

/// Only one test may count memory.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    panics::watch();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each test has the same cases every time.
fn random(name: &str) -> StdRng {
    StdRng::seed_from_u64(
        name.bytes()
            .fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(byte)),
    )
}

/// The checkpoint whose tokenizer the others have.
fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

/// A folder that a function writes.
fn folder(write: impl FnOnce(&std::path::Path) -> std::io::Result<()>) -> Folder {
    let written = tempfile::tempdir().unwrap();
    write(written.path()).unwrap();
    Folder::read(written.path())
}

fn formula(which: Checkpoint) -> Folder {
    let mut base = folder(|path| write_checkpoint_like(path, which, &demo()));
    base.remove("config.v5.json");
    base
}

/// Cases of a folder with safetensors.
fn safetensors(base: Folder, place: Place) -> Cases {
    let mut names = Vec::new();
    for (file, bytes) in base.files() {
        if file.ends_with(".safetensors") {
            names.extend(tensors::Tensors::read(bytes).names());
        } else if let Ok(value) = serde_json::from_slice(bytes) {
            json::keys(&value, &mut names);
        }
    }
    // Words that may stand in any error.
    names.retain(|name| name.contains(['_', '.']));
    Cases::new(base, names, place)
}

/// Changes of tensors and of what is said about them.
fn change_weights(cases: &mut Cases, rng: &mut StdRng) {
    for file in cases.base().ending(".safetensors") {
        let end = tensors::header_end(cases.base().file(&file));
        bytes::change(cases, rng, &file, end);
        tensors::change(cases, rng, &file);
    }
}

fn format(name: &str) {
    let _alone = alone();
    let format = Format::find(name).unwrap();
    let mut base = folder(|path| format.write_like(path, &demo()));
    base.remove("config.v5.json");
    let (mut cases, mut rng) = (safetensors(base, Place::Disk), random(name));
    change_weights(&mut cases, &mut rng);
    json::change(&mut cases, &mut rng, "config.json", 12);
    cases.end();
}

fn gguf_format(name: &str) {
    let _alone = alone();
    let files = Format::find(name).unwrap().gguf_like(&demo()).unwrap();
    let (mut cases, mut rng) = (gguf_cases(&files), random(name));
    for (name, file) in &files {
        gguf::change(&mut cases, &mut rng, name, file);
    }
    change_set(&mut cases, &files);
    cases.end();
}

fn gguf_cases(files: &[(String, GgufFile)]) -> Cases {
    let mut base = Folder::default();
    // Tensors have the names that they have in the model, and a folder without a model lacks this.
    let parts = ["model.language_model.", "model.visual.", "lm_head.weight"];
    let mut names: Vec<String> = parts.map(str::to_owned).into();
    names.push("has no config.json".into());
    for (name, file) in files {
        base.put(name, file.bytes());
        names.extend(file.keys.iter().map(|(key, _)| key.clone()));
        names.extend(file.tensors.iter().map(|tensor| tensor.name.clone()));
    }
    Cases::new(base, names, Place::Disk)
}

/// Files that are missing, or are in each other's place.
fn change_set(cases: &mut Cases, files: &[(String, GgufFile)]) {
    for (name, _) in files {
        cases.add(format!("no {name}"), |folder| drop(folder.remove(name)));
        for (other, file) in files.iter().filter(|(other, _)| other != name) {
            cases.put(format!("{other} as {name}"), name, file.bytes());
        }
        for name in ["copy.gguf", "mmproj-copy.gguf"] {
            cases.put(
                format!("{name} beside the others"),
                name,
                files[0].1.bytes(),
            );
        }
    }
}

macro_rules! formats {
    ($run:ident: $($test:ident = $name:literal;)*) => {$(
        #[test]
        fn $test() {
            $run($name);
        }
    )*};
}

formats! {
    format:
    fp8_blocks = "fp8-block";
    fp8_blocks_with_f32_scales = "fp8-block-f32";
    fp8_channels = "fp8-channel";
    fp8_fused_experts = "fp8-moe-fused";
    fp8_experts = "fp8-moe-experts";
    awq = "awq";
    awq_experts = "awq-moe";
    gptq = "gptq";
    gptq_by_activation = "gptq-desc-act";
    gptq_of_format_2 = "gptq-v2";
    gptq_of_8_bits = "gptq-8bit";
    gptq_without_groups = "gptq-column";
    compressed_tensors = "ct";
    compressed_tensors_with_zero_points = "ct-asym";
    compressed_tensors_without_groups = "ct-channel";
    compressed_tensors_of_8_bits = "ct-8bit";
    compressed_tensors_experts = "ct-moe";
}

formats! {
    gguf_format:
    gguf = "gguf";
    gguf_in_parts_of_experts = "gguf-moe";
}

#[test]
fn dense() {
    let _alone = alone();
    let mut cases = safetensors(formula(Checkpoint::DenseUntied), Place::Disk);
    let mut rng = random("dense");
    change_weights(&mut cases, &mut rng);
    let outside = tempfile::tempdir().unwrap();
    whole::files(&mut cases, outside.path());
    whole::others(&mut cases);
    whole::indices(&mut cases);
    whole::settings(&mut cases, &mut rng, 24);
    cases.end();
}

#[test]
fn experts() {
    let _alone = alone();
    let mut cases = safetensors(formula(Checkpoint::Moe), Place::Disk);
    let mut rng = random("experts");
    change_weights(&mut cases, &mut rng);
    whole::settings(&mut cases, &mut rng, 8);
    cases.end();
}

#[test]
fn embedded() {
    let _alone = alone();
    let mut cases = safetensors(formula(Checkpoint::DenseTied), Place::Program);
    let mut rng = random("embedded");
    change_weights(&mut cases, &mut rng);
    json::change(&mut cases, &mut rng, "config.json", 12);
    json::change(&mut cases, &mut rng, "tokenizer.json", 12);
    cases.end();
}
