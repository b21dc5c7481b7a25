//! Products with matrices as they are stored.

use candle_core::{Device, Result, Tensor};

use super::{On, floats};
use crate::matrices::FORMATS;
use qwen3_vl::cpu::matmul::matmul_t;
use qwen3_vl::cuda::{DeviceMatrix, few_rows};

impl On<'_> {
    pub(super) fn products(&mut self) -> Result<()> {
        for (outputs, inputs, rows) in [(200, 1024, 1), (77, 1152, 8), (200, 1024, 100)] {
            for (name, in_blocks, make) in FORMATS {
                let inputs = if in_blocks {
                    inputs / 256 * 256
                } else {
                    inputs
                };
                let matrix = make((outputs, inputs), self.seed)?;
                let Some(stored) = matrix.stored() else {
                    candle_core::bail!("{name} is not for a GPU");
                };
                let x = self.random("x", &[rows, inputs])?;
                let want = matrix.product(&floats(&x)?, rows);
                let want = Tensor::from_vec(want, (rows, outputs), &Device::Cpu)?;
                let got = DeviceMatrix::upload(stored, self.device)?.product(&self.there(&x)?)?;
                let name = format!("{name} [{outputs}, {inputs}] of {rows}");
                self.compare(&name, &got, &want, 1.0)?;
            }
        }
        for rows in [1, 2, 7] {
            let (outputs, inputs) = (333, 2560);
            let (x, w) = (
                self.random("x", &[rows, inputs])?,
                self.random("w", &[outputs, inputs])?,
            );
            let want = matmul_t(&floats(&x)?, &floats(&w)?, (rows, outputs, inputs));
            let want = Tensor::from_vec(want, (rows, outputs), &Device::Cpu)?;
            let Some(got) = few_rows(&self.there(&w)?, &self.there(&x)?)? else {
                candle_core::bail!("dense rows are not for our kernel");
            };
            let name = format!("dense [{outputs}, {inputs}] of {rows}");
            self.compare(&name, &got, &want, 1.0)?;
        }
        Ok(())
    }
}
