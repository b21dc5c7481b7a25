//! Times vision, prefill and decode of one window on a checkpoint, in the engine's own steps.
//!
//! ```text
//! engine write-2b FOLDER         random weights, 4 GB; needs Qwen's tokenizer (QWEN_TOKENIZER)
//! engine bench FOLDER [options]  8 frames of 320x256, 32 tokens
//!     --device cpu|cuda:N  --dtype auto|bf16|f16|f32  --quantization none|q8-0|q4-k
//!     --pairs 4  --size 320x256  --tokens 32  --windows 2
//! ```
//!
//! The windows are the same and answered one after the other: the first one also pays for memory
//! that is touched for the first time. Prints one JSON object. `tools/reference/bench_hf.py` times transformers on the same input.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use lexopt::prelude::*;
use qwen3_vl::backend::{Generation, Question, WindowHead};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::engine::sequence::Sequence;
use qwen3_vl::engine::sink::Sink;
use qwen3_vl::frames::{Frame, Size, VisionInput};
use qwen3_vl::load::{
    DeviceChoice, DtypeChoice, LoadOptions, ModelSource, Quantization, load_runner,
};
use qwen3_vl::model::KvCache;
use qwen3_vl::testing;
use serde_json::{Value, json};

/// Tokens in a pass, as in the engine.
const PREFILL: usize = 512;

struct Options {
    folder: PathBuf,
    device: DeviceChoice,
    dtype: DtypeChoice,
    quantization: Quantization,
    pairs: u32,
    size: Size,
    tokens: u32,
    windows: u32,
}

pub fn write_2b(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let folder = PathBuf::from(args.value().context("a folder")?);
    testing::write_2b(&folder)?;
    Ok(testing::write_tokenizer(&folder)?)
}

fn options(mut args: lexopt::Parser) -> anyhow::Result<Options> {
    let folder = PathBuf::from(args.value().context("a checkpoint's folder")?);
    let mut options = Options {
        folder,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: Quantization::None,
        pairs: 4,
        size: Size {
            width: 320,
            height: 256,
        },
        tokens: 32,
        windows: 2,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => options.device = args.value()?.parse()?,
            Long("dtype") => options.dtype = args.value()?.parse()?,
            Long("quantization") => options.quantization = args.value()?.parse()?,
            Long("pairs") => options.pairs = args.value()?.parse()?,
            Long("tokens") => options.tokens = args.value()?.parse()?,
            Long("windows") => options.windows = args.value()?.parse()?,
            Long("size") => options.size = crate::size(&args.value()?.string()?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

pub fn run(args: lexopt::Parser) -> anyhow::Result<()> {
    let options = options(args)?;
    let source = ModelSource::Folder(options.folder.clone());
    let load = LoadOptions {
        source,
        device: options.device,
        dtype: options.dtype,
        quantization: options.quantization,
        kv_memory: None,
    };
    let start = Instant::now();
    let (_, mut runner) = load_runner(&load, &mut |_| {}, &AtomicBool::new(false))?;
    let loading = start.elapsed();
    runner.parts.stop.clear();

    let windows = (0..options.windows)
        .map(|_| window(&mut runner, &options))
        .collect::<anyhow::Result<Vec<_>>>()?;
    println!(
        "{}",
        json!({ "load_s": seconds(loading), "windows": windows, "peak_rss_gib": peak_rss_gib() })
    );
    Ok(())
}

fn window(runner: &mut Runner, options: &Options) -> anyhow::Result<Value> {
    let frame = |t: u32| Frame {
        rgb: testing::clip(t, options.size, 0).into(),
        size: options.size,
        seconds: f64::from(t) * 0.5,
    };
    let kv = KvCache::new(&runner.parts.model.kv);
    let sink = Sink::new(Box::new(|_| {}));
    let mut sequence = Sequence::new(0, &WindowHead::default(), sink, kv);
    for pair in 0..options.pairs {
        let pair = VisionInput::Pair([frame(2 * pair), frame(2 * pair + 1)]);
        sequence.push(pair, 0, Instant::now());
    }
    let question = Question {
        prompt: "Describe the video.".into(),
        max_tokens: options.tokens + 1,
        generation: Generation::default(),
        seed: 0,
        emit_tokens: false,
    };
    sequence.close(question, 0, Instant::now());

    let start = Instant::now();
    while sequence.inputs().next().is_some() {
        runner.encode_next(&mut [&mut sequence])?;
    }
    runner.advance(&mut sequence)?;
    while !sequence.state().decoding {
        runner.forward(vec![(&mut sequence, PREFILL)])?;
    }
    let answer_begins = start.elapsed();
    let prompt_tokens = sequence.kv.len();
    let start = Instant::now();
    let mut decoded = 0;
    while !sequence.ended() {
        runner.forward(vec![(&mut sequence, 1)])?;
        decoded += 1;
    }
    let decode = start.elapsed();
    Ok(json!({
        "prompt_tokens": prompt_tokens,
        "vision_s": seconds(sequence.vision),
        "prefill_s": seconds(sequence.prefill),
        "vision_and_prefill_s": seconds(answer_begins),
        "decode_tokens_per_s": f64::from(decoded) / decode.as_secs_f64(),
    }))
}

fn seconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e3).round() / 1e3
}

/// Most memory that this process has held, from /proc; none elsewhere.
fn peak_rss_gib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some((kib / 1024.0 / 1024.0 * 100.0).round() / 100.0)
}
