//! The types that tensors of a GGUF file may have (ggml: `enum ggml_type`).

use candle_core::DType;
use candle_core::quantized::GgmlDType;

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorType {
    /// As plain numbers.
    Plain(DType),
    /// In ggml's blocks.
    Blocks(GgmlDType),
}

impl TensorType {
    /// Values that are stored together; a row has a whole number of these.
    pub(super) fn block(self) -> u64 {
        match self {
            Self::Plain(_) => 1,
            Self::Blocks(dtype) => dtype.block_size() as u64,
        }
    }

    /// Bytes of those values.
    pub(super) fn block_bytes(self) -> u64 {
        match self {
            Self::Plain(dtype) => dtype.size_in_bytes() as u64,
            Self::Blocks(dtype) => dtype.type_size() as u64,
        }
    }
}

/// Number, name and, if it can be read, storage of each type.
const TYPES: &[(u32, &str, Option<TensorType>)] = {
    use TensorType::{Blocks, Plain};
    &[
        (0, "F32", Some(Plain(DType::F32))),
        (1, "F16", Some(Plain(DType::F16))),
        (30, "BF16", Some(Plain(DType::BF16))),
        (2, "Q4_0", Some(Blocks(GgmlDType::Q4_0))),
        (3, "Q4_1", Some(Blocks(GgmlDType::Q4_1))),
        (6, "Q5_0", Some(Blocks(GgmlDType::Q5_0))),
        (7, "Q5_1", Some(Blocks(GgmlDType::Q5_1))),
        (8, "Q8_0", Some(Blocks(GgmlDType::Q8_0))),
        (10, "Q2_K", Some(Blocks(GgmlDType::Q2K))),
        (11, "Q3_K", Some(Blocks(GgmlDType::Q3K))),
        (12, "Q4_K", Some(Blocks(GgmlDType::Q4K))),
        (13, "Q5_K", Some(Blocks(GgmlDType::Q5K))),
        (14, "Q6_K", Some(Blocks(GgmlDType::Q6K))),
        (9, "Q8_1", None),
        (15, "Q8_K", None),
        (16, "IQ2_XXS", None),
        (17, "IQ2_XS", None),
        (18, "IQ3_XXS", None),
        (19, "IQ1_S", None),
        (20, "IQ4_NL", None),
        (21, "IQ3_S", None),
        (22, "IQ2_S", None),
        (23, "IQ4_XS", None),
        (24, "I8", None),
        (25, "I16", None),
        (26, "I32", None),
        (27, "I64", None),
        (28, "F64", None),
        (29, "IQ1_M", None),
        (31, "Q4_0_4_4", None),
        (32, "Q4_0_4_8", None),
        (33, "Q4_0_8_8", None),
        (34, "TQ1_0", None),
        (35, "TQ2_0", None),
        (39, "MXFP4", None),
        (40, "NVFP4", None),
        (41, "Q1_0", None),
        (42, "Q2_0", None),
    ]
};

/// The type of that number, or what to call it if it cannot be read.
pub(super) fn of(number: u32) -> Result<TensorType, String> {
    match TYPES.iter().find(|(n, ..)| *n == number) {
        Some((_, _, Some(known))) => Ok(*known),
        Some((_, name, None)) => Err((*name).into()),
        None => Err(format!("type {number}")),
    }
}

/// Names of the types that can be read.
pub(super) fn readable() -> String {
    let names = TYPES.iter().filter(|(.., known)| known.is_some());
    let names: Vec<&str> = names.map(|(_, name, _)| *name).collect();
    names.join(", ")
}

/// What ggml calls a type of blocks.
pub(crate) fn block_name(dtype: GgmlDType) -> &'static str {
    let blocks = Some(TensorType::Blocks(dtype));
    let found = TYPES.iter().find(|(.., known)| *known == blocks);
    found.map_or("other blocks", |(_, name, _)| name)
}
