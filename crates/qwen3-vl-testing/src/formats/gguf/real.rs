//! GGUF of real dimensions, a file for each layer.

use std::path::Path;
use std::{fs, io};

use super::blocks::Kind;
use super::{file, metadata, text_names, text_tensors, vision_tensors};
use crate::checkpoint::Dimensions;

/// Writes all files of a model in the types of llama.cpp's Q4_K_M, the vision tower in F16.
///
/// # Errors
///
/// Those of writing.
pub(in crate::formats) fn write_real(
    dir: &Path,
    dimensions: &Dimensions,
    seed: u64,
    tokenizer: &[u8],
) -> io::Result<()> {
    let is_vision = |(name, _): &(String, Vec<usize>)| name.starts_with("model.visual.");
    let (tower, text): (Vec<_>, Vec<_>) = dimensions.tensors().into_iter().partition(is_vision);
    let tower = tower
        .iter()
        .flat_map(|(name, shape)| vision_tensors(name, shape, Kind::F16, dimensions, seed));
    let vision = file(metadata::vision(dimensions, Kind::F16), tower.collect());
    fs::write(dir.join("mmproj-F16.gguf"), vision.bytes())?;
    drop(vision);

    let (parts, layers) = (dimensions.layers + 1, dimensions.layers);
    let total = text.iter().map(|(name, _)| text_names(name).len()).sum();
    for part in 0..parts {
        // The first one has what belongs to no layer.
        let layer = |name: &str| {
            let number = name.split_once(".layers.")?.1.split_once('.')?.0;
            number.parse::<usize>().ok()
        };
        let here = text
            .iter()
            .filter(|(name, _)| layer(name).map_or(0, |layer| layer + 1) == part);
        let choose = |module: &str| kind(module, layers);
        let tensors = here.flat_map(|(name, shape)| text_tensors(name, shape, choose, seed));
        let mut keys = match part {
            0 => metadata::text(dimensions, tokenizer)?,
            _ => Vec::new(),
        };
        keys.extend(metadata::split(part, parts, total));
        let name = format!("model-Q4_K_M-{:05}-of-{parts:05}.gguf", part + 1);
        fs::write(dir.join(name), file(keys, tensors.collect()).bytes())?;
    }
    Ok(())
}

/// Types as `Q4_K_M` has them (llama.cpp: `llama_tensor_get_type`): six bits for the head, and in
/// the first and last eighth of the layers, and every third one between, for values and `ffn_down`.
fn kind(module: &str, layers: usize) -> Kind {
    if matches!(module, "token_embd" | "output") {
        return Kind::Q6K;
    }
    let number = module.split('.').nth(1).and_then(|n| n.parse().ok());
    let layer: usize = number.unwrap_or(0);
    let (first, last) = (layers / 8, 7 * layers / 8);
    let more = layer < first || layer >= last || (layer - first) % 3 == 2;
    match more && (module.ends_with("attn_v") || module.contains("ffn_down")) {
        true => Kind::Q6K,
        false => Kind::Q4K,
    }
}
