//! How integers of a few bits lie in memory.
//!
//! Sixteen rows ([`PANEL`]) lie together, 32 columns ([`RUN`]) at a time, these in eight steps of
//! four columns: byte 4 r + c of a step is of row r and column c. So one instruction multiplies four
//! columns of all rows with the same four values of x, and no sum has to be taken across a vector.
//!
//! - 4 bits: 32 bytes a step; rows 0 to 7 in the low halves, 8 to 15 in the high ones.
//! - 5 bits: the eight steps of the lower four bits, then 64 bytes whose bit s is of step s.
//! - 6 bits: twice four such steps and 64 bytes whose bits 2 s and 2 s + 1 are of step s.
//! - 8 bits: 64 bytes a step.

use super::input::RUN;

/// Rows that lie together.
pub const PANEL: usize = 16;
/// Columns of a step.
pub const STEP: usize = 4;
/// Bytes of a step of nibbles.
pub const NIBBLES: usize = PANEL * STEP / 2;
/// Bytes of a step of bytes, or of a plane of further bits.
pub const BYTES: usize = PANEL * STEP;
/// Bytes of half a run in 6 bits.
pub const HALF_OF_SIX: usize = 4 * NIBBLES + BYTES;

/// Bits of an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// 0 to 15.
    Four,
    /// 0 to 31.
    Five,
    /// 0 to 63; half a run has a scale of its own.
    Six,
    /// 0 to 255.
    Eight,
}

/// Byte and shift.
type Low = (usize, usize);
/// Byte, shift and mask.
type High = (usize, usize, u8);

impl Bits {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Five => 5,
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    /// Bytes of a run of a panel.
    pub fn of_run(self) -> usize {
        PANEL * RUN * self.count() / 8
    }

    /// Parts of a run that have a scale.
    pub fn parts(self) -> usize {
        match self {
            Self::Six => 2,
            _ => 1,
        }
    }

    /// Where the lower four bits of a place are, and its further bits.
    fn place(self, row: usize, column: usize) -> (Low, Option<High>) {
        let (step, byte) = (column / STEP, STEP * row + column % STEP);
        let nibble = (byte % NIBBLES, byte / NIBBLES * 4);
        let (half, in_half) = (step / 4 * HALF_OF_SIX, step % 4);
        match self {
            Self::Four => ((NIBBLES * step + nibble.0, nibble.1), None),
            Self::Five => (
                (NIBBLES * step + nibble.0, nibble.1),
                Some((8 * NIBBLES + byte, step, 1)),
            ),
            Self::Six => (
                (half + NIBBLES * in_half + nibble.0, nibble.1),
                Some((half + 4 * NIBBLES + byte, 2 * in_half, 3)),
            ),
            Self::Eight => ((BYTES * step + byte, 0), Some((BYTES * step + byte, 4, 15))),
        }
    }

    /// Lays out a run of a panel, row by row, into its bytes.
    pub fn pack(self, integers: &[[u8; RUN]; PANEL], out: &mut [u8]) {
        out.fill(0);
        match self {
            // The most common ones, by loops that are fast.
            Self::Four => {
                for (step, out) in out.chunks_exact_mut(NIBBLES).enumerate() {
                    for row in 0..PANEL / 2 {
                        let of = |row: usize| &integers[row][STEP * step..][..STEP];
                        let pairs = of(row).iter().zip(of(row + PANEL / 2));
                        for (out, (low, high)) in out[STEP * row..].iter_mut().zip(pairs) {
                            *out = low & 15 | high << 4;
                        }
                    }
                }
            }
            Self::Eight => {
                for (step, out) in out.chunks_exact_mut(BYTES).enumerate() {
                    for (row, out) in out.chunks_exact_mut(STEP).enumerate() {
                        out.copy_from_slice(&integers[row][STEP * step..][..STEP]);
                    }
                }
            }
            Self::Five | Self::Six => {
                for (row, integers) in integers.iter().enumerate() {
                    for (column, integer) in integers.iter().enumerate() {
                        let ((at, shift), more) = self.place(row, column);
                        out[at] |= (integer & 15) << shift;
                        if let Some((at, shift, mask)) = more {
                            out[at] |= (integer >> 4 & mask) << shift;
                        }
                    }
                }
            }
        }
    }

    /// The integer of a row and a column of such a run.
    pub fn get(self, run: &[u8], row: usize, column: usize) -> u8 {
        let ((at, shift), more) = self.place(row, column);
        let low = run[at] >> shift & 15;
        let high = more.map_or(0, |(at, shift, mask)| run[at] >> shift & mask);
        low | high << 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_found(seed: u64) {
            for bits in [Bits::Four, Bits::Five, Bits::Six, Bits::Eight] {
                let mut integers = [[0; RUN]; PANEL];
                let mut state = seed;
                for integer in integers.iter_mut().flatten() {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *integer = (state >> 56) as u8 >> (8 - bits.count());
                }
                let mut run = vec![0xff; bits.of_run()];
                bits.pack(&integers, &mut run);
                for (row, integers) in integers.iter().enumerate() {
                    for (column, integer) in integers.iter().enumerate() {
                        prop_assert_eq!(bits.get(&run, row, column), *integer);
                    }
                }
            }
        }
    }
}
