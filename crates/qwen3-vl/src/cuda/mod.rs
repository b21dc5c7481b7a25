//! The model on an NVIDIA GPU. The kernels of `kernels/*.cu`, which `build.rs` compiles, do what
//! candle does slowly or not at all. Each is tested against a twin in [`crate::cpu`].
//! [`platform`](platform()) chooses which kernels run a model; `absent.rs` stands in for this
//! module in a build without the feature `cuda`.
//!
//! A device runs everything on one stream, so that work is in order without events: see
//! [`device::open`].

pub mod attention;
pub mod choice;
pub mod decoder;
pub mod device;
pub mod experts;
mod functions;
pub mod graph;
pub mod handover;
pub mod launch;
mod matrix;
pub mod pass;
pub mod patches;
mod platform;
mod product;
pub mod profile;
pub mod rope;
mod rows;
pub mod softmax;
pub mod staging;
pub mod sync;
pub mod vision;
pub mod workspace;

use candle_core::{DType, Device, Result, Tensor, bail};

use self::pass::Pass;
use crate::model::attention_metadata::AttentionMetadata;
use crate::model::rope::TextRope;

pub use device::open;
pub use experts::Experts;
pub use matrix::DeviceMatrix;
pub(crate) use platform::platform;
pub use product::few_rows;
pub use rows::{add_layer_norm, add_rms_norm, bias_gelu, silu_mul};

/// Whether there are kernels for values of this type.
pub fn is_supported(dtype: DType) -> bool {
    suffix(dtype).is_ok()
}

/// The suffix of the names of kernels for a type.
fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        other => bail!("no kernels for {other:?}"),
    }
}

/// Free bytes of a device; none if it is not a CUDA device or fails.
pub fn free_memory(on: &Device) -> Option<u64> {
    let bytes = device::free_memory(launch::device(on).ok()?).ok()?;
    u64::try_from(bytes).ok()
}

/// Device addresses of tensors.
///
/// # Errors
///
/// If one is not contiguous or not on a CUDA device.
pub fn addresses<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Vec<u64>> {
    tensors.map(launch::address).collect()
}

/// Copies the metadata of a pass to a device, and computes the angles of its positions.
///
/// # Errors
///
/// If the device fails or is not a CUDA device.
pub fn pass(
    metadata: &AttentionMetadata,
    rope: &TextRope,
    on: &Device,
    workspace: &mut workspace::Workspace,
) -> Result<Pass> {
    let (frequencies, axes) = workspace.rope(rope, on)?;
    let device = launch::device(on)?;
    let pass = Pass::new(
        metadata,
        frequencies.elem_count(),
        device,
        &mut workspace.staging,
    )?;
    pass.turn(&frequencies, &axes, device)?;
    Ok(pass)
}
