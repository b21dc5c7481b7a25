//! With the feature `cuda`: compiles `kernels/kernels.cu` to PTX.

use std::path::PathBuf;
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
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.ptx");
    // 8.0 is the least that candle's kernels are built for; a driver compiles PTX for what it has.
    let done = Command::new(&nvcc)
        .args(["-ptx", "-O3", "-std=c++17", "-arch=compute_80"])
        .args(["kernels/kernels.cu", "-o"])
        .arg(&out)
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

fn fail(why: &str) {
    println!("cargo::error={why}");
    std::process::exit(1);
}
