//! Norms as candle operations: our kernels on the CPU, candle's elsewhere.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};

use super::linear::slice;
use crate::cpu::norm;
use crate::weights::{Weights, WeightsError};

/// RMSNorm over the last axis (transformers: `Qwen3VLTextRMSNorm`).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Loads `{name}.weight` `[width]`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        name: &str,
        width: usize,
        eps: f64,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self {
            weight: weights.vector(&format!("{name}.weight"), &[width])?,
            eps: eps as f32,
        })
    }

    /// Type of arithmetic.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// A norm with the given weight `[width]`.
    pub fn new(weight: Tensor, eps: f32) -> Self {
        Self { weight, eps }
    }

    /// The weight `[width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The epsilon that is added to the mean square.
    pub fn eps(&self) -> f32 {
        self.eps
    }

    /// Normalises `x` `[…, width]`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match x.device() {
            Device::Cpu => x.apply_op2_no_bwd(&self.weight, self),
            _ => candle_nn::ops::rms_norm(x, &self.weight, self.eps),
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x.as_slice::<f32>()?, x_layout)?;
        let weight = slice(weight.as_slice::<f32>()?, weight_layout)?;
        let mut out = vec![0.0; x.len()];
        norm::rms_norm(x, weight, self.eps, &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

/// The epsilon that the vision tower's norms add to the variance.
pub const LAYER_NORM_EPS: f32 = 1e-6;

/// LayerNorm over the last axis (torch: `LayerNorm`).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// Loads `{name}.weight` and `{name}.bias` `[width]`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        name: &str,
        width: usize,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self {
            weight: weights.vector(&format!("{name}.weight"), &[width])?,
            bias: weights.vector(&format!("{name}.bias"), &[width])?,
        })
    }

    /// A norm with the given weight and bias, `[width]` each.
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }

    /// Weight and bias, `[width]` each.
    pub fn parts(&self) -> (&Tensor, &Tensor) {
        (&self.weight, &self.bias)
    }

    /// Normalises `x` `[…, width]`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match x.device() {
            Device::Cpu => x.apply_op3_no_bwd(&self.weight, &self.bias, self),
            _ => candle_nn::ops::layer_norm(x, &self.weight, &self.bias, LAYER_NORM_EPS),
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x.as_slice::<f32>()?, x_layout)?;
        let weight = slice(weight.as_slice::<f32>()?, weight_layout)?;
        let bias = slice(bias.as_slice::<f32>()?, bias_layout)?;
        let mut out = vec![0.0; x.len()];
        norm::layer_norm(x, weight, bias, LAYER_NORM_EPS, &mut out);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}
