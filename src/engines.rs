//! The engines of this build, and how a model is loaded into one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qwen3_vl_core::KvMemory;
use qwen3_vl_core::load::{LoadError, Loaded, Progress};

use crate::qwenvl::settings::{Compute, Dtype, Quantization};

/// Value of the property `model` that means the model inside the plugin.
pub(crate) const DEMO: &str = "demo";

/// The properties that choose the model and its device.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Property `model`, which is not empty.
    pub model: String,
    /// Property `mmproj`.
    pub mmproj: Option<String>,
    /// Property `revision`.
    pub revision: Option<String>,
    /// Property `device`.
    pub device: String,
    /// Property `dtype`.
    pub dtype: Dtype,
    /// Property `quantization`.
    pub quantization: Quantization,
    /// Property `compute`.
    pub compute: Compute,
    /// Property `kv-memory`; none leaves it to the engine.
    pub kv_memory: Option<KvMemory>,
}

impl ModelOptions {
    /// Whether it is the model inside the plugin.
    pub(crate) fn is_demo(&self) -> bool {
        self.model == DEMO
    }
}

/// Loads a model. Blocks, reports its progress, and returns soon after the flag is set.
pub type LoadFn =
    Arc<dyn Fn(&ModelOptions, &mut dyn FnMut(Progress), &AtomicBool) -> Loaded + Send + Sync>;

/// Why options cannot work, as far as that shows before the load.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "local"),
    allow(dead_code, reason = "nothing is known then")
)]
pub(crate) enum Unusable {
    /// A property has no meaning.
    Setting(String),
    /// There is no such model, or it cannot be used.
    Model(LoadError),
}

#[cfg(feature = "local")]
pub use local::load_options;
#[cfg(feature = "local")]
pub(crate) use local::{check, load};

/// The engine in this process.
#[cfg(feature = "local")]
mod local {
    use std::path::PathBuf;
    use std::sync::atomic::AtomicBool;

    use qwen3_vl::compute::Compute as Arithmetic;
    use qwen3_vl::device::{DtypeChoice, UnknownChoice};
    use qwen3_vl::load::{self, LoadOptions, ModelSource};
    use qwen3_vl::shared;
    use qwen3_vl::weights::QuantizeAtLoad;
    use qwen3_vl_core::load::{LoadError, Loaded, Progress};

    use super::{ModelOptions, Unusable};
    use crate::demo;
    use crate::qwenvl::settings::{Compute, Dtype, Quantization};

    /// The options of the engine's loader.
    ///
    /// # Errors
    ///
    /// If there is no such device.
    pub fn load_options(options: &ModelOptions) -> Result<LoadOptions, UnknownChoice> {
        let source = match options.is_demo() {
            true => demo::source(),
            false => source(&options.model, options.revision.clone()),
        };
        Ok(LoadOptions {
            source,
            mmproj: options.mmproj.as_ref().map(PathBuf::from),
            device: options.device.parse()?,
            dtype: match options.dtype {
                Dtype::Auto => DtypeChoice::Auto,
                Dtype::Bf16 => DtypeChoice::Bf16,
                Dtype::F16 => DtypeChoice::F16,
                Dtype::F32 => DtypeChoice::F32,
            },
            quantization: match options.quantization {
                Quantization::None => QuantizeAtLoad::None,
                Quantization::Q8_0 => QuantizeAtLoad::Q8_0,
                Quantization::Q4K => QuantizeAtLoad::Q4K,
                Quantization::Fp8 => QuantizeAtLoad::Fp8,
            },
            compute: match options.compute {
                Compute::Auto => None,
                Compute::Exact => Some(Arithmetic::Exact),
                Compute::Fast => Some(Arithmetic::Fast),
            },
            kv_memory: options.kv_memory,
        })
    }

    /// A path if there is one, else a hub id if it looks like one (`owner/name`) or a file of one
    /// (`owner/name/FILE.gguf`), else a path that the loader will not find.
    fn source(name: &str, revision: Option<String>) -> ModelSource {
        let path = PathBuf::from(name);
        let mut parts = name.splitn(3, '/');
        let owner = parts.next().unwrap_or_default();
        if owner.is_empty() || owner.starts_with(['.', '~']) || path.exists() {
            return ModelSource::Folder(path);
        }
        match (parts.next().filter(|repo| !repo.is_empty()), parts.next()) {
            (Some(_), None) => ModelSource::Hub {
                id: name.into(),
                revision,
            },
            (Some(repo), Some(file)) if file.to_ascii_lowercase().ends_with(".gguf") => {
                ModelSource::HubGguf {
                    id: format!("{owner}/{repo}"),
                    file: file.into(),
                    revision,
                }
            }
            _ => ModelSource::Folder(path),
        }
    }

    /// Checks the options before the load; never waits for a network.
    pub(crate) fn check(options: &ModelOptions) -> Result<(), Unusable> {
        let options =
            load_options(options).map_err(|error| Unusable::Setting(error.to_string()))?;
        load::check(&options).map_err(Unusable::Model)
    }

    /// Loads the model, or returns the engine that already runs it.
    pub(crate) fn load(
        options: &ModelOptions,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Loaded {
        let options =
            load_options(options).map_err(|error| LoadError::Invalid(error.to_string()))?;
        shared::load(&options, progress, cancel)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_are_paths_or_of_the_hub() {
            let of = |name: &str| match source(name, None) {
                ModelSource::Hub { id, .. } => format!("hub {id}"),
                ModelSource::HubGguf { id, file, .. } => format!("file {file} of {id}"),
                ModelSource::Folder(path) => format!("path {}", path.display()),
                ModelSource::Embedded { name, .. } => name,
            };
            for (name, expected) in [
                ("Qwen/Qwen3-VL", "hub Qwen/Qwen3-VL"),
                ("a/b/c.gguf", "file c.gguf of a/b"),
                ("a/b/UD/c.GGUF", "file UD/c.GGUF of a/b"),
                // No such paths.
                ("a/b/c", "path a/b/c"),
                ("a//c.gguf", "path a//c.gguf"),
                ("/a/c.gguf", "path /a/c.gguf"),
                ("./a/b/c.gguf", "path ./a/b/c.gguf"),
                ("~/b/c.gguf", "path ~/b/c.gguf"),
                ("c.gguf", "path c.gguf"),
                // There is one.
                ("src/engines.rs", "path src/engines.rs"),
            ] {
                assert_eq!(of(name), expected);
            }
        }
    }
}

#[cfg(not(feature = "local"))]
pub(crate) fn check(_options: &ModelOptions) -> Result<(), Unusable> {
    Ok(())
}

#[cfg(not(feature = "local"))]
pub(crate) fn load(
    options: &ModelOptions,
    _progress: &mut dyn FnMut(Progress),
    _cancel: &AtomicBool,
) -> Loaded {
    Err(LoadError::Unavailable(format!(
        "this build of the plugin has no engine for model={}: build it with the feature local",
        options.model
    )))
}
