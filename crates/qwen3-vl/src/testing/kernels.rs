//! A device's operations against the same ones on the CPU in f32, on random inputs: the ones for which
//! there are kernels of our own.

use candle_core::{DType, Device, Result, Tensor};

use super::parity::Check;
use super::weights::hash_fill;
use crate::model::attention::{Span, attend_all};
use crate::model::kv_cache::{BLOCK_TOKENS, LayerBlock};
use crate::model::linear::silu_mul;

/// Compares them in f32 and bf16, with inputs that `seed` makes.
///
/// # Errors
///
/// If the device fails.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    // The CPU has only the first.
    let types = [(DType::F32, 1e-5), (DType::BF16, 1.0 / 128.0)];
    for (dtype, step) in types.into_iter().take(if device.is_cpu() { 1 } else { 2 }) {
        for (lengths, queries, heads) in [
            (&[1][..], 1, (16, 8)),
            (&[127, 128, 129], 1, (32, 8)),
            (&[8000], 1, (32, 8)),
            (&[5, 3000, 700, 1], 1, (8, 8)),
            (&[300; 32], 1, (64, 8)),
            (&[3000], 700, (16, 8)),
            (&[260, 300], 260, (32, 8)),
        ] {
            let (difference, largest) = attention(device, dtype, (lengths, queries), heads, seed)?;
            checks.push(Check {
                name: format!(
                    "attention {dtype:?} {heads:?} of {queries} queries and {lengths:?} keys"
                ),
                difference,
                limit: step * largest,
            });
        }
        let gate = random("gate", &[333, 777], seed, dtype)?;
        let up = random("up", &[333, 777], seed, dtype)?;
        let want = silu_mul(wide(&gate)?.copy()?, &wide(&up)?)?;
        let got = silu_mul(gate.to_device(device)?.copy()?, &up.to_device(device)?)?;
        let (difference, largest) = compare(&got, &want)?;
        checks.push(Check {
            name: format!("silu_mul {dtype:?}"),
            difference,
            limit: step * largest,
        });
    }
    Ok(checks)
}

/// The last so many queries of sequences of these lengths.
fn attention(
    device: &Device,
    dtype: DType,
    (lengths, queries): (&[usize], usize),
    (heads, kv_heads): (usize, usize),
    seed: u64,
) -> Result<(f64, f64)> {
    let head_dim = 128;
    let q = random(
        "q",
        &[lengths.len() * queries, heads, head_dim],
        seed,
        dtype,
    )?;
    let mut blocks = Vec::new();
    for (sequence, length) in lengths.iter().enumerate() {
        let own = (0..length.div_ceil(BLOCK_TOKENS)).map(|index| {
            let shape = [BLOCK_TOKENS, kv_heads, head_dim];
            let of = |name| random(&format!("{name} {sequence} {index}"), &shape, seed, dtype);
            Ok((of("keys")?, of("values")?))
        });
        blocks.push(own.collect::<Result<Vec<LayerBlock>>>()?);
    }
    let run = |q: &Tensor, all: Vec<Vec<LayerBlock>>| {
        let spans = all.iter().zip(lengths).map(|(blocks, length)| Span {
            queries,
            keys: *length,
            blocks: blocks.iter().collect(),
        });
        attend_all(q, &spans.collect::<Vec<_>>())
    };
    let moved = |to: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<Vec<Vec<LayerBlock>>> {
        let sequences = blocks.iter().map(|blocks| {
            let pairs = blocks.iter().map(|(k, v)| Ok((to(k)?, to(v)?)));
            pairs.collect()
        });
        sequences.collect()
    };
    let want = run(&wide(&q)?, moved(&wide)?)?;
    let got = run(&q.to_device(device)?, moved(&|t| t.to_device(device))?)?;
    compare(&got, &want)
}

fn random(name: &str, shape: &[usize], seed: u64, dtype: DType) -> Result<Tensor> {
    Tensor::from_vec(hash_fill(name, shape, seed), shape, &Device::Cpu)?.to_dtype(dtype)
}

fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)
}

/// The largest difference, and the largest value.
fn compare(got: &Tensor, want: &Tensor) -> Result<(f64, f64)> {
    let got = wide(&got.to_device(&Device::Cpu)?)?;
    let values = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
    let difference = values((got - want)?)?;
    // A value that is not a number must not be lost in a maximum.
    let most = |values: Vec<f32>| {
        let values = values.into_iter().map(|v| f64::from(v.abs()));
        values.fold(0.0, |most, v| if v > most || v.is_nan() { v } else { most })
    };
    Ok((most(difference), most(values(want.clone())?)))
}
