//! The time of each kernel of a pass on a GPU.
//!
//! ```text
//! engine profile FOLDER --device cuda:N [--dtype auto|bf16|f32] [--tokens 2048] [--no-graph]
//! ```
//!
//! Prints a table for a prefill pass of `--tokens` tokens and for a decode step after them: each
//! kernel, and each matrix product between two kernels, with its time by CUDA events, and its least
//! bytes and operations by that time. Then the recorded decode step against the same kernel by
//! kernel; `--no-graph` leaves that out.

use std::path::PathBuf;

use anyhow::{Context, bail};
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;

struct Options {
    load: LoadOptions,
    tokens: usize,
    graphs: bool,
}

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
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
        tokens: 2048,
        graphs: true,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => options.load.device = args.value()?.parse()?,
            Long("dtype") => options.load.dtype = args.value()?.parse()?,
            Long("tokens") => options.tokens = args.value()?.parse()?,
            Long("no-graph") => options.graphs = false,
            other => return Err(other.unexpected().into()),
        }
    }
    if options.load.device == DeviceChoice::Cpu || options.tokens < 2 {
        bail!("--device cuda, and at least 2 tokens");
    }
    on_device(&options)
}

#[cfg(feature = "cuda")]
fn on_device(options: &Options) -> anyhow::Result<()> {
    use std::sync::atomic::AtomicBool;

    use qwen3_vl_testing::kernels::profile;

    let say = &mut |progress: qwen3_vl_core::load::Progress| println!("{}", progress.what);
    let (name, runner) = qwen3_vl::load::load_runner(&options.load, say, &AtomicBool::new(false))?;
    let [prefill, decode] = profile(&runner, options.tokens, options.graphs)?;
    println!("{name}: a prefill pass of {} tokens", options.tokens);
    print(&prefill);
    println!("{name}: a decode step behind them");
    print(&decode);
    match &decode.recorded {
        Ok(seconds) => println!(
            "{:44}{:>17.1} us",
            "recorded, without events",
            seconds * 1e6
        ),
        Err(why) => println!("not recorded: {why}"),
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn print(table: &qwen3_vl_testing::kernels::Table) {
    println!(
        "{:44}{:>6}{:>11}{:>8}{:>10}{:>10}",
        "", "calls", "us", "share", "GB/s", "TFLOP/s"
    );
    let sum: f64 = table.rows.iter().map(|row| row.seconds).sum();
    for row in &table.rows {
        let rate = |of: f64, unit: f64| match of > 0.0 && row.seconds > 0.0 {
            true => format!("{:.1}", of / row.seconds / unit),
            false => "-".into(),
        };
        println!(
            "{:44}{:6}{:11.1}{:7.1}%{:>10}{:>10}",
            row.name,
            row.calls,
            row.seconds * 1e6,
            100.0 * row.seconds / sum,
            rate(row.bytes, 1e9),
            rate(row.operations, 1e12),
        );
    }
    for (name, seconds) in [
        ("the sum", sum),
        ("the pass with events", table.whole),
        ("kernel by kernel, without events", table.kernels),
    ] {
        println!("{name:44}{:17.1} us", seconds * 1e6);
    }
}

#[cfg(not(feature = "cuda"))]
fn on_device(options: &Options) -> anyhow::Result<()> {
    let Options {
        load,
        tokens,
        graphs,
    } = options;
    bail!("no kernels without the feature cuda ({load:?}, {tokens}, {graphs})")
}
