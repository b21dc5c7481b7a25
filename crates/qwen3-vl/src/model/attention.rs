//! Attention on tensors: our kernel on the CPU, candle's matrix products elsewhere.

use candle_core::{CpuStorage, D, DType, Device, Layout, Result, Storage, Tensor, bail};

use super::kv_cache::LayerBlock;
use crate::cpu;

/// The queries of one sequence, and the keys that they attend to.
pub struct Span<'a> {
    /// Number of queries: those of the last tokens.
    pub queries: usize,
    /// Number of keys.
    pub keys: usize,
    /// Blocks with the keys and values.
    pub blocks: Vec<&'a LayerBlock>,
}

/// Causal attention of any number of sequences: from `q` `[queries of all, heads, head_dim]`, in
/// their order, to `[queries of all, heads * head_dim]`.
///
/// # Errors
///
/// See [`attend`].
pub fn attend_all(q: &Tensor, spans: &[Span<'_>]) -> Result<Tensor> {
    let (mut first, mut seen) = (0, Vec::with_capacity(spans.len()));
    for span in spans.iter().filter(|span| span.queries > 0) {
        let q = q.narrow(0, first, span.queries)?;
        seen.push(attend(&q, &span.blocks, span.keys, true)?);
        first += span.queries;
    }
    match &seen[..] {
        [one] => Ok(one.clone()),
        many => Tensor::cat(many, 0),
    }
}

/// `softmax(q kᵀ / sqrt(head_dim)) v` over the first `keys` tokens of the blocks.
///
/// `q` is `[queries, heads, head_dim]`; the result is `[queries, heads * head_dim]`. All blocks but
/// the last hold equally many tokens. If `causal`, the queries belong to the last tokens and attend
/// to no later keys.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn attend(q: &Tensor, blocks: &[&LayerBlock], keys: usize, causal: bool) -> Result<Tensor> {
    match q.device() {
        Device::Cpu => attend_cpu(q, blocks, keys, causal),
        _ => attend_products(q, blocks, keys, causal, softmax),
    }
}

fn attend_cpu(q: &Tensor, blocks: &[&LayerBlock], keys: usize, causal: bool) -> Result<Tensor> {
    let (queries, heads, head_dim) = q.dims3()?;
    let Some((first, _)) = blocks.first() else {
        bail!("attention without keys")
    };
    let (block, kv_heads, _) = first.dims3()?;
    let shape = cpu::attention::Shape {
        queries,
        keys,
        heads,
        kv_heads,
        head_dim,
        causal,
    };
    let guards: Vec<_> = blocks
        .iter()
        .map(|(k, v)| (k.storage_and_layout(), v.storage_and_layout()))
        .collect();
    let parts = guards
        .iter()
        .map(|(k, v)| {
            Ok(cpu::attention::Block {
                keys: values(&k.0, k.1)?,
                values: values(&v.0, v.1)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let q = q.storage_and_layout();
    let out = cpu::attention::attend(values(&q.0, q.1)?, &parts, block, shape);
    Tensor::from_vec(out, (queries, heads * head_dim), &Device::Cpu)
}

fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("attention on the CPU needs contiguous f32 values"),
    }
}

/// Queries per matrix product, which bounds the memory of their attention scores.
const QUERIES: usize = 256;

/// Softmax of scaled attention scores `[kv_heads, group * queries, keys]` in f32 arithmetic;
/// consumes the scores. A causal mask follows from [`SoftmaxArgs::seen`].
pub(crate) type Softmax = fn(Tensor, SoftmaxArgs) -> Result<Tensor>;

/// Arguments of a [`Softmax`] beside the scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoftmaxArgs {
    /// Queries of each head.
    pub(crate) queries: usize,
    /// Keys that the first query attends to; each later query attends to one more, up to all.
    pub(crate) seen: usize,
    /// Factor of the scores, more than 0.
    pub(crate) scale: f32,
}

/// [`attend`] as two of candle's matrix products with a softmax between them, for devices without
/// an attention kernel.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub(crate) fn attend_products(
    q: &Tensor,
    blocks: &[&LayerBlock],
    keys: usize,
    causal: bool,
    softmax: Softmax,
) -> Result<Tensor> {
    let queries = q.dim(0)?;
    let cat = |parts: Vec<&Tensor>| Tensor::cat(&parts, 0)?.narrow(0, 0, keys)?.transpose(0, 1);
    let k = cat(blocks.iter().map(|(k, _)| k).collect())?.contiguous()?;
    let v = cat(blocks.iter().map(|(_, v)| v).collect())?.contiguous()?;
    let parts = (0..queries).step_by(QUERIES).map(|start| {
        let count = QUERIES.min(queries - start);
        let q = q.narrow(0, start, count)?;
        // Keys that the last query of this part attends to.
        let seen = if causal {
            keys - queries + start + count
        } else {
            keys
        };
        let (k, v) = (k.narrow(1, 0, seen)?, v.narrow(1, 0, seen)?);
        attend_part(&q, &k, &v, causal, softmax)
    });
    match &parts.collect::<Result<Vec<_>>>()?[..] {
        [one] => Ok(one.clone()),
        many => Tensor::cat(many, 0),
    }
}

