//! Kernels over rows of values, frames and logits.

use candle_core::{Device, Result, Tensor};

use super::{On, floats, wide};
use crate::Check;
use qwen3_vl::cpu::patchify::Cut;
use qwen3_vl::cpu::patchify::patchify;
use qwen3_vl::cpu::{activation, norm};
use qwen3_vl::cuda::workspace::Workspace;
use qwen3_vl::cuda::{add_layer_norm, add_rms_norm, bias_gelu, choice, silu_mul};
use qwen3_vl::model::norm::{LAYER_NORM_EPS, LayerNorm};
use qwen3_vl_core::frames::{Frame, Size, VisionInput};

impl On<'_> {
    pub(super) fn rows(&mut self) -> Result<()> {
        for (rows, width) in [(1, 2048), (333, 2560), (7, 4096)] {
            let (sum, delta) = (
                self.random("sum", &[rows, width])?,
                self.random("delta", &[rows, width])?,
            );
            let weight = self.random("norm.weight", &[width])?;
            let mut added = floats(&sum)?;
            activation::add(&mut added, &floats(&delta)?);
            let mut want = vec![0.0; added.len()];
            norm::rms_norm(&added, &floats(&weight)?, 1e-6, &mut want);
            let on_device = self.there(&sum)?.copy()?;
            let delta = self.there(&delta)?;
            let got = add_rms_norm(&on_device, Some(&delta), &self.there(&weight)?, 1e-6)?;
            let shape = (rows, width);
            let want = Tensor::from_vec(want, shape, &Device::Cpu)?;
            self.compare(&format!("add_rms_norm {rows} x {width}"), &got, &want, 1.5)?;
            let added = Tensor::from_vec(added, shape, &Device::Cpu)?;
            self.compare(
                &format!("its sum {rows} x {width}"),
                &on_device,
                &added,
                1.0,
            )?;
        }
        // Side by side, as they come from one product.
        let (rows, width) = (333, 777);
        let both = self.random("gate and up", &[rows, 2 * width])?;
        let part = |of: &Tensor, i: usize| of.narrow(1, i * width, width);
        let mut want = floats(&part(&both, 0)?)?;
        activation::silu_mul(&mut want, &floats(&part(&both, 1)?)?);
        let on_device = self.there(&both)?;
        let got = silu_mul(&part(&on_device, 0)?, &part(&on_device, 1)?)?;
        let want = Tensor::from_vec(want, (rows, width), &Device::Cpu)?;
        self.compare("silu_mul", &got, &want, 1.0)
    }

    /// The kernels between the products of the vision tower's blocks.
    pub(super) fn vision_rows(&mut self) -> Result<()> {
        for (rows, width) in [(784, 1152), (1, 1024), (196, 4608)] {
            let [sum, delta] = ["sum", "delta"].map(|name| self.random(name, &[rows, width]));
            let (sum, delta) = (sum?, delta?);
            let delta_bias = self.random("delta.bias", &[width])?;
            let weight = self.random("norm.weight", &[width])?;
            let bias = self.random("norm.bias", &[width])?;
            let mut added = floats(&sum)?;
            activation::add(&mut added, &floats(&delta)?);
            activation::add(&mut added, &floats(&delta_bias)?);
            let mut want = vec![0.0; added.len()];
            norm::layer_norm(
                &added,
                &floats(&weight)?,
                &floats(&bias)?,
                LAYER_NORM_EPS,
                &mut want,
            );
            let on_device = self.there(&sum)?.copy()?;
            let norm = LayerNorm::new(self.there(&weight)?, self.there(&bias)?);
            let (delta, delta_bias) = (self.there(&delta)?, self.there(&delta_bias)?);
            let got = add_layer_norm(&on_device, Some((&delta, &delta_bias)), &norm)?;
            let want = Tensor::from_vec(want, (rows, width), &Device::Cpu)?;
            self.compare(
                &format!("add_layer_norm {rows} x {width}"),
                &got,
                &want,
                2.0,
            )?;
            let added = Tensor::from_vec(added, (rows, width), &Device::Cpu)?;
            self.compare(
                &format!("its sum {rows} x {width}"),
                &on_device,
                &added,
                1.0,
            )?;
        }
        let (rows, width) = (333, 4304);
        let x = self.random("x", &[rows, width])?;
        let bias = self.random("bias", &[width])?;
        let mut want = floats(&x)?;
        activation::add(&mut want, &floats(&bias)?);
        activation::gelu_tanh(&mut want);
        let got = self.there(&x)?.copy()?;
        bias_gelu(&got, &self.there(&bias)?)?;
        let want = Tensor::from_vec(want, (rows, width), &Device::Cpu)?;
        self.compare("bias_gelu", &got, &want, 1.0)
    }

    pub(super) fn choice(&mut self) -> Result<()> {
        let scores = self.random("scores", &[4, 151_936])?;
        for k in [1, 20, choice::MOST] {
            let best = choice::top_k(&self.there(&scores)?, k)?;
            let differing = wide(&scores)?
                .to_vec2::<f32>()?
                .into_iter()
                .zip(best)
                .filter(|(scores, best)| {
                    let mut want: Vec<(u32, f32)> = (0..).zip(scores.iter().copied()).collect();
                    want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                    want.truncate(k);
                    want != *best
                })
                .count();
            let name = format!("top {k} {:?}", self.dtype);
            (self.say)(Check::count(name, differing, 0.0));
        }
        Ok(())
    }

    pub(super) fn patches(&mut self) -> Result<()> {
        let cut = Cut {
            patch: 16,
            merge: 2,
            temporal: 2,
            mean: [0.5, 0.4, 0.3],
            std: [0.5, 0.25, 0.2],
        };
        let size = Size {
            width: 320,
            height: 256,
        };
        let frame = |nth: u32| Frame {
            rgb: qwen3_vl_core::clip::clip(nth, size, nth).into(),
            size,
            seconds: 0.0,
        };
        let mut workspace = Workspace::default();
        // More batches than upload buffers, without a wait in between.
        let batches: Vec<[VisionInput; 2]> = (0..9)
            .map(|nth| {
                [
                    VisionInput::Pair([frame(nth), frame(nth + 1)]),
                    VisionInput::Pair([frame(nth + 2), frame(nth + 3)]),
                ]
            })
            .collect();
        let frames = &mut workspace.frames;
        let all = batches
            .iter()
            .map(|inputs| frames.patches(inputs, &cut, self.dtype, self.device));
        let all: Vec<Tensor> = all.collect::<Result<_>>()?;
        for (nth, (inputs, got)) in batches.iter().zip(all).enumerate() {
            let want: Vec<f32> = inputs.iter().flat_map(|i| patchify(i, &cut)).collect();
            let want = Tensor::from_vec(want, got.shape(), &Device::Cpu)?.to_dtype(self.dtype)?;
            self.compare(&format!("patches of batch {nth}"), &got, &wide(&want)?, 0.0)?;
        }
        Ok(())
    }
}
