//! The softmax of attention.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};
use half::bf16;

use super::{kernel, range, suffix};

/// Threads of a block, as in the kernel.
const THREADS: u32 = 256;

/// Turns scores into weights, in f32 arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// What scores are multiplied by, more than 0.
    pub scale: f32,
    /// Queries, whose rows follow each other.
    pub queries: usize,
    /// Keys that the first of them sees; each next one sees one more, up to all.
    pub seen: usize,
}

impl Softmax {
    /// Runs it on `scores` `[…, queries, keys]`, in place.
    ///
    /// # Errors
    ///
    /// If [`super::knows`] not the type, the sizes do not fit, or the device fails.
    pub fn run(self, scores: &Tensor) -> Result<()> {
        scores.inplace_op1(&self)
    }

    fn launch<T: CudaDType + DeviceRepr>(
        &self,
        scores: &mut CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (range, keys) = (range(layout)?, layout.shape().dims().last().copied());
        let keys = keys.unwrap_or(0);
        if keys == 0 || self.seen == 0 || self.queries == 0 {
            bail!("softmax: {self:?} of {:?}", layout.shape());
        }
        let rows = range.len() / keys;
        if rows == 0 {
            return Ok(());
        }
        let (device, suffix) = (scores.device.clone(), suffix(scores.dtype())?);
        let function = kernel(&device, &format!("softmax_{suffix}"))?;
        let mut scores = T::as_cuda_slice_mut(scores)?.slice_mut(range);
        let [queries, keys, seen] = [self.queries, keys, self.seen].map(|n| n as u32);
        let stream = device.cuda_stream();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&mut scores).arg(&queries).arg(&keys).arg(&seen);
        launch.arg(&self.scale);
        let shape = LaunchConfig {
            grid_dim: (rows as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel takes these, and there are so many rows of so many keys.
        unsafe { launch.launch(shape) }.w()?;
        Ok(())
    }
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("softmax: on the CPU it is a part of attention")
    }

    fn cuda_fwd(&self, scores: &mut CudaStorage, layout: &Layout) -> Result<()> {
        match scores.dtype() {
            DType::F32 => self.launch::<f32>(scores, layout),
            _ => self.launch::<bf16>(scores, layout),
        }
    }
}
