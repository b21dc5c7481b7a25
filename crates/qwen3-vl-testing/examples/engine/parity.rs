//! The parity checks as a program, for machines that have a GPU but no Rust:
//!
//! ```text
//! engine parity [--device cpu|cuda:N] [--dtype auto|bf16|f16|f32] [--tolerance 1e-4]
//!     [--only dense-tied|dense-untied]
//! ```
//!
//! Each checkpoint runs in a process of its own. If the folder of the reference values or of Qwen's
//! tokenizer is not where it was at build time, `QWEN3_VL_TEST_DATA` or `QWEN_TOKENIZER` names it.
//! Fails if a check does.

use anyhow::{anyhow, bail};
use lexopt::prelude::*;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_testing::{Check, Checkpoint, parity};

use crate::checks::{Tally, each_alone};

const CHECKPOINTS: [Checkpoint; 2] = [Checkpoint::DenseTied, Checkpoint::DenseUntied];

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let (mut device, mut dtype, mut tolerance) = (DeviceChoice::Cpu, DtypeChoice::Auto, 1e-4);
    let mut only = None;
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => device = args.value()?.parse()?,
            Long("dtype") => dtype = args.value()?.parse()?,
            Long("tolerance") => tolerance = args.value()?.parse()?,
            Long("only") => only = Some(args.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(name) = only else {
        return each_alone(CHECKPOINTS.map(Checkpoint::name));
    };
    let Some(checkpoint) = CHECKPOINTS.into_iter().find(|c| c.name() == name) else {
        bail!("no checkpoint {name}");
    };
    let folder = tempfile::tempdir()?;
    let mut runner = parity::load(checkpoint, folder.path(), |folder| LoadOptions {
        source: ModelSource::Folder(folder.into()),
        mmproj: None,
        device,
        dtype,
        quantization: QuantizeAtLoad::None,
        kv_memory: None,
    })
    .map_err(|e| anyhow!(e))?;
    let mut tally = Tally::default();
    for case in parity::cases(checkpoint) {
        let made = parity::check_each(&mut runner, case, tolerance, &mut |c| tally.print(&c));
        if let Err(error) = made {
            let case = format!("{name} {}", case.name);
            let error = error.to_string();
            let first = error.lines().next().unwrap_or_default();
            tally.print(&Check::impossible(&case, first));
        }
    }
    tally.end(&format!("{name} on {device:?} in {dtype:?}"))
}
