//! From the name of a model to a running backend.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::Backend;

/// Where the checkpoint's files are.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// Files inside the program: name and content.
    Embedded {
        /// Name that answers carry.
        name: String,
        /// File name and bytes, as they would lie in a checkpoint folder.
        files: &'static [(&'static str, &'static [u8])],
    },
    /// A folder as Hugging Face lays it out.
    Folder(PathBuf),
    /// A hub id such as `Qwen/Qwen3-VL-4B-Instruct`.
    Hub {
        /// `owner/name`.
        id: String,
        /// Branch, tag or commit; `main` if none.
        revision: Option<String>,
    },
}

/// Which device computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// The first CUDA device if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by number.
    Cuda(usize),
}

/// How weights are kept and, on a GPU, what it computes in. The CPU always computes in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DtypeChoice {
    /// CPU: as stored in the checkpoint (exact). CUDA: bf16.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Single precision.
    F32,
}

/// What to load and how.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the files are.
    pub source: ModelSource,
    /// Device.
    pub device: DeviceChoice,
    /// Type of the weights.
    pub dtype: DtypeChoice,
}

/// How far loading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for instance `downloading model.safetensors`.
    pub what: String,
    /// 0 to 100.
    pub percent: u32,
}

/// Why a model could not be loaded; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// The files are there but cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The device is missing or too small.
    #[error("{0}")]
    Device(String),
    /// `cancel` was set.
    #[error("loading was cancelled")]
    Cancelled,
}

/// Loads a model. Blocks, for minutes when it downloads; returns soon after `cancel` is set.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load(
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Arc<dyn Backend>, LoadError> {
    let _ = (progress, cancel);
    Err(LoadError::Invalid(format!(
        "not built yet: {:?}",
        options.source
    )))
}
