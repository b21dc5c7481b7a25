//! A GPU's kernels against their twins on the CPU in f32, on random inputs, and recorded steps against the
//! same steps kernel by kernel.

use candle_core::{DType, Device, Result, Tensor};

use super::Checkpoint;
use super::parity::{self, Check, Error};
use super::weights::hash_fill;
use crate::config::Rope;
use crate::cpu::{activation, norm};
use crate::cuda::workspace::Workspace as OnDevice;
use crate::cuda::{add_rms_norm, attention, choice, silu_mul};
use crate::engine::runner::Runner;
use crate::frames::patchify::Cut;
use crate::frames::{Frame, Size, VisionInput, patchify};
use crate::load::{DeviceChoice, DtypeChoice, LoadOptions, ModelSource, Quantization};
use crate::model::attention::{Span, attend, attend_all};
use crate::model::heads::Heads;
use crate::model::norm::RmsNorm;
use crate::model::plan::{Brought, Plan};
use crate::model::rope::{TextRope, grid_positions, vision_table};
use crate::model::text::Part;
use crate::model::{Chunk, KvCache, KvPool, Workspace};

/// That of the real models.
const ROPE: Rope = Rope {
    theta: 5e6,
    section: [24, 20, 20],
};

/// What all comparisons need.
struct On<'a> {
    device: &'a Device,
    dtype: DType,
    seed: u64,
    /// A rounding of the type, of the largest value.
    step: f64,
    checks: Vec<Check>,
}

/// Compares them in f32 and bf16, with inputs that `seed` makes.
///
/// # Errors
///
/// If the device fails or is none of NVIDIA's.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for (dtype, step) in [(DType::F32, 1e-5), (DType::BF16, 1.0 / 128.0)] {
        let mut on = On {
            device,
            dtype,
            seed,
            step,
            checks: Vec::new(),
        };
        on.rows()?;
        on.attention()?;
        on.rope_write()?;
        on.vision()?;
        on.choice()?;
        on.patches()?;
        all.extend(on.checks);
    }
    Ok(all)
}

impl On<'_> {
    /// A random tensor of the type, on the CPU.
    fn random(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(hash_fill(name, shape, self.seed), shape, &Device::Cpu)?
            .to_dtype(self.dtype)
    }

    fn there(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_device(self.device)
    }

    /// Notes how far `got` is from `want`, which may be `steps` roundings.
    fn compare(&mut self, name: &str, got: &Tensor, want: &Tensor, steps: f64) -> Result<()> {
        let got = wide(&got.to_device(&Device::Cpu)?)?;
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        // A value that is not a number must not be lost in a maximum.
        let most = |values: Vec<f32>| {
            let values = values.into_iter().map(|v| f64::from(v.abs()));
            values.fold(0.0, |most, v| if v > most || v.is_nan() { v } else { most })
        };
        self.checks.push(Check {
            name: format!("{name} {:?}", self.dtype),
            difference: most(values(&(got - want)?)?),
            limit: steps * self.step * most(values(want)?),
        });
        Ok(())
    }

    fn rows(&mut self) -> Result<()> {
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
        // Side by side, as one product gives them.
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

    /// The last so many queries of sequences of some lengths, in one launch each.
    fn attention(&mut self) -> Result<()> {
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
        let brought = spans
            .iter()
            .zip(&caches)
            .map(|((queries, keys), (_, there))| {
                Ok(Brought {
                    ids: &ids[..*queries],
                    positions: &positions[..*queries],
                    cached: keys - queries,
                    outputs: 1,
                    pages: crate::cuda::addresses(there.pages())?,
                })
            });
        let token = heads.of_token() * self.dtype.size_in_bytes();
        let plan = Plan::new(&brought.collect::<Result<Vec<_>>>()?, token, heads.group());
        let rope = TextRope::new(&ROPE, heads.width);
        let pass = crate::cuda::pass(&plan, &rope, self.device, &mut OnDevice::default())?;
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

    /// Norms, rotation and the way into the cache.
    fn rope_write(&mut self) -> Result<()> {
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
        let rope = TextRope::new(&ROPE, heads.width);
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
        let table = rope.table(&positions, DType::F32, &Device::Cpu)?;
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
        let brought = Brought {
            ids: &ids,
            positions: &positions,
            cached: 0,
            outputs: 1,
            pages: crate::cuda::addresses(cache.pages())?,
        };
        let token = heads.of_token() * self.dtype.size_in_bytes();
        let plan = Plan::new(&[brought], token, heads.group());
        let pass = crate::cuda::pass(&plan, &rope, self.device, &mut OnDevice::default())?;
        let [q, k, v_there] = parts(&self.there(&qkv)?)?;
        let norms = [
            RmsNorm::new(self.there(&weights[0])?, 1e-6),
            RmsNorm::new(self.there(&weights[1])?, 1e-6),
        ];
        let got =
            crate::cuda::rope::write([&q, &k, &v_there], [&norms[0], &norms[1]], &pass, heads, 1)?;
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

    fn vision(&mut self) -> Result<()> {
        if self.dtype != DType::BF16 {
            return Ok(());
        }
        for (grids, (rows, columns), width) in [(1, (28, 28), 72), (3, (16, 20), 64)] {
            let (heads, patches) = (16, rows * columns);
            let all = grids * patches;
            let qkv = self.random("qkv", &[all, 3 * heads * width])?;
            let positions = grid_positions(rows, columns, 2);
            let table = vision_table(&positions, width, &Device::Cpu)?;
            let split = wide(&qkv)?.reshape((all, 3 * heads, width))?;
            let each = (0..grids).map(|grid| {
                let of = |i: usize| {
                    let rows = split.narrow(0, grid * patches, patches)?;
                    rows.narrow(1, i * heads, heads)?.contiguous()
                };
                let (q, k) = (table.rotate(&of(0)?)?, table.rotate(&of(1)?)?);
                attend(&q, &[&(k, of(2)?)], patches, false)
            });
            let want = Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?;
            let there = self.there(&qkv)?.copy()?;
            let bytes = 3 * heads * width * self.dtype.size_in_bytes();
            let mut workspace = OnDevice::default();
            let pass = attention::grids(grids, patches, bytes, &there, &mut workspace)?;
            let table = vision_table(&positions, width, self.device)?;
            let got = attention::vision(&there, heads, &table, &pass)?;
            let got = got.ok_or_else(|| candle_core::Error::msg("no kernel for vision"))?;
            let name = format!("vision {grids} x {rows} x {columns}, width {width}");
            self.compare(&name, &got, &want, 1.0)?;
        }
        Ok(())
    }

    fn choice(&mut self) -> Result<()> {
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
            self.checks.push(Check {
                name: format!("top {k} {:?}", self.dtype),
                difference: differing as f64,
                limit: 0.0,
            });
        }
        Ok(())
    }

    fn patches(&mut self) -> Result<()> {
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
            rgb: super::clip(nth, size, nth).into(),
            size,
            seconds: 0.0,
        };
        let mut workspace = OnDevice::default();
        // More batches than there is room for at a time.
        for nth in 0..5 {
            let inputs = [
                VisionInput::Pair([frame(nth), frame(nth + 1)]),
                VisionInput::Pair([frame(nth + 2), frame(nth + 3)]),
            ];
            let want: Vec<f32> = inputs.iter().flat_map(|i| patchify(i, &cut)).collect();
            let frames = &mut workspace.frames;
            let got = frames.patches(&inputs, &cut, self.dtype, self.device)?;
            let want = Tensor::from_vec(want, got.shape(), &Device::Cpu)?.to_dtype(self.dtype)?;
            self.compare(&format!("patches of batch {nth}"), &got, &wide(&want)?, 0.0)?;
        }
        Ok(())
    }
}

fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    wide(tensor)?.flatten_all()?.to_vec1()
}

/// Decodes sequences of a small model twice, with recorded steps and kernel by kernel: the same scores to the
/// bit, for several numbers of sequences.
///
/// # Errors
///
/// If the checkpoint cannot be written or loaded, or the device fails.
pub fn recorded(
    device: DeviceChoice,
    dtype: DtypeChoice,
) -> std::result::Result<Vec<Check>, Error> {
    let folder = std::env::temp_dir().join(format!("qwen3-vl-recorded-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let loaded = parity::load(Checkpoint::DenseTied, &folder, |folder| LoadOptions {
        source: ModelSource::Folder(folder.into()),
        device,
        dtype,
        quantization: Quantization::None,
        kv_memory: None,
    });
    std::fs::remove_dir_all(&folder)?;
    let runner = loaded?;
    let mut checks = Vec::new();
    for sequences in [1, 2, 3, 5] {
        let (kernels, _) = decode(&runner, sequences, false)?;
        let (recorded, steps) = decode(&runner, sequences, true)?;
        let differing = std::iter::zip(&kernels, &recorded)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        let name = format!("{sequences} sequences, {dtype:?}");
        checks.push(Check {
            name: format!("recorded steps of {name}: scores that differ"),
            difference: differing as f64,
            limit: 0.0,
        });
        checks.push(Check {
            name: format!("recorded steps of {name}: not recorded"),
            difference: if steps == 1 { 0.0 } else { 1.0 },
            limit: 0.0,
        });
    }
    Ok(checks)
}

/// The scores of some steps, and how many kinds of step were recorded. Windows of different lengths, that
/// cross from one block of the cache into the next.
fn decode(runner: &Runner, sequences: u32, record: bool) -> Result<(Vec<f32>, usize)> {
    let model = &runner.parts.model;
    let mut workspace = Workspace::default();
    workspace.cuda.graphs.enabled = record;
    let chunk = |first: usize, count: u32| {
        let ids = first as u32..first as u32 + count;
        Chunk {
            positions: ids.clone().map(|id| [id; 3]).collect(),
            ids: ids.map(|id| id * 37 % 5000).collect(),
            vision: Vec::new(),
        }
    };
    let mut caches: Vec<KvCache> = (0..sequences).map(|_| KvCache::new(&model.kv)).collect();
    let mut all = Vec::new();
    for step in 0..8 {
        let lengths = (0..sequences).map(|i| if step == 0 { 123 + 60 * i } else { 1 });
        let chunks = caches.iter().zip(lengths);
        let chunks: Vec<Chunk> = chunks.map(|(kv, n)| chunk(kv.len(), n)).collect();
        let mut parts: Vec<Part<'_>> = std::iter::zip(&chunks, &mut caches)
            .map(|(chunk, kv)| Part {
                chunk,
                kv,
                outputs: 1,
            })
            .collect();
        let scores = model.text.scores(&mut parts, &mut workspace)?;
        for scores in scores.iter() {
            all.extend(floats(scores)?);
        }
    }
    Ok((all, workspace.cuda.graphs.recorded()))
}
