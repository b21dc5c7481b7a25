//! Checkpoints of real dimensions in a quantised format, for measurements of speed and memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use safetensors::Dtype;

use super::save::{Stored, save, save_index};
use super::{Format, gguf, is_quantised};
use crate::checkpoint::{Dimensions, Real, write_lazily};
use crate::tokenizer_dir;
use crate::weights::cheap_bf16;

/// Writes a model of real dimensions, its language model's layers in the format of that name, with
/// random weights. `layers` replaces the number of these layers. No more than one of them, or the
/// vision tower, is in memory at a time: each has a file of its own. No tokenizer, but in GGUF.
///
/// # Errors
///
/// Those of writing; an unknown format; for GGUF those of [`tokenizer_dir`].
pub fn write_real_format(
    dir: &Path,
    size: Real,
    layers: Option<usize>,
    format: &str,
) -> io::Result<()> {
    let names = Format::ALL.map(|format| format.name).join(", ");
    let unknown = || io::Error::other(format!("unknown format {format:?}: use one of {names}"));
    let format = Format::find(format).ok_or_else(unknown)?;
    let dimensions = size.dimensions(layers);
    fs::create_dir_all(dir)?;
    if format.is_gguf() {
        let tokenizer = fs::read(tokenizer_dir()?.join("tokenizer.json"))?;
        return gguf::write_real(dir, &dimensions, format.seed, &tokenizer);
    }
    format.write_configs(dir, &dimensions)?;
    format.write_layers(dir, &dimensions)
}

impl Format {
    /// A file with what is not quantised, and one for each layer.
    fn write_layers(&self, dir: &Path, dimensions: &Dimensions) -> io::Result<()> {
        let (quantised, plain): (Vec<_>, Vec<_>) = dimensions
            .tensors()
            .into_iter()
            .partition(|(name, _)| is_quantised(name));
        let file = |number: usize| {
            let count = dimensions.layers + 1;
            format!("model-{number:05}-of-{count:05}.safetensors")
        };
        write_lazily(&dir.join(file(1)), &plain, Dtype::BF16, cheap_bf16)?;
        let mut size: usize = plain
            .iter()
            .map(|(_, shape)| 2 * shape.iter().product::<usize>())
            .sum();
        let plain = plain.into_iter().map(|(name, _)| (name, file(1)));
        let mut places: BTreeMap<String, String> = plain.collect();
        for layer in 0..dimensions.layers {
            let part = format!(".layers.{layer}.");
            let layers = quantised.iter().filter(|(name, _)| name.contains(&part));
            let stored = layers.flat_map(|(name, shape)| self.quantised(name, shape));
            let stored: Vec<Stored> = stored.collect();
            let name = file(layer + 2);
            save(&dir.join(&name), &stored)?;
            size += stored
                .iter()
                .map(|tensor| tensor.bytes.len())
                .sum::<usize>();
            places.extend(stored.into_iter().map(|tensor| (tensor.name, name.clone())));
        }
        save_index(dir, size, &places)
    }
}
