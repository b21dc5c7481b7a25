//! Operations on rows of values.

use candle_core::{Result, Tensor, bail};

use super::launch::{address, device_of, first_value, launch, launch_each, unwritten};
use super::suffix;
use crate::model::norm::{LAYER_NORM_EPS, LayerNorm};

/// Threads per block that reduces a row (`block.cuh`).
const THREADS: u32 = 256;

/// `sum += delta`, in place, and RMSNorm of the sum. `sum`, `delta` `[rows, width]`, `weight`
/// `[width]`, width a multiple of 8 (twins: [`crate::cpu::activation::add`],
/// [`crate::cpu::norm::rms_norm`]).
///
/// # Errors
///
/// If the shapes or types do not fit or the device fails.
pub fn add_rms_norm(
    sum: &Tensor,
    delta: Option<&Tensor>,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor> {
    let (rows, width) = sum.dims2()?;
    let fits = weight.dims() == [width]
        && delta.is_none_or(|delta| delta.dims() == sum.dims() && delta.dtype() == sum.dtype())
        && weight.dtype() == sum.dtype()
        && width.is_multiple_of(8);
    if !fits {
        bail!("add-rms-norm: {:?} with {:?}", sum.shape(), weight.shape());
    }
    let device = device_of(sum)?;
    // SAFETY: the kernel writes all rows.
    let out = unsafe { unwritten((rows, width), sum.dtype(), device)? };
    let delta = delta.map_or(Ok(0), address)?;
    let arguments = [
        address(sum)?.into(),
        delta.into(),
        address(weight)?.into(),
        address(&out)?.into(),
        (width as u32).into(),
        eps.into(),
    ];
    let name = format!("add_rms_norm_{}", suffix(sum.dtype())?);
    // SAFETY: the arguments of add_rms_norm.cu; sizes are checked above.
    unsafe { launch(device, &name, (rows, 1, 1), THREADS, &arguments)? };
    Ok(out)
}

/// `sum += delta + bias`, in place, and LayerNorm of the sum; `bias` is that of the layer whose
/// product `delta` is. `sum`, `delta` `[rows, width]`, `bias` `[width]`, width a multiple of 8
/// (twins: [`crate::cpu::activation::add`], [`crate::cpu::norm::layer_norm`]).
///
/// # Errors
///
/// If the shapes or types do not fit or the device fails.
pub fn add_layer_norm(
    sum: &Tensor,
    delta: Option<(&Tensor, &Tensor)>,
    norm: &LayerNorm,
) -> Result<Tensor> {
    let (rows, width) = sum.dims2()?;
    let (weight, bias) = norm.parts();
    let row = |of: &Tensor| of.dims() == [width] && of.dtype() == sum.dtype();
    let fits = row(weight)
        && row(bias)
        && delta.is_none_or(|(delta, bias)| {
            delta.dims() == sum.dims() && delta.dtype() == sum.dtype() && row(bias)
        })
        && width.is_multiple_of(8);
    if !fits {
        bail!(
            "add-layer-norm: {:?} with {:?}",
            sum.shape(),
            weight.shape()
        );
    }
    let device = device_of(sum)?;
    // SAFETY: the kernel writes all rows.
    let out = unsafe { unwritten((rows, width), sum.dtype(), device)? };
    let (delta, delta_bias) = match delta {
        Some((delta, bias)) => (address(delta)?, address(bias)?),
        None => (0, 0),
    };
    let arguments = [
        address(sum)?.into(),
        delta.into(),
        delta_bias.into(),
        address(weight)?.into(),
        address(bias)?.into(),
        address(&out)?.into(),
        (width as u32).into(),
        LAYER_NORM_EPS.into(),
    ];
    let name = format!("add_layer_norm_{}", suffix(sum.dtype())?);
    // SAFETY: the arguments of add_layer_norm.cu; sizes are checked above.
    unsafe { launch(device, &name, (rows, 1, 1), THREADS, &arguments)? };
    Ok(out)
}

/// Tanh-approximated GELU of `x` `[rows, width]`, in place, with `bias` `[width]`, width a multiple
/// of 8 (twins: [`crate::cpu::activation::add`], [`crate::cpu::activation::gelu_tanh`]).
///
/// # Errors
///
/// If the shapes or types do not fit or the device fails.
pub fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<()> {
    let (rows, width) = x.dims2()?;
    if bias.dims() != [width] || bias.dtype() != x.dtype() || !width.is_multiple_of(8) {
        bail!("bias-gelu: {:?} with {:?}", x.shape(), bias.shape());
    }
    let groups = rows * width / 8;
    let arguments = [
        address(x)?.into(),
        address(bias)?.into(),
        (width as u32).into(),
        (groups as u32).into(),
    ];
    let name = format!("bias_gelu_{}", suffix(x.dtype())?);
    // SAFETY: the arguments of bias_gelu.cu; sizes are checked above.
    unsafe { launch_each(device_of(x)?, &name, groups, &arguments) }
}

/// `silu(gate) * up`, each `[rows, width]`, with the same pitch (twin:
/// [`crate::cpu::activation::silu_mul`]).
///
/// # Errors
///
/// If the shapes or types do not fit or the device fails.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (rows, width) = gate.dims2()?;
    let pitch = pitch(gate)?;
    let alike = gate.dims() == up.dims() && gate.dtype() == up.dtype() && pitch == self::pitch(up)?;
    if !alike {
        bail!("silu-mul: {:?} and {:?}", gate.layout(), up.layout());
    }
    let device = device_of(gate)?;
    // SAFETY: the kernel writes all rows.
    let out = unsafe { unwritten((rows, width), gate.dtype(), device)? };
    let arguments = [
        first_value(gate)?.into(),
        first_value(up)?.into(),
        address(&out)?.into(),
        (width as u32).into(),
        pitch.into(),
        ((rows * width) as u64).into(),
    ];
    let name = format!("silu_mul_{}", suffix(gate.dtype())?);
    // SAFETY: the arguments of silu_mul.cu; sizes are checked above.
    unsafe { launch_each(device, &name, rows * width, &arguments)? };
    Ok(out)
}

/// Rows of a table `[vocabulary, width]` for `rows` ids (u32) at a device address (twin: candle's
/// `index_select`).
///
/// # Errors
///
/// If the device fails.
///
/// # Safety
///
/// `ids` is the device address of `rows` ids (u32) below the table's length.
pub unsafe fn embed(ids: u64, rows: usize, table: &Tensor) -> Result<Tensor> {
    let (_, width) = table.dims2()?;
    let device = device_of(table)?;
    // SAFETY: the kernel writes all rows.
    let out = unsafe { unwritten((rows, width), table.dtype(), device)? };
    let arguments = [
        ids.into(),
        address(table)?.into(),
        address(&out)?.into(),
        (width as u32).into(),
    ];
    let name = format!("embed_{}", suffix(table.dtype())?);
    // SAFETY: the arguments of embed.cu; the caller guarantees the ids.
    unsafe { launch(device, &name, (rows, 1, 1), THREADS, &arguments)? };
    Ok(out)
}

/// The pitch of a matrix: values from a row to the next. An error if a row has gaps.
pub fn pitch(matrix: &Tensor) -> Result<u32> {
    match matrix.stride() {
        [pitch, 1] => Ok(*pitch as u32),
        stride => bail!("rows with strides {stride:?}"),
    }
}
