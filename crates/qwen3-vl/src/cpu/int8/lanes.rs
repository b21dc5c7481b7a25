//! The vector instructions of a product: [`Lanes`], and [`Plain`], which defines them.

use super::layout::{BYTES, NIBBLES, PANEL, STEP};

/// An instruction set. A vector has a lane for each of the sixteen rows of a panel.
///
/// Every method needs a CPU that has it, and pointers from which a vector can be read.
#[allow(clippy::missing_safety_doc)]
pub trait Lanes {
    /// Four unsigned bytes a lane.
    type Bytes: Copy;
    /// Sums of products of at most 6 bits and x.
    type Sums: Copy;
    /// Sums of products of 8 bits and x.
    type WideSums: Copy;
    /// One i32 a lane.
    type Ints: Copy;
    /// One f32 a lane.
    type Floats: Copy;
    /// Whether there are registers for eight rows of x.
    const EIGHT_ROWS: bool;

    /// A step of nibbles.
    unsafe fn nibbles(at: *const u8) -> Self::Bytes;
    /// A step of bytes.
    unsafe fn bytes(at: *const u8) -> Self::Bytes;
    /// `low | (planes & mask) << 4`: a byte's further bits.
    unsafe fn with_high(low: Self::Bytes, planes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// The planes with the next bits in the lowest places; the highest places may hold anything.
    unsafe fn next<const BITS: i32>(planes: Self::Bytes) -> Self::Bytes;

    /// Sums of nothing.
    unsafe fn none() -> Self::Sums;
    /// Adds to each lane the four products of its bytes and `x`, four i8. Sums stay correct if
    /// 8 * 15, 4 * 31 or 2 * 63 is the most that the bytes of the lane add up to, a place.
    unsafe fn add(sums: Self::Sums, w: Self::Bytes, x: i32) -> Self::Sums;
    /// The sums as integers.
    unsafe fn total(sums: Self::Sums) -> Self::Ints;
    /// Wide sums of nothing.
    unsafe fn none_wide() -> Self::WideSums;
    /// [`Lanes::add`] for bytes of 8 bits, at most eight times.
    unsafe fn add_wide(sums: Self::WideSums, w: Self::Bytes, x: i32) -> Self::WideSums;
    /// The wide sums as integers.
    unsafe fn total_wide(sums: Self::WideSums) -> Self::Ints;
    /// `a + b`.
    unsafe fn plus(a: Self::Ints, b: Self::Ints) -> Self::Ints;

    /// Sixteen values.
    unsafe fn load(at: *const f32) -> Self::Floats;
    /// Writes sixteen values.
    unsafe fn store(at: *mut f32, values: Self::Floats);
    /// The nearest f32, here the same number.
    unsafe fn float(values: Self::Ints) -> Self::Floats;
    /// `a * b`.
    unsafe fn times(a: Self::Floats, b: f32) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `c - a * b`, rounded once.
    unsafe fn less_product(a: Self::Floats, b: f32, c: Self::Floats) -> Self::Floats;
}

/// The definition, for CPUs without the others.
pub struct Plain;

fn lanes<T>(of: impl Fn(usize) -> T) -> [T; PANEL] {
    std::array::from_fn(of)
}

// SAFETY of all blocks: the trait's conditions.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Plain {
    type Bytes = [u8; BYTES];
    type Sums = [i32; PANEL];
    type WideSums = [i32; PANEL];
    type Ints = [i32; PANEL];
    type Floats = [f32; PANEL];
    const EIGHT_ROWS: bool = false;

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> Self::Bytes {
        let halves = unsafe { at.cast::<[u8; NIBBLES]>().read_unaligned() };
        std::array::from_fn(|i| halves[i % NIBBLES] >> (i / NIBBLES * 4) & 15)
    }
    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> Self::Bytes {
        unsafe { at.cast::<Self::Bytes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn with_high(low: Self::Bytes, planes: Self::Bytes, mask: u8) -> Self::Bytes {
        std::array::from_fn(|i| low[i] | (planes[i] & mask) << 4)
    }
    #[inline(always)]
    unsafe fn next<const BITS: i32>(planes: Self::Bytes) -> Self::Bytes {
        planes.map(|byte| byte >> BITS)
    }

    #[inline(always)]
    unsafe fn none() -> Self::Sums {
        [0; PANEL]
    }
    #[inline(always)]
    unsafe fn add(sums: Self::Sums, w: Self::Bytes, x: i32) -> Self::Sums {
        let x = x.to_ne_bytes();
        lanes(|row| {
            let products = |place| i32::from(w[STEP * row + place]) * i32::from(x[place] as i8);
            sums[row] + products(0) + products(1) + products(2) + products(3)
        })
    }
    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> Self::Ints {
        sums
    }
    #[inline(always)]
    unsafe fn none_wide() -> Self::WideSums {
        [0; PANEL]
    }
    #[inline(always)]
    unsafe fn add_wide(sums: Self::WideSums, w: Self::Bytes, x: i32) -> Self::WideSums {
        unsafe { Self::add(sums, w, x) }
    }
    #[inline(always)]
    unsafe fn total_wide(sums: Self::WideSums) -> Self::Ints {
        sums
    }
    #[inline(always)]
    unsafe fn plus(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        lanes(|row| a[row] + b[row])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Floats {
        unsafe { at.cast::<Self::Floats>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, values: Self::Floats) {
        unsafe { at.cast::<Self::Floats>().write_unaligned(values) }
    }
    #[inline(always)]
    unsafe fn float(values: Self::Ints) -> Self::Floats {
        values.map(|value| value as f32)
    }
    #[inline(always)]
    unsafe fn times(a: Self::Floats, b: f32) -> Self::Floats {
        a.map(|a| a * b)
    }
    #[inline(always)]
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        lanes(|row| a[row].mul_add(b[row], c[row]))
    }
    #[inline(always)]
    unsafe fn less_product(a: Self::Floats, b: f32, c: Self::Floats) -> Self::Floats {
        lanes(|row| (-a[row]).mul_add(b, c[row]))
    }
}
