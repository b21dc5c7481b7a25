//! Times the engine on a checkpoint. Prints one JSON object for each part.
//!
//! ```text
//! engine write-random 2b|4b|8b|30b-a3b|30b-a3b-dense FOLDER [--layers N] [--format NAME]
//!     random weights of a real model's dimensions, 4, 9, 18 or 62 GB, with N layers; the last one is
//!     a dense model that reads as much for a token as 30b-a3b; needs Qwen's tokenizer
//!     (QWEN_TOKENIZER). With a format (awq, gptq, ct, fp8-block, fp8-moe-fused, gguf or another of
//!     the test checkpoints) the language model's layers are stored in that
//! engine bench FOLDER [options]
//!     --part window|first-token|batch|streams|density    all but the last if none is named
//!     --device cpu|cuda:N  --dtype auto|bf16|f16|f32  --quantization none|q8-0|q4-k
//!     --compute exact|fast
//!     --size 320x256  --pairs 4  --tokens 32  --windows 2
//!     --frames 4,8,16,32,64  --batches 1,2,4,8,16  --chunk 512  --seconds 10  --fps 8
//!     --cameras 1,2,4,8
//! ```
//!
//! - `window`: vision, prefill and decode of one window after the other, for each number of
//!   `--frames` (`--pairs` by default). The first one also pays for memory that is touched for the
//!   first time. `tools/reference/bench_hf.py` times transformers on the same input.
//! - `first-token`: time from the last frame to the first token, for windows of each number of
//!   `--frames`, with frames that come pair by pair and with all at once.
//! - `batch`: tokens a second, for each number of windows (`--batches`) that decode together.
//! - `streams`: windows a second of 1 to 16 cameras, through the engine's thread and scheduler.
//! - `density`: how soon live cameras get their answers, for each number of `--cameras` up to the
//!   first that is too large; `--windows` chunks of `--seconds` each.
//!
//! `--chunk` is the number of tokens of a window in one pass, for the first three; the engine takes
//! 512 on a CPU, and up to 2048 on a GPU.

mod batch;
mod density;
mod first_token;
mod streams;
mod window;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::engine::sequence::Sequence;
use qwen3_vl::load::{LoadOptions, ModelSource, load_runner};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::frames::{Frame, Size, VisionInput};
use qwen3_vl_core::request::{Request, SamplingParams};

use serde_json::{Value, json};

struct Options {
    load: LoadOptions,
    parts: Vec<String>,
    pairs: u32,
    size: Size,
    tokens: u32,
    windows: u32,
    seconds: f64,
    fps: f64,
    cameras: Vec<u32>,
    frames: Option<Vec<u32>>,
    batches: Vec<u32>,
    chunk: usize,
}

