//! The parity checks as a program, for machines that have a GPU but no Rust:
//!
//! ```text
//! engine parity [--device cpu|cuda:N] [--dtype auto|bf16|f16|f32] [--tolerance 1e-4]
//! engine kernels --device cuda:N [--seed N]
//! ```
//!
//! The second compares a GPU's kernels with the CPU's on random inputs, and recorded decode steps with the
//! same steps kernel by kernel.
//!
//! `QWEN3_VL_TEST_DATA` names the folder of the reference values and `QWEN_TOKENIZER` the one of
//! Qwen's tokenizer, where they are not where they were at build time. Fails if a check does.

use anyhow::{anyhow, ensure};
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::model::Quantization;
use qwen3_vl_testing::{Checkpoint, parity};

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let (mut device, mut dtype, mut tolerance) = (DeviceChoice::Cpu, DtypeChoice::Auto, 1e-4);
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => device = args.value()?.parse()?,
            Long("dtype") => dtype = args.value()?.parse()?,
            Long("tolerance") => tolerance = args.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let (mut made, mut failed) = (0, 0);
    for checkpoint in [Checkpoint::DenseTied, Checkpoint::DenseUntied] {
        let folder = tempfile::tempdir()?;
        let mut runner = parity::load(checkpoint, folder.path(), |folder| LoadOptions {
            source: ModelSource::Folder(folder.into()),
            device,
            dtype,
            quantization: Quantization::None,
            kv_memory: None,
        })
        .map_err(|e| anyhow!(e))?;
        for case in parity::cases(checkpoint) {
            for check in parity::check(&mut runner, case, tolerance).map_err(|e| anyhow!(e))? {
                made += 1;
                failed += usize::from(!print(&check));
            }
        }
    }
    println!("{made} checks on {device:?} in {dtype:?}, {failed} failed");
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

pub fn kernels(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let (mut device, mut seed) = (DeviceChoice::Cpu, 1);
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => device = args.value()?.parse()?,
            Long("seed") => seed = args.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let checks = on_device(device, seed)?;
    let failed = checks.iter().filter(|check| !print(check)).count();
    println!(
        "{} kernel checks on {device:?}, {failed} failed",
        checks.len()
    );
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

#[cfg(feature = "cuda")]
fn on_device(device: DeviceChoice, seed: u64) -> anyhow::Result<Vec<parity::Check>> {
    let mut checks = qwen3_vl_testing::kernels::check(&device.open()?, seed)?;
    for dtype in [DtypeChoice::F32, DtypeChoice::Bf16] {
        checks.extend(qwen3_vl_testing::kernels::recorded(device, dtype).map_err(|e| anyhow!(e))?);
    }
    Ok(checks)
}

#[cfg(not(feature = "cuda"))]
fn on_device(_: DeviceChoice, _: u64) -> anyhow::Result<Vec<parity::Check>> {
    anyhow::bail!("there are no kernels in a build without the feature cuda")
}

/// Prints a check, and says whether it holds.
fn print(check: &parity::Check) -> bool {
    let verdict = if check.holds() { "ok" } else { "FAILED" };
    println!("{verdict:6} {:9.2e}  {}", check.difference, check.name);
    check.holds()
}