/// Attention of queries `[queries, heads, head_dim]` over keys and values `[kv_heads, keys,
/// head_dim]`.
fn attend_part(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    causal: bool,
    softmax: Softmax,
) -> Result<Tensor> {
    let (queries, heads, head_dim) = q.dims3()?;
    let (kv_heads, keys, _) = k.dims3()?;
    let group = heads / kv_heads;
    // [queries, heads, d] -> [kv_heads, group * queries, d]: so key heads need not be repeated.
    let q = q
        .transpose(0, 1)?
        .contiguous()?
        .reshape((kv_heads, group * queries, head_dim))?;
    let scores = q.matmul(&k.t()?)?;
    let args = SoftmaxArgs {
        queries,
        seen: if causal { keys - queries + 1 } else { keys },
        scale: (head_dim as f32).powf(-0.5),
    };
    let weights = softmax(scores, args)?;
    weights
        .matmul(v)?
        .reshape((heads, queries, head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((queries, heads * head_dim))
}

/// A [`Softmax`] by candle's operations.
fn softmax(scores: Tensor, args: SoftmaxArgs) -> Result<Tensor> {
    let SoftmaxArgs {
        queries,
        seen,
        scale,
    } = args;
    let (kv_heads, rows, keys) = scores.dims3()?;
    let dtype = scores.dtype();
    let mut scores = (scores.to_dtype(DType::F32)? * f64::from(scale))?;
    if seen < keys {
        let mask: Vec<f32> = (0..queries)
            .flat_map(|i| {
                (0..keys).map(move |j| if j < seen + i { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (queries, keys), scores.device())?;
        scores = scores
            .reshape((kv_heads, rows / queries, queries, keys))?
            .broadcast_add(&mask)?
            .reshape((kv_heads, rows, keys))?;
    }
    candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_operations_agree() {
        let device = Device::Cpu;
        for (queries, keys, causal) in [
            (1, 9, true),
            (5, 21, true),
            (40, 40, true),
            (8, 8, false),
            (QUERIES + 3, QUERIES + 40, true),
            (QUERIES + 3, QUERIES + 3, false),
        ] {
            let q = Tensor::randn(0f32, 1., (queries, 4, 8), &device).unwrap();
            let blocks: Vec<LayerBlock> = (0..keys.div_ceil(8))
                .map(|_| {
                    let random = || Tensor::randn(0f32, 1., (8, 2, 8), &device).unwrap();
                    (random(), random())
                })
                .collect();
            let blocks: Vec<&LayerBlock> = blocks.iter().collect();
            let kernel = attend_cpu(&q, &blocks, keys, causal).unwrap();
            let tensors = attend_products(&q, &blocks, keys, causal, softmax).unwrap();
            let diff = (kernel - tensors)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap();
            assert!(
                diff.to_scalar::<f32>().unwrap() < 1e-5,
                "{queries} {keys} {causal}"
            );
        }
    }
}
