//! Compares the logits after a window with another implementation's:
//!
//! ```text
//! engine logits FOLDER LOGITS [--frames 8] [--size 320x256] [--device cpu|cuda:N] [--dtype auto|…]
//!     [--compute exact|fast] [--tolerance 1e-3]
//! ```
//!
//! LOGITS has the logits of `tools/reference/logits_hf.py` for the same frames, as f32 in this
//! machine's byte order. Fails if the norm of all differences, relative to that of the logits, is
//! larger than the tolerance. Rounding to bf16 after each operation gives about 1e-2.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow, ensure};
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource, load_runner};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::frames::Size;
use qwen3_vl_testing::Check;
use qwen3_vl_testing::logits::last_logits;

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let folder = PathBuf::from(args.value().context("a checkpoint's folder")?);
    let file = PathBuf::from(args.value().context("a file of logits")?);
    let mut load = LoadOptions {
        source: ModelSource::Folder(folder),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: None,
        kv_memory: None,
    };
    let (mut frames, mut tolerance) = (8, 1e-3);
    let mut size = Size {
        width: 320,
        height: 256,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("frames") => frames = args.value()?.parse()?,
            Long("size") => size = crate::size(&args.value()?.string()?)?,
            Long("device") => load.device = args.value()?.parse()?,
            Long("dtype") => load.dtype = args.value()?.parse()?,
            Long("compute") => load.compute = Some(args.value()?.parse()?),
            Long("tolerance") => tolerance = args.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let (values, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "{} bytes are no f32", bytes.len());
    let want: Vec<f32> = values
        .iter()
        .map(|value| f32::from_ne_bytes(*value))
        .collect();
    let (_, mut runner) = load_runner(&load, &mut |_| {}, &AtomicBool::new(false))?;
    let inputs: Vec<_> = crate::bench::pairs(size, 0, 0, frames / 2).collect();
    let (got, tokens) =
        last_logits(&mut runner, &inputs, "Describe the video.").map_err(|e| anyhow!(e))?;
    let check = Check::close("logits".into(), &got, &want, f64::INFINITY);
    let worst = check
        .worst
        .with_context(|| format!("{} logits, not {}", got.len(), want.len()))?;
    let first = |of: &[f32]| (0..of.len()).max_by(|a, b| of[*a].total_cmp(&of[*b]));
    println!(
        "logits behind {tokens} tokens: relative norm {:.2e}; worst at {}: {}, not {}; \
         largest at {:?}, not {:?}",
        worst.relative_norm,
        worst.index,
        worst.got,
        worst.want,
        first(&got),
        first(&want)
    );
    ensure!(
        worst.relative_norm <= tolerance,
        "the logits differ by {:.2e}, which is more than {tolerance:.2e}",
        worst.relative_norm
    );
    Ok(())
}
