//! Attention, and the kernel that writes its keys and values.

use candle_core::{DType, Device, Result, Tensor};

use super::{On, wide};
use qwen3_vl::config::Rope;
use qwen3_vl::cuda::workspace::Workspace;
use qwen3_vl::cuda::{attention, rope};
use qwen3_vl::model::attention::{Span, attend, attend_all};
use qwen3_vl::model::attention_metadata::{AttentionMetadata, SequenceInput};
use qwen3_vl::model::heads::Heads;
use qwen3_vl::model::norm::RmsNorm;
use qwen3_vl::model::rope::{TextRope, grid_positions, vision_table};
use qwen3_vl::model::{KvCache, KvPool};

/// The rotary embedding of the real models.
const ROPE: Rope = Rope {
    theta: 5e6,
    section: [24, 20, 20],
};

impl On<'_> {
    /// Attention of the last queries of sequences of several lengths, in one launch each.
    pub(super) fn attention(&mut self) -> Result<()> {
        for (spans, heads) in [
            (&[(1, 1)][..], (16, 8)),
            (&[(1, 127), (1, 128), (1, 129)], (32, 8)),
            (&[(1, 8000)], (32, 8)),
            (&[(1, 5), (1, 3000), (1, 700), (1, 1)], (8, 8)),
            (&[(1, 300); 32], (64, 8)),
            (&[(700, 3000)], (16, 8)),
            (&[(260, 260), (1, 500), (40, 300)], (32, 8)),
        ] {
            let heads = Heads {
                count: heads.0,
                kv: heads.1,
                width: 128,
            };
            // In f32 there is a kernel for single queries only.
            if self.dtype == DType::BF16 || spans.iter().all(|(queries, _)| *queries == 1) {
                self.spans(spans, heads)?;
            }
        }
        Ok(())
    }

    fn spans(&mut self, spans: &[(usize, usize)], heads: Heads) -> Result<()> {
        let cpu = KvPool::new((1, heads.kv, heads.width), DType::F32, Device::Cpu);
        let gpu = KvPool::new((1, heads.kv, heads.width), self.dtype, self.device.clone());
        let mut caches = Vec::new();
        for (i, (_, keys)) in spans.iter().enumerate() {
            let shape = [*keys, heads.kv, heads.width];
            let k = self.random(&format!("keys {i}"), &shape)?;
            let v = self.random(&format!("values {i}"), &shape)?;
            let (mut here, mut there) = (KvCache::new(&cpu), KvCache::new(&gpu));
            here.reserve(*keys)?;
            there.reserve(*keys)?;
            here.write(0, &wide(&k)?, &wide(&v)?)?;
            there.write(0, &self.there(&k)?, &self.there(&v)?)?;
            caches.push((here, there));
        }
        let rows: usize = spans.iter().map(|(queries, _)| queries).sum();
        let q = self.random("q", &[rows, heads.count, heads.width])?;
        let seen = spans.iter().zip(&caches).map(|(span, (here, _))| Span {
            queries: span.0,
            keys: span.1,
            blocks: here.layer(0),
        });
        let want = attend_all(&wide(&q)?, &seen.collect::<Vec<_>>())?;
        let ids = vec![0; rows];
        let positions = vec![[0; 3]; rows];
        let inputs = spans
            .iter()
            .zip(&caches)
            .map(|((queries, keys), (_, there))| {
                Ok(SequenceInput {
                    ids: &ids[..*queries],
                    positions: &positions[..*queries],
                    cached: keys - queries,
                    outputs: 1,
                    pages: qwen3_vl::cuda::addresses(there.pages())?,
                })
            });
        let token = heads.of_token() * self.dtype.size_in_bytes();
        let plan =
            AttentionMetadata::new(&inputs.collect::<Result<Vec<_>>>()?, token, heads.group());
        let text_rope = TextRope::new(&ROPE, heads.width);
        let pass = qwen3_vl::cuda::pass(&plan, &text_rope, self.device, &mut Workspace::default())?;
        let q = self.there(&q)?.reshape((rows, heads.count * heads.width))?;
        let out = q.zeros_like()?;
        attention::decode(&q, &pass, 0, heads, &out)?;
        if self.dtype == DType::BF16 {
            attention::prefill(&q, &pass, 0, heads, &out)?;
        }
        let name = format!(
            "attention {}/{} of (queries, keys) {spans:?}",
            heads.count, heads.kv
        );
        self.compare(&name, &out, &want, 1.0)
    }

    /// Norms, rotation and the write into the cache.
    pub(super) fn rope_write(&mut self) -> Result<()> {
        let heads = Heads {
            count: 32,
            kv: 8,
            width: 128,
        };
        let rows = 200;
        let qkv = self.random("qkv", &[rows, (heads.count + 2 * heads.kv) * heads.width])?;
        let weights = [
            self.random("q_norm.weight", &[heads.width])?,
            self.random("k_norm.weight", &[heads.width])?,
        ];
        let text_rope = TextRope::new(&ROPE, heads.width);
        let positions: Vec<[u32; 3]> = (0..rows as u32).map(|i| [i * 900, i + 3, 2 * i]).collect();
        let part = |of: &Tensor, first: usize, count: usize| {
            of.narrow(1, first * heads.width, count * heads.width)
        };
        let parts = |of: &Tensor| -> Result<[Tensor; 3]> {
            let (count, kv) = (heads.count, heads.kv);
            Ok([
                part(of, 0, count)?,
                part(of, count, kv)?,
                part(of, count + kv, kv)?,
            ])
        };
        let table = text_rope.table(&positions, DType::F32, &Device::Cpu)?;
        let [q, k, v] = parts(&wide(&qkv)?)?;
        let turned = |x: &Tensor, weight: &Tensor| -> Result<Tensor> {
            let x = x.contiguous()?.reshape((rows, (), heads.width))?;
            table.rotate(&RmsNorm::new(wide(weight)?, 1e-6).forward(&x)?)
        };
        let (want_q, want_k) = (turned(&q, &weights[0])?, turned(&k, &weights[1])?);

        let gpu = KvPool::new((2, heads.kv, heads.width), self.dtype, self.device.clone());
        let mut cache = KvCache::new(&gpu);
        cache.reserve(rows)?;
        let ids = vec![0; rows];
        let input = SequenceInput {
            ids: &ids,
            positions: &positions,
            cached: 0,
            outputs: 1,
            pages: qwen3_vl::cuda::addresses(cache.pages())?,
        };
        let token = heads.of_token() * self.dtype.size_in_bytes();
        let plan = AttentionMetadata::new(&[input], token, heads.group());
        let pass = qwen3_vl::cuda::pass(&plan, &text_rope, self.device, &mut Workspace::default())?;
        let [q, k, v_there] = parts(&self.there(&qkv)?)?;
        let norms = [
            RmsNorm::new(self.there(&weights[0])?, 1e-6),
            RmsNorm::new(self.there(&weights[1])?, 1e-6),
        ];
        let got = rope::write([&q, &k, &v_there], [&norms[0], &norms[1]], &pass, heads, 1)?;
        let want_q = want_q.reshape((rows, ()))?;
        self.compare("queries, normalised and rotated", &got, &want_q, 1.5)?;
        let kept = |values: bool| -> Result<Tensor> {
            let blocks = cache.layer(1).into_iter();
            let parts: Vec<&Tensor> = blocks.map(|(k, v)| if values { v } else { k }).collect();
            Tensor::cat(&parts, 0)?.narrow(0, 0, rows)
        };
        self.compare("keys in the cache", &kept(false)?, &want_k, 1.5)?;
        let v = v.contiguous()?.reshape((rows, heads.kv, heads.width))?;
        self.compare("values in the cache", &kept(true)?, &v, 0.0)
    }

    pub(super) fn vision(&mut self) -> Result<()> {
        if self.dtype != DType::BF16 {
            return Ok(());
        }
        for (grids, (rows, columns), width) in [(1, (28, 28), 72), (3, (16, 20), 64)] {
            let (heads, patches) = (16, rows * columns);
            let all = grids * patches;
            let qkv = self.random("qkv", &[all, 3 * heads * width])?;
            let bias = self.random("bias", &[3 * heads * width])?;
            let positions = grid_positions(rows, columns, 2);
            let table = vision_table(&positions, width, 10_000.0, &Device::Cpu)?;
            // Rounded where the kernels round: a small change of a logit may have a large effect.
            let rounded = |t: Tensor| wide(&t.to_dtype(self.dtype)?);
            let split = rounded(wide(&qkv)?.broadcast_add(&wide(&bias)?)?)?;
            let split = split.reshape((all, 3 * heads, width))?;
            let each = (0..grids).map(|grid| {
                let of = |i: usize| {
                    let rows = split.narrow(0, grid * patches, patches)?;
                    rows.narrow(1, i * heads, heads)?.contiguous()
                };
                let turned = |i: usize| rounded(table.rotate(&of(i)?)?);
                let (q, k) = (turned(0)?, turned(1)?);
                attend(&q, &[&(k, of(2)?)], patches, false)
            });
            let want = Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?;
            let there = self.there(&qkv)?.copy()?;
            let bytes = 3 * heads * width * self.dtype.size_in_bytes();
            let mut workspace = Workspace::default();
            let pass = attention::grids(grids, patches, bytes, &there, &mut workspace)?;
            let table = vision_table(&positions, width, 10_000.0, self.device)?;
            rope::rotate(&there, &self.there(&bias)?, heads, &table)?;
            let got = attention::vision(&there, heads, &pass)?;
            let got = got.ok_or_else(|| candle_core::Error::msg("no kernel for vision"))?;
            let name = format!("vision {grids} x {rows} x {columns}, width {width}");
            self.compare(&name, &got, &want, 1.5)?;
        }
        Ok(())
    }
}
