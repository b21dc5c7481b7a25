//! The parity checks as a program, for machines that have a GPU but no Rust:
//!
//! ```text
//! engine parity [--device cpu|cuda:N] [--dtype auto|bf16|f16|f32] [--tolerance 1e-4]
//!     [--compute exact|fast] [--formats] [--only dense-tied|dense-untied|moe|FORMAT]
//! ```
//!
//! FORMAT is a checkpoint in another weight format, for instance `ct`. `--formats` checks all of
//! these and `moe` instead of the dense ones in plain numbers. Each checkpoint runs in a process of
//! its own. `QWEN3_VL_TEST_DATA` names the folder of the reference values and `QWEN_TOKENIZER` the
//! one of Qwen's tokenizer, where they are not where they were at build time. Fails if a check
//! does.

use std::path::Path;

use anyhow::{anyhow, bail};
use lexopt::prelude::*;
use qwen3_vl::compute::Compute;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_testing::{Check, Checkpoint, Format, parity};

use crate::checks::{Tally, each_alone};

const CHECKPOINTS: [Checkpoint; 2] = [Checkpoint::DenseTied, Checkpoint::DenseUntied];

pub fn run(mut args: lexopt::Parser) -> anyhow::Result<()> {
    let (mut device, mut dtype, mut tolerance) = (DeviceChoice::Cpu, DtypeChoice::Auto, 1e-4);
    let (mut compute, mut only, mut formats) = (Compute::Exact, None, false);
    while let Some(arg) = args.next()? {
        match arg {
            Long("device") => device = args.value()?.parse()?,
            Long("dtype") => dtype = args.value()?.parse()?,
            Long("compute") => compute = args.value()?.parse()?,
            Long("tolerance") => tolerance = args.value()?.parse()?,
            Long("formats") => formats = true,
            Long("only") => only = Some(args.value()?.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(name) = only else {
        if formats {
            let names = Format::ALL.iter().map(|format| format.name);
            return each_alone(names.chain([Checkpoint::Moe.name()]));
        }
        return each_alone(CHECKPOINTS.map(Checkpoint::name));
    };
    let folder = tempfile::tempdir()?;
    let options = |folder: &Path| LoadOptions {
        source: ModelSource::Folder(folder.into()),
        mmproj: None,
        device,
        dtype,
        quantization: QuantizeAtLoad::None,
        compute: Some(compute),
        kv_memory: None,
    };
    let (runner, cases) = if let Some(format) = Format::find(&name) {
        let runner = parity::load_format(format, folder.path(), options);
        (runner, parity::format_cases(format).into())
    } else if let Some(checkpoint) = Checkpoint::ALL.into_iter().find(|c| c.name() == name) {
        let runner = parity::load(checkpoint, folder.path(), options);
        (runner, parity::cases(checkpoint))
    } else {
        bail!("no checkpoint {name}");
    };
    let mut runner = runner.map_err(|e| anyhow!(e))?;
    let mut tally = Tally::default();
    for case in cases {
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
