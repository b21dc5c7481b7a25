//! The logits that a token is chosen from.

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{DType, Result, Tensor, bail};

use super::launch::{address, device_of, launch, launch_each, unwritten};
use super::staging::Staging;
use super::suffix;
use crate::sampling::Penalty;

/// Logits per thread block (`choice.cu`).
const SPAN: usize = 4096;
/// Most candidates per row.
pub const MOST: usize = 64;
const THREADS: u32 = 256;

/// Tokens with their logits, for each row.
pub type Best = Vec<Vec<(u32, f32)>>;

/// The `k` largest logits of each row `[rows, vocabulary]` with their tokens, largest first, equal
/// ones by token; `k` is 1 to [`MOST`].
///
/// # Errors
///
/// If `k` is out of range or the device fails.
pub fn top_k(logits: &Tensor, k: usize) -> Result<Best> {
    let (rows, count) = logits.dims2()?;
    let spans = count.div_ceil(SPAN);
    if k == 0 || k > MOST || k > count || spans * k > SPAN {
        bail!("top-k: {k} of {count}");
    }
    let device = device_of(logits)?;
    // Tokens, then logits, in one tensor, so that one copy returns both.
    // SAFETY: the kernels write all of them.
    let (keys, chosen) = unsafe {
        (
            unwritten((rows, spans, k, 2), DType::U32, device)?,
            unwritten((2, rows, k), DType::U32, device)?,
        )
    };
    let [logits_at, keys_at] = [address(logits)?, address(&keys)?];
    let arguments = [
        logits_at.into(),
        keys_at.into(),
        (count as u32).into(),
        (k as u32).into(),
    ];
    let name = format!("top_k_{}", suffix(logits.dtype())?);
    // SAFETY: the arguments of choice.cu; a key has 64 bits.
    unsafe { launch(device, &name, (spans, rows, 1), THREADS, &arguments)? };
    let arguments = [
        keys_at.into(),
        address(&chosen)?.into(),
        (address(&chosen)? + (4 * rows * k) as u64).into(),
        (spans as u32).into(),
        (k as u32).into(),
    ];
    // SAFETY: likewise.
    unsafe { launch(device, "top_k_merge", (rows, 1, 1), THREADS, &arguments)? };
    let chosen = chosen.flatten_all()?.to_vec1::<u32>()?;
    let (tokens, best) = chosen.split_at(rows * k);
    let best = best.iter().map(|bits| f32::from_bits(*bits));
    let all: Vec<(u32, f32)> = tokens.iter().copied().zip(best).collect();
    Ok(all.chunks_exact(k).map(<[_]>::to_vec).collect())
}

/// [`top_k`] after applying penalties. It copies the logits for that, because a recorded step may
/// own them.
///
/// # Errors
///
/// See [`top_k`] and [`penalise`].
pub fn candidates(
    logits: &Tensor,
    k: usize,
    penalties: &[(u32, Penalty)],
    staging: &mut Staging,
) -> Result<Best> {
    if penalties.is_empty() {
        return top_k(logits, k);
    }
    let copy = match logits.dtype() {
        DType::F32 => logits.copy()?,
        _ => logits.to_dtype(DType::F32)?,
    };
    penalise(&copy, penalties, staging)?;
    top_k(&copy, k)
}

/// Applies penalties to logits `[rows, vocabulary]`, f32, in place; a token of a row has at most
/// one (twin: [`crate::sampling`]).
///
/// # Errors
///
/// If a row or token is out of range, or the device fails.
pub fn penalise(
    logits: &Tensor,
    penalties: &[(u32, Penalty)],
    staging: &mut Staging,
) -> Result<()> {
    let (rows, count) = logits.dims2()?;
    let in_range = |(row, penalty): &(u32, Penalty)| {
        (*row as usize) < rows && (penalty.token as usize) < count
    };
    if logits.dtype() != DType::F32 || !penalties.iter().all(in_range) {
        bail!(
            "penalise: not for {:?} {:?}",
            logits.dtype(),
            logits.shape()
        );
    }
    let words: Vec<u64> = penalties
        .iter()
        .flat_map(|(row, penalty)| {
            let numbers = [penalty.repetition, penalty.presence].map(f32::to_bits);
            [[*row, penalty.token], numbers]
                .map(|[low, high]| u64::from(low) | u64::from(high) << 32)
        })
        .collect();
    let device = device_of(logits)?;
    let mut list = device.alloc_zeros::<u64>(words.len())?;
    staging.copy(&words, &mut list, device)?;
    let list_at = {
        let (list_at, _in_use) = list.device_ptr(list.stream());
        list_at
    };
    let arguments = [
        address(logits)?.into(),
        list_at.into(),
        (count as u32).into(),
        (penalties.len() as u32).into(),
    ];
    // SAFETY: the arguments of choice.cu; rows and tokens of the penalties are checked above.
    unsafe { launch_each(device, "penalise", penalties.len(), &arguments) }
}
