//! The device and types that a model is loaded for.

use candle_core::{DType, Device};
use qwen3_vl_core::load::LoadError;

use super::LoadOptions;
use crate::cpu::bf16::Bf16Isa;
use crate::device::DtypeChoice;
use crate::weights::Target;

/// Device and types for these options.
pub(super) fn target(options: &LoadOptions) -> Result<Target, LoadError> {
    let device = options.device.open()?;
    let store = match options.dtype {
        DtypeChoice::Auto => None,
        DtypeChoice::Bf16 => Some(DType::BF16),
        DtypeChoice::F16 => Some(DType::F16),
        DtypeChoice::F32 => Some(DType::F32),
    };
    Ok(match device {
        Device::Cpu => Target {
            device,
            dtype: DType::F32,
            store,
            compute: options.compute,
            bf16: Bf16Isa::of_this_cpu(),
            quantize_at_load: options.quantization,
        },
        _ => {
            let dtype = store.unwrap_or(DType::BF16);
            Target {
                device,
                dtype,
                store: Some(dtype),
                compute: options.compute,
                bf16: None,
                quantize_at_load: options.quantization,
            }
        }
    })
}
