//! Asks a checkpoint about raw frames, for comparing it with another implementation on the very
//! same pixels; `tools/reference/compare_hf.py` does that with transformers.
//!
//! ```text
//! engine describe FOLDER FRAMES.rgb --size 320x256 --seconds 0,0.5,1,1.5 [--prompt TEXT]
//!     [--tokens 64] [--layout canonical|nested] [--images] [--device cpu|cuda:N] [--dtype auto|…]
//!     [--quantization none|q8-0|q4-k] [--compute exact|fast]
//! ```
//!
//! FRAMES.rgb has the frames one after the other, 3 bytes a pixel, at the model's input size
//! (multiples of 32). Greedy. Prints one JSON object with text and token ids.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use anyhow::{Context, bail, ensure};
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource, load};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::frames::{Frame, Size, VisionInput};
use qwen3_vl_core::prompt::PromptLayout;
use qwen3_vl_core::request::{Request, SamplingParams};

struct Options {
    load: LoadOptions,
    frames: PathBuf,
    size: Size,
    seconds: Vec<f64>,
    images: bool,
    layout: PromptLayout,
    prompt: String,
    tokens: u32,
}

pub fn run(args: lexopt::Parser) -> anyhow::Result<()> {
    let options = options(args)?;
    let frames = frames(&options)?;
    let backend = load(&options.load, &mut |_| {}, &AtomicBool::new(false))?;
    let (events, answers) = mpsc::channel();
    let head = WindowHead {
        layout: options.layout,
        system_prompt: None,
        ..WindowHead::default()
    };
    let sink = EventSink::new(move |event| {
        // The receiver is gone after the answer.
        let _ = events.send(event);
    });
    let mut window = backend.open(head, Box::new(|_| ()));
    if options.images {
        for frame in frames {
            window.push(VisionInput::Image(frame));
        }
    } else {
        for pair in frames.chunks(2) {
            let last = pair.len() - 1;
            window.push(VisionInput::Pair([pair[0].clone(), pair[last].clone()]));
        }
    }
    let request = Request {
        prompt: options.prompt,
        max_tokens: options.tokens,
        // No thought is ended before all tokens are there.
        reasoning_tokens: if backend.model().thinks {
            options.tokens
        } else {
            0
        },
        sampling: SamplingParams::default(),
        seed: 0,
        emit_tokens: false,
        repetition_guard: 0,
    };
    window.ask(request, sink);
    drop(window);
    match answers.recv()? {
        Event::Answer(mut answer) => {
            answer.tokens.truncate(options.tokens as usize);
            println!(
                "{}",
                serde_json::json!({
                    "text": answer.text,
                    "reasoning": answer.reasoning,
                    "tokens": answer.tokens,
                    "finish_reason": answer.finish_reason.as_str(),
                    "prompt_tokens": answer.prompt_tokens,
                    "grid": answer.grid,
                })
            );
            Ok(())
        }
        other => bail!("no answer: {other:?}"),
    }
}

fn options(mut args: lexopt::Parser) -> anyhow::Result<Options> {
    let folder = PathBuf::from(args.value().context("a checkpoint's folder")?);
    let frames = PathBuf::from(args.value().context("a file of raw frames")?);
    let mut options = Options {
        load: LoadOptions {
            source: ModelSource::Folder(folder),
            mmproj: None,
            device: DeviceChoice::Auto,
            dtype: DtypeChoice::Auto,
            quantization: QuantizeAtLoad::None,
            compute: None,
            kv_memory: None,
        },
        frames,
        size: Size {
            width: 0,
            height: 0,
        },
        seconds: Vec::new(),
        images: false,
        layout: PromptLayout::Canonical,
        prompt: "Describe this video.".into(),
        tokens: 64,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("size") => options.size = crate::size(&args.value()?.string()?)?,
            Long("seconds") => {
                let text = args.value()?.string()?;
                options.seconds = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            Long("layout") => {
                options.layout = match args.value()?.string()?.as_str() {
                    "canonical" => PromptLayout::Canonical,
                    "nested" => PromptLayout::Nested,
                    other => bail!("unknown layout {other}"),
                };
            }
            Long("prompt") => options.prompt = args.value()?.string()?,
            Long("tokens") => options.tokens = args.value()?.parse()?,
            Long("images") => options.images = true,
            Long("device") => options.load.device = args.value()?.parse()?,
            Long("dtype") => options.load.dtype = args.value()?.parse()?,
            Long("quantization") => options.load.quantization = args.value()?.parse()?,
            Long("compute") => options.load.compute = Some(args.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn frames(options: &Options) -> anyhow::Result<Vec<Frame>> {
    let bytes =
        std::fs::read(&options.frames).with_context(|| options.frames.display().to_string())?;
    let Size { width, height } = options.size;
    let frame = width as usize * height as usize * 3;
    ensure!(frame > 0, "--size is missing");
    ensure!(
        bytes.len() == frame * options.seconds.len() && !bytes.is_empty(),
        "{} bytes are not {} frames (--seconds) of {width}x{height}",
        bytes.len(),
        options.seconds.len()
    );
    let frames = bytes.chunks_exact(frame).zip(&options.seconds);
    Ok(frames
        .map(|(rgb, &seconds)| Frame {
            rgb: rgb.into(),
            size: options.size,
            seconds,
        })
        .collect())
}
