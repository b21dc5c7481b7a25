//! Looks at a model on the hub before its weights are downloaded.

use std::path::Path;
use std::sync::Arc;

use qwen3_vl_core::load::LoadError;

use super::files::{Configs, Files};
use super::{LoadOptions, estimate, invalid, quantised, target};
use crate::hub::{CheckWeights, Checks};
use crate::weights::gguf::{Gguf, GgufModel};
use crate::weights::{WeightFile, Weights};

/// The checks of the checkpoint `name`: what its JSON files say, the types and shapes in the
/// headers of its weights, and that it fits into memory.
pub(super) fn checks(name: &str, options: &LoadOptions) -> Checks {
    let (name, options) = (name.to_owned(), options.clone());
    let config = quantised::check_for(&options);
    let weights: CheckWeights = Arc::new(move |folder: &Path, weights: Vec<WeightFile>| {
        let files = Files::Folder(folder.into());
        let configs = files.configs()?;
        quantised::ensure_applies(&configs.config, &options)?;
        let weights = Weights::of_files(weights, target::target(&options)?).map_err(invalid)?;
        ensure_fits(&name, &files, &configs, weights, &options)
    });
    Checks::new(config, weights)
}

/// The check of the GGUF files `name`, of which the vision tower comes first: architecture, types
/// of tensors, tokenizer, and that they fit into memory.
pub(super) fn check_gguf(name: &str, options: &LoadOptions) -> CheckWeights {
    let (name, options) = (name.to_owned(), options.clone());
    Arc::new(move |_: &Path, weights: Vec<WeightFile>| {
        let opened = weights.into_iter().map(Gguf::of);
        let opened = opened.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let mut opened = opened.into_iter();
        let (Some(vision), Some(first)) = (opened.next(), opened.next()) else {
            return Ok(());
        };
        let model = GgufModel::new(first, opened.collect(), vision).map_err(invalid)?;
        let weights = Weights::gguf(&model, target::target(&options)?).map_err(invalid)?;
        let files = Files::Gguf(Box::new(model));
        let configs = files.configs()?;
        files.tokenizer()?.check(&configs.config).map_err(invalid)?;
        ensure_fits(&name, &files, &configs, weights, &options)
    })
}

fn ensure_fits(
    name: &str,
    files: &Files,
    configs: &Configs,
    mut weights: Weights,
    options: &LoadOptions,
) -> Result<(), LoadError> {
    let config = &configs.config;
    weights.set_quantization(config.quantization.clone());
    estimate::ensure_fits(name, files, config, &weights, options)
}
