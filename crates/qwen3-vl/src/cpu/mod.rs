//! What candle's CPU backend lacks or does slowly: products with 16-bit weights in f32 arithmetic,
//! attention without copies, activations over all cores. Plain slices; `model` wraps them as
//! candle operations.

pub mod activation;
pub mod attention;
pub mod blocks;
pub mod dot;
pub mod matmul;
pub mod norm;
pub mod patchify;
pub mod pool;
pub mod product;
pub mod quantized;
pub mod transpose;
pub mod vector;
pub mod widen;

/// A base pointer that tasks may share because each writes elements of its own.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: writing through it is unsafe, and whoever does so promises disjoint elements.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    ///
    /// `index` is inside the output, which still exists, and no other task writes that element.
    unsafe fn at(self, index: usize) -> *mut f32 {
        // SAFETY: promised by the caller.
        unsafe { self.0.add(index) }
    }

    /// What a task leaves when its pass is interrupted: zeros in `columns` columns of the rows, which
    /// are `step` values apart.
    ///
    /// # Safety
    ///
    /// This is the first of the columns; they are inside, and no other task writes them.
    unsafe fn clear(self, columns: usize, rows: usize, step: usize) {
        for row in 0..rows {
            // SAFETY: promised by the caller.
            unsafe { self.at(row * step).write_bytes(0, columns) };
        }
    }
}
