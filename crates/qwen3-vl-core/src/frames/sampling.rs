//! Frame sampling of a file of known length. Live windows sample by time instead
//! ([`crate::window`]).

/// Why a file cannot be sampled.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// The frame rates are not positive numbers.
    #[error("cannot sample {wanted} frames a second from {source_fps}")]
    Rate {
        /// Frame rate of the file.
        source_fps: f64,
        /// Frame rate asked for.
        wanted: f64,
    },
    /// Too few frames.
    #[error("a video of {total} frames gives {frames} to sample, which is too few")]
    TooShort {
        /// Frames of the file.
        total: u32,
        /// Frames that the rule would take.
        frames: u32,
    },
}

/// The sampling rate and its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Frames a second to take.
    pub fps: f64,
    /// Fewest frames to take, if the file has them.
    pub min_frames: u32,
    /// Most frames to take.
    pub max_frames: u32,
}

impl Default for Rate {
    /// 2 frames a second, 4 to 768: the defaults of both packages.
    fn default() -> Self {
        Self {
            fps: 2.0,
            min_frames: 4,
            max_frames: 768,
        }
    }
}

impl Rate {
    fn check(&self, total: u32, source_fps: f64) -> Result<(), SamplingError> {
        if !(source_fps > 0.0 && source_fps.is_finite() && self.fps > 0.0 && self.fps.is_finite()) {
            return Err(SamplingError::Rate {
                source_fps,
                wanted: self.fps,
            });
        }
        if total == 0 {
            return Err(SamplingError::TooShort { total, frames: 0 });
        }
        Ok(())
    }
}

/// `Qwen3VLVideoProcessor.sample_frames` of transformers: indices into a file of `total` frames at
/// `source_fps` frames a second. The number of frames may be odd.
///
/// # Errors
///
/// Rates that are not positive, an empty file.
pub fn hf_frame_indices(
    total: u32,
    source_fps: f64,
    rate: &Rate,
) -> Result<Vec<u32>, SamplingError> {
    rate.check(total, source_fps)?;
    let wanted = (f64::from(total) / source_fps * rate.fps) as u32;
    let n = wanted.max(rate.min_frames).min(rate.max_frames).min(total);
    if n == 0 {
        return Err(SamplingError::TooShort { total, frames: n });
    }
    // numpy.linspace in f64: multiples of one step, the last value set exactly.
    let last = f64::from(total - 1);
    let step = if n > 1 { last / f64::from(n - 1) } else { 0.0 };
    Ok((0..n)
        .map(|i| match i {
            i if i > 0 && i == n - 1 => total - 1,
            i => (f64::from(i) * step).round_ties_even() as u32,
        })
        .collect())
}

/// `smart_nframes` and the sampling of qwen-vl-utils' video readers: an even number of indices.
///
/// # Errors
///
/// Rates that are not positive, fewer than two frames to take.
pub fn qwen_vl_utils_frame_indices(
    total: u32,
    source_fps: f64,
    rate: &Rate,
) -> Result<Vec<u32>, SamplingError> {
    rate.check(total, source_fps)?;
    let least = f64::from(rate.min_frames.next_multiple_of(2));
    let most = f64::from(rate.max_frames / 2 * 2);
    let wanted = f64::from(total) / source_fps * rate.fps;
    let n = wanted.max(least).min(most).min(f64::from(total));
    let n = ((n / 2.0).floor() * 2.0) as u32;
    if n < 2 {
        return Err(SamplingError::TooShort { total, frames: n });
    }
    // torch.linspace in f32: the first half counts from the start, the second back from the end,
    // with one rounding (its compiler fuses the two operations).
    let last = (total - 1) as f32;
    let step = last / (n - 1) as f32;
    Ok((0..n)
        .map(|i| {
            let at = if i < n / 2 {
                step * i as f32
            } else {
                (-step).mul_add((n - 1 - i) as f32, last)
            };
            at.round_ties_even() as u32
        })
        .collect())
}
