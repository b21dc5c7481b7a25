//! Parity with transformers 5.17 in f32 on the CPU, stage by stage.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use qwen3_vl::compute::Compute;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_testing::{Checkpoint, parity};

fn all_stages(checkpoint: Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let mut runner = parity::load(checkpoint, folder.path(), |folder| LoadOptions {
        source: ModelSource::Folder(folder.into()),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: Some(Compute::Exact),
        kv_memory: None,
    })
    .unwrap();
    let mut failed = Vec::new();
    for case in parity::cases(checkpoint) {
        for check in parity::check(&mut runner, case, 1e-4).unwrap() {
            println!("{:50} {:.2e}", check.name, check.difference);
            if !check.holds() {
                failed.push(check);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn dense_tied() {
    all_stages(Checkpoint::DenseTied);
}

#[test]
fn dense_untied() {
    all_stages(Checkpoint::DenseUntied);
}

#[test]
fn mixture_of_experts() {
    all_stages(Checkpoint::Moe);
}
