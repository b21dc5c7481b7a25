//! Every weight format gives the logits that transformers computes in f32 with the weights that
//! public tools read from the same files (`tools/reference/format_goldens.py`).

use qwen3_vl::compute::Compute;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_testing::{Format, parity};

/// Of logits. The best two of each greedy step are further apart, so tokens must be the same.
const TOLERANCE: f64 = 1e-3;

fn all_stages(name: &str) {
    let format = Format::find(name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut runner = parity::load_format(format, folder.path(), |folder| LoadOptions {
        source: ModelSource::Folder(folder.into()),
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: Some(Compute::Exact),
        kv_memory: None,
        mmproj: None,
    })
    .unwrap();
    let mut failed = Vec::new();
    for case in parity::format_cases(format) {
        let checks = parity::check(&mut runner, case, TOLERANCE).unwrap();
        failed.extend(checks.into_iter().filter(|check| !check.holds()));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

macro_rules! formats {
    ($($test:ident: $name:literal;)*) => {$(
        #[test]
        fn $test() {
            all_stages($name);
        }
    )*

        #[test]
        fn all_are_tested() {
            let tested = [$($name),*];
            assert_eq!(tested, Format::ALL.map(|format| format.name));
        }
    };
}

formats! {
    fp8_blocks: "fp8-block";
    fp8_blocks_with_f32_scales: "fp8-block-f32";
    fp8_channels: "fp8-channel";
    fp8_fused_experts: "fp8-moe-fused";
    fp8_experts: "fp8-moe-experts";
    awq: "awq";
    awq_experts: "awq-moe";
    gptq: "gptq";
    gptq_by_activation: "gptq-desc-act";
    gptq_of_format_2: "gptq-v2";
    gptq_of_8_bits: "gptq-8bit";
    gptq_without_groups: "gptq-column";
    compressed_tensors: "ct";
    compressed_tensors_with_zero_points: "ct-asym";
    compressed_tensors_without_groups: "ct-channel";
    compressed_tensors_of_8_bits: "ct-8bit";
    compressed_tensors_experts: "ct-moe";
    gguf: "gguf";
    gguf_experts: "gguf-moe";
}
