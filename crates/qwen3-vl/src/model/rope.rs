//! Rotary position embeddings: tables of cosines and sines, computed in f32 on the host.

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};

use super::linear::slice;
use crate::config::Rope;
use crate::cpu::norm;
use qwen3_vl_core::prompt::Position;

/// Cosines and sines, each `[tokens, head_dim / 2]`; both halves of a head use the same ones.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// The table of the given rows (u32).
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn select(&self, rows: &Tensor) -> Result<Self> {
        Ok(Self {
            cos: self.cos.index_select(rows, 0)?,
            sin: self.sin.index_select(rows, 0)?,
        })
    }

    /// Cosines and sines.
    pub fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    fn new(angles: &[f32], tokens: usize, dtype: DType, device: &Device) -> Result<Self> {
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().copied().map(f).collect();
            Tensor::from_vec(values, (tokens, angles.len() / tokens.max(1)), device)?
                .to_dtype(dtype)
        };
        Ok(Self {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
        })
    }

    /// Rotates `x` `[tokens, heads, head_dim]`, whose tokens may have gaps between them.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cpu() {
            return x.apply_op3_no_bwd(&self.cos, &self.sin, &Rotate);
        }
        let x = x.contiguous()?.unsqueeze(0)?;
        candle_nn::rotary_emb::rope_thd(&x, &self.cos, &self.sin)?.squeeze(0)
    }
}

struct Rotate;

impl CustomOp3 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, heads, head_dim) = x_layout.shape().dims3()?;
        let stride = x_layout.stride();
        if stride[1..] != [head_dim, 1] {
            bail!("rotate: heads must lie side by side, strides are {stride:?}");
        }
        let x = &x.as_slice::<f32>()?[x_layout.start_offset()..];
        let cos = slice(cos.as_slice::<f32>()?, cos_layout)?;
        let sin = slice(sin.as_slice::<f32>()?, sin_layout)?;
        let mut out = vec![0.0; x_layout.shape().elem_count()];
        norm::rotate(x, stride[0], (heads, head_dim), (cos, sin), &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

fn inverse_frequencies(theta: f32, width: usize) -> Vec<f32> {
    (0..width)
        .step_by(2)
        .map(|i| 1.0 / theta.powf(i as f32 / width as f32))
        .collect()
}

/// Interleaved M-RoPE of the language model (transformers: `Qwen3VLTextRotaryEmbedding`).
#[derive(Clone, Debug)]
pub struct TextRope {
    /// Per frequency: its value, and the axis (0 time, 1 height, 2 width) whose position it rotates
    /// by.
    frequencies: Vec<(f32, usize)>,
}

impl TextRope {
    /// Frequencies of a head of `head_dim` values. Frequency j rotates by the height if j % 3 is 1
    /// and by the width if it is 2, while that axis has frequencies left; otherwise by time.
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        let axis = |j: usize| {
            let axis = j % 3;
            if axis > 0 && j < rope.section[axis] * 3 {
                axis
            } else {
                0
            }
        };
        let frequencies = inverse_frequencies(rope.theta as f32, head_dim);
        Self {
            frequencies: frequencies
                .into_iter()
                .enumerate()
                .map(|(j, f)| (f, axis(j)))
                .collect(),
        }
    }

    /// Per frequency: its value, and the axis whose position it rotates by.
    pub fn frequencies(&self) -> &[(f32, usize)] {
        &self.frequencies
    }

    /// The table for tokens at these positions.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn table(
        &self,
        positions: &[Position],
        dtype: DType,
        device: &Device,
    ) -> Result<RopeTable> {
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|p| self.frequencies.iter().map(|&(f, axis)| p[axis] as f32 * f))
            .collect();
        RopeTable::new(&angles, positions.len(), dtype, device)
    }
}

/// Rows and columns of the patches of one grid, in the order of the patches: merge blocks of
/// `merge` x `merge` patches row by row, and the patches of a block likewise
/// (transformers: `get_vision_position_ids`).
pub fn grid_positions(rows: usize, columns: usize, merge: usize) -> Vec<(usize, usize)> {
    let mut out = Vec::with_capacity(rows * columns);
    for block_row in (0..rows).step_by(merge) {
        for block_column in (0..columns).step_by(merge) {
            for row in block_row..block_row + merge {
                out.extend((block_column..block_column + merge).map(|column| (row, column)));
            }
        }
    }
    out
}

/// The vision tower's table: of the frequencies of a head, half rotate by the row and half by the
/// column (transformers: `Qwen3VLVisionRotaryEmbedding`); `theta` is their base.
///
/// # Errors
///
/// If the device fails.
pub fn vision_table(
    positions: &[(usize, usize)],
    head_dim: usize,
    theta: f64,
    device: &Device,
) -> Result<RopeTable> {
    let frequencies = inverse_frequencies(theta as f32, head_dim / 2);
    let angles: Vec<f32> = positions
        .iter()
        .flat_map(|&(row, column)| [row, column])
        .flat_map(|at| frequencies.iter().map(move |f| at as f32 * f))
        .collect();
    RopeTable::new(&angles, positions.len(), DType::F32, device)
}
