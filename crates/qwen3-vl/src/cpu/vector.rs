//! Loops that the compiler turns into vector code, compiled for several instruction sets and chosen
//! at run time.

use half::{bf16, f16};
use multiversion::multiversion;

/// Lanes of an accumulator: two AVX-512 registers, enough to hide the latency of an FMA.
const LANES: usize = 32;

/// A weight as stored, widened exactly to f32 for every operation.
pub trait Weight: Copy + Send + Sync + 'static {
    /// The exact value in f32.
    fn widen(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Weight for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Weight for f16 {
    /// Uses integer and float arithmetic, so that loops are vectorised without F16C instructions:
    /// shifts exponent and mantissa into place and rescales.
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        let finite = magnitude.to_bits();
        // Infinity and NaN have the largest f16 exponent.
        let special = if bits & 0x7c00 == 0x7c00 {
            0x7f80_0000
        } else {
            0
        };
        f32::from_bits(finite | special | ((bits & 0x8000) << 16))
    }
}

#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

macro_rules! versions {
    ($(#[$doc:meta])* $name:ident, $body:ident, ($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$doc])*
        #[multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma+f16c",
            "x86_64+avx2+fma+f16c",
        ))]
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            $body($($arg),*)
        }
    };
}

versions!(
    /// `y += a * x`.
    axpy, axpy_generic, (a: f32, x: &[f32], y: &mut [f32])
);
versions!(
    /// The largest value; minus infinity if there is none.
    max, max_generic, (row: &[f32]) -> f32
);
versions!(
    /// `row = exp(row - max)`, and its sum.
    exp_less, exp_less_generic, (row: &mut [f32], max: f32) -> f32
);
versions!(
    /// `row *= factor`.
    scale, scale_generic, (factor: f32, row: &mut [f32])
);
versions!(
    /// `gate = silu(gate) * up`.
    silu_mul, silu_mul_generic, (gate: &mut [f32], up: &[f32])
);
versions!(
    /// GELU by its tanh approximation, in place (torch: `gelu(approximate="tanh")`).
    gelu_tanh, gelu_tanh_generic, (row: &mut [f32])
);
versions!(
    /// `out = x / rms(x) * weight`.
    rms_norm, rms_norm_generic, (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
);
versions!(
    /// `out = (x - mean(x)) / std(x) * weight + bias`.
    layer_norm, layer_norm_generic,
    (x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32])
);
versions!(
    /// Rotates one head: `out[j] = x[j] cos[j] - x[j + half] sin[j]` and `out[j + half] = x[j +
    /// half] cos[j] + x[j] sin[j]`.
    rotate, rotate_generic, (x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32])
);
versions!(
    /// `row += bias`.
    add, add_generic, (row: &mut [f32], bias: &[f32])
);

#[inline(always)]
fn axpy_generic(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = a.mul_add(*x, *y);
    }
}

/// The sum of `f(x)`.
#[inline(always)]
fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    sum_lanes(lanes) + rest
}

#[inline(always)]
fn rms_norm_generic(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of(x, |x| x * x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

#[inline(always)]
fn layer_norm_generic(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of(x, |x| x) / x.len() as f32;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = ((x - mean) * scale).mul_add(*w, *b);
    }
}

#[inline(always)]
fn rotate_generic(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = x.len() / 2;
    let ((x1, x2), (out1, out2)) = (x.split_at(half), out.split_at_mut(half));
    for j in 0..half {
        out1[j] = x1[j] * cos[j] - x2[j] * sin[j];
        out2[j] = x2[j] * cos[j] + x1[j] * sin[j];
    }
}

#[inline(always)]
fn add_generic(row: &mut [f32], bias: &[f32]) {
    for (x, b) in row.iter_mut().zip(bias) {
        *x += b;
    }
}

#[inline(always)]
fn max_generic(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] {
                chunk[i]
            } else {
                lanes[i]
            };
        }
    }
    let all = lanes.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn exp_less_generic(row: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - max);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = 0f32;
    for x in chunks.into_remainder() {
        *x = exp(*x - max);
        sum += *x;
    }
    sum_lanes(lanes) + sum
}

