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
    /// A tensor that should hold the matrices of all experts of a layer.
    #[error("tensor {name} of shape {found} {reason}", found = shortened(format_args!("{found:?}")))]
    Experts {
        /// Name of the tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// Why it cannot be used.
        reason: &'static str,
    },
    /// A tensor has a type that is not supported.
    #[error(
        "tensor {name} has type {dtype}, supported are F64, F32, BF16 and F16, and in quantised \
         layers F8_E4M3 and I32: give the checkpoint as it was before its weights were converted"
    )]
    Type {
        /// Name of the tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A linear layer is stored in a way that is not known.
    #[error(
        "the weights of {name} are stored as {found}, which is not known: known are weight in F64, \
         F32, BF16 or F16, weight in F8_E4M3 with scales, qweight of AWQ or GPTQ and weight_packed of \
         compressed-tensors"
    )]
    Method {
        /// Name of the layer.
        name: String,
        /// What is there.
        found: String,
    },
    /// A part of a quantised layer has another type than its format gives it.
    #[error("tensor {name} has type {found}, {format} asks for {expected}")]
    Part {
        /// Name of the tensor.
        name: String,
        /// Its type.
        found: String,
        /// The format of the layer.
        format: &'static str,
        /// What it can be.
        expected: &'static str,
    },
    /// A part of a quantised layer does not fit the layer.
    #[error("tensor {name} {reason}: these are not the weights of this config.json")]
    Unfit {
        /// Name of the tensor.
        name: String,
        /// What it has and what it would need.
        reason: String,
    },
    /// A layer is quantised already.
    #[error(
        "the weights of {name} are quantised already ({format}): leave the property quantization \
         unset, or use the checkpoint that is not quantised"
    )]
    Quantised {
        /// Name of the layer.
        name: String,
        /// How.
        format: String,
    },
    /// A layer is stored in a way that is multiplied on the CPU only.
    #[error("the weights of {name} are {format}, which cannot run on a GPU yet: use device=cpu")]
    CpuOnly {
        /// Name of the layer.
        name: String,
        /// How it is stored.
        format: String,
    },
    /// A GGUF file says something that cannot be used.
    #[error(transparent)]
    Gguf(#[from] super::gguf::GgufError),
    /// Nobody waits for the weights any more.
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