pub fn write_random(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let size = args.value().context("a size, such as 2b")?.parse()?;
    let folder = PathBuf::from(args.value().context("a folder")?);
    let (mut layers, mut format) = (None, None);
    while let Some(arg) = args.next()? {
        match arg {
            Long("layers") => layers = Some(args.value()?.parse()?),
            Long("format") => format = Some(args.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    match format {
        None => qwen3_vl_testing::write_real(&folder, size, layers)?,
        Some(format) => {
            qwen3_vl_testing::write_real_format(&folder, size, layers, &format)?;
            if format.starts_with("gguf") {
                return Ok(());
            }
        }
    }
    Ok(qwen3_vl_testing::write_tokenizer(&folder)?)
}

fn options(mut args: lexopt::Parser) -> anyhow::Result<Options> {
    let folder = PathBuf::from(args.value().context("a checkpoint's folder")?);
    let mut options = Options {
        load: LoadOptions {
            source: ModelSource::Folder(folder),
            mmproj: None,
            device: DeviceChoice::Cpu,
            dtype: DtypeChoice::Auto,
            quantization: QuantizeAtLoad::None,
            compute: None,
            kv_memory: None,
        },
        parts: Vec::new(),
        pairs: 4,
        size: Size {
            width: 320,
            height: 256,
        },
        tokens: 32,
        windows: 2,
        seconds: 10.0,
        fps: 8.0,
        cameras: vec![1, 2, 4, 8],
        frames: None,
        batches: vec![1, 2, 4, 8, 16],
        chunk: 512,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("part") => options.parts.push(args.value()?.string()?),
            Long("device") => options.load.device = args.value()?.parse()?,
            Long("dtype") => options.load.dtype = args.value()?.parse()?,
            Long("quantization") => options.load.quantization = args.value()?.parse()?,
            Long("compute") => options.load.compute = Some(args.value()?.parse()?),
            Long("pairs") => options.pairs = args.value()?.parse()?,
            Long("tokens") => options.tokens = args.value()?.parse()?,
            Long("windows") => options.windows = args.value()?.parse()?,
            Long("seconds") => options.seconds = args.value()?.parse()?,
            Long("fps") => options.fps = args.value()?.parse()?,
            Long("cameras") => options.cameras = numbers(&args.value()?.string()?)?,
            Long("frames") => options.frames = Some(numbers(&args.value()?.string()?)?),
            Long("chunk") => options.chunk = args.value()?.parse()?,
            Long("batches") => options.batches = numbers(&args.value()?.string()?)?,
            Long("size") => options.size = crate::size(&args.value()?.string()?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    if options.parts.is_empty() {
        options.parts = ["window", "first-token", "batch", "streams"]
            .map(Into::into)
            .into();
    }
    Ok(options)
}

/// `1,2,4`
fn numbers(text: &str) -> Result<Vec<u32>, std::num::ParseIntError> {
    text.split(',').map(str::parse).collect()
}

pub fn run(args: lexopt::Parser) -> anyhow::Result<()> {
    let options = options(args)?;
    let start = Instant::now();
    let (name, mut runner) = load_runner(&options.load, &mut |_| {}, &AtomicBool::new(false))?;
    let loading = start.elapsed();
    runner.parts.stop.clear();
    println!(
        "{}",
        json!({ "model": name, "load_s": seconds(loading), "peak_rss_gib": peak_rss_gib() })
    );
    for part in &options.parts {
        let mut figures = match part.as_str() {
            "window" => window::run(&mut runner, &options)?,
            "first-token" => first_token::run(&mut runner, &options)?,
            "batch" => batch::run(&mut runner, &options)?,
            // The engine takes the runner, so this is the last one.
            "streams" => {
                drop(runner);
                println!("{}", streams::run(&options)?);
                return Ok(());
            }
            "density" => {
                drop(runner);
                println!("{}", density::run(&options)?);
                return Ok(());
            }
            other => bail!("unknown part {other}"),
        };
        figures["peak_rss_gib"] = peak_rss_gib().into();
        println!("{figures}");
    }
    Ok(())
}

/// Pairs `first..first + count` of a clip, two frames a second.
pub fn pairs(size: Size, clip: u32, first: u32, count: u32) -> impl Iterator<Item = VisionInput> {
    let frame = move |t: u32| Frame {
        rgb: qwen3_vl_core::clip::clip(t, size, clip).into(),
        size,
        seconds: f64::from(t) * 0.5,
    };
    (first..first + count)
        .map(move |pair| VisionInput::Pair([frame(2 * pair), frame(2 * pair + 1)]))
}

fn sequence(runner: &Runner, id: u64) -> Sequence {
    qwen3_vl_testing::sequence::window(runner, id, &WindowHead::default())
}

/// Asks the window for `tokens` tokens, and closes it.
fn ask(sequence: &mut Sequence, tokens: u32, order: u64, at: Instant) {
    qwen3_vl_testing::sequence::ask(sequence, request(tokens), order, at);
}

fn request(tokens: u32) -> Request {
    Request {
        prompt: "Describe the video.".into(),
        max_tokens: tokens,
        reasoning_tokens: 0,
        sampling: SamplingParams::default(),
        seed: 0,
        emit_tokens: false,
        repetition_guard: 0,
    }
}

/// Encodes and prefills the inputs of the sequence, `chunk` tokens a pass; if it is closed, up to
/// its first token.
fn prefill(runner: &mut Runner, sequence: &mut Sequence, chunk: usize) -> anyhow::Result<()> {
    runner.supply(sequence);
    while sequence.inputs().next().is_some() {
        runner.encode_next(&mut [sequence])?;
        while let Some(batch) = runner.poll_encoded(true) {
            batch.failed.map_or(Ok(()), Err)?;
            runner.supply(sequence);
            sequence.vision += batch.time;
        }
    }
    runner.advance(sequence)?;
    while sequence.status().pending > 0 && !sequence.status().decoding {
        runner.forward(vec![(sequence, chunk)])?;
    }
    Ok(())
}

fn seconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e4).round() / 1e4
}

/// Peak memory of this process in GiB, from /proc; `None` elsewhere.
fn peak_rss_gib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some((kib / 1024.0 / 1024.0 * 100.0).round() / 100.0)
}
