//! A mixture of experts whose routing stays on the device.

use std::cmp::Reverse;

use candle_core::{Device, Result, Tensor};

use super::{On, floats};
use crate::matrices::{Matrix, fp8, packed};
use qwen3_vl::cpu::activation::silu_mul;
use qwen3_vl::cpu::matmul::matmul_t;
use qwen3_vl::cuda::{DeviceMatrix, Experts};

const COUNT: usize = 16;
const TOP: usize = 4;
const HIDDEN: usize = 256;
const INNER: usize = 96;

impl On<'_> {
    pub(super) fn experts(&mut self) -> Result<()> {
        let both = (COUNT * 2 * INNER, HIDDEN);
        let down = (COUNT * HIDDEN, INNER);
        let seed = self.seed;
        for (name, gate_up, down) in [
            (
                "fp8",
                fp8(both, (32, 128), seed),
                fp8(down, (128, 128), seed + 1),
            ),
            (
                "4 bits",
                packed(both, (64, false), (1, true), seed)?,
                packed(down, (32, false), (2, false), seed + 1)?,
            ),
        ] {
            for rows in [1, 8, 50] {
                // Smaller values, so that few gates are flat.
                let x = (self.random("x", &[rows, HIDDEN])? * 0.1)?;
                let router = self.random("router", &[COUNT, HIDDEN])?;
                let want = expected(&x, &router, &gate_up, &down)?;
                let on = |of: &Matrix| match of.stored() {
                    Some(stored) => DeviceMatrix::upload(stored, self.device),
                    None => candle_core::bail!("not for a GPU"),
                };
                let router = self.there(&router)?;
                let (gate_up, down) = (on(&gate_up)?, on(&down)?);
                let Some(experts) = Experts::new(&router, gate_up, down, (COUNT, TOP)) else {
                    candle_core::bail!("no kernels for these experts");
                };
                let got = experts.forward(&self.there(&x)?)?;
                let want = Tensor::from_vec(want, (rows, HIDDEN), &Device::Cpu)?;
                // Weights, gates, products of experts and their sums are rounded.
                let name = format!("experts in {name}, {rows} rows");
                self.compare(&name, &got, &want, 4.0)?;
            }
        }
        Ok(())
    }
}

/// By the definition, in f32.
fn expected(x: &Tensor, router: &Tensor, gate_up: &Matrix, down: &Matrix) -> Result<Vec<f32>> {
    let rows = x.dim(0)?;
    let x = floats(x)?;
    let logits = matmul_t(&x, &floats(router)?, (rows, COUNT, HIDDEN));
    let both = gate_up.product(&x, rows);
    let mut out = vec![0.0; rows * HIDDEN];
    for (row, out) in out.chunks_mut(HIDDEN).enumerate() {
        let logits = &logits[row * COUNT..][..COUNT];
        let mut experts: Vec<usize> = (0..COUNT).collect();
        experts.sort_by_key(|expert| Reverse(ordered(logits[*expert])));
        experts.truncate(TOP);
        let sum: f32 = experts.iter().map(|expert| logits[*expert].exp()).sum();
        for expert in experts {
            let of = &both[(row * COUNT + expert) * 2 * INNER..][..2 * INNER];
            let (gate, up) = of.split_at(INNER);
            let mut inner = gate.to_vec();
            silu_mul(&mut inner, up);
            let all = down.product(&inner, 1);
            let weight = logits[expert].exp() / sum;
            for (out, value) in out.iter_mut().zip(&all[expert * HIDDEN..]) {
                *out += weight * value;
            }
        }
    }
    Ok(out)
}

/// An integer that grows with a finite number.
fn ordered(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}
