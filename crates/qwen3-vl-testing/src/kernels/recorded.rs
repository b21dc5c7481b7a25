//! Recorded decode steps.

use candle_core::Result;

use super::floats;
use crate::Checkpoint;
use crate::parity::{self, Check, Error};
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::model::Quantization;
use qwen3_vl::model::{Chunk, KvCache, Part, Workspace};

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
