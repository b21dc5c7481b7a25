//! The engine from the command line, without GStreamer: for checks and measurements.
//!
//! ```text
//! engine parity       …  every stage against the reference's values
//! engine kernels      …  a device's kernels against the CPU's
//! engine logits       …  the logits behind a window against another implementation's
//! engine profile      …  the time of each kernel of a pass on a GPU
//! engine bench        …  vision, prefill and decode of one window, timed
//! engine load         …  the time and memory of a load
//! engine write-random …  a checkpoint of a real model's dimensions to time
//! engine describe     …  an answer about raw frames, to compare with another implementation's
//! ```
//!
//! Each file of this folder has its command's options. One program, because with the CUDA feature
//! every program carries 50 MB of kernels.
#![allow(clippy::print_stdout)]

mod bench;
mod checks;
mod describe;
mod kernels;
mod load;
mod logits;
mod parity;
mod profile;

use std::io::Write;

use anyhow::{Context, bail};
use lexopt::ValueExt;
use qwen3_vl_core::frames::Size;

const HELP: &str = "\
engine parity       …  every stage against the reference's values
engine kernels      …  a device's kernels against the CPU's
engine logits       …  the logits behind a window against another implementation's
engine profile      …  the time of each kernel of a pass on a GPU
engine bench        …  vision, prefill and decode of one window, timed
engine load         …  the time and memory of a load
engine write-random …  a checkpoint of a real model's dimensions to time
engine describe     …  an answer about raw frames

Options stand at the head of each command's file in crates/qwen3-vl-testing/examples/engine.";

fn main() -> anyhow::Result<()> {
    let mut args = lexopt::Parser::from_env();
    let command = args
        .value()
        .context(
            "a command: parity, kernels, logits, profile, bench, load, write-random or describe",
        )?
        .string()?;
    match command.as_str() {
        "parity" => parity::run(args),
        "kernels" => kernels::run(args),
        "logits" => logits::run(args),
        "profile" => profile::run(args),
        "bench" => bench::run(args),
        "load" => load::run(args),
        "write-random" => bench::write_random(args),
        "describe" => describe::run(args),
        "--help" | "-h" => {
            // `println!` would panic if the reader has gone, as in `engine --help | head`.
            let _ = writeln!(std::io::stdout(), "{HELP}");
            Ok(())
        }
        other => bail!("unknown command {other}"),
    }
}

/// `320x256`.
fn size(text: &str) -> anyhow::Result<Size> {
    let (width, height) = text.split_once('x').context("a size such as 320x256")?;
    Ok(Size {
        width: width.parse()?,
        height: height.parse()?,
    })
}
