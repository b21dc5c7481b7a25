//! Cuts frames into the rows that the vision tower's patch embedding takes.

use std::ops::Range;

use qwen3_vl_core::frames::{Frame, VisionInput};

const CHANNELS: usize = 3;

/// How inputs are cut into patches and normalised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Side of a merge block, in patches.
    pub merge: usize,
    /// Frames per patch.
    pub temporal: usize,
    /// Mean of each channel, for values from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

/// Cuts one vision input into patches and normalises them.
///
/// The result is `[patches, 3 * temporal * patch * patch]`, row-major. A row holds one patch as
/// (channel, time, y, x). Rows follow the merge blocks, so that the `merge * merge` patches that
/// become one token are neighbours: (block row, block column, row in block, column in block). The
/// frames of a pair are its points in time; an image repeats its frame.
///
/// Values are normalised like in transformers, which folds the division by 255 into the other two
/// constants: `(x - 255 mean) / (255 std)` in f32, per channel. (`patchify` and
/// `rescale_and_normalize` of transformers' Qwen3-VL video processor.)
///
/// # Panics
///
/// If a frame has fewer bytes than its size needs, or the second frame of a pair is smaller than
/// the first. Sides are cut to multiples of `patch * merge`.
pub fn patchify(input: &VisionInput, cut: &Cut) -> Vec<f32> {
    let patches = cut.patches(input);
    let mut out = Vec::with_capacity(patches * cut.values());
    patchify_rows(input, cut, 0..patches, &mut out);
    out
}

impl Cut {
    /// Number of patches of an input.
    pub fn patches(&self, input: &VisionInput) -> usize {
        let (size, block) = (input.size(), self.patch * self.merge);
        let blocks = (size.height as usize / block) * (size.width as usize / block);
        blocks * self.merge * self.merge
    }

    /// Values per patch.
    pub fn values(&self) -> usize {
        CHANNELS * self.temporal * self.patch * self.patch
    }
}

/// Appends the given rows of [`patchify`]'s result.
///
/// # Panics
///
/// As [`patchify`], and if `rows` is out of range.
pub fn patchify_rows(input: &VisionInput, cut: &Cut, rows: Range<usize>, out: &mut Vec<f32>) {
    let Cut {
        patch,
        merge,
        temporal,
        mean,
        std,
    } = *cut;
    let frames: Vec<&Frame> = match input {
        VisionInput::Pair(pair) => pair.iter().collect(),
        VisionInput::Image(frame) => vec![frame],
    };
    let width = input.size().width as usize;
    let block = patch * merge;
    let block_columns = width / block;
    let levels = normalised_levels(mean, std);
    for row in rows {
        let (in_block, at) = (row % (merge * merge), row / (merge * merge));
        let top = at / block_columns * block + in_block / merge * patch;
        let left = at % block_columns * block + in_block % merge * patch;
        for (channel, levels) in levels.iter().enumerate() {
            for t in 0..temporal {
                let rgb = &frames[t.min(frames.len() - 1)].rgb;
                for y in top..top + patch {
                    let start = (y * width + left) * CHANNELS;
                    let line = &rgb[start..start + patch * CHANNELS];
                    out.extend(
                        line.chunks_exact(CHANNELS)
                            .map(|pixel| levels[usize::from(pixel[channel])]),
                    );
                }
            }
        }
    }
}

/// The normalised value of each level of each channel.
pub(crate) fn normalised_levels(mean: [f32; 3], std: [f32; 3]) -> [[f32; 256]; CHANNELS] {
    std::array::from_fn(|channel| {
        let (mean, std) = (mean[channel] * 255.0, std[channel] * 255.0);
        std::array::from_fn(|level| (level as f32 - mean) / std)
    })
}
