//! Recorded decode steps.

use std::path::Path;

use candle_core::Result;

use super::{Options, floats, load_options};
use crate::parity::{self, Error};
use crate::{Check, Checkpoint, Format};
use qwen3_vl::cuda::sync;
use qwen3_vl::device::DtypeChoice;
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::model::{Chunk, SequenceSlice, SequenceState, Workspace};

/// Allowed difference of a logit, relative to the largest: a library may choose other algorithms
/// while it is recorded.
const OFF: f64 = 0.02;

/// Decodes sequences of a small model with recorded steps and kernel by kernel, for several numbers
/// of sequences. The logits must be equal.
///
/// # Errors
///
/// If the checkpoint cannot be written or loaded, or the device fails.
pub fn check(
    options: Options,
    dtype: DtypeChoice,
    say: &mut dyn FnMut(Check),
) -> std::result::Result<(), Error> {
    let load = load_options(options.device, dtype);
    let runner = in_folder(|folder| parity::load(Checkpoint::DenseTied, folder, load))?;
    compare(&runner, "", (&[1, 2, 3, 5], [123, 60]), options, dtype, say)
}

/// Checkpoints in other formats, dense and with experts.
const STORED: [&str; 7] = [
    "fp8-block",
    "fp8-moe-fused",
    "awq-moe",
    "gptq-desc-act",
    "ct-8bit",
    "gguf",
    "gguf-moe",
];

/// Likewise of checkpoints with experts and in other formats.
///
/// # Errors
///
/// See [`check`].
pub fn check_stored(
    options: Options,
    dtype: DtypeChoice,
    say: &mut dyn FnMut(Check),
) -> std::result::Result<(), Error> {
    let load = load_options(options.device, dtype);
    let runner = in_folder(|folder| parity::load(Checkpoint::Moe, folder, load))?;
    // More rows than are multiplied by vectors, too; short prompts, which an emulator multiplies.
    let few = (&[1, 9][..], [3, 1]);
    compare(&runner, "moe: ", few, options, dtype, say)?;
    for name in STORED {
        let Some(format) = Format::find(name) else {
            return Err(format!("no format {name}").into());
        };
        let load = load_options(options.device, dtype);
        let runner = in_folder(|folder| parity::load_format(format, folder, load))?;
        compare(&runner, &format!("{name}: "), few, options, dtype, say)?;
    }
    Ok(())
}

/// Loads from a new folder, which is removed again.
fn in_folder(
    load: impl FnOnce(&Path) -> std::result::Result<Runner, Error>,
) -> std::result::Result<Runner, Error> {
    let folder = std::env::temp_dir().join(format!("qwen3-vl-recorded-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let loaded = load(&folder);
    std::fs::remove_dir_all(&folder)?;
    loaded
}

/// Compares steps of these numbers of sequences, of which the first has as many tokens before, and
/// each next one more.
fn compare(
    runner: &Runner,
    model: &str,
    (all, lengths): (&[u32], [u32; 2]),
    options: Options,
    dtype: DtypeChoice,
    say: &mut dyn FnMut(Check),
) -> std::result::Result<(), Error> {
    for sequences in all.iter().copied() {
        let (kernels, _) = decode(runner, sequences, lengths, false)?;
        let (recorded, refused) = decode(runner, sequences, lengths, true)?;
        let name = format!("{model}recorded steps of {sequences} sequences, {dtype:?}");
        let largest = kernels.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
        let limit = if options.exact {
            0.0
        } else {
            OFF * f64::from(largest)
        };
        say(Check::close(
            format!("{name}: scores"),
            &recorded,
            &kernels,
            limit,
        ));
        let differing = std::iter::zip(&kernels, &recorded)
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        let limit = if options.exact { 0.0 } else { f64::INFINITY };
        say(Check::count(
            format!("{name}: scores with other bits"),
            differing,
            limit,
        ));
        if !sync::is_on() {
            let why = refused.as_deref().unwrap_or_default();
            let name = format!("{name}: not recorded {why}");
            say(Check::count(
                name.trim_end().into(),
                refused.iter().count(),
                0.0,
            ));
        }
    }
    Ok(())
}

/// The logits of some steps, and why they were not recorded, if so. The windows have different
/// lengths; long ones cross from one block of the cache into the next.
fn decode(
    runner: &Runner,
    sequences: u32,
    [first, more]: [u32; 2],
    record: bool,
) -> Result<(Vec<f32>, Option<String>)> {
    let model = &runner.parts.model;
    let mut workspace = Workspace::default();
    let kept: &mut qwen3_vl::cuda::workspace::Workspace = workspace.of_device()?;
    kept.graphs.enabled = record;
    let chunk = |start: usize, count: u32| {
        let ids = start as u32..start as u32 + count;
        Chunk {
            positions: ids.clone().map(|id| [id; 3]).collect(),
            ids: ids.map(|id| id * 37 % 5000).collect(),
            vision: Vec::new(),
        }
    };
    let mut caches: Vec<SequenceState> = (0..sequences).map(|_| model.new_state()).collect();
    let mut all = Vec::new();
    for step in 0..8 {
        let lengths = (0..sequences).map(|i| if step == 0 { first + more * i } else { 1 });
        let chunks = caches.iter().zip(lengths);
        let chunks: Vec<Chunk> = chunks.map(|(state, n)| chunk(state.len(), n)).collect();
        let mut parts: Vec<SequenceSlice<'_>> = std::iter::zip(&chunks, &mut caches)
            .map(|(chunk, state)| SequenceSlice {
                chunk,
                state,
                outputs: 1,
            })
            .collect();
        let scores = model.text.forward(&mut parts, &mut workspace)?;
        for scores in scores.iter() {
            all.extend(floats(scores)?);
        }
    }
    let kept: &mut qwen3_vl::cuda::workspace::Workspace = workspace.of_device()?;
    let graphs = &kept.graphs;
    let refused = match graphs.recorded() {
        1 => None,
        _ => Some(
            graphs
                .refused()
                .map(|(_, why)| why)
                .collect::<Vec<_>>()
                .join("; "),
        ),
    };
    Ok((all, refused))
}
