//! With the feature `cuda`: compiles `kernels/kernels.cu` to PTX, which a driver compiles for its
//! device, and to machine code for compute capability 9.0, which needs no compilation.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let home = std::env::var_os("CUDA_HOME").map(PathBuf::from);
    let nvcc = home.map(|home| home.join("bin/nvcc"));
    let nvcc = nvcc
        .filter(|nvcc| nvcc.exists())
        .unwrap_or_else(|| "nvcc".into());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    // candle's kernels need at least compute capability 8.0.
    compile(
        &nvcc,
        &["-ptx", "-arch=compute_80"],
        &out.join("kernels.ptx"),
    );
    // With line numbers, for profilers and compute-sanitizer.
    let cubin = ["-cubin", "-arch=sm_90", "-lineinfo"];
    compile(&nvcc, &cubin, &out.join("kernels.cubin"));
    if let Err(e) = write_names(&out) {
        fail(&format!("{}: {e}", out.display()));
    }
}

fn compile(nvcc: &Path, options: &[&str], out: &Path) {
    let done = Command::new(nvcc)
        .args(options)
        .args(["-O3", "-std=c++17", "kernels/kernels.cu", "-o"])
        .arg(out)
        .status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{} failed: {status}", nvcc.display())),
        Err(e) => fail(&format!(
            "{}: {e}: install CUDA 12 or 13, or run scripts/cuda-toolchain, and set CUDA_HOME",
            nvcc.display()
        )),
    }
}

/// Writes the kernels' names, one per line: drivers before CUDA 12.4 cannot list them.
fn write_names(out: &Path) -> std::io::Result<()> {
    let ptx = std::fs::read_to_string(out.join("kernels.ptx"))?;
    let entries = ptx.lines().filter_map(|line| line.split_once(".entry "));
    let names: Vec<&str> = entries
        .filter_map(|(_, entry)| entry.split('(').next())
        .collect();
    std::fs::write(out.join("kernels.txt"), names.join("\n"))
}

fn fail(why: &str) {
    println!("cargo::error={why}");
    std::process::exit(1);
}
