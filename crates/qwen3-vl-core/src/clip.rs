//! Synthetic pictures (`tools/reference/clip.py`, and `noise` of `tables.py`).

use crate::frames::Size;

/// Frame `t` of clip `k`: a moving square over a gradient, packed RGB.
///
/// The square's side is a third of the shorter one; it moves (7, 5) pixels a frame and wraps.
pub fn clip(t: u32, size: Size, k: u32) -> Vec<u8> {
    let (width, height, t, k) = (
        i64::from(size.width),
        i64::from(size.height),
        i64::from(t),
        i64::from(k),
    );
    let side = width.min(height) / 3;
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            let inside =
                (x - 7 * t).rem_euclid(width) < side && (y - 5 * t).rem_euclid(height) < side;
            for c in 0..3 {
                let value = if inside {
                    255 - 60 * c - 11 * t
                } else {
                    x * 3 + y * 5 + t * 17 + c * 40 + k * 29
                };
                rgb.push(value.rem_euclid(256) as u8);
            }
        }
    }
    rgb
}

/// Random bytes as packed RGB: the harshest picture for a resize.
pub fn noise(size: Size, seed: u64) -> Vec<u8> {
    let bytes = u64::from(size.width) * u64::from(size.height) * 3;
    (0..bytes)
        .map(|i| (splitmix64(seed, i) >> 56) as u8)
        .collect()
}

/// The `i`-th output of splitmix64 from state `key`, `i` from 0.
pub fn splitmix64(key: u64, i: u64) -> u64 {
    let mut z = key.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(i + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
