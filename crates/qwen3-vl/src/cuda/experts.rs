//! A mixture of experts whose routing stays on the device (`kernels/experts.cu`), so that its steps
//! can be recorded.

use candle_core::{DType, Result, Tensor, bail};

use super::launch::{address, device_of, launch, unwritten};
use super::matrix::DeviceMatrix;
use super::product::{FEW_ROWS, Grouping, TILE};
use super::rows::silu_mul;
use super::suffix;

/// Most experts that the kernels choose from.
const MOST: usize = 1024;

/// The experts of a layer, as two matrices with one expert's rows below the other's.
#[derive(Clone, Debug)]
pub struct Experts {
    /// `[experts, hidden]`
    router: DeviceMatrix,
    /// `[experts * 2 * inner, hidden]`, of each expert gate, then up.
    gate_up: DeviceMatrix,
    /// `[experts * hidden, inner]`
    down: DeviceMatrix,
    count: usize,
    /// Experts of a row.
    top: usize,
}

/// Which experts the rows go through.
pub struct Routed {
    /// `[rows, top]`, u32, each row's rising.
    pub experts: Tensor,
    /// `[rows, top]`, f32.
    pub weights: Tensor,
}

impl Experts {
    /// Experts whose matrices lie one below the other. None if there are no kernels for them.
    pub fn new(
        router: &Tensor,
        gate_up: DeviceMatrix,
        down: DeviceMatrix,
        (count, top): (usize, usize),
    ) -> Option<Self> {
        let router = DeviceMatrix::dense(router)?;
        let fits = |matrix: &DeviceMatrix| matrix.dims().0.is_multiple_of(count.max(1));
        let known = (1..=MOST).contains(&count)
            && (1..=count).contains(&top)
            && router.dims().0 == count
            && fits(&gate_up)
            && fits(&down);
        known.then_some(Self {
            router,
            gate_up,
            down,
            count,
            top,
        })
    }

    /// The weighted sums of the results of each row's experts, `[rows, hidden]` like `x` (twin:
    /// `model::experts` on the CPU).
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let routed = route(&self.router.logits(x)?, self.top)?;
        let choices = rows * self.top;
        let grouping = match rows <= FEW_ROWS {
            true => Grouping::Each(routed.experts.clone()),
            false => sort(&routed.experts, self.count)?,
        };
        let outputs = |of: &DeviceMatrix| of.dims().0 / self.count;
        let both = outputs(&self.gate_up);
        let inner = both / 2;
        let gate_up = self
            .gate_up
            .grouped(x, &grouping, both, (choices, self.top))?;
        let (gate, up) = (
            gate_up.narrow(1, 0, inner)?,
            gate_up.narrow(1, inner, inner)?,
        );
        let inner = silu_mul(&gate, &up)?;
        let width = outputs(&self.down);
        let given = self.down.grouped(&inner, &grouping, width, (choices, 1))?;
        weighted_sums(&given, &routed.weights)
    }
}

/// The `top` most probable experts of each row of `logits` `[rows, experts]`, f32 (twin:
/// `model::experts::routing`).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn route(logits: &Tensor, top: usize) -> Result<Routed> {
    let (rows, count) = logits.dims2()?;
    if logits.dtype() != DType::F32 || !(1..=MOST).contains(&count) || !(1..=count).contains(&top) {
        bail!("route: {top} of {:?}", logits.shape());
    }
    let device = device_of(logits)?;
    // SAFETY: the kernel writes all rows.
    let (experts, weights) = unsafe {
        (
            unwritten((rows, top), DType::U32, device)?,
            unwritten((rows, top), DType::F32, device)?,
        )
    };
    let arguments = [
        address(logits)?.into(),
        address(&experts)?.into(),
        address(&weights)?.into(),
        (count as u32).into(),
        (top as u32).into(),
    ];
    // SAFETY: the arguments of experts.cu; sizes are checked above.
    unsafe { launch(device, "route", (rows, 1, 1), 32, &arguments)? };
    Ok(Routed { experts, weights })
}

/// The choices `[rows, top]` sorted by expert, in stretches of one expert.
fn sort(experts: &Tensor, count: usize) -> Result<Grouping> {
    let (choices, device) = (experts.elem_count(), device_of(experts)?);
    // Each expert with choices has at most one stretch that is not full.
    let most = choices / TILE + count.min(choices);
    // SAFETY: the kernels write all of them.
    let (slots, starts, stretches) = unsafe {
        (
            unwritten(choices, DType::U32, device)?,
            unwritten(count + 1, DType::U32, device)?,
            unwritten((most, 3), DType::U32, device)?,
        )
    };
    let sorted = [
        address(experts)?.into(),
        address(&slots)?.into(),
        address(&starts)?.into(),
        (choices as u32).into(),
    ];
    // SAFETY: the arguments of experts.cu: an expert for each block.
    unsafe { launch(device, "sort_slots", (count, 1, 1), 256, &sorted)? };
    let stretched = [
        address(&starts)?.into(),
        address(&stretches)?.into(),
        (count as u32).into(),
        (most as u32).into(),
    ];
    // SAFETY: the arguments of experts.cu; there are at most so many stretches.
    unsafe { launch(device, "stretch_slots", (1, 1, 1), 256, &stretched)? };
    Ok(Grouping::Sorted(slots, stretches))
}

/// For each row the sum of its results `[rows * top, width]` times their weights `[rows, top]`, in
/// their order (twin: [`crate::cpu::experts::weighted_sums`]).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn weighted_sums(results: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let ((choices, width), (rows, top)) = (results.dims2()?, weights.dims2()?);
    if choices != rows * top || weights.dtype() != DType::F32 {
        bail!("weighted-sums: {choices} results, {rows} * {top} weights");
    }
    let on = device_of(results)?;
    // SAFETY: the kernel writes all rows.
    let out = unsafe { unwritten((rows, width), results.dtype(), on)? };
    let arguments = [
        address(results)?.into(),
        address(weights)?.into(),
        address(&out)?.into(),
        (width as u32).into(),
        (top as u32).into(),
    ];
    let name = format!("weighted_sums_{}", suffix(results.dtype())?);
    // SAFETY: the arguments of experts.cu; sizes are checked above.
    unsafe { launch(on, &name, (width.div_ceil(256), rows, 1), 256, &arguments)? };
    Ok(out)
}
