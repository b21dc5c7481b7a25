//! Files that become shorter while they are loaded, as when another is copied over them. If they
//! were mapped, the process would end with SIGBUS.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use qwen3_vl::config::Config;
use qwen3_vl::load::load;
use qwen3_vl::model::Model;
use qwen3_vl::weights::{Target, Weights};
use qwen3_vl_core::load::Progress;
use qwen3_vl_testing::Format;

use crate::support::demo;

const SAID: &str = "is damaged (it was cut off while it was read): fetch it again";

fn cut(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// Weights of every format, cut off behind their headers.
#[test]
fn weights_of_every_format() {
    let like = demo::demo();
    for format in Format::ALL.iter().filter(|format| !format.is_gguf()) {
        let folder = tempfile::tempdir().unwrap();
        format.write_like(folder.path(), like.path()).unwrap();
        let json = fs::read(folder.path().join("config.json")).unwrap();
        let config = Config::from_json(&json).unwrap();
        let files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
            .collect();
        for path in files {
            let good = fs::read(&path).unwrap();
            let mut weights = Weights::open(folder.path(), Target::cpu()).unwrap();
            cut(&path, good.len() as u64 - 1);
            let loaded = Model::load(config.clone(), &mut weights, Target::cpu().device);
            let error = loaded.unwrap_err().to_string();
            let name = path.file_name().unwrap().to_string_lossy();
            assert_eq!(error, format!("{name} {SAID}"), "{}", format.name);
            fs::write(&path, good).unwrap();
        }
    }
}

/// Each file of a model in GGUF is cut off when all have been opened.
#[test]
fn gguf() {
    let like = demo::demo();
    for format in Format::ALL.iter().filter(|format| format.is_gguf()) {
        let files = format.gguf_like(like.path()).unwrap();
        for (name, file) in &files {
            let folder = tempfile::tempdir().unwrap();
            for (name, file) in &files {
                fs::write(folder.path().join(name), file.bytes()).unwrap();
            }
            // Zeros to the alignment may follow the last tensor.
            let length = file.bytes().len() as u64 - 64;
            let progress = &mut |progress: Progress| {
                if progress.what == "reading the checkpoint" {
                    cut(&folder.path().join(name), length);
                }
            };
            let options = demo::options(folder.path());
            let loaded = load(&options, progress, &AtomicBool::new(false));
            let error = loaded.err().expect("it was loaded").to_string();
            assert_eq!(error, format!("{name} {SAID}"));
        }
    }
}
