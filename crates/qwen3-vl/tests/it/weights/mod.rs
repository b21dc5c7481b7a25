//! Weights that are damaged, truncated, or not those of the configuration.

use crate::support::ask;
use crate::support::demo;

mod files;
mod names;
mod values;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use qwen3_vl::config::Config;
use qwen3_vl::device::DtypeChoice;
use qwen3_vl::load::{LoadOptions, load};
use qwen3_vl::model::Model;
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl::weights::{Target, Weights, WeightsError};
use qwen3_vl_core::load::{LoadError, Progress};
use qwen3_vl_testing::{Checkpoint, write_checkpoint};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

type Tensors = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let bytes = fs::read(folder.join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| {
        let parts = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name, parts)
    })
    .collect()
}

fn write(folder: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join(WEIGHTS)).unwrap();
}

/// The demo model with other tensors.
fn changed(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let copy = demo::demo();
    let mut all = tensors(copy.path());
    change(&mut all);
    write(copy.path(), &all);
    copy
}

const EMBED: &str = "model.language_model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn model(folder: &Path) -> Result<Model, String> {
    let config = Config::from_json(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let target = Target::cpu();
    let device = target.device.clone();
    let mut weights = Weights::open(folder, target).map_err(|e| e.to_string())?;
    Model::load(config, &mut weights, device).map_err(|e| e.to_string())
}

/// The rows of both matrices.
fn head_and_embeddings(model: &Model) -> (Vec<f32>, Vec<f32>) {
    use candle_core::{DType, Device, Tensor};
    let (head, embeddings) = (
        model.text.linears().last().unwrap(),
        model.text.embeddings().table().unwrap(),
    );
    let hidden = embeddings.dim(1).unwrap();
    let eye = Tensor::eye(hidden, DType::F32, &Device::Cpu).unwrap();
    let rows = head
        .forward(&eye)
        .unwrap()
        .t()
        .unwrap()
        .contiguous()
        .unwrap();
    let flat = |t: &Tensor| {
        t.to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    (flat(&rows), flat(embeddings))
}

fn values((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    assert_eq!(*dtype, Dtype::BF16);
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|b| bf16::from_le_bytes(*b).to_f32())
        .collect()
}

fn load_with(
    folder: &Path,
    dtype: DtypeChoice,
    quantization: QuantizeAtLoad,
) -> Result<(), LoadError> {
    let options = LoadOptions {
        dtype,
        quantization,
        ..demo::options(folder)
    };
    load(&options, &mut |_| (), &AtomicBool::new(false)).map(drop)
}
