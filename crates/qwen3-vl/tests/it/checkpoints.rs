//! The random checkpoints that Rust writes equal those of the reference values.

use std::fs;
use std::path::Path;

use qwen3_vl_testing::{Checkpoint, Format, data_dir, write_checkpoint};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Compares the files of a checkpoint in `folder` with what the reference has of them.
fn ensure_same(name: &str, folder: &Path) {
    let reference = json(&data_dir().join("weights.json"));
    for (file, value) in reference[name].as_object().unwrap() {
        let path = folder.join(file);
        if file.ends_with(".json") {
            assert_eq!(&json(&path), value, "{name} {file}");
        } else {
            let digest = Sha256::digest(fs::read(&path).unwrap());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(&digest, value, "{name} {file}");
        }
    }
}

#[test]
fn checkpoints_equal_the_reference_s() {
    for which in Checkpoint::ALL {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), which).unwrap();
        ensure_same(which.name(), dir.path());
    }
}

#[test]
fn every_format_equals_what_public_tools_packed() {
    for format in &Format::ALL {
        let dir = tempfile::tempdir().unwrap();
        format.write(dir.path()).unwrap();
        ensure_same(format.name, dir.path());
    }
}
