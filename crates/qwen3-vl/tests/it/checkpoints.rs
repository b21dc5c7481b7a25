//! The random checkpoints that Rust writes equal those of the reference values.

use std::fs;
use std::path::Path;

use qwen3_vl_testing::{Checkpoint, data_dir, write_checkpoint};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn checkpoints_equal_the_reference_s() {
    let reference = json(&data_dir().join("weights.json"));
    for which in Checkpoint::ALL {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), which).unwrap();
        for (file, value) in reference[which.name()].as_object().unwrap() {
            let path = dir.path().join(file);
            if file.ends_with(".json") {
                assert_eq!(&json(&path), value, "{} {file}", which.name());
            } else {
                let digest = Sha256::digest(fs::read(&path).unwrap());
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(&digest, value, "{} {file}", which.name());
            }
        }
    }
}
