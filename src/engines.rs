//! The engines of this build, and how a model is loaded into one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qwen3_vl_core::load::{LoadError, Loaded, Progress};

use crate::qwenvl::settings::{Dtype, Quantization};

/// Value of the property `model` that means the model inside the plugin.
pub(crate) const DEMO: &str = "demo";

/// The properties that choose the model and its device.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Property `model`, which is not empty.
    pub model: String,
    /// Property `revision`.
    pub revision: Option<String>,
    /// Property `device`.
    pub device: String,
    /// Property `dtype`.
    pub dtype: Dtype,
    /// Property `quantization`.
    pub quantization: Quantization,
    /// Property `kv-memory`, in bytes; none leaves it to the engine.
    pub kv_memory: Option<u64>,
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

    use qwen3_vl::device::{DtypeChoice, UnknownChoice};
    use qwen3_vl::load::{self, LoadOptions, ModelSource};
    use qwen3_vl::shared;
    use qwen3_vl::weights::QuantizeAtLoad;
    use qwen3_vl_core::load::{LoadError, Loaded, Progress};

    use super::{ModelOptions, Unusable};
    use crate::demo;
    use crate::qwenvl::settings::{Dtype, Quantization};

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
            },
            kv_memory: options.kv_memory,
        })
    }

    /// A folder if there is one, else a hub id if it looks like one (`owner/name`), else a folder
    /// that the loader will not find.
    fn source(name: &str, revision: Option<String>) -> ModelSource {
        let path = PathBuf::from(name);
        let hub = match name.split_once('/') {
            Some((owner, name)) => {
                !owner.is_empty()
                    && !owner.starts_with(['.', '~'])
                    && !name.is_empty()
                    && !name.contains('/')
            }
            None => false,
        };
        if hub && !path.exists() {
            let id = name.into();
            ModelSource::Hub { id, revision }
        } else {
            ModelSource::Folder(path)
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