#[inline(always)]
fn scale_generic(factor: f32, row: &mut [f32]) {
    for x in row {
        *x *= factor;
    }
}

#[inline(always)]
fn silu_mul_generic(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

#[inline(always)]
fn gelu_tanh_generic(row: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    for x in row {
        let inner = SQRT_2_OVER_PI * (*x + 0.044715 * *x * *x * *x);
        // 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2z))
        *x /= 1.0 + exp(-2.0 * inner);
    }
}

/// e^x to about 1 ulp, branch-free (Cephes' expf: reduction by ln 2 in two parts, polynomial of
/// degree 5). 0 below -87.3, clamped at e^88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.0);
    let rounded = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_2e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    let value = y * power;
    if x < -87.3 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            assert!(
                b.widen() == b.to_f32() || b.is_nan() && b.widen().is_nan(),
                "bf16 {bits:x}"
            );
            assert!(
                h.widen() == h.to_f32() || h.is_nan() && h.widen().is_nan(),
                "f16 {bits:x}"
            );
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -8700..=8800 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (got - want).abs() <= want * 2.4e-7,
                "exp({x}) = {got}, want {want}"
            );
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn norms_agree_with_f64() {
        let x: Vec<f32> = (0..77).map(|i| (i * 29 % 41) as f32 * 0.1 - 1.5).collect();
        let weight: Vec<f32> = (0..77).map(|i| 0.5 + i as f32 * 0.01).collect();
        let bias: Vec<f32> = (0..77).map(|i| i as f32 * 0.02).collect();
        let (mut rms, mut layer) = (x.clone(), x.clone());
        rms_norm(&x, &weight, 1e-6, &mut rms);
        layer_norm(&x, &weight, &bias, 1e-6, &mut layer);
        let n = x.len() as f64;
        let wide = || x.iter().map(|x| f64::from(*x));
        let mean = wide().sum::<f64>() / n;
        let square = wide().map(|x| x * x).sum::<f64>() / n;
        let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        for (i, x) in wide().enumerate() {
            let (w, b) = (f64::from(weight[i]), f64::from(bias[i]));
            let want = x / (square + 1e-6).sqrt() * w;
            assert!((f64::from(rms[i]) - want).abs() < 1e-6, "rms {i}");
            let want = (x - mean) / (variance + 1e-6).sqrt() * w + b;
            assert!((f64::from(layer[i]) - want).abs() < 1e-6, "layer {i}");
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let mut out = [0.0; 4];
        rotate(&[1.0, 2.0, 3.0, 4.0], &[0.0, 1.0], &[1.0, 0.0], &mut out);
        assert_eq!(out, [-3.0, 2.0, 1.0, 4.0]);
    }

    #[test]
    fn activations_agree_with_f64() {
        let values: Vec<f32> = (-400..=400).map(|i| i as f32 * 0.05).collect();
        let mut gelu = values.clone();
        gelu_tanh(&mut gelu);
        let mut silu = values.clone();
        silu_mul(&mut silu, &vec![2.0; values.len()]);
        for (i, x) in values.iter().map(|x| f64::from(*x)).enumerate() {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let want = 0.5 * x * (1.0 + inner.tanh());
            assert!((f64::from(gelu[i]) - want).abs() < 2e-6, "gelu({x})");
            let want = 2.0 * x / (1.0 + (-x).exp());
            assert!((f64::from(silu[i]) - want).abs() < 5e-6, "silu({x})");
        }
        let mut row = vec![f32::NEG_INFINITY; 70];
        row[3] = 1.0;
        row[69] = 1.0;
        let most = max(&row);
        let sum = exp_less(&mut row, most);
        scale(1.0 / sum, &mut row);
        assert_eq!((row[0], row[3], row[69]), (0.0, 0.5, 0.5));
    }
}
