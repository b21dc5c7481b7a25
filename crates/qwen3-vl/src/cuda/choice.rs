//! The scores that a token is chosen from.

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{DType, Result, Tensor, bail};

use super::launch::{address, device_of, launch, launch_each, unwritten};
use super::staging::Staging;
use super::suffix;
use crate::sampling::Penalty;

/// Scores of which a block of threads finds the largest (`choice.cu`).
const SPAN: usize = 4096;
/// The most that are found of a row.
pub const MOST: usize = 64;
const THREADS: u32 = 256;

/// Tokens with their scores, of each row.
pub type Best = Vec<Vec<(u32, f32)>>;

/// The `k` largest scores of each row `[rows, vocabulary]` with their places, largest first, of
/// equal ones the first; `k` from 1 to [`MOST`].
///
/// # Errors
///
/// If `k` is another one or the device fails.
pub fn top_k(scores: &Tensor, k: usize) -> Result<Best> {
    let (rows, count) = scores.dims2()?;
    let spans = count.div_ceil(SPAN);
    if k == 0 || k > MOST || k > count || spans * k > SPAN {
        bail!("top-k: {k} of {count}");
    }
    let device = device_of(scores)?;
    // Places, then scores, so that both come back at once.
    // SAFETY: the kernels write all of them.
    let (keys, chosen) = unsafe {
        (
            unwritten((rows, spans, k, 2), DType::U32, device)?,
            unwritten((2, rows, k), DType::U32, device)?,
        )
    };
    let [scores_at, keys_at] = [address(scores)?, address(&keys)?];
    let arguments = [
        scores_at.into(),
        keys_at.into(),
        (count as u32).into(),
        (k as u32).into(),
    ];
    let name = format!("top_k_{}", suffix(scores.dtype())?);
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
    let (places, best) = chosen.split_at(rows * k);
    let best = best.iter().map(|bits| f32::from_bits(*bits));
    let all: Vec<(u32, f32)> = places.iter().copied().zip(best).collect();
    Ok(all.chunks_exact(k).map(<[_]>::to_vec).collect())
}

/// The `k` largest of each row with its penalties taken off. The logits stay as they are: a
/// recorded step may own them.
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

/// Takes penalties of rows off their scores `[rows, vocabulary]`, f32, in place; each token of a
/// row has one (twin: [`crate::sampling`]).
///
/// # Errors
///
/// If a row or token is not there, or the device fails.
pub fn penalise(
    scores: &Tensor,
    penalties: &[(u32, Penalty)],
    staging: &mut Staging,
) -> Result<()> {
    let (rows, count) = scores.dims2()?;
    let there = |(row, penalty): &(u32, Penalty)| {
        (*row as usize) < rows && (penalty.token as usize) < count
    };
    if scores.dtype() != DType::F32 || !penalties.iter().all(there) {
        bail!(
            "penalise: not for {:?} {:?}",
            scores.dtype(),
            scores.shape()
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
    let device = device_of(scores)?;
    let mut list = device.alloc_zeros::<u64>(words.len())?;
    staging.copy(&words, &mut list, device)?;
    let list_at = {
        let (list_at, _in_use) = list.device_ptr(list.stream());
        list_at
    };
    let arguments = [
        address(scores)?.into(),
        list_at.into(),
        (count as u32).into(),
        (penalties.len() as u32).into(),
    ];
    // SAFETY: the arguments of choice.cu, whose penalties are of rows and tokens that are there.
    unsafe { launch_each(device, "penalise", penalties.len(), &arguments) }
}
