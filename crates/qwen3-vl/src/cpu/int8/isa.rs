//! Which instructions multiply, and how many rows of x at a time.

use super::input::{Row, Rows};
use super::kernel::{Quants, Stretch, stretch};
use super::lanes::{Lanes, Plain};
use super::layout::PANEL;
#[cfg(target_arch = "x86_64")]
use super::{avx2, vnni};

/// The instructions that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Isa {
    /// The best ones of this CPU.
    pub fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if vnni::available() {
                return Self::Vnni;
            }
            if avx2::available() {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    fn has_eight_rows(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => vnni::Vnni::EIGHT_ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::EIGHT_ROWS,
            Self::Plain => Plain::EIGHT_ROWS,
        }
    }
}

/// Adds the products of a stretch with all rows of x, as many at a time as the registers hold.
///
/// # Safety
///
/// As for [`stretch`].
pub unsafe fn all_rows<Q: Quants>(isa: Isa, w: &Stretch<'_>, x: &Rows, sums: &mut [[f32; PANEL]]) {
    let mut i = 0;
    while i < sums.len() {
        // SAFETY: the caller guarantees it; x and the sums have these rows.
        unsafe {
            i += match sums.len() - i {
                1 => some_rows::<Q, 1>(isa, w, x, i, sums),
                8.. if isa.has_eight_rows() => some_rows::<Q, 8>(isa, w, x, i, sums),
                4.. => some_rows::<Q, 4>(isa, w, x, i, sums),
                _ => some_rows::<Q, 2>(isa, w, x, i, sums),
            };
        }
    }
}

/// The same with `M` rows from `i` on. Returns `M`.
///
/// # Safety
///
/// As for [`stretch`]; x and the sums have these rows.
unsafe fn some_rows<Q: Quants, const M: usize>(
    isa: Isa,
    w: &Stretch<'_>,
    x: &Rows,
    i: usize,
    sums: &mut [[f32; PANEL]],
) -> usize {
    let x: [Row<'_>; M] = std::array::from_fn(|m| x.row(i + m));
    let sums = sums[i..i + M].as_mut_ptr().cast();
    // SAFETY: the caller guarantees it.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Vnni => vnni::run::<Q, M>(w, x, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::run::<Q, M>(w, x, sums),
            Isa::Plain => stretch::<Plain, Q, M>(w, x, sums),
        }
    }
    M
}
