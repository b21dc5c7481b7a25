//! CPU kernels for what candle lacks or does slowly: products with 16-bit weights in f32
//! arithmetic, attention without copies, activations over all cores. They take slices; `model`
//! wraps them as candle operations.

pub mod activation;
pub mod attention;
pub mod bf16;
pub mod blocks;
pub mod dot;
pub mod experts;
pub mod fp8;
pub mod int8;
pub mod matmul;
pub mod norm;
pub mod packed;
pub mod patchify;
pub mod pool;
pub mod product;
pub mod quantized;
pub mod stored;
pub mod transpose;
pub mod vector;
pub mod widen;

/// A pointer to an output that tasks share, each writing elements of its own.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: writing through it is unsafe, and its callers guarantee disjoint elements.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    ///
    /// `index` is in bounds of the output, which still exists, and no other task writes that
    /// element.
    unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: the caller guarantees it.
        unsafe { self.0.add(index) }
    }

    /// Writes zeros, when a pass is interrupted, to `columns` columns of `rows` rows, which are
    /// `step` values apart.
    ///
    /// # Safety
    ///
    /// `self` points to the first of the columns; they are in bounds, and no other task writes
    /// them.
    unsafe fn clear(self, columns: usize, rows: usize, step: usize) {
        for row in 0..rows {
            // SAFETY: the caller guarantees it.
            unsafe { self.at(row * step).write_bytes(0, columns) };
        }
    }
}
