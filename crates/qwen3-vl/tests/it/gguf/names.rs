//! Every tensor of a checkpoint is there by its name, in its shape, with its values.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use qwen3_vl::weights::{Target, Weights};
use qwen3_vl_testing::gguf::convert;
use safetensors::SafeTensors;

use super::open;

#[test]
fn all_tensors_are_those_of_the_checkpoint() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
        let files = convert(&folder, &|_, _| dtype).unwrap();
        let found = Weights::gguf(&open(&files).unwrap(), Target::cpu()).unwrap();
        let own = Weights::open(&folder, Target::cpu()).unwrap();
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let checkpoint = SafeTensors::deserialize(&bytes).unwrap();
        let names: BTreeSet<&str> = checkpoint.names().into_iter().collect();
        for name in names {
            let shape = checkpoint.tensor(name).unwrap().shape().to_vec();
            let values = |weights: &Weights| -> Vec<f32> {
                let tensor = weights.full(name, &shape).unwrap();
                tensor.flatten_all().unwrap().to_vec1().unwrap()
            };
            let rounded = |value: f32| match dtype {
                GgmlDType::F16 => half::f16::from_f32(value).to_f32(),
                _ => value,
            };
            let expected: Vec<f32> = values(&own).into_iter().map(rounded).collect();
            assert_eq!(values(&found), expected, "{name}");
        }
        found.ensure_all_read(&[""]).unwrap();
        assert_eq!(found.left_out(), None);
    }
}
