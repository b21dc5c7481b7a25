//! The matrix product of the crate `gemm`, in the one way in which it is used here: on one core, of
//! matrices whose columns lie in sequence.

use std::sync::Once;

/// A matrix: its first value, and how many values after a column the next one begins.
#[derive(Clone, Copy)]
pub struct Columns<P> {
    /// The first value.
    pub first: P,
    /// Distance of columns.
    pub step: usize,
}

/// `out[m, n] (+)= scale * a[m, k] b[k, n]`: added if `add`. The columns of `a` lie side by side.
///
/// # Safety
///
/// `out` covers n columns of m values, `a` k of m and `b` n of k; nobody else writes them.
pub unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    out: Columns<*mut f32>,
    add: bool,
    a: *const f32,
    b: Columns<*const f32>,
    scale: f32,
) {
    // What goes in on the left lies in sequence already: a copy of it would gain nothing.
    static NO_PACKING: Once = Once::new();
    NO_PACKING.call_once(|| gemm::set_lhs_packing_threshold_single_thread(256));
    let old = if add { 1.0 } else { 0.0 };
    // SAFETY: the caller's promise.
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
