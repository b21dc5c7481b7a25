//! Compares a GPU's kernels with the CPU's on random inputs, recorded decode steps with the same
//! steps kernel by kernel, and checks that decoding does not wait for vision.
//!
//! ```text
//! engine kernels --device cuda:N [--seed N] [--only GROUP] [--exact]
//! engine kernels --list
//! ```
//!
//! Each group, which `--list` names, runs in a process of its own. `--exact`: recorded steps must
//! equal the others to the bit, as on the emulated driver; cuBLAS may differ. With
//! `QWEN3_VL_SYNC=1` an error names its kernel and grid.

use anyhow::bail;
use lexopt::prelude::*;
use qwen3_vl::device::DeviceChoice;

struct Options {
    device: DeviceChoice,
    seed: u64,
    only: Option<String>,
    exact: bool,
}

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let mut options = Options {
        device: DeviceChoice::Cpu,
        seed: 1,
        only: None,
        exact: false,
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => options.device = args.value()?.parse()?,
            Long("seed") => options.seed = args.value()?.parse()?,
            Long("only") => options.only = Some(args.value()?.string()?),
            Long("exact") => options.exact = true,
            Long("list") => return list(),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.device == DeviceChoice::Cpu {
        bail!("--device cuda: the CPU has no kernels of this kind");
    }
    on_device(options)
}

#[cfg(feature = "cuda")]
fn list() -> anyhow::Result<()> {
    let groups = qwen3_vl_testing::kernels::GROUPS;
    groups.iter().for_each(|group| println!("{group}"));
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn list() -> anyhow::Result<()> {
    bail!("no kernels without the feature cuda")
}

#[cfg(feature = "cuda")]
fn on_device(options: Options) -> anyhow::Result<()> {
    use qwen3_vl_testing::kernels;

    let Some(group) = options.only else {
        return crate::checks::each_alone(kernels::GROUPS);
    };
    let how = kernels::Options {
        device: options.device,
        seed: options.seed,
        exact: options.exact,
    };
    let mut tally = crate::checks::Tally::default();
    kernels::check(&group, how, &mut |check| tally.print(&check))
        .map_err(|e| anyhow::anyhow!(e))?;
    tally.end(&group)
}

#[cfg(not(feature = "cuda"))]
fn on_device(options: Options) -> anyhow::Result<()> {
    let Options {
        device,
        seed,
        only,
        exact,
    } = options;
    bail!("no kernels without the feature cuda ({device:?}, {seed}, {only:?}, {exact})")
}
