//! `x Wᵀ` in bf16: weights and rows of x are rounded to bf16, products are added in f32
//! (AVX512-BF16: 32 products per instruction, twice as many as in f32).
//!
//! Each result is one chain of additions, pair by pair along the row, whatever is computed with
//! it: a token's result does not depend on the other tokens of its pass.

mod kernel;
mod lanes;
mod matrix;
mod pack;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests;
mod widened;

use std::ops::Range;

pub use kernel::{DEPTH, matmul_t};
pub use matrix::Bf16Matrix;
pub use pack::{Packer, Stripe};
pub use widened::Widened;

/// What multiplies pairs of bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Isa {
    /// `VDPBF16PS` on registers of 512 bits.
    Avx512,
    /// That instruction's definition in plain code: the same bits, slowly, for tests.
    Emulated,
}

impl Bf16Isa {
    /// What this CPU has. Without it there is no gain: f32 products are faster then.
    pub fn of_this_cpu() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bf16")
        {
            return Some(Self::Avx512);
        }
        None
    }
}

/// Rows of weights that a panel has side by side.
pub const PANEL: usize = 64;

/// A matrix of weights whose panels can be had in bf16.
pub trait Bf16Panels: Sync {
    /// Rows and columns.
    fn dims(&self) -> (usize, usize);

    /// Some pairs of columns of panel `index`, which has the rows from `index * PANEL` on. They
    /// begin at a multiple of [`DEPTH`] and end at one or at the end of the row. `packer`
    /// has memory for panels that are made here.
    fn panel<'a>(
        &'a self,
        index: usize,
        pairs: Range<usize>,
        packer: &'a mut Packer,
    ) -> &'a [Stripe];
}
