//! Why weights cannot be used.

use std::path::PathBuf;

use super::safetensors::pointer;
use crate::file::remedy;
use crate::quote::{brief, quoted, shortened};

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}{}", remedy(source), path = shortened(path.display()))]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The header, a size or an offset is wrong; usually the download was cut short.
    #[error("{file} is damaged ({reason}): fetch it again")]
    Damaged {
        /// Name of the file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is a Git LFS pointer.
    #[error("{}", pointer(.0))]
    Pointer(String),
    /// A tensor is missing.
    #[error("tensor {0} is missing: these are not the weights of this configuration")]
    Missing(String),
    /// Two tensors have the same name in the model.
    #[error("tensors {one} and {other} are the same one of the model: these are not its weights")]
    Twice {
        /// Name of one.
        one: String,
        /// Name of the other.
        other: String,
    },
    /// The file has tensors that the model does not.
    #[error(
        "{count} tensors have no place in the model of this configuration, for instance {}: these \
         are not its weights",
        quoted(example)
    )]
    Unread {
        /// Number of such tensors.
        count: usize,
        /// Name of one.
        example: String,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {0} holds values that are no finite numbers: the weights are damaged")]
    NotFinite(String),
    /// A weight is too large for f16.
    #[error("tensor {0} holds values that are too large for f16: use dtype bf16, f32 or auto")]
    TooLarge(String),
    /// There is no memory for a tensor.
    #[error("there is not enough memory for tensor {0}: use a smaller model or quantization")]
    Memory(String),
    /// A tensor does not have the shape that the configuration gives it.
    #[error(
        "tensor {name} has shape {found}, the configuration asks for {expected:?}",
        found = shortened(format_args!("{found:?}"))
    )]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has a type that is not supported.
    #[error(
        "tensor {name} has type {dtype}, supported are F64, F32, BF16 and F16: give the checkpoint \
         as it was before its weights were quantised or converted"
    )]
    Type {
        /// Name of the tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A linear layer is stored in an unsupported format.
    #[error("the weights of {name} are stored as {found}, which is not known: known is {known}")]
    Method {
        /// Name of the layer.
        name: String,
        /// Format in the file.
        found: &'static str,
        /// Supported formats.
        known: &'static str,
    },
    /// A GGUF file says something that cannot be used.
    #[error(transparent)]
    Gguf(#[from] super::gguf::GgufError),
    /// The load was cancelled.
    #[error("loading was cancelled")]
    Cancelled,
    /// The device cannot hold a tensor.
    #[error("tensor {name}: {}", brief(source))]
    Device {
        /// Name of the tensor.
        name: String,
        /// Why.
        source: candle_core::Error,
    },
}
