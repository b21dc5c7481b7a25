//! The matrix product of the crate `gemm`, on one core, for matrices with contiguous columns.

use std::sync::Once;

/// A matrix with contiguous columns.
#[derive(Clone, Copy)]
pub struct Columns<P> {
    /// The first value.
    pub first: P,
    /// Values from one column to the next.
    pub step: usize,
}

/// `out[m, n] (+)= scale * a[m, k] b[k, n]`, added to `out` if `add`. The columns of `a` follow
/// each other without gaps.
///
/// # Safety
///
/// `out` covers n columns of m values, `a` k of m and `b` n of k; no other thread writes them.
pub unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    out: Columns<*mut f32>,
    add: bool,
    a: *const f32,
    b: Columns<*const f32>,
    scale: f32,
) {
    // The left factor is contiguous already, so packing it would gain nothing.
    static NO_PACKING: Once = Once::new();
    NO_PACKING.call_once(|| gemm::set_lhs_packing_threshold_single_thread(256));
    let old = if add { 1.0 } else { 0.0 };
    // SAFETY: the caller guarantees it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.first,
            out.step as isize,
            1,
            add,
            a,
            m as isize,
            1,
            b.first,
            b.step as isize,
            1,
            old,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
