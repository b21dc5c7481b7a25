//! Attention of a decode step.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, bail,
};
use half::bf16;

use super::{kernel, knows, range, suffix};
use crate::model::attention::Span;
use crate::model::kv_cache::BLOCK_TOKENS;

/// The constants of the kernel.
const HEAD: usize = 128;
const PARTIAL: usize = HEAD + 2;
const GROUPS: [usize; 4] = [1, 2, 4, 8];
const _: () = assert!(BLOCK_TOKENS == 128);

/// Blocks of threads that keep a large device busy: two for each of 132 multiprocessors.
const BUSY: usize = 264;
/// Keys that are worth a block of threads.
const LEAST_KEYS: usize = 64;

/// Causal attention where every sequence has one query: `q` `[sequences, heads, 128]` to `[sequences,
/// heads * 128]` (twin: [`crate::cpu::attention::attend`]). None if it is not such a step or not one
/// that there is a kernel for.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn decode(q: &Tensor, spans: &[Span<'_>]) -> Result<Option<Tensor>> {
    let (sequences, heads, head_dim) = q.dims3()?;
    let Some((keys, _)) = spans.first().and_then(|span| span.blocks.first()) else {
        return Ok(None);
    };
    let kv_heads = keys.dim(1)?;
    let fits = q.device().is_cuda()
        && knows(q.dtype())
        && head_dim == HEAD
        && GROUPS.iter().any(|group| group * kv_heads == heads)
        && sequences == spans.len()
        && spans.iter().all(|span| span.queries == 1);
    if !fits {
        return Ok(None);
    }
    let seen = q
        .contiguous()?
        .apply_op1_no_bwd(&Decode { spans, kv_heads })?;
    seen.reshape((sequences, heads * HEAD)).map(Some)
}

struct Decode<'a> {
    spans: &'a [Span<'a>],
    kv_heads: usize,
}

impl CustomOp1 for Decode<'_> {
    fn name(&self) -> &'static str {
        "decode-attention"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("decode-attention: on the CPU attention has no kernel of its own for one query")
    }

    fn cuda_fwd(&self, q: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match q.dtype() {
            DType::F32 => self.run::<f32>(q, layout),
            _ => self.run::<bf16>(q, layout),
        }
    }
}

impl Decode<'_> {
    fn run<T: CudaDType + DeviceRepr>(
        &self,
        q: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, suffix) = (&q.device, suffix(q.dtype())?);
        let (sequences, heads, _) = layout.shape().dims3()?;
        let lengths: Vec<u32> = self.spans.iter().map(|span| span.keys as u32).collect();
        let longest = self.spans.iter().map(|span| span.keys).max().unwrap_or(0);
        let blocks = longest.div_ceil(BLOCK_TOKENS);
        let mut tables = [(); 2].map(|()| vec![0u64; sequences * blocks]);
        for (sequence, span) in self.spans.iter().enumerate() {
            if span.blocks.len() * BLOCK_TOKENS < span.keys || span.keys == 0 {
                bail!(
                    "decode-attention: {} keys in {} blocks",
                    span.keys,
                    span.blocks.len()
                );
            }
            let used = span.blocks.iter().take(span.keys.div_ceil(BLOCK_TOKENS));
            for (index, (keys, values)) in used.enumerate() {
                let place = sequence * blocks + index;
                tables[0][place] = self.address::<T>(keys)?;
                tables[1][place] = self.address::<T>(values)?;
            }
        }
        let splits = BUSY / (self.kv_heads * sequences);
        let splits = splits.clamp(1, longest.div_ceil(LEAST_KEYS));

        let [keys, values] = [
            device.clone_htod(&tables[0])?,
            device.clone_htod(&tables[1])?,
        ];
        let lengths = device.clone_htod(&lengths)?;
        // SAFETY: the kernels write every value.
        let (mut partial, mut out) = unsafe {
            (
                device.alloc::<f32>(sequences * heads * splits * PARTIAL)?,
                device.alloc::<T>(sequences * heads * HEAD)?,
            )
        };
        let group = heads / self.kv_heads;
        let function = kernel(device, &format!("decode_attention_{suffix}_{group}"))?;
        let q = q.as_cuda_slice::<T>()?.slice(range(layout)?);
        let (all_heads, all_blocks) = (heads as u32, blocks as u32);
        let scale = (HEAD as f32).powf(-0.5);
        let stream = device.cuda_stream();
        let mut launch = stream.launch_builder(&function);
        launch.arg(&q).arg(&keys).arg(&values).arg(&lengths);
        launch
            .arg(&mut partial)
            .arg(&all_heads)
            .arg(&all_blocks)
            .arg(&scale);
        let grid = (self.kv_heads as u32, splits as u32, sequences as u32);
        // SAFETY: the arguments are the kernel's, and as large as the grid says; the tables hold the
        // addresses of all blocks of these lengths, whose tensors the spans borrow.
        unsafe { launch.launch(of_128_threads(grid)) }.w()?;

        let function = kernel(device, &format!("decode_attention_merge_{suffix}"))?;
        let parts = splits as u32;
        let mut launch = stream.launch_builder(&function);
        launch.arg(&partial).arg(&mut out).arg(&parts);
        // SAFETY: as above.
        unsafe { launch.launch(of_128_threads((heads as u32, sequences as u32, 1))) }.w()?;
        let out = CudaStorage::wrap_cuda_slice(out, device.clone());
        Ok((out, (sequences, heads, HEAD).into()))
    }

    /// Where a block `[128, kv_heads, 128]` lies on the device.
    fn address<T: CudaDType + DeviceRepr>(&self, block: &Tensor) -> Result<u64> {
        let (storage, layout) = block.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("decode-attention: a block of the cache is on another device");
        };
        if layout.shape().dims() != [BLOCK_TOKENS, self.kv_heads, HEAD] {
            bail!("decode-attention: a block {:?}", layout.shape());
        }
        let first = range(layout)?.start;
        let slice = storage.as_cuda_slice::<T>()?;
        let (address, _in_use) = slice.device_ptr(slice.stream());
        Ok(address + (first * size_of::<T>()) as u64)
    }
}

fn of_128_threads(grid_dim: (u32, u32, u32)) -> LaunchConfig {
    LaunchConfig {
        grid_dim,
        block_dim: (128, 1, 1),
        shared_mem_bytes: 0,
    }
}
