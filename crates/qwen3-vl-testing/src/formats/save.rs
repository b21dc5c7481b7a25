//! Files of safetensors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use safetensors::{Dtype, View};
use serde_json::json;

use super::pack::Part;

/// A tensor of a file.
pub(super) struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes one file.
pub(super) fn save(path: &Path, tensors: &[Stored]) -> io::Result<()> {
    let views = tensors.iter().map(|tensor| (&tensor.name, tensor));
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(io::Error::other)
}

/// Writes two files, the second with the scales alone, and their index.
pub(super) fn save_scales_apart(dir: &Path, tensors: Vec<Stored>) -> io::Result<()> {
    let size: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let is_scale = |tensor: &Stored| tensor.name.ends_with("_scale_inv");
    let (scales, weights): (Vec<_>, Vec<_>) = tensors.into_iter().partition(is_scale);
    let mut places = BTreeMap::new();
    for (number, part) in [(1, weights), (2, scales)] {
        let file = format!("model-{number:05}-of-00002.safetensors");
        save(&dir.join(&file), &part)?;
        places.extend(part.into_iter().map(|tensor| (tensor.name, file.clone())));
    }
    save_index(dir, size, &places)
}

/// Writes the index of tensors in files.
pub(super) fn save_index(
    dir: &Path,
    size: usize,
    places: &BTreeMap<String, String>,
) -> io::Result<()> {
    let index = json!({"metadata": {"total_size": size}, "weight_map": places});
    fs::write(
        dir.join("model.safetensors.index.json"),
        serde_json::to_vec_pretty(&index)?,
    )
}

/// The matrices of all experts, `side` of them an expert, in one tensor `[expert, in, out]`, and
/// their scales likewise.
pub(super) fn fused(
    name: &str,
    side: usize,
    matrices: impl Iterator<Item = (String, Vec<Part>)>,
) -> Vec<Stored> {
    let matrices: Vec<Vec<Part>> = matrices.map(|(_, parts)| parts).collect();
    let experts = matrices.len() / side;
    let fuse = |part: usize| {
        let Part {
            name: suffix,
            dtype,
            ref shape,
            ..
        } = matrices[0][part];
        let (rows, columns, width) = (shape[0], shape[1], dtype.bitsize() / 8);
        let mut bytes = Vec::new();
        for expert in matrices.chunks(side) {
            for column in 0..columns {
                for matrix in expert {
                    for row in 0..rows {
                        let place = (row * columns + column) * width;
                        bytes.extend(&matrix[part].bytes[place..place + width]);
                    }
                }
            }
        }
        Stored {
            name: format!("{name}{}", suffix.trim_start_matches("weight")),
            dtype,
            shape: vec![experts, columns, rows * side],
            bytes,
        }
    };
    (0..matrices.first().map_or(0, Vec::len))
        .map(fuse)
        .collect()
}
