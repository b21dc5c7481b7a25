//! Weights by formula (`tools/reference/hash_fill.py`).

use std::sync::LazyLock;

use half::bf16;

use qwen3_vl_core::clip::splitmix64;

/// FNV-1a, 64 bit.
fn fnv1a64(data: &[u8]) -> u64 {
    data.iter().fold(0xCBF2_9CE4_8422_2325, |h, &byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The tensor `name` of a checkpoint with this seed, row-major, bit-exact.
///
/// Uniform in `offset ± scale` by name ([`rule`]): product and sum are each rounded to f32.
pub fn hash_fill(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let key = fnv1a64(name.as_bytes()) ^ seed;
    let (offset, scale) = rule(name, shape);
    let count: usize = shape.iter().product();
    (0..count as u64)
        .map(|i| {
            let u = (splitmix64(key, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            offset + scale * u
        })
        .collect()
}

/// Offset and scale of a tensor: activations stay near 1 through every layer.
fn rule(name: &str, shape: &[usize]) -> (f32, f32) {
    if name.contains("q_norm") || name.contains("k_norm") {
        return (1.5, 0.3);
    }
    if shape.len() == 1 {
        return if name.contains("norm") && name.ends_with("weight") {
            (1.0, 0.3)
        } else {
            (0.0, 0.1)
        };
    }
    if name.contains("embed_tokens") || name.contains("pos_embed") {
        return (0.0, 1.732_050_8);
    }
    // Experts are stored [expert, in, out], everything else [out, in, …].
    let fan_in: usize = if name.contains("experts.") {
        shape[1]
    } else {
        shape[1..].iter().product()
    };
    (0.0, (3.0 / fan_in as f64).sqrt() as f32)
}

/// Random bf16 weights for speed runs, little-endian, as fast as memory is copied: standard
/// deviation 0.02, norms 1, biases 0, as transformers initialises a model. Matrices repeat the same
/// million values from a start that depends on the name. No reference has the same bits.
pub fn cheap_bf16(name: &str, shape: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    if shape.len() == 1 {
        let value = if name.contains("norm") && name.ends_with("weight") {
            bf16::ONE
        } else {
            bf16::ZERO
        };
        return value.to_le_bytes().repeat(count);
    }
    // A prime number of values, so that no two rows are equal.
    static VALUES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let width = 0.02 * 3f32.sqrt();
        let value = |i| (splitmix64(0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..1_048_573)
            .flat_map(|i| bf16::from_f32(value(i) * width).to_le_bytes())
            .collect()
    });
    let first = 2 * (fnv1a64(name.as_bytes()) as usize % (VALUES.len() / 2));
    let mut bytes = Vec::with_capacity(count * 2);
    bytes.extend(&VALUES[first..][..(count * 2).min(VALUES.len() - first)]);
    while bytes.len() < count * 2 {
        bytes.extend(&VALUES[..(count * 2 - bytes.len()).min(VALUES.len())]);
    }
    bytes
}
