//! The index and the headers of safetensors.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use qwen3_vl::config::Quantization;
use qwen3_vl::model::linear::Linear;
use qwen3_vl::weights::{Target, Weights};
use serde_json::Value;

use super::check_text;

/// Outputs and inputs of the layers that are tried.
const LAYER: (usize, usize) = (16, 64);

/// Most values of a tensor that is read.
const VALUES: usize = 1 << 14;

/// Most tensors and layers of a file that are read.
const SHOWN: usize = 32;

/// Longest file, in zeros that take no room on the disk.
const LONGEST: u64 = 1 << 40;

/// Reads the weights of a folder. 0 bytes separate: `quantize_config.json`, the index (of no bytes
/// if there is none), and the headers of the files `1.safetensors`, `2.safetensors` and so on; if
/// there is no index, of `model.safetensors`. Values are zeros. Everything that the headers name is
/// read as a tensor, and as a part of a linear layer of 16 outputs and 64 inputs.
///
/// # Panics
///
/// If a promise does not hold, or the folder cannot be made.
pub fn weights(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0);
    let settings = parts.next().unwrap_or_default();
    let index = parts.next().unwrap_or_default();
    let headers: Vec<&[u8]> = parts.take(4).collect();
    let folder = match Folder::new(index, &headers) {
        Ok(folder) => folder,
        Err(error) => panic!("no folder of weights: {error}"),
    };
    match Weights::open(&folder.0, Target::cpu()) {
        Err(error) => check_text(&error.to_string()),
        Ok(mut weights) => {
            weights.set_quantization(Quantization::from_quantize_config(settings).ok());
            for header in headers {
                check_tensors(&weights, header);
            }
        }
    }
}

fn check_tensors(weights: &Weights, header: &[u8]) {
    let Ok(Value::Object(tensors)) = serde_json::from_slice(header) else {
        return;
    };
    let mut layers = BTreeSet::new();
    for (name, entry) in tensors.iter().take(SHOWN) {
        layers.extend(name.rsplit_once('.').map(|(layer, _)| layer.to_owned()));
        if let Some((layer, _)) = name.split_once(".experts.") {
            let part = |part| format!("{layer}.experts.0.{part}_proj");
            layers.extend(["gate", "up", "down"].map(part));
        }
        let shape = entry["shape"].as_array().map(Vec::as_slice);
        let axes = shape.unwrap_or_default().iter().map(Value::as_u64);
        let shape: Option<Vec<usize>> = axes.map(|axis| axis.map(|n| n as usize)).collect();
        let Some(shape) = shape else {
            continue;
        };
        check_tensor(weights, name, shape);
    }
    for layer in layers.iter().take(SHOWN) {
        match Linear::load(weights, layer, LAYER) {
            Ok(layer) => assert!(layer.bytes() <= 4 * LAYER.0 * LAYER.1 + 4096),
            Err(error) => check_text(&error.to_string()),
        }
    }
}

fn check_tensor(weights: &Weights, name: &str, shape: Vec<usize>) {
    let values = shape
        .iter()
        .try_fold(1usize, |n, axis| n.checked_mul(*axis));
    if values.is_none_or(|values| values > VALUES) {
        return;
    }
    for read in [Weights::matrix, Weights::vector, Weights::full] {
        match read(weights, name, &shape) {
            Ok(tensor) => assert_eq!(Some(tensor.elem_count()), values),
            Err(error) => check_text(&error.to_string()),
        }
    }
}

/// A folder of weights; removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(index: &[u8], headers: &[&[u8]]) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qwen3-vl-fuzz-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        let folder = Self(path);
        if index.is_empty() {
            let header = headers.first().copied().unwrap_or_default();
            write(&folder.0.join("model.safetensors"), header)?;
            return Ok(folder);
        }
        fs::write(folder.0.join("model.safetensors.index.json"), index)?;
        for (number, header) in headers.iter().enumerate() {
            write(
                &folder.0.join(format!("{}.safetensors", number + 1)),
                header,
            )?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file with this header, as long as that says.
fn write(path: &Path, header: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    let tensors: Value = serde_json::from_slice(header).unwrap_or_default();
    let tensors = tensors.as_object().into_iter().flatten();
    let ends = tensors.filter_map(|(_, entry)| entry["data_offsets"][1].as_u64());
    let length = 8 + header.len() as u64 + ends.max().unwrap_or(0).min(LONGEST);
    file.set_len(length)
}
