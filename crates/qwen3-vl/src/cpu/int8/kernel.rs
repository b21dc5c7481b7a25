//! The product of some runs of a panel of weights with a few rows of x, written once for all
//! instruction sets ([`Lanes`]) and numbers of bits ([`Quants`]).

use super::input::{RUN, Row};
use super::lanes::Lanes;
use super::layout::{BYTES, Bits, HALF_OF_SIX, NIBBLES, PANEL};
use super::scales::Widened;

/// Runs of a panel.
pub struct Stretch<'a> {
    /// The integers, from the first run on.
    pub quants: &'a [u8],
    pub scales: &'a Widened,
    /// The first run's place in a row, and how many there are.
    pub first: usize,
    pub runs: usize,
}

/// Integers of some number of bits.
pub trait Quants {
    /// How many.
    const BITS: Bits;

    /// For each row of x, whose four values of step s `x(m, s)` gives, the products of the columns
    /// of a run's `part`.
    ///
    /// # Safety
    ///
    /// The CPU has the instructions; a whole run is at `run`.
    unsafe fn dots<L: Lanes, const M: usize>(
        run: *const u8,
        part: usize,
        x: impl Fn(usize, usize) -> i32,
    ) -> [L::Ints; M];
}

pub struct Four;
pub struct Five;
pub struct Six;
pub struct Eight;

// Loops, because closures would not be inlined into code with the CPU's features.
#[allow(clippy::needless_range_loop)]
impl Quants for Four {
    const BITS: Bits = Bits::Four;

    #[inline(always)]
    unsafe fn dots<L: Lanes, const M: usize>(
        run: *const u8,
        _: usize,
        x: impl Fn(usize, usize) -> i32,
    ) -> [L::Ints; M] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut sums = [L::none(); M];
            for step in 0..8 {
                let w = L::nibbles(run.add(NIBBLES * step));
                for m in 0..M {
                    sums[m] = L::add(sums[m], w, x(m, step));
                }
            }
            let mut out = [L::total(L::none()); M];
            for m in 0..M {
                out[m] = L::total(sums[m]);
            }
            out
        }
    }
}

#[allow(clippy::needless_range_loop)]
impl Quants for Five {
    const BITS: Bits = Bits::Five;

    #[inline(always)]
    unsafe fn dots<L: Lanes, const M: usize>(
        run: *const u8,
        _: usize,
        x: impl Fn(usize, usize) -> i32,
    ) -> [L::Ints; M] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut planes = L::bytes(run.add(8 * NIBBLES));
            let mut out = [L::total(L::none()); M];
            for half in 0..2 {
                let mut sums = [L::none(); M];
                for step in 4 * half..4 * half + 4 {
                    let w = L::nibbles(run.add(NIBBLES * step));
                    let w = L::with_high(w, planes, 1);
                    planes = L::next::<1>(planes);
                    for m in 0..M {
                        sums[m] = L::add(sums[m], w, x(m, step));
                    }
                }
                for m in 0..M {
                    out[m] = L::plus(out[m], L::total(sums[m]));
                }
            }
            out
        }
    }
}

#[allow(clippy::needless_range_loop)]
impl Quants for Six {
    const BITS: Bits = Bits::Six;

    #[inline(always)]
    unsafe fn dots<L: Lanes, const M: usize>(
        run: *const u8,
        part: usize,
        x: impl Fn(usize, usize) -> i32,
    ) -> [L::Ints; M] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let run = run.add(HALF_OF_SIX * part);
            let mut planes = L::bytes(run.add(4 * NIBBLES));
            let mut out = [L::total(L::none()); M];
            for pair in 0..2 {
                let mut sums = [L::none(); M];
                for step in 2 * pair..2 * pair + 2 {
                    let w = L::nibbles(run.add(NIBBLES * step));
                    let w = L::with_high(w, planes, 3);
                    planes = L::next::<2>(planes);
                    for m in 0..M {
                        sums[m] = L::add(sums[m], w, x(m, 4 * part + step));
                    }
                }
                for m in 0..M {
                    out[m] = L::plus(out[m], L::total(sums[m]));
                }
            }
            out
        }
    }
}

#[allow(clippy::needless_range_loop)]
impl Quants for Eight {
    const BITS: Bits = Bits::Eight;

    #[inline(always)]
    unsafe fn dots<L: Lanes, const M: usize>(
        run: *const u8,
        _: usize,
        x: impl Fn(usize, usize) -> i32,
    ) -> [L::Ints; M] {
        // SAFETY: the caller guarantees it.
        unsafe {
            let mut sums = [L::none_wide(); M];
            for step in 0..8 {
                let w = L::bytes(run.add(BYTES * step));
                for m in 0..M {
                    sums[m] = L::add_wide(sums[m], w, x(m, step));
                }
            }
            let mut out = [L::total(L::none()); M];
            for m in 0..M {
                out[m] = L::total_wide(sums[m]);
            }
            out
        }
    }
}

/// Adds the products of a stretch with `M` rows of x to `sums` `[M, PANEL]`. Each sum is added in
/// the order of the columns, whatever is computed with it.
///
/// # Safety
///
/// The CPU has the instructions; the stretch has all its runs, in `Q`'s bits, and so have the rows
/// of x; `sums` can be written.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub unsafe fn stretch<L: Lanes, Q: Quants, const M: usize>(
    w: &Stretch<'_>,
    x: [Row<'_>; M],
    sums: *mut f32,
) {
    let parts = Q::BITS.parts();
    // SAFETY: the caller guarantees it.
    unsafe {
        let mut values = [std::ptr::null::<i8>(); M];
        let mut scales = [std::ptr::null::<f32>(); M];
        let mut of_parts = [std::ptr::null::<f32>(); M];
        let mut totals = [L::load(sums); M];
        for m in 0..M {
            values[m] = x[m].values.as_ptr().add(RUN * w.first);
            scales[m] = x[m].scales.as_ptr().add(w.first);
            of_parts[m] = match Q::BITS.parts() {
                1 => x[m].sums.as_ptr().add(w.first),
                _ => x[m].halves.as_ptr().add(2 * w.first),
            };
            totals[m] = L::load(sums.add(PANEL * m));
        }
        for run in 0..w.runs {
            let quants = w.quants.as_ptr().add(Q::BITS.of_run() * run);
            let four = |m: usize, step: usize| {
                let at = values[m].add(RUN * run).cast::<i32>();
                at.add(step).read_unaligned()
            };
            for part in 0..parts {
                let dots = Q::dots::<L, M>(quants, part, four);
                let place = usize::from(*w.scales.places.get_unchecked(parts * run + part));
                let scale = L::load(w.scales.scales.as_ptr().add(place).cast());
                let least = L::load(w.scales.leasts.as_ptr().add(place).cast());
                for m in 0..M {
                    let scale = L::times(scale, *scales[m].add(run));
                    totals[m] = L::multiply_add(L::float(dots[m]), scale, totals[m]);
                    let sum = *of_parts[m].add(parts * run + part);
                    totals[m] = L::less_product(least, sum, totals[m]);
                }
            }
        }
        for m in 0..M {
            L::store(sums.add(PANEL * m), totals[m]);
        }
    }
}
