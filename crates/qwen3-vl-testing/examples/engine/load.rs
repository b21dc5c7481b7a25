//! The time and memory of a load.
//!
//! ```text
//! engine load FOLDER|FILE.gguf [--kv-memory 8G|50%] [--device cpu|cuda:N] [--dtype auto|…]
//!     [--quantization none|q8-0|q4-k|fp8] [--compute exact|fast]
//! ```
//!
//! Loads the model until its engine is ready, and prints one JSON object: seconds, the most memory
//! that this process had (VmHWM of /proc, with mapped pages and the program itself), the bytes of
//! all files in the folder, and how many times these the memory is. The KV cache is as small as can
//! be if `--kv-memory` does not say otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource, load};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::KvMemory;
use serde_json::json;

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let path = PathBuf::from(args.value().context("a checkpoint's folder or GGUF file")?);
    let mut options = LoadOptions {
        source: ModelSource::Folder(path.clone()),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: None,
        kv_memory: Some(KvMemory::Bytes(0)),
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("kv-memory") => options.kv_memory = Some(args.value()?.parse()?),
            Long("device") => options.device = args.value()?.parse()?,
            Long("dtype") => options.dtype = args.value()?.parse()?,
            Long("compute") => options.compute = Some(args.value()?.parse()?),
            Long("quantization") => options.quantization = args.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let disk = bytes(&path)?;
    let start = Instant::now();
    let backend = load(&options, &mut |_| {}, &AtomicBool::new(false))?;
    let ready = start.elapsed().as_secs_f64();
    let peak = peak_bytes();
    let info = backend.model();
    println!(
        "{}",
        json!({
            "model": info.name,
            "quantization": info.quantization,
            "ready_s": (ready * 100.0).round() / 100.0,
            "peak_bytes": peak,
            "disk_bytes": disk,
            "peak_of_disk": peak.map(|peak| (peak as f64 / disk as f64 * 1000.0).round() / 1000.0),
        })
    );
    Ok(())
}

/// Bytes of all files in a folder, or in that of a file.
fn bytes(path: &Path) -> anyhow::Result<u64> {
    let path = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    let folder = match path.is_dir() {
        true => &path,
        false => path.parent().context("a folder")?,
    };
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        // Of a link, as in the hub's cache, that of the file.
        let metadata = fs::metadata(entry?.path())?;
        if metadata.is_file() {
            sum += metadata.len();
        }
    }
    Ok(sum)
}

/// The most memory that this process had, from /proc; none elsewhere.
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
